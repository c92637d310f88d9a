"""Receipts: who has acknowledged, who is waited out, and when a promise may be made."""

from __future__ import annotations

import math

import pytest

from colocache.core.group.announcements import Announcements
from colocache.core.group.members import Acquaintance, Member
from colocache.core.receipt import Receipt

LEASE = 3.0
WAITED = LEASE * 1.01  # s; in no case longer


def other(number: int) -> Acquaintance:
    """A member that has met this one."""
    acquaintance = Acquaintance(Member(bytes([number]) * 16, f"host/{number}", number), 0.0)
    acquaintance.met = True
    return acquaintance


class Waiting(Announcements):
    """An announcement of event 5 at instant 0, to two members."""

    def __init__(self, patience: float = math.inf) -> None:
        super().__init__(LEASE)
        self.receipts: list[Receipt] = []
        self.others = [other(1), other(2)]
        self.wait(5, 0.0, patience, self.receipts.append)

    def at(self, now: float, established: bool = True) -> Receipt | None:
        """Advance; return the receipt, if there is one by now."""
        self.advance(self.others, established, now)
        assert len(self.receipts) <= 1
        return self.receipts[0] if self.receipts else None


def test_receipt_comes_with_the_last_acknowledgement() -> None:
    waiting = Waiting()
    waiting.others[1].acked = 9
    assert waiting.at(0.1) is None
    waiting.others[0].acked = 4
    assert waiting.at(0.2) is None
    waiting.others[0].acked = 5
    assert waiting.at(0.3) == Receipt(("host/1", "host/2"), (), True, 0.3)
    assert len(waiting) == 0
    assert waiting.deadline() == math.inf


def test_receipt_of_a_lone_member_comes_at_once() -> None:
    waiting = Waiting()
    waiting.others.clear()
    assert waiting.at(0.0) == Receipt((), (), True, 0.0)


def test_silent_member_is_waited_out_for_the_lease_and_the_drift() -> None:
    waiting = Waiting()
    waiting.others[0].acked = 5
    assert waiting.at(0.0) is None
    assert waiting.deadline() == pytest.approx(WAITED)
    assert waiting.at(WAITED - 0.001) is None
    assert waiting.at(WAITED) == Receipt(("host/1",), ("host/2",), True, WAITED)


def test_member_that_has_not_met_this_one_cannot_be_waited_out() -> None:
    waiting = Waiting()
    waiting.others[0].met = False
    assert waiting.at(0.0) is None
    assert waiting.at(WAITED) == Receipt((), (), False, WAITED)


def test_patience_ends_the_wait_and_promises_nothing() -> None:
    waiting = Waiting(patience=0.5)
    waiting.others[0].acked = 5
    assert waiting.at(0.0) is None
    assert waiting.deadline() == 0.5
    assert waiting.at(0.5) == Receipt(("host/1",), (), False, 0.5)


def test_nothing_is_kept_for_a_silent_member_after_the_calls_have_returned() -> None:
    waiting = Waiting(patience=0.5)
    assert waiting.at(0.0) is None
    assert waiting.at(0.5) is not None
    waiting.wait(6, 0.5, 0.5, lambda receipt: None)
    waiting.advance(waiting.others, True, 0.5)
    assert {len(line) for line in waiting._lines.values()} == {1}


def test_member_that_left_is_not_waited_for() -> None:
    waiting = Waiting()
    assert waiting.at(0.0) is None
    waiting.others.pop().ended = True
    waiting.others[0].acked = 5
    assert waiting.at(0.1) == Receipt(("host/1",), (), True, 0.1)


def test_member_that_is_forgotten_meanwhile_is_waited_out_all_the_same() -> None:
    # It may still serve what it loaded a moment ago: that this member counts it no more does not reach it.
    waiting = Waiting()
    assert waiting.at(0.0) is None
    waiting.others.pop()
    waiting.others[0].acked = 5
    assert waiting.at(0.1) is None
    assert waiting.at(WAITED) == Receipt(("host/1",), ("host/2",), True, WAITED)


def test_member_that_came_after_the_event_is_not_waited_for() -> None:
    waiting = Waiting()
    assert waiting.at(0.0) is None
    waiting.others.append(other(3))
    for each in waiting.others[:2]:
        each.acked = 5
    assert waiting.at(0.1) == Receipt(("host/1", "host/2"), (), True, 0.1)


def test_joiner_waits_until_it_may_promise_and_its_lease_begins_then() -> None:
    waiting = Waiting()
    for each in waiting.others:
        each.acked = 5
    assert waiting.at(1.0, established=False) is None, "others may be there that it does not know"
    waiting.others.append(other(3))
    assert waiting.at(2.0) is None
    assert waiting.at(2.0 + WAITED - 0.001) is None
    assert waiting.at(2.0 + WAITED) == Receipt(("host/1", "host/2"), ("host/3",), True, 2.0 + WAITED)


def test_joiner_that_is_not_established_within_the_lease_promises_nothing() -> None:
    waiting = Waiting()
    assert waiting.at(LEASE - 0.01, established=False) is None
    assert waiting.at(LEASE, established=False) == Receipt((), (), False, LEASE)


def test_calls_wait_each_for_its_own_event() -> None:
    waiting = Waiting()
    later: list[Receipt] = []
    waiting.wait(6, 0.1, math.inf, later.append)
    for each in waiting.others:
        each.acked = 5
    assert waiting.at(0.1) is not None
    assert not later
    waiting.advance(waiting.others, True, 0.1 + WAITED)
    assert later == [Receipt((), ("host/1", "host/2"), True, pytest.approx(WAITED))]


def test_call_that_is_made_while_another_is_settled_is_not_lost() -> None:
    waiting = Waiting()
    waiting.others.clear()
    seen: list[Receipt] = []
    waiting.wait(6, 0.0, math.inf, lambda receipt: waiting.wait(7, 0.0, math.inf, seen.append))
    waiting.advance((), True, 0.0)
    waiting.advance((), True, 0.0)
    assert len(seen) == 1
