"""Processes that fork: the child joins for itself at its first call, and serves nothing old before. The parent notices
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from verification.chaos.group import Group, together, until

KEYS = [f"k{number}" for number in range(12)]


@pytest.fixture
def ours(group: Callable[..., Group]) -> Group:
    return group(load_timeout=120.0)


def test_a_forked_child_joins_by_itself_and_its_end_harms_nobody(ours: Group) -> None:
    parent, other = ours.start(2)
    together([parent, other], "read_all", keys=KEYS)
    seat, loads = parent.call("seat"), ours.loads()
    child = ours.adopt(lambda: parent.call("fork"))
    assert child.call("members") == {}  # a fork alone joins nothing
    assert len(other.call("members")) == 2
    assert child.call("read", key="k0") == 0
    assert ours.loads() == loads, "it found what was on the shelf"
    ours.settle()
    assert parent.call("seat") == seat
    assert child.call("seat") not in (seat, other.call("seat"))
    for version, worker in enumerate((child, parent, other), 1):
        assert worker.call("write", key="k0")["complete"]
        assert together(ours.living, "read", key="k0") == [version] * 3
    child.quit()
    assert parent.call("reap", pid=child.pid) == 0
    ours.settle()
    assert parent.call("seat") == seat
    assert parent.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [4, 4]


def test_a_forked_child_that_never_uses_the_cache_leaves_no_trace(ours: Group) -> None:
    parent, other = ours.start(2)
    for worker in ours.workers:  # so that both have something to say, and sockets for that
        worker.call("write", key="k1")
    until(lambda: len([name for name in ours.names() if name.endswith(".bus")]) == 2)
    names, members = ours.names(), other.call("members")
    child = ours.adopt(lambda: parent.call("fork"))
    child.quit()
    assert parent.call("reap", pid=child.pid) == 0
    assert ours.names() == names
    assert other.call("members") == members
    assert parent.call("write", key="k0")["complete"]


def test_a_child_lives_on_when_its_parent_is_killed_and_holds_nothing_of_the_parents(ours: Group) -> None:
    parent, other = ours.start(2)
    seat = parent.call("seat")
    child = ours.adopt(lambda: parent.call("fork"))
    child.call("read", key="k0")
    parent.kill()
    assert other.call("write", key="k0")["complete"]
    assert child.call("read", key="k0") == 1
    (successor,) = ours.start(1)
    assert successor.call("seat") == seat


@pytest.mark.parametrize("past_python", [False, True], ids=["", "past Python"])
def test_a_child_that_has_not_called_anything_does_not_keep_its_parents_group_alive(
    ours: Group, past_python: bool
) -> None:
    """Nor does it count as its parent: what it has inherited ends with the parent's group."""
    (parent,) = ours.start(1)
    parent.call("read", key="k0")
    region = parent.call("region")
    child = ours.adopt(lambda: parent.call("fork_past_python" if past_python else "fork"))
    parent.call("close")
    assert ours.names() == set()
    (newcomer,) = ours.start(1, join=False)
    assert newcomer.call("region") != region
    assert newcomer.call("write", key="k0")["complete"]
    assert child.call("hit", key="k0") is None
    assert child.call("read", key="k0") == 1
    assert child.call("region") == newcomer.call("region")


def test_a_grandchild_joins_too(ours: Group) -> None:
    (parent,) = ours.start(1)
    child = ours.adopt(lambda: parent.call("fork"))
    child.call("read", key="k0")
    grandchild = ours.adopt(lambda: child.call("fork"))
    grandchild.call("read", key="k0")
    ours.settle()
    assert grandchild.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [1] * 3


def test_forty_children_at_once_all_join(ours: Group) -> None:
    (parent,) = ours.start(1)
    parent.call("read_all", keys=KEYS)
    children = ours.adopt_all(together([parent] * 40, "fork"))
    assert together(children, "read_all", keys=KEYS) == [[0] * 12] * 40
    assert len(parent.call("members")) == 41
    assert ours.loads() == 12
    assert children[5].call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [1] * 41


def test_a_fork_while_other_threads_are_in_the_middle_of_calls_harms_neither_process(ours: Group) -> None:
    parent, _ = ours.start(2)
    parent.call("begin_reading", keys=KEYS)
    writing = [parent.send("write_each", keys=[key], times=100) for key in KEYS]
    counting = parent.send("count", key="n", times=1000)
    children = []
    for _ in range(8):
        children.append(ours.adopt(lambda: parent.call("fork")))
        children[-1].call("read_all", keys=KEYS)
    for future in writing:
        assert future.result() == {"complete": 100, "incomplete": 0, "errors": []}
    assert together(ours.living, "read_all", keys=KEYS) == [[100] * 12] * 10
    counted = counting.result()
    assert together(ours.living, "get", key="n") == [counted] * 10
    assert children[3].call("write", key="k0")["complete"]
    assert parent.call("read", key="k0") == 101
    assert parent.call("end_reading")["errors"] == []
    for child in children:
        child.quit()
        assert parent.call("reap", pid=child.pid) == 0


def test_a_fork_while_another_thread_joins_or_leaves_harms_neither_process(ours: Group) -> None:
    parent, other = ours.start(2)
    children = ours.adopt_all(parent.call("fork_while_joining", times=12))
    together(children, "read", key="k0")
    ours.settle()
    assert other.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [1] * 14


