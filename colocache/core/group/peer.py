"""One member's whole protocol: bytes and instants in; frames, deadlines and outcomes out.

The driver (in production `colocache.runtime.threaded`, in the tests a simulator) repeats these steps:

1. It calls `receive` with each frame that came, and the `calls` that users make.
2. It calls `tick` when the `deadline` has come.
3. It carries out what `actions` returns, and hands the `outcomes` to the calls that wait.
4. It sleeps, until `deadline` at the latest.

Nothing here blocks, and the peer keeps nothing of its driver. Only the gate is thread-safe, because readers look at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ...errors import WireError
from .calls import Calls
from .engine import Engine
from .gate import Gate
from .members import Acquaintance, Member
from .messages import (
    Ack,
    Alter,
    Event,
    Fill,
    Get,
    GetFenced,
    Goodbye,
    Message,
    Peek,
    Ping,
    Set,
    SetFenced,
    decode,
)
from .outcomes import Outcome
from .seam import Action, Settings
from .stats import Counters, Stats, with_counters
from .store import Store
from .stream import Journal

#: The sender of one of these waits for an answer, or for an acknowledgement.
_URGENT = (Event, Get, Peek, Fill, Set, GetFenced, SetFenced, Alter)


class Peer:
    """One member of a group, as its driver sees it. What users' calls ask for is in `calls`."""

    def __init__(self, me: Member, settings: Settings, store: Store, journal: Journal, now: float) -> None:
        self.me = me
        self.asked_at = -math.inf  # when somebody last asked who waits for this member
        self._engine = Engine(me, settings, store, journal, now)
        self._knowledge = self._engine.knowledge
        self._members = self._engine.members
        self._outbox = self._engine.outbox
        self.calls = Calls(self._engine)

    # --- Frames, time, and what they lead to

    def receive(self, frame: bytes, now: float, *, bus: bool = False) -> bytes | None:
        """Take a frame in, from the bus or from a link; return its sender, or None if the frame is ignored."""
        self._knowledge.now = now
        message = self._read(frame, bus)
        if message is None:
            return None
        other = self._members.get(message.sender)
        if other is not None:
            self._note_life(other, message)
        self._engine.handle(message)
        self._engine.finish()
        return message.sender

    def tick(self, now: float) -> None:
        """Do what is due by the clock."""
        self._knowledge.now = now
        self._engine.tick()

    def deadline(self) -> float:
        """Return the instant at which `tick` must be called at the latest."""
        return self._engine.deadline()

    def actions(self) -> list[Action]:
        """Return, and forget, what the driver is to do, in order. There is one acknowledgement per stream and call."""
        for stream, applied in self._engine.hearing.acknowledgements():
            self._outbox.send(Ack(self.incarnation, stream, applied))
        return self._outbox.actions()

    def outcomes(self) -> list[tuple[int, Outcome]]:
        """Return, and forget, the outcomes of calls, by their tickets."""
        return self._outbox.outcomes()

    # --- What the driver learns of the group

    def meet(self, member: Member, now: float) -> None:
        """Meet a member that was seen. It must be heard from now on: until it answers, this member is not current."""
        self._knowledge.now = now
        if self._engine.membership.meet(member) is not None:
            self._engine.finish()

    def meet_again(self, member: Member, now: float) -> None:
        """Meet a member whose files were seen, unless it was forgotten: it must speak first, because it may hang.

        A forgotten member is probed, though, without being counted. Otherwise two members that have forgotten each
        other, and could hear each other again, would both wait for the other one to speak.
        """
        self._knowledge.now = now
        self._engine.membership.meet_again(member)
        self._engine.finish()

    def start(self, now: float, *, met_all: bool = True) -> None:
        """Allow this member to be current; unless it has met everybody, only once it is **introduced**.

        It is introduced when a member that knows the whole group agrees with it about who is there:

        1. J knows of the group by A alone.
        2. A leaves, before it has told J of the others, or the others of J.
        3. J knows nobody, but it is not alone. Nobody waits for it, and it would serve what is invalidated from now on.
        """
        self._knowledge.now = now
        self._knowledge.started, self._members.introduced = True, met_all
        self._engine.reads.park_until(now + self._knowledge.settings.fetch_timeout)
        self._engine.tick()

    def end(self, member: Member, last: int | None, frames: list[tuple[int, bytes]], now: float) -> None:
        """Take in that the kernel says that a member died.

        ``last`` and ``frames`` are of its journal; None if that cannot be read. It may be a member that nobody here has
        met: what it announced in its short life holds all the same.
        """
        self._knowledge.now = now
        self._engine.membership.end(member, last, frames)
        self._engine.finish()

    def leave(self, now: float) -> None:
        """Say goodbye: the stream ends here. Nothing may be called afterwards but `actions`."""
        self._knowledge.now = now
        self._knowledge.shut()
        self._engine.membership.say_goodbye(self.incarnation, self.last)

    # --- What the driver wants to know

    @property
    def incarnation(self) -> bytes:
        """This member's incarnation."""
        return self.me.incarnation

    @property
    def gate(self) -> Gate:
        """What readers look at before they use an entry."""
        return self._knowledge.gate

    @property
    def last(self) -> int:
        """The number of this member's newest event."""
        return self._engine.announcer.last

    @property
    def established(self) -> bool:
        """Whether this member was current at least once."""
        return self._knowledge.established

    @property
    def introduced(self) -> bool:
        """Whether this member knows the whole group, or has met a member that does; see `start`."""
        return self._members.introduced

    @property
    def expelled(self) -> bool:
        """Whether the others have given this member up for dead. Then only a new incarnation can come back."""
        return self._engine.membership.expelled

    @property
    def busy(self) -> bool:
        """Whether events of this member wait for acknowledgements."""
        return any(other.acked < self.last for other in self._members)

    def has_ended(self, incarnation: bytes) -> bool:
        """Tell whether a stream is known to be over for good."""
        return self._members.has_ended(incarnation)

    def owner_of(self, wire: bytes) -> bytes | None:
        """Return the owner of a key; None if it is passed over."""
        return self._knowledge.owner_of(wire)

    def members(self) -> list[tuple[Member, float, bool]]:
        """Return the other members, since when they are known, and whether they are heard."""
        now = self._knowledge.now
        return [(other.member, other.since, now < other.heard_until) for other in self._members]

    def acquaintances(self) -> Iterable[Acquaintance]:
        """Return what is known of the other members, for the driver's repairs."""
        return iter(self._members)

    def acquaintance(self, incarnation: bytes) -> Acquaintance | None:
        """Return what is known of one member; None if it is not a member, or no longer, or not yet."""
        return self._members.get(incarnation)

    # --- Figures

    @property
    def counters(self) -> Counters:
        """What was counted so far."""
        return self._outbox.counters

    def stats(self, now: float) -> Stats:
        """Return a copy of the counters, with the gauges."""
        store = self._engine.store
        shard_entries, shard_bytes, near_entries, near_bytes = store.sizes()
        shard_hits, near_hits = store.hit_counts()
        stats = Stats(
            shard_hits=shard_hits, near_hits=near_hits, shard_entries=shard_entries, near_entries=near_entries,
            shard_bytes=shard_bytes, near_bytes=near_bytes, entries=shard_entries + near_entries,
            bytes=shard_bytes + near_bytes, evictions=store.evictions, members=len(self._members) + 1,
            current=now < self.gate.current_until, established=self.established, oversize=store.refused,
            seconds_behind=self._engine.seconds_behind(now),
        )  # fmt: skip
        return with_counters(stats, self.counters)

    # --- Steps

    def _read(self, frame: bytes, bus: bool) -> Message | None:
        """Return the message of a frame; None, and count it, if it is not for this member."""
        try:
            message = decode(frame)
        except WireError:
            self.counters.frames_refused += 1
            return None
        if not isinstance(message, Goodbye) and isinstance(message, Event) != bus:
            self.counters.frames_refused += 1
            return None
        is_for_another = not isinstance(message, Event | Goodbye) and message.to != self.incarnation
        if is_for_another or (not isinstance(message, Ping) and self._members.get(message.sender) is None):
            self.counters.frames_ignored += 1
            return None
        return message

    def _note_life(self, other: Acquaintance, message: Message) -> None:
        other.heard_at = self._knowledge.now
        if isinstance(message, _URGENT):
            self.asked_at = self._knowledge.now
        if isinstance(message, Event):
            other.replays_running = 0
