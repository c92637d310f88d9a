"""The region lives as long as anybody uses it, and nobody serves from one that has ended: with real processes."""

from __future__ import annotations

import contextlib
import errno
import gc
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from colocache.core.host.board import Board
from colocache.core.host.hashes import ROOT, key_hash
from colocache.core.host.layout import geometry
from colocache.core.host.numbers import COUNTER_BITS, MAX_WRITER
from colocache.errors import CannotJoin, ConfigError
from colocache.runtime import board_file, places, record_locks
from colocache.runtime import region as region_module
from colocache.runtime.region import Region
from colocache.runtime.region_files import FILES
from tests.conftest import Until
from tests.runtime.agents import Agent, Failed, StartAgent, agents

CAPACITY = 2 << 20

OTHER = """
import gc
import socket
from resource import RLIMIT_FSIZE, RLIMIT_NOFILE, getrlimit, setrlimit

from colocache.core.host.board import GROUP, Board
from colocache.core.host.hashes import ROOT, key_hash
from colocache.runtime import board_file, region as module
from colocache.runtime.region import Region
from colocache.runtime.region_files import FILES

def join(base, group="shop", capacity=2 << 20, patience=30.0, layout=None):
    global region, board, label
    if layout is not None:
        board_file.LAYOUT = layout
    region = Region.join(group, base, capacity, patience=patience)
    board = Board(region.bell, region.marks, region.mark_count, region.numbers, region.fences)
    label = board.label([ROOT, key_hash(b"k")])
    return region.seat.number

def die_at(step):
    module._reached = lambda reached: os.kill(os.getpid(), 9) if reached == step else None

def stop_at(step):
    module._reached = lambda reached: os.kill(os.getpid(), signal.SIGSTOP) if reached == step else None

def is_current():
    "What a hit would find: whether what was kept at the beginning may be served."
    return board.stands(label)
"""


def writer_of(number: int) -> int:
    """Return which writer a number is of."""
    return number >> COUNTER_BITS & MAX_WRITER


STEPS = ["locked", "alive", "cleaned", "claims made", "shelf made", "board made", "begun", "seated", "joined"]


@pytest.fixture
def agent() -> Iterator[StartAgent]:
    with agents(OTHER) as start:
        yield start


@pytest.fixture
def base() -> Iterator[str]:
    with tempfile.TemporaryDirectory(
        prefix="cc", dir=places.SHARED_MEMORY if os.path.isdir("/dev/shm") else None
    ) as path:
        yield os.path.realpath(path)


@pytest.fixture
def here(base: str) -> Iterator[Callable[..., Region]]:
    """Joins regions in this process, and leaves them in the end."""

    def join(group: str = "shop", base: str = base, capacity: int = CAPACITY, patience: float = 30.0) -> Region:
        return Region.join(group, base, capacity, patience=patience)

    yield join
    for region in list(region_module._process.regions.values()):
        region.leave()


def board_of(region: Region) -> Board:
    return Board(region.bell, region.marks, region.mark_count, region.numbers, region.fences)


def files_in(path: str) -> list[str]:
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def opened() -> list[str]:
    """Return what the descriptors of this process point to; nothing where there is no /proc."""
    if not os.path.isdir("/proc/self/fd"):
        return []
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if os.path.lexists(link))


def opened_and_used() -> list[str]:
    """Do the same, without the maps that earlier tests have left: with these, descriptors go at any time."""
    gc.collect()
    return opened()


def id_of(agent: Agent) -> object:
    return agent("region.id")


# --- Coming and going


