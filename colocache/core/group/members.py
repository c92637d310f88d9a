"""Who is in the group, and until when this member is known to have heard each of them in full.

Every interval a member R pings every other member O, and notes the time on its own clock, t0. O answers with the last
number s of its stream. **Only when R has applied that stream up to s** does R hear O until t0 + L. The time counts from
R's own send time. So no two clocks are compared, and a late answer gives less time, never more:

1. O answers "s = 4" at t = 0. The answer is held up.
2. O publishes event 5, which is lost.
3. The answer reaches R at t = 10. If R counted from its arrival, R would serve the old value until 10 + L. R counts
   from its ping, so the answer gives nothing.

A ping counts only between members that know the same members, because a member that R does not know may announce what R
never hears. An unreachable member is not a dead one: it holds everybody back until the kernel says that it died, or
until nobody has heard it for `forget_after`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple

from .messages import MAX_STREAMS, Addressed, Ping, Pong, Roster
from .stream import Reception

TOMBSTONE = 600.0  # s; how long an ended stream is remembered, so that no delayed message brings it back to life
TELL_ENDED = 60.0  # s; how long, in all, members tell others of an end; well below TOMBSTONE
MAX_MEMBERS = 2048  # beside this one; a further one does not count, and so never becomes current
MAX_PINGS = 64  # unanswered pings remembered per member: as many as a member in a hurry sends in one lease


class Member(NamedTuple):
    """One process of the group, in one incarnation."""

    incarnation: bytes
    seat: str
    pid: int


class Acquaintance:
    """What this member knows of another one."""

    __slots__ = (
        "acked", "awaited_since", "ended", "faded", "fading", "heard_at", "heard_until", "last_ending", "member", "met",
        "next_ping", "pings", "pong", "replays_running", "silent", "since", "stream", "unresponsive",
    )  # fmt: skip

    def __init__(self, member: Member, now: float) -> None:
        self.member = member
        self.since = now
        self.stream = Reception()
        self.heard_at = -math.inf  # the last sign of life; it decides about forgetting, never about serving
        self.awaited_since = now  # since then this member could have heard it
        self.heard_until = -math.inf
        self.pings: dict[int, float] = {}  # id to send time
        self.pong: tuple[float, int] | None = None  # of a pong that is ahead of applied: its ping's send time, and s
        self.next_ping = now
        self.acked = 0  # what it has acknowledged of this member's own stream
        self.met = False  # it has shown that this member is one of those that it must hear
        self.silent: dict[bytes, float] = {}  # members that it has not heard, and for how long, by its last pong
        self.last_ending: int | None = None  # the last number of its stream, which is over; not applied here yet
        self.replays_running = 0  # replays that brought events since the bus last brought one
        self.unresponsive = False  # it did not answer a request in time, and has not answered a ping since
        self.ended = False  # its stream is over, and all of it is dealt with here
        self.faded = 0  # the last number applied so long ago that `Remembered` may have forgotten it
        self.fading = 0  # what ``faded`` becomes at the next turn


class Members:
    """The other members, and the leases on them. Not thread-safe. ``send`` sends a message to one of them."""

    def __init__(self, me: Member, lease: float, forget_after: float, send: Callable[[Addressed], None]) -> None:
        self.me = me
        self._lease = lease
        self._forget_after = forget_after
        self._send = send
        self._others: dict[bytes, Acquaintance] = {}
        # The last number, since when the end is known, the seat, the pid, and when it ended.
        self._ended: dict[bytes, tuple[int, float, str, int, float]] = {}
        self._told_ago: dict[bytes, float] = {}  # how many seconds ago a stream ended, by a roster
        self._forgotten: dict[bytes, tuple[float, float]] = {}  # when it was probed last, and when forgotten
        self._ids = 0
        self._digest = self._compute_digest()
        self._ticked_at = -math.inf
        self.introduced = True  # this member knows the whole group, or has met somebody who does
        self._turned_at = -math.inf
        self._seats: dict[str, bytes] | None = None

    # --- Who there is

    def __iter__(self) -> Iterator[Acquaintance]:
        return iter(self._others.values())

    def __len__(self) -> int:
        return len(self._others)

    def get(self, incarnation: bytes) -> Acquaintance | None:
        """Return what is known of a member; None if it is not a member, or no longer, or not yet."""
        return self._others.get(incarnation)

    def has_ended(self, incarnation: bytes) -> bool:
        """Tell whether the stream is known to be over for good."""
        return incarnation in self._ended

    def has_forgotten(self, incarnation: bytes) -> bool:
        """Tell whether the member was forgotten, and has not spoken since."""
        return incarnation in self._forgotten

    def seats(self) -> dict[str, bytes]:
        """Return which member has which seat: the same object until that changes.

        If two incarnations hold a seat for a moment, it is the newer one's; this member's own is always its own.
        """
        if self._seats is None:
            by_age = sorted(self, key=lambda other: other.since)
            self._seats = {other.member.seat: other.member.incarnation for other in by_age}
            self._seats[self.me.seat] = self.me.incarnation
        return self._seats

    def learn(self, member: Member, now: float) -> Acquaintance | None:
        """Take a member in. Return None if it is known, has ended, is this member itself, or is one too many."""
        if member.incarnation in self._others or member.incarnation == self.me.incarnation:
            return None
        if member.incarnation in self._ended or len(self._others) >= MAX_MEMBERS:
            return None
        self._forgotten.pop(member.incarnation, None)
        other = self._others[member.incarnation] = Acquaintance(member, now)
        self._change()
        return other

    def end(self, member: Member, last: int, now: float) -> None:
        """Count a member no more, and never again: its stream is over, and all of it is dealt with here."""
        other = self._others.pop(member.incarnation, None)
        if other is not None:
            other.ended = True
        ended_at = now - self._told_ago.pop(member.incarnation, 0.0)
        self._ended[member.incarnation] = (last, now, member.seat, member.pid, ended_at)
        self._change()

    def forget(self, incarnation: bytes, now: float) -> None:
        """Count an unreachable member no more. If it speaks again, this member meets it anew."""
        self._others.pop(incarnation, None)
        self._forgotten[incarnation] = (now, now)
        self._change()

    def reseat(self, other: Acquaintance, seat: str) -> None:
        """Note the seat that a member says it has. It knows best: two containers may see one directory differently."""
        if other.member.seat != seat:
            other.member = other.member._replace(seat=seat)
            self._seats = None

    def probe(self, incarnation: bytes, now: float) -> Ping | None:
        """Return a ping for a forgotten member whose files were seen, at most once a lease. If it lives, it answers."""
        probed_at, forgotten_at = self._forgotten[incarnation]
        if now - probed_at < self._lease:
            return None
        self._forgotten[incarnation] = (now, forgotten_at)
        self._ids += 1
        return Ping(self.me.incarnation, incarnation, self._ids, self._told_digest, 0, self.me.pid, self.me.seat)

    def forgettable(self, now: float) -> list[Acquaintance]:
        """Return the members that have been silent for `forget_after`, here and for every member that is heard here.

        A member that has never heard the silent one is not a witness. Otherwise each newcomer that learns its name
        would keep it for as long again, and where workers are recycled nobody would ever be current.
        """
        return [other for other in self if self._is_lost(other, now)]

    def _is_lost(self, other: Acquaintance, now: float) -> bool:
        if now - max(other.heard_at, other.awaited_since) < self._forget_after or now - other.since < self._lease:
            return False
        tolerance = 2 * self.interval()  # a pong is as old as the interval
        return all(
            witness.silent.get(other.member.incarnation, 0.0) >= self._forget_after - tolerance
            for witness in self
            if witness is not other and now < witness.heard_until
        )

    # --- Leases

    def interval(self) -> float:
        """Seconds between two pings of the same member: a sixth of the lease, more in large groups."""
        # 50 ms per member: a ping and an answer each way take 0.5 ms of processor time, most of it to wake threads
        # (benchmarks/footprint.py). So this takes 1 % of a core. A third of the lease is the limit: one ping may get
        # lost.
        return min(self._lease / 3, max(self._lease / 6, 0.05 * len(self._others)))

    def current_until(self) -> float:
        """Return the instant until which this member is known to have heard every member in full.

        The last tick counts where there is nobody to hear: a process whose driving thread is gone, or that wakes from a
        long stop, must not go on serving.
        """
        if not self.introduced:
            return -math.inf
        return min((o.heard_until for o in self), default=math.inf) if self._others else self._ticked_at + self._lease

    def tick(self, now: float, hurry: bool) -> None:
        """Ping the members whose turn it is. ``hurry`` says that this member is not current."""
        if now - self._ticked_at > self._lease:
            # This member was stopped, and could not hear anybody, so nobody was silent. Otherwise a group that was
            # frozen as a whole would fall apart when it thaws.
            for other in self:
                other.awaited_since = now
                other.heard_at = now if other.heard_at > -math.inf else other.heard_at
        self._ticked_at = now
        for other in self:
            if other.next_ping <= now:
                self.ping(other, now, hurry)
        for table, keep in ((self._ended, TOMBSTONE), (self._forgotten, TOMBSTONE)):
            _prune(table, now - keep)

    def turn(self, now: float) -> None:
        """Note what `Remembered` has forgotten by now. To be called whenever its own `turn` is called."""
        if now - self._turned_at >= 2 * self._lease:
            self._turned_at = now
            for other in self:
                other.faded, other.fading = other.fading, other.stream.applied

    def deadline(self) -> float:
        """Return the instant of the next ping; of the next `tick` if there is nobody to ping."""
        return min((o.next_ping for o in self), default=self._ticked_at + self._lease / 6)

    def ping(self, other: Acquaintance, now: float, hurry: bool = False) -> None:
        """Ping one member now."""
        self._ids += 1
        other.pings[self._ids] = now
        for stale in list(islice(other.pings, max(0, len(other.pings) - MAX_PINGS))):
            del other.pings[stale]
        fresh = now - max(other.since, other.heard_at) < self._lease
        other.next_ping = now + (self._lease / 60 if hurry and fresh and now >= other.heard_until else self.interval())
        me, to = self.me, other.member.incarnation
        self._send(Ping(me.incarnation, to, self._ids, self._told_digest, other.stream.applied, me.pid, me.seat))

    def pong(self, ping: Ping, last: int, now: float) -> None:
        """Answer a member's ping. Send it the roster, too, if it does not know the same members."""
        other = self._others.get(ping.sender)
        if other is None:
            return
        other.heard_at = now
        other.met = other.met or ping.digest == self._digest
        silent = [(o.member.incarnation, now - o.heard_at) for o in self if now - o.heard_at > self._lease]
        silent += [(lost, now - at + self._forget_after) for lost, (_, at) in self._forgotten.items()]
        listed = tuple(silent[:MAX_STREAMS])
        self._send(Pong(self.me.incarnation, ping.sender, ping.id, self._told_digest, last, listed))
        if ping.digest != self._digest:
            self.send_roster(ping.sender, now)

    def hear_pong(self, pong: Pong, now: float) -> bool:
        """Take an answer in. Tell whether it extends the lease, now or when the stream is applied so far."""
        other = self._others.get(pong.sender)
        sent_at = other.pings.pop(pong.id, None) if other else None
        if other is None or sent_at is None:
            return False
        other.heard_at, other.unresponsive = now, False
        other.silent = dict(pong.silent)
        self._wait_with(other.silent, now)
        other.stream.known = max(other.stream.known, pong.last)
        if pong.digest != self._digest:
            return False
        other.met = self.introduced = True
        if other.pong is None or sent_at > other.pong[0]:
            other.pong = (sent_at, pong.last)
        self.extend(other)
        return True

    def _wait_with(self, silent: dict[bytes, float], now: float) -> None:
        """Wait for a member never heard here since as long ago as those who have heard it, or have forgotten it."""
        for incarnation, seconds in silent.items():
            lost = self._others.get(incarnation)
            if lost is not None and lost.heard_at == -math.inf and seconds < math.inf:
                lost.awaited_since = min(lost.awaited_since, now - seconds)

    def extend(self, other: Acquaintance) -> None:
        """Hear a member for longer if its stream is applied up to the number in its newest answer."""
        if other.pong is not None and other.stream.applied >= other.pong[1]:
            other.heard_until = max(other.heard_until, other.pong[0] + self._lease)
            other.pong = None

    # --- Rosters

    def send_roster(self, to: bytes, now: float, also: Iterable[bytes] = ()) -> None:
        """Tell a member which members this one knows, and which streams have ended recently.

        ``also`` names streams to tell of though they ended long ago. The roster says how long ago each stream ended.
        Otherwise each member that learns of an end would tell it for as long again, and in a group whose members come
        and go nobody would ever forget anybody.
        """
        rows: list[tuple[bytes, str, int, int, float]] = [(*self.me, -1, 0.0)]
        rows += [(*o.member, -1, max(0.0, now - o.heard_at)) for o in self]
        rows += [
            (incarnation, seat, pid, last, max(0.0, now - ended_at))
            for incarnation, (last, _, seat, pid, ended_at) in self._ended.items()
            if now - ended_at < TELL_ENDED or incarnation in also
        ]
        self._send(Roster(self.me.incarnation, to, tuple(rows[:MAX_STREAMS])))

    def read_roster(self, roster: Roster) -> tuple[list[Member], list[tuple[Member, int]], set[bytes]]:
        """Return the new members, the ended ones with their last numbers, and those that the sender wrongly counts.

        A member that is known here is not new. News is answered with a ping, and a ping is answered with the roster
        while the two know different members. So they would talk to each other as fast as they can.
        """
        new, over, wrong = [], [], set()
        for incarnation, seat, pid, last, seconds in roster.rows:
            member = Member(incarnation, seat, pid)
            if last >= 0:
                if incarnation not in self._ended and incarnation != self.me.incarnation:
                    self._told_ago[incarnation] = seconds
                    over.append((member, last))
            elif incarnation in self._ended:
                wrong.add(incarnation)
            elif incarnation in self._others or incarnation == self.me.incarnation:
                continue
            elif incarnation not in self._forgotten or seconds < self._lease:
                new.append(member)
        return new, over, wrong

    @property
    def _told_digest(self) -> bytes:
        """The digest to tell: of a member that is not introduced, one that equals nobody's, so it introduces nobody."""
        return self._digest if self.introduced else bytes(8)

    def _change(self) -> None:
        self._seats = None
        self._digest = self._compute_digest()

    def _compute_digest(self) -> bytes:
        return blake2b(b"".join(sorted([*self._others, self.me.incarnation])), digest_size=8).digest()


def _prune(table: dict[bytes, Any], before: float) -> None:
    while table:
        oldest = next(iter(table))
        value = table[oldest]
        if value[1] >= before and len(table) <= 4096:
            return
        del table[oldest]
