"""Whole members together, on a table: joining, leaving, stops, odd frames, and the calls from one end to the other."""

from __future__ import annotations

import math
from typing import Any

import pytest

from colocache.core.entry import MISSING
from colocache.core.group.members import Member
from colocache.core.group.messages import (
    EVERYTHING,
    MAX_BUS,
    MAX_LINK,
    NO_NUMBER,
    Ack,
    Alone,
    Alter,
    Altered,
    Event,
    Fenced,
    Get,
    GetFenced,
    Goodbye,
    Load,
    Message,
    Peeked,
    Ping,
    Pong,
    Replay,
    Replayed,
    Reset,
    Roster,
    Set,
    SetFenced,
    SetReceipt,
    Stored,
    Value,
    Wait,
    encode,
    key_target,
    namespace_target,
    pack_positions,
    pack_record,
    tag_target,
)
from colocache.core.group.messages import Record as FoundRecord
from colocache.core.group.outcomes import Written
from colocache.core.group.seam import Settings
from colocache.core.numbers import pack_integer
from colocache.testing.simulator import Simulated
from tests.core.group.hand import HOP, LEASE, Table, receipt_of

STRANGER = Member(b"s" * 16, "host/9", 9)
FORGET = Settings().forget_after


def agree(table: Table) -> bool:
    """Whether everybody knows everybody, and is current."""
    everybody = {member.member for member in table.living}
    return all(
        {other for other, _, _ in member.peer.members()} == everybody - {member.member} and table.is_current(member)
        for member in table.living
    )


# --- Frames


@pytest.mark.parametrize("bus", [True, False])
@pytest.mark.parametrize("frame", [b"", b"\x01", b"\x01\x91\x63", b"\x02" + encode(Ack(b"a" * 16, b"b" * 16, 1))[1:]])
def test_frames_that_do_not_parse_are_counted(frame: bytes, bus: bool) -> None:
    table = Table(1)
    (a,) = table.living
    assert a.peer.receive(frame, a.now(), bus=bus) is None
    assert a.peer.counters.frames_refused == 1


def test_events_come_by_the_bus_and_all_else_by_links() -> None:
    table = Table(2)
    a, b = table.living
    me, to = b.member.incarnation, a.member.incarnation
    table.inject(a, Event(me, 1, (EVERYTHING,)))
    table.inject(a, Ack(me, to, 1), bus=True)
    assert a.peer.counters.frames_refused == 2
    assert table.knows(a, b).stream.applied == 0
    table.inject(a, Event(me, 1, (EVERYTHING,)), bus=True)
    assert table.knows(a, b).stream.applied == 1


def messages_from(sender: bytes, to: bytes) -> list[Message]:
    """One message of each kind that says something of consequence."""
    me, key = (sender, to), b"\0k"
    return [
        Event(sender, 1, (EVERYTHING,)), Goodbye(sender, to, 1), Pong(*me, 1, bytes(8), 9, ()),
        Roster(*me, ((b"x" * 16, "host/7", 1, -1, 0.0),)), Ack(*me, 9), Replay(*me, to, 1), Replayed(*me, sender, ()),
        Reset(*me, sender, 9), Get(*me, 1, key, 9.0, b""), Value(*me, 1, b"9", 0.0, 9.0, True, ()), Load(*me, 1, 1),
        Wait(*me, 1), Alone(*me, 1), Set(*me, 1, key, b"9", 9.0, False, 0, ()), Stored(*me, 1, 1, True),
        SetReceipt(*me, 1, True, 0.0, 0, ()), Peeked(*me, 1, True, False, ()), GetFenced(*me, 1, key, 9.0, b""),
        Fenced(*me, 1, 0, True, True, b"9", 0.0, 9.0, b"", ()), SetFenced(*me, 2, key, b"9", 9.0, 0, ()),
        Alter(*me, 3, key, False, 1, pack_integer(1), 9.0, 9.0, b"", ()), Altered(*me, 1, 1, 0, b""),
    ]  # fmt: skip


def test_frames_of_unknown_senders_are_ignored() -> None:
    table = Table(1)
    (a,) = table.living
    messages = messages_from(STRANGER.incarnation, a.member.incarnation)
    for message in messages:
        assert a.peer.receive(encode(message), a.now(), bus=isinstance(message, Event)) is None
    assert a.peer.counters.frames_ignored == len(messages)
    assert a.peer.actions() == []
    assert a.peer.members() == []


def test_frames_for_another_incarnation_are_ignored() -> None:
    """A successor may sit at the same address; what was meant for its predecessor is nothing to it."""
    table = Table(2)
    a, b = table.living
    messages = [m for m in messages_from(b.member.incarnation, b"p" * 16) if not isinstance(m, Event | Goodbye)]
    messages.append(Ping(b.member.incarnation, b"p" * 16, 1, bytes(8), 9, 1, "host/1"))
    for message in messages:
        assert a.peer.receive(encode(message), a.now()) is None
    assert a.peer.counters.frames_ignored == len(messages)
    assert a.peer.actions() == []


