"""The judge of the demo: is an answer as new as the writes that were acknowledged before its request was sent?"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stale:
    """An answer that broke the promise: ``page`` was ``shown`` in an older version than the ``acknowledged`` one."""

    page: str
    shown: int
    acknowledged: int


class Checker:
    """Knows what has been acknowledged, and collects the answers that are stale or impossible. Thread-safe.

    For each request: take ``floor(page)``, send the request, then ``judge`` the version in the answer by that floor. A
    version becomes acknowledged when the answer to its write arrives. So a write without an answer proves nothing.
    """

    def __init__(self) -> None:
        self.judged = 0
        self.stale: list[Stale] = []
        self.impossible: list[str] = []
        self._acknowledged: dict[str, int] = {}
        self._writes_sent = 0
        self._lock = threading.Lock()

    def floor(self, page: str) -> int:
        """Return the lowest version that an answer may show if its request is sent from now on."""
        with self._lock:
            return self._acknowledged.get(page, 0)

    def write_sent(self) -> None:
        """Note that a write is about to be sent. From now on answers may count it."""
        with self._lock:
            self._writes_sent += 1

    def acknowledge(self, versions: dict[str, int]) -> None:
        """Note a complete answer to a write. From now on these pages must show these versions, or later ones."""
        with self._lock:
            for page, version in versions.items():
                self._acknowledged[page] = max(version, self._acknowledged.get(page, 0))

    def judge(self, page: str, floor: int, version: int) -> bool:
        """Tell whether an answer keeps the promise. If it counts more writes than were sent, the check is broken."""
        with self._lock:
            self.judged += 1
            if version < floor:
                self.stale.append(Stale(page, version, floor))
            if version > self._writes_sent:
                self.impossible.append(f"{page} shows version {version}, but only {self._writes_sent} writes were sent")
            return floor <= version <= self._writes_sent
