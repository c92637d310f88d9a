"""Fences, compare-and-set, counters and touches, between whole members on a table."""

from __future__ import annotations

import math
from typing import Any

import pytest

from colocache.core.entry import MISSING
from colocache.core.group.fences import NO_FENCE
from colocache.core.group.messages import (
    EVERYTHING,
    Alter,
    Altered,
    Event,
    Fenced,
    GetFenced,
    Ping,
    Replayed,
    SetFenced,
    namespace_target,
    tag_target,
)
from colocache.core.group.outcomes import DONE, NO_INTEGER, NOTHING, REFUSED, UNAVAILABLE, Altering, Fence
from colocache.core.group.seam import Settings
from colocache.core.numbers import MAX_BYTES, pack_integer, unpack_integer
from colocache.core.options import EntryOptions
from colocache.testing.simulator import Simulated
from tests.core.group.hand import LEASE, Call, Table


def miss(table: Table, member: Simulated, key: str) -> tuple[object, Fence]:
    """Get a key with a fence."""
    seen: list[tuple[object, Fence]] = []
    member.get_fenced(key, lambda value, fence: seen.append((value, fence)))
    table.settle()
    (answer,) = seen
    return answer


def store(table: Table, member: Simulated, key: str, value: object, fence: Fence, tags: tuple[str, ...] = ()) -> Any:
    """Set a key under a fence."""
    call = Call(table)
    member.set_fenced(key, value, fence, call, tags)
    table.settle()
    return call.outcome


def alter(table: Table, member: Simulated, key: str, delta: int | None = 1, **named: Any) -> Altering:
    """Count, or touch."""
    call = Call(table)
    member.alter(key, delta, call, **named)
    table.settle()
    outcome: Altering = call.outcome
    return outcome


def number(outcome: Altering) -> int | None:
    return unpack_integer(outcome.payload)


def held(member: Simulated, key: str) -> Any:
    """What a member's shard has under a key."""
    entry = member.store._shard.get(member.wire(key))
    return entry if entry is not None and entry.expires > member.now() else None


# --- Fences


@pytest.mark.parametrize("mine", [True, False])
def test_who_missed_a_key_may_set_it(mine: bool) -> None:
    table = Table(3)
    a, b, o = table.living
    k = table.key(a if mine else o)
    value, fence = miss(table, a, k)
    assert value is MISSING
    assert fence.number != NO_FENCE
    assert store(table, a, k, 1, fence).outcome == DONE
    assert table.peek(b, k).outcome == 1
    assert miss(table, b, k)[0] == 1


@pytest.mark.parametrize("how", ["key", "tag", "namespace", "everything", "set"])
def test_set_under_a_fence_is_refused_after_an_event(how: str) -> None:
    """1. A misses, and reads the source; 2. it is invalidated, and all acknowledge; 3. A sets what it has read."""
    table = Table(3)
    a, b, o = table.living
    k = next(f"n/k{i}" for i in range(100) if o.peer.owner_of(o.wire(f"n/k{i}")) == o.member.incarnation)
    _, fence = miss(table, a, k)
    if how == "set":
        table.set(b, k, 2)
    else:
        target = {"key": k, "tag": tag_target("t"), "namespace": namespace_target("n"), "everything": EVERYTHING}[how]
        table.invalidate(b, target)
    assert store(table, a, k, 1, fence, ("t",)).outcome == REFUSED
    assert table.peek(b, k).outcome == (2 if how == "set" else MISSING)
    assert o.peer.counters.sets_refused == 1


def test_one_of_two_who_missed_a_key_may_set_it() -> None:
    table = Table(3)
    a, b, o = table.living
    k = table.key(o)
    _, first = miss(table, a, k)
    _, second = miss(table, b, k)
    assert store(table, b, k, 2, second).outcome == DONE
    assert store(table, a, k, 1, first).outcome == REFUSED
    assert [table.peek(member, k).outcome for member in (a, b, o)] == [2, 2, 2]


