"""What each read of a simulated host is entitled to.

**Knowledge.** A call binds those who know that it has returned: its own thread, and who was told. Telling and hearing
take system calls, which the caller of `announce` and `hear` sees to.

**Events.** Who knows that an invalidation of a thing has returned may not be given a value that depends on that thing
and was *born* before the call began. A loaded value is born when its source is read, and so is what was set under a
fence. Another value that was set is born when that call ends, since both are in either order until then. What is made
of other values is as old as those, but for the things on which they do not depend: then it counts when they were read.

**Writes.** Who knows that a write has returned is not given a value that was stored by a write that had ended before
that one began, nor one that was loaded, or set under a fence, and whose source was read before. What that write itself
has stored may be given, of course, although a set under a fence has read its source before it began.

**Expiry.** A value is not given to a reader that began when its expiry was over. It is known once the call has ended
that has written the value.

**Counters.** A read gives a value in which each increment counts that the reader knows of, and that was made on what
came of the same first value.

**Locks that do not exclude.** If a process has lost its locks, two may count at once, and one of the two is lost. Or a
set under a fence may look whether the key was written, and store its value after another write. Or a touch stores the
old value once more, after another write. So increments are not judged then, a set under a fence counts as any other
set, and a key that is touched may have an old value. All else holds: nobody is given what an event has made void, a
torn value, or a load from before a write.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Hashable, Sequence
from typing import Any, NoReturn

from verification.host.machine import Machine, Thread, Violation

Thing = Hashable
#: What a value depends on that is void once one event has named both it and its parts.
WITH_PARTS = "with parts"
UNIT = struct.Struct("<QQ")


class Value:
    """A value that somebody has loaded or written. On the shelf stands its number, and the key's, many times over."""

    __slots__ = ("bases", "counted", "ended", "expires", "first", "key", "number", "read_at", "things", "what")

    def __init__(self, number: int, key: int, things: Sequence[Thing], read_at: int, what: str) -> None:
        self.number = number
        self.key = key
        self.things = frozenset(things)
        self.what = what
        self.read_at = read_at  # when the source was read, or what it was made of; for a set: never
        self.ended: float = math.inf  # when the call ended that has written it
        self.expires: float = math.inf  # on the machine's clock, at the latest
        self.bases: tuple[Value, ...] = ()  # what it was made of
        self.first = number  # the first value of a counter
        self.counted: frozenset[int] = frozenset()

    def born(self, thing: Thing) -> float:
        """Return when the value was born, as far as a thing is concerned."""
        if thing == WITH_PARTS:
            return min([base.born(base.key) for base in self.bases])
        born = self.ended if self.what in ("set", "add") else self.read_at
        return min([born if thing not in base.things else base.born(thing) for base in self.bases], default=born)

    @property
    def since(self) -> float:
        """When it was read from the source, or its call had ended."""
        return self.read_at if self.what in ("load", "fenced") else self.ended

    def __repr__(self) -> str:
        return f"{self.what} {self.number}"


class Knowledge:
    """What a thread knows."""

    def __init__(self) -> None:
        self.heard = 0
        self.clock = 0.0  # the machine's, when the reader began
        self.events: dict[Thing, int] = {}  # thing → when the latest call began that invalidated it
        self.writes: dict[int, tuple[int, int]] = {}  # key → when the latest call began that wrote it, and its value
        self.counts: dict[int, set[int]] = {}  # first value of a counter → increments

    def copy(self) -> Knowledge:
        """Return the same for another thread, or for a later moment."""
        copy = Knowledge()
        copy.heard, copy.clock, copy.events, copy.writes = self.heard, self.clock, dict(self.events), dict(self.writes)
        copy.counts = {first: set(counted) for first, counted in self.counts.items()}
        return copy


#: An event: of what, and when it began. A write: the key and the value's number, and when it began. A count: the first
#: value, and the increment.
Fact = tuple[str, Any, int]


