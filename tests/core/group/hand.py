"""A few members whose frames the test delivers, holds back or loses by hand.

They are real peers, as in `colocache.testing.simulator`, but nothing is random. Every frame takes `HOP` seconds and
arrives in order, except those that a test takes out of the network. Clocks run alike unless a test says otherwise. A
test says when the kernel tells which members of a death.
"""

from __future__ import annotations

from typing import Any

from colocache.core.group.members import Acquaintance
from colocache.core.group.messages import Message, decode, encode
from colocache.core.group.outcomes import Written
from colocache.core.group.seam import Settings
from colocache.core.receipt import Receipt
from colocache.testing.simulator import Loading, Network, Reader, Simulated

HOP = 0.001  # s; what every frame takes that nobody holds back
LEASE = Settings().lease


class Held:
    """Frames that are taken out of the network as they are sent: lost, unless they are delivered after all."""

    def __init__(self, table: Table, kinds: tuple[type[Any], ...], sender: Simulated | None, to: Simulated | None):
        self._table = table
        self._kinds = kinds
        self._sender = sender
        self._to = to
        self._frames: list[tuple[Simulated, bytes, bool]] = []

    def takes(self, sender: Simulated, to: Simulated, frame: bytes, bus: bool) -> bool:
        """Whether a frame is one of these; it is kept if so."""
        if (self._sender or sender) is not sender or (self._to or to) is not to:
            return False
        if self._kinds and not isinstance(decode(frame), self._kinds):
            return False
        self._frames.append((to, frame, bus))
        return True

    @property
    def messages(self) -> list[Any]:
        """What was taken so far."""
        return [decode(frame) for _, frame, _ in self._frames]

    def stop(self) -> None:
        """Take no more."""
        self._table.held.remove(self)

    def deliver(self, *places: int) -> None:
        """Deliver what was taken, or the frames at some places of it, now; and let the answers come."""
        for place in places or range(len(self._frames)):
            to, frame, bus = self._frames[place]
            to.receive(frame, bus)
        self._table.settle()


