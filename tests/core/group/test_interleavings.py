"""The known ways to serve what is stale, each as a story told by hand on real peers.

W writes and invalidates, R reads, O owns the key; 1 is the value before the write, 2 the one after it. Every story
ends with what must hold, and each has broken some earlier candidate of the protocol.
"""

from __future__ import annotations

import pytest

from colocache.core.entry import MISSING
from colocache.core.group.messages import (
    EVERYTHING,
    Ack,
    Event,
    Fill,
    Get,
    Goodbye,
    Load,
    Ping,
    Pong,
    Replayed,
    Reset,
    Roster,
    Set,
    Value,
    decode,
    encode,
    key_target,
    namespace_target,
    tag_target,
    unpack_positions,
)
from colocache.core.group.seam import Publish, Send, Settings
from colocache.testing.simulator import Simulated
from tests.core.group.hand import HOP, LEASE, Table, receipt_of

WAITED = LEASE * 1.01  # s; in no case does an invalidation take longer
FOREVER = 1e9


def group_of_three(settings: Settings = Settings()) -> tuple[Table, Simulated, Simulated, Simulated, str]:  # noqa: B008
    """W, R and O, and a key that O owns and R has a near copy of, with the value 1."""
    table = Table(3, settings)
    w, r, o = table.living
    k = table.key(o)
    table.fill(r, k, 1)
    assert r.cached(k) == 1
    return table, w, r, o, k


def group_of_two() -> tuple[Table, Simulated, Simulated, str]:
    """Two members, and a key that the first one owns and the second one has a near copy of."""
    table = Table(2)
    one, other = table.living
    k = table.key(one)
    table.fill(other, k, 1)
    return table, one, other, k


# --- Leases -----------------------------------------------------------------------------------------------------


def test_late_pong_counts_from_the_pings_send_time() -> None:
    """I1: an answer that is held up says nothing of what was announced since."""
    table = Table(2)
    r, o = table.living
    k = table.key(r)
    table.fill(r, k, 1)
    table.pass_time(LEASE)  # the copy is older than what may be served while behind
    pongs = table.hold(Pong, sender=o, to=r)
    table.hold(Event, sender=o, to=r)
    table.pass_time(0.5)
    pinged_at = table.time
    assert pongs.messages
    table.invalidate(o, k, patience=0.0)

    table.pass_time(LEASE / 2)
    assert r.cached(k) == 1
    pongs.deliver(0)
    assert r.peer.gate.current_until - r.offset <= pinged_at + LEASE
    table.pass_time(pinged_at + LEASE - table.time)
    pongs.deliver(*range(5))  # all of them say that no event was announced, and all are too old
    assert not table.is_current(r)
    assert r.cached(k) is MISSING


def test_pong_ahead_of_applied_extends_nothing() -> None:
    """I18: the last event is lost, and the answers to the pings go on."""
    table, w, r, _, k = group_of_three()
    table.pass_time(LEASE)
    table.hold(Event, to=r)
    replay = table.hold(Replayed, to=r)
    table.invalidate(w, k, patience=0.0)
    heard_until = table.knows(r, w).heard_until
    table.pass_time(LEASE + 0.5)
    assert table.knows(r, w).pong is not None, "answers came all the time"
    assert table.knows(r, w).heard_until == heard_until
    assert r.cached(k) is MISSING

    replay.stop()
    replay.deliver()
    assert table.is_current(r)
    assert r.cached(k) is MISSING


def test_wait_out_covers_one_percent_of_drift() -> None:
    """I17: R's clock is slow by almost 1 %, so its lease is longer than W's L; R was last answered at the call."""
    table = Table(2)
    w, r = table.living
    table.slow_down(r, 1 / 1.0099)
    k = table.key(r)
    table.fill(r, k, 1)
    table.pass_time(LEASE)
    pings = table.hold(Ping, sender=r, to=w)  # only to see when the next one is sent
    while not pings.messages:
        table.pass_time(HOP / 4)
    pings.stop()
    pings.deliver()
    table.cut(w, r)
    began = served_until = table.time
    call = table.invalidate(w, k)
    while not call.returned:
        if r.cached(k) == 1:
            served_until = table.time
        table.pass_time(HOP)
    assert served_until > began + LEASE, "so a wait of exactly L would have been too short"
    assert receipt_of(call).complete
    assert r.cached(k) is MISSING


def test_reads_on_wake_before_the_backlog_is_drained() -> None:
    """I19: R is stopped; when it wakes, its threads read before the driver's thread has looked at anything."""
    for stop, expected in ((0.8 * LEASE, 1), (1.02 * LEASE, MISSING), (5 * LEASE, MISSING)):
        table, w, r, _, k = group_of_three()
        table.pass_time(LEASE)
        seen: list[object] = []
        table.pause(r, stop, on_wake=lambda r=r, k=k, seen=seen: seen.append(r.cached(k)))  # type: ignore[misc]
        call = table.invalidate(w, k)
        table.pass_time(stop - 11 * HOP)
        assert call.returned == (expected is MISSING), "a promise that R can break must wait for R"
        table.pass_time(2 * HOP)
        assert seen == [expected]
        table.settle()
        assert call.returned
        assert r.cached(k) is MISSING


def test_age_above_L_is_caught() -> None:
    """I13: with a greater `max_stale` than L the same story must show the old value, or these tests see nothing."""

    def after_the_receipt(max_stale: float) -> object:
        table, w, r, _, k = group_of_three(Settings(max_stale=max_stale))
        table.cut(w, r)
        receipt = table.invalidate(w, k)
        table.pass_time(WAITED)
        assert receipt_of(receipt).complete
        return r.cached(k)

    assert after_the_receipt(LEASE) is MISSING
    assert after_the_receipt(3 * LEASE) == 1


