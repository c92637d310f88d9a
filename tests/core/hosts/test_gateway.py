"""The gateway of a host: each rule of the protocol, one by one."""

from __future__ import annotations

import pytest

from colocache.core.hosts import gateway as gateway_module
from colocache.core.hosts import layout
from colocache.core.hosts.event import KEYS, TAGS, WRITES, Event
from colocache.core.hosts.gateway import Forgetting, Reply, Send
from colocache.core.hosts.layout import ENTRIES, LISTENERS, SLOTS
from colocache.core.hosts.messages import Ack, Ask, Message, News, Ping, Pong, Replayed, Reset, Told
from colocache.core.hosts.rows import ACKED, APPLIED, ENDED, ENDED_AT, LIVE, REMEMBERED, TOLD, TOLD_OF, Host, Row
from tests.core.host.shelves import Death
from tests.core.hosts.members import A_KEY, SECOND, TIMES, Group, Member, Process
from tests.core.hosts.test_waiting import Call

AN_EVENT = Event(KEYS, (A_KEY,))


@pytest.fixture
def group() -> Group:
    """Return three hosts that are current."""
    group = Group("a", "b", "c")
    group.run(2)
    return group


def of_kind(what: list[Send | Reply], kind: type[Message]) -> list[Message]:
    """Return the messages of a kind."""
    return [each.message for each in what if isinstance(each.message, kind)]


def test_hosts_meet_and_are_current(group: Group) -> None:
    assert [member.is_current for member in group.members.values()] == [True] * 3
    assert {member.row.host(group.by_name("c").id).address for member in group.members.values()} >= {"c:7400"}


# --- Events of others


def test_an_event_makes_values_void_on_all_hosts_and_is_acknowledged(group: Group) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    labels = {member.id: member.label() for member in group.members.values()}
    position = a.invalidate()
    group.send(a, a.gateway.look(group.now))
    assert not any(member.stands(labels[member.id]) for member in group.members.values())
    assert a.row.has_reached(b.id, {position.lane: position.number}, ACKED)


def test_g1_to_g4_told_then_stamped_then_applied(group: Group) -> None:
    """The gateway of b dies before any of its stores. Whatever is stamped is told, and what is applied is stamped."""
    a, b = group.by_name("a"), group.by_name("b")
    message = Told(a.id, 0, 1, AN_EVENT)
    before = b.memory[:], b.marks[:], b.bell[:]
    for stores in range(100):
        b.memory[:], b.marks[:], b.bell[:] = before
        process = Process(b)
        gateway = b.new_gateway(process)
        label, bell = b.label(), b.bell[0]
        process.steps.stores_left = stores
        try:
            gateway.receive(message, group.now)
            break
        except Death:
            pass
        told, applied = b.writer.rows.largest(a.id, TOLD), b.writer.rows.largest(a.id, APPLIED)
        if b.label() != label:
            assert told == 1
        if applied:
            assert not b.stands(label)
            assert b.bell[0] != bell
        successor = b.new_gateway(Process(b), 1)
        assert of_kind(successor.receive(message, group.now), Ack) == [Ack(b.id, a.id, {0: 1})]
        assert not b.stands(label)
        assert b.bell[0] != bell
    assert stores > 6


def test_an_event_that_is_applied_is_acknowledged_again(group: Group) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    for _ in range(2):
        answers = b.gateway.receive(Told(a.id, 0, 1, AN_EVENT), group.now)
        assert of_kind(answers, Ack) == [Ack(b.id, a.id, {0: 1})]
    label = b.label()
    b.gateway.receive(Told(a.id, 0, 1, AN_EVENT), group.now)
    assert b.stands(label)


def test_events_of_who_is_not_known_are_not_applied(group: Group) -> None:
    b = group.by_name("b")
    assert b.gateway.receive(Told(b"x" * 16, 0, 1, AN_EVENT), group.now) == []


def test_an_event_that_is_missing_is_asked_for(group: Group) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    label = b.label()
    a.invalidate(Event(TAGS, (7,)))
    a.invalidate()
    answers = b.gateway.receive(Told(a.id, 0, 2, AN_EVENT), group.now)
    assert of_kind(answers, Ask) == [Ask(b.id, a.id, {})]
    assert b.stands(label)
    assert b.gateway.receive(Told(a.id, 0, 2, AN_EVENT), group.now) == []  # not at once again
    group.send(b, answers)
    assert b.row.positions(a.id, APPLIED) == {0: 2}
    assert not b.stands(label)


