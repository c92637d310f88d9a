"""Calls that wait for events: each gets one outcome, and their number is bounded."""

from __future__ import annotations

from typing import Any

import pytest

from colocache.core.group import catching_up
from colocache.core.group.catching_up import CatchingUp
from colocache.core.group.outcomes import CaughtUp
from tests.core.group.fakes import OTHER, Surroundings

POSITIONS = {OTHER: 5}
PATIENCE = 1.0


@pytest.fixture
def around() -> Any:
    made = Surroundings()
    made.applied = False
    return made


@pytest.fixture
def calls(around: Any) -> CatchingUp:
    return CatchingUp(around, around, around.timers, around)


@pytest.mark.parametrize("applied", [True, None])
def test_what_is_applied_or_never_can_be_is_answered_at_once(
    calls: CatchingUp, around: Any, applied: bool | None
) -> None:
    around.applied = applied
    calls.wait(1, POSITIONS, PATIENCE)
    assert around.outcomes() == [(1, CaughtUp(applied is True))]
    assert len(calls) == 0


@pytest.mark.parametrize("applied", [True, None])
def test_a_call_waits_until_the_events_are_applied_or_never_can_be(
    calls: CatchingUp, around: Any, applied: bool | None
) -> None:
    calls.wait(1, POSITIONS, PATIENCE)
    calls.retry()
    assert around.outcomes() == []
    around.applied = applied
    calls.retry()
    assert around.outcomes() == [(1, CaughtUp(applied is True))]
    around.pass_time(PATIENCE)
    assert around.outcomes() == [], "a call is answered once"


def test_a_call_waits_no_longer_than_its_patience(calls: CatchingUp, around: Any) -> None:
    calls.wait(1, POSITIONS, PATIENCE)
    around.pass_time(PATIENCE - 0.1)
    assert around.outcomes() == []
    around.pass_time(0.1)
    assert around.outcomes() == [(1, CaughtUp(False))]
    assert len(calls) == 0


def test_an_abandoned_call_is_forgotten(calls: CatchingUp, around: Any) -> None:
    calls.wait(1, POSITIONS, PATIENCE)
    calls.abandon(1)
    around.pass_time(PATIENCE)
    assert (around.outcomes(), len(calls)) == ([], 0)


def test_calls_beyond_the_limit_do_not_wait(calls: CatchingUp, around: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catching_up, "MAX_WAITING", 1)
    for ticket in (1, 2):
        calls.wait(ticket, POSITIONS, PATIENCE)
    assert around.outcomes() == [(2, CaughtUp(False))]