# --- Who is waited for ------------------------------------------------------------------------------------------


def test_writer_cut_from_the_owner_still_waits_for_every_reader() -> None:
    """I2: W does not reach O, which everybody else does; who owns the key plays no part in who is waited for."""
    table, w, r, o, k = group_of_three()
    table.cut(w, o)
    events = table.hold(Event, sender=w, to=r)
    call = table.invalidate(w, k)
    assert r.cached(k) == 1
    events.deliver()
    assert r.cached(k) is MISSING
    read = table.read(r, k)
    table.pass_time(0.3)
    assert read.alone or read.loading, "O is not behind yet, but it may not give R the old value"
    read.load(2)
    assert r.cached(k) == 2
    table.pass_time(0.8 * LEASE)
    assert not call.returned, "O has not acknowledged"
    table.pass_time(0.2 * LEASE)
    assert receipt_of(call) == (("host/1",), ("host/2",), True, pytest.approx(WAITED, abs=0.02))
    assert o.cached(k) is MISSING


def test_invalidate_completes_while_the_owner_is_unreachable() -> None:
    """I4: W numbers its events itself, so it needs nobody to announce them."""
    table, w, r, o, k = group_of_three()
    table.cut(w, o)
    table.cut(r, o)
    call = table.invalidate(w, k)
    assert r.cached(k) is MISSING
    table.pass_time(WAITED)
    assert receipt_of(call).complete
    assert receipt_of(call).waited_out == ("host/2",)
    assert call.returned_at is not None
    assert o.cached(k) is MISSING


def test_silent_member_is_waited_out_not_skipped() -> None:
    """I12: W has not heard R for long; R serves what it loaded a moment ago, and is waited for all the same."""
    table, w, r, o, k = group_of_three()
    table.cut(w, r)
    table.pass_time(2 * LEASE)
    assert not table.is_current(r)
    table.invalidate(o, k, patience=0.0)
    table.fill(r, k, 1)
    assert r.cached(k) == 1, "loaded a moment ago"
    call = table.invalidate(w, k)
    table.pass_time(0.9 * LEASE)
    assert r.cached(k) == 1
    assert not call.returned
    table.pass_time(0.2 * LEASE)
    assert receipt_of(call).complete
    assert "host/1" in receipt_of(call).waited_out
    assert r.cached(k) is MISSING


def test_joiners_invalidate_waits_until_established() -> None:
    """I3: J takes the place of one that died, and nobody hears J yet; so J cannot promise anything."""
    table, w, r, o, k = group_of_three()
    table.kill(w)
    table.reap(w, r, o)
    frames = [table.hold(sender=r), table.hold(sender=o)]
    table.hold(Event, Replayed, to=r)
    j = table.join(0)
    call = table.invalidate(j, k)
    table.pass_time(0.9 * LEASE)
    assert not call.returned
    table.pass_time(0.2 * LEASE)
    assert not receipt_of(call).complete
    assert receipt_of(call).waited_out == ()

    # Now J is heard, but R does not get its events: from then on J's promise takes L.
    late = table.invalidate(j, k)
    for each in frames:
        each.stop()
    while not j.peer.established:
        table.pass_time(HOP)
        assert not late.returned
    established = table.time
    while not late.returned:
        table.pass_time(HOP)
        assert late.returned or r.cached(k) in (1, MISSING)
    assert receipt_of(late).complete
    assert table.time >= established + WAITED - HOP
    assert r.cached(k) is MISSING


def test_pong_of_a_member_that_knows_more_members_extends_nothing() -> None:
    """J is new, O knows it, and R does not, for all that would tell R is lost. R hears all that O says, and nothing of
    what J announces: so it must not take itself for current."""
    table, o, r, k = group_of_two()
    table.hold(Roster, sender=o, to=r)
    to_r = table.hold(to=r)
    j = table.join()
    table.cut(j, r)
    to_r.stop()
    table.pass_time(1.0)
    assert o.peer.acquaintance(j.member.incarnation) is not None
    table.invalidate(j, k, patience=0.0)
    table.pass_time(2 * LEASE)
    assert o.cached(k) is MISSING
    assert r.cached(k) is MISSING


def test_member_that_has_never_said_that_it_hears_the_writer_cannot_be_waited_out() -> None:
    """W knows R by O alone. However long W waits: R's lease says nothing of W's events while R does not count W."""
    table, w, _, k = group_of_two()
    to_w = table.hold(to=w)
    r = table.join()
    table.cut(w, r)
    to_w.stop()
    while w.peer.acquaintance(r.member.incarnation) is None:
        table.pass_time(HOP)
    call = table.invalidate(w, k)
    table.pass_time(WAITED)
    assert receipt_of(call).waited_out == ()
    assert not receipt_of(call).complete


def test_joiner_whose_only_acquaintance_leaves_before_it_is_introduced_is_not_alone() -> None:
    """1. J knows of the group by A alone. 2. A leaves before it has told J of W, or W of J. 3. W invalidates."""
    table = Table(2)
    a, w = table.living
    j = Simulated(table, 2, 1.0)
    table.members[j.member.incarnation] = j
    j.peer.meet(a.member, j.now())
    j.peer.start(j.now(), met_all=False)
    table.inject(j, Goodbye(a.member.incarnation, a.member.incarnation, 0))
    table.kill(a)
    table.reap(a, w)
    table.pass_time(LEASE)
    assert not table.is_current(j), "only a member that is alone is current by itself, and this one is not alone"
    j.peer.meet(w.member, j.now())
    j.pump()
    table.pass_time(0.3)
    assert table.is_current(j)