def test_events_that_are_overwritten_are_made_up_for_by_a_reset(group: Group) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    label = b.label(99)
    group.cut_off("a")
    for number in range(SLOTS + 10):
        a.writer.log.mark_stamped(a.writer.log.append(Event(KEYS, (number + 1,))))
    a.gateway.look(group.now)
    group.cut.clear()
    answers = b.gateway.receive(Told(a.id, 0, SLOTS + 10, AN_EVENT), group.now)
    group.said.clear()
    group.send(b, answers)
    assert any(isinstance(message, Reset) for _, _, message in group.said)
    assert b.row.positions(a.id, APPLIED) == {0: SLOTS + 10}
    assert not b.stands(label)


def test_a_long_replay_goes_on(group: Group) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    group.cut_off("a")
    count = 2 * gateway_module.MOST_REPLAYED + 5
    for number in range(count):
        a.writer.log.mark_stamped(a.writer.log.append(Event(KEYS, (number + 1,))))
    a.gateway.look(group.now)
    group.cut.clear()
    group.run(1)
    assert b.row.positions(a.id, APPLIED) == {0: count}
    assert sum(isinstance(message, Replayed) for _, to, message in group.said if to == "b") == 3
    assert not any(isinstance(message, Reset) for _, _, message in group.said)


# --- Own events


def test_g7_an_event_whose_writer_died_is_stamped_before_it_is_told(group: Group) -> None:
    a = group.by_name("a")
    label = a.label()
    a.writer.log.append(AN_EVENT)
    assert a.stands(label)
    told = of_kind(a.gateway.look(group.now), Told)
    assert len(told) == 2
    assert not a.stands(label)


def test_g7_a_write_is_waited_for(group: Group) -> None:
    """Its writer may be between the commit and the stamps of the record: these are its own."""
    a = group.by_name("a")
    from colocache.core.host.hashes import WRITES as OF_WRITES

    a.writer.log.append(Event(WRITES, (A_KEY ^ OF_WRITES,)))
    a.gateway.look(group.now)
    assert group.waited_for == [A_KEY]


def test_g8_a_pong_says_which_event_is_the_last_one_now(group: Group) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    label = a.label()
    a.writer.log.append(AN_EVENT)
    (pong,) = of_kind(a.gateway.receive(b.gateway.ping(a.id, group.now), group.now), Pong)
    assert isinstance(pong, Pong)
    assert pong.last == {0: 1}
    assert not a.stands(label)


# --- Leases


def pong_of(a: Member, b: Member) -> Pong:
    """Return the answer of a to a ping of b."""
    now = b.group.now
    answers = a.gateway.receive(b.gateway.ping(a.id, now), now)
    pong = next(each.message for each in answers if isinstance(each.message, Pong))
    assert isinstance(pong, Pong)
    return pong


def test_g9_a_lease_counts_from_the_ping(group: Group) -> None:
    a, b, c = (group.by_name(name) for name in "abc")
    pongs = [pong_of(a, b), pong_of(c, b)]
    sent = group.now
    group.now += SECOND
    for pong in pongs:
        b.gateway.receive(pong, group.now)
    b.gateway.tick(group.now)
    assert b.until == sent + TIMES.lease


def test_g9_a_pong_for_another_incarnation_does_not_count(group: Group) -> None:
    a, b, c = (group.by_name(name) for name in "abc")
    group.now += SECOND
    before = b.until
    for other in (a, c):
        b.gateway.receive(pong_of(other, b)._replace(to=b"x" * 16), group.now)
    b.gateway.tick(group.now)
    assert b.until == before


def test_g9_a_pong_does_not_count_if_hosts_know_others(group: Group) -> None:
    a, b, c = (group.by_name(name) for name in "abc")
    group.now += SECOND
    before = b.until
    for other in (a, c):
        pong = pong_of(other, b)
        b.gateway.receive(pong._replace(view=pong.view._replace(live=1)), group.now)
    b.gateway.tick(group.now)
    assert b.until == before