def test_a_fork_in_a_loader_gives_the_value_to_the_parents_readers_and_harms_neither_process(ours: Group) -> None:
    parent, other = ours.start(2)
    for number, key in enumerate(KEYS[:4], 1):
        ours.adopt(lambda key=key: parent.call("fork_in_a_loader", key=key))  # type: ignore[misc]
        assert ours.loads() == 2 * number  # the child's half of the call has loaded, too
        assert parent.call("read", key=key) == other.call("read", key=key) == 0
        assert ours.loads() == 2 * number
    assert len(other.call("members")) == 2
    together(ours.living, "read", key="k0")
    ours.settle()
    assert parent.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [1] * 6


def test_a_child_that_goes_on_with_an_invalidation_makes_nothing_current_again(ours: Group) -> None:
    """A signal handler forks in the middle of a call, and the child goes on with it.

    1. The parent has drawn the number that a key is stamped with, and forks. It stamps the key, and loads it.
    2. Another process invalidates the key.
    3. The child stamps it with the number of step 1.
    """
    parent, other = ours.start(2)
    child = ours.adopt(lambda: parent.call("fork_before_a_stamp", key="k0"))
    assert together([parent, other], "read", key="k0") == [0, 0]
    assert other.call("write", key="k0")["complete"]
    child.call("go_on")
    assert together([parent, other], "read", key="k0") == [1, 1]
    assert child.call("read", key="k0") == 1


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
    assert len(other.call("members")) == 2
    assert other.call("write", key="k0")["complete"]


def test_workers_forked_from_a_master_that_has_used_the_cache_serve_nothing_that_they_inherited(ours: Group) -> None:
    """As with ``gunicorn --preload``, if the application uses its cache while it is loaded."""
    (master,) = ours.start(1)
    master.call("read_all", keys=KEYS)
    workers = ours.adopt_all(master.call("fork") for _ in range(4))
    assert master.call("write", key="k0")["complete"]
    assert together(workers, "read", key="k0") == [1] * 4
    ours.settle()
    assert workers[0].call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [2] * 5
    workers[1].kill()
    assert master.call("reap", pid=workers[1].pid) == -9
    (replacement,) = ours.adopt_all([master.call("fork")])
    assert replacement.call("read", key="k0") == 2
    assert replacement.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [3] * 5


# --- Past Python's hooks


def test_a_child_of_the_c_library_serves_nothing_old_and_joins_at_its_first_call(ours: Group) -> None:
    parent, other = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    child = ours.adopt(lambda: parent.call("fork_past_python"))
    assert child.call("hit", key="k0") in (0, None)
    assert other.call("write", key="k0")["complete"]
    assert child.call("hit", key="k0") is None
    assert parent.call("set", key="k1", value=7)
    assert child.call("hit", key="k1") is None
    assert other.call("clear")["complete"]
    assert [child.call("hit", key=key) for key in KEYS] == [None] * 12
    assert child.call("read", key="k0") == 1
    assert len(other.call("members")) == 3
    assert child.call("write", key="k0")["complete"]
    assert together(ours.living, "read", key="k0") == [2] * 3
    assert child.call("incr", key="n") == 1
    assert parent.call("incr", key="n") == 2


def test_a_child_of_the_c_library_whose_parent_is_killed_serves_nothing_old(ours: Group) -> None:
    """Although it has everything open that shows that its parent lives, and nobody tells it anything."""
    (parent,) = ours.start(1)
    parent.call("read_all", keys=KEYS)
    child = ours.adopt(lambda: parent.call("fork_past_python"))
    parent.kill()
    (newcomer,) = ours.start(1, join=False)
    assert newcomer.call("write", key="k0")["complete"]
    assert child.call("hit", key="k0") is None
    assert child.call("read", key="k0") == 1
    ours.settle()
    assert child.call("write", key="k0")["complete"]
    assert together([newcomer, child], "read", key="k0") == [2, 2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("fork", ["fork", "fork_past_python"])
def test_a_child_that_becomes_another_user_serves_nothing_of_the_first_users_group(ours: Group, fork: str) -> None:
    """It cannot reach the files that it inherited, so whoever uses the group cannot rely on it."""
    parent, other = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    child = ours.adopt(lambda: parent.call(fork))
    child.call("be_user", uid=65534)
    assert other.call("write", key="k0")["complete"]
    assert child.call("hit", key="k0") is None
    assert child.call("read", key="k0") == 1
    assert child.call("members") == {}, "the directory is another user's"
    assert not child.call("write", key="k1")["complete"]
    assert child.call("read", key="k1") == 1
    assert len(other.call("members")) == 2
    assert other.call("write", key="k1")["complete"]
    assert child.call("read", key="k1") == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_process_that_becomes_another_user_leaves_the_first_users_group(ours: Group) -> None:
    changing, other = ours.start(2)
    together(ours.workers, "read_all", keys=KEYS)
    changing.call("be_user", uid=65534)
    assert other.call("write", key="k0")["complete"]
    assert changing.call("read", key="k0") == 1
    assert changing.call("read", key="k0") == 1
    assert not changing.call("write", key="k1")["complete"]
    assert [changing.call("hit", key=key) for key in KEYS] == [None] * 12
    until(lambda: len(other.call("members")) == 1)