def test_nobody_is_introduced_by_who_is_not() -> None:
    """J2 meets J, who has met nobody: the two agree about who is there, and know nothing of W."""
    table = Table(1)
    (w,) = table.living
    j, j2 = (Simulated(table, seat, 1.0) for seat in (1, 2))
    for joiner in (j, j2):
        table.members[joiner.member.incarnation] = joiner
    j2.peer.meet(j.member, j2.now())
    for joiner in (j, j2):
        joiner.peer.start(joiner.now(), met_all=False)
        joiner.pump()
    table.pass_time(LEASE)
    assert not table.is_current(j)
    assert not table.is_current(j2)
    j.peer.meet(w.member, j.now())
    j.pump()
    table.pass_time(0.3)
    assert table.is_current(j)


def test_joiner_keeps_nothing_of_what_it_fetches_before_it_is_established() -> None:
    """J has heard nobody yet, and fetches k. It may have missed any number of events; so it goes on from where the
    streams are, and holds nothing that could be older."""
    table = Table(2)
    _, o = table.living
    j = table.join()
    pongs = table.hold(Pong, to=j)
    table.pass_time(10 * HOP)
    k = table.key(o)
    table.fill(o, k, 1)
    read = table.read(j, k)
    table.pass_time(0.5)
    assert (read.value, j.peer.established) == (1, False)
    pongs.stop()
    table.pass_time(LEASE)
    assert table.is_current(j)
    assert j.cached(k) is MISSING


# --- Fetches and loads ------------------------------------------------------------------------------------------


def test_event_overtakes_the_owners_answer() -> None:
    """I5: the bus and the links are different connections; the answer under way may be older than the event."""
    table, w, r, o, k = group_of_three()
    r.store.drop(r.wire(k))
    answers = table.hold(Value, sender=o, to=r)
    before = table.read(r, k)
    call = table.invalidate(w, k)
    assert receipt_of(call).complete
    after = table.read(r, k)
    answers.stop()
    answers.deliver()
    assert before.value == 1, "it began before the invalidation"
    assert r.cached(k) is MISSING
    assert after.loading
    after.load(2)
    assert (after.value, r.cached(k)) == (2, 2)


def test_reader_ahead_of_the_owner_refuses_its_old_value() -> None:
    """I6: R has heard the event, and O has not: O must not answer R with the old value, for R would keep it."""
    table, w, r, o, k = group_of_three()
    table.hold(Event, sender=w, to=o)
    repair = table.hold(Replayed, sender=w, to=o)
    table.invalidate(w, k, patience=0.0)
    assert r.cached(k) is MISSING
    answers = table.hold(Value, sender=o, to=r)
    read = table.read(r, k)
    assert repair.messages, "O asks W for what R has and it has not"
    repair.stop()
    repair.deliver()
    assert read.loading
    assert not read.alone
    read.load(2)
    table.settle()
    assert not answers.messages
    assert (r.cached(k), table.peek(o, k).outcome) == (2, 2)


def test_reader_ahead_of_an_owner_that_cannot_catch_up_loads_for_itself() -> None:
    """I6, where O's repair does not come either: after the fetch time-out R loads, and still takes nothing old."""
    table, w, r, o, k = group_of_three()
    table.cut(w, o)
    table.invalidate(w, k, patience=0.0)
    read = table.read(r, k)
    assert not read.loading
    table.pass_time(0.3)
    read.load(2)
    assert r.cached(k) == 2
    assert table.peek(o, k).outcome == 1, "O is not behind yet; what it serves to itself is younger than the lease"


@pytest.mark.parametrize("reaches_back", [False, True])
def test_reset_and_replay_are_dependencies_of_every_key(reaches_back: bool) -> None:
    """I7: R learns from a pong that it missed events, repairs that, and must not take the old value back from O."""
    table, w, r, o, k = group_of_three(Settings(log_events=100 if reaches_back else 2))
    lost = table.hold(Event, sender=w)
    table.hold(Pong, Replayed, Reset, sender=w, to=o)
    for key in (k, "x", "y"):
        table.invalidate(w, key, patience=0.0)
    lost.stop()
    table.pass_time(0.6)
    assert table.resets(r) == (not reaches_back)
    assert table.knows(r, w).stream.applied == 3
    assert table.knows(o, w).stream.applied == 0
    assert r.cached(k) is MISSING
    asked = table.hold(Get, to=o)
    read = table.read(r, k)
    named = unpack_positions(asked.messages[0].dependencies)
    assert named == {w.member.incarnation: 1 if reaches_back else 3}
    asked.stop()
    asked.deliver()
    table.pass_time(0.3)
    assert read.loading, "O has nothing to answer with that R may use"


def test_remembered_events_outlive_two_leases() -> None:
    """I20: O may go on for L without an event, and serve for L what it loaded before it was behind."""
    table, w, r, o, k = group_of_three()
    table.hold(Event, Replayed, Pong, sender=w, to=o)
    table.invalidate(w, k, patience=0.0)
    asked = table.hold(Get, sender=r, to=o)
    for asks in range(1, 6):
        table.pass_time(LEASE / 3)
        read = table.read(r, k)
        assert len(asked.messages) == asks
        assert unpack_positions(asked.messages[-1].dependencies) == {w.member.incarnation: 1}
        table.pass_time(0.6)
        read.load(2)
        r.store.drop(r.wire(k))
    table.pass_time(3 * LEASE)
    table.read(r, k)
    assert len(asked.messages) == 6
    assert asked.messages[-1].dependencies == b"", "what is remembered does not grow for ever"


def test_read_after_invalidate_does_not_join_the_older_load() -> None:
    """I8: A's loader has read the old value; B begins after the invalidation, in the same process or in another."""
    table, w, r, o, k = group_of_three()
    table.invalidate(w, k)
    a = table.read(r, k)
    joined = table.read(r, k)
    assert receipt_of(table.invalidate(w, k)).complete
    b, c = table.read(r, k), table.read(o, k)
    assert b.loading, "with the next token"
    a.load(1)
    table.settle()
    assert (a.value, joined.value) == (1, 1), "both began before"
    assert not b.returned
    assert not c.returned
    assert r.cached(k) is MISSING
    b.load(2)
    table.settle()
    assert (b.value, c.value, r.cached(k), o.cached(k)) == (2, 2, 2, 2)


