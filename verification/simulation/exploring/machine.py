"""One member as a deterministic machine, whose steps are computed once each.

A member is the shipped `Peer` with its store and journal, as `colocache.testing.simulator.Simulated` drives it. Members
share nothing but frames, so what one does next follows from its own state, its input and its clock alone. A `Cast`
numbers the states that members come into, and remembers where each input leads from each: two histories of the group
that leave a member in the same state share all that it does afterwards.

A state is never copied. It is known by the inputs that led to it, and is made again by giving them to a new member.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

from colocache.core.entry import MISSING
from colocache.core.group.entry import Entry
from colocache.core.group.gate import Gate
from colocache.core.group.members import Member
from colocache.core.group.seam import Settings
from colocache.testing.simulator import Network, Simulated
from verification.simulation.exploring.fingerprint import spell

LIVE = 5_000  # machines kept, so that few need to be made again; each takes some 40 kB

Input = tuple[Any, ...]  # the name of a `Machine` method, and its arguments


class Effects(NamedTuple):
    """What a step did besides changing the member: frames sent (to None: published), and what became of its calls."""

    sent: tuple[tuple[bytes | None, bytes], ...]
    results: tuple[tuple[int, str, Any], ...]  # thread, "loads" or "returns", value


class Birth(NamedTuple):
    """How a member begins: its place in the group, its seat, the speed of its clock, and the key that it works with."""

    place: int
    seat: int
    rate: float
    settings: Settings
    key: str


class View(NamedTuple):
    """What can be seen of a member in one state. Instants are of its own clock."""

    entries: tuple[tuple[int, Entry], ...]  # version and entry, of whatever a reader may find
    gate: Gate
    applied: dict[bytes, float]  # of each other stream; infinity: it is over, and settled
    last: int  # of its own stream
    due: float
    grants: dict[int, tuple[bytes, int]]  # tokens that stand, with the member and the request that hold them
    tokens: int  # given so far
    journal: tuple[bytes, ...]
    introduced: bool
    rate: float
    offset: float

    def clock(self, now: float) -> float:
        """Return what the member's clock shows."""
        return now * self.rate + self.offset

    def deadline(self) -> float:
        """Return when the member wants to look at its clock; so late that no rounding makes it look too early."""
        return (self.due - self.offset) / self.rate + 1e-9


class Caught(Network):
    """The network around one member: what it sends is caught, what it waits for is told it by hand."""

    def __init__(self, seed: int, settings: Settings) -> None:
        super().__init__(seed, settings, drift=0.0)
        self.sent: list[tuple[bytes | None, bytes]] = []

    def publish(self, sender: Simulated, frame: bytes) -> None:
        """Catch a publication."""
        self.sent.append((None, frame))

    def deliver(self, sender: Simulated, to: bytes, frame: bytes, *, bus: bool) -> None:
        """Catch a frame."""
        self.sent.append((to, frame))

    def connect(self, member: Simulated, other: Member) -> None:
        """Every link is there from the start."""

    def at(self, time: float, run: Any) -> None:
        """Nothing happens by itself."""


