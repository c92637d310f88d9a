"""Processes that end properly: the others miss them at once, and nothing is left of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from verification.chaos.group import Group, Worker, together, until

KEYS = [f"k{number}" for number in range(12)]


@pytest.fixture
def ours(group: Callable[..., Group]) -> Group:
    return group(lease=20.0, fetch_timeout=20.0)


def _close(worker: Worker) -> None:
    worker.call("close")


def _exit(worker: Worker) -> None:
    """End without closing the cache: the end of the interpreter closes it."""
    worker.quit()


@pytest.mark.parametrize("leave", [_close, _exit])
def test_a_member_that_leaves_is_missed_at_once_and_leaves_nothing(
    ours: Group, leave: Callable[[Worker], None]
) -> None:
    first, second, leaver = ours.start(3)
    together(ours.workers, "read_all", keys=KEYS)
    for worker in ours.workers:
        assert worker.call("write", key="k0")["complete"]
    incarnation = leaver.call("me")[0]
    resets = [stats["resets"] for stats in together([first, second], "stats")]
    leave(leaver)
    assert not any(incarnation[:12] in name for name in ours.names())
    receipt = first.call("write", key="k0")
    assert receipt["complete"]
    assert receipt["waited_out"] == []
    until(lambda: all(incarnation not in view for view in together([first, second], "members")))
    ours.settle([first, second])
    assert together([first, second], "read_all", keys=KEYS) == [[4] + [0] * 11] * 2
    assert [stats["resets"] for stats in together([first, second], "stats")] == resets


def test_a_member_that_announces_nothing_still_lets_go_of_members_that_have_left(ours: Group) -> None:
    (reader,) = ours.start(1)
    for _ in range(3):
        (guest,) = ours.start(1)
        assert reader.call("read", key="k0") == 0
        guest.quit()
        until(lambda: len(reader.call("members")) == 1)
    until(lambda: reader.call("publisher_is_idle"))


def test_processes_that_come_and_go_cost_the_others_nothing_but_what_they_owned(ours: Group) -> None:
    stayers = ours.start(2)
    resets = [stats["resets"] for stats in together(stayers, "stats")]
    for _ in range(2):
        passing = ours.start(3, join=False)
        together(passing, "write", key="k0", wait=False)
        together(passing, "close")
        for worker in passing:
            worker.quit()
    ours.settle(stayers)
    assert together(stayers, "read", key="k0")[0] == stayers[0].call("read", key="k0")
    assert [stats["resets"] for stats in together(stayers, "stats")] == resets
    # A member that leaves before it has met everybody leaves its stream for a later cleaning, and no sockets.
    assert len([name for name in ours.names() if not name.endswith(".stream")]) == 4


def test_the_last_event_of_a_member_that_leaves_is_heard_before_it_goes(ours: Group) -> None:
    first, second, leaver = ours.start(3)
    together(ours.workers, "read_all", keys=KEYS)
    leaver.call("write", key="k0", wait=False)
    leaver.call("close")
    ours.settle([first, second])
    assert together([first, second], "read_all", keys=KEYS) == [[1] + [0] * 11] * 2


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
    writing = leaver.send("write_each", keys=KEYS, times=1000)
    until(lambda: leaver.call("reads_so_far") > 1000)
    leaver.call("close")
    errors = [*writing.result()["errors"], *leaver.call("end_reading")["errors"]]
    assert len(errors) > len(KEYS)
    assert all(error.startswith("ClosedError") for error in errors)
    assert len(stayer.call("members")) == 1
    assert stayer.call("write", key="k63")["complete"]


def test_a_load_that_ends_after_its_cache_was_closed_touches_no_files_of_others(ours: Group) -> None:
    """Those files may have the numbers of the descriptors of the waker."""
    (worker,) = ours.start(1)
    reading = worker.send("read", key="k0", hold=True)
    until(lambda: ours.loads() == 1)
    worker.call("close")
    worker.call("open_pipes", count=50)
    worker.call("release")
    assert reading.result() == 0
    assert worker.call("read_pipes") == ""


def test_members_whose_files_are_deleted_under_them_find_together_again(ours: Group) -> None:
    workers = ours.start(3)
    old = workers[0].call("members")
    shutil.rmtree(ours.files)

    def have_joined_anew() -> bool:
        together(workers, "read", key="k0")
        return all(len(view) == 3 and old.keys().isdisjoint(view) for view in together(workers, "members"))

    until(have_joined_anew)
    ours.settle()
    assert workers[1].call("write", key="k0")["complete"]
    assert together(workers, "read", key="k0") == [1, 1, 1]