def test_member_speaks_for_its_own_stream_alone() -> None:
    """Otherwise one confused member could make another's events count as applied that nobody has seen."""
    table = Table(3)
    a, b, c = table.living
    me, to, stream = b.member.incarnation, a.member.incarnation, c.member.incarnation
    event = encode(Event(stream, 1, (EVERYTHING,)))
    table.inject(a, Replayed(me, to, stream, (event,)))
    table.inject(a, Reset(me, to, stream, 1000))
    table.inject(a, Replayed(me, to, me, (event, bytes(30), encode(Ack(me, to, 1)))))
    assert table.knows(a, c).stream.applied == 0
    assert table.knows(a, c).stream.known == 0
    assert a.peer.counters.frames_refused == 5
    replay = table.hold(Replayed, sender=a)
    table.inject(a, Replay(me, to, stream, 1))
    assert replay.messages == []
    assert a.peer.counters.frames_ignored == 1


def test_nobody_acknowledges_what_was_not_announced() -> None:
    table = Table(2)
    a, b = table.living
    table.hold(Event, Replayed, to=b)
    table.inject(a, Ack(b.member.incarnation, a.member.incarnation, NO_NUMBER))
    assert not table.invalidate(a, "k").returned


def test_odd_but_well_formed_messages_harm_nobody() -> None:
    """Huge numbers, rows of oneself and of the sender, answers to nothing: the member goes on, and its group, too."""
    table = Table(2)
    a, b = table.living
    k = table.key(b)
    table.fill(a, k, 1)
    me, to = b.member.incarnation, a.member.incarnation
    record = pack_record(FoundRecord(NO_NUMBER, b"9", 0.0, 9.0, ()))
    rows: tuple[Any, ...] = (
        (to, "host/0", 1, 5, 0.0), (to, "host/5", 1, -1, math.inf), (me, "host/0", 1, -1, 0.0),
        (b"x" * 16, "host/0", NO_NUMBER, NO_NUMBER, math.inf), (b"x" * 16, "host/0", 1, -1, 0.0),
    )  # fmt: skip
    for message in (
        *messages_from(me, to)[2:],
        Roster(me, to, rows), Roster(me, to, rows[:2]),
        Pong(me, to, NO_NUMBER, bytes(8), 0, ((to, math.inf), (me, 0.0))),
        Replay(me, to, to, 0), Replay(me, to, to, NO_NUMBER), Peeked(me, to, NO_NUMBER, True, True, (record, b"")),
        SetReceipt(me, to, 1, True, math.inf, NO_NUMBER, ("host/1",)), Stored(me, to, NO_NUMBER, NO_NUMBER, True),
        Get(me, to, NO_NUMBER, b"\0k", math.inf, pack_positions({b"y" * 16: NO_NUMBER, to: NO_NUMBER})),
        Value(me, to, NO_NUMBER, b"", math.inf, math.inf, True, ("t",)), Goodbye(me, b"z" * 16, NO_NUMBER),
    ):  # fmt: skip
        a.peer.receive(encode(message), a.now())
        a.pump()
    table.settle()
    for member in table.living:
        for key in (k, table.key(a)):
            read = table.read(member, key)
            if read.loading:
                read.load(2)
            table.settle()
            assert read.returned
    table.pass_time(2 * LEASE)
    call = table.invalidate(a, k)
    table.pass_time(2 * LEASE)
    assert call.returned


def test_roster_that_names_its_own_sender_as_ended_ends_it() -> None:
    table = Table(2)
    a, b = table.living
    row = (*b.member, 0, 0.0)
    table.inject(a, Roster(b.member.incarnation, a.member.incarnation, (row,)))
    assert a.peer.has_ended(b.member.incarnation)


# --- Joining


def test_joiner_becomes_current_and_everybody_with_it() -> None:
    table = Table(3)
    table.invalidate(table.living[0], "x")
    table.join()
    table.pass_time(0.2)
    assert agree(table)


def test_joiner_that_meets_one_member_learns_of_all() -> None:
    table = Table(3)
    _a, b, _c = table.living
    j = Simulated(table, 3, 1.0)
    table.members[j.member.incarnation] = j
    j.peer.meet(b.member, j.now())
    j.peer.start(j.now())
    j.pump()
    table.pass_time(0.3)
    assert agree(table)
    assert j.peer.stats(j.now()).members == 4


def test_joiners_reads_wait_for_it_to_be_established_and_are_kept_then() -> None:
    table = Table(2)
    a, b = table.living
    k = table.key(a)
    table.fill(a, k, 1)
    roster = table.hold(Pong, sender=b)
    j = table.join()
    for key in (k,):
        assert j.peer.owner_of(j.wire(key)) in {m.member.incarnation for m in table.living}
    read = table.read(j, "elsewhere")
    assert not read.loading
    roster.stop()
    table.pass_time(0.1)
    assert j.peer.established
    assert read.loading
    read.load(5)
    table.settle()
    assert j.cached("elsewhere") == 5