class Call:
    """An invalidation, a set or a peek under way."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.outcome: Any = None
        self.returned_at: float | None = None

    def __call__(self, outcome: Any) -> None:
        assert self.returned_at is None, "a call returned twice"
        self.outcome, self.returned_at = outcome, self._table.time

    @property
    def returned(self) -> bool:
        """Whether it is over."""
        return self.returned_at is not None


class Read:
    """A get-or-load under way; its loader returns when the test says so."""

    def __init__(self) -> None:
        self.value: object = None
        self.returned = False
        self.loading = False
        self._report: Loading
        self._reader: Reader

    @property
    def alone(self) -> bool:
        """Whether it loads for itself, and reports to nobody."""
        return self.loading and self._report.alone

    @property
    def loader(self) -> Loading:
        """What a read that the loader makes is to name."""
        assert self.loading
        return self._report

    def load(self, value: object) -> None:
        """Have the loader return a value, or raise an exception."""
        assert self.loading, "its loader was not called"
        self.loading = False
        self._report(value)

    def cancel(self, *, ends_loader: bool = False) -> None:
        """Cancel the caller; ``ends_loader`` is what `Reader.cancel` takes."""
        self._reader.cancel(ends_loader=ends_loader)
        self.loading = self.loading and self._reader.fetch is not None

    def begin(self, report: Loading) -> None:
        """The loader is called."""
        assert not self.loading, "its loader was called twice"
        self.loading, self._report = True, report

    def done(self, value: object) -> None:
        """The call returns, or raises."""
        assert not self.returned, "a read returned twice"
        self.value, self.returned = value, True


class Table(Network):
    """A group on a table: ``Table(3)`` are three members that know each other and are current."""

    def __init__(self, size: int, settings: Settings = Settings()) -> None:  # noqa: B008
        super().__init__(seed=0, settings=settings, drift=0.0)
        self.held: list[Held] = []
        for _ in range(size):
            self.join()
        self.pass_time(1.0)
        assert all(self.is_current(member) for member in self.living)

    # --- Time

    def pass_time(self, seconds: float) -> None:
        """Let time pass; members tick when they want to, and frames arrive."""
        self.run(self.time + seconds)

    def settle(self) -> None:
        """Let frames be answered, so soon that no timer matters."""
        self.pass_time(10 * HOP)

    # --- Frames

    def hold(self, *kinds: type[Any], sender: Simulated | None = None, to: Simulated | None = None) -> Held:
        """Take frames out of the network from now on: of these kinds (none: all), from one member, to one."""
        self.held.append(Held(self, kinds, sender, to))
        return self.held[-1]

    def cut(self, one: Simulated, other: Simulated) -> tuple[Held, Held]:
        """Lose everything between two members."""
        return self.hold(sender=one, to=other), self.hold(sender=other, to=one)

    def deliver(self, sender: Simulated, to: bytes, frame: bytes, *, bus: bool) -> None:
        """Carry a frame, unless it is held."""
        receiver = self.members.get(to)
        if receiver is None or not receiver.alive:
            return
        if not any(held.takes(sender, receiver, frame, bus) for held in self.held):
            self.after(HOP, lambda: receiver.receive(frame, bus))

    def inject(self, to: Simulated, message: Message, *, bus: bool = False) -> None:
        """Have a member receive a message that the test has made; and let the answers come."""
        to.receive(encode(message), bus)
        self.settle()

    # --- Life and death

    def look_around(self, member: Simulated) -> None:
        """Nobody sees anybody by itself."""

    def notice(self, other: Simulated, dead: Simulated, stranger: bool = False) -> None:
        """The kernel says nothing by itself."""

    def kill(self, member: Simulated) -> None:
        """End a member's process; nobody is told."""
        member.alive = False

    def leave(self, member: Simulated) -> None:
        """Have a member say goodbye, and end; nobody else says anything."""
        member.peer.leave(member.now())
        member.pump()
        self.kill(member)

    def reap(self, dead: Simulated, *by: Simulated, readable: bool = True) -> None:
        """Have the kernel tell members of a death; they read the dead one's journal, if it can be read."""
        for member in by:
            known = member.peer.acquaintance(dead.member.incarnation)
            frames = dead.journal.since(known.stream.applied + 1 if known else 1) if readable else []
            last = len(dead.journal.frames) if readable else None
            member.peer.end(dead.member, last, frames, member.now())
            member.pump()
        self.settle()

    def slow_down(self, member: Simulated, rate: float) -> None:
        """Have a member's clock run at another rate from now on."""
        member.offset += self.time * (member.rate - rate)
        member.rate = rate

    # --- Calls; each returns at once

    def key(self, owner: Simulated) -> str:
        """Return a key that a member owns."""
        mine = owner.member.incarnation
        return next(k for k in (f"k{n}" for n in range(1000)) if owner.peer.owner_of(owner.wire(k)) == mine)

    def read(self, member: Simulated, key: str, tags: tuple[str, ...] = (), ttl: float = 300.0) -> Read:
        """Begin a read, and let it get as far as it can without time."""
        read = Read()
        read._reader = member.read(key, read.begin, read.done, ttl, tags)
        self.settle()
        return read

    def fill(self, member: Simulated, key: str, value: object, tags: tuple[str, ...] = ()) -> None:
        """Have a member load a key that nobody has, and fill it in."""
        read = self.read(member, key, tags)
        read.load(value)
        self.settle()
        assert read.value == value
        assert not read.alone

    def invalidate(self, member: Simulated, target: str | bytes, patience: float = 1e9) -> Call:
        """Begin an invalidation."""
        call = Call(self)
        member.invalidate(target, call, patience)
        self.settle()
        return call

    def set(self, member: Simulated, key: str, value: object, acknowledged: bool = False) -> Call:
        """Begin a set."""
        call = Call(self)
        member.set(key, value, call, acknowledged)
        self.settle()
        return call

    def peek(self, member: Simulated, key: str) -> Call:
        """Begin a peek."""
        call = Call(self)
        member.peek(key, call)
        self.settle()
        return call

    # --- Looks

    @staticmethod
    def is_current(member: Simulated) -> bool:
        """Whether a member is known to have heard every event."""
        return member.now() < member.peer.gate.current_until

    @staticmethod
    def serves(member: Simulated, key: str) -> bool:
        """Tell whether a member would serve a key from its own store."""
        engine = member.peer._engine
        engine.knowledge.now = member.now()
        return engine.knowledge.servable(engine.store, member.wire(key)) is not None

    @staticmethod
    def knows(member: Simulated, other: Simulated) -> Acquaintance:
        """Return what a member knows of another one."""
        known = member.peer.acquaintance(other.member.incarnation)
        assert known is not None
        return known

    @staticmethod
    def resets(member: Simulated) -> float:
        """Return how often a member had to drop everything."""
        return member.peer.counters.resets


def receipt_of(call: Call) -> Receipt:
    """Return the receipt of an invalidation, or of a set, that has returned."""
    assert call.returned
    receipt = call.outcome.receipt if isinstance(call.outcome, Written) else call.outcome
    assert isinstance(receipt, Receipt)
    return receipt