def test_g9_a_lease_begins_once_all_is_applied(group: Group) -> None:
    a, b, c = (group.by_name(name) for name in "abc")
    group.now += SECOND
    a.invalidate()
    before = b.until
    asked = b.gateway.receive(pong_of(a, b), group.now)
    b.gateway.receive(pong_of(c, b), group.now)
    b.gateway.tick(group.now)
    assert b.until == before
    group.send(b, asked)
    assert b.until == group.now + TIMES.lease


def test_g10_a_host_that_is_alone_is_current_for_a_lease_after_its_last_look() -> None:
    group = Group("a")
    group.tick()
    assert group.by_name("a").until == group.now + TIMES.lease


def test_g10_a_host_is_not_current_for_longer_than_a_lease_after_its_last_look(group: Group) -> None:
    a, b, c = (group.by_name(name) for name in "abc")
    looked = b.until - TIMES.lease
    group.now += SECOND
    for other in (a, c):
        b.gateway._on_pong(pong_of(other, b), group.now)
    assert b.until <= looked + TIMES.lease + SECOND


def test_a_successor_begins_with_what_stands_there(group: Group) -> None:
    b = group.by_name("b")
    before = b.until
    group.now += TIMES.lease + SECOND
    successor = b.new_gateway(Process(b), 1)
    successor.tick(group.now)
    assert b.until == before
    assert not b.is_current


def test_acknowledgements_are_for_one_incarnation(group: Group) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    a.gateway.receive(Ack(b.id, b"x" * 16, {0: 5}), group.now)
    assert a.row.positions(b.id, ACKED) == {}
    a.gateway.receive(Ack(b.id, a.id, {0: 5}), group.now)
    assert a.row.positions(b.id, ACKED) == {0: 5}


def test_acknowledgements_that_were_lost_come_with_a_pong(group: Group) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    a.invalidate()
    b.gateway.receive(Told(a.id, 0, 1, AN_EVENT), group.now)
    a.gateway.receive(pong_of(b, a), group.now)
    assert a.row.positions(b.id, ACKED) == {0: 1}


# --- Joining


def test_j1_a_host_is_not_established_before_it_has_met_everybody_who_is_listed() -> None:
    group = Group("a", "b")
    a, b = group.by_name("a"), group.by_name("b")
    b.meetings.complete = False
    group.run(2)
    assert (a.is_current, b.until) == (True, 0)
    b.meetings.complete = True
    group.run(1)
    assert b.is_current


def test_j2_hosts_are_introduced_to_each_other(group: Group) -> None:
    d = group.add("d")
    group.cut = {("d", "c"), ("c", "d"), ("d", "b"), ("b", "d")}
    group.run(2)
    assert d.row.state(group.by_name("c").id) == LIVE
    assert group.by_name("c").row.state(d.id) == LIVE
    assert d.until == 0
    group.cut.clear()
    group.run(2)
    assert d.is_current


def test_j3_a_newcomer_drops_everything_when_it_adopts_positions(group: Group) -> None:
    group.by_name("a").invalidate()
    d = group.add("d")
    label = d.label()
    group.run(2)
    assert d.row.positions(group.by_name("a").id, APPLIED) == {0: 1}
    assert not d.stands(label)
    assert d.is_current


def fill(member: Member, row: int) -> None:
    """Fill a row with hosts that have ended so long ago that nobody speaks of them, but not long enough."""
    full = Row(member.process.words, member.process.fences, row)
    for number in range(full._words[layout.entry_of(row, 0)], ENTRIES - 1):
        full.end(b"%16d" % number, {0: 1}, member.group.now - TOLD_OF)


def test_who_has_no_room_leaves_a_host_out_until_there_is_some(group: Group) -> None:
    a = group.by_name("a")
    fill(a, 0)
    a.gateway = a.new_gateway(a.writer)
    d = group.add("d")
    group.run(1)
    assert a.gateway.left_out == {"d"}
    assert a.row.state(d.id) == 0
    group.now += REMEMBERED
    group.run(2)
    assert a.gateway.left_out == set()
    assert a.is_current
    assert d.is_current


