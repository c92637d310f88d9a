"""What each read of a group of hosts is entitled to.

The source has a **version** of each thing: of a key, a namespace, a tag, and of all together. An invalidation raises
that of what it names when it begins, and a loader reads those of all that its value depends on. A read, when it
begins, is entitled to the following versions of each thing that it depends on, or to later ones:

* **Contract 1.** That of each call that has returned with a complete receipt.
* **Contract 3.** That of each call whose event was appended on an established host more than 1.1 leases ago, and a
  margin. Not where hosts are forgotten.
* **What is stamped.** That of each call whose event is applied on the reader's host: whatever was stored before is not
  fresh any more.

A **write** has no source. Who begins to read after a write has returned, with a complete receipt, is not given what was
written by a call that had ended before that one began. Nor is who reads on the host of the writer, once its call has
returned, where copies may be asked. A counter has each increment that the reader may expect, once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from colocache.core.numbers import unpack_integer
from verification.host.machine import Violation
from verification.hosts.items import FIRST_COUNTER, UNIT, Item, item

if TYPE_CHECKING:
    from verification.hosts.computer import Region
    from verification.hosts.history import History

Thing = str
MARGIN = 0.05  # s


class Value(NamedTuple):
    """A value that was loaded: which versions of things its source had."""

    number: int
    key: int
    versions: Mapping[Thing, int]
    read_at: float


class Call(NamedTuple):
    """An event of a call, as the judge sees it."""

    version: int
    region: int  # its number
    id: bytes
    lane: int
    number: int


class Floor(NamedTuple):
    """What a read is entitled to, for one thing."""

    acknowledged: int
    announced: int
    stamped: int


class Judge:
    """Keeps the source, the receipts and all values, and looks at each read."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.source: dict[Thing, int] = defaultdict(int)
        self.acknowledged: dict[Thing, int] = defaultdict(int)
        self.announced: dict[Thing, list[tuple[float, int]]] = defaultdict(list)
        self.calls: dict[Thing, list[Call]] = defaultdict(list)
        self.values: list[Value] = []

    # --- The source

    def commit(self, things: Sequence[Thing]) -> dict[Thing, int]:
        """Change the source, and return the versions that things have from now on."""
        for thing in things:
            self.source[thing] += 1
        return {thing: self.source[thing] for thing in things}

    def load(self, key: int, things: Sequence[Thing], parts: Sequence[Value] = ()) -> Value:
        """Read the source, and return the value, which may be made of other ones."""
        versions = {thing: self.source[thing] for thing in things}
        for part in parts:
            for thing, version in part.versions.items():
                if thing in versions:
                    versions[thing] = min(version, versions[thing])
        value = Value(len(self.values), key, versions, self._history.machine.clock)
        self.values.append(value)
        return value

    # --- Calls

    def append(self, versions: Mapping[Thing, int], region: Region, lane: int, number: int, established: bool) -> None:
        """Note that the events of a call are in the log."""
        clock = self._history.machine.clock
        for thing, version in versions.items():
            self.calls[thing].append(Call(version, region.number, region.id, lane, number))
            if established:
                self.announced[thing].append((clock, version))

    def stamp(self, versions: Mapping[Thing, int], region: Region) -> None:
        """Note that a call has stamped its own host's board."""
        for thing, version in versions.items():
            region.stamped[thing] = max(version, region.stamped.get(thing, 0))

    def acknowledge(self, versions: Mapping[Thing, int]) -> None:
        """Note that a call has returned with a complete receipt."""
        for thing, version in versions.items():
            self.acknowledged[thing] = max(version, self.acknowledged[thing])

    # --- Reads

    def floors(self, region: Region, things: Sequence[Thing]) -> dict[Thing, Floor]:
        """Return what a read is entitled to that begins now."""
        return {thing: self._floor(region, thing) for thing in things}

    def _floor(self, region: Region, thing: Thing) -> Floor:
        history = self._history
        before = history.machine.clock - 1.1 * history.lease - MARGIN
        announced = 0
        if not history.plan.forgets:
            announced = max([version for at, version in self.announced[thing] if at < before], default=0)
        stamped = region.stamped.get(thing, 0)
        for call in reversed(self.calls[thing]):
            if call.version <= stamped:
                continue
            if call.region != region.number and region.applied(call.id, call.lane) >= call.number:
                stamped = call.version
        return Floor(self.acknowledged[thing], announced, stamped)

    def check(self, value: Value, floors: Mapping[Thing, Floor], who: str, where: str) -> None:
        """End the run if a read must not be given a value."""
        for thing, floor in floors.items():
            version = value.versions[thing]
            what = f"{who} was given version {version} of {thing} in key {value.key} ({where})"
            if version < floor.acknowledged:
                self.fail(f"contract 1: {what}, after {floor.acknowledged} was acknowledged")
            if version < floor.stamped:
                self.fail(f"stamped: {what}, after {floor.stamped} was applied there")
            if version < floor.announced:
                self.fail(f"contract 3: {what}, long after {floor.announced} was announced")

    def fail(self, text: str) -> NoReturn:
        """End the run with a violation."""
        self._history.machine.end(Violation(f"{self._history.machine.clock:.4f} {text}"))


class Write:
    """A call that writes a value."""

    def __init__(self, number: int, key: int, began: float) -> None:
        self.number = number
        self.key = key
        self.began = began
        self.ended = math.inf
        self.acknowledged = math.inf  # when a complete receipt was returned