def test_read_while_behind_does_not_join_a_load_older_than_L() -> None:
    """I9: as I8, but R did not hear the event, so nothing has marked A's load."""
    table, w, r, o, k = group_of_three()
    table.invalidate(w, k)
    a = table.read(r, k)
    for other in (w, o):
        table.cut(r, other)
    call = table.invalidate(w, k)
    table.pass_time(0.7 * LEASE)
    young = table.read(r, k)
    table.pass_time(0.4 * LEASE)
    assert receipt_of(call).complete
    assert not table.is_current(r)
    b = table.read(r, k)
    table.pass_time(0.3)
    assert b.alone or b.loading
    a.load(1)
    table.settle()
    assert (a.value, young.value) == (1, 1), "these began before the promise"
    assert not b.returned
    b.load(2)
    assert b.value == 2


def test_owner_that_is_behind_hands_no_fill_to_who_waits() -> None:
    """I9 at the owner: O waits for A's load with others, and may have missed the event that overtook it."""
    table, w, r, o, k = group_of_three()
    table.invalidate(w, k)
    a = table.read(r, k)
    table.cut(w, o)
    call = table.invalidate(w, k, patience=FOREVER)
    table.pass_time(1.1 * LEASE)
    assert receipt_of(call).complete
    assert not table.is_current(o)
    b = table.read(o, k)
    assert not b.loading, "it waits for A"
    a.load(1)
    table.settle()
    assert b.alone or b.loading
    b.load(2)
    assert b.value == 2


def test_owner_that_is_behind_answers_with_nothing_older_than_L() -> None:
    """Nor does it serve that to itself: W's promise was made after waiting for O to stop."""
    table, w, r, o, k = group_of_three()
    table.cut(w, o)
    call = table.invalidate(w, k)
    table.pass_time(WAITED)
    assert receipt_of(call).complete
    assert table.peek(o, k).outcome is MISSING
    table.pass_time(4 * LEASE)  # R has forgotten what it had to depend on
    assert table.peek(r, k).outcome is MISSING
    assert not table.is_current(o)
    read = table.read(o, k)
    assert read.loading
    read.load(2)
    assert table.peek(o, k).outcome == 2


def test_value_of_an_owner_that_is_behind_is_kept_by_nobody() -> None:
    """The group prefers values that are up to a minute old to loads. O is cut off from W, and has not heard an event
    that R has long forgotten; R is current, and must not serve as current what O serves by age."""
    table, w, r, o, k = group_of_three(Settings(max_stale=60.0))
    table.cut(w, o)
    table.pass_time(LEASE)
    assert not table.is_current(o)
    assert receipt_of(table.invalidate(w, k, patience=0.0)) is not None
    table.pass_time(5 * LEASE)
    read = table.read(r, k)
    table.settle()
    assert read.value == 1, "by age"
    assert r.cached(k) is MISSING


def test_fill_carries_only_the_value_loaded_under_its_own_token() -> None:
    """I10: R loads twice; its second token must not carry the value that its first load gave."""
    table, w, r, o, k = group_of_three()
    table.invalidate(w, k)
    fills = table.hold(Fill, sender=r, to=o)
    a = table.read(r, k)
    table.invalidate(w, k)
    b = table.read(r, k)
    a.load(1)
    table.settle()
    b.load(2)
    table.settle()
    assert [fill.payload for fill in fills.messages] == [b"1", b"2"]
    assert fills.messages[0].token != fills.messages[1].token
    fills.deliver()
    assert table.peek(o, k).outcome == 2
    assert o.peer.counters.fills_refused == 1


def test_fill_token_is_never_granted_twice() -> None:
    """I11: if a token came back, the fill of one that stalled would stand."""
    table, w, r, o, k = group_of_three()
    grants = table.hold(Load, sender=o)
    fills = table.hold(Fill, to=o)
    stalled = None
    for turn, reader in enumerate((r, w, r, w, r)):
        table.invalidate(w, k)  # the token is void
        read = table.read(reader, k)
        grants.deliver(turn)
        stalled = stalled or read
        if turn % 2:
            read.load(ValueError())  # the token is spent
    table.pass_time(30.0)  # the token lapses
    assert stalled is not None
    table.read(w, k)
    tokens = [grant.token for grant in grants.messages]
    assert len(tokens) == len(set(tokens)) == 6
    stalled.load(1)
    table.settle()
    fills.deliver()
    assert o.peer.counters.fills_refused == 1
    assert table.peek(o, k).outcome is MISSING


def test_fill_token_of_a_former_owner_is_worth_nothing_to_its_successor() -> None:
    """I11, across a restart of O: the numbers may be the same, so the fill names the owner that it is for."""
    table, w, r, o, k = group_of_three()
    table.invalidate(w, k)
    fills = table.hold(Fill, sender=r, to=o)
    table.read(r, k).load(1)
    table.settle()
    old = fills.messages[0]
    table.kill(o)
    table.reap(o, w, r)
    heir = table.join(2)
    table.pass_time(1.0)
    grants = table.hold(Load, sender=heir)
    while not grants.messages or grants.messages[-1].token < old.token:
        table.invalidate(w, k)
        table.read(r, k)
    table.inject(heir, old)
    assert heir.peer.counters.frames_ignored == 1
    assert table.peek(heir, k).outcome is MISSING
    table.inject(heir, old._replace(to=heir.member.incarnation))
    assert table.peek(heir, k).outcome == 1, "but for the name it would have stood"


