"""Leases, rosters, and who counts as a member: `Members` by itself, with its mail kept."""

from __future__ import annotations

import math
from typing import Any

import pytest

from colocache.core.group.members import MAX_MEMBERS, MAX_PINGS, TELL_ENDED, TOMBSTONE, Acquaintance, Member, Members
from colocache.core.group.messages import MAX_SEAT, MAX_STREAMS, NO_NUMBER, Ping, Pong, Roster, decode, encode

LEASE, FORGET = 3.0, 30.0
ME, A, B, C, X = (Member(bytes([n]) * 16, f"host/{n}", n) for n in range(5))


class Group(Members):
    """One member's view, from its seat host/0."""

    def __init__(self, *others: Member, me: Member = ME, forget_after: float = FORGET) -> None:
        self.mail: list[Any] = []
        super().__init__(me, LEASE, forget_after, self.mail.append)
        for other in others:
            known = self.learn(other, 0.0)
            assert known is not None
            known.heard_at = 0.0

    def sent(self, kind: type[Any]) -> list[Any]:
        """Return what was sent of a kind."""
        return [message for message in self.mail if isinstance(message, kind)]

    def of(self, member: Member) -> Acquaintance:
        """Return what is known of a member."""
        known = self.get(member.incarnation)
        assert known is not None
        return known

    def pinged(self, member: Member, now: float) -> Ping:
        """Ping a member."""
        self.ping(self.of(member), now)
        ping = self.mail[-1]
        assert isinstance(ping, Ping)
        return ping

    def answer(self, ping: Ping, last: int = 0, digest: bytes | None = None, silent: tuple[Any, ...] = ()) -> Pong:
        """Return the pong of a member that knows the same members."""
        return Pong(ping.to, ME.incarnation, ping.id, ping.digest if digest is None else digest, last, silent)

    def hear(self, member: Member, now: float) -> None:
        """Ping a member, and be answered at once."""
        assert self.hear_pong(self.answer(self.pinged(member, now)), now)

    def roster(self, *rows: tuple[Member, int, float]) -> Roster:
        """Return a roster as A sends it."""
        return Roster(A.incarnation, ME.incarnation, tuple((*member, last, silence) for member, last, silence in rows))


def listed(roster: Roster) -> set[Member]:
    """The members that a roster names."""
    return {Member(incarnation, seat, pid) for incarnation, seat, pid, *_ in roster.rows}


# --- Leases


def test_lease_counts_from_the_pings_send_time() -> None:
    group = Group(A)
    ping = group.pinged(A, 10.0)
    assert group.hear_pong(group.answer(ping), 12.0)
    assert group.of(A).heard_until == group.current_until() == 10.0 + LEASE


def test_late_answer_takes_nothing_away() -> None:
    group = Group(A)
    early = group.pinged(A, 10.0)
    group.hear(A, 11.0)
    group.hear_pong(group.answer(early), 11.5)
    assert group.of(A).heard_until == 11.0 + LEASE


def test_answer_counts_once_and_only_to_a_question() -> None:
    group = Group(A)
    ping = group.pinged(A, 10.0)
    assert not group.hear_pong(group.answer(ping._replace(id=77)), 10.0)
    assert group.hear_pong(group.answer(ping), 10.0)
    group.of(A).heard_until = -math.inf
    assert not group.hear_pong(group.answer(ping), 10.0)
    assert not group.hear_pong(Pong(B.incarnation, ME.incarnation, ping.id, ping.digest, 0, ()), 10.0)
    assert group.current_until() == -math.inf


def test_answer_that_is_ahead_of_what_is_applied_waits_for_it() -> None:
    group = Group(A)
    a = group.of(A)
    assert group.hear_pong(group.answer(group.pinged(A, 10.0), last=2), 10.1)
    assert a.heard_until == -math.inf
    assert a.stream.behind
    a.stream.applied = 1
    group.extend(a)
    assert a.heard_until == -math.inf
    a.stream.applied = 2
    group.extend(a)
    assert a.heard_until == 10.0 + LEASE
    a.heard_until = -math.inf
    group.extend(a)
    assert a.heard_until == -math.inf, "each answer extends the lease once"


def test_newest_answer_counts_in_whatever_order_they_come() -> None:
    group = Group(A)
    a = group.of(A)
    old, new = group.pinged(A, 10.0), group.pinged(A, 11.0)
    group.hear_pong(group.answer(new, last=5), 11.1)
    group.hear_pong(group.answer(old, last=3), 11.2)
    assert a.stream.known == 5
    a.stream.applied = 3
    group.extend(a)
    assert a.heard_until == -math.inf
    a.stream.applied = 5
    group.extend(a)
    assert a.heard_until == 11.0 + LEASE


