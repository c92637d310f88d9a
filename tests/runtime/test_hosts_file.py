"""A region of a group with several hosts: its log, its rows, and the ends of those before it; with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from colocache.core.hosts import layout
from colocache.core.hosts.event import KEYS, Event
from colocache.core.hosts.log import NoLane
from colocache.errors import CannotJoin
from colocache.runtime import board_file, hosts_file, places, record_locks
from colocache.runtime import region as region_module
from colocache.runtime.hosts_file import MOST_ENDED, HostsFile, ended_before, note_ended
from colocache.runtime.network.office import Office
from colocache.runtime.region import Region
from colocache.runtime.region_files import FILES
from tests.runtime.agents import Agent, Failed, StartAgent, agents

CAPACITY = 2 << 20

OTHER = """
from colocache.core.hosts.event import KEYS, Event
from colocache.core.hosts import layout
from colocache.runtime import board_file, region as module
from colocache.runtime.network.office import Office
from colocache.runtime.region import Region

def join(base, hosts=True):
    global region, log
    region = Region.join("shop", base, 2 << 20, hosts=hosts, patience=30.0)
    log = region.hosts and region.hosts.log
    return region.id

def take_office():
    global office
    office = Office(region.hosts.open_again, region.hosts.grow_row, lambda: 0)

def append(number):
    return tuple(log.append(Event(KEYS, (number,))))

def hold(lane):
    return region.hosts.lanes.lock(lane)

def die_at(step):
    module._reached = lambda reached: os.kill(os.getpid(), 9) if reached == step else None
