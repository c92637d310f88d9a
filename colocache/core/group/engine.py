"""The parts of one member, put together: which part handles which message, and what each step ends with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..timers import Timers
from . import messages as m
from .announcements import Announcements
from .atomic import Atomic
from .attempts import Attempts
from .catching_up import CatchingUp
from .deliveries import Deliveries
from .effects import Effects
from .fences import Fences
from .fetches import Fetches
from .hearing import Hearing
from .knowledge import Knowledge
from .load_queues import LoadQueues
from .members import Member, Members
from .membership import Membership
from .outbox import Outbox
from .owner import Owner
from .peeks import Peeks
from .reads import Reads
from .replays import Replays
from .requests import Requests
from .seam import Settings
from .sets import Sets
from .store import Store
from .storing import Storing
from .stream import Announcer, EventLog, Journal


class Engine:
    """All parts of a member. Each depends only on those that are made before it. Not thread-safe."""

    def __init__(self, me: Member, settings: Settings, store: Store, journal: Journal, now: float) -> None:
        self.store = store
        self.timers = Timers()
        self.outbox = Outbox(me.incarnation)
        self.members = Members(me, settings.lease, settings.forget_after, self.outbox.send)
        self.knowledge = Knowledge(settings, self.members, now)
        self.announcer = Announcer(me.incarnation, EventLog(settings.log_events, settings.log_seconds), journal)
        self.announcements = Announcements(settings.lease)
        self.replays = Replays(self.knowledge, self.members, self.announcer, self.outbox, self.timers)
        self.requests = Requests(self.knowledge, self.timers)
        self._make_effects(settings)
        self._make_owner()
        self._make_askers()
        self._make_listeners()
        self._behind_since: float | None = None
        self._handlers = self._table()

    def _make_effects(self, settings: Settings) -> None:
        """Make what events change, and what applies them."""
        self.fetches = Fetches(self.requests)
        self.queues = LoadQueues(self.knowledge, self.outbox, self.timers)
        self.fences = Fences(settings.load_timeout)
        self.effects = Effects(
            self.knowledge, self.outbox, self.store, self.announcer, self.fetches, self.queues, self.fences
        )

    def _make_owner(self) -> None:
        """Make what answers other members."""
        knowledge, outbox, store = self.knowledge, self.outbox, self.store
        self.atomic = Atomic(knowledge, outbox, store, self.effects, self.fences)
        self.owner = Owner(knowledge, outbox, store, self.replays, self.queues, self.atomic)
        self.storing = Storing(knowledge, outbox, store, self.effects, self.announcements)

    def _make_askers(self) -> None:
        """Make what asks other members."""
        knowledge, outbox, store, timers = self.knowledge, self.outbox, self.store, self.timers
        deliveries = Deliveries(knowledge, outbox, store, self.owner)
        self.reads = Reads(knowledge, outbox, timers, self.replays, self.requests, self.fetches, deliveries)
        self.peeks = Peeks(knowledge, outbox, store, self.requests)
        self.sets = Sets(knowledge, outbox, timers, self.requests, self.effects, self.announcements)
        self.attempts = Attempts(knowledge, outbox, store, timers, self.replays, self.requests, self.effects)
        self.catching_up = CatchingUp(knowledge, outbox, timers, self.replays)

    def _make_listeners(self) -> None:
        """Make what follows the other members."""
        knowledge, members, outbox, store = self.knowledge, self.members, self.outbox, self.store
        self.hearing = Hearing(knowledge, members, outbox, store, self.timers, self.replays, self.effects)
        self.membership = Membership(knowledge, members, outbox, store, self.replays, self.hearing, self.effects)

    def _table(self) -> dict[type[Any], Callable[[Any], object]]:
        read, ask = self.reads.answered, self.owner.asked
        return {
            m.Event: self.hearing.heard, m.Replayed: self.hearing.answered, m.Reset: self.hearing.answered,
            m.Replay: self.replays.answer, m.Ping: self.membership.on_ping, m.Pong: self.membership.on_pong,
            m.Roster: self.membership.on_roster, m.Goodbye: self.membership.on_goodbye, m.Ack: self.membership.on_ack,
            m.Get: ask, m.Peek: ask, m.GetFenced: ask, m.Alter: ask, m.Fill: self.owner.filled,
            m.Cancel: self.owner.cancel, m.Fail: self.queues.fail,
            m.Set: self.storing.set, m.SetFenced: self.atomic.set,
            m.Value: read, m.Load: read, m.Wait: read, m.Alone: read, m.Peeked: self.peeks.answered,
            m.Stored: self.sets.stored, m.SetReceipt: self.sets.acknowledged,
            m.Fenced: self.attempts.fenced, m.Altered: self.attempts.altered,
        }  # fmt: skip

    # --- Steps

    def handle(self, message: m.Message) -> None:
        """Have a message handled by the part that it is for."""
        self._handlers[type(message)](message)

    def finish(self) -> None:
        """End a step: do all that follows from it, and derive what readers look at."""
        self._follow_up()
        self._refresh()
        while self.hearing.gone or self.hearing.progressed or self.outbox.mail:
            self._follow_up()
            self._refresh()

    def tick(self) -> None:
        """Do what is due by the clock."""
        now = self.knowledge.now
        self.members.tick(now, hurry=not self.knowledge.is_current())
        for lost in self.members.forgettable(now):
            self.hearing.forget(lost)
        self.timers.run(now)
        self.knowledge.turn()
        self.store.expire(now)
        self.fences.expire(now)
        self.owner.retry()
        self.finish()

    def deadline(self) -> float:
        """Return the instant at which `tick` must be called at the latest."""
        return min(self.members.deadline(), self.timers.deadline(), self.announcements.deadline())

    def _follow_up(self) -> None:
        """Handle what the step has left behind, until nothing is left. Every step comes here, so it looks first."""
        hearing, mail = self.hearing, self.outbox.mail
        while True:
            if hearing.gone:
                self._let_go()
            elif hearing.progressed:
                self._go_on()
            elif mail:
                self.handle(mail.popleft())
            else:
                return

    def _let_go(self) -> None:
        """Let the requests of members lapse that are gone, and ask others for what they were asked for."""
        gone, self.hearing.gone = self.hearing.gone, []
        for member in gone:
            self.membership.let_go(member)
            self.owner.member_left(member.incarnation)
            self.storing.member_left(member.incarnation)
            self.requests.owner_left(member.incarnation)

    def _go_on(self) -> None:
        """Go on with what waited for events: a stream was applied further."""
        self.hearing.progressed = False
        self.owner.retry()
        self.reads.retry()
        self.attempts.retry()
        self.catching_up.retry()

    def _refresh(self) -> None:
        if self.knowledge.refresh():
            self.reads.unpark()
        self._count_time_behind()
        self.announcements.advance(self.members, self.knowledge.established, self.knowledge.now)

    def _count_time_behind(self) -> None:
        current, now = self.knowledge.is_current(), self.knowledge.now
        if current and self._behind_since is not None:
            self.outbox.counters.seconds_behind += now - self._behind_since
            self._behind_since = None
        elif not current and self._behind_since is None and self.knowledge.established:
            self._behind_since = now

    def seconds_behind(self, now: float) -> float:
        """Return for how long this member, once established, has been behind by now, if it still is."""
        return now - self._behind_since if self._behind_since is not None else 0.0