def test_answer_of_one_who_knows_other_members_extends_nothing() -> None:
    group = Group(A, B)
    ping = group.pinged(A, 10.0)
    assert not group.hear_pong(group.answer(ping, digest=bytes(8)), 10.0)
    assert group.of(A).heard_until == -math.inf
    assert not group.of(A).met
    assert group.of(A).heard_at == 10.0, "it is a sign of life all the same"


def test_what_is_known_of_a_stream_counts_though_the_members_differ() -> None:
    group = Group(A)
    group.hear_pong(group.answer(group.pinged(A, 1.0), last=4, digest=bytes(8)), 1.0)
    assert group.of(A).stream.known == 4


def test_member_is_current_until_the_first_lease_ends() -> None:
    group = Group(A, B)
    group.hear(A, 10.0)
    assert group.current_until() == -math.inf
    group.hear(B, 11.0)
    assert group.current_until() == 10.0 + LEASE


def test_lone_member_is_current_for_a_lease_after_its_own_tick() -> None:
    group = Group()
    assert group.current_until() == -math.inf
    group.tick(10.0, hurry=False)
    assert group.current_until() == 10.0 + LEASE
    assert group.deadline() < 10.0 + LEASE


def test_equal_views_have_equal_digests_whatever_their_order() -> None:
    mine, theirs = Group(A, B), Group(B, ME, me=A)
    assert mine.pinged(A, 0.0).digest == theirs.pinged(ME, 0.0).digest
    theirs.forget(B.incarnation, 0.0)
    assert mine.pinged(A, 0.0).digest != theirs.pinged(ME, 0.0).digest


# --- Pings


def test_every_member_is_pinged_six_times_in_a_lease() -> None:
    group = Group(A, B)
    now = 0.0
    while now < 10.0:
        group.tick(now, hurry=False)
        now = group.deadline()
    assert len(group.sent(Ping)) == 2 * 20


def test_large_groups_ping_less_often_but_within_the_lease() -> None:
    many = [Member(n.to_bytes(16, "big"), f"host/{n}", n) for n in range(1000, 1600)]
    assert Group(*many[:10]).interval() == LEASE / 6
    assert Group(*many[:15]).interval() == pytest.approx(0.75)
    assert Group(*many).interval() == LEASE / 3


def test_member_that_is_not_heard_is_pinged_in_a_hurry_while_it_shows_signs_of_life() -> None:
    group = Group(A)
    group.tick(0.0, hurry=True)
    assert group.deadline() == LEASE / 60
    group.of(A).heard_at = -10.0
    group.of(A).since = -10.0
    group.tick(1.0, hurry=True)
    assert group.deadline() == 1.0 + LEASE / 6
    group.hear(A, 2.0)
    group.tick(2.0 + LEASE / 6, hurry=True)
    assert group.deadline() == 2.0 + 2 * LEASE / 6, "one that is heard needs none"


def test_unanswered_pings_are_remembered_in_bounds() -> None:
    group = Group(A)
    pings = [group.pinged(A, float(n)) for n in range(100)]
    assert len(group.of(A).pings) == MAX_PINGS
    assert not group.hear_pong(group.answer(pings[100 - MAX_PINGS - 1]), 100.0)
    assert group.hear_pong(group.answer(pings[100 - MAX_PINGS]), 100.0)


def test_pong_tells_the_last_number_and_whom_one_does_not_hear() -> None:
    group = Group(A, B)
    ping = Ping(A.incarnation, ME.incarnation, 5, group.pinged(A, 0.0).digest, 0, 1, A.seat)
    group.pong(ping, 7, 10.0)
    pong = group.mail[-1]
    assert pong == Pong(ME.incarnation, A.incarnation, 5, ping.digest, 7, ((B.incarnation, 10.0),))
    assert group.of(A).met
    assert decode(encode(pong)) == pong
    assert not group.sent(Roster)


def test_pong_to_one_who_knows_other_members_is_followed_by_the_roster() -> None:
    group = Group(A)
    group.pong(Ping(A.incarnation, ME.incarnation, 5, bytes(8), 0, 1, A.seat), 0, 1.0)
    assert [type(message) for message in group.mail] == [Pong, Roster]
    assert not group.of(A).met


def test_stranger_is_not_answered() -> None:
    group = Group()
    group.pong(Ping(A.incarnation, ME.incarnation, 5, bytes(8), 0, 1, A.seat), 0, 1.0)
    assert group.mail == []


# --- Rosters


