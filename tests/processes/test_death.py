"""Killed processes: nothing that they have stored or announced is lost, and nobody has to wait or to clean up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ROOT
from verification.chaos.group import Died, Group, Worker, together, until

KEYS = [f"k{number}" for number in range(12)]
MANY = [f"session-{number}" for number in range(2000)]
STEPS = ("locked", "appended", "committed", "stamped")  # of a write: see `Troubles.stop_at`


@pytest.fixture
def ours(group: Callable[..., Group]) -> Group:
    return group(load_timeout=120.0)


def _quit(worker: Worker) -> None:
    worker.quit()
    until(worker.dead.is_set)


def _kill(worker: Worker) -> None:
    worker.kill()


# --- What stays


@pytest.mark.parametrize("end", [_quit, _kill])
def test_a_recycled_worker_of_four_costs_no_session_and_no_load(ours: Group, end: Callable[[Worker], None]) -> None:
    workers = ours.start(4)
    for place, worker in enumerate(workers):
        assert worker.call("set_each", keys=MANY[place::4], value=place) == len(MANY) // 4
    together(workers, "read_all", keys=KEYS)
    loads = ours.loads()
    end(workers[1])
    (successor,) = ours.start(1)
    for worker in (workers[0], workers[2], workers[3], successor):
        found = worker.call("get_many", keys=MANY)
        assert found == {key: number % 4 for number, key in enumerate(MANY)}
        assert worker.call("read_all", keys=KEYS) == [0] * 12
    assert ours.loads() == loads


@pytest.mark.parametrize("end", [_quit, _kill])
def test_what_a_short_script_sets_stays_with_the_others(ours: Group, end: Callable[[Worker], None]) -> None:
    (stayer,) = ours.start(1)
    (script,) = ours.start(1, join=False)
    assert script.call("set", key="k0", value=42)  # its first call
    assert script.call("incr", key="n") == 1
    end(script)
    assert stayer.call("get", key="k0") == 42
    assert stayer.call("incr", key="n") == 2


def test_an_invalidation_holds_that_was_announced_by_a_process_just_before_its_death(ours: Group) -> None:
    *survivors, victim = ours.start(4)
    together(ours.workers, "read_all", keys=KEYS)
    loads = ours.loads()
    with pytest.raises(Died):
        victim.call("write_and_die", key="k0")
    assert together(survivors, "read_all", keys=KEYS) == [[1] + [0] * 11] * 3
    assert ours.loads() == loads + 1


def test_a_death_costs_readers_nothing(ours: Group) -> None:
    workers = ours.start(4)
    survivors, victim = workers[:3], workers[3]
    together(workers, "read_all", keys=KEYS)
    loads = ours.loads()
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
    assert ours.loads() == loads + 1


# --- What they were about


def test_waiters_load_as_soon_as_the_process_that_loads_is_killed(ours: Group) -> None:
    loader, *others = ours.start(3)
    loading = [loader.send("read", key=key, hold=True) for key in KEYS]
    until(lambda: ours.loads() == len(KEYS))
    waiting = [worker.send("read", key=key) for worker in others for key in KEYS]
    together(others, "stats")  # they follow the reads
    assert not any(future.done() for future in waiting)
    loader.kill()
    assert [future.result() for future in waiting] == [0] * len(waiting)
    assert ours.loads() == 2 * len(KEYS)
    for future in loading:
        with pytest.raises(Died):
            future.result()


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_is_killed_in_the_middle_of_a_write_leaves_the_old_value_or_the_new_one(
    ours: Group, step: str
) -> None:
    first, second, victim = ours.start(3)
    together(ours.workers, "read_all", keys=KEYS)
    assert second.call("count", key="n", times=10) == 10
    victim.call("die_at", step=step)
    with pytest.raises(Died):
        victim.call("incr", key="n")
    total = 10 if step in ("locked", "appended") else 11  # from the third step on, others can find it
    assert together([first, second], "get", key="n") in ([total] * 2, [10, total], [total, 10])
    assert first.call("incr", key="n") == total + 1
    assert together([first, second], "get", key="n") == [total + 1] * 2
    assert first.call("set", key="k0", value=100)
    assert second.call("write", key="k1")["complete"]
    assert together([first, second], "read_all", keys=KEYS) == [[100, 1] + [0] * 10] * 2


def test_counters_are_exact_over_many_deaths(ours: Group) -> None:
    (witness,) = ours.start(1)
    least = most = 0
    for number in range(8):
        victim, other = ours.start(2)
        counted = victim.call("count", key="n", times=50) + other.call("count", key="n", times=50)
        victim.call("die_at", step=STEPS[number % 4])
        with pytest.raises(Died):
            victim.call("incr", key="n")
        least, most = least + counted, most + counted + (number % 4 >= 2)
        other.kill()
        assert least <= witness.call("get", key="n") <= most
    assert witness.call("get", key="n") == most


# --- What is left of them


def test_the_seat_of_a_dead_process_goes_to_its_successor(ours: Group) -> None:
    workers = ours.start(3)
    seat = workers[1].call("seat")
    workers[1].kill()
    assert len(workers[0].call("members")) == 2
    (successor,) = ours.start(1)
    assert successor.call("seat") == seat
    assert workers[2].call("write", key="k0")["complete"]


def test_after_all_are_killed_newcomers_begin_anew(ours: Group) -> None:
    old = ours.start(4)
    together(old, "read_all", keys=KEYS)
    region = old[0].call("region")
    for worker in old:
        worker.kill()
    assert "board" in ours.names()
    (lone,) = ours.start(1)
    assert lone.call("region") != region
    assert lone.call("get", key="k0") is None
    assert lone.call("write", key="k0")["complete"]
    assert lone.call("read_all", keys=KEYS) == [1] + [0] * 11
    lone.call("close")
    assert ours.names() == set()


def test_one_death_after_the_other_leaves_a_group_that_works(ours: Group) -> None:
    workers = ours.start(3)
    for version in range(1, 7):
        together(workers, "read", key="k0")
        workers.pop(0).kill()
        workers += ours.start(1)
        assert workers[version % 3].call("write", key="k0")["complete"]
        assert together(workers, "read", key="k0") == [version] * 3
    assert len(set(together(workers, "region"))) == 1


CRASH = """\
import os, signal, colocache
cache = colocache.Cache("crashing")
cache.get_or_load("k", lambda: bytes(100_000))
cache.set("l", bytes(100_000))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_a_crash_loop_leaves_no_more_than_one_crash(run_dir: str, beside: bool) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if beside:
        cache = __import__("colocache").Cache("crashing", directory=run_dir)
        cache.start()
    sizes = []
    for _ in range(12):
        done = subprocess.run([sys.executable, "-c", CRASH], env=environment, timeout=60, capture_output=True)
        assert done.returncode == -9, done.stderr
        names = [path for path in Path(run_dir).rglob("*") if path.is_file()]
        sizes.append((len(names), sum(path.stat().st_blocks for path in names)))
    assert max(sizes) <= (sizes[1][0], 2 * sizes[1][1])
    assert sizes[-1] <= (sizes[2][0], 2 * sizes[2][1])
    if beside:
        assert cache.get("l") == bytes(100_000)
        cache.close()
        assert os.listdir(run_dir) == []
    shutil.rmtree(run_dir)
    os.mkdir(run_dir)
