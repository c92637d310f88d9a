"""Who a writer waits for, how long, and when its receipt is complete."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from colocache.core.hosts.gateway import Forgetting
from colocache.core.hosts.layout import UNTIL
from colocache.core.hosts.lease import Lease
from colocache.core.hosts.messages import Replayed, Reset, Told
from colocache.core.hosts.rows import Rows
from colocache.core.hosts.waiting import LONGEST_PAUSE, PAUSE_FOR_EACH, Progress, Settled, settle
from tests.core.host.shelves import StepFences, Steps
from tests.core.hosts.members import SECOND, TIMES, Group, Member

LONG = 100 * SECOND


class Call:
    """A call that waits."""

    def __init__(self, member: Member, patience: int = LONG) -> None:
        self.group = member.group
        writer = member.writer
        position = member.invalidate()
        numbers = {position.lane: position.number}
        self.flow: Generator[float, int, Settled] = settle(
            writer.words, writer.rows, TIMES, numbers, self.group.now, patience
        )
        self.settled: Settled | None = None
        self._go(lambda: next(self.flow))

    def _go(self, step: object) -> None:
        try:
            pause = step()  # type: ignore[operator]
            assert 0 < pause <= LONGEST_PAUSE
        except StopIteration as end:
            self.settled = end.value

    def look(self) -> Settled | None:
        """Let it look once more; return what has come of it."""
        if self.settled is None:
            self._go(lambda: self.flow.send(self.group.now))
        return self.settled


@pytest.fixture
def group() -> Group:
    group = Group("a", "b", "c")
    group.run(2)
    return group


def tell(member: Member) -> None:
    """Have a host tell the others of its events."""
    member.group.send(member, member.gateway.look(member.group.now))


def test_a_receipt_is_complete_once_all_have_acknowledged(group: Group) -> None:
    call = Call(group.by_name("a"))
    assert call.look() is None
    tell(group.by_name("a"))
    assert call.look() == Settled(("b", "c"), (), (), True)


def test_who_is_alone_waits_for_nobody() -> None:
    group = Group("a")
    group.tick()
    assert Call(group.by_name("a")).settled == Settled((), (), (), True)


def test_who_says_nothing_is_waited_for_a_lease_and_a_bit(group: Group) -> None:
    group.cut = {("c", "a")}
    call = Call(group.by_name("a"))
    tell(group.by_name("a"))
    group.now += TIMES.lease
    assert call.look() is None
    group.now += TIMES.lease // 100
    assert call.look() == Settled(("b",), ("c",), (), True)


def test_a_receipt_is_not_complete_if_patience_is_over(group: Group) -> None:
    group.cut = {("c", "a")}
    call = Call(group.by_name("a"), patience=SECOND)
    tell(group.by_name("a"))
    group.now += SECOND
    assert call.look() == Settled(("b",), ("c",), (), False)


def test_who_has_ended_is_not_waited_for(group: Group) -> None:
    call = Call(group.by_name("a"))
    group.cut = {("c", "a")}
    tell(group.by_name("a"))
    assert call.look() is None
    group.by_name("a").gateway.receive(group.by_name("c").gateway.goodbye(), group.now)
    assert call.look() == Settled(("b",), (), (), True)


def test_w4_a_host_that_is_not_established_waits_for_that_and_then_reads_who_is_there() -> None:
    group = Group("a")
    a = group.by_name("a")
    call = Call(a)
    assert call.look() is None
    group.add("b")
    group.cut = {("b", "a")}
    a.gateway.receive(group.by_name("b").gateway.ping(None, group.now), group.now)
    group.now += SECOND
    assert call.look() is None
    a.memory[UNTIL] = group.now + TIMES.lease  # it is established now
    assert call.look() is None
    group.now += TIMES.lease  # the wait begins when that was seen
    assert call.look() is None
    group.now += TIMES.lease // 100
    assert call.look() == Settled((), ("b",), (), True)


def test_w4_a_host_that_does_not_become_established_gives_no_complete_receipt() -> None:
    group = Group("a")
    call = Call(group.by_name("a"))
    group.now += 3 * TIMES.lease
    assert call.look() == Settled((), (), (), False)


def test_q2_who_was_not_current_for_long_gives_no_complete_receipt(group: Group) -> None:
    for member in group.members.values():
        member.gateway = member.new_gateway(member.process, 0, Forgetting.NEVER)
    group.cut_off("a")
    a = group.by_name("a")
    group.now = a.until + TIMES.serves_by_age - TIMES.waited
    call = Call(a)
    group.now += TIMES.waited
    assert call.look() == Settled((), ("b", "c"), (), True)
    group.now += 1
    late = Call(a)
    group.now += TIMES.waited
    assert late.look() == Settled((), ("b", "c"), (), False)


def come_back(group: Group) -> None:
    """Have host c, which was cut off, be heard again. Its events get lost."""
    group.cut.clear()
    group.lost = (Told, Replayed, Reset)


def test_q2_who_was_forgotten_when_it_began_to_wait_promises_nothing(group: Group) -> None:
    """By then others have taken it back, and it is current; their processes may still serve what they had before."""
    a, c = group.by_name("a"), group.by_name("c")
    group.cut_off("c")
    group.run(40)
    label = a.label()
    call = Call(c)
    group.run(1.5)
    reader = Lease(a.writer.words, a.writer.fences, lease=3.0, serves_by_age=0.0)
    reader.until(group.now / SECOND)
    come_back(group)
    group.run(1.5)
    assert call.look() is None
    assert c.is_current
    assert not a.is_current
    group.now += TIMES.waited - 3 * SECOND
    assert a.stands(label)
    assert reader.until(group.now / SECOND) > group.now / SECOND, "it has a copy of the word"
    assert call.look() == Settled((), ("a", "b"), (), False)


def test_q2_a_wait_begins_anew_if_the_host_may_have_been_forgotten_meanwhile(group: Group) -> None:
    """The writer stops when it has read its clock, and its host is forgotten, and current again, when it goes on."""
    a, c = group.by_name("a"), group.by_name("c")
    group.cut_off("c")
    group.run(40)
    position, since = c.invalidate(), group.now
    group.run(1.5)
    come_back(group)
    group.run(1.5)
    assert c.is_current
    flow = settle(c.writer.words, c.writer.rows, TIMES, {position.lane: position.number}, since, LONG)
    next(flow)
    flow.send(since + TIMES.waited)
    flow.send(since + 2 * TIMES.waited - 1)
    with pytest.raises(StopIteration) as end:
        flow.send(since + 2 * TIMES.waited)
    assert end.value.value == Settled((), ("a", "b"), (), True)
    assert a.until < since + 2 * TIMES.waited


def test_who_is_forgotten_is_named(group: Group) -> None:
    group.cut_off("c")
    group.run(35)
    call = Call(group.by_name("a"))
    tell(group.by_name("a"))
    assert call.look() == Settled(("b",), (), ("c",), True)


def test_w5_the_roster_is_loaded_after_the_word() -> None:
    """On a machine that loads early, what was known before the host was established would count."""
    group = Group("a")
    group.tick()
    a, journal = group.by_name("a"), list[str]()

    class Words:
        def __getitem__(self, place: int) -> int:
            journal.append("until" if place == UNTIL else "rows")
            return a.memory[place]

        def __setitem__(self, place: int, value: int) -> None:
            raise AssertionError(place)

    class Fences(StepFences):
        def order(self) -> None:
            journal.append("order")

    words = Words()
    flow = settle(words, Rows(words, Fences(Steps())), TIMES, {0: 1}, group.now, LONG)
    with pytest.raises(StopIteration):
        next(flow)
    assert journal[:3] == ["until", "order", "rows"]


def test_the_more_calls_wait_the_more_seldom_each_looks() -> None:
    progress = Progress()
    assert progress.pause(0.002) == 0.002
    for one in range(1000):
        progress.join(one, progress.made, lambda _: None)
    assert progress.pause(0.002) == 0.002 + 999 * PAUSE_FOR_EACH
    for one in range(1, 1000):
        progress.leave(one)
    assert progress.pause(0.002) == 0.002