def test_who_has_no_room_for_an_end_drops_everything_each_time(group: Group) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    fill(a, 0)
    a.gateway = a.new_gateway(a.writer)
    label = a.label(99)
    (known,) = group.by_name("c").gateway.goodbye().roster
    stranger = known._replace(host=known.host._replace(id=b"x" * 16, name="x"))
    a.gateway.receive(News(b.id, (stranger,)), group.now)
    assert a.gateway.left_out == {"x"}
    assert not a.stands(label)
    label = a.label(99)
    a.gateway.receive(News(b.id, (stranger,)), group.now)
    assert not a.stands(label), "what was fetched since may be from an owner that has not heard of the end"
    unnoted = a.gateway.unnoted
    a.gateway.end(b"y" * 16, None, group.now)
    assert a.gateway.unnoted > unnoted


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a", "b", "c", "d")])
def test_a_gateway_without_room_for_those_it_knows_goes_on(names: tuple[str, ...]) -> None:
    """They are in its predecessor's row. It can note nothing of them, so it does nothing by halves."""
    group = Group(*names)
    group.run(2)
    a, b = group.by_name("a"), group.by_name("b")
    group.cut_off("c", *names[3:])
    group.run(35 if len(names) == 3 else 1)
    fill(a, 1)
    a.gateway = a.new_gateway(a.writer, row=1)
    label = a.label()
    position = b.invalidate()
    group.send(b, b.gateway.look(group.now))
    group.run(40)
    assert a.gateway.unnoted > 0
    assert not a.is_current
    assert a.stands(label)
    assert b.row.positions(a.id, ACKED).get(position.lane, 0) < position.number
    group.cut.clear()
    group.now += REMEMBERED
    group.run(3)
    assert a.is_current
    assert not a.stands(label)


def test_a_client_without_room_is_not_answered(group: Group) -> None:
    a, client = group.by_name("a"), group.add("client", client=True)
    for number in range(LISTENERS):
        a.row.clients.listen(Host(b"%16d" % number, f"x{number}", "", 0), group.now + 60 * SECOND, group.now)
    group.run(2)
    assert a.gateway.unnoted > 0
    assert not client.is_current
    group.run(60)
    assert client.is_current


# --- Ends


def test_a_host_that_restarts_tells_others_of_its_end() -> None:
    """The newcomer knows that its predecessor is over, which the other one takes for living: both know the same ids."""
    group = Group("a", "b")
    group.run(2)
    a, old = group.by_name("a"), group.by_name("b")
    new = group.add("b")
    del group.members[old.id]
    new.gateway.end(old.id, None, group.now)
    group.tick("b")  # it speaks first, so that the other one has met it when they first compare
    group.run(2)
    assert a.row.state(old.id) == ENDED
    assert a.row.state(new.id) == LIVE
    assert a.is_current
    assert new.is_current


@pytest.mark.parametrize("reached", [False, True])
def test_e3_a_goodbye_resets_whoever_has_not_heard_all(group: Group, reached: bool) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    label = b.label(99)
    position = a.invalidate(Event(KEYS, (5,)))
    if reached:
        group.send(a, a.gateway.look(group.now))
    b.gateway.receive(a.gateway.goodbye(), group.now)
    assert b.row.state(a.id) == ENDED_AT
    assert b.stands(label) is reached
    assert b.meetings.ended[-1] == (a.id, True)
    assert position.number == 1
    # What is over stays so.
    b.gateway.receive(a.gateway.ping(b.id, group.now), group.now)
    assert b.row.state(a.id) == ENDED_AT


def test_e3_an_end_without_numbers_is_a_reset(group: Group) -> None:
    b, c = group.by_name("b"), group.by_name("c")
    label = b.label(99)
    (known,) = group.by_name("a").gateway.goodbye().roster
    b.gateway.receive(News(c.id, (known._replace(state=ENDED, last=None),)), group.now)
    assert not b.stands(label)


# --- Forgetting


def forgets(member: Member, other: Member) -> bool:
    """Tell whether a host has forgotten another one."""
    return member.row.is_forgotten(other.id)


def test_a_majority_forgets_after_a_reset_and_takes_back() -> None:
    group = Group("a", "b", "c")
    group.run(2)
    a, b, c = (group.by_name(name) for name in "abc")
    label = a.label(99)
    group.cut_off("c")
    group.run(29)
    assert not forgets(a, c)
    assert a.stands(label)
    group.run(4)
    assert forgets(a, c)
    assert forgets(b, c)
    assert not a.stands(label)
    assert a.is_current
    assert b.is_current
    # Q1: a minority forgets nobody, and is not current.
    assert not forgets(c, a)
    assert not c.is_current
    group.cut.clear()
    group.run(2)
    assert not forgets(a, c)
    assert not forgets(b, c)
    assert c.is_current


