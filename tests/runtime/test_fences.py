"""Each machine gets fences that are some for it. What they do to memory cannot be seen from Python on x86."""

from __future__ import annotations

import fcntl
import platform
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from colocache.core.host import memory
from colocache.runtime import fences
from colocache.runtime.fences import LockedInstruction, SystemCall, fences_for
from colocache.runtime.files import Descriptor, flock, open_ours
from colocache.runtime.record_locks import RecordLocks

X86_64 = 324  # what membarrier(2) is on x86, where it is not used


@pytest.fixture
def locks(tmp_path: Path) -> Iterator[RecordLocks]:
    descriptor = Descriptor(open_ours(f"{tmp_path}/locks"))
    yield RecordLocks(descriptor)
    descriptor.close()


def made(found: memory.Fences) -> str:
    """Make both fences, and say of which kind they are."""
    found.order()
    found.full()
    return type(found).__name__


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "i686"])
def test_x86_needs_a_locked_instruction_only(monkeypatch: pytest.MonkeyPatch, locks: RecordLocks, machine: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert made(fences_for(locks, 5)) == made(fences_for(None, 5)) == "LockedInstruction"


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="needs a number of membarrier(2) that is right"
)
def test_other_machines_ask_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setitem(fences._MEMBARRIER, "aarch64", X86_64)
    assert made(fences_for(None, 5)) == "SystemCall"


def test_without_membarrier_a_byte_is_locked_and_unlocked(monkeypatch: pytest.MonkeyPatch, locks: RecordLocks) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "another")
    asked: list[object] = []
    monkeypatch.setattr(locks, "attempt", asked.append)
    assert made(fences_for(locks, 5)) == "SystemCall"
    assert asked == 2 * [flock(fcntl.F_WRLCK, 5), flock(fcntl.F_UNLCK, 5)]


def test_a_fence_by_a_file_that_was_closed_raises_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "another")
    descriptor = Descriptor(open_ours(f"{tmp_path}/locks"))
    found = fences_for(RecordLocks(descriptor), 5)
    descriptor.close()
    assert made(found) == "SystemCall"


def test_a_private_cache_needs_no_file_for_its_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "another")
    assert isinstance(fences_for(None, 5), LockedInstruction)


def test_a_fence_may_be_made_in_a_signal_handler_that_interrupts_one() -> None:
    found = LockedInstruction()
    made_there: list[None] = []
    before = signal.signal(signal.SIGVTALRM, lambda *_: made_there.append(found.full()))
    signal.setitimer(signal.ITIMER_VIRTUAL, 1e-4, 1e-4)
    try:
        while len(made_there) < 50:
            found.full()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_the_call_is_made_each_time() -> None:
    calls: list[int] = []
    found = SystemCall(lambda: calls.append(1))
    found.order()
    found.full()
    assert len(calls) == 2
