"""The rules of the protocol between hosts, taken out one at a time.

Each mutant says in which kinds of random histories, and in which histories that are written by hand, it is looked for;
or in which test its interleaving is written by hand. Those of clients and of copies are in modules of their own.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

from colocache.core.host.claims import Claims, Load
from colocache.core.host.shelf import Shelf
from colocache.core.hosts import applying, dependencies, gateway, owner, waiting
from colocache.core.hosts.gateway import Gateway, Times
from colocache.core.hosts.lease import Lease
from colocache.core.hosts.log import HostLog
from colocache.core.hosts.owner import Owner
from colocache.core.hosts.rows import Rows
from colocache.core.near import NearStore
from verification.host.mutations import replaced
from verification.hosts import actor as actor_module
from verification.hosts.actor import Actor
from verification.hosts.computer import Worker
from verification.hosts.history import History
from verification.hosts.mutant import MUTANTS, Change, Mutant, edited, everywhere, mutant, noticed_by, together

__all__ = ["MUTANTS", "Mutant"]

# --- G: a gateway, and events of others


@mutant("told", "slow_gateway")
def applied_before_stamped() -> Change:
    """G4: an event is applied once it is stamped. Otherwise a successor acknowledges what was never stamped."""
    return edited(
        Gateway, "_apply",
        ("        stamp(self._board, self._fences, event)\n        row.raise_to(id, APPLIED + lane, number)\n",
         "        row.raise_to(id, APPLIED + lane, number)\n        stamp(self._board, self._fences, event)\n"),
    )  # fmt: skip


@mutant("lagging_owner", "slow_gateway", "words")
def stamped_before_told() -> Change:
    """G1: an event is told before it is stamped. Otherwise a fetch does not name an event whose stamps it knows."""
    return edited(
        Gateway, "_apply",
        ("        row.raise_to(id, TOLD + lane, number)\n        self._fences.order()\n", ""),
        ("        row.raise_to(id, APPLIED + lane, number)\n",
         "        row.raise_to(id, TOLD + lane, number)\n        row.raise_to(id, APPLIED + lane, number)\n"),
    )  # fmt: skip


@mutant("told", "slow_gateway")
def not_stamped() -> Change:
    """G2: an event is stamped."""
    return edited(Gateway, "_apply", ("        stamp(self._board, self._fences, event)\n", ""))


@mutant("slow_gateway", "told")
def bell_before_stamps() -> Change:
    """G3: the bell is rung after the stamps."""
    return everywhere(
        applying, "stamp", (gateway,),
        ("    board.invalidate(event.hashes, related=event.related)",
         "    board.ring()\n    board.stamp(event.hashes)"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_gateway.py")
def told_is_taken_for_applied() -> Change:
    """T2: what a predecessor was told may not be stamped."""
    return edited(
        Gateway, "_on_told",
        ("applied = self._row.largest(id, APPLIED + lane)", "applied = self._row.largest(id, TOLD + lane)"),
    )  # fmt: skip


@mutant("words", kinds=("gateways",))
def gateways_share_a_row() -> Change:
    """Each gateway has a row of its own. Otherwise one that was stopped takes back what another one has stored."""
    return edited(
        Worker, "become_gateway", ("row = next((row for row in range(ROWS) if row not in used), None)", "row = 0")
    )


@mutant("own", "told")
def own_events_are_told_unstamped() -> Change:
    """G7: own events are stamped before others are told."""
    return edited(
        Gateway, "_stamped",
        ("        if not self._log.is_stamped(lane, number):\n            stamp(",
         "        if False:\n            stamp("),
    )  # fmt: skip


@mutant("own", "told")
def marked_before_stamped() -> Change:
    """W3: a writer marks its event when it is stamped, and not before."""
    return edited(
        Actor, "invalidate",
        ("        worker.log.mark_stamped(position)\n", ""),
        ("        if kind == TAGS:\n", "        worker.log.mark_stamped(position)\n        if kind == TAGS:\n"),
    )  # fmt: skip


@mutant("private")
def pongs_say_what_was_told() -> Change:
    """G8: a pong says which event is the last one now."""
    return edited(
        Gateway, "_on_ping",
        ("last = self._look(now)", "last = {lane: number for lane, number in self._published.items() if number}"),
    )  # fmt: skip


@mutant("late_pongs", "oneway")
def leases_count_from_the_pong() -> Change:
    """G9: a lease counts from when the ping was sent."""
    return edited(
        Gateway, "_on_pong",
        ("peer.waits = (message.sent, message.last", "peer.waits = (now, message.last"),
    )  # fmt: skip


@mutant("pongs_alone")
def leases_begin_before_events_are_applied() -> Change:
    """G9: a lease begins once all is applied that the pong speaks of."""
    return edited(Gateway, "_progress", (" and self._row.has_reached(id, peer.waits[1])", ""))


@noticed_by("tests/core/hosts/test_gateway.py")
def pongs_for_another_incarnation() -> Change:
    """G9: a pong counts for a ping of this incarnation, because clocks start anew."""
    return edited(Gateway, "_is_for_this_ping", ("pong.to == self.me.id and ", ""))


@mutant("clock", kinds=("losses", "joiners"))
def pongs_for_another_incarnation_that_knew_others() -> Change:
    """G9: all checks together."""
    return together(
        edited(Gateway, "_is_for_this_ping", ("pong.to == self.me.id and pong.sent <= now", "True")),
        rosters_are_not_compared(),
    )


@mutant("ack", kinds=("losses", "joiners"))
def acknowledgements_for_another_incarnation() -> Change:
    """G5: an acknowledgement counts for events of this incarnation."""
    return edited(Gateway, "_on_ack", ("message.to == self.me.id and ", ""))


@noticed_by("tests/core/hosts/test_gateway.py")
def rosters_are_not_compared() -> Change:
    """G9: a pong counts if both hosts know the same."""
    return edited(Gateway, "_on_pong", ("view.live != self._digest(row.live()) or ", ""))


@mutant("unreachable", kinds=("forgetting",))
def who_is_not_heard_is_current() -> Change:
    """G11: a pong counts if its sender hears the asker."""
    return edited(Gateway, "_on_pong", ("        if message.deaf >= self.times.lease:\n", "        if False:\n"))


@mutant("newcomer", "address", kinds=("joiners",))
def nobody_is_introduced() -> Change:
    """J2: pongs carry rosters, and rosters are compared; discovery may list one address only."""
    return together(
        edited(Gateway, "_view", ("if known is not None and known.all != everything:", "if False:")),
        edited(Gateway, "_on_pong", ("view.live != self._digest(row.live()) or ", "")),
        _one_address(),
    )


def _one_address() -> Change:
    return edited(
        History, "discovered",
        ("return self.listed - {index}",
         "return set(self.random.sample(sorted(self.listed - {index}), min(1, len(self.listed - {index}))))"),
    )  # fmt: skip


@mutant("without_its_files", kinds=("forgetting",))
def the_forgotten_must_be_met() -> Change:
    """J1: who is forgotten need not be met (progress)."""
    return edited(Gateway, "_settle", ("are_complete(established, forgotten)", "are_complete(established, set())"))


@noticed_by("tests/core/hosts/test_gateway.py")
def a_successor_misses_all_anew() -> Change:
    """J6: a successor does not wait anew where its predecessor has given up (progress)."""
    return edited(Gateway, "tick", ("self._row.give_up(self._meetings.given_up(), now)", "pass"))


@noticed_by("tests/core/hosts/test_gateway.py")
def a_late_successor_misses_nobody() -> Change:
    """J6: where there was no gateway for long, everybody is missed again."""
    return edited(
        Gateway, "_miss_anew", ("self._row.given_up(now - self.times.serves_by_age)", "self._row.given_up(0)")
    )


@noticed_by("tests/core/hosts/test_gateway.py")
def who_was_stopped_for_long_misses_nobody() -> Change:
    """J6: so it is where the gateway was stopped."""
    return edited(Gateway, "tick", ("            self._miss_anew(now)\n", "            pass\n"))


@mutant("address", kinds=("joiners",))
def one_address_is_enough() -> Change:
    """J1: everybody whom discovery lists must be met."""
    return _one_address()


@mutant("alone", kinds=("gateways", "joiners"))
def alone_for_ever() -> Change:
    """G10: also a host that knows no other is current for a lease only."""
    return edited(
        Gateway, "_settle",
        ("        before = self._words[UNTIL]\n",
         "        if not counted:\n            until = 1 << 62\n        before = self._words[UNTIL]\n"),
    )  # fmt: skip


@mutant("takeover", kinds=("gateways",))
def a_new_gateway_has_a_fresh_lease() -> Change:
    """T4: a successor takes over what stands in the rows, and assumes nothing."""
    return edited(
        Gateway, "__init__",
        ("        self.resets = 0\n",
         "        self.resets = 0\n        for id in row.live():\n"
         "            row.hear(id, now + times.lease, self._under(self._forgotten()))\n"),
    )  # fmt: skip


@mutant("told", kinds=("gateways", "ends"))
def resets_are_applied_before_they_are_stamped() -> Change:
    """G6: a reset is stamped first, too."""
    return edited(Gateway, "_reset", ("        stamp(self._board, self._fences, EVERYTHING)\n", ""))


@mutant("burst", kinds=("cuts",))
def overwritten_events_are_passed_over() -> Change:
    """G6: what is not in the log any more is made up for by a reset."""
    return edited(
        Gateway, "_on_ask",
        ("                self._outbox.append(Reply(Reset(self.me.id, last)))\n                return\n",
         "                events = (Event(1, (1,)),) * min(number - applied, MOST_REPLAYED)\n"),
    )  # fmt: skip


# --- W: writers


@mutant("lagging_owner", "slow_gateway", kinds=("calm", "gateways"))
def writers_stamp_before_they_append() -> Change:
    """W2: an event is appended before it is stamped. Otherwise a fetch does not name it."""
    return edited(
        Actor, "invalidate",
        ("        related = kind != KEYS or len(hashes) > 1\n",
         "        related = kind != KEYS or len(hashes) > 1\n"
         "        worker.board.invalidate(hashes, related=related)\n        self.policy.sleep(0.002)\n"),
        ("        worker.board.invalidate(hashes, related=related)\n        judge.stamp(versions, region)\n",
         "        judge.stamp(versions, region)\n"),
    )  # fmt: skip


@mutant("roster", kinds=("joiners",))
def the_roster_is_read_before_the_append() -> Change:
    """W5: who is waited for is read after the append."""
    return together(
        edited(
            Actor, "invalidate",
            ("        try:\n            position",
             "        worker.rows.early = worker.rows.counted()\n        try:\n            position"),
        ),
        everywhere(
            waiting, "settle", (actor_module, owner),
            ("    members = rows.counted()\n", "    members = getattr(rows, 'early', None) or []\n"),
        ),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_waiting.py")
def newcomers_promise() -> Change:
    """W4: a host that is not established gives no complete receipt."""
    return everywhere(
        waiting, "settle", (actor_module, owner),
        ("    while not 0 < until <= since + times.lease:", "    while False:"),
        ("is_over and now <= until + times.serves_by_age", "is_over"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_waiting.py")
def established_at_the_end_is_enough() -> Change:
    """W4: a host is established before it looks whom to wait for."""
    return everywhere(
        waiting, "settle", (actor_module, owner),
        ("    while not 0 < until <= since + times.lease:", "    while False:"),
        ("is_over and now <= until + times.serves_by_age", "is_over and words[UNTIL] != 0"),
    )  # fmt: skip


@mutant("oneway")
def writers_wait_for_half_a_lease() -> Change:
    """W6: a silent host is waited for until its lease is over."""
    return replaced(Times, "waited", property(lambda times: times.lease // 2))


@mutant("own", kinds=("gateways",))
def one_lane() -> Change:
    """A writer that is stopped in a lane blocks nobody."""
    return edited(HostLog, "_append", ("for step in range(LANES):", "for step in range(1):"))


# --- R: readers and owners


@noticed_by("tests/core/test_near.py")
def the_lease_is_asked_after_the_bell() -> Change:
    """R1: a reader asks for the lease before bell and stamps."""
    return edited(
        NearStore, "lets",
        ("        until = self._lease.until(now)\n        if until <= now:\n            return False\n"
         "        bell = self.bell[0]\n", "        bell = self.bell[0]\n"),
        ("        entry.bell = None\n",
         "        until = self._lease.until(now)\n        if until <= now:\n            return False\n"
         "        entry.bell = None\n"),
    )  # fmt: skip


@mutant("oneway")
def nobody_asks_for_the_lease() -> Change:
    """R2: what is served depends on the lease."""
    return edited(Lease, "until", ("known = word / _NS if word else -math.inf", "known = math.inf"))


@mutant("oneway")
def what_is_old_is_served_while_behind() -> Change:
    """R3: a host that is behind serves what is young."""
    return edited(
        Lease, "loaded_after",
        ("return now - self._lease if now < until + self._serves_by_age else math.inf", "return -math.inf"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_lease.py")
def newcomers_serve_what_is_young() -> Change:
    """R3: a host that is not established serves nothing."""
    return edited(
        Lease,
        "loaded_after",
        ("if now < until + self._serves_by_age else", "if until == -math.inf or now < until else"),
    )


@mutant("oneway", "takeover")
def loads_that_are_old_are_joined() -> Change:
    """R6: a load is joined while behind if it is young."""
    return edited(Claims, "find_or_lead", ("_Search(call, wire, hash, now, after, patience, runner)",
                                           "_Search(call, wire, hash, now, -math.inf, patience, runner)"))  # fmt: skip


@mutant("lagging_owner", "slow_gateway", "told")
def nothing_is_named() -> Change:
    """R4: a fetch names what is told."""
    return replaced(actor_module, "dependencies", lambda me, rows, log, now: {})


@mutant("lagging_owner", "slow_gateway", "words")
def what_is_applied_is_named() -> Change:
    """R4: a fetch names what is told, and not what is applied."""
    return everywhere(
        dependencies, "_told", (), ("rows.every_position(TOLD)", "rows.every_position(TOLD + 8)"),
    )  # fmt: skip


@mutant("lagging_owner", "slow_gateway", "private")
def own_events_are_not_named() -> Change:
    """R4: a fetch names the own host's events."""
    return everywhere(dependencies, "dependencies", (actor_module,), ("    found[me] = log.lasts()\n", ""))