def test_fill_is_refused_if_a_tag_was_invalidated_since_the_grant() -> None:
    """I23: O learns a value's tags with the fill. An event that covers one of them meanwhile overtakes the load."""
    table, w, r, o, k = group_of_three()
    table.invalidate(w, k)
    table.invalidate(w, tag_target("t"))
    a = table.read(r, k)  # says no tags, so nothing is known of them
    b = table.read(o, k)
    table.invalidate(w, tag_target("t"))
    fills = table.hold(Fill, sender=r, to=o)
    a.load(1)
    table.settle()
    fill = fills.messages[0]
    table.inject(o, fill._replace(tags=("t",)))
    assert o.peer.counters.fills_refused == 1
    assert b.loading, "the next in line has the token"
    b.load(2)
    assert o.cached(k) == 2
    table.inject(o, fill._replace(tags=("u",)))
    assert o.cached(k) == 2

    # A hit before the grant is no reason.
    c = table.read(w, table.key(o), tags=("t",))
    table.invalidate(w, k)
    c = table.read(w, k, tags=("t",))
    c.load(3)
    table.settle()
    assert table.peek(o, k).outcome == 3


@pytest.mark.parametrize("target", [EVERYTHING, namespace_target(""), tag_target("t")])
def test_bulk_event_overtakes_a_load_and_a_fill_under_way(target: bytes) -> None:
    """I23: an event that names no key hits the loads of all keys that it may mean."""
    table, w, r, o, k = group_of_three()
    table.invalidate(w, k)
    fills = table.hold(Fill, sender=r, to=o)
    table.read(r, k, tags=("t",)).load(1)
    table.settle()
    fills.stop()
    a = table.read(r, f"{k}/other", tags=("t",))
    table.invalidate(w, target)
    assert r.cached(k) is MISSING
    a.load(1)
    table.settle()
    assert r.cached(f"{k}/other") is MISSING
    b = table.read(r, k, tags=("t",))
    fills.deliver()
    assert table.peek(o, k).outcome is MISSING
    assert b.loading
    b.load(2)
    table.settle()
    assert table.peek(o, k).outcome == 2


def test_age_is_counted_early() -> None:
    """I21: counted from the answer's arrival, or the fill's, a slow link or loader would let R serve beyond L."""
    table, w, r, o, k = group_of_three()
    table.invalidate(w, k)
    granted_at = table.time
    a = table.read(w, k)
    table.pass_time(1.0)
    a.load(1)
    table.settle()
    answers = table.hold(Value, sender=o, to=r)
    asked_at = table.time
    read = table.read(r, k)
    table.pass_time(0.2)
    answers.deliver()
    assert read.value == 1
    entry = r.store.find(r.wire(k), r.now())
    assert entry is not None
    # Up to a ping's interval earlier: see `colocache.core.group.reads` on what a loader makes of cached values.
    assert granted_at - LEASE / 6 - 2 * HOP <= entry.loaded_at - r.offset <= granted_at + 2 * HOP
    assert entry.loaded_at - r.offset < asked_at - 0.9

    for other in (w, o):
        table.cut(r, other)
    while table.is_current(r):
        table.pass_time(0.1)
    assert r.cached(k) is MISSING


# --- The writer -------------------------------------------------------------------------------------------------


def test_pong_never_reports_less_than_was_published() -> None:
    """I22: W answers a ping in the very moment of its call; the answer counts the event, or R would trust it."""
    _table, w, r, _, k = group_of_three()
    w.peer.calls.invalidate(1, [key_target(w.wire(k))], 0.0, w.now())
    assert len(w.journal.frames) == 1, "an event is journalled before anybody can hear of it"
    ping = Ping(r.member.incarnation, w.member.incarnation, 99, bytes(8), 0, 1, "host/1")
    w.peer.receive(encode(ping), w.now())  # before the driver's thread has published anything
    actions = w.peer.actions()
    assert [a.frame for a in actions if isinstance(a, Publish)] == w.journal.frames
    (pong,) = [decode(a.frame) for a in actions if isinstance(a, Send)][:1]
    assert isinstance(pong, Pong)
    assert pong.last == 1


def test_fetch_that_began_before_the_members_own_set_is_not_kept() -> None:
    """What must not happen:

    1. W reads k. O answers with the old value, and the answer is under way for long.
    2. W sets k at O, and the call returns. W has not heard O's event yet.
    3. The answer comes, and W keeps the old value.
    """
    table, w, _, o, k = group_of_three()
    answers, events = table.hold(Value, sender=o, to=w), table.hold(Event, sender=o, to=w)
    read = table.read(w, k)
    assert answers.messages
    assert table.set(w, k, 2).outcome.kept
    answers.deliver()
    assert read.value == 1
    assert events.messages, "nothing but the set itself told W"
    assert w.cached(k) is MISSING


def test_own_copy_is_gone_before_invalidate_returns() -> None:
    """I24: in W's own process nothing waits for a message to come back."""
    table, w, r, o, k = group_of_three()
    table.read(w, k)
    for member in (w, o):
        assert table.read(member, k).value == 1
        assert member.cached(k) == 1
        member.peer.calls.invalidate(1, [key_target(member.wire(k))], FOREVER, member.now())
        assert member.cached(k) is MISSING, "before a frame was sent"
        read = table.read(member, k)
        assert read.loading
        read.load(1)
        table.settle()
    assert r.cached(k) is MISSING


# --- The end of a stream ----------------------------------------------------------------------------------------
# W's last event is lost on the way to R, W is killed, and no later event of W's will ever show R the gap.