def test_roster_names_the_living_and_the_dead() -> None:
    group = Group(A, B, C)
    group.end(C, 9, 5.0)
    group.send_roster(A.incarnation, 10.0)
    roster = group.mail[-1]
    assert decode(encode(roster)) == roster
    assert roster.rows == ((*ME, -1, 0.0), (*A, -1, 10.0), (*B, -1, 10.0), (*C, 9, 5.0))


def test_roster_brings_two_views_together() -> None:
    mine, theirs = Group(A, B), Group(ME, C, me=A)
    theirs.send_roster(ME.incarnation, 0.0)
    new, over, wrong = mine.read_roster(theirs.mail[-1])
    for member in new:
        mine.learn(member, 0.0)
    assert (over, wrong) == ([], set())
    mine.send_roster(A.incarnation, 0.0)
    for member in theirs.read_roster(mine.mail[-1])[0]:
        theirs.learn(member, 0.0)
    assert mine.pinged(A, 0.0).digest == theirs.pinged(ME, 0.0).digest


def test_roster_ends_a_stream_that_the_reader_has_not_seen_end() -> None:
    group = Group(A, B)
    assert group.read_roster(group.roster((B, 4, 0.0))) == ([], [(B, 4)], set())
    group.end(B, 4, 0.0)
    assert group.read_roster(group.roster((B, 4, 0.0))) == ([], [], set())


def test_roster_does_not_raise_the_dead() -> None:
    group = Group(A, B)
    group.end(B, 4, 0.0)
    assert group.read_roster(group.roster((B, -1, 0.0))) == ([], [], {B.incarnation})
    assert group.learn(B, 0.0) is None


def test_sender_that_lists_somebody_dead_is_told_however_long_ago_that_was() -> None:
    group = Group(A, B, C)
    group.end(B, 4, 0.0)
    group.end(C, 5, 0.0)
    now = TELL_ENDED + 1
    group.send_roster(A.incarnation, now)
    assert B not in listed(group.mail[-1])
    _, _, wrong = group.read_roster(group.roster((B, -1, 0.0)))
    group.send_roster(A.incarnation, now, wrong)
    assert B in listed(group.mail[-1])
    assert C not in listed(group.mail[-1])


def test_end_is_told_for_a_minute_in_all_through_however_many_hands_it_goes() -> None:
    # Workers are recycled: 1. A tells B that X has ended, as it does for a minute; 2. B comes to know it only now, and
    # would tell C for another minute, and C the next one; 3. so everybody would always remember all who ever were; and
    # who has forgotten X by then, and learns of it again, drops everything: it cannot know what X had announced.
    first, *followers = (Group(me=Member(bytes([n]) * 16, f"host/{n}", n)) for n in range(10, 15))
    first.end(X, 7, 0.0)
    teller, now, hands = first, 0.0, 0
    for listener in followers:
        now += 0.9 * TELL_ENDED
        teller.send_roster(listener.me.incarnation, now)
        for member, last in listener.read_roster(teller.mail[-1])[1]:
            listener.end(member, last, now)
            hands += 1
        teller = listener
    assert hands == 1


def test_roster_returns_a_forgotten_member_only_if_somebody_hears_it() -> None:
    group = Group(A, B)
    group.forget(B.incarnation, 0.0)
    assert group.read_roster(group.roster((B, -1, LEASE)))[0] == []
    assert group.read_roster(group.roster((B, -1, 0.5)))[0] == [B]


def test_roster_says_nothing_of_its_reader() -> None:
    group = Group(A)
    assert group.read_roster(group.roster((ME, 3, 0.0))) == ([], [], set())
    assert group.read_roster(group.roster((ME, -1, 0.0))) == ([], [], set())


def test_roster_of_who_is_known_is_no_news_though_the_sender_knows_fewer() -> None:
    # 1. A has forgotten B, and this member has not yet; 2. it reads A's roster, takes it for news, and pings A; 3. the
    # digests differ, so A answers with its roster; and so on, thousands of times a second, until it forgets B, too.
    group = Group(A, B)
    assert group.read_roster(group.roster((A, -1, 0.0), (ME, -1, 0.0))) == ([], [], set())


# --- Coming and going


def test_members_are_learnt_once() -> None:
    group = Group(A)
    assert group.learn(A, 1.0) is None
    assert group.learn(ME, 1.0) is None
    assert group.learn(B, 1.0) is group.of(B)


def test_ended_stream_stays_ended_for_as_long_as_anything_may_be_delayed() -> None:
    group = Group(A)
    a = group.of(A)
    group.end(A, 3, 0.0)
    assert a.ended
    assert group.has_ended(A.incarnation)
    group.tick(TOMBSTONE, hurry=False)
    assert group.learn(A, TOMBSTONE) is None
    group.tick(TOMBSTONE + 1, hurry=False)
    assert not group.has_ended(A.incarnation)


