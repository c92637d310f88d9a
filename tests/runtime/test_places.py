"""Where a group's region lies, and what keeps it from lying there."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from colocache.errors import ConfigError
from colocache.runtime import places
from colocache.runtime.files import largest_file
from colocache.runtime.places import base_directory, directory_name, open_place, room

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm")


@pytest.fixture
def base() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        yield os.path.realpath(path)


def mode(path: str) -> int:
    return os.stat(path).st_mode & 0o777


def of_size(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Have all file systems be of a size, and full."""
    found = os.statvfs("/")
    answer = os.statvfs_result((4096, 4096, size // 4096, 0, 0, *tuple(found)[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: answer)


def is_memory(monkeypatch: pytest.MonkeyPatch, kind: int | None) -> None:
    monkeypatch.setattr(places, "_kind_of", lambda path: kind)


def test_the_setting_wins(base: str) -> None:
    assert base_directory(f"{base}/x") == f"{base}/x"


@linux
@pytest.mark.parametrize("size", [16 << 20, 64 << 20, 0])  # 0: without a limit
def test_the_default_is_in_shared_memory_however_full_that_is(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    is_memory(monkeypatch, 0x01021994)
    of_size(monkeypatch, size)
    assert base_directory(None) == f"/dev/shm/colocache-{os.geteuid()}"


@linux
def test_the_default_is_a_temp_directory_where_shared_memory_is_none_or_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    in_temp = f"{tempfile.gettempdir()}/colocache-{os.geteuid()}"
    is_memory(monkeypatch, 0x01021994)
    of_size(monkeypatch, 8 << 20)
    assert base_directory(None) == in_temp
    of_size(monkeypatch, 64 << 20)
    is_memory(monkeypatch, 0xEF53)  # a directory of the root's file system
    assert base_directory(None) == in_temp
    is_memory(monkeypatch, 0x01021994)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert base_directory(None) == in_temp
    monkeypatch.undo()
    monkeypatch.setattr(places, "SHARED_MEMORY", "/not/there")
    assert base_directory(None) == in_temp


def test_elsewhere_the_default_is_a_temp_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert base_directory(None) == f"{tempfile.gettempdir()}/colocache-{os.geteuid()}"


@linux
def test_without_ctypes_the_table_of_mounts_tells_what_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/mounts").exists():
        pytest.skip("needs /proc")
    known = {path: places._is_tmpfs(path) for path in ("/dev/shm", "/proc", "/not/there")}
    is_memory(monkeypatch, None)
    assert {path: places._is_tmpfs(path) for path in known} == known


def test_both_directories_are_made_for_this_user_alone(base: str) -> None:
    assert open_place("shop", f"{base}/run") == (f"{base}/run", "shop")
    assert (mode(f"{base}/run"), mode(f"{base}/run/shop")) == (0o700, 0o700)
    assert open_place("shop", f"{base}/run") == (f"{base}/run", "shop")


def test_a_directory_is_known_by_its_real_path(base: str) -> None:
    os.mkdir(f"{base}/there", 0o700)
    os.symlink(f"{base}/there", f"{base}/link")
    assert open_place("shop", f"{base}/link/run")[0] == f"{base}/there/run"


def test_a_directory_is_not_a_link_itself(base: str) -> None:
    os.mkdir(f"{base}/there", 0o700)
    os.symlink(f"{base}/there", f"{base}/run")
    with pytest.raises(ConfigError, match="is a symbolic link, not a directory"):
        open_place("shop", f"{base}/run")


@pytest.mark.parametrize(("kind", "name"), [(0x6969, "NFS"), (0xFF534D42, "CIFS"), (0x00C36400, "Ceph")])
def test_a_file_system_of_a_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, base: str, kind: int, name: str
) -> None:
    is_memory(monkeypatch, kind)
    with pytest.raises(ConfigError, match=rf"{base}/run is on a file system of a network \({name}\).*COLOCACHE_DIR"):
        open_place("shop", f"{base}/run")


@pytest.mark.parametrize(("kind", "name"), [(0x9123683E, "btrfs"), (0x2FC12FC1, "ZFS")])
def test_a_file_system_where_a_store_may_need_a_new_block_is_refused(
    monkeypatch: pytest.MonkeyPatch, base: str, kind: int, name: str
) -> None:
    is_memory(monkeypatch, kind)
    with pytest.raises(ConfigError, match=rf"{base}/run is on .* copies what is written \({name}\).*COLOCACHE_DIR"):
        open_place("shop", f"{base}/run")


def test_names_of_groups_tell_them_apart() -> None:
    names = ["shop", "Shop", "a/b", "a b", "ä", "x" * 32, "x" * 33, "x" * 100, ".", "..", "shop~life"]
    assert directory_name("shop") == "shop"
    assert len({directory_name(name).casefold() for name in names}) == len(names)
    assert all("/" not in directory_name(name) and directory_name(name)[0] != "." for name in names)


def test_some_room_is_left_for_others(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    found = os.statvfs(base)
    free = found.f_bavail * found.f_frsize
    assert 0 < room(base) <= max(0, free - (1 << 20)) or free < 2 << 20
    of_size(monkeypatch, 1 << 20)
    assert room(base) == 0
    of_size(monkeypatch, 0)
    assert room(base) > 1 << 50


def test_the_longest_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert largest_file() == sys.maxsize
    monkeypatch.setattr(resource, "getrlimit", lambda which: (5000, resource.RLIM_INFINITY))
    assert largest_file() == 5000
