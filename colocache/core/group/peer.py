"""One member's whole protocol: bytes and instants in; frames, deadlines and outcomes out.

The driver (in production the bus thread, in the tests a simulator) does, again and again: `receive` what came, `tick`,
carry out what `actions` returns, hand the `outcomes` to the calls that wait, and sleep until `deadline` at the latest.
Nothing here blocks, and nothing is remembered of the driver. Not thread-safe, but for `Gate`, which readers look at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from ...errors import WireError
from ...stats import Counters, Stats, with_counters
from ..entry import Entry
from ..gate import Gate
from ..store import Store
from ..timers import Timers
from .announcements import Announcements, Receipt
from .atomic import Atomic
from .attempts import Altering, Attempts, Fence
from .catching_up import CatchingUp, CaughtUp
from .fills import Desk
from .hearing import Hearing
from .members import Acquaintance, Member, Members
from .messages import (
    EVERYTHING,
    NO_NUMBER,
    Ack,
    Alone,
    Alter,
    Altered,
    Cancel,
    Event,
    Fail,
    Fenced,
    Fill,
    Found,
    Get,
    GetFenced,
    Left,
    Load,
    Message,
    Peek,
    Ping,
    Pong,
    Replay,
    Replayed,
    Reset,
    Roster,
    Set,
    SetFenced,
    Settled,
    Stored,
    Value,
    Wait,
    decode,
    encode,
    pack_positions,
    split_targets,
)
from .owner import Owner
from .reads import Found as FoundEntry
from .reads import Loaded, Outcome, Reads, Ticket
from .requests import Requests, Seen, Written
from .ring import Ring, slot_of
from .seam import Action, Connect, Disconnect, Probe, Publish, Send, Settings
from .stream import Announcer, Journal, Log, Remembered, TagMoments

GAP_PATIENCE = 0.02  # s; so long an event may be under way when a pong is ahead of it, before a replay is asked for


AnyOutcome = Outcome | Seen | Written | Receipt | Fence | Altering | CaughtUp

#: Whoever sends one of these waits, for an answer or for an acknowledgement.
_URGENT = (Event, Get, Peek, Fill, Set, GetFenced, SetFenced, Alter)
_REPLIES = (Pong, Roster, Value, Load, Wait, Alone, Found, Stored, Settled, Fenced, Altered, Replayed, Reset)


class Peer:
    """One member of a group."""

    def __init__(self, me: Member, settings: Settings, store: Store, journal: Journal, now: float) -> None:
        self.me = me
        self.gate = Gate()
        self.asked_at = -math.inf  # when somebody asked last who waits for this member
        self.expelled = False  # the others have given this member up for dead; only a new incarnation can come back
        self.counters = Counters()
        self._settings = settings
        self._store = store
        self._now = now
        self._started = False
        self._behind_since: float | None = None
        self._moment = 0
        self._dropped = 0  # the moment at which everything was dropped last
        self._actions: list[Action] = []
        self._outcomes: list[tuple[int, AnyOutcome]] = []
        self._timers = Timers()
        self._members = Members(me, settings.lease, settings.forget_after, self.send)
        self._announcer = Announcer(me.incarnation, Log(settings.log_events, settings.log_seconds), journal)
        self._remembered = Remembered(2 * settings.lease)
        self._tags = TagMoments(settings.load_timeout)
        self._announcements = Announcements(settings.lease)
        self._desk = Desk(me.incarnation, settings.load_timeout, self.send, self.dependencies, self._timers)
        self._atomic = Atomic(self, settings.load_timeout)
        self._owner = Owner(self, self._desk, self._atomic)
        self._reads = Reads(self, settings.lease, settings.fetch_timeout, self._timers)
        self._requests = Requests(self, settings.fetch_timeout, 3 * settings.lease, self._timers)
        self._attempts = Attempts(self, settings.fetch_timeout, self._timers)
        self._catching_up = CatchingUp(self, self._timers)
        self._hearing = Hearing(self, self._members, self._announcer, store, settings.fetch_timeout, self._timers)
        self._parked: list[Ticket] = []  # reads that came before this member was established
        self._parking_ends = math.inf
        self._ring: tuple[Ring, dict[str, bytes]] | None = None
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            Event: lambda m: self._hearing.heard(m, self._now), Replay: lambda m: self._hearing.replay(m),
            Replayed: lambda m: self._hearing.answered(m, self._now),
            Reset: lambda m: self._hearing.answered(m, self._now),
            Left: self._on_left, Pong: self._on_pong, Roster: self._on_roster, Ack: self._on_ack,
            Get: lambda m: self._owner.asked(m, self._now), Peek: lambda m: self._owner.asked(m, self._now),
            Fill: lambda m: self._owner.filled(m, self._now), Set: lambda m: self._owner.set(m, self._now),
            Fail: lambda m: self._desk.fail(m.key, m.token, m.sender, self._now, self._moment),
            Cancel: lambda m: self._owner.cancel(m.sender, m.id, self._now),
            Value: lambda m: self._reads.answered(m, self._now), Load: lambda m: self._reads.answered(m, self._now),
            Wait: lambda m: self._reads.answered(m, self._now), Alone: lambda m: self._reads.answered(m, self._now),
            Found: lambda m: self._requests.found(m, self._now),
            Stored: lambda m: self._requests.stored(m, self._now), Settled: lambda m: self._requests.settled(m),
            GetFenced: lambda m: self._owner.asked(m, self._now), Alter: lambda m: self._owner.asked(m, self._now),
            SetFenced: lambda m: self._owner.set_fenced(m, self._now),
            Fenced: lambda m: self._attempts.fenced(m, self._now), Altered: lambda m: self._attempts.altered(m),
        }  # fmt: skip

    # --- The seam

    def receive(self, frame: bytes, now: float, *, bus: bool = False) -> bytes | None:
        """Take a frame in, from the bus or from a link; return its sender if it is a member's."""
        self._now = now
        try:
            message = decode(frame)
        except WireError:
            self.counters.frames_refused += 1
            return None
        other = self._members.get(message.sender)
        if isinstance(message, Event | Left) != bus and not isinstance(message, Left):
            self.counters.frames_refused += 1
            return None
        if not isinstance(message, Event | Left) and message.to != self.incarnation:
            self.counters.frames_ignored += 1
            return None
        if isinstance(message, Ping):
            self._on_ping(message)
        elif other is None:
            self.counters.frames_ignored += 1
            return None
        else:
            other.heard_at = now
            if isinstance(message, _URGENT):
                self.asked_at = now
            if isinstance(message, Event):
                other.replays_running = 0
            self._handle(message)
        self._refresh()
        return message.sender

    def tick(self, now: float) -> None:
        """Do what is due by the clock."""
        self._now = now
        self._members.tick(now, hurry=not self.is_current())
        for lost in self._members.forgettable(now):
            self._forget(lost)
        self._timers.run(now)
        self._remembered.turn(now)
        self._members.turn(now)
        self._tags.turn(now)
        self._store.expire(now)
        self._atomic.fences.expire(now)
        self._owner.retry(now)
        self._refresh()

    def deadline(self) -> float:
        """Return the instant at which `tick` must be called at the latest."""
        return min(self._members.deadline(), self._timers.deadline(), self._announcements.deadline())

    def actions(self) -> list[Action]:
        """Return, and forget, what is to be sent, in order. Acknowledgements are batched: one per stream and call."""
        for stream, applied in self._hearing.acknowledgements():
            self.send(Ack(self.incarnation, stream, applied))
        actions, self._actions = self._actions, []
        return actions

    def outcomes(self) -> list[tuple[int, AnyOutcome]]:
        """Return, and forget, what calls were waiting for."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    # --- What the driver learns of the host

    def meet(self, member: Member, now: float) -> None:
        """A member was seen. From here on it must be heard: until it answers, this member is not current."""
        self._now = now
        other = self._members.learn(member, now)
        if other is not None:
            self._met(other)
            self._refresh()

    def meet_again(self, member: Member, now: float) -> None:
        """A member's files were seen: meet it, unless it was forgotten. That one must speak first, for it may hang.

        But it is knocked at, without being counted: two members that have forgotten each other, and can hear each
        other again, would both wait for the other one to speak.
        """
        if not self._members.has_forgotten(member.incarnation):
            self.meet(member, now)
            return
        ping = self._members.knock(member.incarnation, now)
        if ping is not None:
            self._actions.append(Probe(member, encode(ping)))

    @property
    def introduced(self) -> bool:
        """Whether this member knows the whole group, or has met somebody who does; see `start`."""
        return self._members.introduced

    def has_ended(self, incarnation: bytes) -> bool:
        """Whether a stream is known to be over for good."""
        return self._members.has_ended(incarnation)

    def start(self, now: float, *, met_all: bool = True) -> None:
        """From now on this member may be current; if not everybody who is there was met, when it is **introduced**.

        That is, when a member that knows the whole group agrees with it about who is there:

        1. J knows of the group by A alone; 2. A leaves, before it has told J of the others, or them of J; 3. J knows
        nobody, but is not alone: nobody waits for it, and it would serve what is invalidated from then on.
        """
        self._now = now
        self._started, self._members.introduced = True, met_all
        self._parking_ends = now + self._settings.fetch_timeout
        self._timers.at(self._parking_ends, self._unpark)
        self.tick(now)

    def end(self, member: Member, last: int | None, frames: list[tuple[int, bytes]], now: float) -> None:
        """The kernel says that a member died. ``last`` and ``frames`` are of its journal; None if it is unreadable.

        It may be one that nobody has met: what it announced in its short life holds all the same.
        """
        self._now = now
        if self._members.has_ended(member.incarnation):
            return
        self._members.learn(member, now)
        number = NO_NUMBER if last is None else last
        self._hearing.replayed(member.incarnation, tuple(frame for _, frame in frames), now)
        self._publish_left(member.incarnation, number)
        self._hearing.over(member, number, now, journal_read=True)
        self._refresh()

    def leave(self, now: float) -> None:
        """Say goodbye: the stream ends here. Nothing may be called afterwards but `actions`."""
        self._now = now
        self.gate.current_until = self.gate.max_stale = -math.inf
        self._publish_left(self.incarnation, self._announcer.last)

    # --- What calls ask for

    def read(self, ticket: int, wire: bytes, tags: tuple[str, ...], patience: float, now: float) -> None:
        """Get a key's value, or the duty to load it."""
        self._now = now
        entry = self.servable(wire)
        waiting = Ticket(ticket, wire, tags, now, now + patience)
        if entry is not None:
            self.settle(ticket, FoundEntry(self._hit(entry)))
        elif not self.established and self._parking_ends > now:
            self._parked.append(waiting)
        else:
            self._reads.read(waiting, now)

    def peek(self, ticket: int, wires: Iterable[bytes], now: float) -> None:
        """Get the values that anybody has of some keys."""
        self._now = now
        known, unknown = {}, []
        for wire in wires:
            entry = self.servable(wire)
            if entry is None:
                unknown.append(wire)
            else:
                known[wire] = self._hit(entry)
        self._requests.peek(ticket, known, unknown, now)

    def loaded(self, request: int, loaded: Loaded, now: float) -> None:
        """A loader that a `Lead` asked for gave a value."""
        self._now = now
        self._reads.loaded(request, loaded, now)

    def failed(self, request: int, now: float) -> None:
        """A loader that a `Lead` asked for raised."""
        self._now = now
        self.counters.failed_loads += 1
        self._reads.failed(request, now)

    def is_awaited(self, request: int) -> bool:
        """Whether anybody besides its caller waits for the load that a `Lead` asked for, as far as this member knows.

        May be called from any thread. It takes no lock: whoever comes a moment later waits for the next load instead.
        """
        return self._reads.is_awaited(request)

    def detach(self, request: int, now: float) -> None:
        """The caller of a load waits no more, and the load goes on."""
        self._now = now
        self._reads.detach(request)

    def abandon(self, ticket: int, now: float) -> None:
        """A call waits no more."""
        self._now = now
        self._parked = [waiting for waiting in self._parked if waiting.id != ticket]
        self._reads.abandon(ticket, now)
        self._catching_up.abandon(ticket)

    def get_fenced(self, ticket: int, wire: bytes, now: float) -> None:
        """Get what the owner has under a key, with a fence for a set that is to follow."""
        self._now = now
        self._attempts.get(ticket, wire, now)
        self._refresh()

    def set_fenced(self, ticket: int, wire: bytes, payload: bytes, left: float, tags: tuple[str, ...], fence: Fence,
                   now: float) -> None:  # fmt: skip
        """Have a value stored by its owner, if the key had no event since the fence was given."""
        self._now = now
        self._attempts.set(ticket, wire, payload, left, tags, fence, now)
        self._refresh()

    def alter(self, ticket: int, wire: bytes, delta: int | None, start: bytes, left: float, tags: tuple[str, ...],
              now: float) -> None:  # fmt: skip
        """Have the owner count, or (None) give a value another expiry; ``start`` is stored where nothing is."""
        self._now = now
        self._attempts.alter(ticket, wire, delta, start, left, tags, now)
        self._refresh()

    def catch_up(self, ticket: int, positions: dict[bytes, int], patience: float, now: float) -> None:
        """Wait until the positions are applied here, for ``patience`` seconds at most."""
        self._now = now
        self._catching_up.wait(ticket, positions, patience, now)
        self._refresh()

    def await_receipt(self, ticket: int, patience: float, now: float) -> None:
        """Get the receipt of the newest event of this member, and so of all before it."""
        self._now = now
        self._announcements.wait(self.last, now, patience, lambda receipt: self._receipt(ticket, receipt))
        self._refresh()

    def set(self, ticket: int, wire: bytes, payload: bytes, left: float, tags: tuple[str, ...], settle: bool,
            now: float) -> None:  # fmt: skip
        """Have a value stored by its owner; ``settle``: and acknowledged by everybody."""
        self._now = now
        self._requests.set(ticket, wire, payload, left, tags, settle, now)
        self._refresh()

    def invalidate(
        self, ticket: int, targets: Iterable[bytes], patience: float, now: float, *, counts: bool = True
    ) -> None:
        """Announce that targets have changed; settled with a `Receipt`, after ``patience`` seconds at the latest.

        ``counts``: not only a step of a greater one.
        """
        self._now = now
        number = self._announcer.last
        for part in split_targets(targets):
            number = self.announce(part)
        self.counters.invalidations += counts
        if patience <= 0:
            self.settle(ticket, Receipt((), (), not len(self._members) and self.established, 0.0))
        else:
            self._announcements.wait(number, now, patience, lambda receipt: self._receipt(ticket, receipt))
        self._refresh()

    def age(self, seconds: float, now: float) -> None:
        """Be as if so many seconds had passed. For tests, of a member that is alone.

        A load under way is taken to have lasted longer than it may: its caller gets the value, and nobody keeps it.
        """
        self._now = now
        self._moment += 1
        self._store.age(seconds)
        self._atomic.fences.age(seconds)
        self._reads.mark_all("")
        self._desk.pass_on_all("", now, self._moment)
        self.tick(now)

    @property
    def busy(self) -> bool:
        """Whether events of this member wait for their acknowledgements."""
        return bool(len(self._members)) and any(o.acked < self._announcer.last for o in self._members)

    def members(self) -> list[tuple[Member, float, bool]]:
        """Return the other members, since when they are known, and whether they are heard."""
        return [(other.member, other.since, self._now < other.heard_until) for other in self._members]

    def acquaintances(self) -> Iterable[Acquaintance]:
        """Return what is known of the other members, for the driver's repairs."""
        return iter(self._members)

    def acquaintance(self, incarnation: bytes) -> Acquaintance | None:
        """Return what is known of one member; None if it is not one, any more or yet."""
        return self._members.get(incarnation)

    def stats(self, now: float) -> Stats:
        """Return a copy of the counters, with the gauges."""
        shard_entries, shard_bytes, near_entries, near_bytes = self._store.sizes()
        shard_hits, near_hits = self._store.hit_counts()
        stats = Stats(
            shard_hits=shard_hits, near_hits=near_hits, shard_entries=shard_entries, near_entries=near_entries,
            shard_bytes=shard_bytes, near_bytes=near_bytes, entries=shard_entries + near_entries,
            bytes=shard_bytes + near_bytes, evictions=self._store.evictions, members=len(self._members) + 1,
            current=now < self.gate.current_until, established=self.established, oversize=self._store.refused,
            seconds_behind=0.0 if self._behind_since is None else now - self._behind_since,
        )  # fmt: skip
        return with_counters(stats, self.counters)

    # --- What the parts ask of the peer (see the `Host` protocols)

    @property
    def incarnation(self) -> bytes:
        """This member's."""
        return self.me.incarnation

    @property
    def moment(self) -> int:
        """How many events were applied here."""
        return self._moment

    @property
    def established(self) -> bool:
        """Whether this member was current once."""
        return self.gate.max_stale > -math.inf

    @property
    def last(self) -> int:
        """The number of this member's newest event."""
        return self._announcer.last

    def is_current(self) -> bool:
        """Whether this member is known to have heard every event."""
        return self._now < self.gate.current_until

    def current_until(self) -> float:
        """The instant until which this member is current: a lease ago, every event announced until then was applied."""
        return self.gate.current_until

    def trusted_since(self) -> float:
        """The instant after which a value must have been read from the source to be used while behind."""
        return self._now - self.gate.max_stale

    def send(self, message: Message) -> None:
        """Send a message to the member that it names; one to this member itself is handled before the return."""
        to = message.to  # type: ignore[union-attr]
        if to == self.incarnation:
            self._handlers[type(message)](message)
        else:
            self._actions.append(Send(to, encode(message), isinstance(message, _REPLIES)))

    def settle(self, ticket: int, outcome: AnyOutcome) -> None:
        """Tell a call what it waited for."""
        self._outcomes.append((ticket, outcome))

    def progressed(self) -> None:
        """A stream is applied further: answer, and load, what depends on it."""
        self._owner.retry(self._now)
        self._reads.retry(self._now)
        self._attempts.retry(self._now)
        self._catching_up.retry()

    def owner_of(self, wire: bytes) -> bytes | None:
        """Return the owner of a key; None if it is passed over."""
        ring, seats = self._ring or self._make_ring()
        owner = seats[ring.owner(slot_of(wire))]
        other = self._members.get(owner)
        return None if other is not None and other.unresponsive else owner

    def pass_over(self, owner: bytes) -> None:
        """Do not ask an owner again until it is heard."""
        other = self._members.get(owner)
        if other is not None:
            other.unresponsive = True

    def dependencies(self, wires: Iterable[bytes]) -> bytes | None:
        """Return the packed positions that an owner must have applied before it answers for the keys.

        None if there are more than can be named.
        """
        positions = self._remembered.dependencies(wires)
        return None if positions is None else pack_positions(positions)

    def has_applied(self, positions: dict[bytes, int]) -> bool | None:
        """Whether the positions are applied here; None if one of them never can be. Asks for what is missing."""
        return self._hearing.has_applied(positions, self._now)

    def servable(self, wire: bytes) -> Entry | None:
        """Return a key's entry if it may be served."""
        entry = self._store.find(wire, self._now)
        return entry if entry is not None and self.gate.lets(entry, self._now) else None

    def store_entry(self, entry: Entry) -> bool:
        """Keep an entry in the shard; False if it is too large."""
        return self._store.put(entry, near=False)

    def own(self, wire: bytes) -> Entry | None:
        """Return what this member itself has under a key, to be used by a reader of this process."""
        entry = self.servable(wire)
        return self._hit(entry) if entry is not None else None

    def shard_entry(self, wire: bytes) -> Entry | None:
        """Return what the shard has under a key, to be used by a reader of this process."""
        entry = self._store.find(wire, self._now)
        if entry is not None:
            self._store.charge_object(entry)
        return entry

    def keep(self, entry: Entry) -> None:
        """Keep an entry as a near copy; it is dead afterwards if it is too large."""
        self._store.put(entry, near=True)

    def tags_hit_since(self, tags: Iterable[str], moment: int) -> bool:
        """Whether one of the tags was hit by an event after ``moment``."""
        return self._tags.hit_since(tags, moment)

    def overtaken(self, wire: bytes, tags: Iterable[str], moment: int) -> bool:
        """Whether the key or one of the tags was hit by an event applied after ``moment``."""
        if self._dropped > moment:
            return True
        return self._remembered.hit_since(wire, moment) or self._tags.hit_since(tags, moment)

    def hit_by(self, wire: bytes, stream: bytes, number: int) -> bool:
        """Whether the key was, or may have been, hit by an event of the stream beyond ``number``."""
        other = self._members.get(stream)
        if other is not None and other.faded > number:
            return True
        positions = self._remembered.dependencies((wire,))
        return positions is None or positions.get(stream, -1) > number

    def touch(self, wire: bytes) -> None:
        """Drop this member's own copy of a key, and mark its fetches."""
        self._moment += 1
        self._store.drop(wire)
        self._reads.mark(wire)

    def remember(self, wire: bytes, stream: bytes, number: int) -> None:
        """Depend on an event as if it were applied here."""
        self._remembered.key(wire, stream, number, self._moment)

    def announce(self, targets: tuple[bytes, ...]) -> int:
        """Announce an event of this member's own stream: journal it, apply it here, publish it; return its number."""
        number, frame = self._announcer.announce(targets, self._now)
        self.counters.events_sent += 1
        self.apply(Event(self.incarnation, number, targets))
        self._actions.append(Publish(frame))
        return number

    def receipt_for(self, number: int, settle: Callable[[Receipt], None]) -> None:
        """Have ``settle`` called with the receipt of an announced event."""
        self._announcements.wait(number, self._now, math.inf, settle)

    # --- Events

    def apply(self, event: Event) -> None:
        """Drop, void, mark and remember what an event hits."""
        stream, number, targets = event
        self._moment += 1
        for target in targets:
            kind, name = target[:1], target[1:]
            if kind == b"k":
                self._store.drop(name)
                self._reads.mark(name)
                self._remembered.key(name, stream, number, self._moment)
                self._atomic.fences.fall(name)
                self._desk.pass_on(name, self._now, self._moment)
                continue
            self._remembered.bulk(stream, number, self._moment)
            if kind == b"t":
                tag = name.decode("utf-8", "surrogatepass")
                self._tags.hit(tag, self._moment)
                self._store.drop_tag(tag)
                self._reads.mark_tag(tag)
            else:
                self._hit_namespace("" if target == EVERYTHING else name.decode("utf-8", "surrogatepass"))

    def _hit_namespace(self, namespace: str) -> None:
        self._store.drop_namespace(namespace)
        self._reads.mark_all(namespace)
        self._atomic.fences.fall_all(namespace)
        self._desk.pass_on_all(namespace, self._now, self._moment)

    def drop_all(self) -> None:
        """Drop, void and mark everything: what is held may be stale."""
        self._moment += 1
        self._dropped = self._moment
        self.counters.resets += 1
        self._hit_namespace("")

    def depend_on(self, stream: bytes, last: int) -> None:
        """Remember a reset like a bulk event, as a dependency of every key.

        Or this member would take back, from an owner that is not so far, what it has just dropped.
        """
        self._remembered.bulk(stream, last, self._moment)

    def _on_ack(self, ack: Ack) -> None:
        other = self._members.get(ack.sender)
        if other is not None:
            other.acked = max(other.acked, min(ack.applied, self._announcer.last))

    # --- Members

    def _met(self, other: Acquaintance) -> None:
        self._ring = None
        self._actions.append(Connect(other.member))
        self._members.ping(other, self._now, hurry=True)

    def _on_ping(self, ping: Ping) -> None:
        other = self._members.get(ping.sender)
        if other is None and ping.sender != self.incarnation:
            other = self._members.learn(Member(ping.sender, ping.seat, ping.pid), self._now)
            if other is not None:
                self._met(other)
        if other is None:
            self.counters.frames_ignored += 1
            if self._members.has_ended(ping.sender):  # it lives, and must be told that it is given up for dead
                left = Left(self.incarnation, ping.sender, NO_NUMBER)
                self._actions.append(Send(ping.sender, encode(left), True))
            return
        if other.member.seat != ping.seat:  # it knows best: a container sees another host name in the same directory
            other.member, self._ring = other.member._replace(seat=ping.seat), None
        other.acked = max(other.acked, min(ping.applied, self._announcer.last))
        self._members.pong(ping, self._announcer.last, self._now)

    def _on_pong(self, pong: Pong) -> None:
        settled = self._members.hear_pong(pong, self._now)
        other = self._members.get(pong.sender)
        if other is None or not other.stream.behind:
            return
        if not self.established and not other.stream.applied and not len(self._store):
            self._hearing.reset_to(other, other.stream.known, self._now)  # a joiner holds nothing that could be stale
        elif settled:
            self._hearing.expect(pong.sender, self._now + GAP_PATIENCE)

    def _on_roster(self, roster: Roster) -> None:
        new, over, wrong = self._members.read_roster(roster)
        for member in new:
            self.meet(member, self._now)
        for member, last in over:
            self._hearing.over(member, last, self._now)
        if wrong:
            self._members.send_roster(roster.sender, self._now, wrong)
        sender = self._members.get(roster.sender)
        # An end that is still waited for is no news: a ping would bring the same roster, and that a ping, and so on.
        if sender is not None and (new or any(self._members.has_ended(member.incarnation) for member, _ in over)):
            self._members.ping(sender, self._now, hurry=True)

    def _on_left(self, left: Left) -> None:
        if left.stream == self.incarnation:
            self._expel()
        else:
            self._hearing.left(left, self._now)

    def _expel(self) -> None:
        """The others take this member for dead, and never hear it again: it may not serve, nor promise anything."""
        self.expelled, self._started = True, False
        self.gate.max_stale = -math.inf
        for other in self._members:
            other.met = False

    def _forget(self, other: Acquaintance) -> None:
        """Nobody has heard a member for long: count it no more. What was kept while it was silent may be stale."""
        self._members.forget(other.member.incarnation, self._now)
        self.drop_all()
        self.gone(other.member)

    def gone(self, member: Member) -> None:
        """A member is one no more: its requests lapse, and what it was asked for is asked elsewhere."""
        self._ring = None
        self._actions.append(Disconnect(member))
        self._owner.left(member.incarnation, self._now)
        self._reads.owner_left(member.incarnation, self._now)
        self._requests.owner_left(member.incarnation)
        self._attempts.owner_left(member.incarnation)
        self.progressed()

    def _publish_left(self, stream: bytes, last: int) -> None:
        frame = encode(Left(self.incarnation, stream, last))
        self._actions.append(Publish(frame))
        self._actions.extend(
            Send(other.member.incarnation, frame, reply=False)
            for other in self._members
            if other.member.incarnation != stream
        )

    # --- State

    def _handle(self, message: Message) -> None:
        self._handlers[type(message)](message)

    def _hit(self, entry: Entry) -> Entry:
        entry.hits += 1
        self._store.charge_object(entry)
        return entry

    def _receipt(self, ticket: int, receipt: Receipt) -> None:
        if not receipt.complete:
            self.counters.incomplete += 1
        self.settle(ticket, receipt)

    def _make_ring(self) -> tuple[Ring, dict[str, bytes]]:
        """The ring of the seats that are taken. A seat that two incarnations hold for a moment is the newer one's."""
        seats = {self.me.seat: self.incarnation}
        for other in sorted(self._members, key=lambda other: other.since):
            if other.member.seat != self.me.seat:
                seats[other.member.seat] = other.member.incarnation
        self._ring = (_ring_of(frozenset(seats)), seats)
        return self._ring

    def _refresh(self) -> None:
        """Derive what readers look at, and settle what waits for it."""
        gate, now = self.gate, self._now
        gate.current_until = self._members.current_until() if self._started else -math.inf
        current = now < gate.current_until
        if current and not self.established:
            gate.max_stale = self._settings.max_stale
            self._unpark()
        if self.established:
            if not current and self._behind_since is None:
                self._behind_since = now
            elif current and self._behind_since is not None:
                self.counters.seconds_behind += now - self._behind_since
                self._behind_since = None
        self._announcements.advance(self._members, self.established, now)

    def _unpark(self) -> None:
        parked, self._parked = self._parked, []
        for ticket in parked:
            self._reads.read(ticket, self._now)


@lru_cache(maxsize=16)
def _ring_of(seats: frozenset[str]) -> Ring:
    """Return the ring of some seats; kept, for a worker that is recycled gives its seat up and takes it again."""
    return Ring(seats)
