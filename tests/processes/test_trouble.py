"""Hosts on which something has run out, or is forbidden: the cache says so, and goes on with what there is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from verification.chaos.group import Group, together, until

KEYS = [f"k{number}" for number in range(12)]


@contextmanager
def _mounted(path: Path, options: str) -> Iterator[None]:
    """A small file system at ``path``. Skip the test where this user may not make one."""
    path.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "colocache", path], capture_output=True).returncode:
        pytest.skip("this user may not mount anything")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_on_a_small_file_system_the_shelf_is_smaller_and_says_so(group: Callable[..., Group]) -> None:
    """As in a container, where /dev/shm has 64 MiB."""
    ours = group(shelf="256MiB")
    with _mounted(ours.directory / "c", "size=16m,mode=700"):
        workers = ours.start(3)
        together(workers, "read_all", keys=KEYS)
        for version, worker in enumerate(workers, 1):
            assert worker.call("write", key="k0")["complete"]
            assert together(workers, "read", key="k0") == [version] * 3
        assert "the shelf of this host has" in ours.log()
        assert "--shm-size" in ours.log()
        # More than fits: what is used stays, and nothing fails.
        for number in range(200):
            assert workers[number % 3].call("set_bytes", key=f"large-{number}", size=200_000)
            assert workers[0].call("read", key="k1") == 0
        assert workers[0].call("write", key="k0")["complete"]
        assert together(workers, "read_all", keys=KEYS) == [[4] + [0] * 11] * 3


def test_a_file_system_that_others_fill_makes_the_shelf_stay_as_it_is(group: Callable[..., Group]) -> None:
    ours = group(shelf="32MiB")
    with _mounted(ours.directory / "c", "size=48m,mode=700"):
        workers = ours.start(2)
        together(workers, "read_all", keys=KEYS)
        with pytest.raises(OSError, match="No space left"):
            (ours.directory / "c" / "of others").write_bytes(bytes(48 << 20))
        for number in range(200):  # nobody is killed by a page that is not to be had
            workers[number % 2].call("set_bytes", key=f"large-{number}", size=200_000)
        for version in (1, 2):
            assert workers[version % 2].call("write", key="k0")["complete"]
            assert together(workers, "read", key="k0") == [version] * 2
        assert workers[0].call("set", key="k1", value=7) == (workers[1].call("get", key="k1") == 7)


def test_where_there_is_no_room_at_all_a_process_loads_for_itself_and_says_why(group: Callable[..., Group]) -> None:
    ours = group()
    with _mounted(ours.directory / "c", "size=64k,mode=700"):
        (worker,) = ours.start(1, join=False)
        assert worker.call("read", key="k0") == 0
        assert not worker.call("write", key="k0")["complete"]
        assert worker.call("read", key="k0") == 1
        assert not worker.call("set", key="k0", value=7)
        with pytest.raises(AssertionError, match="there is no room in"):
            worker.call("start")
        assert ours.log().count("cannot join") == 1


def test_where_files_may_not_be_large_enough_the_shelf_is_smaller(group: Callable[..., Group]) -> None:
    ours = group(shelf="64MiB")
    workers = ours.start(2, join=False)
    together(workers, "limit_file_size", size=4 << 20)
    together(workers, "start")
    assert workers[0].call("set", key="k0", value=7)
    assert workers[1].call("get", key="k0") == 7
    assert workers[1].call("write", key="k0")["complete"]
    assert workers[0].call("read", key="k0") == 1


def test_a_directory_that_others_may_enter_is_refused_by_name(group: Callable[..., Group]) -> None:
    ours = group()
    (ours.directory / "c").mkdir()
    (ours.directory / "c").chmod(0o755)
    (worker,) = ours.start(1, join=False)
    with pytest.raises(AssertionError, match=f"ConfigError: .*{ours.directory / 'c'} has mode 0755"):
        worker.call("start")
    assert worker.call("bus_threads") == 0
    (ours.directory / "c").chmod(0o700)
    worker.call("start")
    ours.start(1)


def test_a_directory_that_cannot_be_written_to_is_refused_by_name(group: Callable[..., Group]) -> None:
    ours = group()
    with _mounted(ours.directory / "c", "size=64k,mode=700,ro"):
        (worker,) = ours.start(1, join=False)
        with pytest.raises(AssertionError, match=f"ConfigError: .*{ours.directory / 'c'}"):
            worker.call("start")
        assert worker.call("read", key="k0") == 0
        assert not worker.call("write", key="k0")["complete"]


def test_a_process_that_runs_out_of_descriptors_goes_on(group: Callable[..., Group]) -> None:
    ours = group()
    poor, other = ours.start(2)
    together(ours.workers, "write", key="k1")
    until(lambda: len(list(ours.files.glob("*.bus"))) == 2)
    poor.call("limit_descriptors", room=4)
    newcomers = ours.start(2, join=False)
    together(newcomers, "start")
    for version, worker in enumerate((other, poor, newcomers[0]), 1):
        assert worker.call("write", key="k0")["complete"]
        assert together(ours.workers, "read", key="k0") == [version] * 4
    for number in range(50):
        poor.call("write", key=f"k{2 + number % 8}")
    assert poor.call("set", key="k0", value=7)
    assert together(ours.workers, "get", key="k0") == [7] * 4
    poor.call("limit_descriptors", room=None)
    assert len(other.call("members")) == 4


def test_a_process_without_descriptors_loads_for_itself_and_joins_once_it_has_some(
    group: Callable[..., Group],
) -> None:
    ours = group()
    (worker,) = ours.start(1, join=False)
    worker.call("limit_descriptors", room=3)
    assert worker.call("read", key="k0") == 0
    assert not worker.call("write", key="k0")["complete"]
    with pytest.raises(AssertionError, match="Too many open files"):
        worker.call("start")
    worker.call("limit_descriptors", room=None)
    worker.call("start")
    ours.start(1)
    assert worker.call("write", key="k0")["complete"]
    assert together(ours.workers, "read", key="k0") == [2, 2]