def test_joiners_reads_go_on_unkept_if_it_is_not_established_soon() -> None:
    table = Table(2)
    b = table.living[1]
    table.hold(Pong, sender=b)
    j = table.join()
    k = table.key(j)
    read = table.read(j, k)
    assert not read.loading
    table.pass_time(0.25)
    assert read.loading
    other = table.read(j, k)
    read.load(5)
    table.settle()
    assert j.cached(k) is MISSING
    assert other.loading, "a joiner's readers do not share, for nothing tells what overtook a load"


def test_read_that_was_given_up_while_it_waited_for_the_joiner_asks_for_nothing() -> None:
    table = Table(2)
    frames = table.hold(Pong)
    j = table.join()
    j.peer.calls.read(99, j.wire("k"), (), 10.0, j.now())
    j.peer.calls.abandon(99, j.now())
    asked = table.hold(Get)
    frames.stop()
    table.pass_time(1.0)
    assert asked.messages == []


def test_lone_member_is_current_as_soon_as_it_starts_and_promises_nothing_before() -> None:
    table = Table(0)
    alone = Simulated(table, 0, 1.0)
    alone.peer.calls.invalidate(1, [EVERYTHING], 0.0, alone.now())
    assert not alone.peer.outcomes()[0][1].complete
    assert not table.is_current(alone)
    alone.peer.start(alone.now())
    assert table.is_current(alone)
    alone.peer.calls.invalidate(2, [EVERYTHING], 0.0, alone.now())
    assert alone.peer.outcomes()[0][1].complete


def test_two_members_on_one_seat_for_a_moment() -> None:
    """The successor takes the seat at once; the others hear of the predecessor's death later."""
    table = Table(3)
    w, r, o = table.living
    k = table.key(w)
    table.kill(w)
    heir = table.join(0)
    table.pass_time(0.1)
    assert r.peer.owner_of(r.wire(k)) == heir.member.incarnation
    assert heir.peer.owner_of(heir.wire(k)) == heir.member.incarnation
    heir.peer.meet(w.member, heir.now())
    assert heir.peer.owner_of(heir.wire(k)) == heir.member.incarnation, "one's own seat is one's own"
    table.reap(w, r, o, heir)
    table.pass_time(0.5)
    assert agree(table)
    assert r.peer.owner_of(r.wire(k)) == heir.member.incarnation


# --- Rosters, partitions, forgetting


def test_two_halves_bring_their_rosters_together_after_a_partition() -> None:
    """Each half has gained a member and lost one meanwhile; none of it may be missed, and nothing stale survives."""
    table = Table(4)
    a, b, c, d = table.living
    keys = {member: table.key(member) for member in (a, c)}
    table.fill(c, keys[a], 1)
    table.fill(a, keys[c], 1)
    cuts = [cut for one in (a, b) for other in (c, d) for cut in table.cut(one, other)]
    late = []
    for side, away in (((a, b), (c, d)), ((c, d), (a, b))):
        new = Simulated(table, len(table.members), 1.0)
        table.members[new.member.incarnation] = new
        late.append(new)
        cuts += [cut for other in away for cut in table.cut(new, other)]
        for member in side:
            new.peer.meet(member.member, new.now())
        new.peer.start(new.now())
        new.pump()
    cuts += table.cut(*late)
    table.invalidate(a, keys[a], patience=0.0)
    table.invalidate(c, keys[c], patience=0.0)
    table.kill(b)
    table.reap(b, a, late[0])
    table.pass_time(FORGET / 3)
    assert not any(map(table.is_current, table.living))
    for cut in cuts:
        cut.stop()
    table.pass_time(0.5)
    table.reap(b, c, d, late[1])
    table.pass_time(0.6)
    assert agree(table)
    assert (c.cached(keys[a]), a.cached(keys[c])) == (MISSING, MISSING)


def test_member_that_listed_a_dead_one_is_told_though_that_was_long_ago() -> None:
    """It was cut off when the other died, and no kernel tells it: without the roster it would wait for ever."""
    table = Table(3, Settings(forget_after=math.inf))
    a, b, c = table.living
    cuts = [*table.cut(a, b), *table.cut(a, c)]
    table.leave(b)
    table.pass_time(100.0)
    for cut in cuts:
        cut.stop()
    table.pass_time(1.0)
    assert agree(table)


def test_end_of_a_stream_that_is_waited_for_makes_nobody_talk_without_end() -> None:
    # 1. A knows that C's stream is over; B is told, and waits for what it misses of it; 2. B pings A, which knows other
    # members, and sends its roster: C's stream is over; 3. were that news each time, B would ping again each time.
    table = Table(3, Settings(fetch_timeout=2.0))
    a, b, c = table.living
    table.fill(a, table.key(a), 1)
    table.read(b, table.key(a))
    table.hold(Event, to=b)
    table.invalidate(c, "another", patience=0.0)
    table.kill(c)
    pongs = table.hold(Pong, sender=a, to=b)
    table.reap(c, a)
    table.pass_time(1.0)
    assert table.knows(b, c).last_ending == 1
    assert len(pongs.messages) <= 3


