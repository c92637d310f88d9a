"""What each read is entitled to, and what no member may hold.

Values are versions: integers that only grow per key. A read's answer is checked against what was true when it began.
"""

from __future__ import annotations

from collections.abc import Iterator

from colocache.core.entry import MISSING
from colocache.testing.simulator import Network, Simulated

HOT = ("a", "b", "n/c")
PAGE = "page"  # made of "a", by a loader that reads "a" through the cache: its version is that of "a"
COLD = tuple(f"cold {number}" for number in range(12))
SET = "set"  # written by `set`, by one writer at a time, because a set vouches for its value
KEYS = (*HOT, PAGE, *COLD, SET)
LOADED = (*HOT, PAGE, *COLD)
TAGS = {"a": ("t",), "b": ("t", "u"), "n/c": ("u",), PAGE: ("t",)}


class Oracle:
    """The source of truth, and what each reader is entitled to."""

    def __init__(self, network: Network, bound: float) -> None:
        """``bound`` is for how long, in seconds, an announced event may go unheard where nobody waits for it."""
        self._network = network
        self._bound = bound
        self.version = dict.fromkeys(KEYS, 0)
        self._committed = dict.fromkeys(KEYS, 0.0)
        self._acknowledged = dict.fromkeys(KEYS, 0)
        self._announced: dict[str, list[tuple[float, int]]] = {key: [] for key in KEYS}
        self._own: dict[tuple[bytes, str], int] = {}
        self._events: dict[bytes, list[dict[str, int]]] = {}

    def commit(self, keys: tuple[str, ...]) -> dict[str, int]:
        """Write to the source; return the new versions."""
        for key in keys:
            self.version[key] += 1
            self._committed[key] = self._network.time
        return {key: self.version[key] for key in keys}

    def announced(self, member: Simulated, versions: dict[str, int], *, numbered: bool = True) -> None:
        """An invalidation's call has begun, so that it holds for its own process from now on."""
        for key, version in versions.items():
            self._announced[key].append((self._network.time, version))
            own = (member.member.incarnation, key)
            self._own[own] = max(self._own.get(own, 0), version)
        if numbered:  # an invalidation is the newest event of the member's stream
            events = self._events.setdefault(member.member.incarnation, [])
            while len(events) < member.peer.last:
                events.append({})
            events[-1] = versions

    def acknowledged(self, versions: dict[str, int]) -> None:
        """An invalidation's call has returned, complete."""
        for key, version in versions.items():
            self._acknowledged[key] = max(self._acknowledged[key], version)

    def floors(self, member: Simulated, key: str) -> dict[str, int]:
        """Return the lowest version that each clause of the contract allows to a read that begins now."""
        bound = self._network.time - self._bound
        late = 0
        for at, version in reversed(self._announced[key]):
            if at < bound:
                late = version
                break
        return {
            "acknowledged": self._acknowledged[key],
            "bounded staleness": late,
            "read your writes": self._own.get((member.member.incarnation, key), 0),
        }

    def settled(self, key: str, at: float) -> bool:
        """Whether a key was changed last so long before an instant that in peace all had heard of it."""
        return self._committed[key] < at - 0.05

    def overtaken(self, member: Simulated) -> Iterator[str]:
        """Say what a member holds that an event has overtaken which it has applied: nothing, ever."""
        for key in (*HOT, PAGE):
            value = held(member, key)
            if isinstance(value, int):
                for stream in self._events:
                    floor = self._applied(member, stream, key)
                    if value < floor:
                        yield f"{member.seat} holds {key}={value}, and has applied that it is {floor}"

    def _applied(self, member: Simulated, stream: bytes, key: str) -> int:
        """Return the version that the newest event of a stream gave a key, of those that a member has applied."""
        known = member.peer.acquaintance(stream)
        own = member.peer.last if stream == member.member.incarnation else 0
        events = self._events[stream][: known.stream.applied if known else own]
        return next((versions[key] for versions in reversed(events) if key in versions), 0)


def held(member: Simulated, key: str) -> int | object:
    """Return what a member has in its store under a key, whether it may serve it now or not; MISSING if nothing."""
    wire = member.wire(key)
    entry = member.store._shard.get(wire) or member.store._near.get(wire)
    if entry is None or entry.expires <= member.now():
        return MISSING
    return int(entry.payload) if entry.value is MISSING else entry.value
