"""The reader's side of a miss: ask the owner, load where it says so, and keep what no event has overtaken.

All readers of a key in this process share one `Fetch`; see `colocache.core.group.fetches`.

An owner says, with its permission to load, what it has applied itself. This member applies that first. Otherwise:

1. One event invalidates a page and a part of it. The owner of the page applies it. R has not heard it yet.
2. R gets the token for the page and loads it. For that it reads its own near copy of the part, which is the old one.
3. The token stands, and the page is stale until its ttl is over.

A loader may read other cached values, too. So what it makes counts as old as they may be. Otherwise a member that is
behind would serve it, by its age, for longer than it may serve the parts:

1. R is current, and has not heard yet that a part, and the page made of it, were invalidated.
2. R loads the page, of the old part.
3. R's link to the writer is cut. The writer waits for R for a lease, and returns.
4. The page is younger than a lease, and R would serve it.

A caller may be cancelled while its load runs. If nobody else waits, the load ends with it. Otherwise the load goes on
without its caller, and one of those who wait begins another load beside it, under the same token. The first value
counts. Suppose that a load takes 5 s, where 0.4 s is usual, and that each caller waits for 1 s. Then nobody would be
served, as long as readers come and the source takes 5 s for each load, in either of these cases:

1. Those who wait had to wait for this load.
2. The load was cancelled with its caller.

While this member is behind, it may not have heard that a key was invalidated. Then a reader joins only what began less
than `max_stale` ago, because an acknowledged invalidation has waited for this member for so long.
"""

from __future__ import annotations

import math

from ..timers import Timers
from .deliveries import Deliveries
from .fetches import Fetch, Fetches, Ticket
from .knowledge import Knowledge
from .load_queues import MAX_FAILURES
from .messages import Addressed, Alone, Cancel, Fail, Get, Load, Value, Wait, unpack_positions
from .outbox import Outbox
from .outcomes import Lead, Loaded, Solo
from .replays import Replays
from .requests import Request, Requests

#: Seconds after which a reader that waits asks again. Otherwise a lost answer, or an owner that hangs, would cost it
#: the whole load timeout.
REASK = 1.0


