"""The locks of lanes are not lost, not even where record locks are: with real processes, forks and descriptors."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest

from colocache.core.hosts.layout import LANES
from colocache.runtime import record_locks
from colocache.runtime.files import Held, open_ours
from colocache.runtime.record_locks import OpenFileLocks, RingLocks, lane_locks
from tests.runtime.agents import Agent, StartAgent, agents

OTHER = """
from colocache.runtime import record_locks
from colocache.runtime.files import Held, open_ours
from colocache.runtime.record_locks import *

def open_lanes(path):
    global held, lanes, locks
    held = Held(open_ours(path))
    lanes = lane_locks(held)
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="there are only record locks")


@pytest.fixture
def agent() -> Iterator[StartAgent]:
    with agents(OTHER) as start:
        yield start


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        yield f"{directory}/hosts"


@pytest.fixture
def held(path: str) -> Iterator[Held]:
    held = Held(open_ours(path))
    yield held
    held.close()


@pytest.fixture
def lanes(held: Held) -> RingLocks:
    return lane_locks(held)


@pytest.fixture
def other(agent: StartAgent, path: str) -> Agent:
    started = agent()
    started("open_lanes(path)", path=path)
    return started


@pytest.fixture(params=["ctypes", "fcntl", "no such locks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "fcntl":
        slow = record_locks.partial(record_locks._by_fcntl, command=record_locks._OPEN_FILE)
        monkeypatch.setattr(record_locks, "set_open_file_lock", slow)
    elif request.param == "no such locks":
        monkeypatch.setattr(record_locks, "set_open_file_lock", lambda descriptor, lock: errno.EINVAL)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_a_lane_is_one_processs_until_it_gives_it_back_or_dies(lanes: RingLocks, other: Agent) -> None:
    assert lanes.lock(1)
    assert other("lanes.lock(1)") is False
    assert other("(lanes.lock(2), lanes.unlock(2))") == (True, None)
    lanes.unlock(1)
    assert other("lanes.lock(1)") is True
    assert not lanes.lock(1)
    assert lanes.lock(LANES - 1)
    other.send(signal.SIGSTOP)
    assert not lanes.lock(1)
    other.kill()
    assert lanes.lock(1)


@pytest.mark.parametrize("mine", [True, False])
def test_both_kinds_of_locks_exclude_each_other(
    lanes: RingLocks, other: Agent, monkeypatch: pytest.MonkeyPatch, mine: bool
) -> None:
    """One process may be refused the better kind, by a filter of system calls."""
    if mine:
        monkeypatch.setattr(record_locks, "set_open_file_lock", lambda descriptor, lock: errno.EINVAL)
    else:
        other("setattr(record_locks, 'set_open_file_lock', lambda descriptor, lock: 22)")
    assert lanes.lock(0)
    assert other("lanes.lock(0)") is False
    assert other("lanes.lock(1)") is True
    assert not lanes.lock(1)


@linux
def test_a_lock_outlives_other_descriptors_of_the_file(lanes: RingLocks, other: Agent, path: str) -> None:
    assert lanes.lock(1)
    os.close(os.open(path, os.O_RDWR))
    assert other("lanes.lock(1)") is False


@linux
def test_a_process_excludes_itself_by_two_open_files(lanes: RingLocks, path: str) -> None:
    second = Held(open_ours(path))
    try:
        assert lanes.lock(1)
        assert not lane_locks(second).lock(1)
    finally:
        second.close()


@pytest.mark.parametrize("fork", ["os.fork", "fork_past_python"])
def test_a_child_neither_shares_nor_loses_its_parents_lock(lanes: RingLocks, other: Agent, fork: str) -> None:
    other("names.__setitem__('has', lanes._locks.attempt(lanes._taking[1]))")
    other(f"go_on_in_child({fork})")
    assert other("lanes.lock(1)") is False  # though for the kernel it is its own
    other("(lanes.unlock(1), lanes._free(1)) and None")
    assert not lanes.lock(1)
    assert other("(open_lanes(path), lanes.lock(2))") == (None, True)
    assert not lanes.lock(2)


@pytest.mark.parametrize("closed", [True, False])
def test_a_lock_of_a_file_that_was_closed_is_not_to_be_had(held: Held, path: str, closed: bool) -> None:
    """1. A daemoniser closes all files. 2. The application opens one, which gets the number. Nobody is excluded."""
    locks, number = OpenFileLocks(held), held.number
    os.close(number)
    if not closed:
        another = os.open(f"{path}.another", os.O_RDWR | os.O_CREAT)
        os.dup2(another, number)
        os.close(another)
    lanes = RingLocks(locks, 0, LANES)
    assert not lanes.lock(1)
    held.close()
    assert not lanes.lock(1)
    if not closed:
        os.close(number)