def test_g11_who_is_not_heard_is_behind_before_it_is_forgotten() -> None:
    """a and b do not reach c, as behind a firewall, and c reaches both."""
    group = Group("a", "b", "c")
    group.run(2)
    a, b, c = (group.by_name(name) for name in "abc")
    group.unreachable = {("a", "c"), ("b", "c")}
    group.run(3.5)
    group.run(3.5)
    while not forgets(a, c):
        assert not c.is_current
        assert c.row.largest(a.id, gateway_module.ALIVE) > group.now, "c hears a"
        group.run(0.5)
    assert group.now >= c.until + TIMES.serves_by_age, "when c may be forgotten, it serves nothing any more"
    group.run(2)
    assert a.is_current
    assert b.is_current
    assert not c.is_current
    group.unreachable = set()
    group.run(2)
    assert [each.is_current for each in (a, b, c)] == [True] * 3


def test_f2_a_sign_of_life_makes_the_decision_void() -> None:
    group = Group("a", "b", "c")
    group.run(2)
    a, c = group.by_name("a"), group.by_name("c")
    signs = a.row.total(c.id, gateway_module.SIGN)
    group.now += SECOND
    a.gateway.receive(pong_of(c, a), group.now)
    a.row.forget(c.id, signs)
    assert not forgets(a, c)


def test_nobody_forgets_whom_a_witness_hears() -> None:
    group = Group("a", "b", "c")
    group.run(2)
    a, c = group.by_name("a"), group.by_name("c")
    group.cut = {("a", "c"), ("c", "a")}
    group.run(40)
    assert not forgets(a, c)
    assert not a.is_current
    group.cut.clear()
    group.run(1)
    assert a.is_current


def test_the_word_of_a_witness_is_no_older_than_a_lease() -> None:
    """A gateway of a hears nobody any more, and another one of a hears b, who hears c."""
    group = Group("a", "b", "c")
    group.run(2)
    a, c = group.by_name("a"), group.by_name("c")
    old = a.gateway
    a.gateway = a.new_gateway(a.writer, row=1)
    group.cut = {("a", "c"), ("c", "a")}
    for _ in range(80):
        group.run(0.5)
        old.tick(group.now)
        assert not forgets(a, c)


def test_f7_a_host_that_is_not_established_may_forget() -> None:
    """Three hosts come at once, and one of them ends before anybody is current."""
    group = Group("a", "b", "c")
    for member in group.members.values():
        member.meetings.complete = False
    group.run(1)
    del group.members[group.by_name("c").id]
    group.run(4)
    for member in group.members.values():
        member.meetings.complete = True
    group.run(5)
    assert not any(member.gateway.is_established for member in group.members.values())
    group.run(30)
    assert [member.is_current for member in group.members.values()] == [True] * 2


def test_never_means_never() -> None:
    group = Group("a", "b", "c")
    for member in group.members.values():
        member.gateway = member.new_gateway(member.process, 0, Forgetting.NEVER)
    group.run(2)
    group.cut_off("c")
    group.run(40)
    a, c = group.by_name("a"), group.by_name("c")
    assert not forgets(a, c)
    assert not a.is_current


def test_two_hosts_forget_each_other_unless_told_otherwise() -> None:
    group = Group("a", "b")
    group.run(2)
    a, b = group.by_name("a"), group.by_name("b")
    group.cut_off("b")
    group.run(35)
    assert forgets(a, b)
    assert forgets(b, a)
    assert a.is_current
    assert b.is_current


def test_f6_earlier_incarnations_have_no_votes() -> None:
    """Host c has restarted three times, and nobody knows what has become of these. Still a and b are two of three."""
    group = Group("a", "b", "c")
    group.run(2)
    for _ in range(3):
        del group.members[group.by_name("c").id]
        group.add("c")
        group.run(1)
    group.run(40)
    assert [member.is_current for member in group.members.values()] == [True] * 3


def test_f8_those_that_are_long_dead_have_no_votes() -> None:
    """Each host that is killed is replaced by one with another name, as pods are. In the end most names are dead."""
    group = Group("a", "b", "c")
    group.run(2)
    for name in ("d", "e", "f", "g"):
        del group.members[next(iter(group.members))]
        group.add(name)
        group.run(40)
        assert [member.is_current for member in group.members.values()] == [True] * 3
        group.now += gateway_module.VOTES_FOR * TIMES.forget_after
        group.run(40)


