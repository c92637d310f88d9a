"""The auditor of one cache: how often hits are audited, and what was found. `colocache.operations.audit` does it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

from .core.keys import Key
from .runtime.waiting.answers import Answer

MOST: Final = 100  # differences that are remembered, the last ones
AT_LEAST: Final = 0.1  # s from the end of an audit to the beginning of the next one
REST: Final = 9  # times as long as its loads have taken: audits load for a tenth of the time at most
GRACE: Final = 5.0  # s that an invalidation may come after the change; one of another host may take 3 of them


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that was served, although the source said something else, and nobody had invalidated it."""

    namespace: str  # of the decorated function: where its results are, and its name
    key: Key  # of the call, within that namespace
    age: float  # s since the value was loaded, when it was served
    ttl: float | None  # s; None is for ever. A value may be as old as that on purpose
    found: float  # when, as `time.time` tells it
    cached: str  # the beginning of the value that was served, as Python writes it
    source: str  # the same of the value that the function returns now
    tags: tuple[str, ...]  # an invalidation of the key or of any of these would have been right
    namespaces: tuple[str, ...]  # or `clear` of any of these

    def __str__(self) -> str:
        return f"{self.namespace} {self.key!r}: {self.cached} was served, and the source says {self.source}"


class Job(Protocol):
    """An audit under way."""

    def is_abandoned(self) -> bool:
        """Tell whether it will not come to its end, and cannot say so."""


def wait(seconds: float) -> None:
    """Wait in this thread or greenlet."""
    Answer().result(seconds)


class Auditor:
    """Lets one audit run at a time, and few in a second, and keeps what they find. Any thread may call all methods."""

    def __init__(self, clock: Callable[[], float] = monotonic, wait: Callable[[float], object] = wait) -> None:
        """``clock`` is in seconds, and ``wait`` waits for so many in this thread or greenlet."""
        self.differences: deque[Difference] = deque(maxlen=MOST)
        self.clock = clock
        self.wait = wait
        self._running: dict[int, Job] = {}
        self._next_at = -math.inf

    def is_free(self) -> bool:
        """Tell whether an audit may run now, unless another thread is faster."""
        running = self._running.get(0)
        return self.clock() >= self._next_at if running is None else running.is_abandoned()

    def admits(self, job: Job) -> bool:
        """Have an audit run, if none does. Return whether it may; then it is to call `end`."""
        running = self._running.get(0)
        if running is not None and running.is_abandoned():
            self._running.pop(0, None)
        return self._running.setdefault(0, job) is job

    def end(self, job: Job, took: float) -> None:
        """Let others run after a rest. The loads of the audit took so many seconds."""
        if self._running.get(0) is job:
            self._next_at = self.clock() + max(AT_LEAST, REST * took)
            self._running.pop(0, None)
