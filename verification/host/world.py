"""A simulated host with its processes, and what their threads do there: as little as possible around the core."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from colocache.core.entry import DEAD
from colocache.core.host.board import PAGE, Board, Label
from colocache.core.host.claims import AGAIN, HINT_WORDS, HINTS, LAST_PAUSE, Claims, Lead, Load, Sleep
from colocache.core.host.claims import Value as Loaded
from colocache.core.host.hashes import ANY_TAG, ROOT, WRITES, key_hash, namespace_hash, tag_hash
from colocache.core.host.layout import BUCKET, Geometry, ShelfMemory
from colocache.core.host.numbers import Numbers
from colocache.core.host.record import Miss, Outcome, Record
from colocache.core.host.shelf import Shelf
from colocache.core.hosts import layout
from colocache.core.hosts.lease import FOREVER
from colocache.core.hosts.log import HostLog
from colocache.core.near import NearStore
from verification.host.machine import (
    WORD,
    Machine,
    Process,
    SimulatedBytes,
    SimulatedClaimLocks,
    SimulatedFences,
    SimulatedLaneLocks,
    SimulatedNumbers,
    SimulatedRingLocks,
    SimulatedWords,
    State,
    Thread,
    Violation,
)
from verification.host.oracle import Fact, Knowledge, Oracle, Thing, Value

PATIENCE = 10.0  # s


def small_geometry(small: int = 1024, main: int = 3072, ways: int = 32, rings: int = 1) -> Geometry:
    """Return a shelf of a few records, whose logs turn over, and whose buckets overflow."""
    ring_size = small + main
    index = 64 * (1 + rings)
    used = index + WORD * rings * ways
    ghosts = used + -(-rings * ways // 64) * 64
    data = ghosts + 64 * rings
    return Geometry(
        capacity=rings * ring_size, rings=rings, ring_size=ring_size, small_size=small, ways=rings * ways,
        ring_ways=ways, ring_ghosts=16, max_value=main // 4, max_record=main // 3, index_offset=index,
        used_offset=used, ghosts_offset=ghosts, data_offset=data, total_size=data + rings * ring_size,
    )  # fmt: skip


#: So many words of the head of the file `hosts`, and so many slots of each lane, are in the simulated memory.
LOG_HEAD, LOG_SLOTS = 128, 4


class LogWords:
    """The words of the log of a host. Slots whose numbers differ by `LOG_SLOTS` are one and the same."""

    def __init__(self, machine: Machine) -> None:
        self._slots = LOG_SLOTS * layout.SLOT_WORDS
        count = LOG_HEAD + layout.LANES * self._slots
        self._words = SimulatedWords(machine, machine.allocate(WORD * count), count)

    def _place(self, place: int) -> int:
        lane, word = divmod(place - layout.LANES_AT, layout.LANE_WORDS)
        return place if lane < 0 else LOG_HEAD + lane * self._slots + word % self._slots

    def __getitem__(self, place: int, /) -> int:
        return self._words[self._place(place)]

    def __setitem__(self, place: int, value: int, /) -> None:
        self._words[self._place(place)] = value

    @staticmethod
    def size() -> int:
        """Return the bytes that a machine needs for them."""
        return WORD * (LOG_HEAD + layout.LANES * LOG_SLOTS * layout.SLOT_WORDS)


class Memory:
    """The shared memory of a host, in a machine."""

    def __init__(self, machine: Machine, marks: int, geometry: Geometry) -> None:
        self.machine = machine
        self.geometry = geometry
        self.mark_count = marks
        self.hints = SimulatedWords(machine, machine.allocate(WORD * HINTS * HINT_WORDS), HINTS * HINT_WORDS)
        self.bell = SimulatedWords(machine, machine.allocate(WORD), 1)
        self.marks = SimulatedWords(machine, machine.allocate(WORD * (1 + marks)), 1 + marks)
        self.shelf_offset = machine.allocate(geometry.total_size)
        self.log = LogWords(machine)

    @staticmethod
    def size(marks: int, geometry: Geometry, more: int = 0) -> int:
        """Return the bytes that a machine needs for that."""
        return WORD * (1 + marks + HINTS * HINT_WORDS) + geometry.total_size + LogWords.size() + more + 320

    def shelf(self, grow: Callable[[int, int], bool]) -> ShelfMemory:
        """Return the shelf's memory, as one process uses it."""
        machine, geometry, start = self.machine, self.geometry, self.shelf_offset
        index = SimulatedWords(machine, start + geometry.index_offset, geometry.ways)
        return ShelfMemory(
            geometry=geometry,
            head=SimulatedWords(machine, start, geometry.index_offset // WORD),
            index=index,
            bucket=lambda start: index.several(start >> 3, BUCKET),
            used=SimulatedNumbers(machine, start + geometry.used_offset, geometry.ways, 1),
            ghosts=SimulatedNumbers(
                machine, start + geometry.ghosts_offset, geometry.rings * geometry.ring_ghosts, 4
            ),
            data=SimulatedBytes(machine, start, geometry.total_size),
            words=SimulatedWords(machine, start, geometry.total_size // WORD),
            grow=grow,
        )  # fmt: skip


class Copy:
    """A near copy: what `NearStore.lets` wants of an entry."""

    def __init__(self, label: Label, expires: float, value: Value) -> None:
        self.label = label
        self.expires = expires
        self.bell: int | None = None
        self.until = DEAD
        self.value = value

    def die(self) -> None:
        """Be served no more."""
        self.expires = self.until = DEAD


class Caller:
    """A call that may get the duty to load."""

    def __init__(self) -> None:
        self.load: Load | None = None


class LoaderFailed(Exception):
    """What a loader raises."""


class Host:
    """What one simulated process has of the host."""

    def __init__(self, world: World, name: str, writer: int) -> None:
        self.world = world
        machine = world.machine
        self.process = machine.process(name)
        self.numbers = Numbers(writer)
        self.fences = SimulatedFences(machine)
        memory = world.memory
        self.board = Board(memory.bell, memory.marks, memory.mark_count, self.numbers, self.fences)
        self.near = NearStore(1 << 20, "lru", self.board, self.fences, FOREVER)
        self.locks = SimulatedRingLocks(machine, self.process)
        self.shelf = Shelf(
            memory.shelf(lambda start, end: True), self.board, self.numbers, self.fences, self.locks,
            lambda: machine.clock, FOREVER,
        )  # fmt: skip
        self.claims = self.new_claims()
        self.log = HostLog(memory.log, SimulatedLaneLocks(machine, self.process), self.fences, lambda lane: True)
        self.copies: dict[int, Copy] = {}

    def new_claims(self) -> Claims:
        """Return a table of loads with nothing in it."""
        world = self.world
        return Claims(
            self.shelf, SimulatedClaimLocks(world.machine, self.process), world.memory.hints,
            self.numbers, self.fences, world.wake,
        )  # fmt: skip

    def spawn(self, body: Callable[[], object], name: str = "") -> Thread:
        """Start a thread."""
        return self.world.machine.thread(self.process, name or self.process.name, body)

    def fork(self, name: str) -> Host:
        """Return a child, which has the near copies, and forgets the rest."""
        child = self.world.host(name)
        for key, copy in self.copies.items():
            child.copies[key] = again = Copy(copy.label, copy.expires, copy.value)
            again.bell = copy.bell
        return child

    # --- Events

    def invalidate(self, *things: Thing) -> None:
        """Invalidate things, and tell everybody once the call has returned."""
        self.world.machine.yield_now()
        began = self.world.oracle.now()
        self.stamp_and_ring(things)
        self.world.tell(*[("event", thing, began) for thing in things])

    def invalidate_untold(self, *things: Thing) -> None:
        """Invalidate things, of which nobody is told, and make no system call."""
        began = self.world.oracle.now()
        self.stamp_and_ring(things)
        self.world.oracle.learn(*[("event", thing, began) for thing in things])

    def stamp_and_ring(self, things: Iterable[Thing]) -> None:
        """Do what an invalidation does."""
        hashes = [self.world.hash_of(thing) for thing in things]
        related = len(hashes) > 1 or not all(isinstance(thing, int) for thing in things)
        if any(isinstance(thing, str) and thing.startswith("tag") for thing in things):
            self.board.stamp((ANY_TAG,))
            self.fences.order()
        self.board.invalidate(hashes, related=related)

    # --- Near copies without a shelf

    def load_near(self, key: int, *others: Thing) -> None:
        """Load a value, and keep a near copy."""
        things = ("all", key, *others)
        self.world.machine.yield_now()
        self.world.hear()
        label = self.board.label(self.hashes_in_order(key, others))
        self.fences.order()
        self.world.machine.yield_now()
        self.keep(key, label, self.world.oracle.value("load", key, things))

    def keep(self, key: int, label: Label, value: Value, expires: float = math.inf) -> None:
        """Keep a near copy."""
        self.copies[key] = Copy(label, expires, value)

    def copy(self, record: Copy, key: int) -> None:
        """Keep a near copy of a record, if it is current."""
        self.world.machine.yield_now()
        if self.board.stands(record.label):
            self.keep(key, record.label, record.value)

    def read_near(self, key: int) -> bool:
        """Read a near copy, if there is one that may be served."""
        world = self.world
        known = world.begin()
        copy = self.copies.get(key)
        if copy is not None and self.lets(copy):
            world.hits += 1
            world.oracle.check(copy.value, known, world.machine.current.name)
            return True
        return False

    def lets(self, copy: Copy) -> bool:
        """Tell whether a near copy may be served, by the core's rule."""
        return self.near.lets(copy, self.world.machine.clock)  # type: ignore[arg-type]

    # --- With a shelf

    def hashes(self, others: Iterable[Thing]) -> tuple[int, ...]:
        """Return the hashes of what a value depends on beside its key, as the shelf wants them."""
        return (ROOT, *map(self.world.hash_of, others))

    def hashes_in_order(self, key: int, others: Iterable[Thing]) -> tuple[int, ...]:
        """Return the hashes of all that a value depends on, in the order of labels."""
        hash = self.world.hash_of(key)
        return (ROOT, hash, hash ^ WRITES, *map(self.world.hash_of, others))

    def read(self, key: int) -> Value | None:
        """Read a key near, or on the shelf, and judge what is found."""
        return self._judge(key, self.world.begin())

    def _judge(self, key: int, known: Knowledge) -> Value | None:
        world = self.world
        who = world.machine.current.name
        copy = self.copies.get(key)
        if copy is not None and self.lets(copy):
            world.oracle.check(copy.value, known, f"{who} (near)")
            return copy.value
        record = self.shelf.find(world.wire(key), world.hash_of(key), world.machine.clock)
        return None if record is None else self.use(key, record, known)

    def use(self, key: int, record: Record, known: Knowledge) -> Value:
        """Judge the value of a record, and keep it near."""
        world = self.world
        value = world.oracle.unpack(record.payload, key)
        world.oracle.check(value, known, world.machine.current.name)
        self.keep(key, record.label, value, record.expires)
        return value

    def miss(self, key: int, *others: Thing) -> Record | Miss:
        """Look for a key, before a load."""
        world = self.world
        return self.shelf.look(world.wire(key), world.hash_of(key), self.hashes(others), world.machine.clock)

    def load(self, key: int, *others: Thing, size: int = 16, parts: Sequence[int] = ()) -> Value:
        """Read a key, or load it, of other keys perhaps, and fill."""
        world = self.world
        known = world.begin()
        found = self.miss(key, *others)
        if isinstance(found, Record):
            return self.use(key, found, known)
        read_at = world.oracle.now()
        bases = [self._judge(part, self.world.begin()) or self.load(part, *others) for part in parts]
        world.machine.yield_now()
        value = world.oracle.value("load", key, ("all", key, *others), bases, read_at if parts else 0)
        world.machine.yield_now()
        world.oracle.check(value, known, world.machine.current.name)
        self.fill(key, value, found, size)
        return value

    def fill(self, key: int, value: Value, miss: Miss, size: int = 16, expires: float = math.inf) -> Outcome:
        """Store what was loaded after a miss."""
        world = self.world
        outcome, _ = self.shelf.fill(
            world.wire(key), world.hash_of(key), world.oracle.payload(value, size), miss, expires
        )  # fmt: skip
        if outcome is not Outcome.REFUSED:
            self.keep(key, miss.label, value, expires)
        return outcome

    def get_or_load(
        self, key: int, *others: Thing, patience: float = PATIENCE, loader: Callable[[], object] = lambda: None
    ) -> Value:
        """Read a key, or have it loaded by one of all that miss it."""
        world = self.world
        known = world.begin()
        copy = self.copies.get(key)
        if copy is not None and self.lets(copy):
            world.oracle.check(copy.value, known, f"{world.machine.current.name} (near)")
            return copy.value
        call = Caller()
        found = self._drive(
            self.claims.find_or_lead(
                call, world.wire(key), world.hash_of(key), self.hashes(others), world.machine.clock, patience
            )
        )
        if isinstance(found, Record):
            return self.use(key, found, known)
        if isinstance(found, Loaded):
            value: Value = found.value
            world.oracle.check(value, known, f"{world.machine.current.name}, who waited,")
            return value
        return self._lead(found, key, others, known, loader)

    def _lead(
        self, lead: Lead, key: int, others: Sequence[Thing], known: Knowledge, loader: Callable[[], object]
    ) -> Value:
        """Do what the caller of a load does."""
        world = self.world
        outcome: object = AGAIN
        world.loads += 1
        world.late += lead.late
        try:
            world.machine.yield_now()
            value = world.oracle.value("load", key, ("all", key, *others))
            loader()
            world.machine.yield_now()
            world.oracle.check(value, known, world.machine.current.name)
            self.fill(key, value, lead.load.miss)
            outcome = Loaded(value)
            return value
        finally:
            self.claims.end(lead.load, outcome)

    def _drive(self, flow: Generator[Sleep, tuple[float, Any], Any]) -> Any:
        """Carry out the steps of a flow in this thread."""
        machine = self.world.machine
        try:
            step = next(flow)
            while True:
                machine.yield_now()
                woken: list[Any] = []
                step.register(woken.append)
                began = machine.clock
                machine.wait(lambda woken=woken: bool(woken), until=began + step.seconds)  # type: ignore[misc]
                if not woken and step.seconds > 2 * LAST_PAUSE:
                    self.world.waited_out += 1
                step = flow.send((machine.clock, woken[0] if woken else None))
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    def set(self, key: int, *others: Thing, size: int = 16, expires: float = math.inf, untold: bool = False) -> bool:
        """Set a value, and tell everybody."""
        world = self.world
        began = self._begin_to_write()
        value = world.oracle.value("set", key, ("all", key, *others))
        outcome, _ = self.shelf.set(
            world.wire(key), world.hash_of(key), world.oracle.payload(value, size), self.hashes(others), expires
        )  # fmt: skip
        stored = outcome is Outcome.STORED
        self._end_write(value, began, stored, untold)
        if not stored:
            world.tell(("event", key, began))
        return stored

    def _begin_to_write(self) -> int:
        self.world.machine.yield_now()
        self.world.hear()
        return self.world.oracle.now()

    def _end_write(self, value: Value, began: int, stored: bool, untold: bool = False) -> None:
        world = self.world
        world.machine.yield_now()
        value.ended = world.oracle.now()
        if stored:
            facts: list[Fact] = [("write", (value.key, value.number), began)]
            if value.what == "incr":
                facts.append(("count", value.first, value.number))
            if untold:
                world.oracle.learn(*facts)
            else:
                world.tell(*facts)

    def add(self, key: int, *others: Thing) -> Value | None:
        """Set a value if there is none."""
        world = self.world
        began = self._begin_to_write()
        value = world.oracle.value("add", key, ("all", key, *others))
        outcome, _ = self.shelf.add(
            world.wire(key), world.hash_of(key), world.oracle.payload(value), self.hashes(others), math.inf
        )
        self._end_write(value, began, outcome is Outcome.STORED)
        return value if outcome is Outcome.STORED else None

    def incr(self, key: int, *others: Thing, start: bool = True) -> Value | None:
        """Count, from a first value if there is none."""
        world = self.world
        began = self._begin_to_write()
        known = world.oracle.knowledge().copy()
        made: list[Value] = []

        def decide(record: Record | None) -> tuple[bytes, float] | None:
            if record is None:
                if not start:
                    return None
                value = world.oracle.value("add", key, ("all", key, *others))
            else:
                base = world.oracle.unpack(record.payload, key)
                world.oracle.check(base, known, f"{world.machine.current.name}, who counts,")
                value = world.oracle.count(base)
            made.append(value)
            return world.oracle.payload(value), math.inf

        outcome, _ = self.shelf.change(world.wire(key), world.hash_of(key), decide, self.hashes(others))
        if not made:
            return None
        self._end_write(made[-1], began, outcome is Outcome.STORED)
        return made[-1] if outcome is Outcome.STORED else None

    def touch(self, key: int, expires: float = math.inf) -> bool:
        """Give a value another expiry."""
        world = self.world
        self._begin_to_write()
        known = world.oracle.knowledge().copy()

        def decide(record: Record | None) -> tuple[bytes, float] | None:
            if record is None:
                return None
            world.oracle.check(world.oracle.unpack(record.payload, key), known, world.machine.current.name)
            return bytes(record.payload), expires

        outcome, _ = self.shelf.change(world.wire(key), world.hash_of(key), decide, (ROOT,))
        return outcome is Outcome.STORED

    def gets(self, key: int) -> tuple[Value, int, int, int] | None:
        """Return a value, what `cas` wants of it, and when it was read."""
        world = self.world
        known = world.begin()
        any_tag = self.any_tag()
        self.fences.order()
        record = self.shelf.find(world.wire(key), world.hash_of(key), world.machine.clock)
        if record is None:
            return None
        return self.use(key, record, known), record.version, any_tag, world.oracle.now()

    def cas(self, key: int, got: tuple[Value, int, int, int], *others: Thing) -> bool:
        """Set a value that is made of what `gets` has returned, if that is still the present one."""
        world = self.world
        base, version, any_tag, read_at = got
        began = self._begin_to_write()
        known = world.oracle.knowledge().copy()
        value = world.oracle.value("cas", key, ("all", key, *others), (base,), read_at)
        outcome, _ = self.shelf.replace(
            world.wire(key), world.hash_of(key), version, world.oracle.payload(value), self.hashes(others), math.inf,
            lambda: self.any_tag() == any_tag,
        )  # fmt: skip
        stored = outcome is Outcome.STORED
        if stored:
            world.oracle.check(base, known, f"{world.machine.current.name}, who compares and sets,")
        self._end_write(value, began, stored)
        return stored

    def any_tag(self) -> int:
        """Return the stamp of all tags together."""
        return self.board.marks[self.board.marks_of(ANY_TAG)[0]]

    def set_fenced(self, key: int, miss: Miss, any_tag: int, read_at: int, *others: Thing) -> bool:
        """Set what was made after a miss; the tags were not known then."""
        world = self.world
        began = self._begin_to_write()
        value = world.oracle.value("fenced", key, ("all", key, *others), (), read_at)
        if others:
            miss = miss._replace(label=miss.label + self.board.label([world.hash_of(thing) for thing in others]))
            self.fences.order()
            if self.any_tag() != any_tag:
                return False
        outcome, _ = self.shelf.set_fenced(
            world.wire(key), world.hash_of(key), world.oracle.payload(value), miss, math.inf
        )
        stored = outcome is Outcome.STORED
        self._end_write(value, began, stored)
        if outcome in (Outcome.BUSY, Outcome.DECLINED):
            world.tell(("event", key, began))
        return stored

    def miss_and_set(self, key: int, *others: Thing) -> bool:
        """Miss a key, read the source, and set the value under the fence of the miss."""
        world = self.world
        known = world.begin()
        any_tag = self.any_tag()
        found = self.miss(key)
        if isinstance(found, Record):
            self.use(key, found, known)
            return False
        read_at = world.oracle.now()
        return self.set_fenced(key, found, any_tag, read_at, *others)


class World:
    """One simulated host."""

    def __init__(
        self, *, weak: bool, traced: bool = False, marks: int = PAGE, geometry: Geometry | None = None
    ) -> None:
        geometry = geometry or small_geometry()
        self.machine = Machine(Memory.size(marks, geometry), weak=weak, traced=traced)
        self.memory = Memory(self.machine, marks, geometry)
        self.oracle = Oracle(self.machine)
        self.mortal: Sequence[Process] = ()
        self.hits = 0
        self.loads = 0
        self.late = 0  # loads beside somebody else's, because patience was over
        self.waited_out = 0  # long sleeps that nobody ended
        self.hosts: list[Host] = []
        self.hanging: Sequence[str] = ()  # threads that may still wait at the end
        self.at_end: list[Callable[[], object]] = []
        self._hashes: dict[Thing, int] = {"all": ROOT}

    def host(self, name: str) -> Host:
        """Return a new process."""
        host = Host(self, name, len(self.hosts) + 1)
        self.hosts.append(host)
        return host

    def hash_of(self, thing: Thing) -> int:
        """Return the hash of a thing: a number is a key, a text that begins with "tag" a tag, any other a namespace."""
        if thing not in self._hashes:
            if isinstance(thing, int):
                self._hashes[thing] = key_hash(self.wire(thing))
            else:
                name = str(thing)
                self._hashes[thing] = tag_hash(name) if name.startswith("tag") else namespace_hash(name)
        return self._hashes[thing]

    def rehash(self, thing: Thing, hash: int) -> None:
        """Give a thing another hash."""
        self._hashes[thing] = hash

    def wire(self, key: int) -> bytes:
        """Return a key's bytes."""
        return b"%d" % key

    def begin(self) -> Knowledge:
        """Begin a read. It hears what was told, which takes a system call; and none if there is nothing to hear."""
        self.machine.yield_now()
        self.hear()
        return self.oracle.knowledge()

    def hear(self) -> None:
        """Have the current thread hear what was told."""
        if self.oracle.hear():
            self._enter_the_kernel()

    def tell(self, *facts: Fact) -> None:
        """Tell everybody of calls that have returned."""
        self.oracle.learn(*facts)
        self.machine.yield_now()
        self._enter_the_kernel()
        self.oracle.announce(facts)

    def _enter_the_kernel(self) -> None:
        machine = self.machine
        machine.drain_all(machine.current)
        machine.refresh(machine.current)

    def wake(self, hash: int) -> None:
        """Do what the bus does when a load has ended for which others wait."""
        for host in self.hosts:
            host.claims.wake(hash)

    def finish(self) -> None:
        """Look at what is to hold at the end: nobody hangs, and whatever the scenario says."""
        for thread in self.machine.threads:
            if not thread.is_over and thread.process.state is State.RUNS and thread.name not in self.hanging:
                raise Violation(f"{thread.name} hangs")
        for look in self.at_end:
            look()