def last_words(settings: Settings = Settings()) -> tuple[Table, Simulated, Simulated, Simulated, str, str]:  # noqa: B008
    """W invalidates without waiting, and dies; R has not heard it, and O has. R has a second key."""
    table, w, r, o, k = group_of_three(settings)
    spare = table.key(r)
    table.fill(r, spare, 7)
    table.hold(Event, sender=w, to=r)
    receipt = receipt_of(table.invalidate(w, k, patience=0.0))
    assert not receipt.complete
    table.kill(w)
    assert r.cached(k) == 1
    assert table.is_current(r)
    return table, w, r, o, k, spare


def test_crash_of_a_member_whose_last_event_was_lost() -> None:
    """I14 (a), (e): O's kernel says that W has left; R hears it, and then reads W's journal itself.

    Only O applied the event, and R does not ask O for it: who knows the dead one's seat can read its log.
    """
    table, w, r, o, k, spare = last_words()
    table.reap(w, o)
    table.reap(w, r)
    assert (r.cached(k), r.cached(spare)) == (MISSING, 7)
    assert (table.resets(r), table.resets(o)) == (0, 0), "both could get to W's last number"
    assert table.is_current(r)
    assert table.is_current(o)


@pytest.mark.parametrize("lost", [Goodbye, Roster])
def test_crash_that_only_a_host_mate_noticed(lost: type) -> None:
    """I14 (a), where R's own kernel says nothing: "left, last = 1" must do, or O's roster that says so later."""
    table, w, r, o, k, spare = last_words()
    table.hold(lost, sender=o, to=r)
    table.reap(w, o)
    table.pass_time(0.5 if lost is Goodbye else 0.0)
    table.pass_time(0.3)
    assert (r.cached(k), r.cached(spare)) == (MISSING, MISSING)
    assert (table.resets(r), table.resets(o)) == (1, 0)


def test_crash_that_leaves_no_readable_journal() -> None:
    """I14 (a), where nobody can know W's last number: everybody drops everything, O included."""
    table, w, r, o, k, spare = last_words()
    table.reap(w, o, r, readable=False)
    assert (r.cached(k), r.cached(spare)) == (MISSING, MISSING)
    assert table.resets(o) == 1
    read = table.read(r, k)
    assert read.loading


def test_crash_of_a_member_whose_seat_is_taken_again_at_once() -> None:
    """I14 (b): W's successor sits on the same seat, and its stream starts at 1; that does not continue W's."""
    table, w, r, o, k, spare = last_words()
    j = table.join(0)
    table.pass_time(0.6)
    table.invalidate(j, spare, patience=0.0)
    assert r.cached(spare) is MISSING
    assert table.knows(r, j).stream.applied == 1
    assert table.knows(r, w).stream.applied == 0
    table.pass_time(LEASE)
    assert r.cached(k) is MISSING, "R does not hear W, which counts until it is known to be dead"
    table.reap(w, r, o, j)
    assert table.is_current(r)
    assert r.cached(k) is MISSING


def test_crash_that_no_kernel_tells_of() -> None:
    """I14 (c): W is on another host, which is gone; it is forgotten after a while, and everything is dropped.

    There are no other hosts yet. What stands in for one: no host-mate ever says that W died.
    """
    table, _, r, o, k, _ = last_words()
    table.pass_time(LEASE)
    assert r.cached(k) is MISSING
    table.pass_time(30.0)
    assert table.resets(r) == 1
    assert len(r.store) == 0
    assert table.is_current(r)
    assert table.is_current(o)


def test_crash_of_which_the_owner_has_not_heard_yet() -> None:
    """I14 (d): R drops rightly, and asks O, which knows neither the event nor W's end: it must not answer with 1."""
    table, w, r, o, k = group_of_three()
    table.hold(Event, sender=w)
    table.hold(Goodbye, to=o)
    table.invalidate(w, k, patience=0.0)
    table.kill(w)
    table.reap(w, r, readable=False)
    assert r.cached(k) is MISSING
    read = table.read(r, k)
    table.pass_time(0.3)
    assert not read.returned
    read.load(2)
    assert r.cached(k) in (2, MISSING)
    late = table.read(r, k)
    assert late.value in (2, None)


def test_clean_goodbye_drops_nothing() -> None:
    """I14 (f): the goodbye carries the last number, and everybody has applied it."""
    table, w, r, o, k = group_of_three()
    spare = table.key(r)
    table.fill(r, spare, 7)
    table.invalidate(w, k)
    table.leave(w)
    table.settle()
    assert r.peer.has_ended(w.member.incarnation)
    assert (r.cached(k), r.cached(spare)) == (MISSING, 7)
    assert [table.resets(member) for member in (r, o)] == [0, 0]
    assert all(table.is_current(member) for member in (r, o))


def test_goodbye_that_overtakes_the_last_event() -> None:
    """I14 (f), where the last event comes after the goodbye, by the other channel: nothing need be dropped either."""
    table, w, r, _, k, spare = last_words()
    w.alive = True
    table.held.clear()
    events = table.hold(Event, sender=w)
    table.invalidate(w, k, patience=0.0)
    table.leave(w)
    table.settle()
    table.inject(r, events.messages[0]._replace(number=1), bus=True)
    events.deliver()
    assert (r.cached(k), r.cached(spare)) == (MISSING, 7)
    assert table.resets(r) == 0
    assert r.peer.has_ended(w.member.incarnation)


def test_forgetting_a_member_ends_its_stream_with_a_reset() -> None:
    """I15: behind for W, R kept its copies without serving them; current again without W, it must not serve them."""
    table, w, r, o, k = group_of_three()
    for other in (r, o):
        table.cut(w, other)
    table.invalidate(w, k, patience=0.0)
    table.pass_time(29.0)
    assert not table.is_current(r)
    assert len(r.store) == 1
    assert r.cached(k) is MISSING
    table.pass_time(3.0)
    assert table.is_current(r)
    assert table.resets(r) == 1
    assert r.cached(k) is MISSING
    assert table.peek(o, k).outcome is MISSING


