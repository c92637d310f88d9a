"""What this process says on the bus, and to whom. For the bus's thread alone.

A process opens a way to its mates when it has something to say. A mate that computes or is stopped does not take a
frame at once. It gets the frame later. A mate that is not there gets nothing, and is tried again in growing intervals.
Such a mate has just come and does not listen yet, or it was killed and nobody has noticed. While there is nothing to
say, nothing is tried.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Final, Protocol

from .frames import IN_A_FRAME, encode
from .transport import Full, Voice

QUEUE: Final = 64  # frames that wait for each mate; of more, the oldest are dropped, and their numbers show that
FULL, FULL_AT_MOST = 0.002, 10.0  # s until a mate that takes no frames is tried again: the first time, and in the end
RETRY, RETRY_AT_MOST = 0.05, 10.0  # the same for one that is not there


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

    def __init__(self, mates: Mates, directory: str, name: int) -> None:
        """``directory`` is where the sockets of all are, ``name`` this process's own."""
        self._mates = mates
        self._directory = directory
        self._name = name
        self._said = 0
        self._links: dict[int, _Link] = {}  # by the name of the mate
        self._met: int | None = None  # the version of the mates that there are links to

    @property
    def mates(self) -> int:
        """How many there are, as far as this process has noticed."""
        return len(self._links)

    @property
    def reached(self) -> set[int]:
        """The names of those who have taken the last frame, or will."""
        return {name for name, link in self._links.items() if link.is_open}

    @property
    def due(self) -> float:
        """When `go_on` has something to do, on the monotonic clock, in seconds; infinity if never."""
        return min([link.try_at for link in self._links.values() if link.has_frames], default=math.inf)

    def say(self, kind: int, hashes: Iterable[int]) -> None:
        """Send a message to all that are reached, now or later."""
        self._meet()
        if self._links:
            words, now = array("Q", hashes), monotonic()
            for start in range(0, max(1, len(words)), IN_A_FRAME):
                self._said += 1
                frame = encode(kind, self._name, self._said, words[start : start + IN_A_FRAME])
                for link in self._links.values():
                    link.send(frame, now)

    def go_on(self, now: float) -> None:
        """Try those again that have not taken all frames."""
        for link in self._links.values():
            if link.has_frames and now >= link.try_at:
                link.go_on(now)

    def close(self) -> None:
        """Let go of all. Callable twice, and in a forked child."""
        for link in self._links.values():
            link.close()

    def _meet(self) -> None:
        version = self._mates.version()
        if version == self._met:
            return
        self._met = version  # read before the mates are: if one comes between the two, it is met next time
        living = {name: seat for seat, name in self._mates.living()}
        for name in self._links.keys() - living.keys():
            self._links.pop(name).close()
        for name in living.keys() - self._links.keys():
            self._links[name] = _Link(f"{self._directory}/{living[name]}.bus")


class _Link:
    """The way to a mate."""

    __slots__ = ("_frames", "_path", "_pause", "_voice", "try_at")

    def __init__(self, path: str) -> None:
        self._path = path
        self._voice: Voice | None = None
        self._frames: deque[bytes] = deque(maxlen=QUEUE)
        self._pause = 0.0
        self.try_at = -math.inf

    @property
    def is_open(self) -> bool:
        """Whether there is anybody."""
        return self._voice is not None

    @property
    def has_frames(self) -> bool:
        """Whether any wait."""
        return bool(self._frames)

    def send(self, frame: bytes, now: float) -> None:
        """Send a frame, or keep it if others wait already, or drop it if nobody is there."""
        if self._frames or self._voice is not None or now >= self.try_at:
            waits = bool(self._frames)
            self._frames.append(frame)
            if not waits:
                self.go_on(now)

    def go_on(self, now: float) -> None:
        """Send what waits, as far as the other end takes it."""
        frames = self._frames
        try:
            while frames:
                self._send(frames[0])
                frames.popleft()
            self._pause = 0.0
        except Full:
            self._pause = min(2 * self._pause, FULL_AT_MOST) or FULL
            self.try_at = now + self._pause
        except OSError:  # nobody is there, or the system refuses: it is tried again
            frames.clear()
            self.close()
            self._pause = min(2 * self._pause, RETRY_AT_MOST) or RETRY
            self.try_at = now + self._pause

    def _send(self, frame: bytes) -> None:
        if self._voice is not None:
            try:
                self._voice.send(frame)
                return
            except Full:
                raise
            except OSError:  # it may have opened its socket anew
                self.close()
        voice = Voice(self._path)
        self._voice = voice
        voice.send(frame)

    def close(self) -> None:
        """Hang up."""
        voice, self._voice = self._voice, None
        if voice is not None:
            voice.close()
