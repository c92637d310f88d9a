"""What a member asks of owners that may be refused: fences, sets under a fence, counts and touches.

Whoever gives such a request up does not know whether it was, or will be, carried out; nothing is retried here.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..entry import DEAD, Entry
from ..timers import Timers
from .atomic import UNAVAILABLE
from .fences import NO_FENCE
from .host import AskingHost
from .messages import Alter, Altered, Fenced, GetFenced, SetFenced, unpack_positions


class Fence(NamedTuple):
    """What an owner has under a key, and the fence that it gave; `NO_FENCE` if it could not."""

    entry: Entry | None
    owner: bytes
    number: int


class Altering(NamedTuple):
    """What became of a count, a touch, or a set under a fence: see `colocache.core.group.atomic`."""

    outcome: int
    payload: bytes
    position: tuple[bytes, int] | None  # of the event that announces it; None if there is none


NO_ANSWER = Altering(UNAVAILABLE, b"", None)


class Host(AskingHost, Protocol):
    """What `Attempts` needs of the peer that it belongs to."""

    def overtaken(self, wire: bytes, tags: tuple[str, ...], moment: int) -> bool:
        """Whether the key or one of the tags was hit by an event applied after ``moment``."""

    def own(self, wire: bytes) -> Entry | None:
        """Return what this member itself has under a key, to be used by a reader of this process."""

    def touch(self, wire: bytes) -> None:
        """Drop this member's own copy of a key, and mark its fetches."""

    def remember(self, wire: bytes, stream: bytes, number: int) -> None:
        """Depend on an event as if it were applied here."""

    def settle(self, ticket: int, outcome: Fence | Altering) -> None:
        """Tell a caller what became of its call."""


class _Attempt(NamedTuple):
    ticket: int
    wire: bytes
    owner: bytes
    sent_at: float
    moment: int
    established: bool
    fence: bool  # whether it asks for one


class Attempts:
    """The requests under way that may be refused. Not thread-safe."""

    def __init__(self, host: Host, fetch_timeout: float, timers: Timers) -> None:
        self._host = host
        self._fetch_timeout = fetch_timeout
        self._timers = timers
        self._ids = 0
        self._open: dict[int, _Attempt] = {}
        self._late: dict[int, Fenced] = {}  # answered, by owners that have applied more than this member

    def __len__(self) -> int:
        return len(self._open)

    def get(self, ticket: int, wire: bytes, now: float) -> None:
        """Ask a key's owner for what it has, with a fence."""
        host = self._host
        owner, dependencies = host.owner_of(wire), host.dependencies((wire,))
        if owner is None or dependencies is None:
            host.settle(ticket, Fence(None, b"", NO_FENCE))
            return
        request = self._begin(ticket, wire, owner, now, fence=True)
        host.send(GetFenced(host.incarnation, owner, request, wire, self._fetch_timeout, dependencies))

    def set(self, ticket: int, wire: bytes, payload: bytes, left: float, tags: tuple[str, ...], fence: Fence,
            now: float) -> None:  # fmt: skip
        """Have a value stored by the owner that gave the fence, if it still owns the key, and the fence stands."""
        host = self._host
        if fence.number == NO_FENCE or host.owner_of(wire) != fence.owner:
            host.settle(ticket, NO_ANSWER)
            return
        request = self._begin(ticket, wire, fence.owner, now)
        host.send(SetFenced(host.incarnation, fence.owner, request, wire, payload, left, fence.number, tags))

    def alter(self, ticket: int, wire: bytes, delta: int | None, start: bytes, left: float, tags: tuple[str, ...],
              now: float) -> None:  # fmt: skip
        """Have a key's owner count by ``delta``; None: give the key another expiry.

        ``start``: what a key without a value gets; empty: nothing.
        """
        host = self._host
        owner, dependencies = host.owner_of(wire), host.dependencies((wire,))
        if owner is None or dependencies is None:
            host.settle(ticket, NO_ANSWER)
            return
        request = self._begin(ticket, wire, owner, now)
        what = (wire, delta is None, delta or 0, start, left)
        host.send(Alter(host.incarnation, owner, request, *what, self._fetch_timeout, dependencies, tags))

    def fenced(self, message: Fenced, now: float) -> None:
        """Take an owner's answer in, once this member has applied what the owner has."""
        attempt = self._open.get(message.id)
        if attempt is None or attempt.owner != message.sender or not attempt.fence:
            return
        host, number = self._host, message.fence
        applied = host.has_applied(unpack_positions(message.dependencies))
        if applied is False:
            self._late[message.id] = message
            return
        del self._open[message.id]
        entry = None
        if message.sender == host.incarnation:
            entry = host.own(attempt.wire)
        elif message.found:
            left = attempt.sent_at + message.left
            entry = Entry(attempt.wire, message.payload, attempt.sent_at - message.age, left, message.tags)
            overtaken = host.overtaken(attempt.wire, message.tags, attempt.moment)
            if message.current and attempt.established and not overtaken:
                host.keep(entry)
            else:
                entry.expires = DEAD
            host.counters.fetches += 1
        host.settle(attempt.ticket, Fence(entry, message.sender, number if applied else NO_FENCE))

    def altered(self, message: Altered) -> None:
        """Take an owner's answer in."""
        attempt = self._open.get(message.id)
        if attempt is None or attempt.owner != message.sender or attempt.fence:
            return
        del self._open[message.id]
        position = None
        if message.number:
            position = message.sender, message.number
            if message.sender != self._host.incarnation:
                self._host.touch(attempt.wire)  # as for a set: what was asked for before now must not count as younger
                self._host.remember(attempt.wire, *position)
        self._host.settle(attempt.ticket, Altering(message.outcome, message.payload, position))

    def retry(self, now: float) -> None:
        """Take in what came too early."""
        late, self._late = self._late, {}
        for message in late.values():
            self.fenced(message, now)

    def owner_left(self, owner: bytes) -> None:
        """An owner is gone: it gives no answer any more."""
        for request in [request for request, attempt in self._open.items() if attempt.owner == owner]:
            self._give_up(request)

    def _begin(self, ticket: int, wire: bytes, owner: bytes, now: float, *, fence: bool = False) -> int:
        self._ids += 1
        host = self._host
        if not fence and owner != host.incarnation:
            host.touch(wire)  # as for a set; but what the owner is to count with is its own
        self._open[self._ids] = _Attempt(ticket, wire, owner, now, host.moment, host.established, fence)
        self._timers.at(now + self._fetch_timeout, self._unanswered, self._ids)
        return self._ids

    def _unanswered(self, request: int) -> None:
        if request in self._open:
            if request not in self._late:
                self._host.pass_over(self._open[request].owner)
            self._give_up(request)

    def _give_up(self, request: int) -> None:
        attempt = self._open.pop(request)
        self._late.pop(request, None)
        self._host.counters.unavailable += 1
        self._host.settle(attempt.ticket, Fence(None, attempt.owner, NO_FENCE) if attempt.fence else NO_ANSWER)
