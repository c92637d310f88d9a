"""Random histories of one shelf beside a dictionary: what is found, or kept near, is what is current, or nothing is."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from colocache.core.host import hashes
from colocache.core.host.record import Miss, Outcome, Record

from ..stateful import Machine, explore, machine_test
from .shelves import Host
from .test_logs import check

Tags = frozenset[str]

TAGS = ("s", "t")
ALL_TAGS = frozenset(TAGS)
numbers = st.integers(0, 3)
sizes = st.sampled_from((0, 5, 300, 1500, 4000, 9000))
tag_sets = st.frozensets(st.sampled_from(TAGS))
ends = st.sampled_from((math.inf, math.inf, 5.0))
pauses = st.sampled_from((0.0, 0.1, 5.0, 20.0))


class Value(NamedTuple):
    """What a key may be found with."""

    payload: bytes
    tags: Tags
    end: float


class Loading(NamedTuple):
    """A load under way."""

    number: int
    miss: Miss
    payload: bytes
    tags: Tags
    events: tuple[int, ...]


class ShelfMachine(Machine):
    """One process, or another one after its death, and what the source holds for each key."""

    @initialize(crowded=st.booleans())
    def begin(self, crowded: bool) -> None:
        self.host = Host()
        self.values: dict[int, list[Value]] = {}  # what is current; what was dropped may have been loaded once more
        self.loads: list[Loading] = []
        self.copies: list[tuple[int, Record]] = []
        self.versions: list[tuple[int, Record, tuple[int, ...]]] = []
        self.events = Counter[int | str]()  # by key, how many writes and invalidations there were; or by tag
        self.serial = 0
        for number in range(150 if crowded else 0):
            wire = b"crowd%d" % number
            self.host.shelf.set(wire, hashes.key_hash(wire), bytes(700), (hashes.ROOT,), math.inf)

    def payload(self, size: int) -> bytes:
        self.serial += 1
        return (b"%d." % self.serial * (size + 1))[: size + 8]

    @staticmethod
    def key(number: int) -> tuple[bytes, int]:
        wire = b"key%d" % number
        return wire, hashes.key_hash(wire)

    @staticmethod
    def things(tags: Tags) -> tuple[int, ...]:
        return (hashes.ROOT, *map(hashes.tag_hash, sorted(tags)))

    def current(self, number: int, record: Record) -> Value:
        """Return what a record has, which must be current."""
        value = next(value for value in self.values.get(number, ()) if value.payload == bytes(record.payload))
        assert record.expires == value.end > self.host.now
        return value

    def happened(self, number: int, *values: Value) -> None:
        """Note a write, or an invalidation."""
        self.values[number] = list(values)
        self.events[number] += 1

    def events_of(self, number: int, tags: Tags) -> tuple[int, ...]:
        return (self.events[number], *(self.events[tag] for tag in sorted(tags)))

    def written(self, number: int, outcome: Outcome, value: Value) -> None:
        if outcome is Outcome.STORED:
            self.happened(number, value)
            self.note("stored")

    def record(self, number: int) -> Record | None:
        return self.host.shelf.find(*self.key(number), self.host.now)

    # --- Writes

    @rule(number=numbers, size=sizes, tags=tag_sets, ttl=ends)
    def set(self, number: int, size: int, tags: Tags, ttl: float) -> None:
        value = Value(self.payload(size), tags, self.host.now + ttl)
        outcome, _ = self.host.shelf.set(*self.key(number), value.payload, self.things(tags), value.end)
        self.written(number, outcome, value)
        if outcome is not Outcome.STORED:
            self.note("declined")
            self.happened(number)

    @rule(number=numbers, size=sizes, tags=tag_sets, ttl=ends)
    def add(self, number: int, size: int, tags: Tags, ttl: float) -> None:
        value = Value(self.payload(size), tags, self.host.now + ttl)
        outcome, there = self.host.shelf.add(*self.key(number), value.payload, self.things(tags), value.end)
        if outcome is Outcome.REFUSED:
            assert there is not None
            self.current(number, there)
        self.written(number, outcome, value)

    @rule(number=numbers, size=sizes)
    def change(self, number: int, size: int) -> None:
        payload = self.payload(size)
        seen: list[Record | None] = []

        def decide(record: Record | None) -> tuple[bytes, float]:
            seen.append(record)
            return payload, record.expires if record else math.inf

        outcome, _ = self.host.shelf.change(*self.key(number), decide, (hashes.ROOT,))
        value = Value(payload, frozenset(), math.inf)
        if seen[-1] is not None:
            value = self.current(number, seen[-1])._replace(payload=payload)
            self.note("changed")
        self.written(number, outcome, value)

    @rule(number=numbers)
    def get_a_version(self, number: int) -> None:
        record = self.record(number)
        if record is not None:
            self.versions.append((number, record, self.events_of(number, ALL_TAGS)[1:]))

    @rule(data=st.data(), size=sizes, tags=tag_sets)
    def replace(self, data: st.DataObject, size: int, tags: Tags) -> None:
        if not self.versions:
            self.get_a_version(0)
        if not self.versions:
            return
        number, record, tag_events = self.versions.pop(data.draw(st.integers(0, len(self.versions) - 1)))
        value = Value(self.payload(size), tags, math.inf)
        outcome, _ = self.host.shelf.replace(
            *self.key(number), record.version, value.payload, self.things(tags), value.end,
            lambda: self.events_of(number, ALL_TAGS)[1:] == tag_events,
        )  # fmt: skip
        if outcome is Outcome.STORED:
            self.current(number, record)
            self.note("replaced")
        self.written(number, outcome, value)

    # --- Reads and loads

    @rule(number=numbers)
    def find(self, number: int) -> None:
        record = self.record(number)
        if record is not None:
            self.current(number, record)
            self.copies.append((number, record))
            self.note("found")

    @rule(number=numbers, tags=tag_sets, then=st.sampled_from(("wait", "fill", "set")))
    def look(self, number: int, tags: Tags, then: str) -> None:
        looked = self.host.shelf.look(*self.key(number), self.things(tags), self.host.now)
        if isinstance(looked, Miss):
            self.loads.append(Loading(number, looked, self.payload(200), tags, self.events_of(number, tags)))
            if then == "fill":
                self.end(-1)
            elif then == "set":
                self.set_it(-1, 300)
        else:
            self.current(number, looked)

    def load(self, place: int) -> tuple[Loading, bool]:
        """Return a load that ends, and whether nothing has happened meanwhile."""
        load = self.loads.pop(place)
        return load, load.events == self.events_of(load.number, load.tags)

    @rule(data=st.data(), before=st.sampled_from(("nothing", "invalidation", "set")))
    def fill(self, data: st.DataObject, before: str) -> None:
        if not self.loads:
            self.invalidate(0)
            self.look(0, frozenset(), "wait")
        place = data.draw(st.integers(0, len(self.loads) - 1))
        if before == "invalidation":
            self.invalidate(self.loads[place].number)
        elif before == "set":
            self.set(self.loads[place].number, 5, frozenset(), math.inf)
        self.end(place)

    def end(self, place: int) -> None:
        load, is_current = self.load(place)
        number, miss, payload, tags, *_ = load
        outcome, there = self.host.shelf.fill(*self.key(number), payload, miss, math.inf)
        assert there is not None
        if outcome is Outcome.REFUSED:
            self.current(number, there)
            self.note("refused")
            return
        assert outcome is Outcome.STORED
        waits = self.host.shelf.find_labelled(*self.key(number), miss.label, self.host.now, -math.inf)
        assert waits is not None
        assert waits.payload == payload, "who waits for this load is not given its value"
        record = self.record(number)
        if record is not None:
            assert record.payload == payload
            assert is_current, "what was loaded before an event is served"
            self.values.setdefault(number, []).append(Value(payload, tags, math.inf))
            self.note("filled")
        else:
            self.note("void")

    @rule(data=st.data(), size=sizes)
    def set_after_a_miss(self, data: st.DataObject, size: int) -> None:
        if not self.loads:
            return
        self.set_it(data.draw(st.integers(0, len(self.loads) - 1)), size)

    def set_it(self, place: int, size: int) -> None:
        load, is_current = self.load(place)
        value = Value(self.payload(size), load.tags, math.inf)
        outcome, _ = self.host.shelf.set_fenced(*self.key(load.number), value.payload, load.miss, value.end)
        if outcome is Outcome.STORED:
            assert is_current
            self.note("fenced")
        self.written(load.number, outcome, value)
        if outcome is Outcome.DECLINED:
            self.happened(load.number)

    # --- Events

    @rule(number=numbers)
    def invalidate(self, number: int) -> None:
        self.host.board.invalidate((self.key(number)[1],))
        self.happened(number)

    @rule(tag=st.sampled_from(TAGS))
    def invalidate_tag(self, tag: str) -> None:
        self.host.board.invalidate((hashes.tag_hash(tag),))
        self.events[tag] += 1
        for number, values in self.values.items():
            self.values[number] = [value for value in values if tag not in value.tags]

    @rule(pause=pauses)
    def wait(self, pause: float) -> None:
        self.host.now += pause

    @rule(number=numbers, size=sizes, counts=st.booleans(), after=st.integers(0, 60))
    def die(self, number: int, size: int, counts: bool, after: int) -> None:
        """The process dies in a write. What is there then is the old value, or the new one."""
        payload, tags = self.payload(size), frozenset[str]()
        before = self.record(number)
        if counts and before is None:
            return
        if before is not None and counts:
            tags = self.current(number, before).tags

        def write() -> None:
            if counts:
                self.host.shelf.change(*self.key(number), lambda record: (payload, math.inf), (hashes.ROOT,))
            else:
                self.host.shelf.set(*self.key(number), payload, (hashes.ROOT,), math.inf)

        died = self.host.dies(write, after)
        self.note("died" if died else "lived")
        record = self.record(number)
        new = Value(payload, tags, math.inf)
        if record is not None and bytes(record.payload) == payload:
            if died:  # older copies and loads may be current still: the call has not returned
                self.values.setdefault(number, []).append(new)
            else:
                self.happened(number, new)
        elif record is not None:
            self.current(number, record)
        elif not died and size < 9000:
            raise AssertionError("a value was set, and is not there")
        elif not died:
            self.happened(number)

    # --- What is always true

    @rule()
    def look_at_copies(self) -> None:
        standing: list[tuple[int, Record]] = []
        for number, record in self.copies:
            if record.expires > self.host.now and self.host.board.stands(record.label):
                self.current(number, record)
                standing.append((number, record))
                self.note("kept near")
        self.copies = standing

    @invariant()
    def is_sound(self) -> None:
        if hasattr(self, "host"):
            check(self.host)
            assert self.host.shelf.resets() == 0


@machine_test
def test_histories() -> None:
    explore(
        ShelfMachine, 100, 80,
        "found", "filled", "refused", "void", "stored", "changed", "replaced", "fenced", "kept near", "died",
        "declined",
    )  # fmt: skip
