"""What the parts of a peer see of it, made by hand: everything is noted, and every answer is set by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from colocache.core.entry import DEAD, Entry
from colocache.core.group.announcements import Receipt
from colocache.core.group.reads import Loaded
from colocache.core.keys import prefix, wire
from colocache.stats import Counters

ME, OWNER, OTHER, THIRD = (bytes([n]) * 16 for n in range(1, 5))
KEY, KEY2 = wire(prefix(""), "k"), wire(prefix("users/old"), "k2")


LEASE = 3.0  # s


class FakeHost:
    """Stands for the peer before `Owner`, `Reads` and `Requests`."""

    incarnation = ME

    def __init__(self) -> None:
        self.now = 100.0
        self.moment = 0
        self.last = 0
        self.established = True
        self.current = True
        self.max_stale = LEASE
        self.owner: bytes | None = OWNER
        self.applied: bool | None = True
        self.sent: list[Any] = []
        self.settled: list[tuple[int, Any]] = []
        self.kept: dict[bytes, Entry] = {}
        self.shard: dict[bytes, Entry] = {}
        self.shard_takes = True
        self.counters = Counters()
        self.passed_over: list[bytes] = []
        self.announced: list[tuple[bytes, ...]] = []
        self.touched: list[bytes] = []
        self.remembered: dict[bytes, tuple[bytes, int, int]] = {}
        self.tag_moments: dict[str, int] = {}
        self.positions: bytes | None = b""
        self.hits: set[tuple[bytes, int]] = set()  # streams with the numbers of their events that hit every key
        self.receipts: list[tuple[int, Callable[[Receipt], None]]] = []

    def is_current(self) -> bool:
        return self.current

    def current_until(self) -> float:
        return self.now + LEASE if self.current else self.now

    def trusted_since(self) -> float:
        return self.now - self.max_stale

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def take(self) -> list[Any]:
        """Return, and forget, what was sent."""
        sent, self.sent = self.sent, []
        return sent

    def settle(self, ticket: int, outcome: Any) -> None:
        self.settled.append((ticket, outcome))

    def outcomes(self) -> list[tuple[int, Any]]:
        """Return, and forget, what was settled."""
        settled, self.settled = self.settled, []
        return settled

    def owner_of(self, wire: bytes) -> bytes | None:
        return self.owner

    def pass_over(self, owner: bytes) -> None:
        self.passed_over.append(owner)

    def dependencies(self, wires: Iterable[bytes]) -> bytes | None:
        return self.positions

    def has_applied(self, positions: dict[bytes, int]) -> bool | None:
        return self.applied

    def tags_hit_since(self, tags: Iterable[str], moment: int) -> bool:
        return any(self.tag_moments.get(tag, 0) > moment for tag in tags)

    def overtaken(self, wire: bytes, tags: Iterable[str], moment: int) -> bool:
        hit = wire in self.remembered and self.remembered[wire][2] > moment
        return hit or self.tags_hit_since(tags, moment)

    def hit_by(self, wire: bytes, stream: bytes, number: int) -> bool:
        return any(hit == stream and at > number for hit, at in self.hits)

    def keep(self, entry: Entry) -> None:
        self.kept[entry.wire] = entry

    def shard_entry(self, wire: bytes) -> Entry | None:
        return self.shard.get(wire)

    def servable(self, wire: bytes) -> Entry | None:
        return self.shard.get(wire)

    def store_entry(self, entry: Entry) -> bool:
        if self.shard_takes:
            self.shard[entry.wire] = entry
        else:
            entry.expires = DEAD
        return self.shard_takes

    def touch(self, wire: bytes) -> None:
        self.moment += 1
        self.touched.append(wire)

    def remember(self, wire: bytes, stream: bytes, number: int) -> None:
        self.remembered[wire] = (stream, number, self.moment)

    def announce(self, targets: tuple[bytes, ...]) -> int:
        self.moment += 1
        self.last += 1
        self.announced.append(targets)
        for target in targets:
            self.shard.pop(target[1:], None)
        return self.last

    def receipt_for(self, number: int, settle: Callable[[Receipt], None]) -> None:
        self.receipts.append((number, settle))


def nowhere(_: Entry) -> None:
    """Publish an entry to nobody."""


def loaded(payload: bytes | None, tags: tuple[str, ...] = (), left: float = 300.0,
           publish: Callable[[Entry], None] = nowhere) -> Loaded:  # fmt: skip
    """Return what a loader gave."""
    return Loaded(payload, payload, left, tags, publish)
