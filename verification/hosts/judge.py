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
written by a call that had ended before that one began. A counter has each increment that the reader may expect, once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from verification.host.machine import Violation

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

    def fail(self, text: str) -> None:
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


class Writes:
    """Judges the values of keys that are written, and counters."""

    def __init__(self, judge: Judge, history: History) -> None:
        self._judge = judge
        self._history = history
        self.writes: list[Write] = []
        self.events: dict[int, list[tuple[float, float]]] = defaultdict(list)  # key → invalidations: begun, acknowledged

    def begin(self, key: int) -> Write:
        """Begin a write."""
        write = Write(len(self.writes), key, self._history.machine.clock)
        self.writes.append(write)
        return write

    def end(self, write: Write, complete: bool) -> None:
        """End it."""
        write.ended = self._history.machine.clock
        if complete:
            write.acknowledged = write.ended

    def floor(self, key: int) -> float:
        """Return when the latest write or invalidation of a key began that binds a read which begins now."""
        now = self._history.machine.clock
        began = [write.began for write in self.writes if write.key == key and write.acknowledged <= now]
        began += [begun for begun, acknowledged in self.events[key] if acknowledged <= now]
        return max(began, default=-1.0)

    def check(self, number: int, floor: float, who: str, where: str) -> None:
        """End the run if a read must not be given what a write has stored."""
        write = self.writes[number]
        if write.ended < floor:
            self._judge.fail(
                f"writes: {who} was given write {number} of key {write.key} ({where}), which had ended at "
                f"{write.ended:.4f}, after a call that began at {floor:.4f} was acknowledged"
            )