class Bound(NamedTuple):
    """What a read of a key that is written is entitled to."""

    began: float  # when the latest call began that binds the reader: nothing is given that had ended before that
    counted: int  # increments of a counter that are old enough, as bits


BITS = 50  # increments of one counter; what stands above them tells from which first value it was counted
STABLE = 3.0  # s after which the hosts of a history of writes are all there, so that each key has one owner


class Writes:
    """Judges the values of keys that are written, and counters."""

    def __init__(self, judge: Judge, history: History) -> None:
        self._judge = judge
        self._history = history
        self.writes: list[Write] = []
        self.events: dict[int, list[tuple[float, float]]] = defaultdict(
            list
        )  # key → invalidations: begun, acknowledged
        self.own: dict[tuple[int, int], float] = {}  # region, key → when its latest write began that has returned
        self.replaced: dict[int, int] = {}  # write → the one that has taken its place
        self.increments = 0
        self.firsts: list[float] = []  # when each first value of a counter was made
        self.done: dict[int, list[tuple[float, int, int]]] = defaultdict(list)  # counter → when, bit, first value

    def _clock(self) -> float:
        return self._history.machine.clock

    def begin(self, key: int) -> Write:
        """Begin a write."""
        write = Write(len(self.writes), key, self._clock())
        self.writes.append(write)
        return write

    def end(self, write: Write, complete: bool, region: Region | None = None) -> None:
        """End it. ``region`` is the host whose processes read it from now on, whoever they ask; None if it may not."""
        write.ended = self._clock()
        if complete:
            write.acknowledged = write.ended
        if region is not None and self._history.plan.has_stable_owners and write.began > STABLE:
            latest = self.own.get((region.number, write.key), -1.0)
            self.own[region.number, write.key] = max(latest, write.began)

    def invalidated(self, key: int, began: float) -> None:
        """Note a complete invalidation."""
        self.events[key].append((began, self._clock()))

    def replace(self, write: Write, base: int) -> None:
        """Note that a write has taken the place of another one, if that was still there."""
        if self.writes[base].began > STABLE and self._history.plan.has_stable_owners:
            other = self.replaced.setdefault(base, write.number)
            if other != write.number:
                self._judge.fail(f"writes: {write.number} and {other} have both taken the place of write {base}")

    def floor(self, key: int, region: Region) -> Bound:
        """Return what a read of a host's process is entitled to that begins now."""
        now = self._clock()
        began = [write.began for write in self.writes if write.key == key and write.acknowledged <= now]
        began += [begun for begun, acknowledged in self.events[key] if acknowledged <= now]
        began.append(self.own.get((region.number, key), -1.0))
        return Bound(max(began, default=-1.0), self._old(key, now - 1.1 * self._history.lease - MARGIN))

    def check(self, key: int, payload: bytes, bound: Bound, who: str, where: str) -> None:
        """End the run if a read must not be given what a write has stored."""
        if key >= FIRST_COUNTER:
            self._check_count(key, payload, bound.counted, f"{who} ({where})")
            return
        number, of = UNIT.unpack(payload)
        if of != key:
            self._judge.fail(f"{who} was given a value of key {of} for key {key} ({where})")
        write = self.writes[number]
        if write.ended < bound.began:
            self._judge.fail(
                f"writes: {who} was given write {number} of key {key} ({where}), which had ended at "
                f"{write.ended:.4f}, after a call that began at {bound.began:.4f} was acknowledged"
            )

    # --- Counters

    def counter(self) -> Item:
        """Return the counter of which there are bits left."""
        return item(FIRST_COUNTER + self.increments // BITS)

    def next_bit(self) -> tuple[Item, int]:
        """Return a counter, and the bit of the next increment."""
        self.increments += 1
        return item(FIRST_COUNTER + (self.increments - 1) // BITS), (self.increments - 1) % BITS

    def first(self, key: int, bit: int) -> int:
        """Return the first value of a counter that somebody finds missing."""
        self.firsts.append(self._clock())
        return (len(self.firsts) - 1) << BITS | 1 << bit

    def expected(self, key: int) -> int:
        """Return the increments that whoever counts at the owner now has to find."""
        return self._old(key, self._clock())

    def _old(self, key: int, before: float) -> int:
        return sum(1 << bit for at, bit, _ in self.done[key] if at <= before)

    def counted(self, key: int, bit: int, payload: bytes, began: float, expected: int, who: str) -> None:
        """Note an increment, and end the run if it was not made on all that it has to include."""
        self._check_count(key, payload, expected | 1 << bit, who)
        self.done[key].append((self._clock(), bit, (unpack_integer(payload) or 0) >> BITS))

    def _check_count(self, key: int, payload: bytes, expected: int, who: str) -> None:
        value = unpack_integer(payload) or 0
        first, counted = value >> BITS, value & (1 << BITS) - 1
        begun = min(BITS, self.increments - (key - FIRST_COUNTER) * BITS)
        if counted >> begun:
            self._judge.fail(f"counter: {who} has {counted:b} of counter {key}, and only {begun} were begun")
        if not self._history.plan.has_stable_owners or self.firsts[first] < STABLE:
            return
        same = sum(1 << bit for _, bit, of in self.done[key] if of == first)
        missing = expected & same & ~counted
        if missing:
            self._judge.fail(f"counter: {who} has {counted:b} of counter {key}, without {missing:b}")
