"""The demo's judge: is an answer as new as what had been acknowledged before its question was asked?"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stale:
    """An answer that broke the promise: ``page`` was ``shown`` at a version older than the one ``acknowledged``."""

    page: str
    shown: int
    acknowledged: int


class Checker:
    """What has been acknowledged so far, and every answer that was older or that cannot be. Thread-safe.

    The rule, for each request: take ``floor(page)``, send, then ``judge`` the answer's version by that floor. A version
    becomes acknowledged only when the answer to its write has arrived, so a write under way commits nobody to anything.
    """

    def __init__(self) -> None:
        self.judged = 0
        self.stale: list[Stale] = []
        self.impossible: list[str] = []
        self._acknowledged: dict[str, int] = {}
        self._writes_sent = 0
        self._lock = threading.Lock()

    def floor(self, page: str) -> int:
        """The lowest version that an answer may show if its request is sent from now on."""
        with self._lock:
            return self._acknowledged.get(page, 0)

    def write_sent(self) -> None:
        """A write is about to be sent: from now on answers may count it."""
        with self._lock:
            self._writes_sent += 1

    def acknowledge(self, versions: dict[str, int]) -> None:
        """A write was answered, and completely: these pages must show these versions, or later ones, from now on."""
        with self._lock:
            for page, version in versions.items():
                self._acknowledged[page] = max(version, self._acknowledged.get(page, 0))

    def judge(self, page: str, floor: int, version: int) -> bool:
        """Whether the answer keeps the promise. One that counts more writes than were sent shows a broken check."""
        with self._lock:
            self.judged += 1
            if version < floor:
                self.stale.append(Stale(page, version, floor))
            if version > self._writes_sent:
                self.impossible.append(f"{page} shows version {version}, but only {self._writes_sent} writes were sent")
            return floor <= version <= self._writes_sent