def test_forgotten_member_returns_in_the_same_incarnation() -> None:
    """What it announced while nobody heard it counts when it is heard again, and it drops what it kept meanwhile."""
    table = Table(3)
    a, b, c = table.living
    k, mine = table.key(a), table.key(c)
    cuts = [*table.cut(c, a), *table.cut(c, b)]
    table.pass_time(FORGET + 1.0)
    assert {other.seat for other, _, _ in a.peer.members()} == {"host/1"}
    assert table.is_current(a)
    table.fill(a, k, 1)
    table.invalidate(c, k, patience=0.0)
    read = table.read(c, mine)
    read.load(1)
    table.settle()
    for cut in cuts:
        cut.stop()
    table.pass_time(0.6)
    c.peer.meet(a.member, c.now())  # the first to speak; it is met by everybody who hears of it
    c.pump()
    table.pass_time(1.0)
    assert agree(table)
    assert a.cached(k) is MISSING
    assert receipt_of(table.invalidate(a, mine)).complete
    assert c.cached(mine) is MISSING


def test_who_meets_a_member_is_not_current_until_it_answers() -> None:
    table = Table(1)
    (a,) = table.living
    table.settle()
    assert table.is_current(a)
    a.peer.meet(STRANGER, a.now())
    assert a.peer.stats(a.now()).members == 2
    assert not table.is_current(a), "a member is said to be current, and refuses the next set"


def test_forgotten_member_is_not_met_by_its_files_alone() -> None:
    """Its process may hang for hours, and everybody would be behind for as long."""
    table = Table(2)
    a, b = table.living
    table.pause(b, 10 * FORGET)
    table.pass_time(FORGET + 1.0)
    assert table.is_current(a)
    a.peer.meet_again(b.member, a.now())
    assert table.is_current(a)
    assert a.peer.members() == []
    table.pass_time(10 * FORGET)
    assert agree(table), "it wakes, and speaks"


def test_members_that_have_forgotten_each_other_meet_when_they_see_each_other() -> None:
    """1. A and B cannot hear each other, and forget each other. 2. They could again; but each, who sees the other's
    files, would wait for the other to speak, as if it hung: A's receipts would be complete, and B serve old values."""
    table = Table(2)
    a, b = table.living
    cut = table.cut(a, b)
    table.pass_time(FORGET + 1.0)
    assert a.peer.members() == b.peer.members() == []
    for held in cut:
        held.stop()
    for _ in range(3):
        a.peer.meet_again(b.member, a.now())
        a.pump()
        table.settle()
    assert a.peer.members() == [], "it is probed once a lease"
    table.pass_time(LEASE)
    a.peer.meet_again(b.member, a.now())
    a.pump()
    table.pass_time(0.3)
    assert agree(table)


def test_newcomers_that_have_never_heard_a_silent_member_keep_nobody_waiting_for_it() -> None:
    """1. X hangs. 2. N joins, is told of X, and has not heard it for a moment only. 3. If that counted, X would have
    been heard so lately; with a newcomer now and then, nobody would ever forget it, or be current."""
    table = Table(3)
    a, b, x = table.living
    table.hold(sender=x)
    table.pass_time(FORGET - 10.0)
    new = table.join()
    table.pass_time(1.0)
    assert table.knows(new, x).heard_at == -math.inf
    table.pass_time(12.0)
    assert all(m.peer.acquaintance(x.member.incarnation) is None for m in (a, b, new))
    assert all(table.is_current(m) for m in (a, b, new))
    last = table.join()
    table.pass_time(0.5)
    assert table.knows(last, x).heard_at == -math.inf, "its files are there, and it may live"
    table.pass_time(LEASE)
    assert all(table.is_current(m) for m in (a, b, new, last)), "but those who know say that it hangs"


def test_group_that_is_frozen_as_a_whole_comes_together_when_it_thaws() -> None:
    table = Table(3)
    a, b, c = table.living
    k = table.key(b)
    table.fill(a, k, 1)
    for member in (a, b, c):
        member.backlog.clear()
        table.pause(member, 3 * FORGET)
    table.pass_time(3 * FORGET - HOP)
    for member in (a, b, c):
        member.backlog.clear()  # the kernel's buffers have overflowed, and connections broke
    table.pass_time(1.0)
    assert agree(table)
    assert [table.resets(member) for member in (a, b, c)] == [0, 0, 0]
    assert a.cached(k) == 1


# --- Leaving, and dying


