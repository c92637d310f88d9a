"""One state of a small group, as a plain value, and the small changes that steps are made of."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from colocache.core.group.messages import decode
from colocache.core.group.outbox import REPLIES

message_of = lru_cache(maxsize=None)(decode)  # the same few frames are under way in thousands of worlds

# Three channels lead from one member to another. Frames on one of them keep their order; on two they may not. For
# requests travel on the sender's link, and answers on the link that the request came by, which is another connection.
BUS, LINK, ANSWERS = "bus", "link", "answers"

Channel = tuple[int, int, str]  # from, to, which
Choice = tuple[Any, ...]  # the name of a step, and what it is about


class Violation(Exception):
    """The contract is broken; says how."""


class Thread(NamedTuple):
    """One thread of an application: its next operation, and how far it is with it."""

    next: int = 0
    phase: str = ""  # "waits", "loads", "has read" the source; "" between two operations
    version: int = 0  # the lowest that a read may return; or the one that a write has committed
    seen: int = 0  # what the loader has read


class Announced(NamedTuple):
    """An event: its writer, its number, its time, and the least version of a member that has applied it."""

    by: int
    number: int
    at: float
    version: int


class Faults(NamedTuple):
    """What was used up of what a scenario allows."""

    passed: int = 0  # of `Scenario.lengths`
    losses: int = 0
    resets: int = 0
    failures: int = 0


class World(NamedTuple):
    """Everything that decides what can be next, and what must hold. Members are numbers: places in `Scenario.members`.

    ``states`` are of a `Cast`; None for a member that has not started, or is dead.
    """

    now: float
    states: tuple[int | None, ...]
    threads: tuple[Thread, ...]
    own: tuple[int, ...]  # the version of each member's last write
    channels: tuple[tuple[Channel, tuple[bytes, ...]], ...] = ()  # with what is under way, in order; none is empty
    source: int = 0  # the version that loaders read
    loads: int = 0  # loaders that were called before the first write
    acknowledged: int = 0  # the version of the last complete receipt
    announced: tuple[Announced, ...] = ()
    dead: tuple[tuple[int, tuple[bytes, ...]], ...] = ()  # with their journals
    unreaped: tuple[tuple[int, int], ...] = ()  # who is still to be told of whose death
    faults: Faults = Faults()

    def with_state(self, place: int, state: int | None) -> World:
        """Return the world with a member in another state."""
        return self._replace(states=_with(self.states, place, state))

    def with_own(self, place: int, version: int) -> World:
        """Return the world in which a member has written a version."""
        return self._replace(own=_with(self.own, place, max(self.own[place], version)))

    def with_thread(self, number: int, **changes: Any) -> World:
        """Return the world with a thread changed."""
        return self._replace(threads=_with(self.threads, number, self.threads[number]._replace(**changes)))

    def with_fault(self, kind: str) -> World:
        """Return the world after one more fault of a kind."""
        return self._replace(faults=self.faults._replace(**{kind: getattr(self.faults, kind) + 1}))

    def with_frames(self, frames: list[tuple[Channel, bytes]]) -> World:
        """Return the world with more frames under way."""
        channels = dict(self.channels)
        for channel, frame in frames:
            channels[channel] = (*channels.get(channel, ()), frame)
        return self._replace(channels=tuple(sorted(channels.items())))

    def without_first(self, channel: Channel) -> tuple[World, bytes]:
        """Return the world without the first frame of a channel, and that frame."""
        channels = dict(self.channels)
        first, *rest = channels.pop(channel)
        if rest:
            channels[channel] = tuple(rest)
        return self._replace(channels=tuple(sorted(channels.items()))), first


def channels_of(place: int, to: int | None, frame: bytes, places: range) -> list[Channel]:
    """Return the channels that a frame takes from a member to another, or (None) to all."""
    if to is None:
        return [(place, other, BUS) for other in places if other != place]
    return [(place, to, ANSWERS if isinstance(message_of(frame), REPLIES) else LINK)]


def _with(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])
