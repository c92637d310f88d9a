"""Random histories: several processes and threads read, write and invalidate a few keys; and every read is judged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from colocache.core.entry import MISSING
from colocache.core.keys import Key
from colocache.core.receipt import Receipt
from colocache.operations import atomic, invalidate, write
from colocache.operations.drive import finish
from colocache.operations.fenced import Token
from colocache.operations.flow import Flow
from verification.host.dice import Dice
from verification.host.machine import Machine, State, Violation
from verification.host.oracle import WITH_PARTS, Fact, Knowledge, Oracle, Thing, Value
from verification.host.processes import Computer, Worker, clock_of
from verification.host.shelf_scenarios import check_ring
from verification.host.world import Memory, small_geometry

EPOCH = 64  # bits: what stands above them in a counter tells from which first value it was counted
COUNTS = 60  # increments of one counter, each by a bit of its own, so that a sum tells which ones it has
NAMESPACES = ("", "n")
TAGS = ("tag a", "tag b")


class Item(NamedTuple):
    """A key, and what its values always depend on."""

    number: int
    path: str
    key: Key
    things: tuple[Thing, ...]


def _item(number: int, path: str) -> Item:
    return Item(number, path, f"k{number}", ("all", number) if not path else ("all", path, number))


VALUES = tuple(_item(number, path) for number, path in ((1, ""), (2, "n"), (3, ""), (4, "n"), (5, "")))
COUNTERS = tuple(_item(number, path) for number, path in ((11, ""), (12, "n")))
PAGE = _item(21, "")  # made of the values 1 and 3, by a loader that reads them through the cache
PARTS = (VALUES[0], VALUES[2])


class Plan(NamedTuple):
    """What is drawn for a history."""

    seed: int
    kind: str
    weak: bool
    processes: int
    threads: int
    operations: int
    small: int  # bytes of the small log
    main: int
    ways: int
    marks: int
    pace: float
    holds: float
    ages: float
    gives_up: float
    faults: float
    kills: bool
    stops: bool
    forks: bool
    loses: bool
    is_slow: bool  # the loaders
    fails: float  # of the loaders
    roomy: bool  # nothing is ever dropped to make room
    values: tuple[Item, ...]  # that it is about
    counters: tuple[Item, ...]
    pages: tuple[Item, ...]
    weights: tuple[int, ...]  # of the acts


#: Nothing unusual, small logs that turn over all the time, processes that are killed, stopped, forked, or lose their
#: record locks without notice, loaders that are slow or raise, and all of these together.
KINDS = ("calm", "tiny", "kill", "stop", "fork", "lost-locks", "slow-loads", "all")


def draw(seed: int, kind: str) -> Plan:
    """Draw a history of a kind.

    It is about some of the keys only, and does some things often and others never: what goes wrong between two of them
    is found sooner where there is little else (Groce, Zhang, Eide, Chen and Regehr, "Swarm testing", ISSTA 2012).
    """
    random = Random(f"{kind} {seed}")
    everything = kind == "all"
    roomy = kind in ("calm", "kill") or (kind in ("stop", "fork") and random.random() < 0.5)
    sizes = ((1024, 3072, 16), (1024, 2048, 32), (2048, 6144, 8))
    small, main, ways = (8192, 57344, 256) if roomy else random.choice(sizes)
    return Plan(
        seed=seed, kind=kind, weak=random.random() < 0.4,
        processes=random.choice((2, 2, 3, 4)), threads=random.choice((1, 1, 2)), operations=random.randint(8, 20),
        small=small, main=main, ways=ways, marks=4096 if roomy else 512,
        pace=random.choice((2, 5, 15, 40, 120)), holds=random.choice((0, 0.05, 0.3)),
        ages=random.choice((0, 0.05, 0.3)), gives_up=random.choice((0, 0.05)),
        faults=random.choice((0.0, 0.02) if kind in ("calm", "tiny", "slow-loads") else (0.01, 0.05, 0.2)),
        kills=kind == "kill" or everything, stops=kind == "stop" or everything, forks=kind == "fork" or everything,
        loses=kind == "lost-locks" or (everything and random.random() < 0.3),
        is_slow=kind == "slow-loads" or everything, fails=0.1 if kind == "slow-loads" or everything else 0.0,
        roomy=roomy,
        values=tuple(random.sample(VALUES, random.choice((1, 1, 2, 3, 5)))), counters=tuple(random.sample(COUNTERS, 1)),
        pages=(PAGE,) if random.random() < 0.5 else (), weights=_weights(random, kind),
    )  # fmt: skip


#: What an `Actor` does, and how often.
WEIGHTS = {
    "read_something": 30,
    "read_over_and_over": 15,
    "load_something": 30,
    "invalidate_something": 14,
    "set_something": 10,
    "count_something": 14,
    "add_something": 4,
    "compare_and_set_something": 6,
    "touch_something": 3,
    "set_something_under_a_fence": 6,
    "set_much": 8,  # where there is little room
}


def _weights(random: Random, kind: str) -> tuple[int, ...]:
    weights = {act: weight * random.choice((0, 1, 1, 3)) for act, weight in WEIGHTS.items()}
    for act in ("read_something", "load_something"):
        weights[act] = max(weights[act], 10)
    if kind not in ("tiny", "all", "lost-locks"):
        weights["set_much"] = 0
    return tuple(weights.values())


@dataclass
class Result:
    """What became of a history."""

    seed: int
    kind: str
    violation: str = ""
    counts: Counter[str] = field(default_factory=Counter)


class LoaderFailed(Exception):
    """What a loader raises."""


@dataclass
class Drop:
    """A call that may have dropped what depends on a thing."""

    thing: Thing
    ended: float = math.inf


class History:
    """One history."""

    def __init__(self, plan: Plan, *, tells: bool = False) -> None:
        """``tells`` keeps its story."""
        self.plan = plan
        self.tells = tells
        self.story: list[str] = []
        self.result = Result(plan.seed, plan.kind)
        self.counts = self.result.counts
        geometry = small_geometry(plan.small, plan.main, plan.ways)
        self.machine = Machine(Memory.size(plan.marks, geometry), weak=plan.weak)
        self.memory = Memory(self.machine, plan.marks, geometry)
        self.oracle = Oracle(self.machine)
        self.random = Random(f"faults {plan.kind} {plan.seed}")
        self.computer = Computer(self.memory, NAMESPACES, self.random)
        self.values: dict[int, Value] = {}  # by number, for what stands in the cache
        self.bits: dict[int, list[Value]] = {item.number: [] for item in COUNTERS}  # increments, by their bits
        self.drops: list[Drop] = []
        self.locks_were_lost = False
        self.children = 0

    def go(self) -> Result:
        """Run it."""
        plan = self.plan
        dice = Dice(
            Random(f"dice {plan.kind} {plan.seed}"), pace=plan.pace, holds=plan.holds, ages=plan.ages,
            gives_up=plan.gives_up, fault=self._fault, faults=plan.faults,
        )  # fmt: skip
        with clock_of(self.machine):
            try:
                for number in range(plan.processes):
                    self._start(self.computer.worker(f"P{number}"), plan.operations)
                self.machine.run(dice)
                self._finish()
            except Exception as error:
                violated = isinstance(error, Violation)
                self.result.violation = str(error) if violated else f"{type(error).__name__}: {error}"
            finally:
                self.machine.close()
        return self.result

    def tell(self, *words: object) -> None:
        """Add a line to the story."""
        if self.tells:
            self.story.append(" ".join(map(str, (f"{self.oracle.time:5} {self.machine.clock:7.3f}", *words))))

    def _start(self, worker: Worker, operations: int) -> None:
        for number in range(self.plan.threads):
            name = f"{worker.process.name}.{number}"
            actor = Actor(self, worker, Random(f"{self.plan.kind} {self.plan.seed} {name}"), name)
            self.machine.thread(worker.process, name, lambda actor=actor: actor.run(operations))  # type: ignore[misc]

    # --- Faults

    def _fault(self) -> None:
        plan, random, machine = self.plan, self.random, self.machine
        running = [worker for worker in self.computer.workers if worker.runs]
        choices: list[Callable[[], object]] = [self._pass]
        if plan.kills and len(running) > 1:
            choices.append(lambda: self._kill(random.choice(running)))
        if plan.stops and running:
            choices.append(lambda: self._stop(random.choice(running)))
        if plan.forks and running and self.children < 4:
            choices.append(lambda: self._fork(random.choice(running)))
        if plan.loses and running:
            choices.append(lambda: self._lose(random.choice(running)))
        dead = [process for process in machine.processes if process.state is State.KILLED]
        if dead:
            choices.append(lambda: machine.bury(random.choice(dead)))
        stopped = [process for process in machine.processes if process.state is State.STOPPED]
        if stopped:
            choices.append(lambda: machine.go_on(random.choice(stopped)))
        random.choice(choices)()

    def _pass(self) -> None:
        self.machine.clock += self.random.choice((0.001, 0.03, 0.5))

    def _kill(self, worker: Worker) -> None:
        self.counts["kills"] += 1
        self.tell(worker.process.name, "is killed")
        self.machine.kill(worker.process)
        if self.children < 4:
            self.children += 1
            self._start(self.computer.worker(f"{worker.process.name}'"), self.plan.operations // 2)

    def _stop(self, worker: Worker) -> None:
        self.counts["stops"] += 1
        self.tell(worker.process.name, "is stopped")
        self.machine.stop(worker.process)

    def _fork(self, worker: Worker) -> None:
        self.counts["forks"] += 1
        self.children += 1
        for thread in worker.process.threads:
            self.machine.drain_all(thread)
        child = worker.fork(f"{worker.process.name}c{self.children}", forgets=self.random.random() < 0.3)
        self.tell(worker.process.name, "is forked:", child.process.name)
        # What its parent has heard, it knows.
        self._start(child, self.plan.operations // 2)
        parent = self.oracle.knows.get(worker.process.threads[0])
        if parent is not None:
            for thread in child.process.threads:
                self.oracle.knows[thread] = parent.copy()

    def _lose(self, worker: Worker) -> None:
        self.counts["losses"] += 1
        self.tell(worker.process.name, "loses its record locks")
        self.locks_were_lost, self.oracle.is_exact = True, False
        self.machine.lose_locks(worker.process)

    # --- The end

    def _finish(self) -> None:
        machine = self.machine
        for thread in machine.threads:
            if not thread.is_over and thread.process.state is State.RUNS:
                raise Violation(f"{thread.name} hangs")
        machine.settle()
        for worker in self.computer.workers:
            if worker.runs:
                actor = Actor(self, worker, Random(0), f"{worker.process.name}, at the end,")
                for item in (*VALUES, *COUNTERS, PAGE):
                    actor.read(item)
        for worker in self.computer.workers:
            self.counts["evicted"] += worker.host.shelf.evicted
            self.counts["moved"] += worker.host.shelf.moved
            for name in ("fills", "fills_refused", "sets_refused", "busy"):
                self.counts[name] += sum(getattr(each, name) for each in worker.member.life.ledger.all().values())
        shelf = self.computer.workers[0].host.shelf
        self.counts["resets"] += shelf.resets()
        if not self.locks_were_lost:
            check_ring(shelf, self.memory.geometry)
            if shelf.resets():
                raise Violation("a ring was garbage, although nobody had lost its lock")


class Actor:
    """What one thread does."""

    def __init__(self, history: History, worker: Worker, random: Random, name: str) -> None:
        self.history = history
        self.worker = worker
        self.random = random
        self.name = name
        self.machine, self.oracle, self.counts = history.machine, history.oracle, history.counts
        self.plan = history.plan
        self.acts: list[Callable[[], object]] = [getattr(self, name) for name in WEIGHTS]

    def run(self, operations: int) -> None:
        """Do so many things."""
        for _ in range(operations):
            place = self.random.choices(range(len(self.acts)), self.plan.weights)[0]
            self.history.tell(self.name, "begins:", [*WEIGHTS][place].replace("_", " "))
            self.acts[place]()

    # --- What the oracle is told

    def hear(self) -> Knowledge:
        """Begin a call: hear what was told, most times."""
        machine, oracle = self.machine, self.oracle
        machine.yield_now()
        if self.random.random() < 0.7 and oracle.hear():
            machine.drain_all(machine.current)
            machine.refresh(machine.current)
        known = oracle.knowledge()
        known.clock = machine.clock
        return known

    def tell(self, *facts: Fact) -> None:
        """End a call: tell others of it, most times."""
        machine, oracle = self.machine, self.oracle
        self.history.tell(self.name, "has done:", *[f"{kind} {what} begun at {at}," for kind, what, at in facts])
        oracle.learn(*facts)
        machine.yield_now()
        if self.random.random() < 0.7:
            machine.drain_all(machine.current)
            machine.refresh(machine.current)
            oracle.announce(facts)

    def drop(self, *things: Thing) -> list[Drop]:
        """Note that a call begins that may drop things."""
        drops = [Drop(thing) for thing in things]
        self.history.drops += drops
        return drops

    # --- Values

    def new_value(self, item: Item, what: str, tags: tuple[str, ...], bases: tuple[Value, ...] = (), read_at: int = 0,
                  size: int = 0) -> tuple[Value, list[Any]]:  # fmt: skip
        """Return a new value, and what stands for it in the cache."""
        value = self.oracle.value(what, item.number, (*item.things, *tags), bases, read_at)
        self.history.values[value.number] = value
        size = size or self.random.choice((0, 0, 30, 100, 300))
        return value, [value.number, item.number, bytes([value.number % 251]) * size]

    def judge(self, item: Item, found: Any, known: Knowledge, where: str) -> Value | None:
        """Judge what a read was given; MISSING is nothing."""
        if found is MISSING:
            self.counts["missed"] += 1
            self.history.tell(self.name, f"finds no {item.number}")
            self._judge_absence(item, known)
            return None
        self.counts[where] += 1
        who = f"{self.name} ({where})"
        if item in COUNTERS:
            value = self._counter(item, found)
        else:
            number, of, filler = found
            if of != item.number or filler.strip(bytes([number % 251])):
                self.oracle.fail(f"{who} was given a torn or foreign value of key {item.number}: {number} of {of}")
            value = self.history.values[number]
            if item.number in self.oracle.touched:
                value.expires = math.inf
        self.history.tell(who, f"is given {value} of {item.number}")
        self.oracle.check(value, known, who)
        return value

    def _counter(self, item: Item, found: int) -> Value:
        first = self.history.values[found >> EPOCH]
        bits = self.history.bits[item.number]
        counted = [value for bit, value in enumerate(bits) if found >> bit & 1]
        value = Value(first.number, item.number, tuple(first.things), first.read_at, first.what)
        value.bases = (first,)
        value.ended = max([first.ended, *[each.ended for each in counted]])
        value.first = first.number
        value.counted = frozenset(each.number for each in counted)
        return value

    def _judge_absence(self, item: Item, known: Knowledge) -> None:
        """A counter that nothing has dropped is there, where there is room for everything."""
        history = self.history
        began, _ = known.writes.get(item.number, (0, 0))
        if item in COUNTERS and history.plan.roomy and began and not history.locks_were_lost:
            things = (*item.things, *TAGS)
            if not any(drop.thing in things and drop.ended >= began for drop in history.drops):
                self.oracle.fail(f"{self.name} finds no counter {item.number}, which nobody has dropped")

    def source(self, item: Item, tags: tuple[str, ...]) -> Callable[[], Any]:
        """Return a loader."""

        def load() -> Any:
            machine, random = self.machine, self.random
            machine.yield_now()
            read_at, more = self.oracle.now(), tags
            bases: tuple[Value, ...] = ()
            if item is PAGE:
                bases, more = tuple(self._load(part, tags) for part in PARTS), (*tags, WITH_PARTS)
            if random.random() < self.history.plan.fails:
                raise LoaderFailed
            _, standing = self.new_value(item, "load", more, bases, read_at)
            if self.history.plan.is_slow and random.random() < 0.5:
                machine.wait(lambda: False, until=machine.clock + random.choice((0.002, 0.1, 12.0)))
            else:
                machine.yield_now()
            return standing

        return load

    def any_item(self) -> Item:
        """Choose a key."""
        return self.random.choice((*self.plan.values, *self.plan.counters, *self.plan.pages))

    def tags(self) -> tuple[str, ...]:
        """Choose the tags of a value."""
        return self.random.choice(((), (), TAGS[:1], TAGS[1:], TAGS))

    def ttl(self) -> float | None:
        """Choose for how many seconds a value is kept."""
        return self.random.choice((None, None, None, None, 0.02, 0.6))

    # --- What it does

    def read_something(self) -> None:
        """Get a key."""
        self.read(self.any_item())

    def read_over_and_over(self) -> None:
        """Get a key several times, or load it first: what was compared once is served without looking, for a while."""
        items = (*self.plan.values, *self.plan.pages)
        item = self.random.choice(items)
        if self.random.random() < 0.5:
            self.load(item)
        for _ in range(self.random.randint(2, 4)):
            self.read(item)

    def read(self, item: Item) -> Value | None:
        """Get a key, and judge what is found."""
        known = self.hear()
        self.counts["reads"] += 1
        return self.judge(item, *self._given(self.worker.get(item.path, item.key), known))

    @staticmethod
    def _given(found: tuple[Any, str], known: Knowledge) -> tuple[Any, Knowledge, str]:
        return found[0], known, found[1]

    def load_something(self) -> None:
        """Get a key or load it."""
        self.load(self.random.choice((*self.plan.values, *self.plan.values, *self.plan.pages)))

    def load(self, item: Item) -> None:
        """Get a key or load it, and judge what is found."""
        # The tags of a page are those of its parts, so that one event names both.
        tags = TAGS if item is PAGE or item in PARTS else self.tags()
        with suppress(LoaderFailed):
            self._load(item, tags)

    def _load(self, item: Item, tags: tuple[str, ...]) -> Value:
        known = self.hear().copy()  # the loader may hear more
        self.counts["reads"] += 1
        worker = self.worker
        ttl = self.ttl()
        given = worker.keyspaces[item.path, False].given(ttl, tags)
        found, where = worker.get_or_load(item.path, item.key, self.source(item, tags), given)
        value = self.judge(item, found, known, where)
        assert value is not None
        if where == "loaded" and ttl is not None:
            value.expires = self.machine.clock + ttl
        return value

    def invalidate_something(self) -> None:
        """Invalidate one or two keys, or a tag or two, or a namespace, or everything."""
        random, worker = self.random, self.worker
        keyspace = worker.keyspaces["", False]
        plan = self.plan
        items = random.choice((random.sample(plan.values, 1), PARTS, (*PARTS, *plan.pages), plan.counters))
        things: tuple[Thing, ...]
        act: Callable[[], Flow[Receipt]]
        chance = random.random()
        if chance < 0.6:
            items = [item for item in items if item.path == items[0].path]
            what, things = "keys", tuple(item.number for item in items)
            keyspace = worker.keyspaces[items[0].path, False]
            act = lambda: invalidate.keys(keyspace, [item.key for item in items], True, False)  # noqa: E731
        elif chance < 0.85:
            tags = random.choice((TAGS[:1], TAGS[1:], TAGS))
            what, things, act = "tags", tags, lambda: invalidate.tags(keyspace, tags, True, False)
        elif chance < 0.95:
            what, things = "namespaces", ("n",)
            act = lambda: invalidate.all_keys(worker.keyspaces["n", False], True, False)  # noqa: E731
        else:
            what, things, act = "clears", ("all",), lambda: invalidate.all_keys(keyspace, True, False)
        self.hear()
        self.counts["events"] += 1
        self.counts[what] += 1
        began = self.oracle.now()
        drops = self.drop(*things)
        finish(act(), False)
        for drop in drops:
            drop.ended = self.oracle.now()
        if len(things) == 3:
            things = (*things, WITH_PARTS)
        self.tell(*[("event", thing, began) for thing in things])

    def _write(
        self, item: Item, value: Value, act: Callable[[], Flow[bool]], ttl: float | None, *, invalidates: bool = False
    ) -> bool:
        """Call something that writes a value, if it can; ``invalidates`` says that it drops the old one if not."""
        began = self.oracle.now()
        drops = self.drop(item.number) if invalidates else []
        done = finish(act(), False)
        value.ended = self.oracle.now()
        if ttl is not None:
            value.expires = self.machine.clock + ttl
        for drop in drops:
            drop.ended = value.ended if not done else -1
        if done:
            self.counts["writes"] += 1
            self.tell(("write", (item.number, value.number), began))
        else:
            self.counts["writes refused"] += 1
            if invalidates:
                self.tell(("event", item.number, began))
        return done

    def set_something(self) -> None:
        """Set a key."""
        self._set(self.any_item())

    def set_much(self) -> None:
        """Set several keys that nobody reads."""
        for _ in range(3):
            number = self.random.randrange(1000, 1012)
            self._set(_item(number, ""), size=self.random.choice((100, 300, 500)))

    def _set(self, item: Item, size: int = 0) -> None:
        self.hear()
        tags = TAGS if item in (*PARTS, PAGE) else self.tags()
        value, standing = self.new_value(item, "set", tags, size=size)
        what: Any = value.number << EPOCH if item in COUNTERS else standing
        keyspace = self.worker.keyspaces[item.path, False]
        ttl = None if item in COUNTERS else self.ttl()
        given = keyspace.given(ttl, tags)
        put = lambda: write.put(keyspace, item.key, what, given, "stored")  # noqa: E731
        self._write(item, value, put, ttl, invalidates=True)

    def set_something_under_a_fence(self) -> None:
        """Miss a key, and set what is made then."""
        item = self.random.choice(self.plan.values)
        keyspace = self.worker.keyspaces[item.path, True]
        known = self.hear()
        found = self.worker.get(item.path, item.key, fence=True)
        if found[0] is not MISSING:
            self.judge(item, *self._given(found, known))
            return
        read_at = self.oracle.now()
        self.machine.yield_now()
        tags = TAGS if item in PARTS else self.tags()
        value, standing = self.new_value(item, "fenced", tags, read_at=read_at)
        ttl = self.ttl()
        given = keyspace.given(ttl, tags)
        self.hear()
        # Whether it has invalidated the key if it was refused, is not told.
        if self._write(item, value, lambda: write.put(keyspace, item.key, standing, given, "stored"), ttl):
            self.counts["fenced"] += 1

    def add_something(self) -> None:
        """Add a key."""
        item = self.random.choice(self.plan.values)
        self.hear()
        tags = TAGS if item in PARTS else self.tags()
        value, standing = self.new_value(item, "add", tags)
        ttl, keyspace = self.ttl(), self.worker.keyspaces[item.path, False]
        given = keyspace.given(ttl, tags)
        if self._write(item, value, lambda: atomic.add(keyspace, item.key, standing, given), ttl):
            self.counts["added"] += 1

    def compare_and_set_something(self) -> None:
        """Get a key, and set what is made of its value."""
        item = self.random.choice((*self.plan.values, *self.plan.pages))
        keyspace = self.worker.keyspaces[item.path, False]
        known = self.hear()
        got = finish(atomic.gets(keyspace, item.key), False)
        if got is None:
            return
        base = self.judge(item, got[0], known, "shelf")
        assert base is not None
        read_at = self.oracle.now()
        self.machine.yield_now()
        known = self.hear().copy()
        tags = TAGS if item in (*PARTS, PAGE) else self.tags()
        value, standing = self.new_value(item, "cas", tags, (base,), read_at)
        ttl = self.ttl()
        given = keyspace.given(ttl, tags)
        token = Token.unpack(got[1])
        if self._write(item, value, lambda: atomic.put_if(keyspace, item.key, standing, token, given), ttl):
            self.counts["replaced"] += 1
            self.oracle.check(base, known, f"{self.name}, who compares and sets,")

    def touch_something(self) -> None:
        """Give a value another expiry."""
        item = self.random.choice((*self.plan.values, *self.plan.counters))
        self.hear()
        keyspace = self.worker.keyspaces[item.path, False]
        self.oracle.touched.add(item.number)
        self.counts["touched"] += finish(atomic.touch(keyspace, item.key, keyspace.given(1000.0, ())), False)
        self.tell()

    def count_something(self) -> None:
        """Count."""
        history, oracle = self.history, self.oracle
        item = self.random.choice(self.plan.counters)
        bits = history.bits[item.number]
        if len(bits) >= COUNTS:
            return
        known = self.hear().copy()
        tags = self.tags()
        first, _ = self.new_value(item, "add", tags)
        value = oracle.value("incr", item.number, (*item.things, *tags))
        bits.append(value)
        delta = 1 << len(bits) - 1
        keyspace = self.worker.keyspaces[item.path, False]
        given = keyspace.given(None, tags)
        initial = first.number << EPOCH if self.random.random() < 0.8 else None
        began = oracle.now()
        total = finish(atomic.count(keyspace, item.key, delta, initial, given), False)
        value.ended = oracle.now()
        if total is None:
            self.counts["writes refused"] += 1
            return
        if total >> EPOCH == first.number:
            first.ended = value.ended
            self._judge_absence(item, known)
        else:
            self.counts["counted"] += 1
        found = self._counter(item, total)
        oracle.check(found, known, f"{self.name}, who counts,")
        if not total & delta:
            oracle.fail(f"{self.name} counts, and is given a sum without it")
        self.tell(("write", (item.number, value.number), began), ("count", found.first, value.number))