def test_set_under_a_fence_that_was_given_up_is_refused_after_an_event_however_late() -> None:
    table = Table(3)
    a, b, o = table.living
    k = table.key(o)
    _, fence = miss(table, a, k)
    late = table.hold(SetFenced, sender=a, to=o)
    call = Call(table)
    a.set_fenced(k, 1, fence, call)
    table.pass_time(0.3)
    assert call.outcome.outcome == UNAVAILABLE
    assert a.peer.counters.unavailable == 1
    table.invalidate(b, k)
    late.stop()
    late.deliver()
    table.settle()
    assert table.peek(b, k).outcome is MISSING


def test_maker_of_a_page_has_applied_what_the_owner_has() -> None:
    """What must not happen:

    1. One event covers a page and its part. O has applied it, and R has not.
    2. R misses the page, and gets a fence.
    3. R makes the page of its near copy of the old part.

    So R gets its fence once it has applied the event.
    """
    table = Table(3)
    w, r, o = table.living
    page, part = table.key(o), table.key(w)
    table.fill(r, part, 1)
    events = table.hold(Event, Replayed, sender=w, to=r)
    table.invalidate(w, [page, part], patience=0.0)  # type: ignore[arg-type]
    seen: list[tuple[object, Fence]] = []
    r.get_fenced(page, lambda value, fence: seen.append((value, fence)))
    table.settle()
    assert seen == []
    assert r.cached(part) == 1
    events.stop()
    events.deliver()
    table.settle()
    assert [value for value, _ in seen] == [MISSING]
    assert r.cached(part) is MISSING
    assert store(table, r, page, 2, seen[0][1]).outcome == DONE


def test_fence_of_an_owner_that_is_ahead_for_too_long_is_none() -> None:
    table = Table(3)
    w, r, o = table.living
    k = table.key(o)
    table.hold(Event, Replayed, sender=w, to=r)
    table.invalidate(w, k, patience=0.0)
    seen: list[Fence] = []
    r.get_fenced(k, lambda value, fence: seen.append(fence))
    table.pass_time(0.3)
    assert [fence.number for fence in seen] == [NO_FENCE]
    assert not table.knows(r, o).unresponsive, "it has answered"
    assert len(r.peer._engine.requests) == 0


def test_owner_that_is_behind_gives_no_fence_and_takes_no_set() -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    _, fence = miss(table, a, k)
    table.hold(Ping, sender=o)
    table.pass_time(LEASE + 0.5)
    assert not table.is_current(o)
    assert miss(table, a, k)[1].number == NO_FENCE
    assert store(table, a, k, 1, fence).outcome == REFUSED


def test_fence_is_no_good_at_another_owner() -> None:
    table = Table(3)
    a, _, o = table.living
    k = table.key(o)
    _, fence = miss(table, a, k)
    assert store(table, a, k, 1, fence._replace(owner=b"x" * 16)).outcome == UNAVAILABLE
    table.leave(o)
    table.settle()
    assert store(table, a, k, 1, fence).outcome == UNAVAILABLE


def test_call_whose_owner_leaves_ends() -> None:
    table = Table(3)
    a, _, o = table.living
    k = table.key(o)
    table.hold(GetFenced, Alter, to=o)
    fences: list[Fence] = []
    counted = Call(table)
    a.get_fenced(k, lambda value, fence: fences.append(fence))
    a.alter(k, 1, counted)
    table.leave(o)
    table.settle()
    assert fences[0].number == NO_FENCE
    assert counted.outcome.outcome == UNAVAILABLE


def test_value_found_with_a_fence_is_kept_and_may_be_replaced_once() -> None:
    table = Table(3)
    a, b, o = table.living
    k = table.key(o)
    table.set(o, k, 1)
    value, fence = miss(table, a, k)
    assert value == 1
    assert a.cached(k) == 1
    _, other = miss(table, b, k)
    assert store(table, b, k, 2, other).outcome == DONE
    assert store(table, a, k, 3, fence).outcome == REFUSED
    assert a.cached(k) is MISSING
    assert table.peek(a, k).outcome == 2


