"""Processes that are stopped, anywhere, and go on: they delay nobody but who waits for a load, and serve nothing old.

What a test is given while a process is stopped, was not waited for.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from verification.chaos.group import Group, together, until

KEYS = [f"k{number}" for number in range(12)]
STEPS = ("locked", "appended", "committed", "stamped")  # of a write: see `Troubles.stop_at`


@pytest.fixture
def ours(group: Callable[..., Group]) -> Group:
    return group(load_timeout=120.0)


def test_a_stopped_process_delays_no_invalidation_and_serves_nothing_old_when_it_goes_on(ours: Group) -> None:
    first, second, stopped = ours.start(3)
    together(ours.workers, "read_all", keys=KEYS)
    stopped.stop()
    for worker, key in ((first, "k0"), (second, "k1"), (first, "k2")):
        assert worker.call("write", key=key)["complete"]
    assert first.call("set", key="k3", value=7)
    assert first.call("clear", space="other")["complete"]
    assert second.call("read_all", keys=KEYS) == [1, 1, 1, 7] + [0] * 8
    stopped.go_on()
    assert stopped.call("read_all", keys=KEYS) == [1, 1, 1, 7] + [0] * 8


def test_a_process_that_goes_on_serves_nothing_old_to_reads_that_were_under_way(ours: Group) -> None:
    writer, stopped = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    stopped.call("begin_reading", keys=KEYS)  # it reads when it is stopped, and so it reads first when it goes on
    acknowledged: dict[str, int] = {}
    for key in KEYS[:3]:
        before = stopped.call("reads_so_far")
        until(lambda before=before: stopped.call("reads_so_far") > before + 100)  # type: ignore[misc]
        stopped.stop()
        receipt = writer.call("write", key=key)
        assert receipt["complete"]
        acknowledged[key] = receipt["returned"]
        queued = [stopped.send("read", key=key) for _ in range(20)]
        stopped.go_on()
        assert [future.result() for future in queued] == [1] * 20
    reading = stopped.call("end_reading")
    assert reading["errors"] == []
    for key, returned in acknowledged.items():
        assert reading["latest"][key]["0"] <= returned


@pytest.mark.parametrize("ends", ["closed", "killed"])
def test_a_process_that_goes_on_has_missed_nothing_of_one_that_came_and_went(ours: Group, ends: str) -> None:
    other, stopped = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    stopped.stop()
    (passing,) = ours.start(1, join=False)
    assert passing.call("write", key="k0")["complete"]
    if ends == "closed":
        passing.call("close")
        passing.quit()
    else:
        passing.kill()
    stopped.go_on()
    assert together([other, stopped], "read_all", keys=KEYS) == [[1] + [0] * 11] * 2


def test_a_process_that_is_stopped_while_it_joins_hinders_those_who_are_there_in_nothing(ours: Group) -> None:
    workers = ours.start(2)
    together(workers, "read_all", keys=KEYS)
    (joining,) = ours.start(1, join=False)
    joining.call("stop_while_joining", step="alive")
    starting = joining.send("start")
    joining.await_stop()
    assert workers[0].call("write", key="k0")["complete"]
    assert workers[0].call("set", key="k1", value=7)
    assert together(workers, "read_all", keys=KEYS) == [[1, 7] + [0] * 10] * 2
    joining.go_on()
    starting.result()
    assert joining.call("read_all", keys=KEYS) == [1, 7] + [0] * 10


# --- Inside a write


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_is_stopped_in_the_middle_of_a_write_delays_nobody(ours: Group, step: str) -> None:
    """It has the lock of the ring, of which there is one here.

    Others read; they write nothing, and say so at once; what they could not write is invalidated; and invalidations are
    complete.
    """
    first, second, stopped = ours.start(3)
    together(ours.workers, "read_all", keys=KEYS)
    assert first.call("count", key="n", times=10) == 10
    assert together(ours.workers, "get", key="n") == [10] * 3
    stopped.call("stop_at", step=step)
    writing = stopped.send("set", key="k0", value=100)
    stopped.await_stop()

    # Reads: near, from the shelf, and by a loader whose value nobody can store.
    assert first.call("read_all", keys=KEYS)[1:] == [0] * 11
    assert second.call("read", key="k0") in ((0,) if step in ("locked", "appended") else (0, 100))
    assert together([first, second], "get", key="n") == [10, 10]
    assert first.call("read", key="k40") == 0
    # Writes.
    assert first.call("set", key="k1", value=200) is False
    assert second.call("get", key="k1") is None
    assert second.call("read", key="k1") == 0
    assert first.call("add", key="k41", value=1) is False
    assert second.call("incr", key="n") is None
    assert second.call("get", key="n") == 10
    assert first.call("stats")["busy"] >= 3
    # Invalidations.
    for worker, key in ((first, "k2"), (second, "k3")):
        assert worker.call("write", key=key)["complete"]
    assert first.call("write", key="k0")["complete"]
    assert together([first, second], "read_all", keys=KEYS) == [[1, 0, 1, 1] + [0] * 8] * 2

    stopped.go_on()
    assert writing.result()
    # What it had begun to write before k0 was invalidated is void, too. At the first step it has begun nothing.
    value = 100 if step == "locked" else 1
    assert together(ours.workers, "read_all", keys=KEYS) == [[value, 0, 1, 1] + [0] * 8] * 3
    assert first.call("incr", key="n") == 11
    assert first.call("set", key="k1", value=300)
    assert together(ours.workers, "get", key="k1") == [300] * 3


# --- Inside a load


def test_who_waits_for_the_load_of_a_stopped_process_loads_when_its_own_time_is_over(
    group: Callable[..., Group],
) -> None:
    ours = group(load_timeout=0.5)
    stopped, *others = ours.start(3)
    loading = stopped.send("read", key="k0", hold=True)
    until(lambda: ours.loads() == 1)
    stopped.stop()
    assert together(others, "read", key="k0") == [0, 0]
    assert together(others, "read", key="k0") == [0, 0], "one of them has stored it"
    assert 2 <= ours.loads() <= 3
    stopped.go_on()
    stopped.call("release")
    assert loading.result() == 0
    assert others[0].call("write", key="k0")["complete"]
    assert together(ours.workers, "read", key="k0") == [1] * 3


def test_a_miss_that_nobody_else_wants_waits_for_no_stopped_process(ours: Group) -> None:
    reader, *stopped = ours.start(3)
    for worker in stopped:
        worker.stop()
    assert reader.call("read_all", keys=KEYS) == [0] * 12
    assert reader.call("stats")["fallbacks"] == 0
