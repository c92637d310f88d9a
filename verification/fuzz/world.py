"""One peer in the middle of everything: what may come of a frame that it is given, and what must always be true."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType, MethodType
from typing import Any
from unittest import mock

from colocache.core.group import owner, stream
from colocache.core.group.fetches import Fetch
from colocache.core.group.members import MAX_PINGS, Member
from colocache.core.group.messages import (
    MAX_BUS,
    MAX_LINK,
    Event,
    Get,
    GetFenced,
    Goodbye,
    Load,
    Message,
    Peek,
    Ping,
    Pong,
    Value,
    decode,
    encode,
    key_target,
    pack_positions,
)
from colocache.core.group.outcomes import Altering, CaughtUp, Fence, Found, Lead, Loaded, Receipt, Seen, Solo, Written
from colocache.core.group.peer import Peer
from colocache.core.group.ring import Ring, slot_of
from colocache.core.group.seam import Publish, Send, Settings
from colocache.core.group.stats import Counters
from colocache.core.group.store import Store
from colocache.core.keys import prefix, wire
from colocache.core.options import EntryOptions
from colocache.errors import WireError
from colocache.testing.simulator import MemoryJournal

ME, A, B, DEAD, FORGOTTEN, STRANGER = (letter * 16 for letter in (b"M", b"A", b"B", b"D", b"F", b"S"))
SEATS = {ME: "host/0", A: "host/1", B: "host/2"}
SETTINGS = Settings(1.0, 1.0, fetch_timeout=0.25, load_timeout=3.0, forget_after=3.0, log_events=8, log_seconds=10.0)
TICK = 0.5  # s; shorter than the lease, or the peer would believe that it was stopped itself
REST = 20  # ticks: longer than anything is waited for
BUDGET = 64 << 10  # bytes of the store: so few that entries are pushed out
REMEMBERED = 16  # keys, and tags, that are remembered one by one: so few that a story reaches the limit
LIMITS = {"colocache.core.group.stream.MAX_AHEAD": 4, "colocache.core.group.owner.MAX_PARKED": 4}  # the same
OPTIONS = EntryOptions(300.0, ("t",))
OUTCOMES: dict[str, Any] = {"read": Found | Lead | Solo, "peek": Seen, "set": Written, "invalidate": Receipt,
                            "get fenced": Fence, "alter": Altering, "catch up": CaughtUp}  # fmt: skip


def _keys_of(seat: str) -> list[bytes]:
    ring = Ring(SEATS.values())
    wires = (wire(prefix("users" if number % 2 else ""), f"k{number}") for number in range(99))
    return [key for key in wires if ring.owner(slot_of(key)) == seat]


KEYS = {member: _keys_of(seat)[:4] for member, seat in SEATS.items()}


class World:
    """The peer M, which knows A, B, one that is dead and one that it has forgotten; with work of all kinds open."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = Store(BUDGET, BUDGET // 4, "sieve")
        self.peer = Peer(Member(ME, SEATS[ME], 10), SETTINGS, self.store, MemoryJournal(), self.now)
        self.engine = self.peer._engine
        self.engine.knowledge._remembered._limit = self.engine.knowledge._tags._limit = REMEMBERED
        self.numbers = {A: 0, B: 0}  # of the last events of those who answer
        self.open: dict[int, str] = {}  # calls of this process that have not returned
        self.loads: list[int] = []  # that this process was asked for, and has not reported
        self.left: list[Send] = []  # requests that A and B have not answered
        self._tickets = 0
        self._meet_everybody()
        self._open_work()

    def _meet_everybody(self) -> None:
        for seat, incarnation in enumerate((A, B, DEAD, FORGOTTEN), 1):
            self.peer.meet(Member(incarnation, f"host/{seat}", seat), self.now)
        self.peer.start(self.now)
        self.say(Goodbye(A, DEAD, 0), bus=True)
        forgotten = self.peer.acquaintance(FORGOTTEN)
        assert forgotten is not None
        self.engine.hearing.forget(forgotten)
        self.answer()
        self.pass_time(0.1)
        self.answer()
        assert self.engine.knowledge.is_current()

    def _open_work(self) -> None:
        """Put something into every table that a frame can change."""
        self.read(KEYS[ME][0])
        self.load()
        self.read(KEYS[A][0])
        self.say(Value(A, ME, self._newest_fetch(), b"near", 0.1, 300.0, True, ("u",)))
        self.say(Event(A, 1, (key_target(KEYS[B][1]), b"tt")), bus=True)
        self.say(Event(A, 4, (key_target(KEYS[B][1]),)), bus=True)  # too early
        for member in (B, A):  # the one is to load, the other waits for it
            self.say(Get(member, ME, 1, KEYS[ME][1], 20.0, b""))
        self.say(Get(B, ME, 2, KEYS[ME][0], 20.0, pack_positions({A: 9})))
        self.say(Peek(B, ME, 3, 20.0, pack_positions({A: 9}), (KEYS[ME][0], KEYS[A][0])))
        self.read(KEYS[ME][2])  # to be loaded here
        self.read(KEYS[B][0])
        self.say(Load(B, ME, self._newest_fetch(), 7, pack_positions({A: 9})))
        self.read(KEYS[B][1])
        self.peek((KEYS[ME][0], KEYS[A][1], KEYS[B][1]))
        self.set(KEYS[A][2], acknowledged=True)
        self.invalidate((key_target(KEYS[A][3]),))
        self.say(GetFenced(A, ME, 4, KEYS[ME][3], 20.0, b""))
        self.get_fenced(KEYS[A][0])
        self.count(KEYS[B][0], 1)
        self.catch_up({A: 9})

    def _newest_fetch(self) -> int:
        return max(fetch.id for fetch in self.engine.fetches.all())

    # --- What the others do

    def say(self, message: Message, *, bus: bool = False) -> None:
        """Have a message arrive."""
        self.receive(encode(message), bus=bus)

    def receive(self, frame: bytes, *, bus: bool) -> None:
        """Have a frame arrive, and see whether it is refused exactly when it should be, and without a trace."""
        refused = self._should_be_refused(frame, bus)
        self.engine.knowledge.now = self.now  # which every call sets first; it changes nothing
        before = imprint(self.peer) if refused else b""
        assert (self.peer.receive(frame, self.now, bus=bus) is None) == refused
        if refused:
            assert imprint(self.peer) == before, "a refused frame has changed the peer"
            return
        self.work()
        check_bounds(self.peer)

    def _should_be_refused(self, frame: bytes, bus: bool) -> bool:
        try:
            message = decode(frame)
        except WireError:
            return True
        if isinstance(message, Goodbye):
            return self.peer.acquaintance(message.sender) is None
        if isinstance(message, Event) != bus:
            return True
        if not isinstance(message, Event) and message.to != ME:
            return True
        return not isinstance(message, Ping) and self.peer.acquaintance(message.sender) is None

    def answer(self) -> None:
        """Have A and B answer the pings that they have got, and ping themselves."""
        left, self.left = self.left, []
        for message in (decode(send.frame) for send in left if send.to in self.numbers):
            if isinstance(message, Ping):
                me, last = message.to, self.numbers[message.to]
                self.say(Pong(me, ME, message.id, message.digest, last, ()))
                self.say(Ping(me, ME, 1, message.digest, 0, 1, SEATS[me]))

    # --- What this process does

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.work()

    def work(self) -> None:
        """Do what a driver's thread does after each step."""
        if self.peer.expelled:
            return
        wakes = 0
        while self.now >= self.peer.deadline():
            self.peer.tick(self.now)
            wakes += 1
            assert wakes < 8, "the peer wants to be woken again and again at one instant"
        for action in self.peer.actions():
            check_frame(action)
            if isinstance(action, Send):
                self.left = [*self.left[-20:], action]
        for ticket, outcome in self.peer.outcomes():
            assert isinstance(outcome, OUTCOMES[self.open.pop(ticket)])
            if isinstance(outcome, Fence):
                ticket = self._call("alter")
                self.peer.calls.set_fenced(ticket, KEYS[A][0], b"fenced", OPTIONS, outcome, self.now)
            if isinstance(outcome, Lead):
                self.loads.append(outcome.fetch)

    def _call(self, kind: str) -> int:
        self._tickets += 1
        self.open[self._tickets] = kind
        return self._tickets

    def read(self, key: bytes) -> None:
        """Call ``get_or_load``."""
        self.peer.calls.read(self._call("read"), key, ("t",), 2.0, self.now)
        self.work()

    def load(self, tags: tuple[str, ...] = ("t",), payload: bytes | None = b"loaded") -> None:
        """Report the oldest load that this process was asked for, if there is one."""
        if self.loads:
            report = Loaded("loaded", payload, EntryOptions(300.0, tags), lambda entry: None)
            self.peer.calls.loaded(self.loads.pop(0), report, self.now)
            self.work()

    def fail(self) -> None:
        """Report that the oldest load has failed."""
        if self.loads:
            self.peer.calls.failed(self.loads.pop(0), self.now)
            self.work()

    def abandon(self) -> None:
        """Give up the oldest read."""
        for ticket in [ticket for ticket, kind in self.open.items() if kind == "read"][:1]:
            del self.open[ticket]
            self.peer.calls.abandon(ticket, self.now)
            self.work()

    def peek(self, keys: tuple[bytes, ...]) -> None:
        """Call ``get_many``."""
        self.peer.calls.peek(self._call("peek"), keys, self.now)
        self.work()

    def get_fenced(self, key: bytes) -> None:
        """Miss a key, and set it under the fence, if there is one."""
        self.peer.calls.get_fenced(self._call("get fenced"), key, self.now)
        self.work()

    def count(self, key: bytes, delta: int | None) -> None:
        """Call ``incr``, or ``touch``."""
        self.peer.calls.alter(self._call("alter"), key, delta, b"\0int\1", OPTIONS, self.now)
        self.work()

    def catch_up(self, positions: dict[bytes, int]) -> None:
        """Call ``catch_up``."""
        self.peer.calls.catch_up(self._call("catch up"), positions, 0.2, self.now)
        self.work()

    def set(self, key: bytes, acknowledged: bool) -> None:
        """Call ``set``."""
        self.peer.calls.set(self._call("set"), key, b"set", OPTIONS, acknowledged, self.now)
        self.work()

    def invalidate(self, targets: tuple[bytes, ...]) -> None:
        """Call ``invalidate``."""
        self.peer.calls.invalidate(self._call("invalidate"), targets, 2.0, self.now)
        self.work()

    def reap(self, member: bytes, last: int | None, frames: list[tuple[int, bytes]]) -> None:
        """The kernel says that a member has died, and its journal says the rest."""
        if member != ME:
            self.peer.end(Member(member, "host/9", 0), last, frames, self.now)
            self.work()

    # --- The end

    def come_to_rest(self) -> None:
        """Nobody says anything any more. Every call must return, and the peer be as good as new, alone."""
        for _ in range(REST):
            if self.peer.expelled:
                return
            while self.loads:
                self.fail()
            self.pass_time(TICK)
        assert not self.open, f"calls that never return: {self.open}"
        assert not any(open_work(self.peer).values()), open_work(self.peer)
        assert self.engine.knowledge.is_current(), "the peer never recovers"
        self._serve()

    def _serve(self) -> None:
        key = KEYS[ME][3]
        self.invalidate((key_target(key),))
        for _ in range(2):
            self.read(key)
            assert self.loads, "after an invalidation, or before the first load, there is nothing to be served"
            self.load()
            self.read(key)
            assert not self.loads, "what was loaded is served"
            self.invalidate((key_target(key),))
            assert not self.open, "nobody is waited for"


