"""What a fetch names, and when the owner is as far: with what is served where a name is missing."""

from __future__ import annotations

import pytest

from colocache.core.hosts.dependencies import OVER, Dependencies, dependencies, has_applied
from colocache.core.hosts.messages import Known, News
from colocache.core.hosts.rows import ENDED
from tests.core.hosts.members import Group, Member
from tests.core.hosts.test_waiting import TIMES, Call, tell


@pytest.fixture
def group() -> Group:
    """R, which reads, and O, which owns what it reads, know each other, and are current."""
    group = Group("r", "o")
    group.run(2)
    return group


def asks(group: Group) -> Dependencies:
    """Return what a fetch of R depends on now."""
    r = group.by_name("r")
    return dependencies(r.id, r.row, r.process.log, group.now)


def answers(group: Group, depends: Dependencies) -> bool:
    """Tell whether O answers such a fetch."""
    o = group.by_name("o")
    return has_applied(o.id, o.row, o.process.log, depends)


def ends(member: Member, of: Member) -> None:
    """Have a host hear that another one has crashed, and nobody knows at which event."""
    member.gateway.receive(News(of.id, (Known(of.me, ENDED, None),)), member.group.now)


def test_r4_an_end_is_named_because_receipts_were_given_without_this_host_before_it(group: Group) -> None:
    """Otherwise R would serve, for good, what was void before it had heard of the end.

    1. N is cut off. It invalidates a value. Its call waits until the leases of R and O are over, and returns.
    2. N crashes. R hears of that first, drops everything, and needs N no more to be current.
    3. R fetches the value from O, which has neither heard of the event nor of the end.
    """
    n = group.add("n")
    group.run(2)
    group.cut_off("n")
    call = Call(n)
    tell(n)
    group.now += TIMES.waited
    settled = call.look()
    assert settled is not None
    assert settled.complete
    r, o = group.by_name("r"), group.by_name("o")
    void = o.label()
    ends(r, n)
    depends = asks(group)
    assert depends[n.id] is OVER
    assert o.stands(void)
    assert not answers(group, depends)
    ends(o, n)
    assert not o.stands(void)
    assert answers(group, depends)


def test_r5_an_owner_that_has_never_met_a_host_has_not_applied_its_events(group: Group) -> None:
    """Otherwise the old value would stand at R under the stamps of the event, for good.

    1. N joins, and has met R, but not O. It invalidates a value. R has stamped that.
    2. R reads its new stamps, and fetches the value from O, which does not know that there is a host N.
    """
    n = group.add("n")
    group.cut |= {("n", "o"), ("o", "n"), ("r", "o"), ("o", "r")}
    group.run(1)
    r, o = group.by_name("r"), group.by_name("o")
    stamps, void = r.label(), o.label()
    n.invalidate()
    tell(n)
    assert not r.stands(stamps)
    assert o.row.state(n.id) == 0
    assert o.stands(void)
    depends = asks(group)
    assert depends[n.id] == {0: 1}
    assert not answers(group, depends)
    group.cut.clear()
    group.run(1)
    assert not o.stands(void)
    assert answers(group, depends)


def test_r4_own_events_are_named(group: Group) -> None:
    """1. W, on R's host, has stamped a value. 2. R fetches it from O, which W's gateway has not told yet."""
    void = group.by_name("o").label()
    group.by_name("r").invalidate()
    assert group.by_name("o").stands(void)
    depends = asks(group)
    assert not answers(group, depends)
    tell(group.by_name("r"))
    assert answers(group, depends)


def test_an_owner_whose_own_events_are_named_has_them_in_its_log(group: Group) -> None:
    """What is named of O itself is not what it has applied of others. Of an incarnation before it knows nothing."""
    o = group.by_name("o")
    o.invalidate()
    assert answers(group, {o.id: {0: 1}})
    assert not answers(group, {o.id: {0: 2}})
    assert not answers(group, {o.id: OVER})