def test_member_that_lived_and_died_unseen_has_announced_all_the_same() -> None:
    table = Table(3)
    a, b, c = table.living
    k, spare = table.key(a), table.key(b)
    table.fill(a, k, 1)
    table.fill(b, spare, 7)
    frames = table.hold()
    short = table.join()
    table.invalidate(short, k, patience=0.0)
    table.kill(short)
    frames.stop()
    table.settle()
    assert a.cached(k) == 1
    table.reap(short, a)
    assert (a.cached(k), a.cached(spare)) == (MISSING, MISSING if a is b else a.cached(spare))
    assert table.resets(a) == 0
    table.reap(short, b, c)
    table.pass_time(0.6)
    assert agree(table)
    assert a.peer.has_ended(short.member.incarnation)


def test_death_is_told_once_however_many_say_so() -> None:
    table = Table(3)
    a, b, c = table.living
    table.kill(c)
    said = table.hold(Goodbye)
    table.reap(c, a, a)
    assert len(said.messages) == 2, "by the bus, and by the link"
    said.stop()
    said.deliver()
    said.deliver()
    table.reap(c, b)
    assert [table.resets(member) for member in (a, b)] == [0, 0]
    assert agree(table)


def test_goodbye_shuts_the_gate_at_once() -> None:
    table = Table(2)
    a, b = table.living
    k = table.key(a)
    table.fill(a, k, 1)
    table.leave(a)
    assert not a.peer.gate.lets(next(iter(a.homes[""].entries.values())), a.now())
    table.settle()
    assert b.peer.members() == []


def test_keys_of_a_member_that_is_gone_have_another_owner_at_once() -> None:
    table = Table(3)
    a, b, c = table.living
    k = table.key(b)
    assert a.peer.owner_of(a.wire(k)) == b.member.incarnation
    table.leave(b)
    table.settle()
    assert a.peer.owner_of(a.wire(k)) == c.peer.owner_of(c.wire(k)) != b.member.incarnation


def test_token_of_a_member_that_was_forgotten_is_passed_on() -> None:
    table = Table(2, Settings(forget_after=5.0))
    a, b = table.living
    k = table.key(a)
    assert table.read(b, k).loading
    waiting = table.read(a, k)
    table.kill(b)
    table.pass_time(6.0)
    assert waiting.loading
    waiting.load(1)
    assert table.peek(a, k).outcome == 1
    assert a.peer.owner_of(a.wire(k)) == a.member.incarnation


def test_member_is_busy_until_its_events_are_acknowledged() -> None:
    table = Table(2)
    a, b = table.living
    held = table.hold(Ack, sender=b)
    table.invalidate(a, "k", patience=0.0)
    assert a.peer.busy
    held.deliver()
    assert not a.peer.busy
    assert not Table(1).living[0].peer.busy


def test_member_that_is_given_up_for_dead_serves_and_promises_nothing() -> None:
    """Somebody deleted its files, say, and a host-mate concluded that it has left: nobody will ever hear it again."""
    table = Table(3)
    a, b, c = table.living
    k = table.key(a)
    table.fill(a, k, 1)
    told = table.hold(Goodbye, to=a)
    open_call = table.hold(Event, sender=a)
    call = table.invalidate(a, "other")
    table.reap(a, b, c, readable=False)
    assert a.cached(k) == 1
    told.stop()
    table.pass_time(0.6)  # the word was lost; its next ping is answered with it
    assert a.peer.expelled
    assert a.cached(k) is MISSING
    open_call.stop()
    late = table.invalidate(a, k)
    table.pass_time(FORGET + 2 * LEASE)
    assert not receipt_of(call).complete
    assert not receipt_of(late).complete
    read = table.read(a, k)
    table.pass_time(0.3)
    read.load(2)
    assert a.cached(k) is MISSING
    assert not a.peer.established
    assert {other.seat for other, _, _ in b.peer.members()} == {"host/2"}


# --- Streams


def test_events_that_come_out_of_order_are_applied_in_order() -> None:
    table = Table(2)
    a, b = table.living
    events = table.hold(Event, sender=a)
    replays = table.hold(Replay)
    for key in "xyz":
        table.invalidate(a, key, patience=0.0)
    applied = []
    for place in (2, 0, 0, 1):
        events.deliver(place)
        applied.append(table.knows(b, a).stream.applied)
    assert applied == [0, 1, 1, 3]
    assert len(replays.messages) == 1, "a gap is asked for at once, and not again while the answer is under way"


def test_pong_that_is_a_little_ahead_of_the_bus_asks_for_no_replay() -> None:
    table = Table(2)
    a, b = table.living
    events = table.hold(Event, sender=a)
    replays = table.hold(Replay)
    table.invalidate(a, "k", patience=0.0)
    while table.knows(b, a).pong is None:
        table.pass_time(HOP)
    events.deliver()
    table.pass_time(0.1)
    assert table.is_current(b)
    assert replays.messages == []


def test_lost_replay_is_asked_for_again() -> None:
    table = Table(2)
    a, b = table.living
    table.hold(Event, sender=a)
    lost = table.hold(Replayed)
    table.invalidate(a, "k", patience=0.0)
    table.pass_time(1.0)
    assert len(lost.messages) >= 2
    lost.stop()
    table.pass_time(0.5)
    assert table.knows(b, a).stream.applied == 1


