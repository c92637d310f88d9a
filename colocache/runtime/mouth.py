"""What this process says on the bus, and to whom. For the bus's thread alone.

A process connects to its mates when it has something to say. It tries again, in growing intervals, to reach those that
it does not reach: a mate that has just come and does not listen yet, one that is stopped, one whose descriptors have
run out, or one that was killed and that nobody has missed yet. Nothing is tried while there is nothing to say.
"""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Iterable
from typing import Protocol

from .files import descriptors_are_scarce
from .frames import IN_A_FRAME, encode
from .transport import Broadcast

CONNECTING = 0.05  # s that frames wait for the first connection to a mate, which takes about a millisecond
RETRY, RETRY_AT_MOST = 0.05, 10.0  # s until a mate that is not reached is tried again: the first time, and in the end


class Mates(Protocol):
    """The other processes that share this process's region. Only the bus's thread asks."""

    def version(self) -> int:
        """Return a number that changes whenever a process joins or leaves."""

    def living(self) -> Iterable[tuple[int, int]]:
        """Return the seat and the name of each mate that lives, without this process.

        A name is a number below 2^64 that only one process has in the life of the region.
        """


class Mouth:
    """Says something to all mates that can be reached."""

    def __init__(self, sockets: Broadcast, mates: Mates, directory: str, name: int) -> None:
        """``directory`` is where the sockets of all are, ``name`` this process's own."""
        self._sockets = sockets
        self._mates = mates
        self._directory = directory
        self._name = name
        self._said = 0
        self._links: dict[int, _Link] = {}  # by the name of the mate
        self._met: int | None = None  # the version of the mates that there are links to
        self._seen = 0  # the changes of the connections that are taken notice of
        self._look_at = -math.inf  # when those that are not reached are tried again
        self._ready_at = -math.inf

    def ready_at(self, now: float) -> float:
        """Connect to those that are not reached, if it is time, and return when to speak: once the new ones hear."""
        version = self._mates.version()
        if version != self._met:
            self._met = version  # read before the mates are: if one comes between the two, it is met next time
            self._meet()
            self._look(now)
        elif self._seen != self._sockets.changes or now >= self._look_at:
            self._look(now)
        return self._ready_at

    @property
    def mates(self) -> int:
        """How many there are, as far as this process has noticed."""
        return len(self._links)

    def say(self, kind: int, hashes: Iterable[int]) -> None:
        """Send a message to all that are reached."""
        if self._links:
            words = array("Q", hashes)
            for start in range(0, max(1, len(words)), IN_A_FRAME):
                self._said += 1
                self._sockets.send(encode(kind, self._name, self._said, words[start : start + IN_A_FRAME]))

    def _meet(self) -> None:
        living = {name: seat for seat, name in self._mates.living()}
        for name in self._links.keys() - living.keys():  # first: the seat may be a new mate's by now
            self._sockets.disconnect(self._links.pop(name).path)
        for name in living.keys() - self._links.keys():
            self._links[name] = _Link(f"{self._directory}/{living[name]}.bus")

    def _look(self, now: float) -> None:
        """Find out who is reached, and try to reach the others."""
        self._seen = self._sockets.changes
        missing = []
        for name, link in self._links.items():
            if name in self._sockets.reached:
                link.was_reached()
            else:
                missing.append(link)
        if missing and descriptors_are_scarce():
            self._look_at = now + RETRY_AT_MOST
            self._ready_at = now
            return
        for link in missing:
            if now >= link.try_at:
                self._try(link, now)
        self._look_at = min((link.try_at for link in missing), default=math.inf)
        self._ready_at = max((link.ready_at for link in missing), default=now)

    def _try(self, link: _Link, now: float) -> None:
        if link.tries:
            self._sockets.disconnect(link.path)
        else:
            link.ready_at = now + CONNECTING
        link.tries += 1
        link.try_at = now + min(RETRY * 2 ** min(link.tries, 20), RETRY_AT_MOST)
        with contextlib.suppress(OSError):  # it is tried again
            self._sockets.connect(link.path)


class _Link:
    """The way to a mate."""

    __slots__ = ("path", "ready_at", "tries", "try_at")

    def __init__(self, path: str) -> None:
        self.path = path
        self.tries = 0
        self.try_at = self.ready_at = -math.inf

    def was_reached(self) -> None:
        """Have it tried at once when it is lost, for example because the mate had to open its socket anew."""
        self.tries = 1
        self.try_at = self.ready_at = -math.inf
