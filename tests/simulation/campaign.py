"""Random histories of a simulated group, checked against the contract. `run(seed, faults)` is one of them.

Values are versions: integers that only grow per key. A read's answer is checked against what was true when it began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from random import Random

from colocache.core import messages
from colocache.core.announcements import Receipt
from colocache.core.entry import MISSING
from colocache.core.messages import EVERYTHING, key_target, tag_target
from colocache.testing import SCALED, Network, Simulated

KEYS = ("a", "b", "c")
TAGS = {"a": ("t",), "b": ("t", "u"), "c": ()}
KINDS = (
    messages.Ping, messages.Pong, messages.Roster, messages.Ack, messages.Replay, messages.Replayed, messages.Reset,
    messages.Get, messages.Value, messages.Load, messages.Wait, messages.Alone, messages.Cancel, messages.Fill,
    messages.Fail, messages.Peek, messages.Found, messages.Set, messages.Stored, messages.Settled, messages.Left,
)  # fmt: skip
SET_KEY = "s"  # written by `set`, by one writer at a time, for a set vouches for its value
FAULTS = ("none", "drop", "slow", "double", "mute", "pause", "crash", "churn", "partition", "all")


@dataclass
class Result:
    """What a run saw."""

    seed: int
    faults: str
    reads: int = 0
    hits: int = 0
    loads: int = 0
    invalidations: int = 0
    complete: int = 0
    violations: list[str] = field(default_factory=list)


class Oracle:
    """The source of truth, and what each reader is entitled to."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.version = dict.fromkeys((*KEYS, SET_KEY), 0)
        self._acknowledged = dict.fromkeys(self.version, 0)
        self._announced: dict[str, list[tuple[float, int]]] = {key: [] for key in self.version}
        self._own: dict[tuple[bytes, str], int] = {}

    def commit(self, keys: tuple[str, ...]) -> dict[str, int]:
        """Write to the source; return the new versions."""
        for key in keys:
            self.version[key] += 1
        return {key: self.version[key] for key in keys}

    def announced(self, member: Simulated, versions: dict[str, int]) -> None:
        """An invalidation's call has begun, so that it holds for its own process from now on."""
        for key, version in versions.items():
            self._announced[key].append((self._network.time, version))
            own = (member.member.incarnation, key)
            self._own[own] = max(self._own.get(own, 0), version)

    def acknowledged(self, versions: dict[str, int]) -> None:
        """An invalidation's call has returned, complete."""
        for key, version in versions.items():
            self._acknowledged[key] = max(self._acknowledged[key], version)

    def floors(self, member: Simulated, key: str, bound: float) -> dict[str, int]:
        """Return the lowest version that each clause of the contract allows to a read that begins now."""
        late = [v for at, v in self._announced[key] if at < self._network.time - bound]
        return {
            "acknowledged": self._acknowledged[key],
            "bounded staleness": max(late, default=0),
            "read your writes": self._own.get((member.member.incarnation, key), 0),
        }


