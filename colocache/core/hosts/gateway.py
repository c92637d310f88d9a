"""A gateway: it speaks for its host, the member between hosts, and does what others say to the memory of its host.

Pure: it is told what has come, and what time it is, and returns what is to be said. Everything that a successor needs
is in the host's memory. Several gateways of a host may speak at once, because each only says what stands there.

Rules, with what happens without them. G are a gateway's, J those of joining, E of ends, F of forgetting.

- **G1 to G5.** An event of another host: told, stamped, bell, applied, acknowledged, in this order.
  Stamped before told: 1. The stamps are stored. 2. A process reads them, and that nothing is told. 3. It fetches from
  an owner who has not heard of the event: the old value, which stands for good.
  Applied before stamped: 1. The gateway is killed between both. 2. Its successor acknowledges what was never stamped.
- **G6.** A reset is the same, with one stamp for everything.
- **G7.** Before anything is said that includes an own event, it is stamped, if its writer has not done so. Otherwise:
  1. The writer is killed after it has appended the event. 2. Others drop the value, and ask this host, which serves it.
- **G8.** A pong says which event is the last one, read after the ping has come. Otherwise an event that was appended in
  between would not be waited for, although the lease that the pong gives goes on beyond it.
- **G9.** A pong counts for a ping of this very incarnation, and if both know the same hosts. The lease counts from when
  the ping was sent, and not from when the pong has come.
- **G10.** The host is current until the earliest of its leases ends, and never longer than a lease after the gateway's
  last look at its own events, also where no other host is known. Otherwise a gateway that was stopped before it stored
  "for ever" could store it when there are other hosts.
- **G11.** A pong does not count if its sender has not heard the asker for a lease. So who may be forgotten by others is
  behind for as long as it is silent for them. Otherwise: 1. A and B do not reach the address of C, and C reaches
  theirs. 2. C is current by their pongs. A and B are behind, until they forget C. 3. W, on A, invalidates a value, and
  its call waits for nobody at C. 4. C serves it: its leases are not over, and after that it serves what is young.
- **J1.** A host is established once everybody was met who is listed, or whom others tell of, and who is not forgotten.
  A host that is listed may be one that nobody has ever heard, and it may serve old values. Who is forgotten is known:
  everybody who is waited for has agreed that he is not (F3), and a host that has been established for long does not
  wait for him, either. If he is heard meanwhile, the mark is void, and he has to be met.
  **J3.** It adopts positions by a reset. **J5.** It takes over who is forgotten, after a reset, unless it hears that
  host itself. Without the reset: 1. D has met nobody yet, and loads a value. 2. N, which is cut off from A and B,
  invalidates it. Its call waits until their leases are over, and returns. 3. A and B forget N. They have no events of
  their own, so there are no positions to adopt. 4. D meets A and B, and is current. It serves the value.
- **J6.** Where a gateway has given up waiting for somebody at a listed place, its successor does not begin to wait
  anew, if it comes soon. Who was there all the time was given up, and who has come since was not established without
  this host for as long as it takes to be forgotten: that is enough to meet it. But if this host had no gateway that ran
  for nearly as long, it misses somebody at each place where nobody is connected. Otherwise: 1. The gateway of A has
  given up the place of X, and ends, or is stopped. 2. X starts there, tries to meet A for as long as it must, and is
  established. It loads a value. 3. A has a gateway again. It misses nobody, and A is current. 4. W, at A, invalidates
  the value. A knows no other host, so the call returns. 5. X serves the value. Neither has met the other one yet.
- **E3.** Who ends at a position that is not reached, or unknown, is ended after a reset.
- **F1.** A reset comes before a host is forgotten. **F2.** Any sign of life makes the decision void. **F3.** A lease
  holds only among hosts that have forgotten the same ones. **F4.** Who is behind another one in what is applied of a
  forgotten host resets. **F5.** Silence counts only while a majority is heard. **F6.** Each name has one vote: a host
  that restarts does not outvote others by its former incarnations. **F8.** Who is forgotten and stays silent for long
  has no vote any more. Otherwise the dead outvote the living in the end: where each new host has a name of its own, as
  pods have, nobody with the name of a dead one ever comes back. They stay forgotten, and are met again if they come.
  **F9.** Two different things count for the silence of a host. It is forgotten if it was silent for long while each of
  those who say so could have heard it. It is taken back if somebody has heard it. Who has just begun to listen can say
  neither. Otherwise each newcomer, and each new gateway, has everybody wait once more for all who are forgotten.

**Clients.** A client host owns nothing, has no events of its own, and is no member: no other host is told of it. It
dials all members, and each of them has it as a *listener*. K are the rules of both.

- **K1.** A client serves nothing while it is behind. So a member waits for a listener only until a lease, and a bit,
  after it has answered that one's last ping: `GRANTED`. That is the end of it, too: nothing has to be reset.
- **K2.** A member notes that a listener may serve, and **then** reads which event is the last one, for the pong. And
  a writer appends its event, and **then** reads which listeners may serve. Between both there is a full fence.
  Otherwise: 1. A client was silent for long, and pings. The gateway reads that event 6 is the last one. 2. W appends
  event 7, and finds no listener that may serve. Its call returns. 3. The gateway notes that the listener may serve,
  and says that 6 is the last one. 4. The client has applied 6, and is current. It serves what event 7 has made void.
- **K3.** A client's lease holds under the hosts that it knows, and that are not forgotten. A host that comes, or comes
  back, knows nothing of the clients of others. So its writers wait until no client has a lease without it. Otherwise:
  1. A client has pongs of A, and is current for a lease. 2. N joins. It meets A, and is current. 3. W, at N,
  invalidates a value. A acknowledges, and the call returns. 4. The client serves the value: it has not heard of N.
  Therefore each pong says how long clients may still serve what they were told before somebody came, `late`.
- **K4.** A client forgets whom members have forgotten, after a reset (F1), and nobody else. It has no vote, and
  witnesses nothing, because a client that hears both sides of a cut would have them wait for each other for ever.
- **K5.** It is never current where it knows of no member that lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

from xxhash import xxh3_64_intdigest

from ..host import hashes
from ..host.board import Board
from ..host.memory import Fences, Words
from .applying import EVERYTHING, stamp
from .event import WRITES, Event, Position
from .layout import ENTRIES, ESTABLISHED, LANES, LISTENERS, SLOTS, UNTIL
from .log import HostLog
from .messages import (
    MOST_REPLAYED,
    Ack,
    Ask,
    Known,
    Message,
    News,
    Numbers,
    Ping,
    Pong,
    Replayed,
    Reset,
    Told,
    View,
)
from .rows import (
    ACKED,
    ALIVE,
    APPLIED,
    ENDED_AT,
    FORGOT,
    LAST,
    LIVE,
    MET,
    ROUND_TRIP,
    SIGN,
    TOLD,
    Host,
    Incarnation,
    Row,
)

SECOND = 10**9  # ns
ASK_AGAIN = SECOND // 50
MOST_DIGESTS = 8  # that are kept
MOST_TOLD = 512  # own events that are told one by one; of more, others ask
VOTES_FOR = 20  # times as long as it takes to be forgotten, a silent host has a vote
SLACK = 64  # events that may be appended while this gateway reads those that are soon overwritten


class Forgetting(Enum):
    """When a host that is silent for long is not waited for any more."""

    AUTO = "auto"  # as for `ALWAYS` where there are two hosts, and as for `MAJORITY` where there are more
    MAJORITY = "majority"  # if a majority of the hosts hears each other
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class Times:
    """The times of the protocol, in ns. All hosts of a group must have the same."""

    lease: int = 3 * SECOND
    ping: int = SECOND // 2
    forget_after: int = 30 * SECOND

    @property
    def serves_by_age(self) -> int:
        """How long after its leases a host serves what is young: then others may not wait for it any more (Q3)."""
        return self.forget_after - 2 * self.lease - self.longest_ping

    @property
    def longest_ping(self) -> int:
        """The interval between pings where there are many hosts; see `colocache.runtime.network.speaker`."""
        return max(self.ping, self.lease // 3)

    @property
    def waited(self) -> int:
        """How long a writer waits for a host that says nothing: a lease, and a bit, because clocks differ."""
        return self.lease + self.lease // 100


class Meetings(Protocol):
    """What is known of where hosts are."""

    def are_complete(self, established: bool, forgotten: Set[Incarnation]) -> bool:
        """Tell whether this host has met everybody: one that joins must have met more than one that is established.

        One that joins need not meet who is forgotten (J1).
        """

    def tell(self, host: Host) -> None:
        """Note where a host is, as others say."""

    def end(self, host: Incarnation, goodbye: bool) -> None:
        """Note that a host is over, and whether it has said so itself."""

    def given_up(self) -> Set[int]:
        """Return hashes of the listed places where nobody is connected, and nobody is missed."""

    def give_up(self, places: Set[int]) -> None:
        """Miss nobody at these places, and somebody at each other listed one where nobody is connected (J6)."""


class Reply(NamedTuple):
    """What is to be sent where a message came from."""

    message: Message


class Send(NamedTuple):
    """What is to be sent to a host."""

    to: Incarnation
    message: Message


@dataclass
class _Peer:
    """What this gateway remembers of another host. A successor begins anew."""

    waits: tuple[int, Numbers, int] | None = None  # a pong: when its ping was sent, its last events, under what
    asked: int | None = None
    all: int = 0  # the digest of what it knows
    witnessed: int | None = None  # when it has said how long others were silent
    silent: dict[Incarnation, int] = field(default_factory=dict)
    unheard: Mapping[Incarnation, int] = field(default_factory=dict)


class Gateway:
    """The protocol, for one process. For one thread; ``now`` is always the host's monotonic clock, in ns."""

    def __init__(
        self, me: Host, words: Words, row: Row, log: HostLog, board: Board, fences: Fences, meetings: Meetings,
        times: Times, forgetting: Forgetting = Forgetting.AUTO, *, now: int,
        wait_for_writer: Callable[[int], object] = lambda hash: None,
        on_event: Callable[[Event], object] = lambda event: None,
    ) -> None:  # fmt: skip
        """``words`` are those of the file `hosts`.

        ``wait_for_writer`` returns when no process of this host is in the middle of writing a key, given by its hash.
        ``on_event`` is told what was applied, so that others can free memory.
        """
        self.me = me
        self.times = times
        self._words = words
        self._row = row
        self._log = log
        self._board = board
        self._fences = fences
        self._meetings = meetings
        self._forgetting = forgetting
        self._wait_for_writer = wait_for_writer
        self._on_event = on_event
        self._peers: dict[Incarnation, _Peer] = {}
        self._is_client = me.weight == 0
        self._since = self._ticked = now  # nobody can be called silent before this
        self._counted: set[Incarnation] | None = None  # who was waited for at the last pong
        self._digests: dict[tuple[bytes, ...], int] = {}  # that were made lately: there are few, and many ask
        self._late_until = 0
        self._looked: int | None = None
        self._published = {lane: row.published(lane) for lane in range(LANES)}
        self._outbox: list[Send | Reply] = []
        self._takers: dict[type[Any], Callable[[Any, int], None]] = {
            Ping: self._on_ping, Pong: self._on_pong, Told: self._on_told, Ack: self._on_ack, Ask: self._on_ask,
            Replayed: self._on_replayed, Reset: self._on_reset, News: self._on_news,
        }  # fmt: skip
        row.use(now)
        for id in row.live():  # a predecessor knew them, and no list may name them
            meetings.tell(row.host(id))
        self._miss_anew(now)
        self.resets = 0
        self.left_out: set[str] = set()  #: names of hosts for which there is no room
        self.unnoted = 0  #: how often there was no room to note something of a host that is known

    @property
    def is_established(self) -> bool:
        """Whether this host was current once. Before that it serves nothing, and gives no complete receipts."""
        return self._words[UNTIL] != 0

    # --- What the shell calls

    def tick(self, now: int) -> list[Send | Reply]:
        """Do what is to be done every ping interval, and return what is to be sent; `ping` is for each line."""
        self._row.use(now)
        if now - self._ticked > self.times.lease:  # this process was stopped: nobody could be heard
            self._since = now
        if now - self._ticked > self.times.serves_by_age:
            self._miss_anew(now)
        self._ticked = now
        self._look(now)
        if not self._is_client:
            self._forget(now)
        self._settle(now)
        if self.is_established:
            self._row.give_up(self._meetings.given_up(), now)
        if len(self._peers) > 2 * (ENTRIES + LISTENERS):  # clients have come and gone
            self._peers = {id: peer for id, peer in self._peers.items() if self._row.state(id) == LIVE}
        return self._taken()

    def look(self, now: int) -> list[Send | Reply]:
        """Look at the host's own events, and return what is to be sent. For when a writer has woken this process."""
        self._look(now)
        return self._taken()

    def ping(self, to: Incarnation | None, now: int) -> Ping:
        """Return a ping for a line; ``to`` is the host at its other end, if that is known."""
        applied = self._row.positions(to, APPLIED) if self._is_client and to is not None else {}
        return Ping(self.me, now, self._view(to, now), to, applied)

    def receive(self, message: Message, now: int) -> list[Send | Reply]:
        """Take in a message, and return what is to be sent."""
        self._takers[type(message)](message, now)
        return self._taken()

    def goodbye(self) -> News:
        """Return the goodbye of this host. For whoever holds its life alone, after the region was ended."""
        return News(self.me.id, (Known(self.me, ENDED_AT, self._log.lasts()),))

    def end(self, id: Incarnation, last: Numbers | None, now: int) -> None:
        """Note that an incarnation is over, as the files say that it has left on this machine."""
        if not self._is_client and self._row.state(id) in (0, LIVE) and self._make_room_for(id):
            self._row.end(id, last, now)

    def _miss_anew(self, now: int) -> None:
        """Miss somebody at all listed places but those that a gateway of this host has given up lately (J6).

        Whoever has come since has two leases, and a ping's interval, to meet this host before it is established.
        """
        if self.is_established:
            self._meetings.give_up(self._row.given_up(now - self.times.serves_by_age))

    def _make_room_for(self, id: Incarnation, row: Row | None = None) -> bool:
        """Make room for what is noted of an incarnation. Return False, and count that, if there is none.

        Then all of it is left out, so that nothing is told, stamped or acknowledged by halves. A host of which nothing
        can be noted is not heard: others wait for it, and this host is behind.
        """
        if (row or self._row).make_room_for(id):
            return True
        self.unnoted += 1
        return False

    def _taken(self) -> list[Send | Reply]:
        taken, self._outbox = self._outbox, []
        return taken

    # --- Own events

    def _look(self, now: int) -> Numbers:
        """Have own events stamped (G7), tell others of those that are new, and return the numbers of the last ones.

        A client has none.
        """
        if self._is_client:
            self._looked = now
            return {}
        lasts = self._log.lasts()
        for lane, last in lasts.items():
            published = self._published[lane]
            if last <= published:
                continue
            first = max(published + 1, last - SLOTS + SLACK)
            if first > published + 1:  # nobody knows what those between were, nor whether they were stamped
                stamp(self._board, self._fences, EVERYTHING)
            for number in range(first, last + 1):
                event = self._stamped(lane, number)
                if event is not None and last - number < MOST_TOLD:
                    told = Told(self.me.id, lane, number, event)
                    self._outbox += [
                        Send(id, told) for id in (*self._row.live(), *self._row.clients.who_may_serve(now))
                    ]
            self._published[lane] = last
            self._row.publish(lane, last)
        self._looked = now
        return lasts

    def _stamped(self, lane: int, number: int) -> Event | None:
        """Return an own event, which is stamped. If it is not there any more, everything is stamped."""
        event = self._log.read(lane, number)
        if event is None:
            stamp(self._board, self._fences, EVERYTHING)
            return None
        if event.kind == WRITES and not self._log.is_stamped(lane, number):
            # A writer has committed a record that stands by its own stamps. Those that are stored here make it void.
            for hash in event.hashes:
                self._wait_for_writer(hash ^ hashes.WRITES)
        if not self._log.is_stamped(lane, number):
            stamp(self._board, self._fences, event)
            self._log.mark_stamped(Position(lane, number))
        elif event.kind == WRITES:
            self._board.ring()  # a write is marked before its writer has rung
        return event

    # --- Events of others

    def _on_told(self, message: Told, now: int) -> None:
        id, lane, number = message.sender, message.lane, message.number
        if self._row.state(id) != LIVE or not self._make_room_for(id):
            return
        applied = self._row.largest(id, APPLIED + lane)
        if number <= applied:
            self._outbox.append(Reply(Ack(self.me.id, id, {lane: applied})))
        elif number == applied + 1:
            self._apply(id, lane, number, message.event)
            self._progress(id, now)
        else:
            self._ask(id, now)

    def _apply(self, id: Incarnation, lane: int, number: int, event: Event) -> None:
        row = self._row
        row.raise_to(id, TOLD + lane, number)
        self._fences.order()
        stamp(self._board, self._fences, event)
        row.raise_to(id, APPLIED + lane, number)
        self._outbox.append(Reply(Ack(self.me.id, id, {lane: number})))
        self._on_event(event)

    def _reset(self, id: Incarnation, last: Numbers) -> None:
        """Drop everything, in place of the events up to these, which are not there (G6)."""
        self.resets += 1
        for lane, number in last.items():
            self._row.raise_to(id, TOLD + lane, number)
        self._fences.order()
        stamp(self._board, self._fences, EVERYTHING)
        for lane, number in last.items():
            self._row.raise_to(id, APPLIED + lane, number)
        self._on_event(EVERYTHING)

    def _ask(self, id: Incarnation, now: int) -> None:
        peer = self._peer(id)
        if peer.asked is None or now >= peer.asked + ASK_AGAIN:
            peer.asked = now
            self._outbox.append(Send(id, Ask(self.me.id, id, self._row.positions(id, APPLIED))))

    def _on_ask(self, message: Ask, now: int) -> None:
        if message.to != self.me.id:
            return
        last = self._look(now)
        for lane, number in last.items():
            applied = message.applied.get(lane, 0)
            if number <= applied:
                continue
            events = self._replayed(lane, applied + 1, min(number, applied + MOST_REPLAYED))
            if events is None or number - applied > SLOTS // 2:
                self._outbox.append(Reply(Reset(self.me.id, last)))
                return
            self._outbox.append(Reply(Replayed(self.me.id, lane, applied + 1, events)))

    def _replayed(self, lane: int, first: int, last: int) -> tuple[Event, ...] | None:
        events = []
        for number in range(first, last + 1):
            event = self._log.read(lane, number)
            if event is None:
                return None
            events.append(event)
        return tuple(events)

    def _on_replayed(self, message: Replayed, now: int) -> None:
        id, lane = message.sender, message.lane
        if self._row.state(id) != LIVE or not self._make_room_for(id):
            return
        has_come = False
        for number, event in enumerate(message.events, message.first):
            if number == self._row.largest(id, APPLIED + lane) + 1:
                self._apply(id, lane, number, event)
                has_come = True
        self._progress(id, now)
        if has_come and self._peer(id).waits is not None:
            self._peer(id).asked = None
            self._ask(id, now)

    def _on_reset(self, message: Reset, now: int) -> None:
        id = message.sender
        if self._row.state(id) != LIVE or not self._make_room_for(id):
            return
        if not self._row.has_reached(id, message.last):
            self._reset(id, message.last)
            self._outbox.append(Reply(Ack(self.me.id, id, self._row.positions(id, APPLIED))))
            self._progress(id, now)

    def _on_ack(self, message: Ack, now: int) -> None:
        id = message.sender
        if message.to == self.me.id and (self._row.state(id) or self._row.clients.state(id)):
            self._note_acks(id, message.applied)

    def _note_acks(self, id: Incarnation, applied: Numbers) -> None:
        row = self._row.clients if self._row.clients.state(id) else self._row
        if self._make_room_for(id, row):
            for lane, number in applied.items():
                row.raise_to(id, ACKED + lane, number)

    # --- Pings and pongs

    def _on_ping(self, message: Ping, now: int) -> None:
        id = message.me.id
        if message.me.weight:
            self._take_view(message.me, message.view, now)
        elif not self._take_listener(message, now):
            return
        last = self._look(now)
        late = self._late(now)
        applied = self._row.positions(id, APPLIED)
        alive = self._row.largest(id, ALIVE)
        heard = alive - self.times.lease if alive else self._row.largest(id, MET)
        deaf = max(0, now - heard) if message.me.weight else 0  # nobody dials a client
        self._outbox.append(Reply(Pong(self.me, id, message.sent, last, applied, self._view(id, now), late, deaf)))

    def _take_listener(self, ping: Ping, now: int) -> bool:
        """Note a client that pings, and return whether it is to be answered."""
        row, id = self._row, ping.me.id
        if self._is_client or id in row.ids() or not self._make_room_for(id, row.clients):
            return False
        row.clients.listen(ping.me, now + self.times.waited, now)
        self._fences.full()  # K2: what follows is read after that
        if ping.to == self.me.id:
            self._note_acks(id, ping.applied)
        self._merge(ping.view.roster, now)
        self._peer(id).all = ping.view.all
        for other, applied in ping.view.forgotten.items():  # F4
            is_forgotten = row.state(other) == LIVE and row.is_forgotten(other)
            if is_forgotten and not row.has_reached(other, applied) and self._make_room_for(other):
                self._reset(other, applied)
        return True

    def _late(self, now: int) -> int:
        """Return for how long (ns) clients may serve by leases from before somebody had to be waited for (K3)."""
        row, counted = self._row, set(self._row.counted())
        if counted != self._counted:
            # When a predecessor has taken somebody back is not known.
            come = counted if self._counted is None else counted - self._counted
            if any(row.largest(id, FORGOT) for id in come):
                self._late_until = now + self.times.waited
            met = max([row.largest(id, MET) for id in come], default=0)
            self._late_until = max(self._late_until, met + self.times.waited if met else 0)
            self._counted = counted
        if now >= self._late_until:
            return 0
        self._fences.full()  # another gateway of this host gives a lease, and then looks at the hosts
        return self._late_until - now if row.clients.who_may_serve(now) else 0

    def _on_pong(self, message: Pong, now: int) -> None:
        row, id, view = self._row, message.me.id, message.view
        if not self._is_for_this_ping(message, now):
            return
        self._take_view(message.me, view, now)
        if row.state(id) != LIVE or not self._make_room_for(id):
            return
        self._note_acks(id, message.applied)
        if message.sent + self.times.lease > row.largest(id, ALIVE):
            row.raise_to(id, ALIVE, message.sent + self.times.lease)
            row.sign_of_life(id)
        row.note(id, ROUND_TRIP, max(0, now - message.sent))
        peer = self._peer(id)
        peer.witnessed, peer.silent, peer.unheard = now, dict(view.silent), view.unheard
        self._take_back(now)
        if self._is_client or not self.is_established:
            self._forget_too(view, now)
        mine = self._forgotten()
        if view.live != self._digest(row.live()) or set(view.forgotten) != mine:
            return
        if message.deaf >= self.times.lease:
            return  # G11
        for other, applied in view.forgotten.items():
            if not row.has_reached(other, applied):
                if not self._make_room_for(other):
                    return
                self._reset(other, applied)
        if not self.is_established and not row.has_reached(id, message.last):
            self._reset(id, message.last)
        if message.late and not self._is_client:
            row.be_quiet(now + message.late + message.late // 100)  # K3: before the lease
            self._fences.order()
        if peer.waits is None or peer.waits[0] < message.sent:
            peer.waits = (message.sent, message.last, self._under(mine))
        if not row.has_reached(id, message.last):
            self._ask(id, now)
        self._progress(id, now)

    def _is_for_this_ping(self, pong: Pong, now: int) -> bool:
        """Tell whether a pong is for a ping of this incarnation. No ping was sent later than now."""
        return pong.to == self.me.id and pong.sent <= now

    def _progress(self, id: Incarnation, now: int) -> None:
        """Let the lease of a pong begin, once all is applied that it speaks of."""
        peer = self._peer(id)
        if peer.waits is not None and self._row.has_reached(id, peer.waits[1]):
            sent, _, under = peer.waits
            peer.waits = None
            self._row.hear(id, sent + self.times.lease, under)
            self._settle(now)

    def _settle(self, now: int) -> None:
        """Store until when this host is current (G10)."""
        established, forgotten = self.is_established, self._forgotten()
        if self._looked is None or not self._meetings.are_complete(established, forgotten):
            return
        counted, under = [id for id in self._row.live() if id not in forgotten], self._under(forgotten)
        if self._is_client and not counted:
            return  # K5
        heard = self._row.every_heard(under)
        until = min([heard.get(id, 0) for id in counted] + [self._looked + self.times.lease])
        before = self._words[UNTIL]
        if established or now < until:
            until = max(until, min(before, now))
            if not established:
                self._words[ESTABLISHED] = now
            if until != before:
                self._words[UNTIL] = until

    # --- Rosters

    def _view(self, to: Incarnation | None, now: int) -> View:
        row, live = self._row, self._row.live()
        ends = row.recent_ends(now)
        everything = self._digest([*live, *(b"over" + id for id in ends)], b"all")
        known = self._peers.get(to) if to is not None else None
        roster: Iterable[Known] = ()
        if known is not None and known.all != everything:
            roster = (
                *(() if self._is_client else (Known(self.me, LIVE, None),)),
                *(Known(row.host(id), LIVE, None) for id in live),
                *(
                    Known(row.host(id), state, row.positions(id, LAST) if state == ENDED_AT else None)
                    for id, state in [(id, row.state(id)) for id in ends]
                ),
            )
        silent, unheard = self._silences(live, now)
        return View(
            live=self._digest(live),
            all=everything,
            roster=tuple(roster),
            forgotten={id: row.positions(id, APPLIED) for id in self._forgotten()},
            silent=silent,
            unheard=unheard,
        )

    def _silences(self, live: Iterable[Incarnation], now: int) -> tuple[dict[Incarnation, int], dict[Incarnation, int]]:
        """Return for how long hosts were silent while this gateway could hear them, and since when some are unheard."""
        signs, longest, most = self._last_signs(), self._hears_for, max(0, now - self._since)
        silences = {id: now - signs.get(id, now) for id in live}
        silent = {id: (most if each > most else each) if each > 0 else 0 for id, each in silences.items()}
        return silent, {id: each for id, each in silences.items() if each >= longest}

    def _digest(self, ids: Iterable[Incarnation], what: bytes = b"live") -> int:
        """Return what stands for a set of incarnations, of which this host's own is one, unless it is a client."""
        key = (what, *ids)
        found = self._digests.get(key)
        if found is None:
            everybody = {*key[1:]} if self._is_client else {self.me.id, *key[1:]}
            found = xxh3_64_intdigest(what + b"".join(sorted(everybody)))
            if len(self._digests) >= MOST_DIGESTS:
                self._digests.clear()
            self._digests[key] = found
        return found

    def _take_view(self, sender: Host, view: View, now: int) -> None:
        if view.roster or not self._row.knows(sender):
            self._merge((Known(sender, LIVE, None), *view.roster), now)
            if self._row.state(sender.id) != LIVE:
                return
        else:
            self._meetings.tell(sender)
        self._peer(sender.id).all = view.all

    def _on_news(self, message: News, now: int) -> None:
        if self._row.clients.state(message.sender):
            self._has_left(message.sender, now)
            self._peers.pop(message.sender, None)
            return
        self._merge(
            [each for each in message.roster if each.host.id != message.sender or each.host.weight], now, message.sender
        )

    def _merge(self, roster: Iterable[Known], now: int, sender: Incarnation = b"") -> None:
        """Take over who lives, and who is over. What is over stays so."""
        row = self._row
        for host, state, last in roster:
            mine = row.state(host.id)
            if host.id == self.me.id or mine not in (0, LIVE):
                continue
            if row.clients.state(host.id):
                if state != LIVE:  # its directory is a member's now
                    self._has_left(host.id, now)
                continue
            if state == LIVE:
                if not host.weight:
                    continue
                self._meet(host, now)
                continue
            if not (mine == LIVE and last is not None and row.has_reached(host.id, last)):
                self._reset(host.id, {})
            if not self._make_room_for(host.id):
                # Others say so again and again, and everything is dropped each time. Once would not do: what is fetched
                # afterwards may come from an owner that has not heard of the end, and no fetch names it.
                self.left_out.add(host.name)
                continue
            row.end(host.id, last, now)
            self._peers.pop(host.id, None)
            self._meetings.end(host.id, host.id == sender)

    def _meet(self, host: Host, now: int) -> None:
        row = self._row
        if not row.state(host.id):
            if not row.make_room_for(host.id):
                self.left_out.add(host.name)
                return
            row.meet(host, now)
            self.left_out.discard(host.name)
        elif row.host(host.id) != host and self._make_room_for(host.id):
            row.describe(host)
        self._meetings.tell(host)

    def _has_left(self, client: Incarnation, now: int) -> None:
        if self._make_room_for(client, self._row.clients):
            self._row.clients.leave(client, now)

    def _peer(self, id: Incarnation) -> _Peer:
        peer = self._peers.get(id)
        if peer is None:
            peer = self._peers[id] = _Peer()
        return peer

    # --- Forgetting

    def _forget_too(self, view: View, now: int) -> None:
        """Forget those that others have forgotten, unless this host hears them (J5, K4)."""
        row = self._row
        for id in view.forgotten:
            signs = row.total(id, SIGN)
            if row.state(id) != LIVE or row.largest(id, ALIVE) > now or row.is_forgotten(id):
                continue
            if self._make_room_for(id):
                self._reset(id, {})
                if id in view.unheard:  # others know better when it was heard last
                    row.raise_to(id, ALIVE, max(0, now - view.unheard[id] + self.times.lease))
                row.forget(id, signs)

    def _forgotten(self) -> set[Incarnation]:
        forgotten = self._row.forgotten()
        return forgotten.intersection(self._row.live()) if forgotten else forgotten

    def _under(self, forgotten: Iterable[Incarnation]) -> int:
        """Return what stands for the agreement about who is forgotten; never 0."""
        return xxh3_64_intdigest(b"".join(sorted(forgotten))) | 1

    def _last_signs(self) -> dict[Incarnation, int]:
        """Return since when each incarnation is silent, whoever could have heard it here: when it was met, at first."""
        alive, met, lease = self._row.every(ALIVE), self._row.every(MET), self.times.lease
        return {id: until - lease if until else met.get(id, 0) for id, until in alive.items()}

    def _alive(self, now: int) -> list[Incarnation]:
        """Return those that live, and have shown that in the last lease."""
        alive = self._row.every(ALIVE)
        return [id for id in self._row.live() if alive.get(id, 0) > now]

    def _witnessed_silence(self, witness: Incarnation, id: Incarnation, now: int) -> int | None:
        """Return for how long a witness has not heard a host; None if it has said nothing about that lately."""
        peer = self._peers.get(witness)
        if peer is None or peer.witnessed is None or now - peer.witnessed > self.times.lease:
            return None
        silent = peer.silent.get(id)
        return None if silent is None else silent + now - peer.witnessed

    @property
    def _hears_for(self) -> int:
        """How long (ns) after a sign of life a host is heard. A bit less than it takes to be forgotten elsewhere."""
        return self.times.forget_after - 2 * self.times.ping

    def _take_back(self, now: int) -> None:
        """Take back who is forgotten, and whom somebody else hears (F9)."""
        for id in self._forgotten():
            for witness in self._alive(now):
                if witness != id and id not in self._peer(witness).unheard:
                    silence = self._witnessed_silence(witness, id, now)
                    if silence is not None and silence < self._hears_for:
                        self._void(id)
                        break

    def _void(self, id: Incarnation) -> None:
        """Let a decision to forget a host be void."""
        if self._make_room_for(id):
            self._row.sign_of_life(id)

    def _gone(self, now: int) -> set[Incarnation]:
        """Return who is forgotten, and silent for so long that it has no vote any more (F8)."""
        forgotten = self._forgotten()
        if not forgotten:
            return forgotten
        signs, latest = self._last_signs(), now - VOTES_FOR * self.times.forget_after
        return {id for id in forgotten if signs.get(id, now) <= latest}

    def _forget(self, now: int) -> None:
        """Forget who is silent for long: nobody waits for such a host any more, and it must not serve anything."""
        row, times = self._row, self.times
        live, gone = row.live(), self._gone(now)
        names = {id: row.name(id) for id in live}
        everybody = {*[name for id, name in names.items() if id not in gone], self.me.name}
        alive = {*self._alive(now)}
        heard = {names[id] for id in alive if id in names} | {self.me.name}
        self._take_back(now)
        if self._forgetting is Forgetting.NEVER:
            return
        always = self._forgetting is Forgetting.ALWAYS or (self._forgetting is Forgetting.AUTO and len(everybody) <= 2)
        if not always and 2 * len(heard) <= len(everybody):
            self._since = now  # F5
            for id in self._forgotten() - gone:
                self._void(id)
            return
        for id in live:
            if id in alive:
                continue
            signs = row.total(id, SIGN)
            if row.largest(id, ALIVE) > now or row.is_forgotten(id):  # it may have been heard since
                continue
            if now - max(self._last_signs().get(id, now), self._since) < times.forget_after:
                continue
            witnesses = [other for other in alive if other != id]
            silences = [self._witnessed_silence(witness, id, now) for witness in witnesses]
            if all(each is not None and each >= self._hears_for for each in silences) and self._make_room_for(id):
                self._reset(id, {})
                row.forget(id, signs)
