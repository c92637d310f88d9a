"""What one process asks other hosts: the owner or a copy, members for a client; and when it goes on after a write."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import pytest

from colocache.core.host.hashes import ROOT
from colocache.core.hosts.dependencies import Dependencies, has_applied
from colocache.core.hosts.event import KEYS, WRITES, Event, Position
from colocache.core.hosts.layout import CLIENT
from colocache.core.hosts.requests import (
    Announce,
    Announced,
    Answer,
    Done,
    Fill,
    Found,
    Get,
    Granted,
    Key,
    Missing,
    Refused,
    Request,
    Settle,
    Settlement,
    decode_request,
    encode,
)
from colocache.core.hosts.rows import Incarnation
from colocache.core.hosts.waiting import Settled
from colocache.hosts import LEFT_BEHIND, Hosts
from tests.core.hosts.members import A_KEY, SECOND, TIMES, Group, Member
from tests.core.hosts.test_waiting import tell

FOUND = Found(b"v", (), math.inf, 0.0, 1, 0)


class Sent(NamedTuple):
    """A request that is under way."""

    to: Incarnation
    request: Request
    on_answer: Callable[[bytes | None], object]
    on_late: Callable[[bytes], object] | None

    def answer(self, answer: Answer | None) -> None:
        """Answer it; None is never."""
        self.on_answer(None if answer is None else encode(answer))


class Net:
    """A network whose requests a test answers."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def request(
        self, to: Incarnation, body: bytes, on_answer: Callable[[bytes | None], object], timeout: float,
        on_late: Callable[[bytes], object] | None = None,
    ) -> None:  # fmt: skip
        """Note it."""
        self.sent.append(Sent(to, decode_request(body), on_answer, on_late))

    def wake_gateway(self) -> None:
        """Do nothing."""

    def take(self) -> Sent:
        """Return the next request."""
        return self.sent.pop(0)


class Asker:
    """A process of a host that asks others."""

    def __init__(self, member: Member) -> None:
        process, group = member.process, member.group
        if not member.me.weight:
            member.memory[CLIENT] = 1
        self.member, self.net = member, Net()
        self.hosts = Hosts(
            member.me, process.words, member.row, process.log, process.fences, TIMES, b"",
            lambda: group.now / SECOND, replicas=2,
        )  # fmt: skip
        self.hosts.network = self.net

    def wire_of(self, owner: Member, copy: Member) -> bytes:
        """Return a key that one host owns, and of which another one has the copy."""
        wanted = [owner.id, copy.id]
        return next(wire for wire in map(b"k%d".__mod__, range(1000)) if self.hosts.owners(wire, 2) == wanted)

    def asks(self, wire: bytes) -> Get:
        """Return a fetch that would load."""
        return Get(Key(wire, (ROOT,)), self.hosts.dependencies(), True, 1.0, self.member.id)


class Flow:
    """A call that is under way: it sleeps, and is woken."""

    def __init__(self, flow: Generator[Any, Any, Any]) -> None:
        self._flow = flow
        self.is_over, self.result = False, None
        self.go_on()

    def go_on(self, woken: object = None) -> bool:
        """Let it go on until it sleeps again; return whether it has ended."""
        try:
            sleep = self._flow.send(woken)
            sleep.register(lambda woken: None)
        except StopIteration as end:
            self.is_over, self.result = True, end.value
        return self.is_over


@pytest.fixture
def group() -> Group:
    """Three hosts that are current."""
    group = Group("a", "b", "c")
    group.run(2)
    return group


@pytest.fixture
def asker(group: Group) -> Asker:
    """A process of host a."""
    return Asker(group.by_name("a"))


def answers(member: Member, depends: Dependencies) -> bool:
    """Tell whether a host is as far as a fetch depends on."""
    return has_applied(member.id, member.row, member.process.log, depends)


# --- After a write at another host


def test_who_has_written_at_another_host_goes_on_once_its_own_host_is_told(group: Group, asker: Asker) -> None:
    """Otherwise who reads next, and asks C because O is slow, is given an older copy: it cannot name the write."""
    o, c = group.by_name("b"), group.by_name("c")
    group.cut |= {("b", "c"), ("c", "b")}
    position = o.invalidate(Event(WRITES, (A_KEY,)))
    flow = Flow(asker.hosts.until_told(Done("STORED", None, False, {position.lane: position.number}, o.id)))
    if not flow.is_over:
        tell(o)
        flow.go_on()
    assert flow.is_over
    assert not answers(c, asker.hosts.dependencies())


def test_a_write_is_told_by_who_has_made_it_and_not_by_who_had_that_address_before(group: Group, asker: Asker) -> None:
    """1. O has had events, and ends, and nobody knows. 2. O2, which has its address now, is asked to write, and does it
    by its first event. 3. The asker's host has heard more than one event of O, and none of O2.
    """
    o, c = group.by_name("b"), group.by_name("c")
    for _ in range(3):
        o.invalidate()
    tell(o)
    o2 = group.add("b2")
    position = o2.invalidate(Event(WRITES, (A_KEY,)))
    flow = Flow(asker.hosts.until_told(Done("STORED", None, False, {position.lane: position.number}, o2.id)))
    assert not flow.is_over, "not even known"
    group.run(2)
    flow.go_on()
    assert flow.is_over
    assert o2.id in asker.hosts.dependencies()
    assert answers(c, asker.hosts.dependencies())


