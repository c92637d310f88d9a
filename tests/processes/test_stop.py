"""Processes that are stopped and go on: they are waited out, and serve nothing old when they wake."""

from __future__ import annotations

from collections.abc import Callable

from verification.chaos.group import Group, Worker, together, until

LEASE = 1.0
KEYS = [f"k{number}" for number in range(12)]


def _stop_while_current(worker: Worker) -> None:
    """Stop a member that counts as heard, so that there is something to wait out."""
    until(lambda: worker.call("stats")["current"])
    worker.stop()


def test_a_stopped_member_is_waited_out(group: Callable[..., Group]) -> None:
    ours = group(lease=LEASE)
    first, second, stopped = ours.start(3)
    together(ours.workers, "read_all", keys=KEYS)
    seat = stopped.call("me")[1]
    _stop_while_current(stopped)
    receipts = [worker.send("write", key=key) for worker, key in ((first, "k0"), (second, "k1"), (first, "k2"))]
    for receipt in [future.result() for future in receipts]:
        assert receipt["complete"]
        assert receipt["waited_out"] == [seat]
        assert len(receipt["acknowledged"]) == 1
    stopped.go_on()
    assert stopped.call("read_all", keys=KEYS) == [1, 1, 1] + [0] * 9
    ours.settle()
    for versions in together(ours.workers, "read_all", keys=KEYS):
        assert versions == [1, 1, 1] + [0] * 9


def test_a_member_that_wakes_serves_nothing_old_to_reads_that_come_before_its_thread_runs(
    group: Callable[..., Group],
) -> None:
    ours = group(lease=LEASE)
    writer, stopped = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    stopped.call("begin_reading", keys=KEYS)  # its thread was reading when it stopped, so it reads first on waking
    acknowledged: dict[str, int] = {}
    for number, key in enumerate(KEYS[:3]):
        before = stopped.call("reads_so_far")
        until(lambda before=before: stopped.call("reads_so_far") > before + 100)  # type: ignore[misc]
        _stop_while_current(stopped)
        receipt = writer.call("write", key=key)
        assert receipt["complete"]
        acknowledged[key] = receipt["returned"]
        queued = [stopped.send("read", key=key) for _ in range(20)]
        stopped.go_on()
        assert [future.result() for future in queued] == [1] * 20, number
    reading = stopped.call("end_reading")
    assert reading["errors"] == []
    for key, returned in acknowledged.items():
        assert reading["latest"][key]["0"] <= returned


def test_a_member_hears_on_waking_of_one_that_came_and_went_while_it_was_stopped(group: Callable[..., Group]) -> None:
    """Nobody else tells it, because the other members know the same members as it does.

    1. S is stopped; 2. W joins, announces an event, is not acknowledged by S, waits no longer, and leaves; 3. S wakes,
    hears all members that are there, and is current. It must not serve what it kept before W's event.
    """
    ours = group(lease=LEASE)
    other, stopped = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    _stop_while_current(stopped)
    (passing,) = ours.start(1, join=False)
    passing.call("start")
    until(lambda: len(other.call("members")) == 3)
    passing.call("write", key="k0", wait=False)
    passing.call("close")
    passing.quit()
    until(lambda: len(other.call("members")) == 2)
    stopped.go_on()
    ours.settle([other, stopped])
    assert stopped.call("read_all", keys=KEYS) == [1] + [0] * 11
    assert [stats["resets"] for stats in together([other, stopped], "stats")] == [0, 0]


def test_a_member_hears_on_waking_of_one_that_came_and_was_killed_while_it_was_stopped(
    group: Callable[..., Group],
) -> None:
    ours = group(lease=LEASE)
    other, stopped = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    _stop_while_current(stopped)
    (passing,) = ours.start(1, join=False)
    passing.call("start")
    until(lambda: len(other.call("members")) == 3)
    passing.call("write", key="k0", wait=False)
    passing.kill()
    until(lambda: len(other.call("members")) == 2)
    stopped.go_on()
    ours.settle([other, stopped])
    assert stopped.call("read_all", keys=KEYS) == [1] + [0] * 11


def test_a_member_that_was_forgotten_hears_on_waking_of_one_that_came_and_went(group: Callable[..., Group]) -> None:
    """It was forgotten by then. So nobody waited for it, and all others had acknowledged."""
    ours = group(lease=LEASE, forget_after=1.5)
    other, stopped = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    _stop_while_current(stopped)
    until(lambda: len(other.call("members")) == 1)
    (passing,) = ours.start(1, join=False)
    passing.call("start")
    ours.settle([other, passing])
    receipt = passing.call("write", key="k0")
    assert receipt["complete"]
    assert receipt["acknowledged"] == [other.call("me")[1]]
    passing.call("close")
    passing.quit()
    stopped.go_on()
    ours.settle([other, stopped])
    assert stopped.call("read_all", keys=KEYS) == [1] + [0] * 11


def test_a_member_that_waits_for_an_answer_while_it_is_stopped_goes_on_where_it_was(
    group: Callable[..., Group],
) -> None:
    """Its own deadlines have passed when it wakes. That must cause no error, and no further wait."""
    ours = group(lease=0.3, fetch_timeout=0.1, load_timeout=0.5)
    writer, stopped = ours.start(2)
    for version in range(1, 4):
        reads = [stopped.send("read", key=key) for key in KEYS]
        looks = [stopped.send(command) for command in ("stats", "members") for _ in range(10)]
        stopped.stop()
        assert writer.call("write", key="k0")["complete"]
        stopped.go_on()
        for future in [*reads, *looks]:
            assert future.result() is not None
        assert stopped.call("read", key="k0") == version
