"""The fetches of a member: requests for a key's value, with the load that may follow, and those who wait.

An event that invalidates a key **marks** its fetches:

1. Read A begins, and its load reads the old value.
2. The key is invalidated, here too, and the call returns.
3. Read B begins. B must not join A's load: the fetch is marked, so B starts a fetch of its own, and A's value is not
   kept.
"""

from __future__ import annotations

import math

from ..keys import namespace_of, within
from .knowledge import Knowledge
from .load_queues import MAX_FAILURES
from .requests import Part, Request, Requests


class Ticket:
    """One call of a reader that waits for an outcome."""

    __slots__ = ("behind", "failures", "fetch", "id", "since", "tags", "until", "version", "wire")

    def __init__(self, ticket: int, wire: bytes, tags: tuple[str, ...], now: float, until: float) -> None:
        self.id = ticket
        self.wire = wire
        self.tags = tags
        self.since = now
        self.until = until
        self.fetch: Fetch | None = None  # the one that it joined last
        self.version = 0  # this member's, when it joined its fetch
        self.behind = False  # this member was behind when it joined
        self.failures = 0


class Fetch(Request):
    """One request for a value, and the load that may follow."""

    __slots__ = (
        "attended", "awaited", "current_until", "leaders", "led_at", "marked", "phase", "running", "tickets", "token",
        "wire",
    )  # fmt: skip

    def __init__(self, part: Part, owner: bytes, knowledge: Knowledge, wire: bytes) -> None:
        super().__init__(part, owner, knowledge)
        self.wire = wire
        self.marked = False
        self.phase = "asking"  # then "waiting" for another's load, "catching up" before its own, or "loading"
        self.token: int | None = None  # None while loading: the load is for this process alone
        self.leaders: list[Ticket] = []  # the callers of all the loads that were begun
        self.running = 0  # loads under way
        self.attended = 0  # of these, the loads whose callers wait for them
        self.awaited = False  # the owner has said that another member waits for the load
        self.tickets: list[Ticket] = []
        self.led_at = knowledge.now  # when its own load began, and until when this member was current then
        self.current_until = -math.inf

    def is_stuck(self, now: float) -> bool:
        """Tell whether the load takes longer than its own callers were willing to wait: others must not join it."""
        return bool(self.leaders) and all(leader.until <= now for leader in self.leaders)

    def may_begin_another(self) -> bool:
        """Tell whether its loads go on without their callers, so that another load may begin beside them."""
        return self.running > 0 and not self.attended and len(self.leaders) < MAX_FAILURES

    def drop_late(self, now: float) -> list[Ticket]:
        """Take out, and return, the tickets whose patience is over."""
        late = [ticket for ticket in self.tickets if ticket.until <= now]
        self.tickets = [ticket for ticket in self.tickets if ticket.until > now]
        return late


class Fetches:
    """The fetches under way, by key. Not thread-safe."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._of_key: dict[bytes, list[Fetch]] = {}  # the oldest first

    def __len__(self) -> int:
        return sum(map(len, self._of_key.values()))

    def all(self) -> list[Fetch]:
        """Return all fetches."""
        return [fetch for fetches in self._of_key.values() for fetch in fetches]

    def newest(self, wire: bytes) -> Fetch | None:
        """Return a key's newest fetch, the only one that readers may join."""
        fetches = self._of_key.get(wire)
        return fetches[-1] if fetches else None

    def add(self, fetch: Fetch) -> None:
        """Take a fetch in, and number it."""
        self._requests.open(fetch)
        self._of_key.setdefault(fetch.wire, []).append(fetch)

    def drop(self, fetch: Fetch) -> None:
        """Take a fetch out, if it is in here."""
        if self._requests.close(fetch):
            fetches = self._of_key[fetch.wire]
            fetches.remove(fetch)
            if not fetches:
                del self._of_key[fetch.wire]

    def mark(self, wire: bytes) -> None:
        """An event invalidates a key."""
        for fetch in self._of_key.get(wire, ()):
            fetch.marked = True

    def mark_all(self, namespace: str) -> None:
        """An event invalidates a namespace and those below it; ``""`` is everything."""
        for wire, fetches in self._of_key.items():
            if within(namespace_of(wire), namespace):
                for fetch in fetches:
                    fetch.marked = True

    def mark_tag(self, tag: str) -> None:
        """An event invalidates a tag: mark the fetches that are known to carry it.

        Whether the others carry it shows when their values come.
        """
        for fetch in self.all():
            if any(tag in ticket.tags for ticket in fetch.leaders + fetch.tickets):
                fetch.marked = True