def test_member_that_was_stopped_asks_for_what_it_missed_once() -> None:
    # Not once for every quarter of a second that it slept: each of these may be answered by the whole log.
    table = Table(2)
    a, b = table.living
    table.hold(Event, sender=a)
    lost = table.hold(Replayed)
    table.invalidate(a, "k", patience=0.0)
    table.pass_time(1.0)
    lost.stop()
    replays = table.hold(Replay)
    table.pause(b, 20.0)
    table.pass_time(20.0 + 10 * HOP)
    assert len(replays.messages) == 1
    replays.deliver()
    assert table.knows(b, a).stream.applied == 1


def test_gap_in_the_stream_of_a_member_that_leaves_is_asked_for_no_more() -> None:
    table = Table(2)
    a, b = table.living
    table.hold(Replayed)
    replays = table.hold(Replay)
    b.peer.receive(encode(Event(a.member.incarnation, 5, (EVERYTHING,))), b.now(), bus=True)
    b.pump()
    table.kill(a)
    table.reap(a, b)
    table.pass_time(1.0)
    assert len(replays.messages) == 1
    assert agree(table)


def test_reset_acknowledges_what_it_stands_for_and_its_duplicate_drops_nothing() -> None:
    table = Table(2, Settings(log_events=1))
    a, b = table.living
    lost = table.hold(Event)
    resets = table.hold(Reset)
    table.invalidate(a, "x", patience=0.0)
    call = table.invalidate(a, "y")
    lost.stop()
    table.pass_time(0.7)
    assert not call.returned
    resets.stop()
    resets.deliver(0)
    assert receipt_of(call).acknowledged == ("host/1",)
    k = table.key(b)
    table.fill(b, k, 1)
    resets.deliver(0)
    assert b.cached(k) == 1
    assert table.resets(b) == 1


def test_replay_that_is_larger_than_a_frame_comes_in_parts() -> None:
    table = Table(2)
    a, b = table.living
    lost = table.hold(Event, sender=a)
    parts = table.hold(Replayed)
    targets = [key_target(b"\0" + n.to_bytes(2, "big") + bytes(190)) for n in range(300)]
    for _ in range(25):
        a.peer.calls.invalidate(0, targets, 0.0, a.now())
    a.pump()
    lost.stop()
    table.pass_time(0.6)
    assert len(parts.messages) >= 2
    assert all(len(encode(part)) <= MAX_LINK for part in parts.messages)
    parts.stop()
    parts.deliver()
    assert table.knows(b, a).stream.applied == 25


def test_events_are_split_to_fit_the_bus() -> None:
    table = Table(2)
    a, _b = table.living
    events = table.hold(Event)
    targets = [key_target(b"\0" + n.to_bytes(2, "big") + bytes(190)) for n in range(3000)]
    call = a.peer.calls.invalidate(1, targets, 9.0, a.now())
    assert call is None
    a.pump()
    assert len(events.messages) > 3
    assert all(len(encode(event)) <= MAX_BUS for event in events.messages)


def test_acknowledgements_are_batched() -> None:
    table = Table(2)
    a, b = table.living
    acks = table.hold(Ack)
    for number in range(1, 101):
        b.peer.receive(encode(Event(a.member.incarnation, number, (b"k\0k",))), b.now(), bus=True)
    b.pump()
    assert [ack.applied for ack in acks.messages] == [100]


def test_dependency_that_the_owner_can_never_apply_is_refused() -> None:
    """On a stream that it does not know, or on an event of its own that it never announced."""
    table = Table(2)
    a, b = table.living
    me, to = b.member.incarnation, a.member.incarnation
    answers = table.hold(sender=a, to=b)
    for positions in ({STRANGER.incarnation: 1}, {to: 1}, {me: 0, STRANGER.incarnation: 0}):
        table.inject(a, Get(me, to, 1, b"\0k", 9.0, pack_positions(positions)))
        assert isinstance(answers.messages[-1], Alone)
    table.invalidate(a, "x", patience=0.0)
    table.inject(a, Get(me, to, 2, b"\0k", 9.0, pack_positions({to: 1})))
    assert isinstance(answers.messages[-1], Load)


def test_dependency_beyond_the_last_number_of_all_is_never_met() -> None:
    """A replay from beyond that number fits no message."""
    table = Table(2)
    a, b = table.living
    me, to = b.member.incarnation, a.member.incarnation
    table.inject(a, Reset(me, to, me, NO_NUMBER))
    answers = table.hold(Load, sender=a, to=b)
    table.inject(a, Get(me, to, 1, b"\0k", 9.0, pack_positions({me: NO_NUMBER + 1})))
    assert answers.messages == []


def test_dependency_on_a_stream_that_has_ended_is_met() -> None:
    table = Table(3)
    a, b, c = table.living
    me, to = b.member.incarnation, a.member.incarnation
    table.kill(c)
    table.reap(c, a, b, readable=False)
    answers = table.hold(Load, sender=a, to=b)
    table.inject(a, Get(me, to, 77, b"\0k", 9.0, pack_positions({c.member.incarnation: NO_NUMBER})))
    assert answers.messages