class Oracle:
    """Judges what readers are given."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.time = 0
        self.values: list[Value] = []
        self.facts: list[Fact] = []
        self.knows: dict[Thread, Knowledge] = {}
        self.is_exact = True  # whether the locks exclude
        self.touched: set[int] = set()  # keys whose value somebody has given another expiry

    def now(self) -> int:
        """Return the next moment. The machine's fingerprint takes note of who asked."""
        self.time += 1
        self._machine.note(self._machine.current.number, len(self.values), len(self.facts))
        return self.time

    def knowledge(self) -> Knowledge:
        """Return what the current thread knows."""
        return self.knows.setdefault(self._machine.current, Knowledge())

    def fail(self, text: str) -> NoReturn:
        """End the run with a violation."""
        self._machine.end(Violation(text))

    # --- Values

    def value(
        self, what: str, key: int, things: Sequence[Thing], bases: Sequence[Value] = (), read_at: int = 0
    ) -> Value:
        """Return a new value of a key; ``read_at`` is when its source, or what it is made of, was read, if not now."""
        value = Value(len(self.values), key, things, read_at or self.now(), what)
        value.bases = tuple(bases)
        self.values.append(value)
        return value

    def count(self, base: Value) -> Value:
        """Return an increment of a counter."""
        value = self.value("incr", base.key, tuple(base.things), (base,))
        value.first = base.first
        value.counted = base.counted | {value.number}
        return value

    def payload(self, value: Value, size: int = 16) -> bytes:
        """Return what stands on the shelf for a value."""
        return UNIT.pack(value.number, value.key) * max(1, size // UNIT.size)

    def unpack(self, payload: bytes | memoryview, key: int) -> Value:
        """Return the value that a payload stands for; it must be whole, and the key's."""
        raw = bytes(payload)
        unit = raw[: UNIT.size]
        if len(unit) != UNIT.size or raw != unit * (len(raw) // UNIT.size):
            self.fail(f"a torn value was served for key {key}")
        number: int
        number, of = UNIT.unpack(unit)
        if of != key or number >= len(self.values):
            self.fail(f"a foreign value was served for key {key}: {number} of {of}")
        return self.values[number]

    # --- Knowledge

    def learn(self, *facts: Fact) -> list[Fact]:
        """Have the current thread know of calls that have returned."""
        _learn(self.knowledge(), facts)
        return list(facts)

    def announce(self, facts: Sequence[Fact]) -> None:
        """Tell everybody."""
        self.facts.extend(facts)
        self.now()

    def hear(self) -> bool:
        """Have the current thread know of all that was announced; return False if there is nothing new."""
        knowledge = self.knowledge()
        if knowledge.heard == len(self.facts):
            return False
        _learn(knowledge, self.facts[knowledge.heard :])
        knowledge.heard = len(self.facts)
        self.now()
        return True

    # --- Judging

    def check(self, value: Value, known: Knowledge, who: str) -> None:
        """End the run if a reader who knew that when it began must not be given a value."""
        for thing, began in known.events.items():
            if thing in value.things and value.born(thing) < began:
                self.fail(f"{who} was given the stale {value} of key {value.key}, after {thing} was invalidated")
        began, number = known.writes.get(value.key, (0, 0))
        since = value.since if self.is_exact or value.what != "fenced" else value.ended
        is_judged = self.is_exact or value.key not in self.touched
        if since < began and value.number != number and is_judged:
            self.fail(f"{who} was given the old {value} of key {value.key}, after a write")
        if value.expires <= known.clock:
            self.fail(f"{who} was given the {value} of key {value.key} at {known.clock}, expired at {value.expires}")
        missing = known.counts.get(value.first, set()) - value.counted
        if missing and self.is_exact:
            self.fail(f"{who} was given the counter {value} of key {value.key}, without {missing}")


def _learn(knowledge: Knowledge, facts: Sequence[Fact]) -> None:
    for kind, what, at in facts:
        if kind == "event":
            knowledge.events[what] = max(at, knowledge.events.get(what, 0))
        elif kind == "write":
            key, number = what
            knowledge.writes[key] = max((at, number), knowledge.writes.get(key, (0, 0)))
        else:
            knowledge.counts.setdefault(what, set()).add(at)
