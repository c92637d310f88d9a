"""Tests of the tests: each mutant is the protocol without one of its rules, and the campaign must catch it.

`python -m verification.simulation.mutants` prints, for each mutant, the first history that catches it, and what broke
first. Where no random history catches it, a hand-written interleaving must: one of
`tests/core/group/test_interleavings.py` or `test_atomic.py`. The report says "hand" there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from colocache.core.group import (
    announcements,
    atomic,
    attempts,
    deliveries,
    effects,
    fences,
    fetches,
    hearing,
    knowledge,
    load_queues,
    members,
    owner,
    peer,
    reads,
    store,
    stream,
)
from colocache.testing import simulator
from verification.simulation.history import History
from verification.simulation.plan import FENCED, Plan, draw
from verification.simulation.shrink import story

SEEDS = 500
CLASSES = (
    "none", "all", "mute", "pause", "partition", "slow", "drop", "crash", "churn", "reorder", "overflow", "vanish",
)  # fmt: skip


@contextlib.contextmanager
def replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Have an attribute replaced for a while."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextlib.contextmanager
def replaced_in(holders: tuple[Any, ...], name: str, value: Any) -> Iterator[None]:
    """Have an attribute of several modules replaced for a while."""
    with contextlib.ExitStack() as stack:
        for holder in holders:
            stack.enter_context(replaced(holder, name, value))
        yield


MUTANTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {}


def mutant(function: Callable[[], contextlib.AbstractContextManager[Any]]) -> Callable[[], Any]:
    """Register a mutant under its function's name."""
    MUTANTS[function.__name__] = function
    return function


def nothing(*arguments: Any, **named: Any) -> None:
    """Do nothing, in place of what matters."""


@mutant
def lease_counts_from_the_pongs_receipt() -> Any:
    original = members.Members.hear_pong

    def hear_pong(self: Any, pong: Any, now: float) -> bool:
        other = self.get(pong.sender)
        if other is not None and pong.id in other.pings:
            other.pings[pong.id] = now
        return original(self, pong, now)

    return replaced(members.Members, "hear_pong", hear_pong)


@mutant
def lease_extends_though_events_are_missing() -> Any:
    def extend(self: Any, other: Any) -> None:
        if other.pong is not None:
            other.heard_until = max(other.heard_until, other.pong[0] + self._lease)
            other.pong = None

    return replaced(members.Members, "extend", extend)


@mutant
def ping_counts_though_the_members_known_differ() -> Any:
    original = members.Members.hear_pong
    return replaced(
        members.Members, "hear_pong", lambda self, pong, now: original(self, pong._replace(digest=self._digest), now)
    )


@mutant
def token_is_not_voided() -> Any:
    stack = contextlib.ExitStack()
    original = effects.Effects.apply

    def apply(self: Any, *arguments: Any) -> None:
        queues = load_queues.LoadQueues
        with replaced(queues, "pass_on", nothing), replaced(queues, "pass_on_all", nothing):
            original(self, *arguments)

    stack.enter_context(replaced(effects.Effects, "apply", apply))
    return stack


@mutant
def fill_is_accepted_without_its_token() -> Any:
    def redeem(self: Any, fill: Any) -> Any:
        queue = self._queues.get(fill.key)
        grant = queue.grant if queue else None
        asker = load_queues.Asker(fill.sender, 0, math.inf)
        return grant or load_queues.Grant(0, asker, self._knowledge.now, 0, b"")

    return replaced(load_queues.LoadQueues, "redeem", redeem)


@mutant
def waiter_inherits_a_voided_load() -> Any:
    """A voided fill is not stored, as it must be; but those who wait get its value instead of the next token."""
    voided: set[tuple[int, bytes]] = set()
    apply, pass_on = effects.Effects.apply, load_queues.LoadQueues.pass_on

    def apply_and_void_nothing(self: Any, event: Any) -> None:
        with replaced(load_queues.LoadQueues, "pass_on", note):
            apply(self, event)

    def note(self: Any, wire: bytes) -> None:
        queue = self._queues.get(wire)
        if queue is not None and queue.waiters:
            voided.add((id(self), wire))
        else:
            pass_on(self, wire)

    original = owner.Owner.filled

    def filled(self: Any, fill: Any) -> Any:
        if (id(self._queues), fill.key) not in voided:
            return original(self, fill)
        voided.discard((id(self._queues), fill.key))
        with replaced(store.Store, "put", nothing):
            return original(self, fill)

    stack = contextlib.ExitStack()
    stack.enter_context(replaced(effects.Effects, "apply", apply_and_void_nothing))
    stack.enter_context(replaced(owner.Owner, "filled", filled))
    return stack


