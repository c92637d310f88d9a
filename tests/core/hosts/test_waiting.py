"""Who a writer waits for, how long, and when its receipt is complete."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from colocache.core.hosts.gateway import Forgetting
from colocache.core.hosts.layout import UNTIL
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
