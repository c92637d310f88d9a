"""One history of a simulated group, checked against the contract at every read and at its end."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from random import Random
from typing import get_args

from colocache.core.entry import MISSING
from colocache.core.group import messages, ownership
from colocache.core.group.announcements import DRIFT
from colocache.core.group.messages import EVERYTHING, namespace_target, tag_target
from colocache.core.group.outcomes import DONE, Altering, Fence
from colocache.core.numbers import unpack_integer
from colocache.core.receipt import Receipt
from colocache.testing.simulator import Loading, Network, Reader, Simulated
from verification.simulation.oracle import COLD, HOT, LOADED, PAGE, SET, TAGS, Oracle
from verification.simulation.plan import BEGIN, Plan, Step

# Members come and go here more often than anywhere else, and rings take long to make.
ownership.ring_of = lru_cache(maxsize=256)(ownership.ring_of.__wrapped__)

#: The kinds of message that may get lost for a while: all but the events, whose loss is a fault of its own.
DIRECT = tuple(kind for kind in get_args(messages.Message) if kind is not messages.Event)


@dataclass
class Result:
    """What a history saw."""

    seed: int
    faults: str
    reads: int = 0
    hits: int = 0
    loads: int = 0
    invalidations: int = 0  # awaited ones
    complete: int = 0
    violations: list[str] = field(default_factory=list)


class _Over(Exception):
    """Enough was seen."""


class Call:
    """A call under way."""

    def __init__(self, member: Simulated, what: str) -> None:
        self.member = member
        self.what = what
        self.stops = member.stops


class History:
    """Runs a plan; see the modules `plan` for what happens and `oracle` for what must hold."""

    def __init__(self, plan: Plan, network: Callable[..., Network] = Network, *, to_the_end: bool = True) -> None:
        """``to_the_end``: whether it goes on after the first thing that is wrong."""
        self.plan = plan
        self._to_the_end = to_the_end
        self.network = network(plan.seed + (plan.salt << 32), plan.settings, hosts=plan.hosts, memory=plan.memory)
        self.network.high_water_mark = plan.high_water_mark
        lease = plan.settings.lease
        # An event is heard, or the lease is over, within L of its publication; two clocks differ by up to 1 %.
        self.oracle = Oracle(self.network, lease * 1.05 + 0.05)
        self.result = Result(plan.seed, plan.faults)
        self._calls: set[Call] = set()
        self._loading: dict[str, float] = {}  # key to when the newest load of it began
        self._given_up: dict[str, float] = {}  # key to when a caller of it was cancelled last
        self._setting = False
        self._counted: list[int] = []
        self._faults_end = 0.0
        self._vanished = False

    def go(self) -> Result:
        """Run the history to its end, and check that the group has recovered."""
        with contextlib.suppress(_Over):
            self._go()
        return self.result

    def _go(self) -> None:
        for _ in range(self.plan.size):
            self.network.join()
        self.network.run(BEGIN)
        for step in self.plan.steps:
            self.network.at(step.at, partial(self._take, step))
        self.network.run(BEGIN + self.plan.seconds)
        self._heal()
        self._check_end()

    def _take(self, step: Step) -> None:
        dice = Random(step.dice)
        awake = [m for m in self.network.living if not m.paused]
        if awake:
            getattr(self, "_" + step.kind.replace(" ", "_"))(dice.choice(awake), dice)

    def _break(self, what: str) -> None:
        self.result.violations.append(f"{what}, at {self.network.time:.4f}")
        if not self._to_the_end:
            raise _Over

    # --- Operations

    def _read(self, member: Simulated, dice: Random) -> None:
        key = dice.choice((*HOT, PAGE, SET))
        self._get_or_load(member, key, dice)
        if dice.random() < 0.2:
            for violation in self.oracle.overtaken(member):
                self._break(f"stale fill: {violation}")

    def _read_cold(self, member: Simulated, dice: Random) -> None:
        self._get_or_load(member, dice.choice(COLD), dice)

    def _get_or_load(self, member: Simulated, key: str, dice: Random) -> None:
        check, call = self._checked(member, key), self._begin(member, f"read {key}")

        def done(value: object) -> None:
            self._calls.discard(call)
            if not isinstance(value, Exception):
                check(value)

        if member.cached(key) is not MISSING:
            self.result.hits += 1
        reader = self._fetch(member, key, done, dice, None)
        if dice.random() < 0.08:
            ends_loader = dice.random() < 0.5
            self.network.after(dice.uniform(0, 0.03), partial(self._cancel, reader, call, key, ends_loader))

    def _cancel(self, reader: Reader, call: Call, key: str, ends_loader: bool) -> None:
        """The caller has a time limit, and it is over."""
        if call in self._calls:
            self._calls.discard(call)
            self._given_up[key] = self.network.time
            reader.cancel(ends_loader=ends_loader)

    def _fetch(self, member: Simulated, key: str, done: Callable[[object], None], dice: Random,
               inside: Loading | None) -> Reader:  # fmt: skip
        ttl = dice.uniform(0.1, 1.0) if self.plan.memory < 1 << 20 else 300.0
        load = partial(self._load, member, key, Random(dice.getrandbits(48)))
        return member.read(key, load, done, ttl, TAGS.get(key, ()), inside)

    def _load(self, member: Simulated, key: str, dice: Random, loading: Loading) -> None:
        """The loader: it reads the source at one instant of its duration; that of the page reads a cached part."""
        self.result.loads += 1
        duration = dice.uniform(0.001, 0.02) if dice.random() < 0.9 else dice.uniform(0, 0.6)
        if self.plan.faults == "none":
            self._count_load(key, loading)
        elif dice.random() < 0.02:
            self.network.after(duration, lambda: loading(ValueError()))
            return
        read_after = dice.uniform(0, duration)

        def read() -> None:
            if key == PAGE:
                self._fetch(member, "a", give, dice, loading)
            else:
                give(self.oracle.version[key])

        def give(value: object) -> None:
            self.network.after(duration - read_after + 1e-6, lambda: end(value))

        def end(value: object) -> None:
            self._loading.pop(key, None)
            loading(value)

        self.network.after(read_after, read)

    def _count_load(self, key: str, loading: Loading) -> None:
        """While nothing fails, no second load begins, unless an event may have voided the first one's token.

        Where a caller was cancelled, another load may begin for those who wait; a load takes 0.6 s at most.
        """
        began = self._loading.setdefault(key, self.network.time)
        given_up = self._given_up.get(key, -math.inf) >= began - 0.7
        settled = self.oracle.settled(key, began) and not given_up
        if began < self.network.time and settled and key != SET and not loading.alone:
            self._break(f"two loads: of {key}={self.oracle.version[key]}")
        self._loading[key] = self.network.time

    def _peek(self, member: Simulated, dice: Random) -> None:
        key = dice.choice((*HOT, PAGE, SET))
        check, call = self._checked(member, key), self._begin(member, f"peek {key}")

        def done(value: object) -> None:
            self._calls.discard(call)
            if value is not MISSING:
                check(value)

        member.peek(key, done)

    def _habit(self, member: Simulated, dice: Random) -> None:
        """Get under a fence; where there is nothing, read the source, take some time, and set."""
        key = dice.choice((*HOT, PAGE))
        check, call = self._checked(member, key), self._begin(member, f"habit {key}")
        duration = dice.uniform(0.001, 0.05) if dice.random() < 0.9 else dice.uniform(0, 0.6)
        read_after = dice.uniform(0, duration)

        def found(value: object, fence: Fence) -> None:
            if value is not MISSING:
                self._calls.discard(call)
                check(value)
            else:
                self.network.after(read_after, lambda: read(fence))

        def read(fence: Fence) -> None:
            if key == PAGE:
                self._fetch(member, "a", lambda value: compute(value, fence), dice, None)
            else:
                compute(self.oracle.version[key], fence)

        def compute(value: object, fence: Fence) -> None:
            if isinstance(value, Exception):
                self._calls.discard(call)
            else:
                self.network.after(duration - read_after + 1e-6, lambda: store(value, fence))

        def store(value: object, fence: Fence) -> None:
            member.set_fenced(key, value, fence, lambda _: self._calls.discard(call), TAGS.get(key, ()))

        member.get_fenced(key, found)

    def _count(self, member: Simulated, _: Random) -> None:
        call = self._begin(member, "count")

        def counted(done: Altering) -> None:
            self._calls.discard(call)
            value = unpack_integer(done.payload) if done.outcome == DONE else None
            if value is not None:
                self._counted.append(value)

        member.alter("counter", 1, counted, initial=0)

    def _begin(self, member: Simulated, what: str) -> Call:
        call = Call(member, f"{what} in {member.seat}, begun at {self.network.time:.4f}")
        self._calls.add(call)
        return call

    def _checked(self, member: Simulated, key: str) -> Callable[[object], None]:
        floors, began = self.oracle.floors(member, key), self.network.time
        self.result.reads += 1

        def check(value: object) -> None:
            for clause, floor in floors.items():
                if not isinstance(value, int) or value < floor:
                    self._break(
                        f"{clause}: {member.seat} read {key}={value}, begun at {began:.4f}, when it had to be {floor}"
                    )

        return check

    def _invalidate(self, member: Simulated, dice: Random) -> None:
        chance = dice.random()
        targets: list[str | bytes]
        if chance < 0.78:
            key = dice.choice(HOT)
            targets = keys = [key] if key != "a" else [key, PAGE]
        elif chance < 0.9:
            tag = dice.choice(("t", "u"))
            keys, targets = [key for key, tags in TAGS.items() if tag in tags], [tag_target(tag)]
        elif chance < 0.95:
            keys, targets = ["n/c"], [namespace_target("n")]
        else:
            keys, targets = list(LOADED), [EVERYTHING]
        versions = self.oracle.commit(tuple(keys))
        waits = dice.random() < 0.5
        call = self._begin(member, f"invalidate {keys}")

        def done(receipt: Receipt) -> None:
            self._calls.discard(call)
            if not waits:
                return
            self.result.invalidations += 1
            self.result.complete += receipt.complete
            if receipt.complete:
                self.oracle.acknowledged(versions)
            if receipt.seconds > 2 * self.plan.settings.lease * DRIFT + 0.1 and member.stops == call.stops:
                self._break(f"too long: an invalidation took {receipt.seconds:.3f} s")

        member.invalidate(targets, done, patience=1e9 if waits else 0.0)
        self.oracle.announced(member, versions)

    def _set(self, member: Simulated, dice: Random) -> None:
        if self._setting:
            return
        self._setting = True
        versions = self.oracle.commit((SET,))
        call = self._begin(member, "set")

        def done(written: object) -> None:
            self._calls.discard(call)
            self._setting = False
            if not member.alive:
                return
            self.oracle.announced(member, versions, numbered=False)
            receipt = getattr(written, "receipt", None)
            if receipt is not None and receipt.complete:
                self.oracle.acknowledged(versions)

        def unblock() -> None:
            if not member.alive:
                self._setting = False

        member.set(SET, versions[SET], done, acknowledged=dice.random() < 0.3)
        self.network.after(3.0, unblock)

    # --- Faults

    def _until(self, seconds: float, end: Callable[[], None]) -> None:
        """A fault lasts for so long."""
        self._faults_end = max(self._faults_end, self.network.time + seconds)
        self.network.after(seconds, end)

    def _drop(self, _: Simulated, dice: Random) -> None:
        self.network.loss = dice.choice((0.1, 0.5, 1.0))
        self._until(dice.uniform(0.05, 0.8), self._end_loss)

    def _end_loss(self) -> None:
        self.network.loss = 0.0

    def _delay(self, _: Simulated, dice: Random) -> None:
        self.network.lateness = (dice.choice((0.02, 0.2)), dice.uniform(0.05, 1.5))
        self._until(dice.uniform(0.2, 2), lambda: setattr(self.network, "lateness", (0.0, 0.0)))

    def _stretch(self, _: Simulated, dice: Random) -> None:
        """What some members send to others takes long, on both channels, and half of the events get lost."""
        seats = [m.seat for m in self.network.living]
        share, by = dice.choice((0.2, 0.5, 1.0)), dice.uniform(0.2, 1.5)
        far = {(one, other): by for one in seats for other in seats if dice.random() < share}
        self.network.far.update(far)
        self.network.loss = max(self.network.loss, 0.5)

        def shrink() -> None:
            self.network.loss = 0.0
            for pair in far:
                self.network.far.pop(pair, None)

        self._until(dice.uniform(1, 3), shrink)

    def _double(self, _: Simulated, dice: Random) -> None:
        self.network.doubling = 0.2
        self._until(dice.uniform(0.2, 2), lambda: setattr(self.network, "doubling", 0.0))

    def _swap(self, _: Simulated, dice: Random) -> None:
        self.network.swapping = True
        self._until(dice.uniform(0.2, 2), lambda: setattr(self.network, "swapping", False))

    def _mute(self, _: Simulated, dice: Random) -> None:
        """Some kinds of message get lost for a while, and with luck an event, too."""
        kinds = set(dice.sample(DIRECT, dice.choice((1, 2, 3))))
        self.network.mute |= kinds
        self._until(dice.uniform(0.2, 2), lambda: self.network.mute.difference_update(kinds))
        if dice.random() < 0.5:
            self._drop(_, dice)

    def _pause(self, member: Simulated, dice: Random) -> None:
        if len([m for m in self.network.living if not m.paused]) > 1:
            seconds = dice.choice((0.1, 0.5, 1.0, 3.0))
            self.network.pause(member, seconds, partial(self._wake, member, dice))
            self._until(seconds, lambda: None)

    def _wake(self, member: Simulated, dice: Random) -> None:
        """A process that wakes reads before it looks at what has come meanwhile."""
        for key in (*HOT, PAGE):
            self._get_or_load(member, key, dice)

    def _crash(self, member: Simulated, dice: Random) -> None:
        if len(self.network.living) > 1:
            if dice.random() < 0.5:  # the last words of the dead
                self._invalidate(member, dice)
            self._end_of(member, self.network.crash)
            self._until(dice.choice((0.05, 0.5, 2.0)), partial(self._rejoin, member.seat, dice))

    def _vanish(self, member: Simulated, dice: Random) -> None:
        if len(self.network.living) > 2:
            self._end_of(member, partial(self.network.crash, noticed=False))
            self._vanished = True
            self._until(dice.choice((0.5, 2.0)), partial(self._rejoin, member.seat, dice))

    def _leave(self, member: Simulated, dice: Random) -> None:
        if len(self.network.living) > 2:
            self._end_of(member, self.network.leave)
            self._until(dice.choice((0.01, 0.5)), partial(self._rejoin, member.seat, dice))

    def _end_of(self, member: Simulated, end: Callable[[Simulated], None]) -> None:
        end(member)
        self._calls = {call for call in self._calls if call.member is not member}

    def _rejoin(self, seat: int, dice: Random) -> None:
        if seat not in {m.seat for m in self.network.living}:
            self.network.join(seat, self._door(dice))

    def _join(self, _: Simulated, dice: Random) -> None:
        for _ in range(dice.choice((1, 2))):
            if len(self.network.living) < 8:
                self.network.join(through=self._door(dice))
        self._until(0.0, lambda: None)

    def _door(self, dice: Random) -> Simulated | None:
        """Of other hosts, a joiner knows everybody, or just one."""
        awake = [m for m in self.network.living if not m.paused]
        return dice.choice(awake) if awake and dice.random() < 0.7 else None

    def _partition(self, _: Simulated, dice: Random) -> None:
        seats = [m.seat for m in self.network.living]
        if dice.random() < 0.4 and len(seats) > 1:  # one link, perhaps in one direction only
            one, other = dice.sample(seats, 2)
            cuts = {(one, other), (other, one)} if dice.random() < 0.5 else {(one, other)}
        else:
            side = {seat for seat in seats if dice.random() < 0.5}
            cuts = {(a, b) for a in seats for b in seats if (a in side) != (b in side)}
        self.network.cuts |= cuts
        self._until(dice.choice((0.3, 1.5, 4.0)), lambda: self.network.cuts.difference_update(cuts))

    def _burst(self, member: Simulated, dice: Random) -> None:
        """More events at once than a log keeps, or a socket holds."""
        for _ in range(dice.randrange(5, 25)):
            self._invalidate(member, dice)

    # --- The end

    def _heal(self) -> None:
        """End the faults of the network now; those who are stopped or dead come back when they were to."""
        network = self.network
        network.loss = network.doubling = 0.0
        network.lateness, network.swapping = (0.0, 0.0), False
        network.cuts.clear()
        network.mute.clear()
        network.far.clear()
        settings = self.plan.settings
        end = max(network.time, network.quiet_at(), self._faults_end if self._lingers() else 0.0)
        if self._vanished:
            end = max(end, self._faults_end) + settings.forget_after + settings.lease
        network.run(end + 2 * settings.lease * DRIFT + 0.1)

    def _lingers(self) -> bool:
        return any(m.paused for m in self.network.living) or self.plan.faults in ("crash", "churn", "all", "fence all")

    def _check_end(self) -> None:
        living = self.network.living
        incarnations = {m.member.incarnation for m in living}
        for member in living:
            if member.now() >= member.peer.gate.current_until:
                self._break(f"not current: {member.seat} at the end")
            known = {other.incarnation for other, _, _ in member.peer.members()}
            if known != incarnations - {member.member.incarnation}:
                self._break(f"members: {member.seat} knows {len(known)} at the end, not {len(living) - 1}")
            for key in LOADED:
                value = member.cached(key)
                if value is not MISSING and value != self.oracle.version[key]:
                    self._break(f"values: {member.seat} holds {key}={value} at the end, not {self.oracle.version[key]}")
        if self.plan.faults == "fence":  # each value once for each time that the counter began anew
            counted = Counter(self._counted)
            for value in counted:
                if value > 1 and counted[value] > counted[value - 1]:
                    self._break(f"counted twice: {value}")
        self._settle()
        for call in self._open():
            self._break(f"never ended: {call.what}")
        for member in living:
            for name, size in leftovers(member).items():
                self._break(f"memory: {member.seat} still has {size} {name} at the end")

    def _settle(self) -> None:
        """Every call ends: most by now, and all when the longest time-out is over; so long a lost token may stand."""
        settings = self.plan.settings
        if self._open() or any(leftovers(member) for member in self.network.living):
            self.network.run(self.network.time + settings.load_timeout + 2 * settings.lease + 1.0)

    def _open(self) -> list[Call]:
        return [call for call in self._calls if call.member.alive]


def leftovers(member: Simulated) -> dict[str, int]:
    """Return what a member still remembers of calls that are over, by name; empty if nothing."""
    engine = member.peer._engine
    sizes = {
        "requests": len(engine.requests), "fetches": len(engine.fetches), "tokens": len(engine.queues),
        "parked questions": len(engine.owner._parked), "parked reads": len(engine.reads._parked),
        "late fences": len(engine.attempts._late), "waiting": len(engine.catching_up),
        "invalidations": len(engine.announcements), "calls": len(member.calls),
        "events too many in its log": max(0, len(engine.announcer.log) - member.network.settings.log_events),
    }  # fmt: skip
    return {name: size for name, size in sizes.items() if size}
