"""What the processes of a group must agree on stands in their memory. Who differs is told, and serves nothing old."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from colocache.runtime import board_file
from verification.chaos.group import Group, together

KEYS = [f"k{number}" for number in range(12)]


def test_processes_with_other_sizes_and_times_are_one_group(group: Callable[..., Group]) -> None:
    ours = group()
    workers = ours.start(1, shelf="8MiB", memory="8MiB", load_timeout=60.0)
    workers += ours.start(1, shelf="2MiB", memory="64MiB", load_timeout=1.0, policy="lru", ttl=5)
    assert len(set(together(workers, "region"))) == 1
    for version in (1, 2):
        together(workers, "read_all", keys=KEYS)
        for worker in workers:
            assert worker.call("write", key=f"k{version}")["complete"]
        assert together(workers, "read", key=f"k{version}") == [2, 2]
    assert "COLOCACHE_SHELF=8388608" in ours.log()


def test_a_process_of_another_layout_joins_nobody_and_says_so(group: Callable[..., Group]) -> None:
    """As while a new version of the package is rolled out."""
    ours = group()
    workers = ours.start(2)
    together(workers, "read_all", keys=KEYS)
    (newer,) = ours.start(1, join=False)
    newer.call("have_layout", layout=999)
    with pytest.raises(AssertionError, match=f"whose memory has layout {board_file.LAYOUT}, and"):
        newer.call("start")
    assert newer.call("read", key="k0") == 0
    assert newer.call("members") == {}
    assert not newer.call("write", key="k0")["complete"], "the others may serve the old value, and cannot be told"
    assert newer.call("read", key="k0") == 1
    assert not newer.call("set", key="k1", value=7)
    assert together(workers, "read", key="k1") == [0, 0]
    assert workers[0].call("write", key="k2")["complete"]
    assert newer.call("read", key="k2") == 1
    assert together(workers, "read", key="k2") == [1, 1]
    for worker in workers:
        worker.kill()
    newer.call("start")  # nobody of the older ones is left
    assert newer.call("write", key="k0")["complete"]


def test_groups_of_one_user_have_nothing_to_do_with_each_other(group: Callable[..., Group]) -> None:
    ours = group()
    (shop,) = ours.start(1)
    (blog,) = ours.start(1, join=False, group="blog")
    assert shop.call("set", key="k0", value=7)
    assert blog.call("get", key="k0") is None
    assert blog.call("clear")["complete"]
    assert shop.call("get", key="k0") == 7
    assert [len(worker.call("members")) for worker in (shop, blog)] == [1, 1]
