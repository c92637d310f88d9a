"""How members come to know each other: meetings, pings, rosters, goodbyes and ends."""

from __future__ import annotations

from .effects import Effects
from .hearing import Hearing
from .knowledge import Knowledge
from .members import Acquaintance, Member, Members
from .messages import NO_NUMBER, Ack, Goodbye, Ping, Pong, Roster, encode
from .outbox import Outbox
from .replays import Replays
from .seam import Connect, Disconnect, Probe, Send
from .store import Store

GAP_PATIENCE = 0.02  # s; how long an event may be under way after a pong that names it, before a replay is asked for


class Membership:
    """Meets members, answers them, and lets go of those that end. Not thread-safe."""

    def __init__(
        self, knowledge: Knowledge, members: Members, outbox: Outbox, store: Store, replays: Replays, hearing: Hearing,
        effects: Effects,
    ) -> None:  # fmt: skip
        self._knowledge = knowledge
        self._members = members
        self._outbox = outbox
        self._store = store
        self._replays = replays
        self._hearing = hearing
        self._effects = effects
        self.expelled = False  # the others have given this member up for dead; only a new incarnation can come back

    # --- What the driver has seen

    def meet(self, member: Member) -> Acquaintance | None:
        """Meet a member, unless it is known, or ended: it must be heard from now on. Return what is known of it."""
        other = self._members.learn(member, self._knowledge.now)
        if other is not None:
            self._outbox.act(Connect(other.member))
            self._members.ping(other, self._knowledge.now, hurry=True)
        return other

    def meet_again(self, member: Member) -> None:
        """Meet a member whose files were seen, unless it was forgotten: it may hang, so it must speak first."""
        if not self._members.has_forgotten(member.incarnation):
            self.meet(member)
            return
        ping = self._members.probe(member.incarnation, self._knowledge.now)
        if ping is not None:
            self._outbox.act(Probe(member, encode(ping)))

    def end(self, member: Member, last: int | None, frames: list[tuple[int, bytes]]) -> None:
        """Take in that a member died, with its last number and events; None if its journal cannot be read."""
        if self._members.has_ended(member.incarnation):
            return
        self._members.learn(member, self._knowledge.now)
        number = NO_NUMBER if last is None else last
        self._hearing.replayed(member.incarnation, tuple(frame for _, frame in frames))
        self.say_goodbye(member.incarnation, number)
        self._hearing.over(member, number, journal_read=True)

    def say_goodbye(self, stream: bytes, last: int) -> None:
        """Tell everybody that a stream is over: on the bus, and to each member, because the bus may lose it."""
        goodbye = encode(Goodbye(self._knowledge.incarnation, stream, last))
        self._outbox.publish(goodbye)
        for other in self._members:
            if other.member.incarnation != stream:
                self._outbox.act(Send(other.member.incarnation, goodbye, reply=False))

    def let_go(self, member: Member) -> None:
        """Have the driver disconnect from a member that is gone."""
        self._outbox.act(Disconnect(member))

    # --- What members say

    def on_ping(self, ping: Ping) -> None:
        """Meet a member that pings, and answer it."""
        other = self._members.get(ping.sender) or self.meet(Member(ping.sender, ping.seat, ping.pid))
        if other is None:
            self._outbox.counters.frames_ignored += 1
            if self._members.has_ended(ping.sender):  # it lives, and must learn that the others gave it up for dead
                goodbye = encode(Goodbye(self._knowledge.incarnation, ping.sender, NO_NUMBER))
                self._outbox.act(Send(ping.sender, goodbye, reply=True))
            return
        self._members.reseat(other, ping.seat)
        self._note_acknowledged(other, ping.applied)
        self._members.pong(ping, self._effects.last, self._knowledge.now)

    def on_pong(self, pong: Pong) -> None:
        """Take an answer in. If it names events that are not here, ask for them in a moment."""
        extends = self._members.hear_pong(pong, self._knowledge.now)
        other = self._members.get(pong.sender)
        if other is None or not other.stream.behind:
            return
        if not self._knowledge.established and not other.stream.applied and not len(self._store):
            self._hearing.reset_to(other, other.stream.known)  # a joiner holds nothing that could be stale
        elif extends:
            self._replays.expect(pong.sender, self._knowledge.now + GAP_PATIENCE)

    def on_roster(self, roster: Roster) -> None:
        """Meet the members that another one knows, and let go of those that have ended."""
        new, over, wrong = self._members.read_roster(roster)
        for member in new:
            self.meet(member)
        for member, last in over:
            self._hearing.over(member, last)
        if wrong:
            self._members.send_roster(roster.sender, self._knowledge.now, wrong)
        sender = self._members.get(roster.sender)
        # An end that is waited for is no news: a ping would bring the same roster, and that a ping, and so on.
        if sender is not None and (new or any(self._members.has_ended(member.incarnation) for member, _ in over)):
            self._members.ping(sender, self._knowledge.now, hurry=True)

    def on_goodbye(self, goodbye: Goodbye) -> None:
        """Let go of a member that has ended; or stop, if the others take this member for dead."""
        if goodbye.stream == self._knowledge.incarnation:
            self._stop()
        else:
            self._hearing.goodbye(goodbye)

    def on_ack(self, ack: Ack) -> None:
        """Note how far a member has applied this member's stream."""
        other = self._members.get(ack.sender)
        if other is not None:
            self._note_acknowledged(other, ack.applied)

    def _note_acknowledged(self, other: Acquaintance, applied: int) -> None:
        other.acked = max(other.acked, min(applied, self._effects.last))

    def _stop(self) -> None:
        """Serve and promise nothing: the others will never hear this member again."""
        self.expelled = True
        self._knowledge.shut()
        for other in self._members:
            other.met = False