class Reads:
    """Asks owners for values, and has readers load. Only `is_awaited` is thread-safe."""

    def __init__(
        self, knowledge: Knowledge, outbox: Outbox, timers: Timers, replays: Replays, requests: Requests,
        fetches: Fetches, deliveries: Deliveries,
    ) -> None:  # fmt: skip
        self._knowledge = knowledge
        self._outbox = outbox
        self._timers = timers
        self._replays = replays
        self._requests = requests
        self._fetches = fetches
        self._deliveries = deliveries
        self._parked: list[Ticket] = []  # readers that came before this member was established
        self._parking_ends = math.inf
        self._catching_up: dict[int, dict[bytes, int]] = {}  # by fetch: what this member applies before it may load
        self._look_at = math.inf  # when there may be a reader whose patience is over

    # --- Readers

    def park_until(self, instant: float) -> None:
        """Let readers wait until this member is established, or until an instant."""
        self._parking_ends = instant
        self._timers.at(instant, self.unpark)

    def unpark(self) -> None:
        """Let the readers go on that waited until this member was established."""
        parked, self._parked = self._parked, []
        for ticket in parked:
            self._join_or_start(ticket)

    def read(self, ticket: Ticket) -> None:
        """Join a fetch of the key that readers may join; otherwise start one."""
        if not self._knowledge.established and self._parking_ends > self._knowledge.now:
            self._parked.append(ticket)
        else:
            self._join_or_start(ticket)

    def is_awaited(self, request: int) -> bool:
        """Tell whether anybody waits for a load besides its caller. Any thread."""
        fetch = self._requests.get(request, Fetch)
        return fetch is not None and (fetch.awaited or bool(fetch.tickets))

    def abandon(self, ticket: int) -> None:
        """A reader no longer waits. A load that it led has given nothing, and is passed on."""
        self._parked = [parked for parked in self._parked if parked.id != ticket]
        for fetch in self._fetches.all():
            if any(leader.id == ticket for leader in fetch.leaders):
                self._gave_nothing(fetch, Cancel(self._knowledge.incarnation, fetch.owner, fetch.id))
            elif any(t.id == ticket for t in fetch.tickets):
                fetch.tickets = [t for t in fetch.tickets if t.id != ticket]
                if not fetch.tickets and not fetch.leaders:
                    self._give_up(fetch)

    def detach(self, request: int) -> None:
        """The caller of a load was cancelled. The load goes on, because somebody else waits for it."""
        fetch = self._requests.get(request, Fetch)
        if fetch is not None and fetch.attended:
            fetch.attended -= 1
            self._begin_another(fetch)

    def loaded(self, request: int, loaded: Loaded) -> None:
        """A loader gave a value: fill it in, keep it if nothing overtook it, and give it to those who wait."""
        fetch = self._requests.get(request, Fetch)
        if fetch is not None and fetch.phase == "loading":
            self._drop(fetch)
            self._again(self._deliveries.loaded(fetch, loaded))

    def failed(self, request: int) -> None:
        """A loader raised: the next reader tries."""
        fetch = self._requests.get(request, Fetch)
        if fetch is not None and fetch.phase == "loading":
            self._gave_nothing(fetch, Fail(self._knowledge.incarnation, fetch.owner, fetch.wire, fetch.token or 0))

    # --- Answers

    def answered(self, message: Value | Load | Wait | Alone) -> None:
        """Take an owner's answer in."""
        fetch = self._requests.answered(message, Fetch)
        if fetch is None:
            self._unwanted(fetch, message)
        elif isinstance(message, Wait):
            self._told_to_wait(fetch)
        elif fetch.phase == "loading":
            self._unwanted(fetch, message)
        elif isinstance(message, Value):
            self._drop(fetch)
            self._again(self._deliveries.received(fetch, message))
        elif isinstance(message, Load):
            self._granted(fetch, message)
        else:
            self._lead(fetch, None)

    def unanswered(self, request: Request) -> None:
        """The owner does not answer in time: load for this process alone."""
        if isinstance(request, Fetch) and request.phase == "asking":
            self._alone(request)

    def owner_left(self, request: Request) -> None:
        """The owner is gone: ask the next one. A load under way goes on, for this process."""
        if isinstance(request, Fetch) and request.phase == "loading":
            request.token = None
        elif isinstance(request, Fetch):
            self._drop(request)
            self._again(request.tickets)

    def retry(self) -> None:
        """Begin the loads that waited for events that are applied by now."""
        for request, positions in list(self._catching_up.items()):
            fetch = self._requests.get(request, Fetch)
            if fetch is None or fetch.phase != "catching up":
                self._catching_up.pop(request, None)
            elif self._replays.has_applied(positions):
                self._catching_up.pop(request, None)
                self._lead(fetch, fetch.token)

    def _told_to_wait(self, fetch: Fetch) -> None:
        """Another member loads the key. For the holder of the token it means that another one waits for its load."""
        if fetch.phase == "asking":
            fetch.phase = "waiting"
            self._timers.at(self._knowledge.now + REASK, self._reask, fetch.id)
        elif fetch.phase in ("catching up", "loading"):
            fetch.awaited = True

    def _granted(self, fetch: Fetch, load: Load) -> None:
        if fetch.phase == "catching up" and fetch.token == load.token:  # said twice
            return
        fetch.token, positions = load.token, unpack_positions(load.dependencies)
        applied = self._replays.has_applied(positions)
        if applied:
            self._lead(fetch, load.token)
            return
        fetch.phase = "catching up"
        if applied is None:
            self._alone(fetch)
        else:
            self._catching_up[fetch.id] = positions
            ends = self._knowledge.now + self._knowledge.settings.fetch_timeout
            self._timers.at(ends, self._decline, fetch.id, load.token)

    def _decline(self, request: int, token: int) -> None:
        """What the owner has applied does not come: give the token back, and load for this process alone."""
        fetch = self._requests.get(request, Fetch)
        if fetch is not None and fetch.phase == "catching up" and fetch.token == token:
            self._alone(fetch)

    def _unwanted(self, fetch: Fetch | None, message: Addressed) -> None:
        """Give a token back that came too late, so that the next in line need not wait until it lapses."""
        if isinstance(message, Load) and (fetch is None or fetch.token != message.token):
            self._outbox.send(Cancel(self._knowledge.incarnation, message.sender, message.id))

    # --- Asking

    def _join_or_start(self, ticket: Ticket) -> None:
        if ticket.fetch is None:
            self._look_again_at(ticket.until)
        ticket.version, ticket.behind = self._knowledge.version, not self._knowledge.is_current()
        fetch = self._fetches.newest(ticket.wire)
        if fetch is not None and self._may_join(fetch) and not fetch.is_stuck(self._knowledge.now):
            ticket.fetch = fetch
            fetch.tickets.append(ticket)
            self._outbox.counters.waits += 1
            self._begin_another(fetch)
        else:
            self._start(ticket)

    def _may_join(self, fetch: Fetch) -> bool:
        if fetch.marked or not self._knowledge.established:
            return False
        return self._knowledge.is_current() or fetch.sent_at > self._knowledge.trusted_since()

    def _start(self, ticket: Ticket) -> None:
        owner = self._knowledge.owner_of(ticket.wire)
        fetch = Fetch(self, owner or self._knowledge.incarnation, self._knowledge, ticket.wire)
        ticket.fetch = fetch
        fetch.tickets.append(ticket)
        self._fetches.add(fetch)
        if owner is None:
            self._lead(fetch, None)
        else:
            self._ask(fetch)

    def _ask(self, fetch: Fetch) -> None:
        dependencies = self._knowledge.dependencies((fetch.wire,))
        if dependencies is None:
            self._alone(fetch)
            return
        fetch.phase = "asking"
        self._requests.expect(fetch)
        patience = max(0.0, max(t.until for t in fetch.tickets) - self._knowledge.now)
        self._outbox.send(Get(self._knowledge.incarnation, fetch.owner, fetch.id, fetch.wire, patience, dependencies))

    def _reask(self, request: int) -> None:
        fetch = self._requests.get(request, Fetch)
        if fetch is None or fetch.phase != "waiting":
            return
        self._drop_late(fetch)
        if not fetch.tickets:
            self._give_up(fetch)
        elif self._knowledge.owner_of(fetch.wire) is None:
            self._knowledge.pass_over(fetch.owner)
            self._alone(fetch)
        else:
            self._ask(fetch)

    # --- Loading

    def _alone(self, fetch: Fetch) -> None:
        self._outbox.send(Cancel(self._knowledge.incarnation, fetch.owner, fetch.id))
        self._lead(fetch, None)

    def _lead(self, fetch: Fetch, token: int | None) -> None:
        """Have one of the readers load; the others wait for it, whether it is for the group or for this process."""
        knowledge = self._knowledge
        self._drop_late(fetch)
        fetch.phase, fetch.token = "loading", token
        fetch.marked, fetch.version = False, knowledge.version  # the load will see what is applied by now
        fetch.led_at, fetch.current_until = knowledge.now, knowledge.current_until()
        if not fetch.tickets:
            self._drop(fetch)
            if token is not None:
                self._outbox.send(Cancel(knowledge.incarnation, fetch.owner, fetch.id))
            return
        if token is None:
            self._outbox.counters.fallbacks += 1
        self._begin(fetch)

    def _begin_another(self, fetch: Fetch) -> None:
        if fetch.tickets and fetch.may_begin_another():
            self._begin(fetch)

    def _begin(self, fetch: Fetch) -> None:
        """Have the reader load that waits longest."""
        self._outbox.counters.loads += 1
        leader = max(fetch.tickets, key=lambda ticket: ticket.until)
        fetch.tickets.remove(leader)
        fetch.leaders.append(leader)
        fetch.running += 1
        fetch.attended += 1
        self._outbox.resolve(leader.id, Lead(fetch.id))

    def _gave_nothing(self, fetch: Fetch, word: Cancel | Fail) -> None:
        """A load failed, or was given up. After the last one, tell the owner, and let those who wait try anew."""
        fetch.running -= 1
        fetch.attended = min(fetch.attended, fetch.running)
        if fetch.running:
            return
        self._drop(fetch)
        if fetch.token is not None:
            self._outbox.send(word)
        for ticket in fetch.tickets:
            ticket.failures += 1
        self._again(fetch.tickets)

    # --- Ends

    def _look_again_at(self, instant: float) -> None:
        """Look for readers whose patience is over. One timer serves all; one for each would keep its ticket."""
        if instant < self._look_at:
            self._look_at = instant
            self._timers.at(instant, self._look_for_overdue)

    def _look_for_overdue(self) -> None:
        """Let readers whose patience is over load for themselves, also while a loader of this process hangs."""
        now = self._knowledge.now
        if now < self._look_at:  # a timer from before an earlier one was set
            return
        self._look_at = math.inf
        for fetch in [each for each in self._fetches.all() if any(ticket.until <= now for ticket in each.tickets)]:
            self._drop_late(fetch)
            if not fetch.tickets and fetch.phase != "loading" and self._requests.get(fetch.id, Fetch) is not None:
                self._give_up(fetch)
        self._look_again_at(min((t.until for fetch in self._fetches.all() for t in fetch.tickets), default=math.inf))

    def _drop_late(self, fetch: Fetch) -> None:
        for ticket in fetch.drop_late(self._knowledge.now):
            self._solo(ticket)

    def _give_up(self, fetch: Fetch) -> None:
        self._drop(fetch)
        self._outbox.send(Cancel(self._knowledge.incarnation, fetch.owner, fetch.id))

    def _again(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            if ticket.failures >= MAX_FAILURES or ticket.until <= self._knowledge.now:
                self._solo(ticket)
            else:
                self._join_or_start(ticket)

    def _solo(self, ticket: Ticket) -> None:
        self._outbox.counters.fallbacks += 1
        self._outbox.counters.loads += 1
        self._outbox.resolve(ticket.id, Solo())

    def _drop(self, fetch: Fetch) -> None:
        self._fetches.drop(fetch)
        self._catching_up.pop(fetch.id, None)