# --- Reads


def test_one_load_for_everybody_who_waits_in_the_group() -> None:
    table = Table(3)
    k = table.key(table.living[2])
    reads = [table.read(member, k) for member in table.living for _ in range(2)]
    assert [read.loading for read in reads] == [True] + [False] * 5
    reads[0].load(1)
    table.settle()
    assert [read.value for read in reads] == [1] * 6
    assert [member.cached(k) for member in table.living] == [1] * 3


def test_failing_loader_passes_on_and_after_two_failures_everybody_is_released() -> None:
    table = Table(4)
    k = table.key(table.living[3])
    reads = [table.read(member, k) for member in table.living]
    error = ValueError("the source is down")
    reads[0].load(error)
    table.settle()
    assert [read.loading for read in reads] == [False, False, False, True], "who will wait longest"
    reads[3].load(error)
    table.settle()
    assert [read.loading for read in reads] == [False, True, True, False]
    assert [read.value for read in (reads[0], reads[3])] == [error, error]
    reads[1].load(error)
    reads[2].load(4)
    table.settle()
    assert reads[2].value == 4


def test_token_of_a_reader_that_has_gone_is_passed_on() -> None:
    table = Table(3)
    a, b, c = table.living
    k = table.key(c)
    table.read(a, k)
    waiting = table.read(b, k)
    assert not waiting.loading
    table.kill(a)
    table.reap(a, b, c)
    assert waiting.loading


def test_token_is_not_given_to_a_reader_that_went_while_it_waited_for_events() -> None:
    """1. A asks, and depends on an event that O has not; 2. A dies; 3. the event comes; 4. B asks, and may load."""
    table = Table(4)
    w, a, b, o = table.living
    k = table.key(o)
    events = table.hold(Event, Replayed, sender=w, to=o)
    table.invalidate(w, k, patience=0.0)
    table.read(a, k)
    table.kill(a)
    table.reap(a, b, o, w)
    events.stop()
    events.deliver()
    assert table.read(b, k).loading


def test_owner_that_is_stopped_while_readers_wait_is_passed_over() -> None:
    table = Table(3)
    a, b, o = table.living
    k = table.key(o)
    table.read(a, k)
    waiting = table.read(b, k)
    table.pause(o, 20.0)
    table.pass_time(1.5)
    assert waiting.loading
    assert waiting.load(2) is None
    assert b.cached(k) == 2


@pytest.mark.parametrize("target", [EVERYTHING, namespace_target(""), tag_target("t")])
def test_bulk_event_during_a_peek(target: bytes) -> None:
    """While the answer is under way, an event covers it that names no key."""
    table = Table(3)
    w, r, o = table.living
    k = table.key(o)
    table.fill(o, k, 1, tags=("t",))
    answers = table.hold(Peeked, sender=o, to=r)
    call = table.peek(r, k)
    table.invalidate(w, target, patience=0.0)
    answers.deliver()
    assert call.outcome == 1
    assert r.cached(k) is MISSING


def test_member_is_forgotten_during_a_peek() -> None:
    """Whatever was kept or was under way before W was forgotten may be older than what W announced to others."""
    table = Table(3, Settings(fetch_timeout=1.0))
    w, r, o = table.living
    k = table.key(o)
    table.fill(o, k, 1)
    table.cut(w, r)
    table.hold(Pong, sender=o, to=r)
    table.pass_time(table.knows(r, w).heard_at + FORGET - r.now() - 0.01)
    answers = table.hold(Peeked, sender=o, to=r)
    call = table.peek(r, k)
    while table.resets(r) == 0:
        table.pass_time(HOP)
    assert not call.returned
    answers.deliver()
    assert call.outcome == 1
    assert answers.messages[0].current
    assert len(r.store) == 0


def test_reads_of_what_is_kept_ask_nobody() -> None:
    table = Table(2)
    a, b = table.living
    k = table.key(b)
    table.fill(a, k, 1)
    frames = table.hold(Get)
    assert [table.read(member, k).value for member in (a, b, a)] == [1, 1, 1]
    assert table.peek(a, k).outcome == 1
    a.peer.calls.peek(9, [a.wire(k)], a.now())
    assert a.peer.stats(a.now()).near_hits == 1
    assert frames.messages == []


def test_entry_is_not_served_beyond_its_time_and_leaves_then() -> None:
    table = Table(2)
    a, b = table.living
    k = table.key(b)
    read = table.read(a, k, ttl=5.0)
    read.load(1)
    table.pass_time(4.9)
    assert a.cached(k) == 1
    table.pause(a, 0.2)
    table.pass_time(0.15)
    assert a.cached(k) is MISSING
    table.pass_time(1.0)
    assert len(a.store) == len(b.store) == 0


# --- Writes