@mutant
def fetch_is_not_marked() -> Any:
    return replaced(fetches.Fetches, "mark", nothing)


@mutant
def fetch_is_not_marked_by_a_tag() -> Any:
    stack = contextlib.ExitStack()
    stack.enter_context(replaced(fetches.Fetches, "mark_tag", nothing))
    stack.enter_context(replaced(knowledge.Knowledge, "tags_invalidated_since", lambda self, tags, version: False))
    return stack


@mutant
def fetch_is_not_marked_by_everything() -> Any:
    return replaced(fetches.Fetches, "mark_all", nothing)


@mutant
def requests_name_no_dependencies() -> Any:
    return replaced(knowledge.Knowledge, "dependencies", lambda self, wires: b"")


@mutant
def reset_is_no_dependency() -> Any:
    return replaced(effects.Effects, "reset", lambda self, stream, last: self.drop_all())


@mutant
def events_are_remembered_for_a_moment_only() -> Any:
    original = stream.Remembered.turn

    def turn(self: Any, now: float) -> None:
        self._keep = 0.005
        original(self, now)
        self._old, self._old_bulk = {}, {}

    return replaced(stream.Remembered, "turn", turn)


@mutant
def serves_thrice_as_old_while_behind() -> Any:
    original = knowledge.Knowledge.refresh

    def refresh(self: Any) -> bool:
        established = original(self)
        if self.gate.max_stale > 0:
            self.gate.max_stale = 3 * self.settings.lease
        return established

    return replaced(knowledge.Knowledge, "refresh", refresh)


@mutant
def silent_members_are_skipped() -> Any:
    original = announcements.Announcements.advance

    def advance(self: Any, others: Any, established: bool, now: float) -> None:
        original(self, [other for other in others if now < other.heard_until], established, now)

    return replaced(announcements.Announcements, "advance", advance)


@mutant
def waits_out_half_the_lease() -> Any:
    return replaced(announcements, "DRIFT", 0.5)


@mutant
def waits_out_exactly_the_lease() -> Any:
    return replaced(announcements, "DRIFT", 1.0)


@mutant
def stranger_is_waited_out() -> Any:
    """One that this member knows, but that does not know this member: its lease says nothing."""
    original = announcements.Announcements.advance

    def advance(self: Any, others: Any, established: bool, now: float) -> None:
        others = list(others)
        for other in others:
            other.met = True
        original(self, others, established, now)

    return replaced(announcements.Announcements, "advance", advance)


@mutant
def newcomer_whose_acquaintance_left_is_alone() -> Any:
    original = peer.Peer.start
    return replaced(peer.Peer, "start", lambda self, now, met_all=True: original(self, now))


@mutant
def joiner_promises() -> Any:
    original = announcements.Announcements.advance
    return replaced(
        announcements.Announcements, "advance", lambda self, others, _, now: original(self, others, True, now)
    )


@mutant
def joiner_keeps_what_it_fetches() -> Any:
    original = fetches.Fetch.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        self.established = True

    return replaced(fetches.Fetch, "__init__", init)


@mutant
def age_counts_from_the_arrival() -> Any:
    original = deliveries.Deliveries.received

    def received(self: Any, fetch: Any, value: Any) -> Any:
        fetch.sent_at = self._knowledge.now
        return original(self, fetch, value._replace(age=0.0))

    return replaced(deliveries.Deliveries, "received", received)


@mutant
def page_counts_from_its_own_load() -> Any:
    """And not from the cached parts that it was made of."""
    stack = contextlib.ExitStack()
    stack.enter_context(replaced(deliveries.Deliveries, "_oldest_part", lambda self, fetch: math.inf))
    stack.enter_context(replaced(simulator.Loading, "served_while_behind", nothing))
    return stack


@mutant
def fills_are_handed_over_while_behind() -> Any:
    original = owner.Owner._hand_over

    def hand_over(self: Any, *arguments: Any) -> None:
        with replaced(knowledge.Knowledge, "is_current", lambda self: True):
            original(self, *arguments)

    return replaced(owner.Owner, "_hand_over", hand_over)