def test_processes_of_a_group_share_memory(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    region, other = here(), agent()
    assert other("join(base)", base=base) == 1
    assert id_of(other) == region.id
    board = board_of(region)
    label = board.label([ROOT, key_hash(b"k")])
    bell = region.bell[0]
    other("board.invalidate([key_hash(b'k')])")
    assert not board.stands(label)
    assert region.bell[0] != bell
    region.shelf.data[region.geometry.data_offset - 5 : region.geometry.data_offset] = b"shelf"
    assert other("bytes(region.shelf.data[region.geometry.data_offset - 5 : region.geometry.data_offset])") == b"shelf"
    region.hints[8] = 77
    assert other("region.hints[8]") == 77


def test_locks_of_rings_and_claims_exclude_the_others(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    region, other = here(), agent()
    other("join(base)", base=base)
    assert other("region.rings.lock(0)") is True
    assert not region.rings.lock(0)
    assert region.claims.take(5)
    assert other("(region.claims.take(5), region.claims.take(6))") == (False, True)
    other.kill()
    assert region.rings.lock(0)
    assert region.claims.take(6)


def test_the_last_one_that_leaves_deletes_everything(base: str, agent: StartAgent) -> None:
    one, two = agent(), agent()
    for each in (one, two):
        each("join(base)", base=base)
    one("region.release()")
    assert "board" in files_in(f"{base}/shop")
    two("region.release()")
    assert files_in(base) == []


def test_whoever_comes_first_after_all_were_killed_begins_anew(base: str, agent: StartAgent) -> None:
    one, two = agent(), agent()
    for each in (one, two):
        each("join(base)", base=base)
    first, files = id_of(one), files_in(f"{base}/shop")
    one.kill()
    three = agent()
    three("join(base)", base=base)
    assert id_of(three) == first
    two.kill()
    three.kill()
    four = agent()
    assert four("join(base)", base=base) == 0
    assert id_of(four) != first
    assert files_in(f"{base}/shop") == files


def test_groups_have_a_region_each(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    other = agent()
    other("join(base, 'blog')", base=base)
    region = here("shop")
    assert region.seat.number == 0
    assert id_of(other) != region.id
    blog = here("blog")
    assert (blog.seat.number, blog.id) == (1, id_of(other))
    region.release()
    assert files_in(base) == ["blog"]
    assert blog.is_in_place()


def test_caches_of_one_process_share_a_region_and_its_locks(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    os.mkdir(f"{base}/run", 0o700)
    os.symlink(base, f"{base}/link")
    one, two = here(base=f"{base}/run"), here(base=f"{base}/run")
    assert one is two is here(base=f"{base}/link/run")
    other = agent()
    other("join(base)", base=f"{base}/run")
    assert one.rings.lock(0)
    two.release()
    two.release()
    assert other("region.rings.lock(0)") is False
    assert other("[seat.pid for seat in region.seats()]") == [os.getpid()]
    assert one.lives()
    one.release()
    assert not one.lives()
    assert other("region.seats()") == []


def test_what_left_can_be_left_again(here: Callable[..., Region]) -> None:
    region = here()
    region.leave()
    region.leave()
    region.release()
    assert not region.lives()
    assert not region.is_in_place()
    assert not region.is_whole()
    assert region.seats() == []
    assert not region.rings.lock(0)
    assert not region.shelf.grow(region.geometry.data_offset, region.geometry.data_offset + 4096)
    assert here().id != region.id


def test_leaving_waits_for_a_function_that_has_a_ring(
    here: Callable[..., Region], base: str, agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_locks, "PATIENCE", 30.0)
    region, other = here(), agent()
    other("join(base)", base=base)
    has, leaves, found = threading.Event(), threading.Event(), []

    def use() -> None:
        assert region.rings.lock(0)
        has.set()
        leaves.wait()
        found.append(other("region.rings.lock(0)"))  # 20 ms
        region.rings.unlock(0)

    user = threading.Thread(target=use)
    user.start()
    has.wait()
    leaving = threading.Thread(target=region.leave)
    leaving.start()
    leaves.set()
    user.join()
    leaving.join()
    assert found == [False]


# --- Seats and numbers


def test_the_lowest_free_seat_is_taken_also_after_a_kill(base: str, agent: StartAgent) -> None:
    others = [agent() for _ in range(4)]
    assert [each("join(base)", base=base) for each in others] == [0, 1, 2, 3]
    others[1].kill()
    others[2]("region.leave()")
    assert [agent()("join(base)", base=base) for _ in range(3)] == [1, 2, 4]


def test_seats_show_who_lives(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    region, others = here(), [agent() for _ in range(3)]
    for each in others:
        each("join(base)", base=base)
    seats = region.seats()
    assert [(seat.number, seat.pid) for seat in seats] == [(1 + n, each.pid) for n, each in enumerate(others)]
    assert len({seat.nonce for seat in (*seats, region.seat)}) == 4
    assert [seat.nonce for seat in seats] == [each("region.seat.nonce") for each in others]
    others[0].kill()
    others[1]("region.leave()")
    assert [seat.pid for seat in region.seats()] == [others[2].pid]
    agent()("join(base)", base=base)
    assert [seat.number for seat in region.seats()] == [1, 3]
    assert region.seats()[0].nonce != seats[0].nonce


def test_a_seat_has_the_role_of_its_process_and_not_that_of_one_that_was_killed() -> None:
    board = board_file.BoardMemory(board_file.anonymous(board_file.size_for(board_file.LEAST_MARKS)))
    board.take_seat(3, 1, 2, 3, "server")
    assert [board.role(seat) for seat in (2, 3, 4)] == ["peer", "server", "peer"]
    board.take_seat(3, 4, 5, 6)
    assert board.role(3) == "peer"
    board.words[board_file._SEATS_AT + 3 * board_file.SEAT_WORDS + 3] = 7
    assert board.role(3) == "peer", "a role of another version"
    with pytest.raises(ValueError, match="not in tuple"):
        board.take_seat(3, 1, 2, 3, "boss")


def test_a_word_changes_when_somebody_comes_or_goes(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    region, other = here(), agent()
    versions = [region.seats_version]
    other("join(base)", base=base)
    versions.append(region.seats_version)
    other("region.leave()")
    versions.append(region.seats_version)
    assert len(set(versions)) == 3


def test_each_process_has_numbers_of_its_own_in_each_region(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    region, others = here(), [agent() for _ in range(3)]
    for each in others[:2]:
        each("join(base)", base=base)
    others[0]("region.leave()")
    others[0]("join(base)", base=base)
    others[1].kill()
    others[2]("join(base)", base=base)
    numbers = [region.numbers.next(), *(each("region.numbers.next()") for each in (others[0], others[2]))]
    assert [writer_of(number) for number in numbers] == [1, 4, 5]


def test_when_the_numbers_are_used_up_the_region_ends(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    other = agent()
    other("join(base)", base=base)
    first = id_of(other)
    other("region._board.words.__setitem__(3, board_file.LAST_WRITER)")
    last = agent()
    last("join(base)", base=base)
    assert id_of(last) == first
    region = here()
    assert region.id != first
    assert writer_of(region.numbers.next()) == 1
    assert other("(is_current(), region.lives(), region.is_in_place())") == (False, False, False)
    other("(region.leave(), join(base))")
    assert id_of(other) == region.id
    assert region.is_in_place()


# --- Capacities and versions


def test_who_has_made_the_region_has_chosen_its_capacity(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    agent()("join(base)", base=base)
    region = here(capacity=4 << 20)
    assert (region.wanted, region.geometry.capacity) == (2 << 20, 2 << 20)


def test_what_was_refused_leaves_nothing_behind(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    other = agent()
    other("join(base, layout=1000)", base=base)
    before, files = opened_and_used(), [*region_module._process.files]  # other tests' that wait for garbage collection
    with pytest.raises(CannotJoin):
        here()
    assert opened() == before
    assert region_module._process.files == files
    other("region.leave()")
    assert files_in(base) == []
    assert here().seat.number == 0


def test_another_layout_is_refused_while_its_processes_live(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    other = agent()
    other("join(base, layout=1000)", base=base)
    with pytest.raises(CannotJoin, match=r"another version of colocache, whose memory has layout 1000, and this one's"):
        here()
    assert other("(is_current(), region.is_in_place())") == (True, True)
    other.kill()
    assert here().seat.number == 0


def test_another_time_namespace_is_refused(
    here: Callable[..., Region], base: str, agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = agent()
    other("setattr(board_file, 'clock', lambda: 5)")
    other("join(base)", base=base)
    for clock in (0, 5):  # 0: not known
        monkeypatch.setattr(board_file, "clock", lambda clock=clock: clock)
        here().leave()
    monkeypatch.setattr(board_file, "clock", lambda: 6)
    with pytest.raises(CannotJoin, match="another time namespace"):
        here()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_clock_is_known_on_linux() -> None:
    assert board_file.clock() == os.stat("/proc/self/ns/time").st_ino


# --- Killed while joining or leaving


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_it_makes_a_region(here: Callable[..., Region], base: str, agent: StartAgent, step: str) -> None:
    other = agent()
    other("die_at(step)", step=step)
    with pytest.raises(Failed, match="-9"):
        other("join(base)", base=base)
    region = here()
    assert region.seat.number == 0
    assert region.is_whole()
    assert len(files_in(region.path)) == len(FILES)
    region.release()
    assert files_in(base) == []


@pytest.mark.parametrize("step", ["locked", "alive", "seated", "joined"])
def test_killed_while_it_joins_a_living_region(
    here: Callable[..., Region], base: str, agent: StartAgent, step: str
) -> None:
    region, other = here(), agent()
    other("die_at(step)", step=step)
    with pytest.raises(Failed, match="-9"):
        other("join(base)", base=base)
    assert region.seats() == []
    third = agent()
    assert third("join(base)", base=base) == 1
    assert id_of(third) == region.id
    assert third("region.numbers.next()") != region.numbers.next()


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_it_replaces_what_the_dead_left(
    here: Callable[..., Region], base: str, agent: StartAgent, step: str
) -> None:
    first = agent()
    first("join(base)", base=base)
    before = id_of(first)
    first.kill()
    other = agent()
    other("die_at(step)", step=step)
    with pytest.raises(Failed, match="-9"):
        other("join(base)", base=base)
    region = here()
    assert region.id != before
    assert region.seat.number == 0
    assert len(files_in(region.path)) == len(FILES)


@pytest.mark.parametrize("step", ["let go", "deleted"])
def test_killed_while_it_leaves(here: Callable[..., Region], base: str, agent: StartAgent, step: str) -> None:
    other = agent()
    other("join(base)", base=base)
    other("die_at(step)", step=step)
    with pytest.raises(Failed, match="-9"):
        other("region.leave()")
    assert here().seat.number == 0
    assert len(files_in(f"{base}/shop")) == len(FILES)


def test_a_crash_loop_leaves_no_garbage(here: Callable[..., Region], base: str) -> None:
    program = OTHER + f"\nimport os, sys\njoin({base!r})\nos.kill(os.getpid(), 9)"
    environment = {**os.environ, "PYTHONPATH": str(Path(region_module.__file__).parents[2])}
    loop = (
        "import os, sys\n"
        "from colocache.runtime.region import Region\n"
        "for _ in range(300):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        f"        Region.join('shop', {base!r}, {CAPACITY})\n"
        "        os.kill(os.getpid(), 9)\n"
        "    os.waitpid(child, 0)\n"
    )
    subprocess.run([sys.executable, "-c", loop], env=environment, check=True)
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == -9
    assert len(files_in(f"{base}/shop")) == len(FILES)
    here().release()
    assert files_in(base) == []


def test_a_crash_loop_beside_a_living_process_uses_one_seat(here: Callable[..., Region], base: str) -> None:
    region = here()
    for _ in range(50):
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                Region.join("shop", base, CAPACITY)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
    assert region._board.used_seats == 2
    assert len(files_in(region.path)) == len(FILES)
    assert writer_of(region.numbers.next()) == 1
    assert region._board.new_writer() == 52


# --- At the same time


def test_many_forked_children_join_at_once(here: Callable[..., Region], base: str) -> None:
    region, children = here(), []
    try:
        for _ in range(40):
            children.append(os.fork())
            if not children[-1]:
                with contextlib.suppress(BaseException):
                    Region.join("shop", base, CAPACITY, patience=30.0)
                    signal.pause()
                os._exit(1)
        ends = time.monotonic() + 30.0
        while len(region.seats()) < 40:
            assert time.monotonic() < ends
        assert [seat.number for seat in region.seats()] == list(range(1, 41))
        assert {seat.pid for seat in region.seats()} == set(children)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_newcomers_at_once_make_one_region(base: str, agent: StartAgent) -> None:
    others, ids = [agent() for _ in range(4)], set()
    for each in others:
        each("names.__setitem__('base', base)", base=base)
    for _ in range(20):
        for each in others:
            each.tell("join(base)")
        assert {each.answer() for each in others} == {0, 1, 2, 3}
        (id,) = {id_of(each) for each in others}
        ids.add(id)
        for each in others:
            each.tell("region.leave()")
        for each in others:
            each.answer()
    assert len(ids) == 20


def test_coming_and_going_at_once_loses_nobody(base: str, agent: StartAgent) -> None:
    others = [agent() for _ in range(4)]
    for each in others:
        each("names.__setitem__('base', base)", base=base)
        each.tell("[(join(base), time.sleep(0.0005), region.is_in_place(), region.leave())[2] for _ in range(100)]")
    for each in others:
        assert each.answer() == [True] * 100
    assert files_in(base) == []


def test_whoever_is_stopped_while_joining_keeps_others_out_and_not_for_longer_than_they_will(
    here: Callable[..., Region], base: str, agent: StartAgent, until: Until
) -> None:
    region, other = here(), agent()
    other("stop_at('seated')")
    other.tell("join(base)", base=base)
    until(lambda: region._files.locks.holder(0))  # type: ignore[union-attr]
    third = agent()
    with pytest.raises(Failed, match=f"CannotJoin: process {other.pid} has begun to join the group .* does not go on"):
        third("join(base, patience=0.05)", base=base)
    assert region.is_in_place()
    third.tell("join(base)", base=base)
    other.send(signal.SIGCONT)
    assert other.answer() == 1
    assert third.answer() == 2


def test_whoever_leaves_does_not_wait_for_one_that_is_stopped_while_joining(
    here: Callable[..., Region], base: str, agent: StartAgent, until: Until
) -> None:
    region, other = here(), agent()
    other("stop_at('locked')")
    other.tell("join(base)", base=base)
    until(lambda: region._files.locks.holder(0))  # type: ignore[union-attr]
    region.leave()
    other.send(signal.SIGCONT)
    assert other.answer() == 0
    assert id_of(other) != region.id


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_whoever_waits_for_the_lock_of_a_deleted_file_begins_anew(
    here: Callable[..., Region], base: str, agent: StartAgent, until: Until
) -> None:
    one, two = agent(), agent()
    one("join(base)", base=base)
    one("stop_at('deleted')")
    one.tell("region.leave()")
    until(lambda: files_in(f"{base}/shop") == ["locks"])
    two.tell("join(base)", base=base)

    def has_opened(path: str) -> bool:
        descriptors = f"/proc/{two.pid}/fd"
        return any(os.path.realpath(f"{descriptors}/{number}") == path for number in os.listdir(descriptors))

    until(lambda: has_opened(f"{base}/shop/locks"))
    one.send(signal.SIGCONT)
    assert two.answer() == 0
    assert here().id == id_of(two)


# --- Files that are deleted, replaced, damaged


def assert_newcomers_wait_until_it_notices(other: Agent, here: Callable[..., Region]) -> None:
    """Nobody joins while a process may serve from what nobody else finds; afterwards the two share a region."""
    before = id_of(other)
    with pytest.raises(CannotJoin, match="nobody can join before they have noticed"):
        here(patience=0.05)
    assert other("region.is_in_place()") is False
    other("(region.leave(), join(base))")
    region = here()
    assert region.id == id_of(other) != before
    assert region.is_in_place()


def assert_told_at_once(other: Agent, here: Callable[..., Region]) -> None:
    """A newcomer joins at once, and the other one finds what it has kept dead."""
    region = here()
    assert region.id != id_of(other)
    assert other("(is_current(), region.lives(), region.is_in_place())") == (False, False, False)
    other("(region.leave(), join(base))")
    assert id_of(other) == region.id
    assert region.is_in_place()


@pytest.mark.parametrize("gone", ["board", "shop", "."])
def test_deleted_under_a_living_process(here: Callable[..., Region], base: str, agent: StartAgent, gone: str) -> None:
    other = agent()
    other("join(base)", base=base)
    if gone == "board":
        os.unlink(f"{base}/shop/board")
    elif gone == "shop":
        shutil.rmtree(f"{base}/shop")
    else:
        shutil.rmtree(base)
    assert_newcomers_wait_until_it_notices(other, here)


@pytest.mark.parametrize("gone", ["shop", "."])
def test_when_those_whose_files_were_deleted_have_gone_newcomers_join(
    here: Callable[..., Region], base: str, agent: StartAgent, gone: str
) -> None:
    one, two = agent(), agent()
    for each in (one, two):
        each("join(base)", base=base)
    shutil.rmtree(base if gone == "." else f"{base}/{gone}")
    one("region.leave()")
    with pytest.raises(CannotJoin):
        here(patience=0.05)
    two.kill()
    assert here().seat.number == 0


def test_whoever_notices_a_deletion_tells_the_others_that_map_the_same(base: str, agent: StartAgent) -> None:
    one, two = agent(), agent()
    for each in (one, two):
        each("join(base)", base=base)
    shutil.rmtree(f"{base}/shop")
    assert two("(is_current(), region.lives())") == (True, True)
    one("region.leave()")
    assert two("(is_current(), region.lives())") == (False, False)


@pytest.mark.parametrize("gone", ["shelf", "locks", "claims.7", "scores"])
def test_a_file_besides_the_board_is_deleted_or_replaced(
    here: Callable[..., Region], base: str, agent: StartAgent, gone: str
) -> None:
    other = agent()
    other("join(base)", base=base)
    os.unlink(f"{base}/shop/{gone}")
    assert_told_at_once(other, here)
    path = f"{base}/shop/{gone}"
    shutil.copy2(path, f"{path}.copy")
    os.rename(f"{path}.copy", path)
    here().leave()
    assert_told_at_once(other, here)


@pytest.mark.parametrize("size", ["half", "longer"])
def test_a_shelf_of_another_length(here: Callable[..., Region], base: str, agent: StartAgent, size: str) -> None:
    other = agent()
    other("join(base)", base=base)
    length = os.path.getsize(f"{base}/shop/shelf")
    os.truncate(f"{base}/shop/shelf", length // 2 if size == "half" else length + 4096)
    assert_told_at_once(other, here)


def test_a_board_that_is_cut_behind_its_head(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    other = agent()
    other("join(base)", base=base)
    os.truncate(f"{base}/shop/board", board_file.size_for(0) + 4096)
    assert other("region.is_in_place()") is False
    assert_told_at_once(other, here)


def test_a_board_that_is_cut_to_nothing(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    other = agent()
    other("join(base)", base=base)
    os.truncate(f"{base}/shop/board", 0)
    with pytest.raises(CannotJoin):
        here(patience=0.05)
    with pytest.raises(Failed, match=f"-{signal.SIGBUS.value}"):
        other("region.lives()")
    assert here().seat.number == 0


def test_a_copy_of_a_board_is_not_the_board(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    other = agent()
    other("join(base)", base=base)
    shutil.copy2(f"{base}/shop/board", f"{base}/shop/copy")
    os.rename(f"{base}/shop/copy", f"{base}/shop/board")
    assert_newcomers_wait_until_it_notices(other, here)


def test_a_copy_of_the_directory_is_another_place(base: str, here: Callable[..., Region], agent: StartAgent) -> None:
    other = agent()
    other("join(base)", base=base)
    shutil.copytree(f"{base}/shop", f"{base}/copy")
    os.chmod(f"{base}/copy", 0o700)
    region = here("copy")
    assert region.id != id_of(other)
    assert other("(is_current(), region.is_in_place())") == (True, True)


def test_a_directory_that_is_moved_away_and_back(base: str, here: Callable[..., Region], agent: StartAgent) -> None:
    other = agent()
    other("join(base)", base=base)
    os.rename(f"{base}/shop", f"{base}/away")
    with pytest.raises(CannotJoin):
        here(patience=0.05)
    shutil.rmtree(f"{base}/shop")
    os.rename(f"{base}/away", f"{base}/shop")
    assert here().id == id_of(other)


@pytest.mark.parametrize("what", ["head", "garbage"])
def test_a_board_that_somebody_writes_into(
    here: Callable[..., Region], base: str, agent: StartAgent, what: str
) -> None:
    other = agent()
    other("join(base)", base=base)
    with open(f"{base}/shop/board", "r+b") as board:
        size = os.fstat(board.fileno()).st_size
        board.write(bytes(4096) if what == "head" else os.urandom(size))
    assert_newcomers_wait_until_it_notices(other, here)


def test_files_of_others_in_the_directory_are_deleted_with_it(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    other = agent()
    other("join(base)", base=base)
    Path(f"{base}/shop/5.bus").touch()
    other.kill()
    region = here()
    assert "5.bus" not in files_in(region.path)
    Path(f"{base}/shop/6.bus").touch()
    os.mkdir(f"{base}/shop/directory")
    region.leave()
    assert files_in(f"{base}/shop") == ["directory"]


@pytest.mark.parametrize("name", ["board", "locks", "shelf", "claims.3", "scores"])
@pytest.mark.parametrize("kind", ["directory", "link", "pipe", "open to others"])
def test_something_else_in_the_place_of_a_file(here: Callable[..., Region], base: str, name: str, kind: str) -> None:
    os.makedirs(f"{base}/shop", 0o700)
    path = f"{base}/shop/{name}"
    if kind == "directory":
        os.mkdir(path)
    elif kind == "link":
        os.symlink("/etc/passwd", path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        Path(path).touch()
        os.chmod(path, 0o644)
    if name in ("board", "locks") or kind == "directory":
        with pytest.raises(ConfigError, match=name):
            here(patience=0.05)
        assert os.path.lexists(path)
    else:
        assert here().is_whole()


def test_old_files_are_kept_young(here: Callable[..., Region]) -> None:
    region = here()
    assert region.is_whole()
    for name in files_in(region.path):
        os.utime(f"{region.path}/{name}", (1000, 1000))
    assert region.is_whole()
    assert all(os.stat(f"{region.path}/{name}").st_mtime > time.time() - 60 for name in files_in(region.path))


# --- The end, in memory


def test_a_region_that_ends_tells_whoever_still_maps_it(here: Callable[..., Region]) -> None:
    region = here()
    board = board_of(region)
    label, bell = board.label([ROOT, key_hash(b"k")]), region.bell[0]
    state = region._board.state
    region.leave()
    assert state[0] == board_file.ENDED
    assert not board.stands(label)
    assert region.bell[0] != bell


def test_the_state_is_stored_before_the_root_and_that_before_the_bell() -> None:
    stored: list[str] = []

    class Recorded(dict[int, int]):
        def __setitem__(self, place: int, value: int) -> None:
            stored.append({2: "state", 20: "root", 10: "bell"}[place])

    class Fences:
        def order(self) -> None:
            stored.append("order")

        def full(self) -> None:
            stored.append("full")

    board_file.end(Recorded(), 10, 20, Fences())  # type: ignore[arg-type]
    assert stored == ["state", "order", "root", "order", "bell", "full"]


def test_a_child_past_pythons_hooks_is_told_when_others_begin_anew(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    other = agent()
    other("join(base)", base=base)
    other("go_on_in_child(fork_past_python)")
    other.kill()
    # The child has its parent's life, so the region goes on, and newcomers share it with the child.
    region = here()
    assert other("(is_current(), region.bell[0] == label)") == (True, False)
    board_of(region).invalidate([key_hash(b"k")])
    assert other("board.stands(label[GROUP.size:])") is False


def test_a_child_past_pythons_hooks_is_told_when_its_parent_leaves(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    other = agent()
    other("join(base)", base=base)
    # The child does nothing but hit, until that is over.
    other(
        "fork_past_python() or"
        " ([time.sleep(0.001) for _ in iter(is_current, False)], os.write(1, b'told\\n'), os._exit(0))"
    )
    other.tell("region.leave()")
    assert other.process.stdout
    lines = other.process.stdout.readline() + other.process.stdout.readline()  # of two processes at once
    assert "(True, None)" in lines
    assert "told" in lines
    assert here().seat.number == 0


# --- Forks


def test_a_forked_child_joins_anew(base: str, agent: StartAgent) -> None:
    for fork in ("os.fork", "fork_past_python"):
        other, third = agent(), agent()
        for each in (other, third):
            each("join(base)", base=base)
        writer = other("region.numbers.next() >> 36")
        other(f"go_on_in_child({fork})")
        assert other("join(base)") == 2
        assert other("region.numbers.next() >> 36") != writer
        assert id_of(other) == id_of(third)
        assert third("[seat.number for seat in region.seats()]") == [0, 2]
        other.kill()
        assert third("[seat.number for seat in region.seats()]") == [2]  # the child keeps its own
        other("region.leave()")
        assert third("region.seats()") == []
        third("region.leave()")
        assert files_in(base) == []


def test_a_child_that_only_forgets_does_not_keep_its_parent_alive(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    other = agent()
    other("join(base)", base=base)
    before = id_of(other)
    other("go_on_in_child(os.fork)")
    assert other("region.lives()") is False
    other.kill()
    assert here().id != before


def test_a_childs_end_takes_nothing_from_its_parent(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    region = here()
    assert region.rings.lock(0)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            region.leave()
            region.release()
            gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert region.is_whole()
    other = agent()
    assert other("join(base)", base=base) == 1
    assert other("region.rings.lock(0)") is False


def test_a_fork_while_another_thread_joins(base: str, agent: StartAgent) -> None:
    other, blog = agent(), agent()
    other("join(base)", base=base)
    blog("stop_at('alive')")
    blog.tell("join(base, 'blog')", base=base)
    # The group's lock of joining is another process's, so this one waits for it, with files open.
    other("threading.Thread(target=Region.join, args=('blog', base, 2 << 20), daemon=True).start()")
    other("[time.sleep(0.001) for _ in iter(lambda: len(module._process.files) < 2, False)] and None")
    other("go_on_in_child(os.fork)")
    assert other("len(module._process.files)") == 0
    assert other("join(base)") == 1


# --- Descriptors and rights


def test_descriptors_that_a_daemoniser_closes_afterwards(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    other, third = agent(), agent()
    for each in (other, third):
        each("join(base)", base=base)
    other("os.closerange(3, 10000)")
    assert other("(region.is_in_place(), region.is_whole(), is_current())") == (True, False, True)
    assert other("region.rings.lock(0)") is False
    # It shares the memory as long as the region lives. When the others have gone, it is told.
    third("board.invalidate([key_hash(b'k')])")
    assert other("board.stands(label[GROUP.size:])") is False
    third("region.leave()")
    assert other("is_current()") is False
    assert here().seat.number == 0
    other("(region.leave(), join(base))")
    assert other("region.is_whole()") is True
    assert id_of(other) == here().id


def test_descriptors_that_a_daemoniser_closes_before(base: str, agent: StartAgent) -> None:
    other = agent()
    other("(os.closerange(3, 10000), join(base))", base=base)
    assert other("region.is_whole()") is True


def test_a_file_that_gets_the_number_of_a_closed_one_is_left_alone(
    base: str, agent: StartAgent, tmp_path: Path
) -> None:
    other = agent()
    other("join(base)", base=base)
    other("os.closerange(3, 10000)")
    # As many files of the application as there are numbers that this package had.
    other(
        "names.__setitem__('files', [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(700)])", path=f"{tmp_path}/f"
    )
    other("(region.leave(), names.pop('region'), names.pop('board')) and None")
    other("gc.collect()")
    assert other("[os.fstat(each).st_size for each in files] == [0] * 700") is True
    other("join(base)")
    assert other("[os.fstat(each).st_size for each in files] == [0] * 700") is True


def test_descriptors_are_far_from_those_of_the_application(here: Callable[..., Region]) -> None:
    region = here()
    files = region._files
    assert files is not None
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    assert all(held.number > lowest + 10 for held in files.held.values())
    assert not any(os.get_inheritable(held.number) for held in files.held.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_setuid_after_joining(here: Callable[..., Region], base: str, agent: StartAgent) -> None:
    os.chmod(base, 0o711)
    os.mkdir(f"{base}/run", 0o700)
    other, third = agent(), agent()
    for each in (other, third):
        each("join(base)", base=f"{base}/run")
    other("os.setuid(65534)")
    assert other("region.is_in_place()") is False
    other("region.leave()")
    assert third("(is_current(), region.is_in_place(), region.seats())") == (True, True, [])
    with pytest.raises(Failed, match=r"ConfigError: the runtime directory .*/run belongs to user 0, not to 65534"):
        other("join(base)")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_files_of_another_user_are_an_error(base: str, agent: StartAgent) -> None:
    os.mkdir(f"{base}/shop", 0o700)
    Path(f"{base}/shop/locks").touch(0o600)
    for path in (base, f"{base}/shop"):
        os.chown(path, 65534, 65534)
    other = agent()
    other("os.setuid(65534)")
    with pytest.raises(Failed, match=r"ConfigError: .*/shop/locks|CannotJoin: .*Permission denied: .*/shop/locks"):
        other("join(base)", base=base)


def test_a_place_that_others_can_enter_is_an_error(here: Callable[..., Region], base: str) -> None:
    os.chmod(base, 0o755)
    with pytest.raises(ConfigError, match="has mode 0755, which lets other users in"):
        here()
    os.chmod(base, 0o700)
    os.mkdir(f"{base}/shop", 0o750)
    with pytest.raises(ConfigError, match="has mode 0750"):
        here()


def test_too_few_descriptors_are_an_error(base: str, agent: StartAgent) -> None:
    other = agent()
    other("names.__setitem__('limit', getrlimit(RLIMIT_NOFILE))")
    other("setrlimit(RLIMIT_NOFILE, (12, limit[1]))")
    with pytest.raises(Failed, match=r"CannotJoin: .* Too many open files"):
        other("join(base)", base=base)
    assert other("len(module._process.files)") == 0
    other("setrlimit(RLIMIT_NOFILE, limit)")
    other("join(base)")
    assert other("region.is_whole()") is True


# --- Room


def with_room(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(region_module, "room", lambda path: room)


def test_a_region_is_as_large_as_there_is_room(here: Callable[..., Region], monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, 56 << 20)  # what a container of Docker's has in /dev/shm, less some for others
    region = here(capacity=256 << 20)
    assert 40 << 20 <= region.geometry.capacity < 56 << 20
    assert region.geometry.total_size + os.path.getsize(f"{region.path}/board") <= 56 << 20
    assert region.mark_count >= region.geometry.capacity // 128


def test_a_newcomer_takes_the_size_that_there_is(
    here: Callable[..., Region], base: str, agent: StartAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(monkeypatch, 20 << 20)
    region, other = here(capacity=256 << 20), agent()
    other("join(base, capacity=256 << 20)", base=base)
    assert other("region.geometry.capacity") == region.geometry.capacity
    assert other("region.mark_count") == region.mark_count
    assert other("region.wanted") == region.wanted == 256 << 20


def test_too_little_room_is_an_error(here: Callable[..., Region], base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, 1 << 20)
    with pytest.raises(CannotJoin, match=r"there is no room in .* \(--shm-size\)"):
        here(capacity=256 << 20)
    with_room(monkeypatch, 4 << 20)
    assert here(capacity=256 << 20).geometry.capacity >= 1 << 20


def test_a_file_system_that_is_fuller_than_it_says(
    here: Callable[..., Region], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = region_module.allocate
    most = [8 << 20]

    def allocate_until_full(descriptor: int, start: int, end: int) -> None:
        if end > most[0]:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        allocate(descriptor, start, end)

    monkeypatch.setattr(region_module, "allocate", allocate_until_full)
    region = here(capacity=256 << 20)
    assert (region.wanted, region.geometry.capacity) == (256 << 20, 16 << 20)
    region.leave()
    most[0] = 4096
    with pytest.raises(CannotJoin, match="there is no room"):
        here(capacity=256 << 20)
    assert files_in(f"{base}/shop") == ["locks"]
    most[0] = 1 << 30
    assert here(capacity=256 << 20).geometry.capacity == 256 << 20


def test_the_longest_file_of_a_process_limits_the_region(base: str, agent: StartAgent) -> None:
    other = agent()
    other("setrlimit(RLIMIT_FSIZE, (9 << 20, 9 << 20))")
    other("join(base, capacity=256 << 20)", base=base)
    assert other("1 << 20 <= region.geometry.capacity < 9 << 20") is True


def blocks(path: str) -> int:
    return os.stat(path).st_blocks * 512


def test_all_but_the_shelfs_data_has_its_blocks_from_the_start(here: Callable[..., Region]) -> None:
    region = here(capacity=64 << 20)
    assert blocks(f"{region.path}/board") >= os.path.getsize(f"{region.path}/board")
    before = blocks(f"{region.path}/shelf")
    assert region.geometry.data_offset <= before < region.geometry.data_offset + (1 << 20)
    start = region.geometry.data_offset + (8 << 20)
    assert region.shelf.grow(start, start + (1 << 20))
    assert blocks(f"{region.path}/shelf") >= before + (1 << 20)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_shelf_does_not_grow_where_there_is_no_room(
    here: Callable[..., Region], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    region = here()

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert not region.shelf.grow(region.geometry.data_offset, region.geometry.data_offset + 4096)


def test_where_blocks_cannot_be_asked_for_they_are_written(
    here: Callable[..., Region], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    region = here()
    assert blocks(f"{region.path}/board") >= os.path.getsize(f"{region.path}/board")
    end = region.geometry.total_size
    assert region.shelf.grow(region.geometry.data_offset, end)
    assert blocks(f"{region.path}/shelf") >= end


def test_a_full_disk(base: str) -> None:
    """A tmpfs that is really full, in a mount namespace of its own."""
    program = OTHER + (
        "\nimport sys\n"
        "try:\n"
        "    join(sys.argv[1], capacity=256 << 20)\n"
        "    size, at = region.geometry.capacity, region.geometry.data_offset\n"
        "    grown = 0\n"
        "    while at < region.geometry.total_size and region.shelf.grow(at, at + (256 << 10)):\n"
        "        region.shelf.data[at : at + (256 << 10)] = b'x' * (256 << 10)\n"
        "        at += 256 << 10\n"
        "        grown += 256 << 10\n"
        "    print(size, grown)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(region_module.__file__).parents[2])}

    def run(size: str) -> str:
        script = f'mount -t tmpfs -o size={size},mode=700 none {base} && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", script, "x", sys.executable, "-c", program, base]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
            pytest.skip("needs the right to mount")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    size, grown = map(int, run("64m").split())
    assert 40 << 20 <= grown <= size < 64 << 20
    size, grown = map(int, run("8m").split())
    assert grown > 1 << 20
    assert run("2m").startswith("CannotJoin there is no room")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_a_read_only_file_system(base: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(region_module.__file__).parents[2])}
    os.mkdir(f"{base}/shop", 0o700)
    program = OTHER + (
        "\nimport sys\n"
        "try:\n"
        "    join(sys.argv[1])\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    script = f'mount --bind {base} {base} && mount -o remount,ro,bind {base} && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "x", sys.executable, "-c", program, base]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip("needs the right to mount")
    assert "Read-only file system" in done.stdout
    assert "CannotJoin" in done.stdout


# --- Containers


def test_processes_of_two_pid_namespaces_share_a_region(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    if subprocess.run(["unshare", "-pf", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a pid namespace")
    region = here()
    other = agent("unshare", "-pf", "--kill-child")
    assert other("join(base)", base=base) == 1
    assert id_of(other) == region.id
    assert other("(os.getpid() < 10, [seat.pid for seat in region.seats()])") == (True, [0])
    assert [seat.number for seat in region.seats()] == [1]
    assert region.seats()[0].pid != other("os.getpid()")


def test_processes_of_two_mount_namespaces_share_a_region(
    here: Callable[..., Region], base: str, agent: StartAgent
) -> None:
    # As with PrivateTmp=yes, or in two containers with one volume, which has another path in each.
    script = (
        f'mkdir -p {base}/b && mount -t tmpfs none /mnt && mkdir /mnt/v && mount --bind {base}/run /mnt/v && exec "$@"'
    )
    os.mkdir(f"{base}/run", 0o700)
    if subprocess.run(["unshare", "-m", "sh", "-c", script, "x", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    other = agent("unshare", "-m", "sh", "-c", script, "x")
    other("join(base)", base="/mnt/v")
    region = here(base=f"{base}/run")
    assert id_of(other) == region.id
    assert region.seat.number == 1
    shutil.rmtree(f"{base}/run/shop")
    region.leave()
    with pytest.raises(CannotJoin, match="nobody can join before they have noticed"):
        here(base=f"{base}/run", patience=0.05)


# --- Private regions


def test_a_private_region_has_the_same_parts_and_no_files() -> None:
    open_before = opened_and_used()
    region = Region.private(CAPACITY)
    assert opened() == open_before
    board = board_of(region)
    label = board.label([ROOT, key_hash(b"k")])
    assert board.stands(label)
    board.invalidate([key_hash(b"k")])
    assert not board.stands(label)
    assert region.geometry == geometry(CAPACITY)
    assert region.shelf.grow(region.geometry.data_offset, region.geometry.total_size)
    region.shelf.data[region.geometry.total_size - 1 :] = b"x"
    assert region.lives()
    assert region.is_in_place()
    assert region.is_whole()
    assert region.seats() == []
    assert region.path == ""
    assert region.rings.lock(0)
    assert region.claims.take(5)
    assert not region.claims.take(5)
    region.rings.unlock(0)
    region.release()
    assert not region.lives()


def test_private_regions_share_nothing_not_even_with_a_child() -> None:
    one, two = Region.private(CAPACITY), Region.private(CAPACITY)
    assert one.id != two.id
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        board_of(one).invalidate([ROOT])
        os.write(writing, b"done")
        os._exit(0)
    board = board_of(one)
    label = board.label([ROOT])
    assert os.read(reading, 4) == b"done"
    os.waitpid(child, 0)
    assert board.stands(label)
    os.close(reading)
    os.close(writing)


# --- Memory


def test_what_was_mapped_stays_until_nobody_uses_it(here: Callable[..., Region]) -> None:
    region = here()
    bell = region.bell
    region.leave()
    del region
    gc.collect()
    bell[0]  # would be a crash


def test_a_map_keeps_no_descriptor_where_python_can_do_that(here: Callable[..., Region]) -> None:
    if sys.version_info < (3, 13):
        pytest.skip("needs Python 3.13: maps keep a descriptor before")
    region = here()
    before = opened_and_used()
    mapping = board_file.map_file(region._files.held["board"].number, mmap.PAGESIZE, 0)  # type: ignore[union-attr]
    assert opened() == before
    mapping.close()
