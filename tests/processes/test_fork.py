"""Processes that fork: the child is a member of its own from its first call on. The parent notices nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from verification.chaos.group import Group, Worker, together, until

KEYS = [f"k{number}" for number in range(12)]


@pytest.fixture
def ours(group: Callable[..., Group]) -> Group:
    return group(lease=20.0, fetch_timeout=20.0)


def _resets(workers: list[Worker]) -> list[int]:
    return [stats["resets"] for stats in together(workers, "stats")]


def test_a_forked_child_joins_by_itself_and_its_end_harms_nobody(ours: Group) -> None:
    parent, other = ours.start(2)
    together([parent, other], "read_all", keys=KEYS)
    before, resets = parent.call("me"), _resets([parent, other])
    child = ours.adopt(lambda: parent.call("fork"))
    assert child.call("members") == {}  # a fork alone joins nothing
    assert len(other.call("members")) == 2
    assert child.call("read", key="k0") == 0
    ours.settle()
    assert parent.call("me") == before
    assert child.call("me")[1] not in (before[1], other.call("me")[1])
    for version, worker in enumerate((child, parent, other), 1):
        assert worker.call("write", key="k0")["complete"]
        assert together(ours.living, "read", key="k0") == [version] * 3
    child.quit()
    assert parent.call("reap", pid=child.pid) == 0
    ours.settle()
    assert parent.call("me") == before
    assert parent.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [4, 4]
    assert _resets([parent, other]) == resets


def test_a_forked_child_that_never_uses_the_cache_leaves_no_trace(ours: Group) -> None:
    parent, other = ours.start(2)
    names, descriptors = ours.names(), parent.call("open_files")
    child = ours.adopt(lambda: parent.call("fork"))
    child.quit()
    assert parent.call("reap", pid=child.pid) == 0
    assert ours.names() == names
    assert parent.call("open_files") == descriptors
    assert parent.call("write", key="k0")["acknowledged"] == [other.call("me")[1]]


def test_a_child_lives_on_when_its_parent_is_killed_and_holds_nothing_of_the_parents(ours: Group) -> None:
    parent, other = ours.start(2)
    seat = parent.call("me")[1]
    child = ours.adopt(lambda: parent.call("fork"))
    child.call("read", key="k0")
    ours.settle()
    parent.kill()
    receipt = other.call("write", key="k0")
    assert receipt["complete"]
    assert receipt["waited_out"] == []
    assert child.call("read", key="k0") == 1
    (successor,) = ours.start(1)
    assert successor.call("me")[1] == seat


def test_a_grandchild_is_a_member_too(ours: Group) -> None:
    (parent,) = ours.start(1)
    child = ours.adopt(lambda: parent.call("fork"))
    child.call("read", key="k0")
    grandchild = ours.adopt(lambda: child.call("fork"))
    grandchild.call("read", key="k0")
    ours.settle()
    assert grandchild.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [1] * 3


def test_many_children_at_once_all_join(ours: Group) -> None:
    (parent,) = ours.start(1)
    children = ours.adopt_all(together([parent] * 8, "fork"))
    together(children, "read_all", keys=KEYS)
    ours.settle()
    assert len(set(parent.call("members").values())) == 9
    assert children[5].call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [1] * 9


def test_a_fork_while_other_threads_are_in_the_middle_of_calls_harms_neither_process(ours: Group) -> None:
    parent, other = ours.start(2)
    resets = _resets([parent, other])
    parent.call("begin_reading", keys=KEYS)
    writing = [parent.send("write_each", keys=[key], times=100) for key in KEYS]
    children = []
    for _ in range(8):
        children.append(ours.adopt(lambda: parent.call("fork")))
        children[-1].call("read_all", keys=KEYS)
    for future in writing:
        assert future.result() == {"complete": 100, "incomplete": 0, "errors": []}
    ours.settle()
    assert together(ours.living, "read_all", keys=KEYS) == [[100] * 12] * 10
    assert children[3].call("write", key="k0")["complete"]
    assert parent.call("read", key="k0") == 101
    assert parent.call("end_reading")["errors"] == []
    for child in children:
        child.quit()
        assert parent.call("reap", pid=child.pid) == 0
    assert _resets([parent, other]) == resets


def test_a_fork_while_another_thread_joins_or_leaves_harms_neither_process(ours: Group) -> None:
    parent, other = ours.start(2)
    children = ours.adopt_all(parent.call("fork_while_joining", times=12))
    together(children, "read", key="k0")
    ours.settle()
    assert other.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [1] * 14


def test_a_fork_in_a_loader_gives_the_value_to_the_parents_readers_and_harms_neither_process(ours: Group) -> None:
    parent, other = ours.start(2)
    for number, key in enumerate(KEYS[:4], 1):  # so that each of the two members owns one key
        ours.adopt(lambda key=key: parent.call("fork_in_a_loader", key=key))  # type: ignore[misc]
        assert ours.loads() == 2 * number  # the child's half of the call has loaded, too
        assert parent.call("read", key=key) == other.call("read", key=key) == 0
        assert ours.loads() == 2 * number
    assert len(other.call("members")) == 2
    together(ours.living, "read", key="k0")
    ours.settle()
    assert parent.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [1] * 6


def test_processes_of_multiprocessing_that_are_forked_join(ours: Group) -> None:
    parent, other = ours.start(2)
    children = ours.adopt_all(parent.call("multiprocess") for _ in range(3))
    together(children, "read", key="k0")
    ours.settle()
    assert children[0].call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [1] * 5
    for child in children:
        child.quit()
        assert parent.call("reap", pid=child.pid) == 0
    until(lambda: len(other.call("members")) == 2)
    assert other.call("write", key="k0")["complete"]


def test_workers_forked_from_a_master_that_has_used_the_cache_serve_nothing_that_they_inherited(ours: Group) -> None:
    """As with ``gunicorn --preload``, if the application uses its cache while it is loaded."""
    (master,) = ours.start(1)
    master.call("read_all", keys=KEYS)
    workers = ours.adopt_all(master.call("fork") for _ in range(4))
    assert master.call("write", key="k0")["complete"]  # nobody but the master can hear this
    assert together(workers, "read", key="k0") == [1] * 4
    ours.settle()
    assert workers[0].call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [2] * 5
    workers[1].kill()
    assert master.call("reap", pid=workers[1].pid) == -9
    (replacement,) = ours.adopt_all([master.call("fork")])
    replacement.call("read", key="k0")
    ours.settle()
    assert replacement.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [3] * 5