@mutant
def value_of_an_owner_that_is_behind_is_kept() -> Any:
    original = deliveries.Deliveries.received
    return replaced(
        deliveries.Deliveries, "received", lambda self, f, value: original(self, f, value._replace(current=True))
    )


@mutant
def reader_joins_a_marked_fetch() -> Any:
    original = reads.Reads._may_join

    def may_join(self: Any, fetch: Any) -> bool:
        marked, fetch.marked = fetch.marked, False
        try:
            return original(self, fetch)
        finally:
            fetch.marked = marked

    return replaced(reads.Reads, "_may_join", may_join)


@mutant
def reader_joins_an_old_load_while_behind() -> Any:
    stack = contextlib.ExitStack()
    stack.enter_context(replaced(reads.Reads, "_may_join", lambda self, fetch: not fetch.marked))
    stack.enter_context(replaced(knowledge.Knowledge, "trusted_since", lambda self: -math.inf))
    return stack


@mutant
def reset_drops_nothing() -> Any:
    return replaced(effects.Effects, "drop_all", nothing)


@mutant
def stream_ends_without_a_reset() -> Any:
    original = hearing.Hearing._end

    def end(self: Any, member: Any, last: int, *, reset: bool) -> None:
        original(self, member, last, reset=False)

    return replaced(hearing.Hearing, "_end", end)


@mutant
def member_is_forgotten_without_a_reset() -> Any:
    original = hearing.Hearing.forget

    def forget(self: Any, other: Any) -> None:
        with replaced(effects.Effects, "drop_all", nothing):
            original(self, other)

    return replaced(hearing.Hearing, "forget", forget)


@mutant
def gap_is_overlooked() -> Any:
    original = stream.Reception.hear

    def hear(self: Any, event: Any) -> list[Any]:
        self.applied = max(self.applied, event.number - 1)
        return original(self, event)

    return replaced(stream.Reception, "hear", hear)


@mutant
def tags_are_not_checked_at_a_fill() -> Any:
    original = owner.Owner.filled

    def filled(self: Any, *arguments: Any) -> Any:
        with replaced(knowledge.Knowledge, "tags_invalidated_since", lambda self, tags, version: False):
            return original(self, *arguments)

    return replaced(owner.Owner, "filled", filled)


@mutant
def late_set_is_kept() -> Any:
    return replaced(knowledge.Knowledge, "invalidated_beyond", lambda self, wire, stream, number: False)


@mutant
def tag_drops_nothing() -> Any:
    return replaced(store.Store, "drop_tag", nothing)


@mutant
def fence_stands_after_an_event() -> Any:
    return replaced(fences.Fences, "fall", nothing)


@mutant
def fence_stands_after_a_bulk_event() -> Any:
    return replaced(fences.Fences, "fall_all", nothing)


@mutant
def fence_older_than_its_note_stands() -> Any:
    original = fences.Fences.stands
    return replaced(
        fences.Fences, "stands", lambda self, wire, fence, now: original(self, wire, sys.maxsize, now)
    )  # fmt: skip


@mutant
def fence_is_given_by_an_owner_that_is_behind() -> Any:
    def is_current(function: Any) -> Any:
        def as_if(self: Any, *arguments: Any) -> None:
            with replaced(knowledge.Knowledge, "is_current", lambda self: True):
                function(self, *arguments)

        return as_if

    stack = contextlib.ExitStack()
    stack.enter_context(replaced(atomic.Atomic, "give", is_current(atomic.Atomic.give)))
    stack.enter_context(replaced(atomic.Atomic, "set", is_current(atomic.Atomic.set)))
    return stack


@mutant
def fence_is_used_before_what_the_owner_has_applied() -> Any:
    original = attempts.Attempts.fenced
    return replaced(
        attempts.Attempts, "fenced", lambda self, message: original(self, message._replace(dependencies=b""))
    )


@mutant
def fence_does_not_look_at_tags() -> Any:
    original = atomic.Atomic.set

    def set_(self: Any, *arguments: Any) -> None:
        with replaced(knowledge.Knowledge, "tags_invalidated_since", lambda self, tags, version: False):
            original(self, *arguments)

    return replaced(atomic.Atomic, "set", set_)


@mutant
def fence_set_is_not_announced() -> Any:
    original = atomic.Atomic.set

    def set_(self: Any, *arguments: Any) -> None:
        with replaced(effects.Effects, "announce", lambda self, targets: 0):
            original(self, *arguments)

    return replaced(atomic.Atomic, "set", set_)