class Machine:
    """One member. Each public method but `view` is an input."""

    def __init__(self, birth: Birth) -> None:
        self.key = birth.key
        self.network = Caught(birth.place, birth.settings)
        self.member = Simulated(self.network, birth.seat, birth.rate)
        self.member.offset = 1000.0 * birth.place  # so that nobody compares the clocks of two members unpunished
        self.member.peer._knowledge.now = self.member.now()
        self.hits = self.member.homes[""].entries  # made by the first look, so that later looks change nothing
        self.loaders: dict[int, Any] = {}  # thread to what its loader reports to
        self.results: list[tuple[int, str, Any]] = []

    def step(self, now: float, given: Input) -> Effects:
        """Do one thing at an instant."""
        self.network.time = now
        getattr(self, given[0])(*given[1:])
        effects = Effects(tuple(self.network.sent), tuple(self.results))
        self.network.sent.clear()
        self.results.clear()
        return effects

    # --- Inputs

    def start(self, others: tuple[Member, ...], met_all: bool) -> None:
        """Begin to live, among others."""
        for other in others:
            self.member.peer.meet(other, self.member.now())
        self.member.peer.start(self.member.now(), met_all=met_all)
        self.member.pump()

    def meet(self, other: Member) -> None:
        """Be shown another member."""
        self.member.command(lambda: self.member.peer.meet(other, self.member.now()))

    def receive(self, frame: bytes, bus: bool) -> None:
        """Take a frame."""
        self.member.receive(frame, bus)

    def wake(self) -> None:
        """Look at the clock."""
        self.member.wake()

    def read(self, thread: int, tags: tuple[str, ...]) -> None:
        """Begin a get-or-load."""
        self.member.read(self.key, partial(self._loads, thread), partial(self._returns, thread), tags=tags)

    def peek(self, thread: int) -> None:
        """Begin a get."""
        self.member.peek(self.key, partial(self._returns, thread))

    def invalidate(self, thread: int, target: str | bytes, patience: float) -> None:
        """Begin an invalidation."""
        self.member.invalidate(target, partial(self._returns, thread), patience)

    def set(self, thread: int, value: int, acknowledged: bool) -> None:
        """Begin a set."""
        self.member.set(self.key, value, partial(self._returns, thread), acknowledged)

    def load(self, thread: int, value: object) -> None:
        """A loader returns a value, or an exception."""
        self.loaders.pop(thread)(value)

    def reap(self, dead: Member, journal: tuple[bytes, ...]) -> None:
        """The kernel says that a member died."""
        peer = self.member.peer
        known = peer.acquaintance(dead.incarnation)
        first = known.stream.applied + 1 if known else 1
        frames = list(enumerate(journal[first - 1 :], first))
        self.member.command(lambda: peer.end(dead, len(journal), frames, self.member.now()))

    def _loads(self, thread: int, report: Any) -> None:
        self.loaders[thread] = report
        self.results.append((thread, "loads", None))

    def _returns(self, thread: int, value: Any) -> None:
        self.results.append((thread, "returns", value))

    # --- Looks

    def view(self) -> View:
        """Look at the member."""
        peer, store = self.member.peer, self.member.store
        found = [store.find(self.member.wire(self.key), self.member.now()), self.hits.get(self.key)]
        gate = Gate()
        gate.current_until, gate.max_stale = peer.gate.current_until, peer.gate.max_stale
        queues = peer._engine.queues._queues.values()
        grants = [(q.grant.token, (q.grant.holder.member, q.grant.holder.id)) for q in queues if q.grant]
        assert len(grants) == len(dict(grants)), "one token stands twice"
        return View(
            entries=tuple((_version(entry), _copy(entry)) for entry in found if entry is not None),
            gate=gate,
            applied={
                **{other.member.incarnation: other.stream.applied for other in peer.acquaintances()},
                **dict.fromkeys(peer._members._ended, math.inf),
            },
            last=peer.last,
            due=peer.deadline(),
            grants=dict(grants),
            tokens=peer._engine.queues._tokens,
            journal=tuple(self.member.journal.frames),
            introduced=peer.introduced,
            rate=self.member.rate,
            offset=self.member.offset,
        )

    def fingerprint(self) -> tuple[Any, ...]:
        """Return all that decides what the member does next, as plain values."""
        member = self.member
        return spell([member.peer, member.store, member.journal, member.calls, member._tickets, self.loaders])


def _version(entry: Entry) -> int:
    return int(entry.payload or b"") if entry.value is MISSING else entry.value  # type: ignore[return-value]


def _copy(entry: Entry) -> Entry:
    return Entry(entry.wire, None, entry.loaded_at, entry.expires, entry.tags)


class Cast:
    """The members' machines, their states numbered as they are come into, and every step that was taken."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.steps: dict[tuple[int, float, Input], tuple[int, Effects]] = {}
        self.made_again = 0
        self._origins: list[tuple[int | None, Any]] = []  # state to the one before, and instant and input; or the birth
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._live: OrderedDict[int, Machine] = OrderedDict()

    def birth(self, birth: Birth) -> tuple[int, Member]:
        """Return the state of a member that has not started yet."""
        machine = Machine(birth)
        return self._number(machine, None, birth), machine.member.member

    def step(self, state: int, now: float, given: Input) -> tuple[int, Effects]:
        """Return the state that an input leads to, and what else it does."""
        taken = self.steps.get((state, now, given))
        if taken is None:
            machine = self._machine(state)
            effects = machine.step(now, given)
            taken = self.steps[state, now, given] = self._number(machine, state, (now, given)), effects
        return taken

    def _number(self, machine: Machine, before: int | None, by: Any) -> int:
        spelled = machine.fingerprint()
        number = self._numbers.setdefault(spelled, len(self._origins))
        if number == len(self._origins):
            self._origins.append((before, by))
            self.views.append(machine.view())
        self._live[number] = machine
        if len(self._live) > LIVE:
            self._live.popitem(last=False)
        return number

    def _machine(self, state: int) -> Machine:
        machine = self._live.pop(state, None)
        return machine if machine is not None else self._make_again(state)

    def _make_again(self, state: int) -> Machine:
        self.made_again += 1
        inputs = []
        before, by = self._origins[state]
        while before is not None:
            inputs.append(by)
            before, by = self._origins[before]
        machine = Machine(by)
        for now, given in reversed(inputs):
            machine.step(now, given)
        return machine
