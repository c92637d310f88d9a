"""Locks of bytes exclude processes and threads, and nobody waits for long: with real processes and signals."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from colocache.runtime import record_locks
from colocache.runtime.files import Descriptor, Held, open_ours
from colocache.runtime.record_locks import CLAIM_FILES, ClaimLocks, RecordLocks, RingLocks
from tests.runtime.agents import Agent, StartAgent, agents

OTHER = """
from colocache.runtime.files import Descriptor, open_ours
from colocache.runtime.record_locks import *

def open_locks(path):
    global locks, rings, claims
    locks = RecordLocks(Descriptor(open_ours(path)))
    rings = RingLocks(locks, 100, 4)
    claims = ClaimLocks([locks] * CLAIM_FILES)
"""


@pytest.fixture
def agent() -> Iterator[StartAgent]:
    with agents(OTHER) as start:
        yield start


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        yield f"{directory}/locks"


@pytest.fixture
def locks(path: str) -> Iterator[RecordLocks]:
    descriptor = Descriptor(open_ours(path))
    yield RecordLocks(descriptor)
    descriptor.close()


@pytest.fixture
def other(agent: StartAgent, path: str) -> Agent:
    started = agent()
    started("open_locks(path)", path=path)
    return started


@pytest.fixture(params=["ctypes", "fcntl"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "fcntl":
        monkeypatch.setattr(record_locks, "set_lock", record_locks._by_fcntl)


def in_thread(call: Callable[[], object]) -> object:
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join()
    return answers[0]


# One byte


def test_a_byte_is_one_processs_until_it_gives_it_back_or_dies(locks: RecordLocks, other: Agent) -> None:
    assert other("locks.take(7)") is True
    assert not locks.take(7)
    assert locks.take(8)
    assert locks.holder(7) == other.pid
    assert other("locks.holder(8)") == os.getpid()
    other("locks.free(7)")
    assert locks.take(7)
    assert other("locks.take(7)") is False
    locks.free(7)
    assert other("locks.take(7)") is True
    other.kill()
    assert locks.holder(7) is None
    assert locks.take(7)


def test_a_lock_is_waited_for_only_so_long(locks: RecordLocks, other: Agent) -> None:
    assert other("locks.take(7)") is True
    assert not locks.take_soon(7, 0.01)
    timer = threading.Timer(0.05, other.kill)
    timer.start()
    assert locks.take_soon(7, 30.0)
    timer.join()


def test_a_closed_file_is_an_error(path: str) -> None:
    descriptor = Descriptor(open_ours(path))
    locks = RecordLocks(descriptor)
    number = descriptor.number
    os.close(number)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        locks.take(7)
    locks.free(7)
    descriptor.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        locks.take(7)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        locks.holder(7)


@pytest.mark.parametrize("kind", [Descriptor, Held])
def test_a_file_that_was_given_up_is_locked_no_more_though_its_number_is_anothers(
    path: str, tmp_path: Path, kind: type[Descriptor]
) -> None:
    """1. A daemoniser closes all files. 2. The application opens one. 3. This package gives up what it had."""
    descriptor = kind(open_ours(path))
    locks, number = RecordLocks(descriptor), descriptor.number
    assert descriptor.number_if_open == number
    os.close(number)
    if (
        kind is Descriptor
    ):  # this kind is not asked whether it is closed by others, so they must not take its number yet
        descriptor.close()
    another = os.open(tmp_path / "another", os.O_RDWR | os.O_CREAT)
    if another != number:
        os.dup2(another, number)
        os.close(another)
    descriptor.close()
    assert descriptor.number_if_open == -1
    for attempt in (lambda: locks.take(7), lambda: locks.holder(7)):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            attempt()
    os.fstat(number)  # would fail if it were closed
    os.close(number)


def test_offsets_may_have_60_bits(locks: RecordLocks, other: Agent) -> None:
    byte = (1 << 60) - 1
    assert locks.take(byte)
    assert other("locks.take(byte)", byte=byte) is False
    assert other("locks.take(byte - 1)") is True


# Rings


def test_a_ring_is_one_processs(locks: RecordLocks, other: Agent) -> None:
    rings = RingLocks(locks, 100, 4)
    assert rings.lock(1)
    assert other("rings.lock(1)") is False
    assert other("(rings.lock(2), rings.unlock(2))") == (True, None)
    rings.unlock(1)
    assert other("rings.lock(1)") is True
    assert not rings.lock(1)
    other.kill()
    assert rings.lock(1)
    rings.unlock(1)


def test_a_ring_is_waited_for(locks: RecordLocks, other: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_locks, "PATIENCE", 30.0)
    rings = RingLocks(locks, 100, 4)
    other("locks.take(101)")
    other.tell("(time.sleep(0.05), locks.free(101))")
    assert rings.lock(1)
    rings.unlock(1)
    other.answer()


@pytest.mark.parametrize("with_file", [True, False])
def test_a_ring_is_one_threads(locks: RecordLocks, with_file: bool) -> None:
    rings = RingLocks(locks if with_file else None, 100, 4)
    assert rings.lock(1)
    assert not in_thread(lambda: rings.lock(1))
    assert in_thread(lambda: rings.lock(2) and rings.unlock(2) is None)
    rings.unlock(1)
    assert in_thread(lambda: rings.lock(1) and rings.unlock(1) is None)
    assert rings.lock(1)


def test_threads_that_count_under_a_lock_lose_nothing(locks: RecordLocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_locks, "PATIENCE", 30.0)
    rings, counter = RingLocks(locks, 100, 4), [0]

    def work() -> None:
        for _ in range(500):
            assert rings.lock(3)
            counter[0] = (lambda before: before + 1)(counter[0])
            rings.unlock(3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter == [2000]


def test_a_signal_handler_that_interrupts_the_holder_gives_up(locks: RecordLocks) -> None:
    rings, answers = RingLocks(locks, 100, 4), []
    before = signal.signal(signal.SIGUSR1, lambda *_: answers.append(rings.lock(1)))
    try:
        assert rings.lock(1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert answers == [False]
        rings.unlock(1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert answers == [False, True]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_lock_of_a_function_that_was_ended_by_an_exception_is_taken_over(locks: RecordLocks, other: Agent) -> None:
    rings = RingLocks(locks, 100, 4)

    def interrupted() -> None:
        rings.lock(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert other("rings.lock(1)") is False  # this process cannot know
    assert rings.lock(1)
    rings.unlock(1)
    assert other("rings.lock(1)") is True


def test_a_lock_of_a_thread_that_has_ended_is_taken_over(locks: RecordLocks) -> None:
    rings = RingLocks(locks, 100, 4)
    assert in_thread(lambda: rings.lock(1))
    assert rings.lock(1)


def test_an_exception_while_a_lock_is_taken_leaves_nothing_locked(
    locks: RecordLocks, other: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings = RingLocks(locks, 100, 4)
    set_lock = record_locks.set_lock

    def interrupted(descriptor: int, lock: bytes) -> int:
        set_lock(descriptor, lock)
        monkeypatch.setattr(record_locks, "set_lock", set_lock)
        raise KeyboardInterrupt

    monkeypatch.setattr(record_locks, "set_lock", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rings.lock(1)
    assert other("(rings.lock(1), rings.unlock(1))") == (True, None)
    assert rings.lock(1)


def test_closed_rings_give_out_no_locks_and_wait_for_those_in_use(
    locks: RecordLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings = RingLocks(locks, 100, 4)
    has, goes_on, steps = threading.Event(), threading.Event(), []

    def use() -> None:
        assert rings.lock(1)
        has.set()
        goes_on.wait()
        steps.append("used")
        rings.unlock(1)

    user = threading.Thread(target=use)
    user.start()
    has.wait()
    monkeypatch.setattr(record_locks, "PATIENCE", 30.0)
    closer = threading.Thread(target=lambda: (rings.close(), steps.append("closed")))
    closer.start()
    goes_on.set()
    closer.join()
    user.join()
    assert steps == ["used", "closed"]
    assert not rings.lock(0)


def test_rings_whose_file_was_closed_are_not_to_be_had(path: str) -> None:
    descriptor = Descriptor(open_ours(path))
    rings = RingLocks(RecordLocks(descriptor), 100, 4)
    descriptor.close()
    assert not rings.lock(1)


# Claims


@pytest.mark.parametrize("place", [0, 15, 16, (1 << 64) - 1])
def test_a_claim_is_one_processs(locks: RecordLocks, other: Agent, place: int) -> None:
    claims, byte = ClaimLocks([locks] * CLAIM_FILES), place >> 4
    assert locks.holder(byte) is None
    assert other("claims.take(place)", place=place) is True
    assert locks.holder(byte) == other.pid
    assert not claims.take(place)
    assert locks.holder(byte) == other.pid
    assert claims.take(place ^ 16)
    other("claims.free(place)")
    assert locks.holder(byte) is None
    assert claims.take(place)
    assert other("(claims.take(place), locks.holder(place >> 4))") == (False, os.getpid())
    claims.free(place)
    assert other("(locks.holder(place >> 4), claims.take(place))") == (None, True)
    assert locks.holder(byte) == other.pid
    assert claims.is_taken(place)
    other.kill()
    assert locks.holder(byte) is None
    assert not claims.is_taken(place)
    assert claims.take(place)
    assert claims.is_taken(place)


def test_a_process_is_refused_its_own_claim(locks: RecordLocks, other: Agent) -> None:
    for claims, holder in ((ClaimLocks([locks] * CLAIM_FILES), os.getpid()), (ClaimLocks([]), None)):
        assert claims.take(5)
        assert not claims.take(5)
        assert other("locks.holder(5 >> 4)") == holder
        claims.free(5)
        assert other("locks.holder(5 >> 4)") is None
        assert claims.take(5)
        claims.free(5)


def test_claims_of_one_byte_lie_in_different_files(tmp_path: Path, agent: StartAgent) -> None:
    files = [Descriptor(open_ours(f"{tmp_path}/{number}")) for number in range(CLAIM_FILES)]
    claims = ClaimLocks([RecordLocks(file) for file in files])
    for place in range(CLAIM_FILES):  # one and the same byte of each file
        assert claims.take(place)
    other = agent()
    for number in range(CLAIM_FILES):
        other("open_locks(path)", path=f"{tmp_path}/{number}")
        assert other("[locks.holder(byte) for byte in (0, 1)]") == [os.getpid(), None]
        assert other("[claims.take(place) for place in (0, 16)]") == [False, True]
    for file in files:
        file.close()


def test_everybody_may_load_where_claims_do_not_work(path: str) -> None:
    descriptor = Descriptor(open_ours(path))
    claims = ClaimLocks([RecordLocks(descriptor)] * CLAIM_FILES)
    descriptor.close()
    assert claims.take(5)
    assert not claims.take(5)
    claims.free(5)
    assert claims.is_taken(5), "nobody can know"
    assert claims.take(5)
