"""Members of one host find each other, and know which ones live: with real processes, locks and kills."""

from __future__ import annotations

import ast
import ctypes
import errno
import mmap
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from colocache.errors import ConfigError
from colocache.runtime import directory as directory_module
from colocache.runtime.directory import Directory, Seat, Sighting
from tests import ROOT

# Answers one line of Python with one line: what it evaluates to, or the error.
AGENT = """
import os, signal, sys
from colocache.runtime.directory import Directory

def take(group, base, incarnation, journal_bytes=5000):
    global directory, seat
    directory = Directory(group, base, journal_bytes=journal_bytes)
    directory.open()
    seat = directory.take(incarnation)
    return seat.number

def go_on_in_child(fork):
    "From here on the child answers, and its parent only lives."
    if fork():
        while True:
            signal.pause()
    return os.getpid()

def open_file(descriptor):
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None

names = globals()
for line in sys.stdin:
    try:
        code = compile(eval(line), "agent", "eval")
        print(repr((True, eval(code, names))), flush=True)
    except Exception as error:
        print(repr((False, repr(error))), flush=True)
"""


class Agent:
    """Another process, which does what it is told."""

    def __init__(self, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip
        self.pid = self.process.pid

    def __call__(self, expression: str, **values: object) -> object:
        for name, value in values.items():
            self(f"names.__setitem__({name!r}, {value!r})")
        assert self.process.stdin
        assert self.process.stdout
        print(repr(expression), file=self.process.stdin, flush=True)
        well, answer = ast.literal_eval(self.process.stdout.readline())
        assert well, answer
        return answer

    def join(self, base: str, incarnation: bytes, group: str = "shop") -> int:
        number = self("take(group, base, incarnation)", group=group, base=base, incarnation=incarnation)
        self("seat.announce()")
        assert isinstance(number, int)
        return number

    def kill(self) -> None:
        """Kill it, so that it does not clean up. When this returns, its locks are free."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        with self.process.stdout as rest:
            assert rest.read() == ""  # the end of it: a forked child has ended, too


@pytest.fixture
def agent() -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def start(**environment: str) -> Agent:
        agents.append(Agent(**environment))
        return agents[-1]

    yield start
    for each in agents:
        each.close()


@pytest.fixture
def base() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="cc", dir="/tmp") as path:  # short, for sockets
        yield os.path.realpath(path)


@pytest.fixture
def opened(base: str) -> Iterator[Callable[..., Directory]]:
    """Opens directories of this process, and releases their seats in the end."""
    before = set(directory_module._mine().members)

    def make(group: str = "shop", base: str = base) -> Directory:
        directory = Directory(group, base, journal_bytes=5000)
        directory.open()
        return directory

    yield make
    for incarnation, seat in list(directory_module._mine().members.items()):
        if incarnation not in before:
            seat.release()


_numbers = count(1)


def fresh() -> bytes:
    return next(_numbers).to_bytes(8, "little") + os.urandom(8)


def joined(directory: Directory) -> Seat:
    seat = directory.take(fresh())
    seat.announce()
    return seat


def files(directory: Directory) -> list[str]:
    return sorted(os.listdir(directory.path))


def bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.removeprefix("ipc://"))


# Seats


def test_the_lowest_free_seat_is_taken_also_after_a_kill(base: str, agent: Callable[..., Agent]) -> None:
    agents = [agent() for _ in range(4)]
    assert [each.join(base, fresh()) for each in agents] == [0, 1, 2, 3]
    agents[1].kill()
    agents[2].kill()
    assert [agent().join(base, fresh()) for _ in range(3)] == [1, 2, 4]


def test_groups_do_not_share_seats(opened: Callable[..., Directory], agent: Callable[..., Agent], base: str) -> None:
    assert agent().join(base, fresh(), "shop") == 0
    assert agent().join(base, fresh(), "blog") == 0
    assert joined(opened("shop")).number == 1


def test_threads_of_one_process_get_a_seat_each(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    seats: list[int] = []
    go = threading.Barrier(8)

    def take() -> None:
        directory = opened()
        go.wait()
        seats.append(joined(directory).number)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seats) == list(range(8))
    assert agent().join(base, fresh()) == 8


def test_two_seats_of_one_process_see_each_other_and_stay_locked(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    os.symlink(base, f"{base}.alias")
    try:
        one, two = opened(), opened(base=f"{base}.alias/../{os.path.basename(base)}")
    finally:
        os.unlink(f"{base}.alias")
    first, second = joined(one), joined(two)
    assert (first.number, second.number) == (0, 1)
    assert one.scan() == [Sighting(1, second.incarnation, os.getpid())]
    assert two.scan() == [Sighting(0, first.incarnation, os.getpid())]

    neighbour = two.watch(first.incarnation)
    assert neighbour
    assert (neighbour.number, neighbour.pid, neighbour.alive()) == (0, os.getpid(), True)
    assert neighbour.endpoints == (first.link_endpoint, first.bus_endpoint)
    first.journal.append(1, b"one")
    assert neighbour.events(1) == [(1, b"one")]
    for each in (one, two):
        each.watch(second.incarnation).close()
        each.remains()
        each.clean()
        each.clean()

    # Any of these calls would have closed a file of ours if it were wrong. Do others still find the files locked?
    other = agent()
    assert other.join(base, fresh()) == 2
    assert other("sorted((each.number, each.pid) for each in directory.scan())") == [(0, os.getpid()), (1, os.getpid())]
    assert first.tend()

    first.release()
    assert (neighbour.alive(), neighbour.last(), neighbour.events(1)) == (False, 1, [(1, b"one")])
    neighbour.close()
    assert one.watch(first.incarnation) is None
    assert joined(opened()).number == 0


def test_an_incarnation_is_used_once(opened: Callable[..., Directory]) -> None:
    directory = opened()
    seat = directory.take(fresh())
    for incarnation in (seat.incarnation, b"", b"x" * 15, b"x" * 17):
        with pytest.raises(ValueError, match="used once"):
            directory.take(incarnation)


def test_when_all_seats_are_taken_the_error_says_so(
    opened: Callable[..., Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "SEATS", 2)
    directory = opened()
    joined(directory), joined(directory)
    with pytest.raises(ConfigError, match=r"all 2 seats of the group 'shop' in .* are taken"):
        directory.take(fresh())


def test_a_seat_whose_start_fails_is_free_again(
    opened: Callable[..., Directory], monkeypatch: pytest.MonkeyPatch, agent: Callable[..., Agent], base: str
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    directory = opened()
    monkeypatch.setattr(directory_module.Journal, "create", fail)
    with pytest.raises(KeyboardInterrupt):
        directory.take(fresh())
    assert files(directory) == ["0.seat"]
    assert agent().join(base, fresh()) == 0


def test_a_member_that_leaves_deletes_everything_except_the_seats_file(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory = opened()
    seat = directory.take(fresh())
    bind(seat.link_endpoint)
    bind(seat.bus_endpoint)
    seat.announce()
    seat.announce()
    assert len(files(directory)) == 4
    seat.release()
    assert files(directory) == ["0.seat"]

    # Other files may have the numbers of its descriptors by now. A second call must not close them.
    descriptors = [os.dup(0) for _ in range(5)]
    seat.release()
    for descriptor in descriptors:
        os.close(descriptor)
    assert agent().join(base, fresh()) == 0


def test_a_seat_knows_when_its_files_were_deleted(opened: Callable[..., Directory]) -> None:
    directory = opened()
    for victim in ("{number}-{incarnation}.stream", "{number}.seat"):
        seat = joined(directory)
        assert seat.tend()
        path = Path(directory.path, victim.format(number=seat.number, incarnation=seat.incarnation.hex()))
        path.unlink()
        assert not seat.tend()
        path.touch(0o600)
        assert not seat.tend()


def test_a_tended_seat_stays_young(opened: Callable[..., Directory]) -> None:
    directory = opened()
    seat = joined(directory)
    paths = [entry.path for entry in os.scandir(directory.path)]
    assert len(paths) == 2
    for path in paths:
        os.utime(path, (0, 0))
    assert seat.tend()
    assert all(os.stat(path).st_mtime > 1e9 for path in paths)


def test_a_seats_file_that_is_deleted_while_it_is_taken_is_not_trusted(
    opened: Callable[..., Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = opened()
    opens = directory_module.open_ours

    def open_and_lose(path: str) -> int:
        descriptor = opens(path)
        if path.endswith("/0.seat"):
            os.unlink(path)
        return descriptor

    monkeypatch.setattr(directory_module, "open_ours", open_and_lose)
    assert directory.take(fresh()).number == 1


# Life and death, seen from another process


def test_members_see_each_other_from_announcement_to_death(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory = opened()
    mine = joined(directory)
    assert directory.scan() == []

    other, incarnation = agent(), fresh()
    other("take('shop', base, incarnation)", base=base, incarnation=incarnation)
    assert directory.scan() == []
    assert directory.watch(incarnation) is None
    other("seat.announce()")
    assert directory.scan() == [Sighting(1, incarnation, other.pid)]
    assert other("[(each.number, each.pid) for each in directory.scan()]") == [(0, os.getpid())]
    assert other("directory.watch(mine).alive()", mine=mine.incarnation) is True

    neighbour = directory.watch(incarnation)
    assert neighbour
    assert (neighbour.number, neighbour.pid, neighbour.alive(), neighbour.last()) == (1, other.pid, True, 0)
    assert neighbour.endpoints == other("(seat.link_endpoint, seat.bus_endpoint)")
    other.kill()
    assert not neighbour.alive()
    assert directory.scan() == []
    assert directory.remains() == [Sighting(1, incarnation, None)]
    neighbour.close()
    neighbour.close()


def test_what_a_killed_process_published_outlives_it_and_its_files(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory = opened()
    joined(directory)
    dead, cleaner, incarnation = agent(), agent(), fresh()
    dead.join(base, incarnation)
    neighbour = directory.watch(incarnation)
    assert neighbour
    dead("[seat.journal.append(n, b'event %d' % n) for n in range(1, 501)]")
    assert neighbour.last() == 500
    dead.kill()

    cleaner.join(base, fresh())
    cleaner("directory.clean(), directory.clean()")
    assert directory.watch(incarnation) is None
    assert directory.remains() == []
    assert neighbour.last() == 500
    assert neighbour.events(499) == [(499, b"event 499"), (500, b"event 500")]
    assert neighbour.events(501) == []
    assert neighbour.events(1) is None  # 500 events of 24 bytes are more than 5000
    neighbour.close()


def test_a_member_that_died_before_it_was_ever_seen_can_still_be_heard(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    dead, incarnation = agent(), fresh()
    dead.join(base, incarnation)
    dead("seat.journal.append(1, b'one')")
    dead.kill()
    directory = opened()
    successor = joined(directory)
    assert successor.number == 0
    assert directory.remains() == [Sighting(0, incarnation, None)]
    neighbour = directory.watch(incarnation)
    assert neighbour
    assert (neighbour.pid, neighbour.alive(), neighbour.events(1)) == (0, False, [(1, b"one")])
    neighbour.close()


def test_watchers_see_that_a_member_has_left(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory = opened()
    other, incarnation = agent(), fresh()
    other.join(base, incarnation)
    neighbour = directory.watch(incarnation)
    assert neighbour
    other("seat.journal.append(1, b'one')")
    other("seat.release()")
    assert (neighbour.alive(), neighbour.last()) == (False, 1)
    assert directory.scan() == directory.remains() == []
    neighbour.close()


# Cleaning up


def test_a_second_cleaning_deletes_the_files_of_dead_members_and_never_those_of_living_ones(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory = opened()
    mine, living, dead = joined(directory), agent(), agent()
    living.join(base, fresh())
    dead.join(base, fresh())
    for each in (living, dead):
        for endpoint in each("(seat.link_endpoint, seat.bus_endpoint)"):
            bind(endpoint)
    directory.clean()
    everything = files(directory)
    assert len(everything) == 3 + 3 + 4
    dead.kill()
    directory.clean()
    assert files(directory) == everything
    directory.clean()
    assert [name for name in everything if name not in files(directory)] == [
        name for name in everything if name.startswith("2-")
    ]
    directory.clean()
    assert len(files(directory)) == len(everything) - 3
    assert mine.tend()
    assert living("seat.tend()") is True


def test_cleaning_deletes_temporary_files_of_dead_makers_and_never_those_of_living_ones(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory = opened()
    mine, living, dead = directory.take(fresh()), agent(), agent()
    for each in (living, dead):
        each("take('shop', base, incarnation)", base=base, incarnation=fresh())
        bind(each("seat.link_endpoint"))
    everything = files(directory)
    directory.clean()
    assert files(directory) == everything
    dead.kill()
    successor = agent()
    assert successor.join(base, fresh()) == 2
    everything = files(directory)
    directory.clean()
    assert files(directory) == everything  # that seat is taken, and only its process knows which files are its own
    successor("directory.clean()")
    gone = set(everything) - set(files(directory))
    assert {os.path.splitext(name)[1] for name in gone} == {".tmp", ".link"}
    assert {name[:2] for name in gone} == {"2-"}
    successor("seat.release()")
    living.kill()
    directory.clean()
    assert [name for name in files(directory) if name.startswith(("1-", "2-"))] == []
    mine.announce()
    assert mine.tend()


def test_several_cleaners_do_not_disturb_each_other(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    dead = agent()
    dead.join(base, fresh())
    dead.kill()
    one, two = opened(), opened()
    one.clean()
    two.clean()
    one.clean()
    two.clean()
    assert files(one) == ["0.seat"]


# Fork

FORKS = {
    "of Python": "go_on_in_child(os.fork)",
    "in C": "go_on_in_child(__import__('ctypes').PyDLL(None).fork)",  # as uWSGI does: no hook of Python runs
}


@pytest.mark.parametrize("fork", FORKS)
def test_a_forked_child_forgets_and_its_parent_keeps(
    fork: str, opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory, parent, incarnation = opened(), agent(), fresh()
    parent.join(base, incarnation)
    bind(parent("seat.link_endpoint"))
    neighbour = directory.watch(incarnation)
    assert neighbour

    child = parent
    child_pid = child(FORKS[fork])
    assert child_pid != parent.pid
    child("seat.release()")  # must be no more than
    child("seat.forget_after_fork()")
    child("seat.forget_after_fork()")
    assert neighbour.alive()
    assert len(files(directory)) == 3

    child("names.__setitem__('parents', seat)")
    assert child("take('shop', base, incarnation)", incarnation=fresh()) == 1
    child("seat.announce()")
    assert child("[(each.number, each.pid) for each in directory.scan()]") == [(0, parent.pid)]
    assert {(each.number, each.pid) for each in directory.scan()} == {(0, parent.pid), (1, child_pid)}
    assert joined(directory).number == 2
    neighbour.close()


@pytest.mark.parametrize("forgets", ["before", "after"])
@pytest.mark.parametrize("fork", FORKS)
def test_a_child_in_the_seat_of_its_dead_parent_keeps_it(
    fork: str, forgets: str, opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    family = agent()
    family.join(base, fresh())
    child_pid = family(FORKS[fork])
    family.kill()
    family("names.__setitem__('parents', seat)")
    if forgets == "before":
        family("parents.forget_after_fork()")
    assert family("take('shop', base, incarnation)", incarnation=fresh()) == 0
    family("seat.announce()")
    if forgets == "after":
        family("parents.forget_after_fork()")
    directory = opened()
    assert [(each.number, each.pid) for each in directory.scan()] == [(0, child_pid)]
    assert joined(directory).number == 1


def test_a_child_keeps_no_descriptor_of_its_parents_files(agent: Callable[..., Agent], base: str) -> None:
    family = agent()
    family.join(base, fresh())
    # A number may soon be another file's, and the mapping has a descriptor of its own.
    family("names.__setitem__('held', {os.fstat(each.number).st_ino for each in seat._descriptors})")
    ours = "[each for each in range(3, 64) if open_file(each) in held]"
    assert len(family(ours)) == 3
    family(FORKS["of Python"])
    assert family(ours) == []


# Places and names


def test_the_default_is_below_the_temp_directory_in_every_login_session(
    monkeypatch: pytest.MonkeyPatch, base: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", base)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = Directory("shop", None)
    assert os.listdir(base) == []
    directory.open()
    assert directory.path == f"{base}/colocache-{os.geteuid()}/shop"


def test_everything_is_created_for_its_user_only(opened: Callable[..., Directory], base: str) -> None:
    umask = os.umask(0)
    try:
        directory = opened(base=f"{base}/new")
        seat = directory.take(fresh())
        modes = {name: stat.S_IMODE(os.lstat(f"{directory.path}/{name}").st_mode) for name in files(directory)}
    finally:
        os.umask(umask)
    assert modes == {"0.seat": 0o600, f"0-{seat.incarnation.hex()}.tmp": 0o600}
    assert {stat.S_IMODE(os.lstat(path).st_mode) for path in (f"{base}/new", directory.path)} == {0o700}


@pytest.mark.parametrize("level", ["new", "new/shop"])
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda path: path.chmod(0o710), "has mode 0710, which lets other users in"),
        (lambda path: path.chmod(0o707), "has mode 0707, which lets other users in"),
        (lambda path: path.rename(f"{path}.real") and path.symlink_to(f"{path}.real"), "is a symbolic link"),
        (lambda path: shutil.rmtree(path) or path.touch(), "is something else, not a directory"),
    ],
)
def test_a_place_that_others_can_reach_is_refused(
    base: str, opened: Callable[..., Directory], level: str, spoil: Callable[[Path], object], complaint: str
) -> None:
    opened(base=f"{base}/new")
    spoil(Path(base, level))
    with pytest.raises(ConfigError, match=f"{base}/{level} {complaint}.*COLOCACHE_DIR"):
        opened(base=f"{base}/new")


def test_a_place_of_another_user_is_refused(
    base: str, opened: Callable[..., Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=f"{base} belongs to user {owner}, not to {owner + 1}"):
        opened()


def test_a_place_that_cannot_be_made_is_a_config_error(base: str, agent: Callable[..., Agent]) -> None:
    Path(base, "file").touch()
    for path, reason in {
        f"{base}/missing/new": "No such file",
        f"{base}/file/new": "Not a directory",
        f"{base}/{'x' * 300}": "File name too long",
    }.items():
        with pytest.raises(ConfigError, match=f"{path} cannot be used: {reason}.*COLOCACHE_DIR"):
            Directory("shop", path).open()

    Path(base, "closed").mkdir(0o500)
    other = agent()
    if os.geteuid() == 0:  # root may do everything
        other("os.setuid(65534)")
    with pytest.raises(AssertionError, match=r"ConfigError\(.*/closed/new cannot be used: Permission denied"):
        other("take('shop', base, b'0123456789abcdef')", base=f"{base}/closed/new")


def test_an_error_of_the_disk_is_not_a_config_error(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(OSError, match="No space left"):
        Directory("shop", f"{base}/new").open()


@pytest.mark.parametrize("kind", ["symlink", "directory", "public"])
def test_something_else_in_the_place_of_a_seats_file_is_refused(opened: Callable[..., Directory], kind: str) -> None:
    directory = opened()
    path = Path(directory.path, "0.seat")
    match kind:
        case "symlink":
            path.symlink_to("elsewhere")
        case "directory":
            path.mkdir(0o700)
        case "public":
            path.touch()
            path.chmod(0o644)
    with pytest.raises(ConfigError, match=f"{path} .*: remove it"):
        directory.take(fresh())
    assert files(directory) == ["0.seat"]


def test_junk_in_the_directory_is_passed_over(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory = opened()
    mine = joined(directory)
    other, incarnation = agent(), fresh()
    other.join(base, incarnation)
    place, name = Path(directory.path), "ab" * 16
    for junk in ("x", f"00-{name}.stream", f"-1-{name}.stream", f"3-{name}.stream~", f"4-{name[2:]}.stream",
                 f"99999-{name}.stream", f"5-{name.upper()}.stream", f"6-{name}.tmp", f"7-{name}.stream\n",
                 "٣-" + name + ".stream"):  # fmt: skip
        (place / junk).touch(0o600)
    (place / f"10-{name}.stream").mkdir()
    (place / f"11-{name}.stream").symlink_to(f"{other('seat._path')}")
    (place / f"12-{name}.stream").touch(0o644)
    os.mkfifo(place / f"13-{name}.stream", 0o600)
    bind(str(place / f"14-{name}.stream"))
    (place / f"15-{name}.tmp").mkdir()
    (place / f"16-{'cd' * 16}.stream").touch(0o600)

    assert directory.scan() == [Sighting(1, incarnation, other.pid)]
    assert directory.remains() == [Sighting(16, b"\xcd" * 16, None)]
    assert directory.watch(b"\xab" * 16) is None
    empty = directory.watch(b"\xcd" * 16)
    assert empty
    assert (empty.alive(), empty.last(), empty.events(1)) == (False, None, None)
    empty.close()
    directory.clean()
    assert mine.tend()


def test_a_directory_in_the_place_of_a_file_keeps_nobody_from_cleaning(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory, dead = opened(), fresh()
    other = agent()
    other.join(base, dead)
    other.kill()
    place = Path(directory.path)
    for number in range(20):  # before and behind the dead member's, in whatever order the names are listed
        (place / f"{number}.seat").touch(0o600)
        (place / f"{number}-{fresh().hex()}.tmp").mkdir()
    for _ in range(2):
        directory.clean()
    assert directory.remains() == []


def test_a_directory_that_vanished_is_an_empty_one(opened: Callable[..., Directory]) -> None:
    directory = opened()
    seat = joined(directory)
    shutil.rmtree(directory.path)
    assert directory.scan() == directory.remains() == []
    assert directory.watch(fresh()) is None
    directory.clean()
    assert not seat.tend()


def test_a_member_that_leaves_during_the_scan_is_passed_over(
    opened: Callable[..., Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = opened()
    monkeypatch.setattr(os, "listdir", lambda _: [f"0-{'ab' * 16}.stream", f"1-{'ab' * 16}.tmp"])
    assert directory.scan() == directory.remains() == []
    assert directory.watch(b"\xab" * 16) is None
    directory.clean()


GROUPS = ["shop", "Shop", "shop/eu", "shop/../..", "..", ".", "", "лавка", "café", "cafe\u0301", "x" * 300, "x" * 301,
          "a b", "-rf", "\udc80", "new\nline", "nul\0", "shop~"]  # fmt: skip


def test_every_group_has_a_directory_of_its_own_below_the_base(base: str, opened: Callable[..., Directory]) -> None:
    paths = [opened(group).path for group in GROUPS]
    assert {os.path.dirname(path) for path in paths} == {base}
    names = [os.path.basename(path) for path in paths]
    assert len({name.casefold() for name in names}) == len(GROUPS)
    assert names[0] == "shop"
    assert names[2].startswith("shop_eu~")
    assert all(name.isascii() and len(name) <= 40 and not name.startswith((".", "-")) for name in names)
    assert sorted(os.listdir(base)) == sorted(names)
    assert [opened(group).path for group in GROUPS] == paths


def nested(base: str, length: int) -> str:
    """A base whose directory for the group "shop" has a path of that many bytes."""
    return base + "/" + "d" * (length - len(base) - len("/") - len("/shop"))


def test_sockets_stay_in_the_directory_while_the_kernel_takes_their_paths(
    base: str, opened: Callable[..., Directory]
) -> None:
    longest = 103 - len("/4095-0123456789ab.link")
    directory = opened(base=nested(base, longest))
    link, bus = directory.endpoints(4095, b"x" * 16)
    assert os.path.dirname(link) == os.path.dirname(bus) == f"ipc://{directory.path}"
    assert len(link.removeprefix("ipc://")) == 103
    bind(link)


def test_in_a_long_directory_only_the_sockets_go_elsewhere_for_all_members_alike(
    base: str, opened: Callable[..., Directory], agent: Callable[..., Agent], tmp_path: Path
) -> None:
    long = nested(base, 104 - len("/4095-0123456789ab.link"))
    directory = opened(base=long)
    seat = directory.take(fresh())
    sockets = os.path.dirname(seat.link_endpoint.removeprefix("ipc://"))
    try:
        assert sockets.startswith(f"/tmp/cc-{os.geteuid()}-")
        assert stat.S_IMODE(os.lstat(sockets).st_mode) == 0o700
        bind(seat.link_endpoint)
        bind(seat.bus_endpoint)
        seat.announce()
        other = agent(TMPDIR=str(tmp_path))
        other.join(long, fresh())
        assert other("directory.watch(mine).endpoints", mine=seat.incarnation) == (
            seat.link_endpoint,
            seat.bus_endpoint,
        )
        os.chmod(sockets, 0o755)
        with pytest.raises(ConfigError, match=f"{sockets} has mode 0755"):
            opened(base=long)
        seat.release()
        assert os.listdir(sockets) == []
    finally:
        shutil.rmtree(sockets)


# A full disk, made by the limit on the size of a process's files: a real OSError of the kernel, for any user


def test_on_a_full_disk_a_member_lives_and_only_its_journal_is_unreadable(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str
) -> None:
    directory = opened()
    other, incarnation = agent(), fresh()
    other("__import__('resource').setrlimit(7 if sys.platform == 'darwin' else 1, (4096, 4096))")
    other("names.__setitem__('logging', __import__('logging'))")
    other("names.__setitem__('lines', [])")
    other("names.__setitem__('handler', logging.Handler())")
    other("setattr(handler, 'emit', lambda record: lines.append((record.name, record.levelname, record.getMessage())))")
    other("logging.getLogger('colocache').addHandler(handler)")
    other.join(base, incarnation)
    [(name, level, text)] = other("lines")
    assert (name, level) == ("colocache", "WARNING")
    assert incarnation.hex() in text
    assert "File too large" in text

    assert directory.scan() == [Sighting(0, incarnation, other.pid)]
    neighbour = directory.watch(incarnation)
    assert neighbour
    assert other("seat.journal.append(1, b'one')") is None
    assert (neighbour.alive(), neighbour.last(), neighbour.events(1)) == (True, None, None)
    other.kill()
    assert (neighbour.alive(), neighbour.last()) == (False, None)
    neighbour.close()


def test_a_stream_that_cannot_be_mapped_is_still_locked(
    opened: Callable[..., Directory], agent: Callable[..., Agent], base: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    maps = mmap.mmap

    def fail(descriptor: int, size: int) -> mmap.mmap:
        if descriptor == -1:
            return maps(descriptor, size)
        os.close(os.dup(descriptor))  # as mmap does when it fails
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as patched:
        patched.setattr(mmap, "mmap", fail)
        seat = joined(opened())
    assert "Cannot allocate memory" in caplog.text
    other = agent()
    assert other.join(base, fresh()) == 1
    assert other("[(each.number, each.pid) for each in directory.scan()]") == [(0, os.getpid())]
    assert other("directory.watch(mine).last()", mine=seat.incarnation) is None


def test_a_struct_flock_is_as_long_as_the_systems() -> None:
    # A question shorter than the kernel's answer would have its end, the pid on Linux, cut off.
    if sys.platform == "linux":
        members = [("type", ctypes.c_short), ("whence", ctypes.c_short), ("start", ctypes.c_int64),
                   ("len", ctypes.c_int64), ("pid", ctypes.c_int)]  # fmt: skip
    else:
        members = [("start", ctypes.c_int64), ("len", ctypes.c_int64), ("pid", ctypes.c_int), ("type", ctypes.c_short),
                   ("whence", ctypes.c_short)]  # fmt: skip
    flock = type("flock", (ctypes.Structure,), {"_fields_": members})
    from colocache.runtime import files

    assert len(files._QUESTION) >= ctypes.sizeof(flock)
    assert flock.from_buffer_copy(files._QUESTION).type == files.fcntl.F_WRLCK


def test_a_descriptor_is_closed_once_however_often_it_is_closed() -> None:
    descriptor = directory_module.Descriptor(os.open(os.devnull, os.O_RDONLY))
    number = descriptor.number
    descriptor.close()
    assert os.open(os.devnull, os.O_RDONLY) == number, "the next file gets its number"
    descriptor.close()
    os.close(number)
    directory_module.Descriptor(number).close()  # it is closed already, and there is nothing to repair