@noticed_by("tests/core/hosts/test_dependencies.py")
def ends_are_not_named() -> Change:
    """R4: a fetch names those that have ended."""
    return everywhere(
        dependencies, "_told", (), ("    found.update(dict.fromkeys(rows.recent_ends(now), OVER))\n", ""),
    )  # fmt: skip


@mutant("lagging_owner", "slow_gateway", kinds=("calm", "gateways"))
def what_is_told_is_read_before_the_stamps() -> Change:
    """R4: a reader reads its stamps, and then what is told."""
    return together(
        edited(
            Actor, "read",
            ("        call = _Call()\n", "        self.early = self._dependencies()\n        call = _Call()\n"),
        ),
        edited(Actor, "_fetch", ("depends = self._dependencies()", "depends = self.early")),
    )  # fmt: skip


@mutant("slow_owner", "lagging_owner", "slow_gateway", kinds=("calm", "cuts"))
def stamps_are_read_when_the_answer_is_there() -> Change:
    """R4: what is fetched stands under stamps that were read before."""
    return edited(
        Actor, "_store_found",
        ("        loaded = min", "        miss = Miss(worker.board.label_of(item.hash, item.hashes), miss.at)\n"
         "        loaded = min"),
    )  # fmt: skip


@mutant("slow_owner", "slow_gateway", "told")
def the_owner_takes_the_record_first() -> Change:
    """R5: the owner compares what a fetch depends on, and then takes the record."""
    return edited(
        Owner, "_get",
        ("        if not (yield from self._has_applied(request.depends)):\n            return Refused()\n"
         "        (wire, hashes), began = request.key, self._clock()\n",
         "        (wire, hashes), began = request.key, self._clock()\n"
         "        asked = self._taker.look(wire, hashes, began)\n"
         "        if not (yield from self._has_applied(request.depends)):\n            return Refused()\n"),
        ("        self._fences.order()\n        asked = self._taker.look(wire, hashes, began)\n",
         "        if not isinstance(asked, Record):\n"
         "            asked = self._taker.look(wire, hashes, began)\n"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_dependencies.py")
def owners_answer_about_hosts_they_do_not_know() -> Change:
    """R5: an owner that has never met a host has not applied its events."""
    return everywhere(
        dependencies, "has_applied", (owner,),
        ("        if state != LIVE or", "        if state == LIVE and (False or"),
        ("not rows.has_reached(id, numbers):", "not rows.has_reached(id, numbers)):"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_owner.py")
def ages_are_not_told() -> Change:
    """R3: what is fetched is as old as it is at the owner."""
    return edited(Owner, "_found", ("max(0.0, now - record.loaded)", "0.0"))


@noticed_by("tests/operations/test_lease.py")
def ages_of_parts_are_not_counted() -> Change:
    """R3: what is made of cached values is as old as they are. One history of four thousand notices it."""
    return edited(Load, "age", ("if loaded < self.miss.at:", "if False:"))


@noticed_by("tests/core/hosts/test_lease.py")
def pages_are_as_old_as_their_loaders() -> Change:
    """R3: what a loader reads while the host becomes current may be older than the loader's beginning."""
    return edited(Lease, "as_of_end", ("began - self._lease if self.until(now) > began else began", "began"))


@mutant("slow_load", "slow_gateway", kinds=("calm", "cuts"))
def fills_get_new_stamps() -> Change:
    """What was loaded under a grant stands under the stamps that were read before the grant."""
    return edited(
        Owner, "_fill",
        ("                grant.load.age(",
         "                label = grant.load.miss.label\n"
         "                hashes = [GROUP.unpack_from(label, at)[0] for at in range(0, len(label), GROUP.size)]\n"
         "                grant.load.miss = grant.load.miss._replace(label=self._board.label(hashes))\n"
         "                grant.load.age("),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_grants.py")
def tokens_are_counted() -> Change:
    """A token is given by one process of one incarnation only."""
    return edited(Owner, "_lead", ("self._claims.number() ^ self._mine", "len(self._grants) + 1"))


# --- Writes


@mutant(kinds=("writes",))
def writes_are_not_announced() -> Change:
    """A write is an event for other hosts."""
    return edited(Shelf, "_stamp", ("        if announcer is None:", "        if True:"))


@noticed_by("tests/core/host/test_announcements.py")
def writes_are_announced_before_the_commit() -> Change:
    """A write is committed before it is announced."""
    return together(
        edited(
            Shelf, "_write",
            ("        version = self._numbers.next()\n",
             "        if stamps and self._announcer is not None:\n"
             "            self._early = self._announcer.announce(hash ^ WRITES)\n"
             "            self._announcer.done(self._early)\n"
             "        version = self._numbers.next()\n"),
        ),
        replaced(Shelf, "__slots__", Shelf.__slots__),
        _early_slot(),
        edited(Shelf, "_stamp", ("announcer.announce(writes)", "self._early")),
    )  # fmt: skip


def _early_slot() -> Change:
    """Give a shelf, which has slots, a place for one thing more."""
    places: dict[int, Any] = {}

    class Place:
        def __get__(self, shelf: Any, kind: Any) -> Any:
            return places[id(shelf)]

        def __set__(self, shelf: Any, value: Any) -> None:
            places[id(shelf)] = value

    @contextmanager
    def change() -> Any:
        Shelf._early = Place()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            del Shelf._early  # type: ignore[attr-defined]

    return change()


@noticed_by("tests/core/hosts/test_owner.py")
def values_are_derived_while_behind() -> Change:
    """Nothing is derived while the owner is behind: the value may be void elsewhere."""
    return edited(Owner, "_may_derive", ("return now < self._lease.until(now)", "return True"))


@noticed_by("tests/core/hosts/test_owner.py")
def who_owns_a_key_no_more_derives() -> Change:
    """Nothing is derived by a host that does not own the key any more."""
    return edited(Owner, "_may_derive", (" and self._owns(request.key.wire)", ""))


@noticed_by("tests/core/host/test_shelf.py")
def what_is_derived_is_young() -> Change:
    """What is derived is as old as what it was made of."""
    return edited(Shelf, "_write", ("            loaded = record.loaded\n", "            loaded = now\n"))


@mutant(kinds=("writes",))
def sets_do_not_wait() -> Change:
    """A set with a receipt waits for other hosts."""
    return edited(
        Owner, "_written",
        ("        if waits:\n", "        if waits:\n            return Done(outcome.name, payload, True, events)\n"),
    )  # fmt: skip


# --- J and E: joining and ends


@mutant("newcomer", kinds=("joiners", "losses"))
def positions_are_adopted_without_a_reset() -> Change:
    """J3: a newcomer drops everything when it adopts positions."""
    return edited(
        Gateway, "_on_pong",
        ("        if not self.is_established and not row.has_reached(id, message.last):\n"
         "            self._reset(id, message.last)\n",
         "        if not self.is_established and not row.has_reached(id, message.last):\n"
         "            for lane, number in message.last.items():\n"
         "                row.raise_to(id, TOLD + lane, number)\n"
         "                row.raise_to(id, APPLIED + lane, number)\n"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_gateway.py")
def ends_without_a_reset() -> Change:
    """E3: who has ended at a position that is not reached, or unknown, is ended after a reset."""
    return edited(
        Gateway, "_merge",
        ("            if not (mine == LIVE and last is not None and row.has_reached(host.id, last)):\n"
         "                self._reset(host.id, {})\n", ""),
    )  # fmt: skip


@mutant("ack", "clock", kinds=("losses", "joiners"))
def restarted_hosts_keep_their_id() -> Change:
    """E1: what restarts is a new member: its positions are not those of the old one."""
    return edited(
        History, "boot",
        ("id = self.random.randbytes(16)", "id = self.random.randbytes(16)[:0] + bytes([index]) * 16"),
        ("region.past = [*self.past[index].items()]", "region.past = []"),
    )  # fmt: skip


@mutant(kinds=("ends",))
def goodbyes_come_early() -> Change:
    """E4: a host says goodbye when its life is held alone."""
    return edited(
        History, "leave",
        ("        for worker in alive[1:]:\n",
         "        if not self.is_quiet:\n"
         "            self._say_goodbye(alive[0])\n"
         "            end = lambda: self._end(region) if self.regions[region.index] is region else None\n"
         "            self.policy.after(1.3, end)\n"
         "            self.policy.after(1.5, lambda: self.boot(region.index))\n            return\n"
         "        for worker in alive[1:]:\n"),
    )  # fmt: skip


@mutant(kinds=("ends",))
def an_empty_host_is_gone() -> Change:
    """E4: a host without a process for a moment is silent, and not gone."""
    return edited(
        History, "fault_empty",
        ("        for worker in region.alive():\n",
         "        alive = region.alive()\n        if alive:\n            self._say_goodbye(alive[0])\n"
         "            self.past[region.index].clear()\n"
         "        for worker in region.alive():\n"),
    )  # fmt: skip


@mutant(kinds=("joiners", "losses"))
def ends_are_not_passed_on() -> Change:
    """E2: a host says which of its incarnations are over, also to who takes them for living (progress)."""
    return edited(Gateway, "_view", ('*(b"over" + id for id in ends)', "*ends"))


# --- F and Q: forgetting


@mutant("island", "triangle", kinds=("forgetting",))
def a_minority_forgets() -> Change:
    """Q1: only a majority forgets."""
    return edited(
        Gateway, "_forget",
        ("if not always and 2 * len(heard) <= len(everybody):", "if False:"),
    )  # fmt: skip


@mutant("island", "triangle", kinds=("forgetting",))
def who_may_be_forgotten_promises() -> Change:
    """Q2: a host that was not current for long gives no complete receipt."""
    return everywhere(
        waiting, "settle", (actor_module, owner),
        ("is_over and now <= until + times.serves_by_age", "is_over"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_waiting.py")
def who_was_forgotten_when_it_began_to_wait_promises() -> Change:
    """Q2: until when a host was current counts as of the begin of the wait."""
    return everywhere(
        waiting, "settle", (actor_module, owner),
        ("is_over and now <= until + times.serves_by_age", "is_over and now <= words[UNTIL] + times.serves_by_age"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_waiting.py")
def until_when_it_is_current_is_read_later() -> Change:
    """Q2: and so a word from later is not taken for it."""
    return everywhere(
        waiting, "settle", (actor_module, owner), ("0 < until <= since + times.lease:", "until:")
    )  # fmt: skip


@mutant("island", "triangle", kinds=("forgetting",))
def who_may_be_forgotten_serves() -> Change:
    """Q3: a host that was not current for long serves nothing."""
    return edited(
        Lease, "loaded_after", ("if now < until + self._serves_by_age else math.inf", "if until > 0 else math.inf")
    )


@mutant("island", "triangle", kinds=("forgetting",))
def forgotten_for_good() -> Change:
    """F2: any sign of life makes the decision void."""
    return edited(Rows, "_holds", ("return mark == 1 + signs", "return mark > 0"))


@noticed_by("tests/core/hosts/test_gateway.py")
def forgotten_without_a_reset() -> Change:
    """F1: everything is dropped before a host is forgotten."""
    return edited(Gateway, "_forget", ("                self._reset(id, {})\n", ""))


@noticed_by("tests/core/hosts/test_gateway.py")
def forgotten_at_different_positions() -> Change:
    """F4: who is behind another one in what is applied of a forgotten host resets."""
    return edited(
        Gateway, "_on_pong", ("            if not row.has_reached(other, applied):\n", "            if False:\n")
    )


@noticed_by("tests/core/hosts/test_gateway.py")
def leases_survive_forgetting() -> Change:
    """F3: a lease holds only among hosts that have forgotten the same ones."""
    return edited(Gateway, "_under", ('return xxh3_64_intdigest(b"".join(sorted(forgotten))) | 1', "return 1"))


@noticed_by("tests/core/hosts/test_gateway.py")
def others_may_have_forgotten_others() -> Change:
    """Q, condition c: a pong counts only between hosts that have forgotten the same ones."""
    return edited(Gateway, "_on_pong", (" or set(view.forgotten) != mine", ""))


@noticed_by("tests/core/hosts/test_gateway.py")
def a_minority_counts_silence() -> Change:
    """F5: silence counts, and is witnessed, only while a majority is heard."""
    return edited(Gateway, "_forget", ("            self._since = now  # F5\n", ""))


@noticed_by("tests/core/hosts/test_gateway.py")
def each_incarnation_has_a_vote() -> Change:
    """F6: a name has one vote (progress)."""
    return edited(
        Gateway, "_forget",
        ("names = {id: row.name(id) for id in live}", "names = {id: id.hex() for id in live}"),
        ("if id not in gone], self.me.name}", "if id not in gone], self.me.id.hex()}"),
        ("| {self.me.name}", "| {self.me.id.hex()}"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_gateway.py")
def witnesses_are_not_asked() -> Change:
    """Who is forgotten was heard by nobody who is heard."""
    return edited(
        Gateway, "_forget", ("            if all(each is not None", "            if True or all(each is not None")
    )


@noticed_by("tests/core/hosts/test_gateway.py")
def witnesses_are_believed_for_ever() -> Change:
    """Q, condition a: the word of a witness is no older than a lease."""
    return edited(Gateway, "_witnessed_silence", (" or now - peer.witnessed > self.times.lease", ""))


@noticed_by("tests/core/hosts/test_gateway.py")
def who_was_stopped_counts_silence() -> Change:
    """Q, condition b: silence counts from when a host could have been heard."""
    return edited(
        Gateway, "_forget",
        ("max(self._last_signs().get(id, now), self._since)", "self._last_signs().get(id, now)"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_gateway.py")
def who_is_heard_by_others_stays_forgotten() -> Change:
    """Q, condition d: whom somebody else hears is taken back."""
    return edited(Gateway, "_take_back", ("for id in self._forgotten():", "for id in ():"))


@noticed_by("tests/core/hosts/test_gateway.py")
def the_dead_vote() -> Change:
    """F8: who is forgotten for long has no vote (progress)."""
    return edited(Gateway, "_forget", ("gone = row.live(), self._gone(now)", "gone = row.live(), set()"))


@noticed_by("tests/core/hosts/test_gateway.py")
def who_has_just_begun_to_listen_is_believed() -> Change:
    """F9: only whom somebody has heard is taken back (progress)."""
    return edited(Gateway, "_take_back", (" and id not in self._peer(witness).unheard", ""))


@noticed_by("tests/core/hosts/test_gateway.py")
def newcomers_forget_without_a_reset() -> Change:
    """J5: a newcomer drops everything when it takes over who is forgotten."""
    return edited(
        Gateway, "_forget_too",
        ("                self._reset(id, {})\n",
         "                if self.is_established:\n                    self._reset(id, {})\n"),
    )  # fmt: skip


@noticed_by("tests/core/hosts/test_gateway.py")
def newcomers_seem_to_hear_the_forgotten() -> Change:
    """J5: who has never heard a host does not have others take it back (progress)."""
    return edited(Gateway, "_forget_too", ("if id in view.unheard:", "if False:"))


@noticed_by("tests/core/hosts/test_gateway.py")
def newcomers_have_forgotten_nobody() -> Change:
    """J5: a newcomer takes over who is forgotten (progress)."""
    return edited(Gateway, "_forget_too", ("for id in view.forgotten:", "for id in ():"))


@noticed_by("tests/core/hosts/test_gateway.py")
def only_the_established_forget() -> Change:
    """F7: a host that is not established may forget, too (progress)."""
    return edited(
        Gateway, "_forget", ("if self._forgetting is Forgetting.NEVER:",
        "if self._forgetting is Forgetting.NEVER or not self.is_established:"),
    )  # fmt: skip


from verification.hosts import client_mutations, copy_mutations  # noqa: E402, F401  # last in the table
