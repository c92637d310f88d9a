"""Hosts on which something has run out, or is forbidden: the cache says so, and goes on without it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from verification.chaos.group import Group, together, until

KEYS = [f"k{number}" for number in range(12)]


@contextmanager
def _mounted(path: Path, options: str) -> Iterator[bool]:
    """A small file system at ``path``, where this user may make one."""
    path.mkdir(mode=0o700)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "colocache", path], capture_output=True)
    try:
        yield not done.returncode
    finally:
        if not done.returncode:
            subprocess.run(["umount", "-l", path], check=True)


def test_on_a_full_disk_there_is_no_journal_and_a_kill_costs_the_others_what_they_have_cached(
    group: Callable[..., Group],
) -> None:
    ours = group(lease=20.0, fetch_timeout=20.0)
    with _mounted(ours.directory / "c", "size=64k,mode=700") as full:
        workers = ours.start(3, join=False)
        if not full:
            together(workers, "limit_file_size", size=1 << 16)
        together(workers, "start")
        ours.settle()
        assert ours.log().count("no room for the") == 3
        together(workers, "read_all", keys=KEYS)
        for version, worker in enumerate(workers, 1):
            assert worker.call("write", key="k0")["complete"]
            assert together(workers, "read", key="k0") == [version] * 3
        survivors, victim = workers[:2], workers[2]
        victim.kill()
        until(lambda: all(len(view) == 2 for view in together(survivors, "members")))
        assert [stats["resets"] for stats in together(survivors, "stats")] == [1, 1]
        assert survivors[0].call("write", key="k0")["complete"]
        assert together(survivors, "read_all", keys=KEYS) == [[4] + [0] * 11] * 2


def test_a_directory_that_others_may_enter_is_refused_by_name(group: Callable[..., Group]) -> None:
    ours = group()
    (ours.directory / "c").mkdir()
    (ours.directory / "c").chmod(0o755)
    (worker,) = ours.start(1, join=False)
    with pytest.raises(AssertionError, match=f"ConfigError: .*{ours.directory / 'c'} has mode 0755"):
        worker.call("start")
    assert worker.call("driver_threads") == 0
    (ours.directory / "c").chmod(0o700)
    worker.call("start")
    ours.start(1)


def test_a_directory_that_cannot_be_written_to_is_refused_by_name(group: Callable[..., Group]) -> None:
    ours = group()
    with _mounted(ours.directory / "c", "size=64k,mode=700,ro") as read_only:
        if not read_only:
            (ours.directory / "c").chmod(0o500)
        (worker,) = ours.start(1, join=False)
        with pytest.raises(AssertionError, match=f"ConfigError: .*{ours.directory / 'c'}"):
            worker.call("start")


def test_a_member_that_is_short_of_descriptors_leaves_before_libzmq_aborts_it(group: Callable[..., Group]) -> None:
    """Without a free descriptor `accept` fails, and libzmq 4.3.5 calls abort(): a newcomer would kill the member."""
    ours = group(lease=1.0)
    poor, other = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    poor.call("limit_descriptors", room=20)
    until(lambda: len(other.call("members")) == 1)
    ours.start(2, join=False)
    others = ours.workers[1:]
    together(others, "start")
    ours.settle(others)
    for version, worker in enumerate((other, poor), 1):
        worker.call("write", key="k0")  # a process that is not a member cannot tell the others
        assert poor.call("read", key="k0") == version
    assert poor.call("members") == {}
    poor.call("limit_descriptors", room=None)
    until(lambda: poor.call("read", key="k1") == 0 and poor.call("members"))
    ours.settle()
    receipt = others[1].call("write", key="k0")
    assert len(receipt["acknowledged"]) == 3
    assert together(ours.workers, "read_all", keys=KEYS) == [[3] + [0] * 11] * 4


def test_a_process_that_is_short_of_descriptors_loads_for_itself_and_joins_once_it_has_some(
    group: Callable[..., Group],
) -> None:
    ours = group()
    (worker,) = ours.start(1, join=False)
    for room in range(6, 60, 6):
        worker.call("limit_descriptors", room=room)
        with pytest.raises(AssertionError, match="hardly a file descriptor is left"):
            worker.call("start")
        assert worker.call("read", key="k0") == 0
        assert worker.call("driver_threads") == 0
    worker.call("limit_descriptors", room=120)  # for two members, and what a member must have to spare
    worker.call("start")
    ours.start(1)
    assert worker.call("write", key="k0")["complete"]


def test_a_member_that_cannot_connect_to_newcomers_is_behind_and_hears_them_once_it_can(
    group: Callable[..., Group],
) -> None:
    ours = group(lease=1.0)
    poor, other = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    poor.call("refuse_sockets", refuse=True)
    newcomers = ours.start(2, join=False)
    together(newcomers, "start")
    until(lambda: len(poor.call("members")) == 4 and not poor.call("stats")["current"])
    for version, worker in enumerate((other, poor, newcomers[0]), 1):
        worker.call("write", key="k0")
        assert together(ours.workers, "read", key="k0") == [version] * 4
    poor.call("refuse_sockets", refuse=False)
    ours.settle()
    receipt = newcomers[1].call("write", key="k0")
    assert len(receipt["acknowledged"]) == 3
    assert together(ours.workers, "read_all", keys=KEYS) == [[4] + [0] * 11] * 4