class Run:
    """One history."""

    def __init__(self, seed: int, faults: str, seconds: float = 12.0, size: int = 4) -> None:
        self.network = Network(seed)
        self.random = Random(seed * 7919 + 13)
        self.oracle = Oracle(self.network)
        self.result = Result(seed, faults)
        self.seconds = seconds
        self.size = size
        self._open = 0
        self._setting = False
        lease = SCALED.lease
        # An event is heard, or the lease is over, within L of its publication; two clocks differ by up to 1 %.
        self.bound = lease * 1.05 + 0.05

    def go(self) -> Result:
        """Run the history to its end, and check that the group has recovered."""
        for _ in range(self.size):
            self.network.join()
        self.network.run(1.0)
        self._schedule_faults()
        self._schedule_operations()
        self.network.run(1.0 + self.seconds)
        self._heal()
        self.network.run(self.network.time + 2 * SCALED.lease + SCALED.load_timeout + 4.0)
        self._check_end()
        return self.result

    # --- Operations

    def _schedule_operations(self) -> None:
        at = 1.0
        while at < 1.0 + self.seconds:
            at += self.random.expovariate(230)
            self.network.at(at, self._operate)

    def _operate(self) -> None:
        living = [m for m in self.network.living if not m.paused]
        if not living:
            return
        member = self.random.choice(living)
        dice = self.random.random()
        if dice < 0.05:
            self._invalidate(member)
        elif dice < 0.06:
            self._set(member)
        elif dice < 0.10:
            self._peek(member, self.random.choice((*KEYS, SET_KEY)))
        else:
            self.read(member, self.random.choice((*KEYS, SET_KEY)))

    def read(self, member: Simulated, key: str) -> None:
        """Read a key, and check the answer."""
        check = self._checked(member, key)
        self._open += 1

        def load(give: Callable[[object], None]) -> None:
            self.result.loads += 1
            duration = self.random.uniform(0.001, 0.02) if self.random.random() < 0.9 else self.random.uniform(0, 0.6)
            read_after = self.random.uniform(0, duration)
            seen: list[object] = []
            failing = self.random.random() < 0.02
            self.network.after(read_after, lambda: seen.append(self.oracle.version[key]))
            self.network.after(duration + 1e-6, lambda: give(ValueError() if failing else seen[0]))

        def done(value: object) -> None:
            self._open -= 1
            if not isinstance(value, Exception):
                check(value)

        if member.cached(key) is not MISSING:
            self.result.hits += 1
        member.read(key, load, done, tags=TAGS.get(key, ()))

    def _peek(self, member: Simulated, key: str) -> None:
        check = self._checked(member, key)
        member.peek(key, lambda value: None if value is MISSING else check(value))

    def _checked(self, member: Simulated, key: str) -> Callable[[object], None]:
        floors, began = self.oracle.floors(member, key, self.bound), self.network.time
        self.result.reads += 1

        def check(value: object) -> None:
            for clause, floor in floors.items():
                if not isinstance(value, int) or value < floor:
                    self.result.violations.append(
                        f"{clause}: {member.member.seat} read {key}={value} at {self.network.time:.4f}, "
                        f"begun at {began:.4f}, when it had to be at least {floor}"
                    )

        return check

    def _invalidate(self, member: Simulated) -> None:
        dice = self.random.random()
        target: str | bytes
        if dice < 0.8:
            key = self.random.choice(KEYS)
            keys: tuple[str, ...] = (key,)
            target = key_target(Simulated.wire(key))
        elif dice < 0.93:
            tag = self.random.choice(("t", "u"))
            keys = tuple(key for key, tags in TAGS.items() if tag in tags)
            target = tag_target(tag)
        else:
            keys, target = KEYS, EVERYTHING
        versions = self.oracle.commit(keys)
        waits = self.random.random() < 0.5
        stops = member.stops

        def done(receipt: Receipt) -> None:
            if waits:
                self.result.complete += receipt.complete
                if receipt.complete:
                    self.oracle.acknowledged(versions)
            if waits and receipt.seconds > 2 * SCALED.lease * 1.01 + 0.1 and member.stops == stops:
                self.result.violations.append(f"an invalidation took {receipt.seconds:.3f} s")

        self.result.invalidations += waits
        member.invalidate(target, done, patience=1e9 if waits else 0.0)
        self.oracle.announced(member, versions)

    def _set(self, member: Simulated) -> None:
        if self._setting:
            return
        self._setting = True
        versions = self.oracle.commit((SET_KEY,))
        settle = self.random.random() < 0.3

        def done(written: object) -> None:
            self._setting = False
            if not member.alive:
                return
            self.oracle.announced(member, versions)
            receipt = getattr(written, "receipt", None)
            if receipt is not None and receipt.complete:
                self.oracle.acknowledged(versions)

        def unblock() -> None:
            if not member.alive:
                self._setting = False

        member.set(SET_KEY, versions[SET_KEY], done, settle)
        self.network.after(3.0, unblock)

    # --- Faults

    def _schedule_faults(self) -> None:
        names = {
            "none": (), "all": ("drop", "slow", "double", "mute", "pause", "crash", "churn", "partition"),
        }.get(self.result.faults, (self.result.faults,))  # fmt: skip
        at = 1.0
        while names and (at := at + self.random.expovariate(1.2)) < self.seconds:
            self.network.at(at, getattr(self, "_" + self.random.choice(names)))

    def _drop(self) -> None:
        self.network.loss = self.random.choice((0.1, 0.5, 1.0))
        self.network.after(self.random.uniform(0.05, 0.8), lambda: setattr(self.network, "loss", 0.0))

    def _slow(self) -> None:
        if self.random.random() < 0.6:
            self._stretch()
            return
        self.network.lateness = (self.random.choice((0.02, 0.2)), self.random.uniform(0.05, 1.5))
        self.network.after(self.random.uniform(0.2, 2), lambda: setattr(self.network, "lateness", (0.0, 0.0)))

    def _stretch(self) -> None:
        """What some members send to others takes long, on both channels, and half of the events get lost."""
        seats = [m.seat for m in self.network.living]
        share, by = self.random.choice((0.2, 0.5, 1.0)), self.random.uniform(0.2, 1.5)
        far = {(one, other): by for one in seats for other in seats if self.random.random() < share}
        self.network.far.update(far)
        self.network.loss = max(self.network.loss, 0.5)

        def shrink() -> None:
            self.network.loss = 0.0
            for pair in far:
                self.network.far.pop(pair, None)

        self.network.after(self.random.uniform(1, 3), shrink)

    def _double(self) -> None:
        self.network.doubling = 0.2
        self.network.after(self.random.uniform(0.2, 2), lambda: setattr(self.network, "doubling", 0.0))

    def _mute(self) -> None:
        """Some kinds of message get lost for a while, and with luck an event, too."""
        kinds = set(self.random.sample(KINDS, self.random.choice((1, 2, 3))))
        self.network.mute |= kinds
        self.network.after(self.random.uniform(0.2, 2), lambda: self.network.mute.difference_update(kinds))
        if self.random.random() < 0.5:
            self._drop()

    def _victim(self) -> Iterator[Simulated]:
        living = [m for m in self.network.living if not m.paused]
        if len(living) > 1:
            yield self.random.choice(living)

    def _pause(self) -> None:
        for member in self._victim():
            self.network.pause(member, self.random.choice((0.1, 0.5, 1.0, 3.0)), partial(self._wake, member))

    def _wake(self, member: Simulated) -> None:
        """A process that wakes reads before it looks at what has come meanwhile."""
        for key in KEYS:
            self.read(member, key)

    def _crash(self) -> None:
        for member in self._victim():
            if self.random.random() < 0.5:  # the last words of the dead
                self._invalidate(member)
            self.network.crash(member)
            self.network.after(self.random.choice((0.05, 0.5, 2.0)), partial(self.network.join, member.seat))

    def _churn(self) -> None:
        for member in self._victim():
            if self.random.random() < 0.5 and len(self.network.living) > 2:
                self.network.leave(member)
                self.network.after(self.random.choice((0.01, 0.5)), partial(self.network.join, member.seat))
            elif len(self.network.living) < 7:
                for _ in range(self.random.choice((1, 2))):
                    self.network.join()

    def _partition(self) -> None:
        seats = [m.seat for m in self.network.living]
        cuts = set()
        if self.random.random() < 0.4:
            one, other = self.random.sample(seats, 2) if len(seats) > 1 else (0, 1)
            cuts = {(one, other), (other, one)} if self.random.random() < 0.5 else {(one, other)}
        else:
            side = {seat for seat in seats if self.random.random() < 0.5}
            cuts = {(a, b) for a in seats for b in seats if (a in side) != (b in side)}
        self.network.cuts |= cuts
        self.network.after(self.random.choice((0.3, 1.5, 4.0)), lambda: self.network.cuts.difference_update(cuts))

    # --- The end

    def _heal(self) -> None:
        self.network.loss = self.network.doubling = 0.0
        self.network.lateness = (0.0, 0.0)
        self.network.cuts.clear()
        self.network.mute.clear()
        self.network.far.clear()

    def _check_end(self) -> None:
        trouble = self.result.violations
        living = self.network.living
        if self._open and all(not m.paused for m in self.network.members.values()) and self.result.faults in (
            "none", "drop", "slow", "double", "mute", "pause", "partition",
        ):  # fmt: skip
            trouble.append(f"{self._open} reads never ended")
        for member in living:
            if member.now() >= member.peer.gate.current_until:
                trouble.append(f"{member.member.seat} is not current at the end")
            known = {other.incarnation for other, _, _ in member.peer.members()}
            if known != {m.member.incarnation for m in living if m is not member}:
                trouble.append(f"{member.member.seat} knows {len(known)} members at the end, not {len(living) - 1}")
            for key in KEYS:
                value = member.cached(key)
                if value is not MISSING and value != self.oracle.version[key]:
                    at = self.oracle.version[key]
                    trouble.append(f"{member.member.seat} holds {key}={value} at the end, not {at}")


def run(seed: int, faults: str) -> Result:
    """Run one history."""
    return Run(seed, faults).go()
