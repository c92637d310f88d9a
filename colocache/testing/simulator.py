"""A simulated host for the shipped protocol: network, clocks and crashes under one seed.

`Network` joins members that run the very `Peer` that production runs. It simulates only what is around it: time, the
two channels, and the death of processes. Everything follows from the seed, so a failing run can be replayed.

Faults are attributes of the network (`loss`, `lateness`, `far`, `cuts`, `mute`, …) and calls (`pause`, `crash`,
`leave`). A test changes or calls them at any simulated instant, with `at`. Each channel has dice of its own. So what
happens on one channel hardly changes the others, and a failing run is easy to shrink.

Keys are texts here: ``"users/42"`` is the key 42 of the namespace ``users``.

The simulator is not thread-safe. It starts no thread, opens no file and reads no clock.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Any

from ..core import keys
from ..core.entry import DEAD, MISSING, Home
from ..core.group.entry import Entry
from ..core.group.members import Member
from ..core.group.messages import decode, key_target
from ..core.group.outcomes import Altering, Fence, Found, Lead, Loaded, Solo
from ..core.group.peer import Peer
from ..core.group.seam import Connect, Disconnect, Probe, Publish, Send, Settings
from ..core.group.store import Store
from ..core.numbers import pack_integer
from ..core.options import EntryOptions
from ..core.receipt import Receipt

#: The protocol's times, scaled down, so that more faults fit into a simulated second.
SCALED = Settings(
    lease=0.6, max_stale=0.6, fetch_timeout=0.05, load_timeout=6.0, forget_after=6.0, log_events=1000, log_seconds=12.0
)

KEPT = EntryOptions(300.0)  # of values that nobody gives other options

Target = str | bytes


class MemoryJournal:
    """A journal that outlives its member, as the mapped file does."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def append(self, number: int, frame: bytes) -> None:
        """Keep an event's frame."""
        assert number == len(self.frames) + 1
        self.frames.append(frame)

    def since(self, first: int) -> list[tuple[int, bytes]]:
        """Return the frames from number ``first`` on, with their numbers."""
        return list(enumerate(self.frames[first - 1 :], first))


class Loading:
    """A loader under way. Call it with the value, or with an exception. Reads that the loader makes name it."""

    def __init__(self, done: Callable[[object, float], None], outer: Loading | None, *, alone: bool) -> None:
        self.alone = alone  # whether it loads for its caller only, and reports to nobody
        self._done = done
        self._outer = outer
        self._oldest = math.inf

    def __call__(self, value: object) -> None:
        """End the load."""
        self._done(value, self._oldest)

    def served_while_behind(self, loaded_at: float) -> None:
        """Do what `colocache.operations.under_way.note_age` does."""
        self._oldest = min(self._oldest, loaded_at)
        if self._outer is not None:
            self._outer.served_while_behind(loaded_at)


class Reader:
    """A caller of ``aget_or_load``."""

    def __init__(self, member: Simulated, done: Callable[[object], None]) -> None:
        self.ticket = 0
        self.fetch: int | None = None  # the load that it leads
        self._member = member
        self._done: Callable[[object], None] | None = done  # None once it is over

    def end(self, value: object) -> None:
        """Let the call return, or raise."""
        done, self._done = self._done, None
        if done is not None:
            done(value)

    def cancel(self, *, ends_loader: bool = False) -> None:
        """Do what `colocache.operations.drive` does when the caller's task is cancelled.

        ``ends_loader`` says that the caller is a thread or greenlet, in which the loader runs, too.
        """
        member, fetch, self._done = self._member, self.fetch, None
        if fetch is not None and not ends_loader and member.peer.calls.is_awaited(fetch):
            member.command(lambda: member.peer.calls.detach(fetch, member.now()))
            return
        self.fetch = None  # the loader is cancelled, too
        member.calls.pop(self.ticket, None)
        member.command(lambda: member.peer.calls.abandon(self.ticket, member.now()))