def test_events_of_an_older_incarnation_are_ignored() -> None:
    """I16: what W said before it died arrives when its successor is known."""
    table, w, r, o, k = group_of_three()
    delayed = table.hold(Event, Pong, Ack, sender=w, to=r)
    table.invalidate(r, "x", patience=0.0)
    table.invalidate(w, k, patience=0.0)
    table.pass_time(0.6)
    assert {type(message) for message in delayed.messages} == {Event, Pong, Ack}
    table.kill(w)
    table.reap(w, r, o)
    j = table.join(0)
    table.pass_time(0.6)
    table.fill(r, k, 2)
    table.hold(Event, sender=r, to=j)
    call = table.invalidate(r, "x")
    before = (r.peer.gate.current_until, table.knows(r, j).stream.applied, table.knows(r, j).acked)
    ignored = r.peer.counters.frames_ignored
    for to, frame, bus in delayed._frames:
        to.peer.receive(frame, to.now(), bus=bus)
    assert r.peer.counters.frames_ignored == ignored + len(delayed.messages)
    assert before == (r.peer.gate.current_until, table.knows(r, j).stream.applied, table.knows(r, j).acked)
    assert r.cached(k) == 2
    assert not call.returned


def test_page_is_not_built_from_a_part_that_its_owner_knows_to_be_old() -> None:
    """One event hits a page and a part of it: with the permission to load comes what must be applied before.

    1. The owner of the page has applied the event; R has not heard it. 2. R is given the token for the page, and its
    loader reads the part, of which R has a near copy: the old one. 3. The token stands.
    """
    table = Table(3)
    w, r, o = table.living
    page, part = table.key(o), table.key(w)
    table.fill(r, part, 1)
    assert r.cached(part) == 1
    table.hold(Event, sender=w, to=r)
    repair = table.hold(Replayed, sender=w, to=r)
    both = [key_target(w.wire(part)), key_target(w.wire(page))]
    w.call(lambda _: None, lambda ticket: w.peer.calls.invalidate(ticket, both, 0.0, w.now()))
    table.settle()
    read = table.read(r, page)
    assert r.cached(part) == 1, "R has not heard the event"
    assert not read.loading
    repair.stop()
    repair.deliver()
    assert read.loading
    assert r.cached(part) is MISSING


def test_reader_that_cannot_catch_up_with_the_owner_loads_for_itself_and_gives_the_token_back() -> None:
    """As before, but the replay does not come: what R loads then is not filled in."""
    table = Table(3)
    w, r, o = table.living
    page = table.key(o)
    table.cut(w, r)
    table.invalidate(w, page, patience=0.0)
    read = table.read(r, page)
    fills = table.hold(Fill, sender=r)
    table.pass_time(0.3)
    read.load(1)
    table.settle()
    assert not fills.messages
    assert table.read(o, page).loading, "the token is free again"


def test_page_made_of_a_part_while_current_is_served_no_longer_than_the_part() -> None:
    """1. W invalidates a part and the page made of it; R does not hear of it, and is current for a while yet. 2. R
    loads the page, of its near copy of the part. 3. W has waited R out. R would serve the page by its own age."""
    table, w, r, o, part = group_of_three()
    page = next(k for k in ("p1", "p2", "p3", "p4", "p5") if r.peer.owner_of(r.wire(k)) != r.member.incarnation)
    for other in (w, o):
        table.cut(r, other)
    call = table.invalidate(w, part)
    table.invalidate(w, page)
    table.pass_time(0.5 * LEASE)
    assert table.is_current(r)
    read = table.read(r, page)
    table.pass_time(0.3)
    assert read.loading
    read.load(r.cached(part, read.loader))
    assert (read.value, r.cached(page)) == (1, 1)
    table.pass_time(0.5 * LEASE)
    assert receipt_of(call).complete
    assert r.cached(page) is MISSING


def test_page_made_of_a_part_while_behind_is_served_no_longer_than_the_part() -> None:
    """1. R is behind, and serves a part by its age, which W has invalidated since. 2. R makes a page of it. 3. W has
    waited R out. R would serve the page by its own age."""
    table, w, r, o, part = group_of_three()
    for other in (w, o):
        table.cut(r, other)
    table.pass_time(2 * LEASE)
    read = table.read(r, part)
    table.pass_time(0.3)
    read.load(1)
    call = table.invalidate(w, part)
    table.pass_time(0.7 * LEASE)
    read = table.read(r, "page")
    table.pass_time(0.3)
    read.load(r.cached(part, read.loader))
    assert (read.value, r.cached("page")) == (1, 1)
    table.pass_time(0.3 * LEASE)
    assert receipt_of(call).complete
    assert r.cached("page") is MISSING


def test_page_that_an_owner_is_given_is_no_younger_there_than_the_part() -> None:
    """As before; but R and the owner of the page are cut off together, and R fills the page in there."""
    table, w, r, o, _ = group_of_three()
    own = [k for k in (f"k{n}" for n in range(99)) if r.peer.owner_of(r.wire(k)) == o.member.incarnation]
    part, page = own[1], own[2]
    for one in (r, o):
        table.cut(one, w)
    table.pass_time(2 * LEASE)
    table.fill(r, part, 1)
    call = table.invalidate(w, part)
    table.pass_time(0.8 * LEASE)
    read = table.read(r, page)
    assert not read.loader.alone
    read.load(r.cached(part, read.loader))
    table.settle()
    assert table.serves(o, page)
    table.pass_time(0.2 * LEASE)
    assert receipt_of(call).complete
    assert not table.serves(o, page)


