"""Everything around a part of a peer, made by hand: it notes what the part does, and answers as the test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from colocache.core.entry import DEAD
from colocache.core.group.entry import Entry
from colocache.core.group.outcomes import Loaded
from colocache.core.group.seam import Settings
from colocache.core.group.stats import Counters
from colocache.core.keys import prefix, wire
from colocache.core.options import EntryOptions
from colocache.core.receipt import Receipt
from colocache.core.timers import Timers

ME, OWNER, OTHER, THIRD = (bytes([n]) * 16 for n in range(1, 5))
KEY, KEY2 = wire(prefix(""), "k"), wire(prefix("users/old"), "k2")
LEASE = 3.0  # s


class Surroundings:
    """Stands for the knowledge, the outbox, the store, the effects, the replays and the announcements of a part."""

    incarnation = ME

    def __init__(self, settings: Settings = Settings(lease=LEASE)) -> None:  # noqa: B008
        self.settings = settings
        self.timers = Timers()
        self.now = 100.0
        self.version = 0
        self.last = 0
        self.established = True
        self.current = True
        self.max_stale = LEASE
        self.owner: bytes | None = OWNER
        self.applied: bool | None = True
        self.sent: list[Any] = []
        self.resolved: list[tuple[int, Any]] = []
        self.kept: dict[bytes, Entry] = {}
        self.shard: dict[bytes, Entry] = {}
        self.shard_takes = True
        self.counters = Counters()
        self.passed_over: list[bytes] = []
        self.announced: list[tuple[bytes, ...]] = []
        self.touched: list[bytes] = []
        self.remembered: dict[bytes, tuple[bytes, int, int]] = {}
        self.tag_versions: dict[str, int] = {}
        self.positions: bytes | None = b""
        self.events: set[tuple[bytes, int]] = set()  # streams, with the numbers of events that invalidate every key
        self.receipts: list[tuple[int, Callable[[Receipt], None]]] = []

    def at(self, now: float, version: int = 0) -> None:
        """Set the clock and the version; run no timer."""
        self.now, self.version = now, version

    def pass_time(self, seconds: float) -> None:
        """Let timers run, each at its instant."""
        end = self.now + seconds
        while self.timers.deadline() <= end:
            self.now = self.timers.deadline()
            self.timers.run(self.now)
        self.now = end

    # --- Knowledge

    def is_current(self) -> bool:
        return self.current

    def current_until(self) -> float:
        return self.now + LEASE if self.current else self.now

    def trusted_since(self) -> float:
        return self.now - self.max_stale

    def owner_of(self, wire: bytes) -> bytes | None:
        return self.owner

    def pass_over(self, owner: bytes) -> None:
        self.passed_over.append(owner)

    def dependencies(self, wires: Iterable[bytes]) -> bytes | None:
        return self.positions

    def tags_invalidated_since(self, tags: Iterable[str], version: int) -> bool:
        return any(self.tag_versions.get(tag, 0) > version for tag in tags)

    def overtaken(self, wire: bytes, tags: Iterable[str], version: int) -> bool:
        later = wire in self.remembered and self.remembered[wire][2] > version
        return later or self.tags_invalidated_since(tags, version)

    def invalidated_beyond(self, wire: bytes, stream: bytes, number: int) -> bool:
        return any(of == stream and at > number for of, at in self.events)

    def servable(self, store: Surroundings, wire: bytes) -> Entry | None:
        return store.shard.get(wire)

    def remember(self, wire: bytes, stream: bytes, number: int) -> None:
        self.remembered[wire] = (stream, number, self.version)

    # --- Outbox

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def take(self) -> list[Any]:
        """Return, and forget, what was sent."""
        sent, self.sent = self.sent, []
        return sent

    def resolve(self, ticket: int, outcome: Any) -> None:
        self.resolved.append((ticket, outcome))

    def outcomes(self) -> list[tuple[int, Any]]:
        """Return, and forget, the outcomes of calls."""
        resolved, self.resolved = self.resolved, []
        return resolved

    # --- Store

    def put(self, entry: Entry, *, near: bool) -> bool:
        if near:
            self.kept[entry.wire] = entry
        elif self.shard_takes:
            self.shard[entry.wire] = entry
        else:
            entry.expires = DEAD
        return near or self.shard_takes

    def find(self, wire: bytes, now: float) -> Entry | None:
        return self.shard.get(wire)

    def charge_object(self, entry: Entry) -> None:
        """Nothing is accounted for here."""

    # --- Replays, effects, announcements

    def has_applied(self, positions: dict[bytes, int]) -> bool | None:
        return self.applied

    def touch(self, wire: bytes) -> None:
        self.version += 1
        self.touched.append(wire)

    def announce(self, targets: tuple[bytes, ...]) -> int:
        self.version += 1
        self.last += 1
        self.announced.append(targets)
        for target in targets:
            self.shard.pop(target[1:], None)
        return self.last

    def wait(self, number: int, now: float, patience: float, resolve: Callable[[Receipt], None]) -> None:
        self.receipts.append((number, resolve))


def nowhere(_: Entry) -> None:
    """Publish an entry to nobody."""


def loaded(payload: bytes | None, tags: tuple[str, ...] = (), ttl: float = 300.0,
           publish: Callable[[Entry], None] = nowhere) -> Loaded:  # fmt: skip
    """Return what a loader gave."""
    return Loaded(payload, payload, EntryOptions(ttl, tags), publish)