def test_nobody_waits_for_what_was_not_written_nor_for_a_host_that_is_over(group: Group, asker: Asker) -> None:
    o = group.by_name("b")
    assert Flow(asker.hosts.until_told(None)).is_over
    flow = Flow(asker.hosts.until_told(Done("STORED", None, False, {0: 1}, o.id)))
    assert not flow.is_over
    group.by_name("a").gateway.receive(o.gateway.goodbye(), group.now)
    assert flow.go_on()


# --- The owner, or a copy


def race(group: Group, asker: Asker) -> tuple[Flow, Sent, Sent]:
    """Let the owner be slow, so that both are asked."""
    b, c = group.by_name("b"), group.by_name("c")
    flow = Flow(asker.hosts.ask_or_copy(b.id, asker.asks(asker.wire_of(b, c))))
    flow.go_on()  # its time is over
    owners, copys = asker.net.take(), asker.net.take()
    assert (owners.to, copys.to) == (b.id, c.id)
    return flow, owners, copys


def test_a_copy_depends_on_the_same_and_is_not_asked_to_let_anybody_load(group: Group, asker: Asker) -> None:
    """Otherwise two load: the owner, or whoever it lets load, and who asks the copy."""
    group.by_name("c").invalidate()
    tell(group.by_name("c"))
    _, owners, copys = race(group, asker)
    assert isinstance(owners.request, Get)
    assert isinstance(copys.request, Get)
    assert (owners.request.leads, copys.request.leads) == (True, False)
    assert owners.request.depends == copys.request.depends
    assert owners.request.depends[group.by_name("c").id] == {0: 1}


@pytest.mark.parametrize("given", [Missing(b"a fence of the copy", {}), Granted(5, {}), Refused(), None])
def test_what_a_copy_does_not_have_decides_nothing(group: Group, asker: Asker, given: Answer | None) -> None:
    """The copy may be missing where the owner has a value, or lets somebody load."""
    flow, owners, copys = race(group, asker)
    copys.answer(given)
    assert not flow.go_on()
    owners.answer(Missing(b"a fence", {}))
    assert flow.go_on()
    assert flow.result == Missing(b"a fence", {})


def test_if_the_owner_cannot_answer_its_answer_counts_all_the_same_unless_the_copy_has_a_value(
    group: Group, asker: Asker
) -> None:
    flow, owners, copys = race(group, asker)
    owners.answer(Refused())
    assert not flow.go_on()
    copys.answer(Missing(b"a fence of the copy", {}))
    assert flow.go_on()
    assert flow.result == Refused()


def test_a_load_that_is_granted_when_the_copy_has_answered_is_given_back(group: Group, asker: Asker) -> None:
    """Otherwise nobody could load the key once the copy is void, until the load timeout of the owner is over."""
    flow, owners, copys = race(group, asker)
    copys.answer(FOUND)
    assert flow.go_on()
    assert flow.result == FOUND
    owners.answer(Granted(7, {}))
    given_back = asker.net.take()
    assert (given_back.to, given_back.request) == (owners.to, Fill(7, None, 0.0, 0.0))


def test_a_load_that_is_granted_first_is_the_callers(group: Group, asker: Asker) -> None:
    flow, owners, copys = race(group, asker)
    owners.answer(Granted(7, {}))
    copys.answer(FOUND)
    assert flow.go_on()
    assert flow.result == Granted(7, {})
    assert asker.net.sent == []


def test_a_load_that_is_granted_too_late_is_given_back(group: Group, asker: Asker) -> None:
    flow, owners, copys = race(group, asker)
    owners.answer(None)
    copys.answer(None)
    assert flow.go_on()
    assert flow.result is None
    assert owners.on_late is not None
    owners.on_late(encode(Granted(7, {})))
    assert asker.net.take().request == Fill(7, None, 0.0, 0.0)


# --- A client


@pytest.fixture
def client(group: Group) -> Asker:
    """A process of a client that hears all three."""
    c = group.add("client", client=True)
    group.run(6)
    assert c.is_current
    return Asker(c)


def test_k1_a_client_that_is_behind_serves_nothing_however_young_it_is(group: Group, client: Asker) -> None:
    """Members wait for its lease once, and not for it any more after that.

    1. A client is cut off from A. A waits for its lease, once. 2. W, on A, invalidates what the client has loaded just
    now. Nobody waits for the client, so W's call returns. 3. The client is still cut off.
    """
    group.cut_off("client")
    now = client.member.until / SECOND
    assert client.hosts.lease.loaded_after(now - 0.001) == -math.inf
    assert client.hosts.lease.loaded_after(now) == math.inf


