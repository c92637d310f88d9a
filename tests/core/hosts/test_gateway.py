"""The gateway of a host: each rule of the protocol, one by one."""

from __future__ import annotations

from colocache.core.hosts.rows import ENDED, LIVE
from tests.core.hosts.members import Group


def test_hosts_meet_and_are_current() -> None:
    group = Group("a", "b", "c")
    group.run(2)
    assert [member.is_current for member in group.members.values()] == [True] * 3


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
