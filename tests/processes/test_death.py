"""Killed processes: the others notice it at once, and nothing that was announced is lost."""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGABRT, SIGKILL, Signals

import pytest

from verification.chaos.group import Died, Group, together, until

KEYS = [f"k{number}" for number in range(12)]


@pytest.fixture
def ours(group: Callable[..., Group]) -> Group:
    return group(lease=30.0, fetch_timeout=20.0, forget_after=120.0, load_timeout=120.0)


@pytest.mark.parametrize("signal", [SIGKILL, SIGABRT], ids=lambda signal: signal.name)
def test_a_member_that_dies_while_it_is_waited_for_is_waited_for_no_longer(
    group: Callable[..., Group], signal: Signals
) -> None:
    ours = group(lease=60.0, fetch_timeout=20.0, forget_after=120.0)  # so that a scan comes every 10 s
    first, second, victim = ours.start(3)
    together(ours.workers, "read", key="k0")
    seat = victim.call("me")[1]
    victim.stop()
    writing = first.send("write", key="k0")
    until(lambda: second.call("stats")["events_applied"] == 1)
    assert not writing.done()
    victim.signal(signal)
    victim.go_on()
    receipt = writing.result()
    assert receipt["complete"]
    assert receipt["seconds"] < 5.0
    assert seat not in (*receipt["acknowledged"], *receipt["waited_out"])
    assert together([first, second], "read", key="k0") == [1, 1]


def test_the_seat_of_a_dead_member_goes_to_its_successor(ours: Group) -> None:
    workers = ours.start(3)
    victim = workers[1]
    incarnation, seat = victim.call("me")
    victim.kill()
    (successor,) = ours.start(1)
    newcomer, taken = successor.call("me")
    assert (taken, newcomer != incarnation) == (seat, True)
    assert incarnation not in workers[0].call("members")
    assert workers[2].call("write", key="k0")["complete"]


def test_an_invalidation_that_nobody_heard_reaches_everybody_from_the_journal_of_the_dead_member(ours: Group) -> None:
    workers = ours.start(4)
    together(workers, "read_all", keys=KEYS)
    survivors, victim = workers[:3], workers[3]
    resets = [stats["resets"] for stats in together(survivors, "stats")]
    loads = ours.loads()
    with pytest.raises(Died):
        victim.call("write_and_die", key="k0")
    ours.settle(survivors)
    for versions in together(survivors, "read_all", keys=KEYS):
        assert versions == [1] + [0] * 11
    assert [stats["resets"] for stats in together(survivors, "stats")] == resets
    # The key itself, and the keys that the dead member owned. It never owns all twelve.
    assert 1 <= ours.loads() - loads < len(KEYS)


def test_a_death_costs_readers_nothing_except_loads(ours: Group) -> None:
    workers = ours.start(4)
    survivors, victim = workers[:3], workers[3]
    for worker in workers:
        worker.call("begin_reading", keys=KEYS)
    until(lambda: min(together(workers, "reads_so_far")) > 100)
    victim.kill()
    receipt = survivors[0].call("write", key="k0")
    assert receipt["complete"]
    after = [worker.call("reads_so_far") for worker in survivors]
    until(lambda: all(worker.call("reads_so_far") > n + 100 for worker, n in zip(survivors, after, strict=True)))
    for worker in survivors:
        reading = worker.call("end_reading")
        assert reading["errors"] == []
        assert reading["latest"]["k0"]["0"] <= receipt["returned"]
        assert "1" in reading["latest"]["k0"]


def test_waiters_load_as_soon_as_the_holder_of_the_fill_token_is_killed(ours: Group) -> None:
    workers = ours.start(3)
    holder, others = workers[0], workers[1:]
    holding = [holder.send("read", key=key, hold=True) for key in KEYS]  # everybody owns some of these keys
    until(lambda: ours.loads() == len(KEYS))
    waiting = [worker.send("read", key=key) for worker in others for key in KEYS]
    together(others, "stats")  # they follow the reads
    assert ours.loads() == len(KEYS)
    assert not any(future.done() for future in waiting)
    holder.kill()
    assert [future.result() for future in waiting] == [0] * len(waiting)
    assert len(KEYS) * 2 <= ours.loads() <= len(KEYS) * 3  # once more, or perhaps twice if the owner has died
    for future in holding:
        with pytest.raises(Died):
            future.result()


def test_a_dead_member_does_not_take_along_a_member_with_a_full_queue_of_its_messages(
    group: Callable[..., Group],
) -> None:
    """What must not happen:

    1. R takes no messages for a while, and the queue of messages from W is full;
    2. W dies;
    3. libzmq pings W, and aborts R.
    """
    ours = group(lease=30.0, fetch_timeout=20.0, forget_after=120.0)
    workers = ours.start(3, join=False)
    together(workers, "limit_queues", limit=10)
    together(workers, "start")
    ours.settle()
    first, second, victim = workers
    stalled = second.send("stall", seconds=2.5)  # longer than libzmq waits, which aborts the whole process
    for _ in range(200):
        victim.call("write", key="k0", wait=False)
    victim.kill()
    stalled.result()
    assert first.call("write", key="k0")["complete"]
    assert together([first, second], "read", key="k0") == [201, 201]


def test_after_all_are_killed_newcomers_find_no_trace(group: Callable[..., Group]) -> None:
    ours = group()
    old = ours.start(4)
    together(old, "read_all", keys=KEYS)
    for worker in old:
        worker.kill()
    left = ours.names()
    assert len(left) == 12  # of each a stream and two sockets
    ours.settings.update(lease=0.1, forget_after=1.0)  # what is left is deleted after forty leases
    (lone,) = ours.start(1)
    lone.call("write", key="k0")
    assert lone.call("read_all", keys=KEYS) == [1] + [0] * 11
    ours.start(1)
    until(lambda: not left & ours.names(), "the files of the dead are deleted")
    assert len(ours.names()) == 6


def test_one_death_after_the_other_leaves_a_group_that_works(group: Callable[..., Group]) -> None:
    ours = group(lease=30.0, fetch_timeout=20.0, forget_after=120.0)
    workers = ours.start(3)
    for version in range(1, 7):
        together(workers, "read", key="k0")
        workers.pop(0).kill()
        workers += ours.start(1)
        assert workers[version % 3].call("write", key="k0")["complete"]
        assert together(workers, "read", key="k0") == [version] * 3