def test_writer_reads_what_it_has_set_under_a_fence_though_the_event_has_not_come_back() -> None:
    table = Table(3)
    w, r, o = table.living
    k = table.key(o)
    table.set(r, k, 1)
    table.peek(w, k)
    _, fence = miss(table, w, k)
    table.hold(Event, Replayed, sender=o)
    assert store(table, w, k, 2, fence).position == (o.member.incarnation, 2)
    assert w.cached(k) is MISSING
    assert table.peek(w, k).outcome == 2


# --- Counters


def test_counter_begins_where_it_is_told_and_counts_for_all() -> None:
    table = Table(3)
    a, b, o = table.living
    k = table.key(o)
    assert alter(table, a, k).outcome == NOTHING
    assert number(alter(table, a, k, 5, initial=10)) == 15
    assert number(alter(table, b, k, -20, initial=10)) == -5
    assert number(alter(table, o, k, 1)) == -4


def test_counter_keeps_its_expiry() -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    alter(table, a, k, initial=0, ttl=5.0)
    expires = held(o, k).expires
    table.pass_time(1.0)
    alter(table, a, k, ttl=100.0)
    assert held(o, k).expires == expires


@pytest.mark.parametrize("payload", [b"1", b"\0int", b"\0int" + bytes(MAX_BYTES + 1)])
def test_what_is_no_number_cannot_be_counted_with(payload: bytes) -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    call = Call(table)
    a.call(call, lambda ticket: a.peer.calls.set(ticket, a.wire(k), payload, EntryOptions(300.0), False, a.now()))
    table.settle()
    assert alter(table, a, k).outcome == NO_INTEGER
    assert held(o, k).payload == payload


def test_number_that_would_take_too_many_bytes_stays_as_it_is() -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    most = (1 << (8 * MAX_BYTES - 1)) - 1
    assert number(alter(table, a, k, 0, initial=most)) == most
    assert alter(table, a, k, 1).outcome == NO_INTEGER
    assert number(alter(table, a, k, -1)) == most - 1
    assert pack_integer(most + 1) is None


def test_duplicate_counts_once() -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    sent = table.hold(Alter, sender=a)
    call = Call(table)
    a.alter(k, 1, call, initial=0)
    table.settle()
    sent.stop()
    for _ in range(2):
        table.inject(o, sent.messages[0])
    assert number(call.outcome) == 1
    assert number(alter(table, o, k)) == 2


def test_counter_is_gone_for_who_has_heard_that_it_was_invalidated() -> None:
    """1. W's event reaches R, not O; 2. R counts: O applies the event first, or R would count on with what is gone."""
    table = Table(3)
    w, r, o = table.living
    k = table.key(o)
    alter(table, w, k, initial=41)
    lost = table.hold(Event, sender=w, to=o)
    table.invalidate(w, k, patience=0.0)
    lost.stop()
    assert number(alter(table, r, k, initial=0)) == 1


def test_count_drops_near_copies() -> None:
    table = Table(3)
    a, b, o = table.living
    k = table.key(o)
    table.set(a, k, 1)
    table.peek(b, k)
    call = Call(table)
    a.call(
        call,
        lambda ticket: a.peer.calls.set(ticket, a.wire(k), pack_integer(1) or b"", EntryOptions(300.0), False, a.now()),
    )
    table.settle()
    assert alter(table, a, k).position is not None
    table.settle()
    assert b.cached(k) is MISSING


def test_owner_that_is_behind_does_not_count() -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    alter(table, a, k, initial=0)
    table.hold(Ping, sender=o)
    table.pass_time(LEASE + 0.5)
    assert alter(table, a, k).outcome == UNAVAILABLE


