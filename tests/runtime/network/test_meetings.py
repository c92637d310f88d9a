"""Who is missed, of those that are listed: the protocol and discovery together, with time that tests make."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from colocache.runtime.network import speaker
from colocache.runtime.network.discovery import FORGET_AFTER, Discovery
from colocache.runtime.network.peers import Address, parse_peers
from colocache.runtime.network.speaker import Meetings
from tests.core.hosts.members import SECOND, Group, Member
from tests.core.hosts.test_waiting import Call

A, X = Address("10.0.0.1", 7400), Address("10.0.0.2", 7400)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    group = Group()
    monkeypatch.setattr(speaker, "monotonic", lambda: group.now / SECOND)
    return group


def lists(member: Member, peers: str, stranger: Callable[[], bool] = lambda: False, row: int = 0) -> Discovery:
    """Let a host list others, in a gateway that begins."""
    discovery = Discovery(parse_peers(peers), member.group.now / SECOND)
    member.meetings = Meetings(discovery, stranger)  # type: ignore[assignment]
    member.gateway = member.new_gateway(member.writer, row)
    return discovery


def test_a_successor_goes_on_beside_a_listed_address_where_nobody_is(group: Group) -> None:
    a = group.add("a")
    lists(a, str(X))
    group.run(FORGET_AFTER - 1)
    assert not a.is_current
    group.run(2)
    assert a.is_current
    for row in (1, 1, 2):
        group.now += SECOND
        lists(a, str(X), row=row)
        for _ in range(10):
            group.run(0.5)
            assert a.is_current


def test_it_waits_for_an_address_that_its_predecessor_has_not_given_up(group: Group) -> None:
    a = group.add("a")
    lists(a, "")
    group.run(2)
    assert a.is_current
    lists(a, str(X), row=1)
    group.run(FORGET_AFTER - 1)
    assert not a.is_current


@pytest.mark.parametrize("is_stopped", [True, False])
def test_who_was_away_for_long_is_not_current_before_it_has_met_whoever_may_have_come(
    group: Group, is_stopped: bool
) -> None:
    """The gateway of a has given up the place of x, and is stopped, or ends without a successor. x comes meanwhile."""
    a = group.add("a")
    lists(a, str(X))
    group.run(FORGET_AFTER + 2)
    assert a.is_current
    x = group.add("x")
    discovery = lists(x, str(A))
    group.cut_off("x")  # neither has dialled the other one yet
    group.run(FORGET_AFTER + 1, "x")
    assert x.is_current
    label = x.label()
    if not is_stopped:
        lists(a, str(X), row=1)
    group.run(1)
    assert not a.is_current
    settled = Call(a).settled
    assert settled is not None
    assert not settled.complete
    assert x.stands(label), "so that receipt would not be true"
    # They meet.
    group.cut.clear()
    discovery.met(A, a.id, group.now / SECOND)
    a.gateway._meetings._discovery.met(X, x.id, group.now / SECOND)  # type: ignore[attr-defined]
    group.run(2)
    assert a.is_current
    assert x.is_current
    assert not x.stands(label)


def test_a_successor_gives_nobody_up_beside_a_stranger(group: Group) -> None:
    """The first one knows that somebody is there who does not understand it. The next one has not dialled him yet."""
    a = group.add("a")
    is_there: list[bool] = []
    lists(a, str(X), stranger=lambda: bool(is_there))
    group.run(FORGET_AFTER + 2)
    assert a.is_current
    is_there.append(True)
    group.run(4)
    assert not a.is_current
    lists(a, str(X), row=1)
    group.run(4)
    assert not a.is_current
