"""What a driver gives a peer, and what it gets back: settings and actions."""

from __future__ import annotations

from typing import NamedTuple

from .members import Member


class Settings(NamedTuple):
    """The numbers of the protocol. Durations are in seconds."""

    lease: float = 3.0
    max_stale: float = 3.0
    fetch_timeout: float = 0.25
    load_timeout: float = 30.0
    forget_after: float = 30.0
    log_events: int = 10_000
    log_seconds: float = 60.0


class Publish(NamedTuple):
    """Send a frame to everybody, on the bus."""

    frame: bytes


class Send(NamedTuple):
    """Send a frame to one member. A ``reply`` goes back on the connection that the member's own frames come from."""

    to: bytes
    frame: bytes
    reply: bool


class Connect(NamedTuple):
    """A member is new: subscribe to its bus, and open a link to it."""

    member: Member


class Probe(NamedTuple):
    """Send a frame, if that is possible at once, to a process that does not count as a member."""

    member: Member
    frame: bytes


class Disconnect(NamedTuple):
    """A member is gone."""

    member: Member


Action = Publish | Send | Connect | Probe | Disconnect