def test_f8_a_minority_takes_back_who_may_still_live_and_nobody_who_is_long_dead() -> None:
    group = Group("a", "b", "c", "d", "e")
    group.run(2)
    a, d, e = (group.by_name(name) for name in "ade")
    group.cut_off("e")
    group.run(40)
    assert forgets(a, e)
    group.now += gateway_module.VOTES_FOR * TIMES.forget_after
    group.run(40)
    group.cut_off("d")
    group.run(40)
    assert forgets(a, d)
    group.cut_off("b")
    group.cut_off("c")
    group.run(40)
    assert not forgets(a, d)
    assert forgets(a, e)


@pytest.mark.parametrize("who", ["a newcomer", "a new gateway", "a newcomer's new gateway"])
def test_f9_who_has_just_begun_to_listen_has_nobody_taken_back(who: str) -> None:
    group = Group("a", "b", "c")
    group.run(2)
    a, b, c = (group.by_name(name) for name in "abc")
    group.cut_off("c")
    group.run(35)
    assert forgets(a, c)
    if who != "a new gateway":
        b = group.add("d")
        group.cut |= {("c", "d"), ("d", "c")}
        group.run(1)
    if who != "a newcomer":
        b.gateway = b.new_gateway(b.writer, row=1)
    for _ in range(10):
        group.run(1)
        assert forgets(a, c)
        assert a.is_current
        assert b.is_current
    assert not c.is_current


def test_f9_who_is_heard_by_another_host_is_taken_back() -> None:
    group = Group("a", "b", "c")
    group.run(2)
    a, c = group.by_name("a"), group.by_name("c")
    group.cut_off("c")
    group.run(35)
    assert forgets(a, c)
    group.cut = {("a", "c"), ("c", "a")}
    group.run(2)
    assert not forgets(a, c)
    assert not a.is_current


def test_f9_a_newcomer_is_told_for_how_long_the_forgotten_are_silent() -> None:
    """Otherwise it would let them vote anew, and each newcomer after it."""
    group = Group("a", "b", "c")
    group.run(2)
    group.cut_off("c")
    group.run(35)
    d = group.add("d")
    group.cut |= {("c", "d"), ("d", "c")}
    group.run(5)
    c = group.by_name("c").id
    assert d.gateway._last_signs()[c] <= group.now - 39 * SECOND


def test_f3_a_lease_holds_among_hosts_that_have_forgotten_the_same() -> None:
    group = Group("a", "b", "c")
    group.run(2)
    a, b, c = (group.by_name(name) for name in "abc")
    group.now += SECOND
    pong = pong_of(b, a)
    a.gateway.receive(pong._replace(view=pong.view._replace(forgotten={c.id: {}})), group.now)
    a.gateway.receive(pong_of(c, a), group.now)
    a.gateway.tick(group.now)
    assert a.until < group.now + TIMES.lease
    # A lease from before the forgetting does not count after it.
    a.gateway.receive(pong_of(b, a), group.now)
    assert a.row.heard(b.id, a.gateway._under(set())) == group.now + TIMES.lease
    assert a.row.heard(b.id, a.gateway._under({c.id})) == 0


def test_f4_who_is_behind_in_what_is_applied_of_a_forgotten_host_resets() -> None:
    group = Group("a", "b", "c")
    group.run(2)
    a, b, c = (group.by_name(name) for name in "abc")
    group.cut_off("c")
    b.gateway.receive(Told(c.id, 0, 1, AN_EVENT), group.now)
    group.run(33)
    assert forgets(a, c)
    assert forgets(b, c)
    assert a.row.positions(c.id, APPLIED) == {0: 1}


def test_f5_silence_counts_only_while_a_majority_is_heard() -> None:
    """All are alone for long. Then a and b hear each other, and c only a bit later: they must not forget it at once."""
    group = Group("a", "b", "c")
    group.run(2)
    a, b, c = (group.by_name(name) for name in "abc")
    label = a.label(99)
    group.cut = {(one, other) for one in "abc" for other in "abc" if one != other}
    group.run(35)
    group.cut = {("c", "a"), ("c", "b")}
    group.run(3)
    assert not forgets(a, c)
    assert not forgets(b, c)
    group.cut = set()
    group.run(2)
    assert a.is_current
    assert a.stands(label), "nobody has dropped anything"


