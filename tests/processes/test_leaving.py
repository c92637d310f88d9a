"""Processes that end leave nothing of themselves but what they stored. Others are made to leave, by deleted files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ROOT
from verification.chaos.group import Group, Worker, together, until

KEYS = [f"k{number}" for number in range(12)]


@pytest.fixture
def ours(group: Callable[..., Group]) -> Group:
    return group(load_timeout=120.0)


def _close(worker: Worker) -> None:
    worker.call("close")


def _exit(worker: Worker) -> None:
    """End without closing the cache: the end of the interpreter closes it."""
    worker.quit()
    until(worker.dead.is_set)


@pytest.mark.parametrize("leave", [_close, _exit])
def test_a_process_that_leaves_is_missed_at_once_and_leaves_what_it_stored(
    ours: Group, leave: Callable[[Worker], None]
) -> None:
    first, second, leaver = ours.start(3)
    together(ours.workers, "read_all", keys=KEYS)
    for worker in ours.workers:
        assert worker.call("write", key="k0")["complete"]
    assert leaver.call("set", key="k1", value=7)
    seat, loads = leaver.call("seat"), ours.loads()
    leave(leaver)
    assert f"{seat}.bus" not in ours.names()
    assert [len(view) for view in together([first, second], "members")] == [2, 2]
    assert together([first, second], "read_all", keys=KEYS) == [[3, 7] + [0] * 10] * 2
    assert ours.loads() == loads + 1, "of the key that was written"


@pytest.mark.parametrize("leave", [_close, _exit])
def test_the_last_process_leaves_nothing(ours: Group, leave: Callable[[Worker], None]) -> None:
    workers = ours.start(3)
    together(workers, "read_all", keys=KEYS)
    for worker in workers[:2]:
        leave(worker)
    assert "board" in ours.names()
    leave(workers[2])
    assert ours.names() == set()
    assert not ours.files.exists()


def test_processes_that_come_and_go_leave_nothing_of_themselves(ours: Group) -> None:
    stayers = ours.start(2)
    together(stayers, "write", key="k1")
    until(lambda: len([name for name in ours.names() if name.endswith(".bus")]) == 2)
    names = ours.names()
    for _ in range(2):
        passing = ours.start(3, join=False)
        together(passing, "write", key="k0")
        together(passing, "close")
        for worker in passing:
            worker.quit()
    assert together(stayers, "read", key="k0") == [6, 6]
    assert ours.names() == names
    assert len(stayers[0].call("members")) == 2


def test_everybody_leaves_at_once(ours: Group) -> None:
    workers = ours.start(6)
    together(workers, "read_all", keys=KEYS)
    together(workers, "close")
    assert ours.names() == set()
    (newcomer,) = ours.start(1, join=False)
    assert newcomer.call("read", key="k0") == 0
    assert newcomer.call("write", key="k0")["complete"]


def test_closing_lets_threads_go_that_read_and_write(ours: Group) -> None:
    leaver, stayer = ours.start(2)
    leaver.call("begin_reading", keys=KEYS)
    writing = leaver.send("write_each", keys=KEYS, times=100_000)
    until(lambda: leaver.call("reads_so_far") > 1000)
    leaver.call("close")
    errors = [*writing.result()["errors"], *leaver.call("end_reading")["errors"]]
    assert len(errors) > len(KEYS)
    assert all(error.startswith("ClosedError") for error in errors)
    assert len(stayer.call("members")) == 1
    assert stayer.call("write", key="k63")["complete"]


def test_a_load_that_ends_after_its_cache_was_closed_touches_no_files_of_others(ours: Group) -> None:
    """Those files may have the numbers of the descriptors that the cache had."""
    (worker,) = ours.start(1)
    reading = worker.send("read", key="k0", hold=True)
    until(lambda: ours.loads() == 1)
    worker.call("close")
    worker.call("open_pipes", count=50)
    worker.call("release")
    assert reading.result() == 0
    assert worker.call("read_pipes") == ""


# --- Somebody deletes files


def _everything(ours: Group) -> None:
    shutil.rmtree(ours.files)


def _the_board(ours: Group) -> None:
    (ours.files / "board").unlink()


@pytest.mark.parametrize("delete", [_everything, _the_board])
def test_processes_whose_files_are_deleted_find_together_again(ours: Group, delete: Callable[[Group], None]) -> None:
    workers = ours.start(3)
    together(workers, "read_all", keys=KEYS)
    (region,) = set(together(workers, "region"))
    delete(ours)
    receipt = workers[0].call("write", key="k0")  # it cannot be complete before all have noticed; if it is, it is so
    for worker in workers[1:]:
        seen = worker.call("read", key="k0")
        assert seen == 1 or not receipt["complete"]

    def have_joined_anew() -> bool:
        together(workers, "read", key="k63")
        together(workers, "write", key="k62")  # looks whether the files are there
        return all(len(view) == 3 for view in together(workers, "members"))

    until(have_joined_anew)
    (another,) = set(together(workers, "region"))
    assert another != region
    assert workers[1].call("write", key="k0")["complete"]
    assert together(workers, "read", key="k0") == [2, 2, 2]


def test_a_newcomer_waits_for_those_who_use_deleted_files_and_idle_ones_leave_by_themselves(ours: Group) -> None:
    """Nobody tells them, and nobody calls anything there."""
    idle = ours.start(2, join=False)
    together(idle, "tick_often")
    together(idle, "start")
    together(idle, "read_all", keys=KEYS)
    (region,) = set(together(idle, "region"))
    (newcomer,) = ours.start(1, join=False)
    idle[0].stop()
    shutil.rmtree(ours.files)
    receipt = newcomer.call("write", key="k0")
    assert not receipt["complete"], "a process that is stopped may serve the old value"
    assert newcomer.call("read", key="k0") == 1
    assert newcomer.call("members") == {}
    idle[0].go_on()
    until(lambda: newcomer.call("write", key="k1")["complete"])
    assert newcomer.call("region") != region
    for worker in idle:
        assert worker.call("hit", key="k0") is None
        assert worker.call("read", key="k0") == 1
        assert worker.call("region") == newcomer.call("region")


def test_deleted_sockets_make_nobody_serve_old_values_and_come_back(ours: Group) -> None:
    """As when a cleaner deletes them, and then processes are stopped for a while, one after the other."""
    workers = ours.start(3)
    together(workers, "read_all", keys=KEYS)
    until(lambda: len(list(ours.files.glob("*.bus"))) == 3)
    for path in ours.files.glob("*.bus"):
        path.unlink()
    for version, stopped in enumerate(workers, 1):
        stopped.stop()
        others = [worker for worker in workers if worker is not stopped]
        assert others[0].call("write", key="k0")["complete"]
        assert together(others, "read", key="k0") == [version] * 2
        stopped.go_on()
        assert stopped.call("read", key="k0") == version
    assert [len(view) for view in together(workers, "members")] == [3] * 3


# --- Somebody closes them


def test_a_process_whose_descriptors_are_all_closed_serves_nothing_old(ours: Group) -> None:
    """As a daemoniser does it, or ``closerange``. What the process had locked is free then."""
    victim, other = ours.start(2, join=False)
    together([victim, other], "read_all", keys=KEYS)
    until(lambda: len(list(ours.files.glob("*.bus"))) == 2)
    assert victim.call("close_all_files") is None
    assert other.call("write", key="k0")["complete"]
    assert victim.call("read", key="k0") == 1
    assert victim.call("write", key="k1")["complete"]
    assert other.call("read", key="k1") == 1
    other.quit()
    until(other.dead.is_set)
    (newcomer,) = ours.start(1, join=False)  # for whom the victim does not show any more, unless it has joined anew
    assert newcomer.call("write", key="k0")["complete"]
    assert victim.call("hit", key="k0") is None
    assert victim.call("read", key="k0") == 2
    until(lambda: victim.call("write", key="k1")["complete"] and len(newcomer.call("members")) == 2)
    assert newcomer.call("read", key="k1") == victim.call("read", key="k1")
    assert newcomer.call("region") == victim.call("region")


def test_a_daemon_that_forks_and_closes_all_descriptors_joins_by_itself(ours: Group) -> None:
    parent, other = ours.start(2)
    together(ours.workers, "write", key="k0")
    until(lambda: len(list(ours.files.glob("*.bus"))) == 2)
    daemon = ours.adopt(lambda: parent.call("fork"))
    daemon.call("close_all_files")
    assert daemon.call("read", key="k0") == 2
    assert daemon.call("write", key="k0")["complete"]
    parent.quit()
    assert together([daemon, other], "read", key="k0") == [3, 3]
    assert len(other.call("members")) == 2
    assert other.call("write", key="k0")["complete"]
    assert daemon.call("read", key="k0") == 4


DROPPED = """
import gc, sys, threading
import colocache
from colocache import member

leave, finish, begun, goes_on = member._leave, member.Queue.finish, threading.Event(), threading.Event()

def leave_late(*arguments):
    begun.set()
    goes_on.wait(30)
    leave(*arguments)

def finish_late(queue, ends):
    goes_on.set()
    finish(queue, ends)

member._leave, member.Queue.finish = leave_late, finish_late
cache = colocache.Cache("dropped", directory=sys.argv[1])
cache.set("k", 1)
del cache
gc.collect()
assert begun.wait(30)
"""


def test_the_end_of_a_process_waits_for_a_cache_that_was_dropped_and_is_leaving(tmp_path: Path) -> None:
    """Its thread would be cut off, and the files would stay."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", DROPPED, str(directory)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert not [*directory.iterdir()]
