"""Clients: hosts that own nothing, and are no members. Each rule of them, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from colocache.core.hosts import requests
from colocache.core.hosts.announcing import Announcement, Pending
from colocache.core.hosts.dependencies import dependencies_of_client, has_applied
from colocache.core.hosts.event import KEYS, Event, Position
from colocache.core.hosts.gateway import Gateway, Send
from colocache.core.hosts.layout import LISTENERS, UNTIL
from colocache.core.hosts.messages import Ack, News, Ping, Pong, Told
from colocache.core.hosts.owner import TELLING, Hooks, HostMemory, Owner
from colocache.core.hosts.requests import Announce, Announced, Refused, Settle, Settlement, decode_answer, encode
from colocache.core.hosts.rows import ACKED, APPLIED, Host, Row, TooManyHosts
from colocache.core.hosts.waiting import Settled
from tests.core.hosts.members import A_KEY, SECOND, TIMES, Group, Member
from tests.core.hosts.test_waiting import Call, tell


@pytest.fixture
def group() -> Group:
    """Two members, and a client that hears them."""
    group = Group("a", "b")
    group.add("c", client=True)
    group.run(6)  # until no client has a lease from before the members had met
    return group


@pytest.fixture
def a(group: Group) -> Member:
    return group.by_name("a")


@pytest.fixture
def c(group: Group) -> Member:
    return group.by_name("c")


def test_a_client_is_current_and_no_other_host_is_told_of_it(group: Group, a: Member, c: Member) -> None:
    assert c.is_current
    assert [member.is_current for member in group.members.values()] == [True] * 3
    assert a.row.ids() == [group.by_name("b").id]
    assert c.id in a.row.clients.who_may_serve(group.now)
    named = {
        known.host.id for _, _, message in group.said if isinstance(message, Ping | Pong)
        for known in message.view.roster
    }  # fmt: skip
    assert named == {a.id, group.by_name("b").id}
    assert not [1 for _, target, message in group.said if target == "c" and isinstance(message, Ping)], (
        "nobody dials it"
    )


def test_a_client_learns_of_members_from_one_that_it_dials() -> None:
    group = Group("a", "b")
    group.run(2)
    c = group.add("c", client=True)
    group.send(c, c.gateway.tick(group.now))
    a = group.by_name("a")
    for to in (None, a.id):  # it is told the roster once it is known who it is, and what it knows
        group.send(c, [Send(a.id, c.gateway.ping(to, group.now))])
    assert {*c.row.live()} == {a.id, group.by_name("b").id}


def test_a_member_waits_for_the_acknowledgement_of_a_client(group: Group, a: Member, c: Member) -> None:
    label = c.label()
    group.cut |= {("a", "c")}
    call = Call(a)
    tell(a)
    assert call.look() is None
    group.cut.clear()
    group.run(0.5)  # the pong says that there is an event, and it is asked for
    assert not c.stands(label)
    settled = call.look()
    assert settled is not None
    assert settled.complete
    assert {*settled.acknowledged} == {"b", "c"}


def test_an_acknowledgement_that_was_lost_comes_back_with_a_ping(group: Group, a: Member, c: Member) -> None:
    group.cut |= {("c", "a")}
    call = Call(a)
    tell(a)
    assert c.row.positions(a.id, APPLIED) == {0: 1}
    assert call.look() is None
    group.cut.clear()
    group.said.clear()
    group.run(0.5, "c")
    assert not [1 for source, target, each in group.said if (source, target) == ("c", "a") and isinstance(each, Ack)]
    assert call.look() is not None


def test_an_acknowledgement_in_a_ping_counts_for_this_incarnation_only(group: Group, a: Member, c: Member) -> None:
    ping = c.gateway.ping(b"x" * 16, group.now)._replace(applied={0: 7})
    a.gateway.receive(ping, group.now)
    assert a.row.clients.positions(c.id, ACKED) == {}


def test_k1_a_client_that_says_nothing_is_waited_for_once(group: Group, a: Member, c: Member) -> None:
    group.cut_off("c")
    call = Call(a)
    tell(a)
    for _ in range(100):
        if call.look() is not None:
            break
        assert group.now <= a.row.clients.granted(c.id), "no longer than what it was granted"
        group.now += SECOND // 10
        group.tick("a", "b")
    settled = call.look()
    assert settled is not None
    assert settled.complete
    assert settled.waited_out == ("c",)
    assert not c.is_current, "it may serve nothing by then"
    again = Call(a)
    tell(a)
    assert again.settled is not None or again.look() is not None, "it is not waited for again"
    assert a.gateway.resets == 0
    assert a.is_current
    group.cut.clear()
    group.run(1)
    assert c.is_current
    assert c.row.positions(a.id, APPLIED) == {0: 2}


def test_k1_a_grant_is_a_lease_and_a_bit_from_the_ping_that_is_answered(group: Group, a: Member, c: Member) -> None:
    group.tick("c")
    assert a.row.clients.granted(c.id) == group.now + TIMES.waited
    assert c.until <= group.now + TIMES.lease


def test_k2_a_client_is_granted_a_lease_before_the_last_event_is_read() -> None:
    """A client comes back. The gateway reads the last event, and then a writer appends one, and looks who may serve."""
    group = Group("a")
    c = group.add("c", client=True)
    group.run(6)
    a = group.by_name("a")
    group.cut_off("c")
    group.run(10)
    group.cut.clear()
    assert not c.is_current
    calls: list[Call] = []
    lasts = a.process.log.lasts

    class Log:
        def __getattr__(self, name: str) -> Any:
            return getattr(a.process.log, name)

        def lasts(self) -> dict[int, int]:
            found = lasts()
            calls.append(Call(a))  # after it was read for the pong, or before
            return found

    a.gateway._log = Log()  # type: ignore[assignment]
    pongs = a.gateway.receive(c.gateway.ping(a.id, group.now), group.now)
    a.gateway._log = a.process.log
    assert calls
    (pong,) = [each.message for each in pongs if isinstance(each.message, Pong)]
    for number, call in enumerate(calls, 1):
        is_waited_for = call.settled is None
        assert is_waited_for or pong.last[0] >= number, "it gets a lease without an event that does not wait for it"


def test_k2_there_is_a_full_fence_between(group: Group, a: Member, c: Member) -> None:
    done: list[str] = []
    full, lasts, listen = a.process.fences.full, a.process.log.lasts, a.row.clients.listen

    class Log:
        def __getattr__(self, name: str) -> Any:
            return getattr(a.process.log, name)

        def lasts(self) -> dict[int, int]:
            done.append("last")
            return lasts()

    a.gateway._log = Log()  # type: ignore[assignment]
    a.process.fences.full = lambda: done.append("full") or full()  # type: ignore[method-assign,func-returns-value]
    a.row.clients.listen = lambda *given: done.append("grant") or listen(*given)  # type: ignore[method-assign,func-returns-value]
    a.gateway.receive(c.gateway.ping(a.id, group.now), group.now)
    assert done[:2] == ["grant", "full"]
    assert done[-1] == "last"


def wait_out(group: Group, call: Call, *names: str) -> int:
    """Let time pass until a call has returned, with ticks of some hosts; return how long it took, in ns."""
    began = group.now
    while call.look() is None:
        group.now += SECOND // 10
        group.tick(*names)
        assert group.now < began + 20 * SECOND
    return group.now - began


def test_k3_a_newcomer_waits_for_clients_that_do_not_know_it(group: Group, a: Member, c: Member) -> None:
    group.cut_off("c")  # it keeps its lease, and hears nothing of the newcomer
    n = group.add("n")
    group.cut_off("c")
    group.tick("a", "b", "n")
    group.tick("a", "b", "n")
    assert n.is_current
    assert c.is_current
    label = c.label()
    call = Call(n)
    tell(n)
    assert wait_out(group, call, "a", "b", "n") > 0
    assert call.settled is not None
    assert call.settled.complete
    assert not c.is_current or not c.stands(label)


def test_k3_a_newcomer_notes_for_whom_it_waits_before_it_is_current() -> None:
    """Otherwise a writer between both waits for nobody, and the client has not heard of the newcomer.

    1. The gateway stores that the host is current, and is stopped. 2. Another one is elected. 3. W invalidates, and the
    other gateway has the acknowledgement of A.
    """
    group = Group("a")
    c = group.add("c", client=True)
    group.run(2)
    n = group.add("n")
    group.cut_off("c")
    settled: list[Settled | None] = []

    class Words:
        """Those of the gateway, which is stopped once it has stored that the host is current."""

        def __getitem__(self, place: int) -> int:
            return n.process.words[place]

        def __setitem__(self, place: int, value: int) -> None:
            n.process.words[place] = value
            if place == UNTIL and not settled:
                stopped, n.gateway = n.gateway, n.new_gateway(n.writer, row=1)
                call = Call(n)
                tell(n)
                settled.append(call.look())
                n.gateway = stopped

    n.gateway._words = Words()
    group.tick("a", "n")
    group.tick("a", "n")
    assert n.is_current
    assert c.is_current
    assert settled == [None]


def test_k3_a_newcomer_waits_for_nobody_where_there_are_no_clients() -> None:
    group = Group("a", "b")
    group.run(2)
    n = group.add("n")
    group.tick()
    group.tick()
    assert n.is_current
    call = Call(n)
    tell(n)
    settled = call.look()
    assert settled is not None
    assert settled.complete


def test_k3_a_newcomer_waits_no_more_once_all_clients_know_it(group: Group) -> None:
    n = group.add("n")
    group.run(5)
    call = Call(n)
    tell(n)
    assert call.look() is not None


def test_k3_a_host_that_was_forgotten_and_comes_back_waits_for_clients_that_have_forgotten_it() -> None:
    group = Group("a", "b", "d")
    c = group.add("c", client=True)
    group.run(2)
    b = group.by_name("b")
    group.cut_off("b")
    group.run(40)
    assert c.row.is_forgotten(b.id)
    assert c.is_current
    group.cut.clear()
    group.cut_off("c")
    for _ in range(3):
        group.now += SECOND // 10
        group.tick("a", "b", "d")
    assert b.is_current
    assert c.is_current
    call = Call(b)
    tell(b)
    wait_out(group, call, "a", "b", "d")
    assert call.settled is not None
    assert call.settled.complete
    assert not c.is_current


def late(member: Member, gateway: Gateway, other: Member) -> int:
    """Return what a pong says of clients that were told what does not hold any more, in ns."""
    now = member.group.now
    answers = [each.message for each in gateway.receive(other.gateway.ping(member.id, now), now)]
    (found,) = [each.late for each in answers if isinstance(each, Pong)]
    return found


def test_k3_a_successor_knows_who_has_come_lately(group: Group, a: Member) -> None:
    group.run(5)
    b = group.by_name("b")
    assert late(a, a.new_gateway(a.writer, row=1), b) == 0
    n = group.add("n")
    group.tick("n")
    group.now += SECOND
    assert late(a, a.new_gateway(a.writer, row=2), n) == TIMES.waited - SECOND


def test_k3_a_successor_does_not_know_when_a_host_has_come_back(group: Group, a: Member) -> None:
    b = group.by_name("b")
    group.cut_off("b")
    group.run(40)
    group.cut.clear()
    group.run(10)
    assert late(a, a.gateway, b) == 0
    assert late(a, a.new_gateway(a.writer, row=1), b) == TIMES.waited


def test_k4_a_client_forgets_whom_members_have_forgotten_after_a_reset(group: Group, a: Member, c: Member) -> None:
    label = c.label()
    group.cut_off("b")
    group.run(28)
    assert not c.is_current
    assert c.stands(label)
    group.run(8)  # of two hosts each forgets the other: the client has no name that counts
    assert c.row.is_forgotten(group.by_name("b").id)
    assert c.is_current
    assert not c.stands(label)
    group.cut.clear()
    group.run(5)
    assert c.is_current
    assert not c.row.is_forgotten(group.by_name("b").id)


def test_k4_a_client_forgets_nobody_by_itself(group: Group, c: Member) -> None:
    group.cut |= {("b", "c"), ("c", "b")}
    group.run(60)
    assert not c.is_current
    assert not c.row.is_forgotten(group.by_name("b").id)


def test_k4_a_client_forgets_nobody_that_is_its_only_member() -> None:
    group = Group("a")
    c = group.add("c", client=True)
    group.run(2)
    group.cut_off("c")
    group.run(60)
    assert not c.row.is_forgotten(group.by_name("a").id)


def test_k4_a_client_witnesses_nothing(group: Group, a: Member) -> None:
    """It hears both members, which do not hear each other."""
    group.cut |= {("a", "b"), ("b", "a")}
    group.run(40)
    assert a.row.is_forgotten(group.by_name("b").id)
    assert a.is_current


def test_k4_a_member_that_has_applied_less_of_a_forgotten_host_than_a_client_resets(group: Group, c: Member) -> None:
    a, b = group.by_name("a"), group.by_name("b")
    group.cut |= {("a", "b"), ("b", "a")}
    b.invalidate()
    tell(b)
    assert c.row.positions(b.id, APPLIED) == {0: 1}
    assert a.row.positions(b.id, APPLIED) == {}
    group.cut_off("b")
    group.run(40)
    assert a.row.positions(b.id, APPLIED) == {0: 1}
    depends = dependencies_of_client(c.id, c.row, {}, group.now)
    assert has_applied(a.id, a.row, a.process.log, depends), "its fetches are not refused for ever"


def test_k5_a_client_that_knows_nobody_is_never_current() -> None:
    group = Group()
    c = group.add("c", client=True)
    group.run(60)
    assert not c.is_current
    assert c.until == 0


def test_a_client_that_ends_is_not_waited_for_and_nobody_resets(group: Group, a: Member, c: Member) -> None:
    label = a.label()
    goodbye = c.gateway.goodbye()
    assert isinstance(goodbye, News)
    for _ in range(2):
        group.send(c, [Send(id, goodbye) for id in c.row.live()])
    group.cut_off("c")
    assert a.row.clients.who_may_serve(group.now) == {}
    assert a.row.ids() == [group.by_name("b").id]
    assert a.stands(label)
    call = Call(a)
    tell(a)
    settled = call.look()
    assert settled is not None
    assert settled.acknowledged == ("b",)


def test_the_end_of_a_client_that_nobody_knows_is_no_end_of_a_member(group: Group, a: Member) -> None:
    stranger = Member(group, "x", 77, client=True)
    a.gateway.receive(stranger.gateway.goodbye(), group.now)
    assert a.row.ids() == [group.by_name("b").id]
    assert a.gateway.resets == 0


def test_a_successor_knows_the_clients_and_takes_their_acknowledgements(group: Group, a: Member, c: Member) -> None:
    """The acknowledgement of an event that the predecessor has told comes before any ping."""
    call = Call(a)
    before = a.gateway.look(group.now)
    a.gateway = a.new_gateway(a.writer, row=1)
    assert call.look() is None
    group.cut |= {("c", "b")}
    group.send(a, before)
    settled = call.look()
    assert settled is not None
    assert "c" in settled.acknowledged
    assert a.row.ids() == [group.by_name("b").id], "it is no member of the new row"
    group.run(1)
    assert a.row.clients.granted(c.id) > group.now


def test_a_member_takes_no_events_of_a_client(group: Group, a: Member, c: Member) -> None:
    label = a.label()
    assert a.gateway.receive(Told(c.id, 0, 1, Event(KEYS, (A_KEY,))), group.now) == []
    assert a.stands(label)


def test_there_is_room_for_members_when_there_is_none_for_a_further_client(a: Member, group: Group) -> None:
    for number in range(LISTENERS - 1):
        a.row.clients.listen(
            Host((number + 1).to_bytes(8, "little") * 2, f"x{number}", "", 0), group.now + 1, group.now
        )
    with pytest.raises(TooManyHosts):
        a.row.clients.listen(Host(b"y" * 16, "y", "", 0), group.now + 9, group.now)
    a.row.meet(Host(b"z" * 16, "z", "z:7400", 1), group.now)
    assert len(a.row.live()) == 2
    group.now += 2
    a.row.clients.listen(Host(b"y" * 16, "y", "", 0), group.now + 9, group.now)
    assert a.row.clients.granted(b"y" * 16) == group.now + 9
    assert a.row.clients.granted((1).to_bytes(8, "little") * 2) == 0, "whose place it has taken"


def test_a_row_is_continued_with_its_clients(group: Group, a: Member, c: Member) -> None:
    row = Row(a.process.words, a.process.fences, 0)
    before = a.row.clients.granted(c.id)
    row.clients.raise_to(c.id, ACKED, 5)
    assert row.ids() == [group.by_name("b").id]
    assert row.clients.granted(c.id) == before
    assert a.row.clients.positions(c.id, ACKED) == {0: 5}


# --- Announcements


class Port:
    """What a member does for clients."""

    def __init__(self, member: Member) -> None:
        self.member = member
        writer, group = member.writer, member.group
        self.owner = Owner(
            member.id,
            HostMemory(
                writer.words, writer.rows, writer.log, writer.board, None, None, writer.fences,  # type: ignore[arg-type]
                None,  # type: ignore[arg-type]
            ),
            TIMES, lambda: group.now / SECOND, 1.0,
            Hooks(void=lambda kind, hashes, related: member.invalidate(Event(kind, tuple(hashes), related))),
        )  # fmt: skip
        self.answers: list[bytes] = []

    def ask(self, request: Announce | Settle) -> object:
        """Ask, and return the answer, if there is one at once."""
        self.answers.clear()
        self.owner.serve(encode(request), self.answers.append)
        return self.look()

    def look(self) -> object:
        """Let it look once more."""
        self.owner.run()
        return decode_answer(self.answers[0]) if self.answers else None


def test_what_a_client_invalidates_is_an_event_of_a_member(group: Group, a: Member, c: Member) -> None:
    port, labels = Port(a), [member.label() for member in group.members.values()]
    assert port.ask(Announce(c.id, KEYS, (A_KEY,), False)) is None, "its host has not applied it"
    tell(a)
    group.now += SECOND // 100
    assert port.look() == Announced(a.id, {0: 1}, True)
    assert [member.stands(label) for member, label in zip(group.members.values(), labels, strict=True)] == [False] * 3
    assert port.ask(Settle(c.id, a.id, {0: 1})) == Settlement(("b",), (), (), True)


def test_who_has_the_address_of_a_member_that_has_ended_settles_none_of_its_events(
    group: Group, a: Member, c: Member
) -> None:
    """1. A makes an event for C, and is cut off from B before it is told. It ends, and nobody knows.

    2. A2, which has its address now, has as many events, and more, and B has acknowledged them. 3. C asks at that
    address for A's event. B serves what C has made void, until its lease of A is over.
    """
    b, label = group.by_name("b"), group.by_name("b").label()
    group.cut |= {("a", "b"), ("b", "a")}
    announced = Announced(a.id, {0: 1}, False)
    assert Port(a).ask(Announce(b"x" * 16, KEYS, (A_KEY,), False)) == announced, "from a client that is not known"
    again = group.add("a2")
    group.run(2)
    again.invalidate(Event(KEYS, (1,)))
    again.invalidate(Event(KEYS, (1,)))
    tell(again)
    assert b.row.has_reached(again.id, again.process.log.lasts())
    assert b.stands(label)
    assert Port(again).ask(Settle(c.id, a.id, announced.numbers)) == Refused()


def test_a_client_that_may_serve_nothing_is_not_waited_for_and_told_so(group: Group, a: Member, c: Member) -> None:
    group.cut_off("c")
    group.run(10)
    assert Port(a).ask(Announce(c.id, KEYS, (A_KEY,), False)) == Announced(a.id, {0: 1}, False)


def test_a_client_that_is_slow_is_told_so(group: Group, a: Member, c: Member) -> None:
    port = Port(a)
    assert port.ask(Announce(c.id, KEYS, (A_KEY,), False)) is None
    group.now += int(TELLING * SECOND)
    assert port.look() == Announced(a.id, {0: 1}, False)


def test_what_a_member_cannot_append_is_refused(group: Group, a: Member, c: Member) -> None:
    port = Port(a)
    port.owner._void = lambda kind, hashes, related: None
    assert port.ask(Announce(c.id, KEYS, (A_KEY,), False)) == Refused()
    assert port.ask(Announce(c.id, KEYS, (), False)) == Refused()


@pytest.mark.parametrize(
    "frame",
    [
        requests.encode(Announce(b"short", KEYS, (1,), False)),
        requests.encode(Announce(b"1" * 16, 4, (1,), False)),
        requests.encode(Announce(b"1" * 16, True, (1,), False)),
        requests.encode(Announce(b"1" * 16, KEYS, (-1,), False)),
        requests.encode(Announce(b"1" * 16, KEYS, (1,) * (requests.MAX_VOID + 1), False)),
        requests.encode(Announce(b"1" * 16, KEYS, (1,), 1)),  # type: ignore[arg-type]
        requests.encode(Settle(b"1" * 16, b"short", {0: 1})),
        requests.encode(Settle(b"1" * 16, b"2" * 16, {99: 1})),
        requests.encode(Settle(b"1" * 16, b"2" * 16, {0: -1})),
    ],
)
def test_requests_that_cannot_be_are_refused(a: Member, frame: bytes) -> None:
    port, answers = Port(a), list[bytes]()
    port.owner.serve(frame, answers.append)
    assert decode_answer(answers[0]) == Refused()
    assert port.owner.bad_requests == 1


def test_members_are_asked_one_after_another() -> None:
    announcement = Announcement(Announce(b"1" * 16, KEYS, (1,), False), ())
    members = [b"a" * 16, b"b" * 16]
    assert [announcement.next(members) for _ in range(3)] == [*members, None]
    announcement.succeed(members[0], {0: 3})
    assert announcement.is_over
    announcement.begin_anew(members[0])
    assert not announcement.is_over
    assert announcement.by is None
    assert announcement.next(members) == members[1]
    assert announcement.next(members) is None
    announcement.fail()
    assert announcement.is_over


# --- What a client has invalidated, and nobody has told it yet


def test_what_is_pending_is_named_and_no_member_has_applied_it(group: Group, a: Member, c: Member) -> None:
    log = c.writer.log
    pending = Pending(log)
    assert pending.lasts() == {}
    position = log.append(Event(KEYS, (A_KEY,)))
    depends = dependencies_of_client(c.id, c.row, pending.lasts(), group.now)
    assert depends[c.id] == {0: 1}
    assert not has_applied(a.id, a.row, a.process.log, depends)
    log.mark_stamped(position)
    depends = dependencies_of_client(c.id, c.row, pending.lasts(), group.now)
    assert c.id not in depends
    assert has_applied(a.id, a.row, a.process.log, depends)


def test_a_call_of_several_events_is_pending_until_its_last_one_is_marked(c: Member) -> None:
    log, pending = c.writer.log, Pending(c.writer.log)
    position = log.append_all(KEYS, [*range(1, 21)], True)
    after = log.append(Event(KEYS, (A_KEY,)))
    assert pending.lasts() == {0: 5}
    log.mark_stamped(after)
    assert pending.lasts() == {0: 5}
    log.mark_stamped(position)
    assert pending.lasts() == {}


def test_what_nobody_brings_to_its_end_is_left_after_a_while(c: Member) -> None:
    log, pending = c.writer.log, Pending(c.writer.log)
    first = log.append(Event(KEYS, (A_KEY,)))
    assert pending.left(100, 20) == []
    second = log.append(Event(KEYS, (A_KEY + 1,)))
    assert pending.left(110, 20) == []
    assert pending.left(120, 20) == [first], "the second one was seen later"
    assert pending.left(121, 20) == []
    log.mark_stamped(first)
    assert pending.left(141, 20) == [second]
    log.mark_stamped(second)
    assert pending.left(200, 20) == []
    several = log.append_all(KEYS, [*range(1, 21)], True)
    assert pending.left(300, 20) == []
    assert pending.left(320, 20) == [several]
    assert not log.is_alone(*several)
    assert log.is_alone(*second)
    assert log.is_alone(*Position(0, 1))