@contextmanager
def low_limits() -> Iterator[None]:
    """Have the tables filled by a short story."""
    with ExitStack() as stack:
        for name, limit in LIMITS.items():
            stack.enter_context(mock.patch(name, limit))
        yield


# --- What must be true


def check_frame(action: object) -> None:
    """Assert that a receiver understands this frame."""
    if isinstance(action, Publish | Send):
        assert len(action.frame) <= (MAX_BUS if isinstance(action, Publish) else MAX_LINK)
        decode(action.frame)


def check_bounds(peer: Peer) -> None:
    """Assert that the tables are within their limits, and agree with each other."""
    for other in peer.acquaintances():
        assert len(other.stream._ahead) <= stream.MAX_AHEAD
        assert len(other.pings) <= MAX_PINGS
    engine = peer._engine
    assert len(engine.owner._parked) <= owner.MAX_PARKED
    assert len(engine.knowledge._remembered) <= 2 * REMEMBERED
    assert len(engine.knowledge._tags._young) <= REMEMBERED
    entries, store = list(engine.store._entries()), engine.store
    assert store._shard.currsize + store._near.currsize == sum(entry.size for entry in entries) <= BUDGET
    assert sum(map(len, store._wires.values())) == len(entries)
    assert set().union(*store._tagged.values()) == {entry.wire for entry in entries if entry.tags}
    assert not any(math.isnan(entry.expires) or math.isnan(entry.loaded_at) for entry in entries)
    assert all(engine.requests.get(fetch.id, Fetch) is fetch for fetch in engine.fetches.all())


def open_work(peer: Peer) -> dict[str, int]:
    """Return how much of each kind a peer has to do."""
    engine = peer._engine
    return {
        "members": len(peer.members()), "requests": len(engine.requests), "fetches": len(engine.fetches),
        "catching up": len(engine.reads._catching_up), "late fences": len(engine.attempts._late),
        "tokens": len(engine.queues), "parked": len(engine.owner._parked), "parked reads": len(engine.reads._parked),
        "announcements": len(engine.announcements), "waiting": len(engine.catching_up),
    }  # fmt: skip


# --- All that a peer is


_LEFT_OUT = (FunctionType, MethodType, Counters, Ring)


class _Imprint(pickle.Pickler):
    """Everything that can be reached from an object, but for code, counters, and rings, which follow from the rest."""

    def reducer_override(self, value: object) -> Any:
        return (str, ()) if isinstance(value, _LEFT_OUT) else NotImplemented


def imprint(peer: Peer) -> bytes:
    """Return bytes that differ if a peer holds, or remembers, or is going to do anything else."""
    into = io.BytesIO()
    _Imprint(into, pickle.HIGHEST_PROTOCOL).dump(peer)
    return into.getvalue()