def test_tombstones_are_bounded() -> None:
    group = Group()
    names = [n.to_bytes(16, "big") for n in range(3 * MAX_STREAMS)]
    for name in names:
        group.forget(b"!" + name[1:], 0.0)
        group.end(Member(name, "host/1", 1), 0, 0.0)
    group.tick(1.0, hurry=False)
    assert sum(group.has_ended(name) for name in names) == MAX_STREAMS
    assert sum(group.has_forgotten(b"!" + name[1:]) for name in names) == MAX_STREAMS
    assert group.has_ended(names[-1]), "the newest are kept"


def test_members_are_bounded_and_a_roster_of_the_most_of_them_fits_a_link() -> None:
    name = "h" * MAX_SEAT
    group = Group(*(Member(b"?" + n.to_bytes(15, "big"), name, 1 << 22) for n in range(MAX_MEMBERS)))
    assert group.learn(X, 0.0) is None
    for n in range(MAX_STREAMS):
        group.end(Member(b"!" + bytes(11) + n.to_bytes(4, "big"), name, 1), NO_NUMBER, 0.0)
    group.send_roster(A.incarnation, 1.0)
    (roster,) = group.sent(Roster)
    assert decode(encode(roster)) == roster


def test_forgotten_member_that_speaks_is_met_anew() -> None:
    group = Group(A)
    group.of(A).stream.applied = 5
    group.forget(A.incarnation, 0.0)
    assert group.has_forgotten(A.incarnation)
    assert not group.has_ended(A.incarnation)
    assert group.learn(A, 1.0) is not None
    assert not group.has_forgotten(A.incarnation)
    assert group.of(A).stream.applied == 0


# --- Forgetting


class Hearing(Group):
    """A group that ticks as it must, and hears the members that a test names."""

    def live(self, seconds: float, *heard: Member, silent: tuple[Any, ...] = ()) -> None:
        """Tick for a while; the heard ones answer, and say how long others have been silent to them."""
        end = self._ticked_at + seconds if self._ticked_at > 0 else seconds
        now = max(self._ticked_at, 0.0)
        while now < end:
            now += LEASE / 6
            self.mail.clear()
            self.tick(now, hurry=False)
            for ping in self.sent(Ping):
                if any(ping.to == member.incarnation for member in heard):
                    self.hear_pong(self.answer(ping, silent=silent), now)
        self.now = now

    def lost(self) -> list[Member]:
        """Return the members that it may forget."""
        return [other.member for other in self.forgettable(self.now)]


def test_silent_member_is_forgotten_when_nobody_hears_it() -> None:
    group = Hearing(A, B)
    group.live(FORGET - 1.0, A, silent=((B.incarnation, FORGET),))
    assert group.lost() == []
    group.live(2.0, A, silent=((B.incarnation, FORGET),))
    assert group.lost() == [B]


def test_silent_member_is_not_forgotten_while_somebody_hears_it() -> None:
    group = Hearing(A, B)
    group.live(2 * FORGET, A)
    assert group.lost() == []
    group.live(1.0, A, silent=((B.incarnation, FORGET / 2),))
    assert group.lost() == []
    group.live(1.0, A, silent=((B.incarnation, FORGET - 0.9),))
    assert group.lost() == [B], "what a witness says is as old as the interval"


def test_witness_that_is_not_heard_does_not_count() -> None:
    group = Hearing(A, B)
    group.live(FORGET, A)
    group.live(FORGET + 1.0)
    assert group.lost() == [A, B]


def test_nobody_is_forgotten_if_that_is_never_to_be() -> None:
    group = Hearing(A, forget_after=math.inf)
    group.live(100 * FORGET)
    assert group.lost() == []


def test_member_that_was_stopped_itself_forgets_nobody_when_it_wakes() -> None:
    # It did not listen, so nobody was silent. And were a whole group frozen for long, each would forget each when it
    # thaws, and wait for the other to speak first.
    group = Hearing(A, B)
    group.live(5.0, A, B)
    woken = group.now + 10 * FORGET
    group.tick(woken, hurry=True)
    group.now = woken
    assert group.lost() == []
    assert group.current_until() < woken
    group.live(FORGET + 1.0)
    assert group.lost() == [A, B]


def test_what_was_applied_long_ago_is_known_to_be_forgotten() -> None:
    group = Group(A)
    group.turn(0.0)
    a = group.of(A)
    a.stream.applied = 3
    group.turn(2 * LEASE - 0.01)
    group.turn(2 * LEASE)
    assert a.faded == 0, "applied in this generation, so still remembered"
    a.stream.applied = 5
    group.turn(4 * LEASE)
    assert a.faded == 3
    group.turn(6 * LEASE)
    assert a.faded == 5