def test_token_granted_by_a_reset_names_the_reset() -> None:
    """1. R waits at O for somebody's load of a page. 2. O finds that it has missed events which the log holds no more:
    it drops everything, and R is next to load. 3. R, which has missed them, too, must not load before it has them: its
    loader would read its near copies of old parts."""
    table = Table(4, Settings(log_events=1))
    w, r, o, a = table.living
    page = table.key(o)
    table.read(a, page)
    table.read(r, page)
    for member in (o, r):
        table.hold(Event, to=member)
    loads = table.hold(Load, sender=o, to=r)
    for _ in range(3):
        table.invalidate(w, page, patience=0.0)
    table.read(w, page)
    assert table.resets(o) == 1
    (load,) = loads.messages
    assert unpack_positions(load.dependencies)[w.member.incarnation] == 3


def test_set_that_was_given_up_is_not_kept_once_its_call_has_returned() -> None:
    """1. W's set is long under way. W gives it up, and announces that the key has changed; O has not heard that yet.
    2. If W's call returned now, somebody else could set the key, 3. and then W's set would arrive, and be kept."""
    table = Table(2)
    w, o = table.living
    k = table.key(o)
    late, events = table.hold(Set, sender=w), table.hold(Event, sender=w, to=o)
    call = table.set(w, k, 1)
    table.pass_time(0.3)
    assert len(w.journal.frames) == 1, "it was given up"
    assert not call.returned
    events.stop()
    events.deliver()
    assert call.returned
    assert not call.outcome.kept
    late.deliver()
    assert o.store.find(o.wire(k), o.now()) is None


def test_reader_waits_no_longer_than_its_patience_for_a_loader_of_its_own_process_that_hangs() -> None:
    """The owner lets a token lapse; but nobody else tells a reader that shares the fetch of the one who loads."""
    table = Table(2)
    r, o = table.living
    hung, waiting = table.read(r, table.key(o)), table.read(r, table.key(o))
    assert hung.loading
    assert not waiting.loading
    table.pass_time(10.1)  # what `Simulated.read` is patient for
    assert waiting.loading
    waiting.load(1)
    assert waiting.value == 1


# --- Loads whose callers are cancelled --------------------------------------------------------------------------


def test_load_goes_on_without_its_caller_while_another_process_waits() -> None:
    """1. A load takes 5 s, and its caller waits for 1 s; 2. another process waits for it; 3. it must not begin anew."""
    table = Table(3)
    a, b, o = table.living
    k = table.key(o)
    first, waiting = table.read(a, k), table.read(b, k)
    first.cancel()
    table.settle()
    assert not waiting.loading
    first.load(1)
    table.settle()
    assert (waiting.value, first.returned, a.cached(k), table.read(o, k).value) == (1, False, 1, 1)


def test_load_whose_caller_was_the_only_one_ends_with_it() -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    only = table.read(a, k)
    only.cancel()
    table.settle()
    assert not only.loading
    assert table.read(o, k).loading


def test_another_load_is_begun_beside_one_without_a_caller() -> None:
    """1. A load takes 5 s, where 0.4 s is usual; 2. its caller is cancelled; 3. who waits must not wait for 5 s."""
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    slow, other, usual = table.read(a, k), table.read(a, k), table.read(a, k)
    slow.cancel()
    table.settle()
    assert [other.loading, usual.loading] == [False, True], "who will wait longest"
    usual.load(1)
    table.settle()
    assert (other.value, table.read(o, k).value) == (1, 1)
    slow.load(1)
    table.settle()
    assert a.cached(k) == 1


def test_event_voids_both_of_two_loads_beside_each_other() -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    slow, usual = table.read(a, k), table.read(a, k)
    slow.cancel()
    table.settle()
    table.invalidate(o, k)
    table.settle()
    for load in (usual, slow):
        load.load(1)
        table.settle()
        assert a.cached(k) is MISSING
    assert usual.value == 1
    assert table.read(o, k).loading


def test_load_beside_another_one_that_an_event_has_overtaken_is_overtaken_with_it() -> None:
    """1. A load reads the old value; 2. an event; 3. its caller is cancelled, and another load is begun beside it."""
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    slow, usual, other = table.read(a, k), table.read(a, k), table.read(a, k)
    table.invalidate(o, k)
    table.settle()
    slow.cancel()
    table.settle()
    assert [usual.loading, other.loading] == [False, True]
    slow.load(1)
    table.settle()
    assert usual.value == 1, "its read began before the event"
    assert a.cached(k) is MISSING
    assert table.read(a, k).loading


def test_loads_are_not_begun_beside_each_other_without_end() -> None:
    """1. Every load takes 5 s, and every caller waits for 1 s; 2. with one more for each, the source gets no rest."""
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    reads = [table.read(a, k) for _ in range(5)]
    for number in (0, 4, 1):
        reads[number].cancel()
        table.settle()
    assert [read.loading for read in reads] == [True, False, False, False, True]
    reads[0].load(1)
    table.settle()
    assert [read.value for read in reads] == [None, None, 1, 1, None]


def test_loads_that_are_given_up_in_process_after_process_are_bounded() -> None:
    """1. A loader ends with its caller, as in a greenlet; 2. the next process loads, and so on; 3. nobody is served."""
    table = Table(5)
    o = table.living[-1]
    k = table.key(o)
    reads = [table.read(member, k) for member in table.living]
    for _ in range(2):
        (loading,) = (read for read in reads if read.loading)
        loading.cancel(ends_loader=True)
        table.settle()
    assert sum(read.loading for read in reads) == 3, "all who wait load at once"


def test_loads_that_are_given_up_by_reader_after_reader_are_bounded() -> None:
    table = Table(2)
    a, o = table.living
    k = table.key(o)
    reads = [table.read(a, k) for _ in range(5)]
    for _ in range(2):
        (loading,) = (read for read in reads if read.loading)
        loading.cancel(ends_loader=True)
        table.settle()
    assert [read.alone for read in reads if read.loading] == [True] * 3
