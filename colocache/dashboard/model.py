"""What a dashboard knows: the last look at the host, what was counted over time, and how the shelf is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic, thread_time
from typing import Final, NamedTuple

from ..core.keys import namespace_of, within
from ..group_stats import HostStats
from ..hosts import HostInfo
from ..inspection import AT_ONCE, EventInfo, KeyInfo, events, hot_keys, key_info, key_infos_at, near_hits
from ..runtime.view import View
from .findings import Finding, findings
from .history import History, Sample
from .source import Sight, Source

FRESH: Final = 1.8  # s for which a look is shown again: processes show their figures about once a second
WALK_EVERY: Final = 10.0  # s from one whole walk over the shelf to the next one
WALK: Final = 0.02  # s of its thread's time for which one look walks
SEARCH: Final = 0.4  # s of its thread's time for one search
FOUND: Final = 100  # keys that one search shows
HOT: Final = 10
EVENTS: Final = 30


class Usage(NamedTuple):
    """What values of a namespace take."""

    values: float
    bytes: float


@dataclass(frozen=True)
class Memory:
    """What the values of each namespace take, the largest first."""

    spaces: dict[str, Usage]
    part: float  # of the shelf that was looked at, from which the rest is estimated
    time: float = 0.0  # s since the epoch

    def within(self, path: str) -> Usage:
        """Return what a namespace takes, with those below it."""
        several = [usage for each, usage in self.spaces.items() if within(each, path)]
        return Usage(sum([each.values for each in several]), sum([each.bytes for each in several]))


@dataclass(frozen=True)
class Picture:
    """What one look has seen."""

    time: float  # s since the epoch
    host: HostStats
    hosts: tuple[HostInfo, ...]
    has_hosts: bool
    path: str
    hot: list[KeyInfo]
    events: list[EventInfo]  # the newest first
    memory: Memory
    findings: list[Finding]
    samples: list[Sample] = field(repr=False)  # the oldest first


class Search(NamedTuple):
    """What a search has found."""

    keys: list[KeyInfo]
    part: float  # of the shelf that was searched
    is_whole: bool  # whether that was all, and nothing was left out


class Model:
    """What a dashboard knows. Any thread may use it. One looks at a time, and many viewers cost no more than one."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.began = time.time()
        self.lock = threading.Lock()
        self._history = History()
        self._picture: Picture | None = None
        self._seen = 0.0
        self._walk = Walk()
        self._region = b""

    def picture(self) -> Picture:
        """Return what is there now, or was a moment ago. Raise Blind."""
        with self.lock:
            if self._picture is not None and monotonic() - self._seen < FRESH:
                return self._picture
            with self.source.sight() as sight:
                self._picture = self._look(sight)
            self._seen = monotonic()
            return self._picture

    def _look(self, sight: Sight) -> Picture:
        view, now = sight.view, time.time()
        host = sight.host
        self._history.add(Sample.taken(now, host))
        if sight.region != self._region:  # the group has begun anew
            self._region, self._walk = sight.region, Walk()
        memory = self._walk.go_on(view, WALK, now)
        return Picture(
            now, host, sight.hosts, sight.has_hosts, sight.path, hot_keys(view, HOT), events(view)[: -EVENTS - 1 : -1],
            memory, findings(now, host, sight.hosts), [*self._history.samples],
        )  # fmt: skip

    def search(self, namespace: str, like: str) -> Search:
        """Look for keys. Raise Blind."""
        with self.lock, self.source.sight() as sight:
            return search(sight.view, namespace, like, SEARCH)

    def hot(self, namespace: str) -> list[KeyInfo]:
        """Return the keys of a namespace, and those below it, that are hit most. Raise Blind."""
        with self.lock, self.source.sight() as sight:
            return hot_keys(sight.view, HOT, namespace)

    def key(self, wire: bytes) -> KeyInfo | None:
        """Return what is known of a key. Raise Blind."""
        with self.lock, self.source.sight() as sight:
            return key_info(sight.view, wire)


def spread(ways: int) -> Iterator[int]:
    """Yield where each piece of the shelf begins, in an order whose beginnings lie evenly everywhere.

    Keys are in their ways by their hashes. So the pieces that come first speak for all.
    """
    pieces = max(1, -(-ways // AT_ONCE))
    bits = (pieces - 1).bit_length()
    for number in range(1 << bits):
        piece = int(f"{number:0{bits}b}"[::-1], 2) if bits else 0
        if piece < pieces:
            yield piece * AT_ONCE


class Walk:
    """A walk over the shelf that takes a little of the time of each look. For one thread at a time.

    Keys lie where their hashes say, so the first pieces speak for all: until it has seen everything once, it estimates.
    Afterwards it shows what the last whole walk has found. What nobody is served any more is not counted.
    """

    def __init__(self) -> None:
        self.memory = Memory({}, 0.0)
        self._begin()

    def _begin(self) -> None:
        self._sums: dict[str, tuple[int, int]] = {}
        self._looked = 0
        self._pieces: Iterator[int] | None = None

    def go_on(self, view: View, seconds: float, now: float) -> Memory:
        """Walk for some seconds of this thread's time, and return what each namespace takes."""
        is_whole = self.memory.part >= 1
        if self._pieces is None and is_whole and 0 <= now - self.memory.time < WALK_EVERY:
            return self.memory
        if self._pieces is None:
            self._pieces = spread(view.shelf.ways)
        ends, ways = thread_time() + seconds, view.shelf.ways
        for first in self._pieces:
            for seen in view.shelf.see(first, AT_ONCE, view.now()):
                if seen.is_current:
                    path = namespace_of(seen.wire)
                    values, size = self._sums.get(path, (0, 0))
                    self._sums[path] = values + 1, size + seen.size
            self._looked += min(AT_ONCE, ways - first)
            if thread_time() >= ends:
                break
        part = min(1.0, self._looked / ways)
        if part >= 1 or not is_whole:
            largest = sorted(self._sums.items(), key=lambda item: -item[1][1])
            found = {path: Usage(values / part, size / part) for path, (values, size) in largest}
            self.memory = Memory(found, part, now)
        if part >= 1:
            self._begin()
        return self.memory


def search(view: View, namespace: str, like: str, seconds: float) -> Search:
    """Look for keys of a namespace whose names have a text, for some seconds, and for so many as a page shows."""
    ends, found, looked, hits = thread_time() + seconds, list[KeyInfo](), 0, near_hits(view)
    for first in spread(view.shelf.ways):
        found += key_infos_at(view, first, namespace, like, hits)
        looked += min(AT_ONCE, view.shelf.ways - first)
        if len(found) > FOUND or thread_time() >= ends:
            break
    part = looked / view.shelf.ways
    shown = sorted(found[:FOUND], key=lambda info: info.name)
    return Search(shown, part, looked >= view.shelf.ways and len(found) <= FOUND)
