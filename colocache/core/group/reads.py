"""The reader's side of a miss: ask the owner, load where it says so, and keep what no event has overtaken.

All readers of a key in this process share one `Fetch`. An event that hits the key **marks** the fetch:

1. read A begins, and its load reads the old value; 2. the key is invalidated, here too, and the call returns; 3. read B
begins. B must not join A's load: the fetch is marked, so B starts one of its own, and A's value is not kept.

An owner says with its permission to load what it has applied itself, and this member applies that first:

1. one event hits a page and a part of it; the owner of the page applies it; R has not heard it yet; 2. R is given the
token for the page, loads it, and for that reads its own near copy of the part, which is the old one; 3. the token
stands, and the page would be stale until its ttl.

A loader may read other cached values, too. So what it makes counts as old as they may be, lest a member that is behind
serve it, by its age, for longer than it may serve them:

1. R is current, and has not heard yet that a part and the page made of it were invalidated; 2. R loads the page, of the
old part; 3. R's link to the writer is cut; the writer waits for R for a lease, and returns; 4. the page is younger than
a lease, and R would serve it.

A caller may be cancelled while its load runs. If nobody else waits, the load ends with it. Otherwise it goes on without
its caller, and one of those who wait begins another load beside it, under the same token; the first value counts:

1. a load takes 5 s, where 0.4 s is usual, and its caller waits for 1 s. If those who wait had to wait for this load, or
2. if it were cancelled, while the source takes 5 s for each load, nobody would be served for as long as readers come.

While this member is behind it may not have heard the event of step 2; then B joins only what began less than
`max_stale` ago, for so long an acknowledged invalidation has waited for this member.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..entry import DEAD, Entry
from ..keys import namespace_of, within
from ..timers import Timers
from .fills import MAX_FAILURES
from .host import AskingHost
from .messages import Alone, Cancel, Fail, Fill, Get, Load, Message, Value, Wait, unpack_positions

#: Seconds after which a reader that waits asks again: lest a lost answer, or an owner that hangs, cost it the whole
#: load timeout.
REASK = 1.0


class Found(NamedTuple):
    """The value is there: as an object, or as bytes still to be decoded."""

    entry: Entry


class Lead(NamedTuple):
    """The caller is to load, and to report with `Reads.loaded` or `Reads.failed`."""

    fetch: int


class Solo(NamedTuple):
    """The caller is to load for itself, and to report nothing."""


Outcome = Found | Lead | Solo


class Loaded(NamedTuple):
    """What a loader gave.

    ``payload`` is None if it is too large to travel; ``left`` is its ttl; ``oldest`` is when the oldest of the cached
    values was loaded that the loader was served while this member was behind.
    """

    value: object
    payload: bytes | None
    left: float
    tags: tuple[str, ...]
    publish: Callable[[Entry], None]
    oldest: float = math.inf


class Ticket:
    """One call of a reader that waits for an outcome."""

    __slots__ = ("behind", "failures", "fetch", "id", "moment", "since", "tags", "until", "wire")

    def __init__(self, ticket: int, wire: bytes, tags: tuple[str, ...], now: float, until: float) -> None:
        self.id = ticket
        self.wire = wire
        self.tags = tags
        self.since = now
        self.until = until
        self.fetch: Fetch | None = None  # the one that it joined last
        self.moment = 0  # events applied here when it joined its fetch
        self.behind = False  # this member was behind when it joined
        self.failures = 0


class Fetch:
    """One request to an owner, and the load that may follow."""

    __slots__ = ("asked_at", "attended", "awaited", "current_until", "established", "id", "leaders", "led_at", "marked",
                 "moment", "owner", "phase", "running", "sent_at", "tickets", "token", "wire")  # fmt: skip

    def __init__(self, request: int, wire: bytes, owner: bytes, now: float, moment: int, established: bool) -> None:
        self.id = request
        self.wire = wire
        self.owner = owner
        self.sent_at = now  # the value was read from the source after this, or is as old as the owner says
        self.moment = moment
        self.established = established  # when it was sent: a joiner keeps nothing
        self.marked = False
        self.phase = "asking"  # then "waiting" for somebody else's load, "catching up" before its own, or "loading"
        self.token: int | None = None  # None while loading: a load for this process alone
        self.leaders: list[Ticket] = []  # the callers of all the loads that were begun
        self.running = 0  # loads under way
        self.attended = 0  # of these, those whose callers wait for them
        self.awaited = False  # the owner has said that another member waits for the load
        self.tickets: list[Ticket] = []
        self.asked_at = now
        self.led_at = now  # when its own load began, and until when this member was current then
        self.current_until = -math.inf

    def is_stuck(self, now: float) -> bool:
        """Whether the load takes longer than its own caller was willing to wait: whoever joined it would wait, too."""
        return bool(self.leaders) and all(leader.until <= now for leader in self.leaders)

    def may_begin_another(self) -> bool:
        """Whether its loads go on without their callers, so that another one may be begun beside them."""
        return self.running > 0 and not self.attended and len(self.leaders) < MAX_FAILURES


class Host(AskingHost, Protocol):
    """What `Reads` needs of the peer that it belongs to."""

    def current_until(self) -> float:
        """The instant until which this member is current: a lease ago, every event announced until then was applied."""

    def trusted_since(self) -> float:
        """The instant after which a value must have been read from the source to be used while behind."""

    def settle(self, ticket: int, outcome: Outcome) -> None:
        """Tell a reader what became of its call."""

    def shard_entry(self, wire: bytes) -> Entry | None:
        """Return what the shard has under a key."""


class Reads:
    """The fetches of one member. Not thread-safe."""

    def __init__(self, host: Host, lease: float, fetch_timeout: float, timers: Timers) -> None:
        self._host = host
        self._lease = lease
        self._fetch_timeout = fetch_timeout
        self._timers = timers
        self._fetches: dict[int, Fetch] = {}
        self._of_key: dict[bytes, list[Fetch]] = {}  # oldest first; only the newest may be joined
        self._catching_up: dict[int, dict[bytes, int]] = {}  # fetch to what is to be applied before it may load
        self._ids = 0
        self._look_at = math.inf  # when there may be a reader whose patience is over

    def __len__(self) -> int:
        return len(self._fetches)

    # --- Readers

    def read(self, ticket: Ticket, now: float) -> None:
        """Join a fetch of the key that may be joined, or start one."""
        host = self._host
        if ticket.fetch is None:
            self._look_again_at(ticket.until)
        ticket.moment, ticket.behind = host.moment, not host.is_current()
        fetches = self._of_key.get(ticket.wire)
        if fetches and self._may_join(fetches[-1]) and not fetches[-1].is_stuck(now):
            ticket.fetch = fetches[-1]
            ticket.fetch.tickets.append(ticket)
            host.counters.waits += 1
            self._begin_another(ticket.fetch)
        else:
            self._start(ticket, now)

    def is_awaited(self, request: int) -> bool:
        """Whether anybody waits for a load besides its caller. May be called from any thread."""
        fetch = self._fetches.get(request)
        return fetch is not None and (fetch.awaited or bool(fetch.tickets))

    def abandon(self, ticket: int, now: float) -> None:
        """A reader waits no more. A load that it led has given nothing, and is passed on."""
        for fetch in list(self._fetches.values()):
            if any(leader.id == ticket for leader in fetch.leaders):
                self._gave_nothing(fetch, now, Cancel(self._host.incarnation, fetch.owner, fetch.id))
            elif any(t.id == ticket for t in fetch.tickets):
                fetch.tickets = [t for t in fetch.tickets if t.id != ticket]
                if not fetch.tickets and not fetch.leaders:
                    self._give_up(fetch)

    def detach(self, request: int) -> None:
        """The caller of a load was cancelled. The load goes on, because somebody else waits for it."""
        fetch = self._fetches.get(request)
        if fetch is not None and fetch.attended:
            fetch.attended -= 1
            self._begin_another(fetch)

    def loaded(self, request: int, loaded: Loaded, now: float) -> None:
        """The leader's loader gave a value: fill it in, keep it where nothing overtook it, and give it to who waits."""
        fetch = self._fetches.get(request)
        if fetch is None or fetch.phase != "loading":
            return
        self._drop(fetch)
        made_of = min(loaded.oldest, self._oldest_part(fetch))
        if fetch.token is not None:
            self._host.send(self._fill(fetch, fetch.token, loaded, max(0.0, fetch.led_at - made_of)))
        tainted = fetch.marked or self._host.tags_hit_since(loaded.tags, fetch.moment)
        entry = Entry(fetch.wire, loaded.payload, min(fetch.sent_at, made_of), now + loaded.left, loaded.tags)
        entry.value = loaded.value
        self._hand_out(fetch, self._keep_loaded(fetch, entry, loaded, tainted), tainted, now)

    def failed(self, request: int, now: float) -> None:
        """The leader's loader raised: the next reader tries."""
        fetch = self._fetches.get(request)
        if fetch is not None and fetch.phase == "loading":
            self._gave_nothing(fetch, now, Fail(self._host.incarnation, fetch.owner, fetch.wire, fetch.token or 0))

    # --- Events

    def mark(self, wire: bytes) -> None:
        """An event hit a key."""
        for fetch in self._of_key.get(wire, ()):
            fetch.marked = True

    def mark_all(self, namespace: str) -> None:
        """An event hit a namespace; ``""`` is everything."""
        for fetch in self._fetches.values():
            if within(namespace_of(fetch.wire), namespace):
                fetch.marked = True

    def mark_tag(self, tag: str) -> None:
        """An event hit a tag: mark what is known to carry it; what turns out to is found out when the value comes."""
        for fetch in self._fetches.values():
            if any(tag in ticket.tags for ticket in fetch.leaders + fetch.tickets):
                fetch.marked = True

    def owner_left(self, owner: bytes, now: float) -> None:
        """An owner is gone: ask the next one. A load under way goes on, for this process."""
        for fetch in [f for f in self._fetches.values() if f.owner == owner]:
            if fetch.phase == "loading":
                fetch.token = None
            else:
                self._drop(fetch)
                self._again(fetch.tickets, now)

    # --- Answers

    def answered(self, message: Value | Load | Wait | Alone, now: float) -> None:
        """Take an owner's answer in."""
        fetch = self._fetches.get(message.id)
        if fetch is None or fetch.owner != message.sender:
            self._unwanted(fetch, message)
        elif isinstance(message, Wait):
            self._told_to_wait(fetch, now)
        elif fetch.phase == "loading":
            self._unwanted(fetch, message)
        elif isinstance(message, Value):
            self._received(fetch, message, now)
        elif isinstance(message, Load):
            self._granted(fetch, message, now)
        else:
            self._lead(fetch, None, now)

    def retry(self, now: float) -> None:
        """A stream is applied further: begin the loads that waited for that."""
        for request, positions in list(self._catching_up.items()):
            fetch = self._fetches.get(request)
            if fetch is None or fetch.phase != "catching up":
                self._catching_up.pop(request, None)
            elif self._host.has_applied(positions):
                self._catching_up.pop(request, None)
                self._lead(fetch, fetch.token, now)

    def _told_to_wait(self, fetch: Fetch, now: float) -> None:
        """Somebody else loads the key; or, to who has its token, somebody else waits for it."""
        if fetch.phase == "asking":
            fetch.phase = "waiting"
            self._timers.at(now + REASK, self._reask, fetch.id)
        elif fetch.phase in ("catching up", "loading"):
            fetch.awaited = True

    def _granted(self, fetch: Fetch, load: Load, now: float) -> None:
        if fetch.phase == "catching up" and fetch.token == load.token:  # said twice
            return
        fetch.token, positions = load.token, unpack_positions(load.dependencies)
        applied = self._host.has_applied(positions)
        if applied:
            self._lead(fetch, load.token, now)
            return
        fetch.phase = "catching up"
        if applied is None:
            self._alone(fetch, now)
        else:
            self._catching_up[fetch.id] = positions
            self._timers.at(now + self._fetch_timeout, self._decline, fetch.id, load.token)

    def _decline(self, request: int, token: int) -> None:
        """What the owner has applied cannot be had: give the token back, and load for this process alone."""
        fetch = self._fetches.get(request)
        if fetch is not None and fetch.phase == "catching up" and fetch.token == token:
            self._alone(fetch, self._timers.now)

    def _unwanted(self, fetch: Fetch | None, message: Message) -> None:
        """A token that came too late goes back, so that the next in line need not wait for it to lapse."""
        if isinstance(message, Load) and (fetch is None or fetch.token != message.token):
            self._host.send(Cancel(self._host.incarnation, message.sender, message.id))

    def _received(self, fetch: Fetch, value: Value, now: float) -> None:
        host = self._host
        self._drop(fetch)
        entry = Entry(fetch.wire, value.payload, fetch.sent_at - value.age, fetch.sent_at + value.left, value.tags)
        tainted = fetch.marked or host.tags_hit_since(value.tags, fetch.moment)
        if value.sender == host.incarnation:
            entry.expires = DEAD  # if it is too large for the shard, nobody could drop it from where readers find it
            entry = host.shard_entry(fetch.wire) or entry
        else:
            host.counters.fetches += 1
            if tainted or not value.current or not fetch.established:
                entry.expires = DEAD
            else:
                host.keep(entry)
        self._hand_out(fetch, entry, tainted, now)

    # --- Steps

    def _may_join(self, fetch: Fetch) -> bool:
        host = self._host
        if fetch.marked or not host.established:
            return False
        return host.is_current() or fetch.sent_at > host.trusted_since()

    def _start(self, ticket: Ticket, now: float) -> None:
        host = self._host
        owner = host.owner_of(ticket.wire)
        self._ids += 1
        fetch = Fetch(self._ids, ticket.wire, owner or host.incarnation, now, host.moment, host.established)
        ticket.fetch = fetch
        fetch.tickets.append(ticket)
        self._fetches[fetch.id] = fetch
        self._of_key.setdefault(ticket.wire, []).append(fetch)
        if owner is None:
            self._lead(fetch, None, now)
        else:
            self._ask(fetch, now)

    def _ask(self, fetch: Fetch, now: float) -> None:
        host = self._host
        dependencies = host.dependencies((fetch.wire,))
        if dependencies is None:
            self._alone(fetch, now)
            return
        fetch.phase, fetch.asked_at = "asking", now
        self._timers.at(now + self._fetch_timeout, self._unanswered, fetch.id, now)
        patience = max(0.0, max(t.until for t in fetch.tickets) - now)
        host.send(Get(host.incarnation, fetch.owner, fetch.id, fetch.wire, patience, dependencies))

    def _unanswered(self, request: int, asked_at: float) -> None:
        fetch = self._fetches.get(request)
        if fetch is not None and fetch.phase == "asking" and fetch.asked_at == asked_at:
            self._pass_over(fetch, self._timers.now)

    def _reask(self, request: int) -> None:
        fetch, now = self._fetches.get(request), self._timers.now
        if fetch is None or fetch.phase != "waiting":
            return
        self._drop_late(fetch, now)
        if not fetch.tickets:
            self._give_up(fetch)
        elif self._host.owner_of(fetch.wire) is None:
            self._pass_over(fetch, now)
        else:
            self._ask(fetch, now)

    def _pass_over(self, fetch: Fetch, now: float) -> None:
        self._host.pass_over(fetch.owner)
        self._alone(fetch, now)

    def _alone(self, fetch: Fetch, now: float) -> None:
        self._host.send(Cancel(self._host.incarnation, fetch.owner, fetch.id))
        self._lead(fetch, None, now)

    def _lead(self, fetch: Fetch, token: int | None, now: float) -> None:
        """Have one of the readers load; the others wait for it, whether it is for the group or for this process."""
        self._drop_late(fetch, now)
        fetch.phase, fetch.token = "loading", token
        fetch.marked, fetch.moment = False, self._host.moment  # what is applied by now, the load will see
        fetch.led_at, fetch.current_until = now, self._host.current_until()
        if not fetch.tickets:
            self._drop(fetch)
            if token is not None:
                self._host.send(Cancel(self._host.incarnation, fetch.owner, fetch.id))
            return
        if token is None:
            self._host.counters.fallbacks += 1
        self._begin(fetch)

    def _begin_another(self, fetch: Fetch) -> None:
        if fetch.tickets and fetch.may_begin_another():
            self._begin(fetch)

    def _begin(self, fetch: Fetch) -> None:
        """Have the reader load that will wait longest."""
        self._host.counters.loads += 1
        leader = max(fetch.tickets, key=lambda ticket: ticket.until)
        fetch.tickets.remove(leader)
        fetch.leaders.append(leader)
        fetch.running += 1
        fetch.attended += 1
        self._host.settle(leader.id, Lead(fetch.id))

    def _look_again_at(self, instant: float) -> None:
        """Look for readers whose patience is over. One timer serves all; one for each would keep its ticket."""
        if instant < self._look_at:
            self._look_at = instant
            self._timers.at(instant, self._look_for_overdue)

    def _look_for_overdue(self) -> None:
        """Readers whose patience is over load for themselves, also while a loader of this process hangs."""
        now = self._timers.now
        if now < self._look_at:  # a timer from before an earlier one was set
            return
        self._look_at = math.inf
        for fetch in [each for each in self._fetches.values() if any(ticket.until <= now for ticket in each.tickets)]:
            self._drop_late(fetch, now)
            if not fetch.tickets and fetch.phase != "loading" and fetch.id in self._fetches:
                self._give_up(fetch)
        self._look_again_at(min((t.until for fetch in self._fetches.values() for t in fetch.tickets), default=math.inf))

    def _drop_late(self, fetch: Fetch, now: float) -> None:
        late = [ticket for ticket in fetch.tickets if ticket.until <= now]
        fetch.tickets = [ticket for ticket in fetch.tickets if ticket.until > now]
        for ticket in late:
            self._solo(ticket)

    def _give_up(self, fetch: Fetch) -> None:
        self._drop(fetch)
        self._host.send(Cancel(self._host.incarnation, fetch.owner, fetch.id))

    def _gave_nothing(self, fetch: Fetch, now: float, word: Message) -> None:
        """A load failed, or was given up. After the last one, tell the owner, and let those who wait try anew."""
        fetch.running -= 1
        fetch.attended = min(fetch.attended, fetch.running)
        if fetch.running:
            return
        self._drop(fetch)
        if fetch.token is not None:
            self._host.send(word)
        for ticket in fetch.tickets:
            ticket.failures += 1
        self._again(fetch.tickets, now)

    def _oldest_part(self, fetch: Fetch) -> float:
        """How old, at most, a cached value was that the loader was served while this member was current.

        What it is served while behind is noted as it is used; infinity if this member was behind all the time.
        """
        if fetch.led_at < fetch.current_until:
            return fetch.current_until - self._lease
        if fetch.led_at < self._host.current_until():
            return fetch.led_at - self._lease
        return math.inf

    def _fill(self, fetch: Fetch, token: int, loaded: Loaded, older: float) -> Message:
        me = self._host.incarnation
        if loaded.payload is None:
            return Fail(me, fetch.owner, fetch.wire, token)
        return Fill(me, fetch.owner, fetch.wire, token, loaded.payload, loaded.left, older, loaded.tags)

    def _keep_loaded(self, fetch: Fetch, entry: Entry, loaded: Loaded, tainted: bool) -> Entry:
        """Return the entry that readers of this process find from now on; a dead one if the value is not kept."""
        host = self._host
        if tainted or not fetch.established or loaded.payload is None:
            entry.expires = DEAD
            return entry
        if fetch.token is not None and fetch.owner == host.incarnation:
            stored = host.shard_entry(fetch.wire)  # put there by the fill, unless that was refused
            if stored is None or stored.payload is not loaded.payload:
                entry.expires = DEAD
                return entry
            entry = stored
        else:
            host.keep(entry)
        if entry.expires != DEAD:
            loaded.publish(entry)
        return entry

    def _hand_out(self, fetch: Fetch, entry: Entry, tainted: bool, now: float) -> None:
        """Give a value to all who wait for it, but not to those who came after an event that it may not reflect.

        A ticket that joined while this member was behind must not get what this member would not serve it from its
        own store either: the owner's answer may have been under way while an invalidation was waited out.
        """
        again = []
        margin = now - self._host.trusted_since()
        for ticket in fetch.tickets:
            late = tainted and ticket.moment > fetch.moment
            old = ticket.behind and ticket.since > fetch.sent_at and entry.loaded_at <= ticket.since - margin
            if late or old:
                again.append(ticket)
            else:
                self._host.settle(ticket.id, Found(entry))
        self._again(again, now)

    def _again(self, tickets: list[Ticket], now: float) -> None:
        for ticket in tickets:
            if ticket.failures >= MAX_FAILURES or ticket.until <= now:
                self._solo(ticket)
            else:
                self.read(ticket, now)

    def _solo(self, ticket: Ticket) -> None:
        self._host.counters.fallbacks += 1
        self._host.counters.loads += 1
        self._host.settle(ticket.id, Solo())

    def _drop(self, fetch: Fetch) -> None:
        if self._fetches.pop(fetch.id, None) is None:
            return
        self._catching_up.pop(fetch.id, None)
        fetches = self._of_key[fetch.wire]
        fetches.remove(fetch)
        if not fetches:
            del self._of_key[fetch.wire]