def test_set_is_seen_by_everybody_and_settled_by_all() -> None:
    table = Table(3)
    w, r, o = table.living
    k = table.key(o)
    table.fill(r, k, 1)
    call = table.set(w, k, 2, acknowledged=True)
    assert call.outcome.kept
    assert receipt_of(call).complete
    assert receipt_of(call).acknowledged == ("host/0", "host/1")
    assert [table.read(member, k).value for member in (w, r, o)] == [2, 2, 2]


def test_writer_reads_what_it_has_set_though_the_event_has_not_come_back() -> None:
    table = Table(3)
    w, _r, o = table.living
    k = table.key(o)
    table.fill(w, k, 1)
    table.hold(Event, Replayed, sender=o)
    call = table.set(w, k, 2)
    assert call.outcome == Written(True, None, (o.member.incarnation, 1))
    assert w.cached(k) is MISSING
    asked = table.hold(Get, sender=w)
    table.read(w, k)
    assert asked.messages[0].dependencies == pack_positions({o.member.incarnation: 1})


def test_set_that_was_given_up_is_refused_when_it_arrives_after_the_invalidation() -> None:
    table = Table(3)
    w, r, o = table.living
    k = table.key(o)
    late = table.hold(Set, sender=w, to=o)
    call = table.set(w, k, 1)
    table.pass_time(0.3)
    assert call.outcome == Written(False, None)
    assert receipt_of(table.invalidate(r, k)).complete
    late.stop()
    late.deliver()
    assert table.peek(o, k).outcome is MISSING
    assert table.read(r, k).loading


def test_set_that_was_given_up_is_refused_however_late_it_arrives() -> None:
    """When nobody remembers the writer's invalidation any more, that its stream is so much further says enough."""
    table = Table(3)
    w, _r, o = table.living
    k = table.key(o)
    late = table.hold(Set, sender=w, to=o)
    table.set(w, k, 1)
    table.pass_time(10 * LEASE)
    late.stop()
    late.deliver()
    assert table.peek(o, k).outcome is MISSING
    assert table.set(w, k, 2).outcome.kept
    assert table.peek(o, k).outcome == 2


def test_receipts_say_what_is_known() -> None:
    table = Table(3)
    w, r, _o = table.living
    assert receipt_of(table.invalidate(w, "k"))[:3] == (("host/1", "host/2"), (), True)
    assert receipt_of(table.invalidate(w, "k", patience=0.0))[:3] == ((), (), False)
    table.cut(w, r)
    impatient, patient = table.invalidate(w, "k", patience=0.5), table.invalidate(w, "k")
    table.pass_time(0.5)
    assert receipt_of(impatient)[:3] == (("host/2",), (), False)
    table.pass_time(LEASE)
    assert receipt_of(patient)[:3] == (("host/2",), ("host/1",), True)
    assert w.peer.counters.incomplete == 1


def test_lone_member_invalidates_at_once() -> None:
    table = Table(1)
    (a,) = table.living
    for patience in (0.0, 9.0):
        assert receipt_of(table.invalidate(a, "k", patience))[:3] == ((), (), True)


# --- The driver's side


def test_deadlines_come_no_later_than_a_sixth_of_the_lease() -> None:
    table = Table(2)
    for _ in range(100):
        table.pass_time(0.07)
        for member in table.living:
            assert member.now() <= member.peer.deadline() <= member.now() + LEASE / 6


def test_lone_member_whose_driver_does_not_run_stops_serving() -> None:
    table = Table(1)
    (a,) = table.living
    table.fill(a, "k", 1)
    table.pass_time(LEASE)
    table.pause(a, 100.0)
    table.pass_time(LEASE + 0.01)
    assert a.cached("k") is MISSING


def test_time_behind_is_counted() -> None:
    table = Table(2)
    a, b = table.living
    cuts = table.cut(a, b)
    table.pass_time(LEASE + 5.0)
    assert 4.0 < a.peer.stats(a.now()).seconds_behind < 6.0
    for cut in cuts:
        cut.stop()
    table.pass_time(1.0)
    behind = a.peer.stats(a.now()).seconds_behind
    table.pass_time(10.0)
    assert a.peer.stats(a.now()).seconds_behind == behind > 4.0


def test_nothing_grows_while_members_come_and_go() -> None:
    table = Table(2)
    a, b = table.living
    for turn in range(20):
        new = table.join()
        table.pass_time(0.3)
        k = table.key(new)
        table.fill(new, k, turn)
        table.read(a, k)
        table.set(new, f"s{turn}", 1)
        table.invalidate(new, k)
        (table.leave if turn % 2 else table.kill)(new)
        table.reap(new, a, b)
        table.pass_time(0.3)
    assert agree(table)
    table.pass_time(40.0)
    engine = a.peer._engine
    assert len(engine.queues) == len(engine.requests) == len(engine.fetches) == len(engine.announcements) == 0
    assert not engine.storing._newest.keys() - {b.member.incarnation}
    assert engine.timers.deadline() == math.inf
    assert not a.peer.outcomes()