def test_odd_answers_harm_nothing() -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    table.hold(GetFenced, Alter, sender=a)
    call = Call(table)
    a.alter(k, 1, call)
    fences: list[Fence] = []
    a.get_fenced(k, lambda value, fence: fences.append(fence))
    me, to = o.member.incarnation, a.member.incarnation
    for message in (
        Altered(me, to, 2, 0, DONE, b""), Altered(me, to, 99, 0, DONE, b""), Fenced(me, to, 1, 1, True, False, b"", 0.0,
        0.0, b"", ()), Fenced(me, to, 99, 1, True, True, b"1", 0.0, 9.0, b"", ()),
    ):  # fmt: skip
        table.inject(a, message)
    assert fences == []
    assert not call.returned
    table.inject(a, Altered(me, to, 1, 0, 77, b"odd"))
    table.inject(a, Fenced(me, to, 2, 1, True, True, b"1", math.inf, math.inf, b"", ()))
    assert call.outcome.outcome == 77
    assert fences[0].number == 1


# --- Touches


def test_touch_prolongs_and_shortens() -> None:
    table = Table(3)
    a, b, o = table.living
    k = table.key(o)
    assert alter(table, a, k, None).outcome == NOTHING
    table.set(a, k, 1)
    table.peek(b, k)
    assert alter(table, a, k, None, ttl=1000.0).position is None, "a near copy that leaves too early is fetched again"
    assert b.cached(k) == 1
    assert held(o, k).expires > o.now() + 900
    assert alter(table, a, k, None, ttl=2.0).position is not None
    table.settle()
    assert b.cached(k) is MISSING
    table.pass_time(2.5)
    assert table.peek(b, k).outcome is MISSING


# --- Catching up


def catch_up(table: Table, member: Simulated, positions: dict[bytes, int], patience: float = 0.2) -> Call:
    call = Call(table)
    member.call(call, lambda ticket: member.peer.calls.catch_up(ticket, positions, patience, member.now()))
    table.settle()
    return call


def test_who_catches_up_has_applied_the_position() -> None:
    table = Table(2)
    w, r = table.living
    k = table.key(w)
    table.fill(r, k, 1)
    lost = table.hold(Event, Replayed, sender=w, to=r)
    table.invalidate(w, k, patience=0.0)
    call = catch_up(table, r, {w.member.incarnation: w.peer.last})
    assert not call.returned
    lost.stop()
    lost.deliver()
    table.settle()
    assert call.outcome.done
    assert r.cached(k) is MISSING


def test_position_that_cannot_be_reached_is_given_up() -> None:
    table = Table(2)
    w, r = table.living
    call = catch_up(table, r, {w.member.incarnation: 99})
    table.pass_time(0.3)
    assert not call.outcome.done
    assert not catch_up(table, r, {b"x" * 16: 1}).outcome.done
    assert not catch_up(table, r, {r.member.incarnation: 1}).outcome.done
    assert not catch_up(table, r, {w.member.incarnation: 1}, patience=0.0).outcome.done
    assert catch_up(table, r, {w.member.incarnation: 0, r.member.incarnation: 0}).outcome.done
    assert len(r.peer._engine.catching_up) == 0


def test_stream_that_has_ended_is_caught_up_with() -> None:
    table = Table(3)
    w, r, _ = table.living
    table.invalidate(w, "k")
    table.leave(w)
    table.settle()
    assert catch_up(table, r, {w.member.incarnation: 1}).outcome.done


def test_receipts_of_all_that_was_announced() -> None:
    table = Table(3, Settings())
    w, *_ = table.living
    for k in "abc":
        table.invalidate(w, k, patience=0.0)
    call = Call(table)
    w.call(call, lambda ticket: w.peer.calls.await_receipt(ticket, math.inf, w.now()))
    table.settle()
    assert call.outcome.acknowledged == ("host/1", "host/2")
    assert call.outcome.complete