"""

STEPS = [
    "locked", "alive", "cleaned", "claims made", "shelf made", "hosts made", "board made", "begun", "seated", "joined",
]  # fmt: skip

A, B = Event(KEYS, (1,)), Event(KEYS, (2,))
SEVERAL = r"were started for one host, and this one for several: all processes .* \(COLOCACHE_LISTEN, COLOCACHE_PEERS\)"


@pytest.fixture
def agent() -> Iterator[StartAgent]:
    with agents(OTHER) as start:
        yield start


@pytest.fixture
def base() -> Iterator[str]:
    memory = places.SHARED_MEMORY if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="cc", dir=memory) as path:
        yield os.path.realpath(path)


@pytest.fixture
def here(base: str) -> Iterator[Callable[..., Region]]:
    """Joins regions in this process, and leaves them in the end."""

    def join(hosts: bool = True, patience: float = 30.0) -> Region:
        return Region.join("shop", base, CAPACITY, hosts=hosts, patience=patience)

    yield join
    for region in list(region_module._process.regions.values()):
        region.leave()


@pytest.fixture
def other(agent: StartAgent, base: str) -> Agent:
    started = agent()
    started("names.__setitem__('base', base)", base=base)
    return started


def hosts_of(region: Region) -> HostsFile:
    assert region.hosts is not None
    return region.hosts


# Which regions have it


def test_a_group_of_one_host_has_no_such_file(here: Callable[..., Region]) -> None:
    region = here(hosts=False)
    assert (region.hosts, region.ended) == (None, [])
    assert sorted(os.listdir(region.path)) == sorted(FILES)


def test_a_private_region_has_no_such_file() -> None:
    region = Region.private(CAPACITY)
    assert (region.hosts, region.ended) == (None, [])


def test_who_wants_one_host_cannot_join_a_region_for_several(here: Callable[..., Region], other: Agent) -> None:
    id = other("join(base)")
    with pytest.raises(CannotJoin, match="were started for several hosts, and this one for one: all processes"):
        here(hosts=False)
    region = here()
    assert region.id == id
    assert hosts_of(region).log.append(A) == (0, 1)
    assert other("log.read(0, 1) == Event(KEYS, (1,))") is True


def test_who_wants_several_hosts_cannot_join_a_region_for_one(here: Callable[..., Region], other: Agent) -> None:
    other("join(base, hosts=False)")
    with pytest.raises(CannotJoin, match=SEVERAL):
        here()
    assert other("region.is_in_place()") is True
    other.kill()
    assert here().hosts is not None


def test_caches_of_one_process_need_the_same_settings(here: Callable[..., Region]) -> None:
    region = here(hosts=False)
    with pytest.raises(CannotJoin, match=SEVERAL):
        here()
    assert here(hosts=False) is region


@pytest.mark.parametrize("damage", ["gone", "another", "short", "long"])
def test_without_its_file_a_region_is_ended(here: Callable[..., Region], base: str, other: Agent, damage: str) -> None:
    id, path = other("join(base)"), f"{base}/shop/hosts"
    if damage == "gone":
        os.unlink(path)
    elif damage == "another":
        shutil.copy2(path, f"{path}.copy")
        os.rename(f"{path}.copy", path)
    else:
        os.truncate(path, hosts_file.SIZE + (4096 if damage == "long" else -4096))
    region = here()
    assert region.id != id
    assert other("region.lives()") is False
    assert region.ended == []  # the other one lives, and may still speak for its region


def test_it_is_whole_only_with_all_its_descriptors(here: Callable[..., Region]) -> None:
    region = here()
    assert region.is_whole()
    files = region._files
    assert files is not None
    os.close(files.held["hosts again"].number)
    assert not region.is_whole()
    with pytest.raises(NoLane):
        hosts_of(region).log.append(A)


# Room


def test_only_what_is_used_takes_room(here: Callable[..., Region]) -> None:
    region = here()
    hosts, path = hosts_of(region), f"{region.path}/hosts"

    def blocks() -> int:
        return os.stat(path).st_blocks * 512

    at_birth = blocks()
    assert os.path.getsize(path) == hosts_file.SIZE
    assert at_birth <= layout.lane_part(0)[1] + 4096
    for number in range(100):
        hosts.log.append(Event(KEYS, (number,)))
        hosts.log.lasts()
    assert blocks() == at_birth
    assert hosts.grow_lane(3)
    assert blocks() == at_birth + 8 * layout.LANE_WORDS
    assert hosts.grow_row(0)
    assert blocks() == at_birth + 8 * (layout.LANE_WORDS + layout.ROW_WORDS)


# Lanes


def test_processes_append_to_one_log(here: Callable[..., Region], agent: StartAgent, base: str) -> None:
    log, others = hosts_of(here()).log, [agent() for _ in range(3)]
    for each in others:
        each("join(base)", base=base)
    for number, each in enumerate(others):
        each.tell(f"[append(1000 * {number} + count) for count in range(200)]")
    positions = [position for each in others for position in each.answer()]  # type: ignore[attr-defined]
    assert len(set(positions)) == 600
    assert sum(log.lasts().values()) == 600
    found = [log.read(*position) for position in positions]
    assert found == [Event(KEYS, (1000 * number + count,)) for number in range(3) for count in range(200)]


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_who_is_stopped_or_killed_with_a_lane_blocks_nobody(
    here: Callable[..., Region], other: Agent, end: str
) -> None:
    log = hosts_of(here()).log
    other("join(base)")
    assert other("(append(1), hold(0))") == ((0, 1), True)
    if end == "killed":
        other.kill()
        assert log.append(A) == (0, 2)
        return
    other.send(signal.SIGSTOP)
    assert log.append(A) == (1, 1)
    assert log.append(B) == (1, 2)
    other.send(signal.SIGCONT)
    assert other("(region.hosts.lanes._free(0), append(2))") == (None, (0, 2))
    assert log.lasts() == {0: 2, 1: 2}


def test_who_is_killed_while_it_appends_leaves_nothing(here: Callable[..., Region], other: Agent) -> None:
    log = hosts_of(here()).log
    other("join(base)")
    assert other("append(1)") == (0, 1)
    # It dies where it puts a fence before the last store.
    with pytest.raises(Failed, match="-9"):
        other(
            "(setattr(log, '_fences', type('F', (), {'calls': [], 'order': lambda f: (f.calls.append(1),"
            " len(f.calls) == 2 and os.kill(os.getpid(), 9))})()), append(2))"
        )
    assert log.lasts() == {0: 1}
    assert log.append(A) == (0, 2)


@pytest.mark.parametrize("fork", ["os.fork", "fork_past_python"])
def test_a_child_appends_nothing_before_it_has_joined(here: Callable[..., Region], other: Agent, fork: str) -> None:
    log = hosts_of(here()).log
    other("join(base)")
    assert other("hold(0)") is True
    other(f"go_on_in_child({fork})")
    with pytest.raises(Failed, match="NoLane"):
        other("append(1)")
    assert log.append(A) == (1, 1)  # the parent has its lane still
    other("join(base)")
    assert other("append(2)") == (1, 2)


def test_who_has_left_appends_nothing(here: Callable[..., Region]) -> None:
    region = here()
    hosts = hosts_of(region)
    region.leave()
    with pytest.raises(NoLane):
        hosts.log.append(A)
    assert not hosts.grow_row(0)


def test_leaving_waits_for_a_function_that_appends(
    here: Callable[..., Region], other: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_locks, "PATIENCE", 30.0)
    region = here()
    lanes = hosts_of(region).lanes
    other("join(base)")
    has, leaves, found = threading.Event(), threading.Event(), []

    def use() -> None:
        assert lanes.lock(0)
        has.set()
        leaves.wait()
        found.append(other("hold(0)"))  # 20 ms
        lanes.unlock(0)

    user = threading.Thread(target=use)
    user.start()
    has.wait()
    leaving = threading.Thread(target=region.leave)
    leaving.start()
    leaves.set()
    user.join()
    leaving.join()
    assert found == [False]


# The office


def office_of(region: Region) -> Office:
    hosts = hosts_of(region)
    return Office(hosts.open_again, hosts.grow_row, lambda: 0)


def test_one_process_is_the_gateway_and_its_row_stays_when_it_has_gone(
    here: Callable[..., Region], other: Agent
) -> None:
    region = here()
    office, hosts = office_of(region), hosts_of(region)
    other("join(base)")
    other("take_office()")
    assert office.is_vacant()
    assert other("office.take()") == 0
    assert not office.is_vacant()
    assert office.take() is None
    hosts.words[layout.entry_of(0, 5)] = 77
    other.kill()
    assert office.is_vacant()
    assert office.take() == 0
    assert hosts.words[layout.entry_of(0, 5)] == 77


def test_who_leaves_the_region_keeps_its_office_until_the_network_thread_has_ended(
    here: Callable[..., Region], other: Agent
) -> None:
    region = here()
    mine = office_of(region)
    other("join(base)")
    other("take_office()")
    assert mine.take() == 0
    region.leave()
    assert other("office.take()") is None
    mine.give_back()
    assert other("office.take()") == 0


def test_a_process_that_is_preferred_is_known(here: Callable[..., Region], other: Agent) -> None:
    office = office_of(here())
    other("join(base)")
    assert not office.must_wait()
    other("take_office()")
    other("office.prefer()")
    assert office.must_wait()
    other.kill()
    assert not office.must_wait()


def test_without_room_for_a_row_nobody_is_the_gateway(
    here: Callable[..., Region], other: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = office_of(here())
    monkeypatch.setattr(office, "_grow_row", lambda row: False)
    other("join(base)")
    other("take_office()")
    assert office.take() is None
    assert other("office.take()") is not None, "the office is vacant"


# Ends


def test_the_last_one_notes_the_end(here: Callable[..., Region], base: str, other: Agent) -> None:
    id = other("join(base)")
    other("(append(1), append(2), setattr(log, '_lane', 1), append(3)) and None")
    here().release()
    assert ended_before(f"{base}/shop") == []
    other("region.leave()")
    assert os.listdir(f"{base}/shop") == ["ended"]
    region = here()
    assert region.ended == [(id, {0: 2, 1: 1})]
    assert other("(join(base), region.ended)") == (region.id, region.ended)


def test_whoever_comes_after_a_death_notes_the_end(here: Callable[..., Region], other: Agent) -> None:
    id = other("join(base)")
    other("(append(1), append(2)) and None")
    other.kill()
    first = here()
    assert first.ended == [(id, {0: 2})]
    first.leave()
    assert here().ended == [(id, {0: 2}), (first.id, {})]


@pytest.mark.parametrize("step", STEPS)
def test_who_is_killed_while_it_makes_a_region_loses_no_end(
    here: Callable[..., Region], agent: StartAgent, other: Agent, base: str, step: str
) -> None:
    first = other("(join(base), append(1))[0]")
    other.kill()
    second = agent()
    second("die_at(step)", step=step)
    with pytest.raises(Failed, match="-9"):
        second("join(base)", base=base)
    region = here()
    assert region.ended[0] == (first, {0: 1})
    assert len(region.ended) == (2 if step in ("begun", "seated", "joined") else 1)
    assert sorted(os.listdir(region.path)) == sorted([*FILES, "hosts", "ended"])


@pytest.mark.parametrize("step", ["let go", "noted", "deleted"])
def test_who_is_killed_while_it_leaves_loses_no_end(here: Callable[..., Region], other: Agent, step: str) -> None:
    id = other("(join(base), append(1))[0]")
    other("die_at(step)", step=step)
    with pytest.raises(Failed, match="-9"):
        other("region.leave()")
    assert here().ended == [(id, {0: 1})]


def test_who_still_lives_has_not_ended(here: Callable[..., Region], base: str, other: Agent) -> None:
    """It is told to let go, and does so when it looks. Until then it may speak for its region."""
    other("join(base)")
    os.unlink(f"{base}/shop/shelf")
    other.send(signal.SIGSTOP)
    region = here()
    assert region.ended == []
    other.send(signal.SIGCONT)
    other("region.leave()")
    region.leave()
    assert [id for id, _ in here().ended] == [region.id]


@pytest.mark.parametrize("boot", [0, 5])
def test_files_of_another_boot_or_machine_prove_nothing(
    here: Callable[..., Region], other: Agent, monkeypatch: pytest.MonkeyPatch, boot: int
) -> None:
    other("(setattr(board_file, 'boot', lambda: 6), join(base), append(1)) and None")
    other.kill()
    monkeypatch.setattr(hosts_file, "boot", lambda: boot)
    assert here().ended == []


def test_where_the_boot_is_not_known_nothing_is_certain(
    here: Callable[..., Region], other: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    other("(setattr(board_file, 'boot', lambda: 0), join(base)) and None")
    other.kill()
    monkeypatch.setattr(hosts_file, "boot", lambda: 0)
    assert here().ended == []


@pytest.mark.parametrize("damage", ["gone", "another", "short"])
def test_an_end_without_its_log_has_no_last_numbers(
    here: Callable[..., Region], base: str, other: Agent, damage: str
) -> None:
    id, path = other("(join(base), append(1))[0]"), f"{base}/shop/hosts"
    other.kill()
    if damage == "gone":
        os.unlink(path)
    elif damage == "another":
        shutil.copy2(path, f"{path}.copy")
        os.rename(f"{path}.copy", path)
    else:
        os.truncate(path, 4096)
    assert here().ended == [(id, None)]


@pytest.mark.parametrize("damage", ["board gone", "copied board", "other layout"])
def test_what_was_not_found_has_not_ended(here: Callable[..., Region], base: str, other: Agent, damage: str) -> None:
    other("(setattr(board_file, 'LAYOUT', 9), join(base))" if damage == "other layout" else "join(base)")
    other.kill()
    path = f"{base}/shop/board"
    if damage == "copied board":
        shutil.copy2(path, f"{path}.copy")
        os.rename(f"{path}.copy", path)
    elif damage == "board gone":
        os.unlink(path)
    assert here().ended == []


def test_a_region_for_one_host_was_no_member(here: Callable[..., Region], base: str, other: Agent) -> None:
    other("join(base, hosts=False)")
    other.kill()
    region = here()
    assert region.ended == []
    region.leave()
    here(hosts=False).leave()
    assert os.listdir(base) == []  # who is no member keeps no ends, either


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "longer", "open to others", "directory", "link"])
def test_a_damaged_note_says_nothing(here: Callable[..., Region], base: str, damage: str) -> None:
    here().leave()
    path = Path(f"{base}/shop/ended")
    raw = path.read_bytes()
    assert len(ended_before(f"{base}/shop")) == 1
    if damage in ("cut", "garbage", "empty", "longer"):
        path.write_bytes(
            {"cut": raw[:-1], "garbage": raw[:20] + b"?" + raw[21:], "empty": b"", "longer": raw * 2}[damage]
        )
    elif damage == "open to others":
        path.chmod(0o644)
    else:
        path.unlink()
        path.mkdir() if damage == "directory" else path.symlink_to("/etc/passwd")
    assert ended_before(f"{base}/shop") == []
    region = here()
    assert region.ended == []


def test_the_newest_ends_are_kept_each_once(tmp_path: Path) -> None:
    ended = [(bytes([number]) * 16, {number % 8: number + 1} if number % 3 else None) for number in range(100)]
    assert note_ended(str(tmp_path), ended) == ended[-MOST_ENDED:]
    assert ended_before(str(tmp_path)) == ended[-MOST_ENDED:]
    assert os.listdir(tmp_path) == ["ended"]
    assert note_ended(str(tmp_path), [*ended[-2:], ended[-1]]) == ended[-2:]
    assert ended_before(str(tmp_path)) == ended[-2:]


def test_a_note_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (b"a" * 16, {0: 1}), (b"b" * 16, None)
    note_ended(str(tmp_path), [old])

    def refuse(*_: object) -> int:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        assert note_ended(str(tmp_path), [old, new]) == [old, new]
    assert ended_before(str(tmp_path)) == [old]
    note_ended(str(tmp_path), [old, new])
    assert ended_before(str(tmp_path)) == [old, new]


@pytest.mark.skipif(not os.path.exists("/proc/sys/kernel/random/boot_id"), reason="needs Linux")
def test_the_boot_is_known_on_linux() -> None:
    assert board_file.boot() == board_file.boot() != 0
