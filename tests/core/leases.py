"""A lease over a word of the test, for what asks it."""

from __future__ import annotations

from colocache.core.hosts.layout import HEAD_WORDS, UNTIL
from colocache.core.hosts.lease import Lease

LEASE, BY_AGE = 3.0, 23.0  # s


class NoFences:
    """One thread: all is in order."""

    def order(self) -> None:
        """Do nothing."""

    def full(self) -> None:
        """Do nothing."""


class WordLease(Lease):
    """A lease whose word the test stores."""

    __slots__ = ("word",)

    def __init__(self, until: float) -> None:
        """Publish that instant; 0 stands for a host that is not established."""
        self.word = memoryview(bytearray(8 * HEAD_WORDS)).cast("Q")
        super().__init__(self.word, NoFences(), lease=LEASE, serves_by_age=BY_AGE)
        self.publish(until)

    def publish(self, until: float) -> None:
        """Do what the gateway does."""
        self.word[UNTIL] = int(until * 1e9)
