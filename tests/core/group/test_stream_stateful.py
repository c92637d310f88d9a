"""Streams against a simple model: what a member counts as applied it has applied in turn, or has dropped everything.

Each member of a small group announces events, and hears those of the others through a network that loses, doubles,
delays and reorders them. What is shipped runs on both sides: `Announcer`, `EventLog`, `Hearing`, `Replays`,
`Reception`, `Remembered` and `TagVersions`. The machine does with them what the peer does, and keeps all that has
happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from colocache.core.group import stream as streams
from colocache.core.group.entry import Entry
from colocache.core.group.hearing import Hearing
from colocache.core.group.members import Acquaintance, Member, Members
from colocache.core.group.messages import (
    EVERYTHING,
    NO_NUMBER,
    Ack,
    Event,
    Goodbye,
    Ping,
    Pong,
    Replay,
    Replayed,
    Reset,
    decode,
)
from colocache.core.group.replays import Replays
from colocache.core.group.seam import Settings
from colocache.core.group.stats import Counters
from colocache.core.group.store import Store
from colocache.core.group.stream import Announcer, EventLog, Remembered, TagVersions
from colocache.core.keys import prefix, wire
from colocache.core.timers import Timers
from tests.core.stateful import Machine, explore, machine_test

LEASE, LOAD_TIMEOUT = 0.7, 2.1
PATIENCE = 0.05  # s; how long an answer to a replay is waited for
GAP_PATIENCE = 0.02  # s; how long an event may be under way that a pong has told of
TICK = 0.3  # s; each member looks at the clock at least so often
AHEAD = 4  # events kept that came before their turn
ROUNDING = 1e-9

KEYS = tuple(wire(prefix(""), f"k{n}") for n in range(4))
TAGS = ("red", "green", "blue")
TARGETS = (*[b"k" + key for key in KEYS], *[b"t" + tag.encode() for tag in TAGS], EVERYTHING)


class Past(NamedTuple):
    """One event, or reset, that a member has applied; the model keeps it for ever."""

    at: float
    target: bytes
    stream: bytes
    number: int
    version: int

    def may_invalidate(self, key: bytes) -> bool:
        """Tell whether it invalidates the key, or may: what names no key counts for every key."""
        return self.target[:1] != b"k" or self.target[1:] == key


class Noted(Counters):
    """Counters that the state machine notes as well."""

    def __init__(self, note: Callable[[str, int], None]) -> None:
        object.__setattr__(self, "note", note)
        super().__init__()

    def __setattr__(self, name: str, value: int) -> None:
        self.note(name.replace("_", " "), value - getattr(self, name, 0))
        super().__setattr__(name, value)


class Listener:
    """One member: what the peer does around its streams, and what the model knows of it."""

    settings = Settings(fetch_timeout=PATIENCE)

    def __init__(self, world: StreamMachine, seat: int) -> None:
        self.world = world
        self.member = Member(bytes([seat]) * 16, f"host/{seat}", seat)
        self.incarnation = self.member.incarnation
        self.alive = True
        self.version = 0
        self.timers = Timers()
        self.counters = Noted(world.note)
        self.members = Members(self.member, LEASE, math.inf, self.send)
        self.store = Store(100_000, 0, "lru")
        self.log = EventLog(world.log_limit, world.log_keep)
        self.announcer = Announcer(self.incarnation, self.log, self)
        me: Any = self  # it stands for the knowledge, the outbox and the effects
        self.replays = Replays(me, self.members, self.announcer, me, self.timers)
        self.hearing = Hearing(me, self.members, me, self.store, self.timers, self.replays, me)
        self.remembered = Remembered(2 * LEASE, world.limit)
        self.tags = TagVersions(LOAD_TIMEOUT, world.limit)
        # The model
        self.journal: list[bytes] = []
        self.announced_at: list[float] = []
        self.pruned_at = world.now
        self.covered: dict[bytes, int] = {}  # stream to the number up to which its events were applied, or dropped for
        self.known: dict[bytes, int] = {}  # stream to the highest number that was told
        self.behind_since: dict[bytes, float] = {}
        self.acknowledged: dict[bytes, int] = {}  # by others: stream to the highest number that they said they applied
        self.past: list[Past] = []

    # --- What the parts ask for

    @property
    def now(self) -> float:
        return self.world.now

    def append(self, number: int, frame: bytes) -> None:
        """Journal an event: before anybody can hear of it, or be told of its number."""
        assert number == len(self.journal) + 1 == self.announcer.last + 1
        self.journal.append(frame)
        self.announced_at.append(self.world.now)
        self.pruned_at = self.world.now

    def send(self, message: Any) -> None:
        self.world.send(message.to, message)

    def apply(self, event: Event) -> None:
        stream, number, targets = event
        assert number == self.covered.get(stream, 0) + 1, "out of turn, twice, or with one missing before it"
        assert event == decode(self.world.listeners[stream].journal[number - 1])
        self.covered[stream] = number
        self.version += 1
        for target in targets:
            self.past.append(Past(self.world.now, target, stream, number, self.version))
            if target.startswith(b"k"):
                self.remembered.key(target[1:], stream, number, self.version)
            else:
                self.remembered.bulk(stream, number, self.version)
                if target.startswith(b"t"):
                    self.tags.invalidate(target[1:].decode(), self.version)

    def reset(self, stream: bytes, last: int) -> None:
        self.covered[stream] = max(self.covered.get(stream, 0), last)
        self.past.append(Past(self.world.now, EVERYTHING, stream, last, self.version))
        self.remembered.bulk(stream, last, self.version)
        self.version += 1
        self.store.drop_namespace("")
        self.world.note("resets")

    def lets_go(self, member: Member) -> None:
        announced = len(self.world.listeners[member.incarnation].journal)
        assert self.covered.get(member.incarnation, 0) >= announced, "a stream ends when all of it is applied or reset"
        assert self.members.has_ended(member.incarnation)
        self.world.note("ends of streams")

    # --- What the peer does

    def announce(self, *targets: bytes) -> bytes:
        """Announce an event, and apply it here; return its frame."""
        number, frame = self.announcer.announce(targets, self.world.now)
        self.apply(Event(self.incarnation, number, targets))
        return frame

    def receive(self, message: Any) -> None:
        """Take a message from a member in."""
        hearing = self.hearing
        other = self.members.get(message.sender)
        if other is None:
            return
        self.learn(message)
        if isinstance(message, Event):
            hearing.heard(message)
        elif isinstance(message, Replay):
            self.replays.answer(message)
        elif isinstance(message, Replayed | Reset):
            hearing.answered(message)
        elif isinstance(message, Goodbye):
            hearing.goodbye(message)
        elif isinstance(message, Pong):
            self.hear_pong(other, message)
        else:
            assert isinstance(message, Ack | Ping)
            self.acknowledged[message.sender] = max(self.acknowledged.get(message.sender, 0), message.applied)
            if isinstance(message, Ping):
                self.send(Pong(self.incarnation, message.sender, 0, bytes(8), self.announcer.last, ()))

    def learn(self, message: Any) -> None:
        """Note in the model what a message tells of a stream."""
        told = [message] if isinstance(message, Event) else []
        if isinstance(message, Replayed):
            told = [decode(frame) for frame in message.frames]
        number = message.last if isinstance(message, Reset | Pong) else max((e.number for e in told), default=0)
        self.known[message.sender] = max(self.known.get(message.sender, 0), number)

    def hear_pong(self, other: Acquaintance, pong: Pong) -> None:
        other.stream.known = max(other.stream.known, pong.last)
        if other.stream.behind:
            self.replays.expect(pong.sender, self.world.now + GAP_PATIENCE)

    def reap(self, dead: Listener, readable: bool) -> None:
        """The kernel says that a host-mate died; read its journal, and tell everybody."""
        if self.members.has_ended(dead.incarnation):
            return
        self.members.learn(dead.member, self.world.now)
        known = self.members.get(dead.incarnation)
        assert known is not None
        frames = tuple(dead.journal[known.stream.applied :]) if readable else ()
        self.hearing.replayed(dead.incarnation, frames)
        last = len(dead.journal) if readable else NO_NUMBER
        self.world.broadcast(self, Goodbye(self.incarnation, dead.incarnation, last))
        self.hearing.over(dead.member, last, journal_read=True)

    def tick(self) -> None:
        self.timers.run(self.world.now)
        self.log.prune(self.world.now)
        self.pruned_at = self.world.now
        self.remembered.turn(self.world.now)
        self.members.turn(self.world.now)
        self.tags.turn(self.world.now)

    def finish(self) -> None:
        """Do what a step ends with, and send what is batched."""
        gone, self.hearing.gone = self.hearing.gone, []
        for member in gone:
            self.lets_go(member)
        for stream, applied in self.hearing.acknowledgements():
            assert applied == self.covered.get(stream, 0)
            self.send(Ack(self.incarnation, stream, applied))

    # --- What must hold

    def check(self) -> None:
        self.a_log_gives_all_from_a_number_on_or_nothing()
        self.a_request_names_the_events_of_late()
        for version in range(max(0, self.version - 4), self.version + 1):
            for key in KEYS[:2]:
                self.a_key_is_invalidated_if_it_was(key, version)
            for tag in TAGS[:2]:
                self.a_tag_is_invalidated_if_it_was(tag, version)
            assert not self.tags.invalidated_since((), version)
        assert len(self.remembered) <= 2 * self.world.limit
        assert len(self.tags._young) + len(self.tags._old) <= 2 * self.world.limit

    def a_log_gives_all_from_a_number_on_or_nothing(self) -> None:
        last, since = len(self.journal), self.pruned_at - self.world.log_keep
        announced = enumerate(self.announced_at, 1)
        kept = [number for number, at in announced if number > last - self.world.log_limit and at >= since]
        assert (self.announcer.last, len(self.log)) == (last, len(kept))
        for first in range(-1, last + 3):
            reaches = first > last or first in kept
            assert self.log.since(first) == (self.journal[first - 1 :] if reaches else None)

    def a_request_names_the_events_of_late(self) -> None:
        """Of its keys: all of the last two leases, and none older than twice that."""
        now, overflows = self.world.now, self.world.limit < len(KEYS)  # keys that overflow count as bulk, which is safe
        for keys in (KEYS[:1], KEYS[1:3]):
            named = self.remembered.dependencies(keys)
            covering = [past for past in self.past if overflows or any(map(past.may_invalidate, keys))]
            for past in covering:
                if past.at > now - 2 * LEASE + ROUNDING and any(map(past.may_invalidate, keys)):
                    assert named.get(past.stream, -1) >= past.number, "forgotten too early"
            rightly = {
                (past.stream, past.number) for past in covering if past.at > now - 2 * (2 * LEASE + TICK) - ROUNDING
            }
            assert named.items() <= rightly

    def a_key_is_invalidated_if_it_was(self, key: bytes, version: int) -> None:
        since = [past for past in self.past if past.version > version]
        covering = [past for past in since if past.may_invalidate(key)]
        if any(past.at > self.world.now - 2 * LEASE + ROUNDING for past in covering):
            assert self.remembered.invalidated_since(key, version)
        if not (since if self.world.limit < len(KEYS) else covering):
            assert not self.remembered.invalidated_since(key, version)

    def a_tag_is_invalidated_if_it_was(self, tag: str, version: int) -> None:
        since = [past for past in self.past if past.version > version and past.target.startswith(b"t")]
        covering = [past for past in since if past.target[1:] == tag.encode()]
        if any(past.at > self.world.now - LOAD_TIMEOUT + ROUNDING for past in covering):
            assert self.tags.invalidated_since((tag,), version)
        if not (since if self.world.limit < len(TAGS) else covering):
            assert not self.tags.invalidated_since((tag,), version)


class StreamMachine(Machine):
    """A few members, and what is under way between them."""

    @initialize(size=st.integers(2, 3), limit=st.sampled_from((100, 2, 1)), log_limit=st.integers(1, 5),
                log_keep=st.sampled_from((100.0, 1.0)))  # fmt: skip
    def begin(self, size: int, limit: int, log_limit: int, log_keep: float) -> None:
        self.limit, self.log_limit, self.log_keep = limit, log_limit, log_keep
        self.now = 12345.678
        self.listeners: dict[bytes, Listener] = {}
        self.under_way: list[tuple[bytes, Any]] = []
        for _ in range(size):
            self.join()

    # --- The network

    def send(self, to: bytes, message: Any) -> None:
        self.under_way.append((to, message))

    def broadcast(self, sender: Listener, message: Any) -> None:
        for other in self.living():
            if other is not sender:
                self.send(other.incarnation, message)

    def arrive(self, to: bytes, message: Any) -> None:
        listener = self.listeners[to]
        if listener.alive:
            listener.receive(message)
            listener.finish()

    def living(self) -> list[Listener]:
        return [each for each in self.listeners.values() if each.alive]

    def one(self, number: int) -> Listener:
        living = self.living()
        return living[number % len(living)]

    def pairs(self) -> Iterator[tuple[Listener, Acquaintance]]:
        """Each living member with each that it knows."""
        for listener in self.living():
            for other in listener.members:
                yield listener, other

    # --- What happens

    @rule(
        who=st.integers(0, 4),
        changed=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=2),
        times=st.integers(1, 7),
    )
    def announce(self, who: int, changed: list[bytes], times: int) -> None:
        announcer = self.one(who)
        for _ in range(times):
            self.broadcast(announcer, decode(announcer.announce(*changed)))

    @rule(which=st.integers(0, 99))
    def deliver(self, which: int) -> None:
        if self.under_way:
            self.arrive(*self.under_way.pop(which % len(self.under_way)))

    @rule(which=st.integers(0, 99))
    def deliver_a_copy(self, which: int) -> None:
        if self.under_way:
            self.arrive(*self.under_way[which % len(self.under_way)])

    @rule(which=st.integers(0, 99), many=st.integers(1, 5))
    def lose(self, which: int, many: int) -> None:
        for _ in range(min(many, len(self.under_way))):
            self.under_way.pop(which % len(self.under_way))

    @rule(backwards=st.booleans())
    def deliver_all(self, backwards: bool) -> None:
        arriving, self.under_way = self.under_way, []
        for to, message in reversed(arriving) if backwards else arriving:
            self.arrive(to, message)

    @rule(asker=st.integers(0, 4))
    def ping(self, asker: int) -> None:
        """A member asks all others how far their streams are, and tells what it has applied of them."""
        me = self.one(asker)
        for other in me.members:
            to = other.member.incarnation
            self.send(to, Ping(me.incarnation, to, 0, bytes(8), other.stream.applied, 0, me.member.seat))

    @rule(seconds=st.sampled_from((0.02, 0.11, 0.5, 1.4, 3.0)))
    def wait(self, seconds: float) -> None:
        ends = self.now + seconds
        while self.now < ends:
            due = min(listener.timers.deadline() for listener in self.living())
            self.now = min(ends, self.now + TICK, max(due, self.now))
            for listener in self.living():
                listener.tick()
                listener.finish()

    @rule(who=st.integers(0, 4))
    def keep_something(self, who: int) -> None:
        """Somebody holds what may be stale; who holds nothing need not wait for the end of a stream."""
        self.one(who).store.put(Entry(KEYS[0], b"value", self.now, math.inf, ()), near=False)

    @rule()
    def join(self) -> None:
        if len(self.listeners) < 5:
            new = Listener(self, len(self.listeners) + 1)
            for other in self.living():
                new.members.learn(other.member, self.now)
                other.members.learn(new.member, self.now)
            self.listeners[new.incarnation] = new

    @rule(who=st.integers(0, 4), clean=st.booleans(), witnesses=st.sets(st.integers(0, 3)), readable=st.booleans())
    def die(self, who: int, clean: bool, witnesses: set[int], readable: bool) -> None:
        """A member says goodbye, or is killed; some see it, and tell the rest; nobody, and it is silent for ever."""
        if len(self.living()) < 3:
            return
        dead = self.one(who)
        dead.alive = False
        if clean:
            self.broadcast(dead, Goodbye(dead.incarnation, dead.incarnation, dead.announcer.last))
        for number, witness in enumerate(self.living()):
            if number in witnesses:
                witness.reap(dead, readable)
                witness.finish()

    @rule(who=st.integers(0, 4), positions=st.dictionaries(st.integers(1, 6), st.integers(0, 9), max_size=3))
    def depend(self, who: int, positions: dict[int, int]) -> None:
        """A request names what its asker has applied."""
        listener = self.one(who)
        verdicts: list[bool | None] = []
        for seat, number in positions.items():
            stream = bytes([seat]) * 16
            if stream == listener.incarnation:
                verdicts.append(True if number <= len(listener.journal) else None)
            elif listener.members.has_ended(stream):
                verdicts.append(True)
            else:
                known = listener.members.get(stream) is not None
                verdicts.append(listener.covered.get(stream, 0) >= number if known else None)
        expected = None if None in verdicts else all(verdicts)
        named = {bytes([seat]) * 16: number for seat, number in positions.items()}
        assert listener.replays.has_applied(named) is expected

    # --- What must hold

    @invariant()
    def check(self) -> None:
        for listener, other in self.pairs():
            self.applied_is_what_was_applied(listener, other)
            self.a_gap_is_noticed_and_asked_about(listener, other)
            self.what_is_forgotten_is_known_to_be(listener, other)
        for listener in self.living():
            listener.check()
            for stream, number in listener.acknowledged.items():
                assert number <= self.listeners[stream].covered.get(listener.incarnation, 0)

    def applied_is_what_was_applied(self, listener: Listener, other: Acquaintance) -> None:
        stream, name = other.stream, other.member.incarnation
        assert stream.applied == listener.covered.get(name, 0)
        assert stream.known == max(stream.applied, listener.known.get(name, 0))
        assert len(stream._ahead) <= AHEAD
        assert all(number > stream.applied + 1 for number in stream._ahead), "what was applied takes no room"

    def a_gap_is_noticed_and_asked_about(self, listener: Listener, other: Acquaintance) -> None:
        stream, name = other.stream, other.member.incarnation
        assert stream.behind is (stream.known > stream.applied)
        if stream.behind:
            noticed = listener.behind_since.setdefault(name, self.now)
            assert self.now - max(noticed, stream.asked_at) <= PATIENCE + ROUNDING, "nobody asks any more"
        else:
            listener.behind_since.pop(name, None)

    def what_is_forgotten_is_known_to_be(self, listener: Listener, other: Acquaintance) -> None:
        """Of an event that is not remembered any more, `faded` says that it may have been."""
        name = other.member.incarnation
        for key in KEYS[:2]:
            covering = [past.number for past in listener.past if past.stream == name and past.may_invalidate(key)]
            remembered = listener.remembered.dependencies((key,)).get(name, -1)
            assert max(covering, default=-1) <= max(remembered, other.faded)

    def teardown(self) -> None:
        """Once nothing is lost any more, everybody soon has applied everything, and everybody knows."""
        if not hasattr(self, "listeners"):
            return
        for dead in self.listeners.values():
            if not dead.alive:
                for witness in self.living():
                    witness.reap(dead, True)
        for _ in range(2):
            for asker in range(len(self.living())):
                self.ping(asker)
            for _ in range(3):
                self.deliver_all(False)
                self.wait(PATIENCE)
        living = {listener.incarnation for listener in self.living()}
        for listener in self.living():
            assert {other.member.incarnation for other in listener.members} == living - {listener.incarnation}
            for other in listener.members:
                last = self.listeners[other.member.incarnation].announcer.last
                assert (other.stream.applied, other.stream.behind, other.stream._ahead) == (last, False, {})
                assert self.listeners[other.member.incarnation].acknowledged.get(listener.incarnation, 0) == last
        self.wait(2 * (2 * LEASE + TICK) + 0.1)
        for listener in self.living():
            assert listener.remembered.dependencies(KEYS) == {}
            assert len(listener.remembered) == len(listener.tags._young) == 0


@machine_test
def test_streams_do_what_a_simple_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_AHEAD", AHEAD)
    explore(StreamMachine, 120, 40, "events applied", "events replayed", "replays", "resets", "ends of streams")


@pytest.mark.parametrize("now", [0.1, 1234.5, 12345.678, 1.7e9])
def test_a_lost_replay_is_asked_for_again_and_again_however_the_clock_rounds(now: float) -> None:
    # 1. A replay is asked for, and a look at it noted for now + 0.05; 2. the answer is lost; 3. at 12345.728 s the look
    # finds that 12345.728 - 12345.678 is less than 0.05, takes the answer for under way, and nobody looks again.
    machine = StreamMachine()
    machine.begin(size=2, limit=100, log_limit=5, log_keep=100.0)
    machine.now = now
    machine.announce(0, [EVERYTHING], times=2)
    machine.lose(0, many=1)
    machine.deliver(0)
    machine.wait(20.5 * PATIENCE)
    assert sum(isinstance(message, Replay) for _, message in machine.under_way) == 1 + 20
