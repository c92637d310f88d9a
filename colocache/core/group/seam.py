"""What a driver gives a peer, and what it gets: settings, actions, and the gate that readers look at."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..entry import Entry
from .members import Member


class Settings(NamedTuple):
    """The numbers of the protocol; durations in seconds."""

    lease: float = 3.0
    max_stale: float = 3.0
    fetch_timeout: float = 0.25
    load_timeout: float = 30.0
    forget_after: float = 30.0
    log_events: int = 10_000
    log_seconds: float = 60.0


class Gate:
    """What a reader looks at before it uses an entry. Written by the peer's driver, read by every thread."""

    __slots__ = ("current_until", "max_stale")

    def __init__(self) -> None:
        self.current_until = -math.inf
        self.max_stale = -math.inf  # until this member is established; then `Settings.max_stale`

    def lets(self, entry: Entry, now: float) -> bool:
        """Whether an entry may be served: it lives, and this member is current, or it was loaded a moment ago."""
        return now < entry.expires and (now < self.current_until or now - entry.loaded_at < self.max_stale)


class Publish(NamedTuple):
    """Send a frame to everybody, by the bus."""

    frame: bytes


class Send(NamedTuple):
    """Send a frame to one member; ``reply``: back on the connection that its own frames come from."""

    to: bytes
    frame: bytes
    reply: bool


class Connect(NamedTuple):
    """A member is new: hear its bus, and open a link to it."""

    member: Member


class Knock(NamedTuple):
    """Send a frame, if that is possible at once, to somebody who is no member, nor becomes one by it."""

    member: Member
    frame: bytes


class Disconnect(NamedTuple):
    """A member is gone."""

    member: Member


Action = Publish | Send | Connect | Knock | Disconnect