def voids(client: Asker) -> Position:
    """Do what a client does that invalidates: its own log, its board, and not yet a member."""
    log = client.member.process.log
    position = log.append(Event(KEYS, (A_KEY,)))
    client.member.process.board.invalidate((A_KEY,))
    return position


def test_what_a_client_has_stamped_is_named_by_its_fetches_until_its_host_is_told(group: Group, client: Asker) -> None:
    """At each step of the one that names it, a member may tell this host, which marks it.

    1. R looks at what is told: nothing. 2. A tells the event, and it is marked. 3. R looks at the log: all is marked.
    R would name it by neither.
    """
    a, step = group.by_name("a"), 0
    while True:
        steps, before = client.member.process.steps, a.process.log.lasts().get(0, 0)
        position = voids(client)

        def told(position: Position = position) -> None:
            a.invalidate()
            tell(a)
            client.member.process.log.mark_stamped(position)

        steps.steps_left, steps.others = step, told
        depends = client.hosts.dependencies()
        was_overtaken, steps.steps_left = steps.steps_left is None, None
        assert client.member.id in depends or (depends[a.id] or {}).get(0, 0) > before
        if not was_overtaken:
            told()
            break
        step += 1
    assert step > 20


def test_what_a_client_announces_is_marked_once_its_host_has_applied_it(group: Group, client: Asker) -> None:
    """Otherwise a fetch does not name it, before it can name the member's event."""
    position, log = voids(client), client.member.process.log
    announcement = client.hosts.announce_far(KEYS, (A_KEY,), False, position)
    client.net.take().answer(Announced(b"a" * 16, {0: 1}, False))
    assert announcement.is_over
    assert not log.is_stamped(*position)
    assert client.member.id in client.hosts.dependencies()
    client.hosts.announce_far(KEYS, (A_KEY,), False, position)
    client.net.take().answer(Announced(b"a" * 16, {0: 1}, True))
    assert log.is_stamped(*position)
    assert client.member.id not in client.hosts.dependencies()


def test_if_a_member_does_not_answer_the_next_one_is_asked(group: Group, client: Asker) -> None:
    announcement = client.hosts.announce_far(KEYS, (A_KEY,), False, voids(client))
    first = client.net.take()
    first.answer(None)
    second = client.net.take()
    assert second.to != first.to
    second.answer(Announced(second.to, {0: 4}, True))
    assert (announcement.by, announcement.numbers) == (second.to, {0: 4})


def test_an_announcement_is_by_who_says_so_and_not_by_who_was_asked(group: Group, client: Asker) -> None:
    """Otherwise what the new incarnation calls its event 1 would be taken for event 1 of the old one."""
    announcement = client.hosts.announce_far(KEYS, (A_KEY,), False, voids(client))
    again = group.add("again")
    group.run(2)
    client.net.take().answer(Announced(again.id, {0: 1}, True))
    assert announcement.by == again.id
    assert client.hosts.announced() == [(again.id, 0, 1)]
    Flow(client.hosts.settle_far([announcement], 60.0))
    settle = client.net.take()
    assert (settle.to, settle.request) == (again.id, Settle(client.member.id, again.id, {0: 1}))


def test_a_member_that_ends_between_its_two_answers_has_settled_nothing(group: Group, client: Asker) -> None:
    announcement = client.hosts.announce_far(KEYS, (A_KEY,), False, voids(client))
    first = client.net.take()
    first.answer(Announced(first.to, {0: 1}, True))
    flow = Flow(client.hosts.settle_far([announcement], 60.0))
    settle = client.net.take()
    assert (settle.to, settle.request) == (first.to, Settle(client.member.id, first.to, {0: 1}))
    settle.answer(None)
    assert not flow.go_on(), "another one is asked to announce it"
    again = client.net.take()
    assert again.to != first.to
    assert isinstance(again.request, Announce)
    again.answer(Announced(again.to, {0: 9}, True))
    flow.go_on()
    client.net.take().answer(Settlement(("x",), (), (), True))
    assert flow.go_on()
    assert flow.result == Settled((group.members[again.to].me.name, "x"), (), (), True)


def test_what_a_killed_process_of_a_client_has_stamped_is_announced_after_a_while(group: Group, client: Asker) -> None:
    """Otherwise no fetch of this host could be answered any more, because no member is as far as its own log."""
    voids(client)
    client.hosts.announce_what_was_left()
    assert client.net.sent == []
    group.now += LEFT_BEHIND
    client.hosts.announce_what_was_left()
    left = client.net.take()
    assert left.request == Announce(client.member.id, KEYS, (A_KEY,), False)
    left.answer(Announced(left.to, {0: 1}, True))
    assert client.member.id not in client.hosts.dependencies()


def test_of_a_host_that_is_not_there_any_more_it_is_not_remembered_that_it_was_slow(group: Group, asker: Asker) -> None:
    hosts, present, gone = asker.hosts, group.by_name("b").id, b"\x77" * 16
    hosts._note(present, False)
    hosts._note(gone, False)
    hosts._deal()
    assert [*hosts._slow] == [present]
    hosts._note(present, True)
    assert not hosts._slow