class Simulated:
    """One member: a peer with its store and its journal, and a clock."""

    def __init__(self, network: Network, seat: int, rate: float) -> None:
        self.network = network
        self.seat = seat
        self.rate = rate
        self.offset = network.random.uniform(0, 1000)
        self.alive = True
        self.paused = False
        self.stops = 0  # how often it was paused
        self.backlog: list[Callable[[], None]] = []
        self.journal = MemoryJournal()
        self.store = Store(network.memory, network.memory // 4, "s3fifo")
        self.homes = defaultdict[str, Home[Entry]](lambda: Home(self.store))  # by namespace
        incarnation = network.random.randbytes(16)
        self.member = Member(incarnation, f"host{network.host_of(seat) or ''}/{seat}", 1000 + seat)
        self.peer = Peer(self.member, network.settings, self.store, self.journal, self.now())
        self._unheard = 0  # publications that wait for this process
        self.calls: dict[int, Callable[[Any], None]] = {}
        self._tickets = 0
        self._wakes_at = math.inf

    def now(self) -> float:
        """Return the time of this member's clock."""
        return self.network.time * self.rate + self.offset

    # --- What an application does

    def cached(self, key: str, inside: Loading | None = None) -> object:
        """Return what a reader of this process is served at once; MISSING if that is nothing."""
        namespace, name = _split(key)
        entry = self.homes[namespace].entries.get(name)
        if entry is not None and self.peer.gate.lets(entry, self.now()):
            self._serve(entry, inside)
            return entry.value
        return MISSING

    def read(self, key: str, load: Callable[[Loading], None], done: Callable[[object], None], ttl: float = 300.0,
             tags: tuple[str, ...] = (), inside: Loading | None = None) -> Reader:  # fmt: skip
        """Do what ``aget_or_load`` does. Return the reader, by which the caller can be cancelled.

        ``load`` gets what it must call with the value, or with an exception. A loader that reads another key passes
        itself as ``inside``.
        """
        value, reader = self.cached(key, inside), Reader(self, done)
        if value is not MISSING:
            reader.end(value)
            return reader

        def outcome(result: Any) -> None:
            if isinstance(result, Found):
                self._serve(result.entry, inside)
                reader.end(self._use(key, result.entry))
            elif isinstance(result, Lead):
                reader.fetch = result.fetch
                load(Loading(loaded, inside, alone=False))
            else:
                assert isinstance(result, Solo)
                load(Loading(lambda value, _: reader.end(value), inside, alone=True))

        def loaded(value: object, oldest: float) -> None:
            fetch = reader.fetch
            if not self.alive or fetch is None:
                return
            if isinstance(value, Exception):
                self.command(lambda: self.peer.calls.failed(fetch, self.now()))
            else:
                publish = partial(self._publish, key, value=value)
                report = Loaded(value, repr(value).encode(), EntryOptions(ttl, tags), publish, oldest)
                self.command(lambda: self.peer.calls.loaded(fetch, report, self.now()))
            reader.end(value)

        wire = self.wire(key)
        reader.ticket = self.call(outcome, lambda ticket: self.peer.calls.read(ticket, wire, tags, 10.0, self.now()))
        return reader

    def peek(self, key: str, done: Callable[[object], None]) -> None:
        """Do what ``get`` does."""
        value = self.cached(key)
        if value is not MISSING:
            done(value)
            return
        wire = self.wire(key)

        def outcome(result: Any) -> None:
            done(self._use(key, result.entries[wire]) if wire in result.entries else MISSING)

        self.call(outcome, lambda ticket: self.peer.calls.peek(ticket, [wire], self.now()))

    def invalidate(self, target: Target | Iterable[Target], done: Callable[[Receipt], None],
                   patience: float = 1e9) -> None:  # fmt: skip
        """Do what ``invalidate`` does, for a key (str), another target of an event (bytes), or several of them."""
        several = [target] if isinstance(target, str | bytes) else list(target)
        targets = [each if isinstance(each, bytes) else key_target(self.wire(each)) for each in several]
        self.call(done, lambda ticket: self.peer.calls.invalidate(ticket, targets, patience, self.now()))

    def set(self, key: str, value: object, done: Callable[[Any], None], acknowledged: bool = False) -> None:
        """Do what ``set`` does."""
        wire, payload = self.wire(key), repr(value).encode()
        self.call(done, lambda ticket: self.peer.calls.set(ticket, wire, payload, KEPT, acknowledged, self.now()))

    def get_fenced(self, key: str, done: Callable[[object, Fence], None]) -> None:
        """Do what ``get`` does in a fenced namespace if the process holds nothing itself."""

        def outcome(fence: Fence) -> None:
            done(self._use(key, fence.entry) if fence.entry is not None else MISSING, fence)

        self.call(outcome, lambda ticket: self.peer.calls.get_fenced(ticket, self.wire(key), self.now()))

    def set_fenced(self, key: str, value: object, fence: Fence, done: Callable[[Altering], None],
                   tags: tuple[str, ...] = ()) -> None:  # fmt: skip
        """Do what ``set`` does in a fenced namespace after a miss, and ``cas``."""
        wire, payload, options = self.wire(key), repr(value).encode(), KEPT._replace(tags=tags)
        self.call(done, lambda ticket: self.peer.calls.set_fenced(ticket, wire, payload, options, fence, self.now()))

    def alter(self, key: str, delta: int | None, done: Callable[[Altering], None], *, initial: int | None = None,
              ttl: float = 300.0) -> None:  # fmt: skip
        """Do what ``incr`` does, or, without ``delta``, ``touch``."""
        start = b"" if initial is None else pack_integer(initial + (delta or 0)) or b""
        wire = self.wire(key)
        self.call(done, lambda ticket: self.peer.calls.alter(ticket, wire, delta, start, EntryOptions(ttl), self.now()))

    @staticmethod
    def wire(key: str) -> bytes:
        """Return a key as it travels."""
        namespace, name = _split(key)
        return keys.wire(keys.prefix(namespace), name)

    def _serve(self, entry: Entry, inside: Loading | None) -> None:
        if inside is not None and self.now() >= self.peer.gate.current_until:
            inside.served_while_behind(entry.loaded_at)

    def _use(self, key: str, entry: Entry) -> object:
        payload, value = entry.payload, entry.value
        if value is MISSING:
            assert payload is not None
            value = int(payload)
            if entry.expires != DEAD:
                self._publish(key, entry, value)
        return value

    def _publish(self, key: str, entry: Entry, value: object) -> None:
        namespace, name = _split(key)
        entry.publish(self.homes[namespace], name, value, keep_payload=False)

    # --- The driver

    def call(self, done: Callable[[Any], None], start: Callable[[int], None]) -> int:
        """Start a call of the peer, and return its ticket. ``done`` is called with its outcome."""
        self._tickets += 1
        ticket = self._tickets
        self.calls[ticket] = done
        self.command(lambda: start(ticket))
        return ticket

    def command(self, run: Callable[[], None]) -> None:
        """Have the peer's thread do something at once. If the process is stopped, it does so when it wakes."""
        if self.paused:
            self.backlog.append(run)
        elif self.alive:
            run()
            self.pump()

    def pump(self) -> None:
        """Do what a driver's thread does after each step."""
        if not self.alive or self.paused:
            return
        for action in self.peer.actions():
            if isinstance(action, Publish):
                self.network.publish(self, action.frame)
            elif isinstance(action, Send):
                self.network.deliver(self, action.to, action.frame, bus=False)
            elif isinstance(action, Connect):
                self.network.connect(self, action.member)
            elif isinstance(action, Probe):
                self.network.deliver(self, action.member.incarnation, action.frame, bus=False)
            else:
                assert isinstance(action, Disconnect)
        for ticket, outcome in self.peer.outcomes():
            self.calls.pop(ticket, lambda _: None)(outcome)
        self._sleep()

    def receive(self, frame: bytes, bus: bool) -> None:
        """Take a frame from the network. A stopped process has limited room for publications, and misses the others."""
        if bus and self.paused:
            self._unheard += 1
            if self._unheard > self.network.high_water_mark:
                return

        def take() -> None:
            self.peer.receive(frame, self.now(), bus=bus)

        self.command(take)

    def _sleep(self) -> None:
        if not self.alive or self.paused:
            return
        wake = max(self.network.time + 1e-6, (self.peer.deadline() - self.offset) / self.rate)
        if wake < self._wakes_at or self._wakes_at <= self.network.time:
            self._wakes_at = wake
            self.network.at(wake, self.wake)

    def wake(self) -> None:
        """Do what is due."""
        if self.network.time >= self._wakes_at:
            self._wakes_at = math.inf
        if not self.alive or self.paused:
            return
        self._unheard = 0
        if self.now() >= self.peer.deadline():
            self.peer.tick(self.now())
        self.pump()


class _Channel:
    """What one member sends to another one, by the bus or directly. Frames arrive in the order of their sending."""

    __slots__ = ("arrival", "dice")

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.arrival = 0.0  # of the last frame


class Network:
    """The simulated hosts: an agenda of events, the members, and the faults between them."""

    def __init__(self, seed: int, settings: Settings = SCALED, *, drift: float = 0.005, hosts: int = 1,
                 memory: int = 1 << 24) -> None:  # fmt: skip
        """Make a network without members. Seats are spread over the ``hosts`` in turn.

        ``memory`` is the budget of each member's store, in bytes. The clocks of two members differ in speed by at most
        twice ``drift``.
        """
        self.seed = seed
        self.random = Random(seed)
        self.settings = settings
        self.drift = drift
        self.hosts = hosts
        self.memory = memory
        self.time = 0.0
        self.members: dict[bytes, Simulated] = {}
        self.loss = 0.0  # the share of publications that is lost
        self.doubling = 0.0  # the share of frames that arrives twice, the second time out of order
        self.lateness = (0.0, 0.0)  # the share of frames that is late, and by how many seconds at most
        self.swapping = False  # whether frames overtake each other, as they may when a connection is made anew
        self.cuts: set[tuple[int, int]] = set()  # (from seat, to seat)
        self.far: dict[tuple[int, int], float] = {}  # (from seat, to seat): how many seconds longer every frame takes
        self.mute: set[type[Any]] = set()  # the kinds of message that do not arrive at all
        self.high_water_mark = 10_000  # publications that are kept for a stopped process, at most
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._channels: dict[tuple[bytes, bytes, bool], _Channel] = {}
        self._places: dict[bytes, int] = {}

    # --- Time

    def at(self, time: float, run: Callable[[], None]) -> None:
        """Have something done at a simulated instant."""
        self._order += 1
        heapq.heappush(self._agenda, (max(time, self.time), self._order, run))

    def after(self, seconds: float, run: Callable[[], None]) -> None:
        """Have something done in a while."""
        self.at(self.time + seconds, run)

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._agenda and self._agenda[0][0] <= until:
            self.time, _, run = heapq.heappop(self._agenda)
            run()
        self.time = until

    # --- Members

    @property
    def living(self) -> list[Simulated]:
        """The members whose processes live."""
        return [m for m in self.members.values() if m.alive]

    def host_of(self, seat: int) -> int:
        """Return the number of the host that a seat is on."""
        return seat % self.hosts

    def join(self, seat: int | None = None, through: Simulated | None = None) -> Simulated:
        """Start a member, on the lowest free seat by default.

        It meets all members of its host. Of the members of other hosts it meets all, or only the member ``through``,
        from which it learns of the others.
        """
        others = self.living
        if seat is None:
            taken = {m.seat for m in others}
            seat = next(n for n in range(len(taken) + 1) if n not in taken)
        new = Simulated(self, seat, self.random.uniform(1 - self.drift, 1 + self.drift))
        self.members[new.member.incarnation] = new
        for other in others:
            if through in (None, other) or self._share_a_host(new, other):
                new.peer.meet(other.member, new.now())
        for dead in self.members.values():  # it finds their files
            if not dead.alive and self._share_a_host(new, dead):
                self.notice(new, dead, stranger=True)
        new.peer.start(new.now(), met_all=through is None)
        new.pump()
        self.after(self.settings.lease, partial(self.look_around, new))
        return new

    def look_around(self, member: Simulated) -> None:
        """Let a member look, once in each lease, for members that it does not know."""
        others = [m for m in self.living if m is not member]
        if not member.alive:
            return
        for other in others:
            if member.peer.acquaintance(other.member.incarnation) is None:
                member.command(partial(self._see, member, other))
        if not member.peer.introduced:  # by now it has met those that are there
            member.command(lambda: member.peer.start(member.now()))
        self.after(self.settings.lease, partial(self.look_around, member))

    def _see(self, member: Simulated, other: Simulated) -> None:
        member.peer.meet_again(other.member, member.now())

    def crash(self, member: Simulated, *, noticed: bool = True) -> None:
        """Kill a member's process.

        If this is ``noticed``, the kernel tells the members of its host, and they read its journal.
        """
        member.alive = False
        for other in self.living:
            if noticed and self._share_a_host(member, other):
                self.after(self.random.uniform(0.0005, 0.0015), partial(self.notice, other, member))

    def leave(self, member: Simulated) -> None:
        """Let a member say goodbye, and end."""
        member.peer.leave(member.now())
        member.pump()
        self.crash(member)

    def pause(self, member: Simulated, seconds: float, on_wake: Callable[[], None] = lambda: None) -> None:
        """Stop a process for a while. When it wakes, ``on_wake`` runs before the backlog."""
        if not member.alive or member.paused:
            return
        member.paused = True
        member.stops += 1

        def wake() -> None:
            if not member.alive:
                return
            on_wake()
            member.paused = False
            backlog, member.backlog = member.backlog, []
            for run in backlog:
                member.command(run)
            member.wake()

        self.after(seconds, wake)

    def connect(self, member: Simulated, other: Member) -> None:
        """Connect a member to another one. If that is dead by now, the kernel tells the first."""
        met = self.members.get(other.incarnation)
        if met is not None and not met.alive and self._share_a_host(member, met):
            self.after(0.001, partial(self.notice, member, met))

    def _share_a_host(self, one: Simulated, other: Simulated) -> bool:
        return self.host_of(one.seat) == self.host_of(other.seat)

    def notice(self, other: Simulated, dead: Simulated, stranger: bool = False) -> None:
        """Let a member read the journal of a dead member of its host. A ``stranger`` may be one that it never met."""
        known = other.peer.acquaintance(dead.member.incarnation)
        if known is not None or stranger:
            frames = dead.journal.since(known.stream.applied + 1 if known is not None else 1)
            last = len(dead.journal.frames)
            other.command(lambda: other.peer.end(dead.member, last, frames, other.now()))

    # --- Channels

    def publish(self, sender: Simulated, frame: bytes) -> None:
        """Carry a publication to all other members, except where it is lost."""
        for other in self.living:
            if other is not sender and not (self.loss and self._channel(sender, other, True).dice.random() < self.loss):
                self.deliver(sender, other.member.incarnation, frame, bus=True)

    def deliver(self, sender: Simulated, to: bytes, frame: bytes, *, bus: bool) -> None:
        """Carry a frame to one member, in the order of the channel. It may be late, lost in a cut, or doubled."""
        receiver = self.members.get(to)
        if receiver is None or not receiver.alive or (self.mute and type(decode(frame)) in self.mute):
            return
        channel = self._channel(sender, receiver, bus)
        dice, way = channel.dice, (sender.seat, receiver.seat)
        delay = dice.uniform(0.0002, 0.002) if dice.random() < 0.97 else dice.uniform(0.002, 0.02)
        if dice.random() < self.lateness[0]:
            delay += dice.uniform(0.01, self.lateness[1])
        if way in self.cuts:
            if dice.random() < 0.5:
                return
            delay += dice.uniform(0.5, 2.0)
        arrival = self.time + delay + self.far.get(way, 0.0)
        if not self.swapping:
            arrival = channel.arrival = max(channel.arrival + 1e-9, arrival)
        self.at(arrival, partial(self.arrive, sender, receiver, frame, bus))
        if dice.random() < self.doubling:
            self.at(arrival + dice.uniform(0, 0.05), partial(self.arrive, sender, receiver, frame, bus))

    def arrive(self, sender: Simulated, receiver: Simulated, frame: bytes, bus: bool) -> None:
        """Hand a frame to a member."""
        receiver.receive(frame, bus)

    def quiet_at(self) -> float:
        """Return the instant at which every frame that is under way now has arrived."""
        return max((channel.arrival for channel in self._channels.values()), default=self.time)

    def _channel(self, sender: Simulated, receiver: Simulated, bus: bool) -> _Channel:
        key = (sender.member.incarnation, receiver.member.incarnation, bus)
        channel = self._channels.get(key)
        if channel is None:
            places = [self._places.setdefault(incarnation, len(self._places)) for incarnation in key[:2]]
            channel = self._channels[key] = _Channel(Random(f"{self.seed} {places} {bus}"))
        return channel


def _split(key: str) -> tuple[str, str]:
    namespace, _, name = key.rpartition("/")
    return namespace, name