@mutant
def count_takes_a_duplicate() -> Any:
    return replaced(atomic.Atomic, "is_news", lambda self, request: True)


@mutant
def count_comes_before_what_the_asker_has_applied() -> Any:
    original = attempts.Attempts.alter

    def alter(self: Any, *arguments: Any) -> None:
        with replaced(knowledge.Knowledge, "dependencies", lambda self, wires: b""):
            original(self, *arguments)

    return replaced(attempts.Attempts, "alter", alter)


@mutant
def load_ends_with_its_caller() -> Any:
    """Though others wait for it."""
    return replaced(reads.Reads, "is_awaited", lambda self, request: False)


@mutant
def holder_is_not_told_that_others_wait() -> Any:
    return replaced(load_queues.LoadQueues, "_tell_holder", nothing)


@mutant
def nobody_loads_beside_a_load_without_a_caller() -> Any:
    return replaced(reads.Reads, "_begin_another", nothing)


@mutant
def abandonments_are_not_bounded_in_a_process() -> Any:
    return replaced_in((reads, fetches), "MAX_FAILURES", sys.maxsize)


@mutant
def abandonments_are_not_bounded_at_the_owner() -> Any:
    return replaced(load_queues, "MAX_FAILURES", sys.maxsize)


@mutant
def load_beside_another_one_outlives_an_event() -> Any:
    """What is begun under an old token counts as new."""
    original = reads.Reads._begin

    def begin(self: Any, fetch: Any) -> None:
        fetch.marked = False
        original(self, fetch)

    return replaced(reads.Reads, "_begin", begin)


def first_catch(name: str, seeds: int = SEEDS) -> tuple[Plan, str] | None:
    """Return the first history that catches a mutant, and what was wrong; None if none of so many does."""
    classes = FENCED if name.startswith(("fence_", "count_")) else CLASSES
    for seed in range(seeds):
        plan = draw(seed, classes[seed % len(classes)])
        with MUTANTS[name]():
            try:
                violations = History(plan, to_the_end=False).go().violations
            except Exception as error:
                violations = [repr(error)]
        if violations:
            return plan, violations[0]
    return None


def caught_by_hand(name: str) -> str | None:
    """Return the first of the hand-written interleavings that catches a mutant; None if none does."""
    tests = {
        **vars(importlib.import_module("tests.core.group.test_interleavings")),
        **vars(importlib.import_module("tests.core.group.test_atomic")),
    }
    for title, test in tests.items():
        if title.startswith("test_") and not inspect.signature(test).parameters:
            with MUTANTS[name]():
                try:
                    test()
                except Exception:
                    return title
    return None


def row(name: str, seeds: int) -> str:
    """Return a mutant's line of the table."""
    caught = first_catch(name, seeds)
    if caught is not None:
        plan, violation = caught
        return f"{name:48} {plan.seed:4} {plan.faults:10} {violation:.100}"
    return f"{name:48} hand {'':10} {by_hand}" if (by_hand := caught_by_hand(name)) else f"{name:48} NOT CAUGHT"


def tell(name: str) -> None:
    """Print how a mutant breaks the contract, as short as it can be told."""
    caught = first_catch(name)
    if caught is None:
        print(f"{name}: no history of {SEEDS} catches it")
        return
    with MUTANTS[name]():
        plan, lines = story(caught[0])
    print(f"{name}: {caught[1]}\n  in {len(plan.steps)} steps of {len(caught[0].steps)}:")
    print("\n".join(f"  {line}" for line in lines))


def main() -> int:
    """Print the table; the exit status is 1 if a mutant is not caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="mutant", help="which (default: all)")
    parser.add_argument("--story", action="store_true", help="shrink each catch, and print it as an interleaving")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="histories for each, at most (%(default)s)")
    options = parser.parse_args()
    names = options.names or list(MUTANTS)
    if options.story:
        for name in names:
            tell(name)
        return 0
    missed, began = 0, time.monotonic()
    print(f"{'the protocol, but':48} seed {'faults':10} what broke first", flush=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        for line in pool.map(row, names, [options.seeds] * len(names)):
            missed += "NOT CAUGHT" in line
            print(line, flush=True)
    seconds = time.monotonic() - began
    print(f"{len(names) - missed} of {len(names)} caught within {options.seeds} histories; {seconds:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