def test_j5_a_newcomer_takes_over_who_is_forgotten() -> None:
    group = Group("a", "b", "c")
    group.run(2)
    c = group.by_name("c")
    group.cut_off("c")
    group.run(35)
    d = group.add("d")
    group.cut |= {("c", "d"), ("d", "c")}
    for _ in range(60):
        group.run(0.5)
        assert all(forgets(group.by_name(name), c) for name in "ab"), "it has never heard that host, either"
    assert forgets(d, c)
    assert all(group.by_name(name).is_current for name in "abd")


def test_j5_a_newcomer_drops_what_it_has_loaded_when_it_takes_over_who_is_forgotten() -> None:
    """Nobody whom it meets has had an event. So it has no positions to adopt."""
    group = Group("a", "b", "c")
    group.run(2)
    c, d = group.by_name("c"), group.add("d")
    d.meetings.complete = False
    label = d.label()
    group.cut_off("c")
    group.cut_off("d")
    call = Call(c)
    assert call.look() is None
    group.now += TIMES.waited
    settled = call.look()
    assert settled is not None
    assert settled.complete
    group.run(40)
    group.cut.clear()
    group.cut_off("c")
    d.meetings.complete = True
    group.run(2)
    assert d.is_current
    assert not d.stands(label)


def test_j1_who_is_forgotten_need_not_be_met() -> None:
    group = Group("a", "b", "c")
    group.run(2)
    group.cut_off("c")
    group.run(35)
    d = group.add("d")
    group.cut |= {("c", "d"), ("d", "c")}
    d.meetings.complete = False
    group.run(2)
    assert d.meetings.forgotten == {group.by_name("c").id}
    # It is heard again: then it has to be met.
    group.cut = {each for each in group.cut if "d" not in each}
    group.run(2)
    assert d.meetings.forgotten == set()


def test_j6_what_a_gateway_has_given_up_its_successor_does_not_miss(group: Group) -> None:
    a = group.by_name("a")
    a.meetings.vacant = {7, 8}
    group.run(1)
    a.meetings.vacant = set()
    a.gateway = a.new_gateway(a.writer, row=1)
    assert a.meetings.vacant == {7, 8}
    a.meetings.vacant = {8}
    group.run(1)
    a.meetings.vacant = set()
    group.now += SECOND
    a.gateway = a.new_gateway(a.process, row=1)
    assert a.meetings.vacant == {7, 8}, "the first one may be stopped only"
    group.now += TIMES.serves_by_age
    a.gateway = a.new_gateway(a.process, row=2)
    assert a.meetings.vacant == set(), "nobody was there for long"


@pytest.mark.parametrize(("seconds", "missed"), [(20, False), (24, True)])
def test_j6_who_was_stopped_for_long_misses_all_again(group: Group, seconds: int, missed: bool) -> None:
    """Who has come meanwhile may be established by now, without this host. No receipt may pass him over."""
    a = group.by_name("a")
    a.meetings.vacant = {7}
    group.run(1)
    a.meetings.given = None
    group.now += seconds * SECOND
    a.gateway.tick(group.now)
    assert a.meetings.given == (set() if missed else None)


def test_j6_who_joins_gives_nobody_up_nor_notes_it() -> None:
    group = Group("a", "b")
    a = group.by_name("a")
    a.meetings.complete, a.meetings.vacant = False, {7}
    group.run(2)
    assert a.row.given_up(0) == set()
    a.meetings.given = None
    a.gateway = a.new_gateway(a.writer, row=1)
    assert a.meetings.given is None


@pytest.mark.parametrize("names", ["abc", "ab"])
def test_a_process_that_was_stopped_calls_nobody_silent(names: str) -> None:
    group = Group(*names)
    group.run(2)
    a = group.by_name("a")
    group.now += 60 * SECOND
    a.gateway.tick(group.now)
    assert not any(forgets(a, other) for other in group.members.values() if other is not a)


def test_a_ping_says_who_lives_and_who_is_silent(group: Group) -> None:
    a = group.by_name("a")
    ping = a.gateway.ping(None, group.now)
    assert isinstance(ping, Ping)
    assert set(ping.view.silent) == set(group.members) - {a.id}
    assert ping.view.roster == ()
