"""Processes without trouble: what one stores, counts or invalidates is so for all at once. Strangers do no harm."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from colocache.runtime import frames
from verification.chaos.group import Group, together, until

PATIENT = {"load_timeout": 120.0}  # s; nobody loads because another one is slow on a busy machine


@pytest.mark.parametrize(("threads", "waves"), [(100, 1), (25, 4)])
def test_four_hundred_misses_of_a_key_in_four_processes_are_one_load(
    group: Callable[..., Group], threads: int, waves: int
) -> None:
    ours = group(**PATIENT)
    workers = ours.start(4)
    for wave in range(waves):
        for versions in together(workers, "read_in_threads", key=f"k{wave}", threads=threads):
            assert versions == [0] * threads
    assert ours.loads() == waves


def test_what_one_process_invalidates_all_read_anew(group: Callable[..., Group]) -> None:
    ours = group(**PATIENT)
    workers = ours.start(4)
    for version in range(1, 5):
        together(workers, "read", key="k0")
        assert workers[version % 4].call("write", key="k0")["complete"]
        assert together(workers, "read", key="k0") == [version] * 4
    assert ours.loads() == 5


def test_a_receipt_says_how_many_processes_it_speaks_of(group: Callable[..., Group]) -> None:
    ours = group(**PATIENT)
    first, *others = workers = ours.start(3)
    together(workers, "read", key="k0")
    assert first.call("write", key="k0")["processes"] == 3
    others[0].kill()
    until(lambda: first.call("write", key="k0")["processes"] == 2, "it is noticed that one was killed")


def test_what_one_process_sets_all_read_at_once(group: Callable[..., Group]) -> None:
    workers = group(**PATIENT).start(4)
    for number, worker in enumerate(workers):
        assert worker.call("set", key="k0", value=100 + number)
        assert together(workers, "get", key="k0") == [100 + number] * 4
        assert together(workers, "get_many", keys=["k0", "k1"]) == [{"k0": 100 + number}] * 4


def test_what_any_process_has_found_before_is_kept_near_at_the_first_read(group: Callable[..., Group]) -> None:
    """Whoever set it has not found it."""
    one, other, third = group(**PATIENT).start(3)
    assert one.call("set", key="k0", value=7)
    assert other.call("get", key="k0") == 7
    assert other.call("stats")["entries"] == 0
    for worker in (third, one):
        assert [worker.call("get", key="k0") for _ in range(2)] == [7, 7]
        stats = worker.call("stats")
        assert (stats["entries"], stats["fetches"], stats["hits"]) == (1, 1, 1)
    assert [other.call("get", key="k0") for _ in range(2)] == [7, 7]
    stats = other.call("stats")
    assert (stats["entries"], stats["fetches"], stats["hits"]) == (1, 2, 1)


def test_processes_that_count_at_once_lose_no_count(group: Callable[..., Group]) -> None:
    workers = group(**PATIENT).start(4)
    counted = together(workers, "count", key="n", times=500)
    assert min(counted) > 0
    assert together(workers, "get", key="n") == [sum(counted)] * 4


def test_of_processes_that_add_at_once_one_does(group: Callable[..., Group]) -> None:
    workers = group(**PATIENT).start(4)
    for number in range(20):
        added = [worker.send("add", key=f"k{number}", value=place) for place, worker in enumerate(workers)]
        results = [future.result() for future in added]
        assert sum(results) == 1
        assert together(workers, "get", key=f"k{number}") == [results.index(True)] * 4


def test_a_tag_reaches_the_entries_that_carry_it_in_all_processes_and_no_others(group: Callable[..., Group]) -> None:
    ours = group(**PATIENT)
    workers = ours.start(3)
    for key, tags in (("k0", ["red"]), ("k1", ["red", "blue"]), ("k2", ["blue"]), ("k3", [])):
        together(workers, "read", key=key, tags=tags)
    before = ours.loads()
    assert workers[0].call("invalidate_tags", tag="red")["complete"]
    for key, tags in (("k0", ["red"]), ("k1", ["red", "blue"]), ("k2", ["blue"]), ("k3", [])):
        together(workers, "read", key=key, tags=tags)
    assert (ours.directory / "loads").read_text().split()[before:] == ["k0", "k1"]


def test_clearing_a_namespace_clears_those_below_it_in_all_processes_and_no_others(
    group: Callable[..., Group],
) -> None:
    ours = group(**PATIENT)
    workers = ours.start(3)
    spaces = ("", "users", "users/names", "orders")
    for space in spaces:
        together(workers, "read", key="k0", space=space)
    before = ours.loads()
    assert workers[2].call("clear", space="users")["complete"]
    for space in spaces:
        together(workers, "read", key="k0", space=space)
    assert ours.loads() == before + 2
    assert workers[1].call("clear")["complete"]
    for space in spaces:
        together(workers, "read", key="k0", space=space)
    assert ours.loads() == before + 2 + 4


def test_a_thousand_invalidations_from_four_processes_at_once_are_all_complete(group: Callable[..., Group]) -> None:
    ours = group(**PATIENT)
    workers = ours.start(4)
    keys = [f"k{number}" for number in range(40)]
    together(workers, "read_all", keys=keys)
    writing = [worker.send("write_each", keys=keys[place::4], times=25) for place, worker in enumerate(workers)]
    for future in writing:
        assert future.result() == {"complete": 250, "incomplete": 0, "errors": []}
    for versions in together(workers, "read_all", keys=keys):
        assert versions == [25] * 40


def test_sixteen_processes_that_join_at_once_become_one_group(group: Callable[..., Group]) -> None:
    ours = group()
    workers = ours.start(16)
    (view,) = {tuple(view.items()) for view in together(workers, "members")}
    assert sorted(map(int, dict(view))) == list(range(16))
    assert set(dict(view).values()) == {worker.pid for worker in workers}
    assert len(set(together(workers, "region"))) == 1
    assert workers[7].call("write", key="k0")["complete"]


# --- Strangers


def test_garbage_on_every_socket_harms_nobody(group: Callable[..., Group]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    ours = group(**PATIENT)
    workers = ours.start(2)
    together(workers, "read", key="k0")
    until(lambda: len(list(ours.files.glob("*.bus"))) == 2)
    for worker in workers:
        worker.call("begin_reading", keys=["k0"])
    for path in ours.files.glob("*.bus"):
        _shout(path, dice)
    until(lambda: all(bad >= 20 for bad in together(workers, "bad_frames")))
    assert workers[0].call("write", key="k0")["complete"]
    assert together(workers, "read", key="k0") == [1, 1]
    for worker in workers:
        assert worker.call("end_reading")["errors"] == []
        assert len(worker.call("members")) == 2


def _shout(path: Path, dice: random.Random) -> None:
    """Send noise, as fast as it is taken."""
    event = frames.encode(frames.KEYS, 1, 1, frames.array("Q", (1, 2)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.connect(str(path))
        for _ in range(20):
            ours.send(b"")
            ours.send(dice.randbytes(dice.randrange(1, 200)))
            for noise in (event[: dice.randrange(len(event))], event + b"x", event):
                ours.send(noise)


def test_files_of_strangers_in_the_directory_harm_nobody_and_go_with_the_last_process(
    group: Callable[..., Group],
) -> None:
    ours = group(**PATIENT)
    workers = ours.start(2)
    for name in ("claims.99", "board.old", "core"):
        (ours.files / name).write_bytes(b"noise")
    assert workers[0].call("write", key="k0")["complete"]
    (newcomer,) = ours.start(1)
    assert newcomer.call("read", key="k0") == 1
    together(ours.workers, "close")
    assert ours.names() == set()
