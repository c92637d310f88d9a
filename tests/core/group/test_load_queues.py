"""The owner's load queues: one token per key, and no load that an event has overtaken keeps one."""

from __future__ import annotations

from typing import Any

import pytest

from colocache.core.group import load_queues
from colocache.core.group.load_queues import LoadQueues
from colocache.core.group.messages import Alone, Fail, Fill, Get, Load, Wait
from tests.core.group.fakes import KEY, KEY2, ME, OTHER, OWNER, THIRD, Surroundings

A, B, C = OTHER, OWNER, THIRD
LOAD_TIMEOUT = 30.0


class Queues(LoadQueues):
    """Load queues whose answers are kept."""

    def __init__(self) -> None:
        self.around: Any = Surroundings()
        self.around.now = 0.0
        self.timers = self.around.timers
        super().__init__(self.around, self.around, self.timers)

    def at(self, now: float, version: int = 0) -> Queues:
        """Let time pass, and events be applied."""
        self.around.at(now, version)
        return self

    def run(self, now: float) -> None:
        """Run the timers."""
        self.around.now = now
        self.timers.run(now)

    def failed(self, token: int, member: bytes) -> None:
        """Have a member say that its load has failed."""
        self.fail(Fail(member, ME, KEY, token))

    def asked(
        self, member: bytes, request: int = 1, key: bytes = KEY, now: float = 0.0, patience: float = 60.0
    ) -> None:
        """Have a member ask for a key."""
        self.at(now).ask(Get(member, ME, request, key, patience, b""))

    def answers(self) -> list[Any]:
        """Return, and forget, what was answered."""
        return list(self.around.take())


def load(member: bytes, token: int, request: int = 1) -> Load:
    return Load(ME, member, request, token)


def wait(member: bytes, request: int = 1) -> Wait:
    return Wait(ME, member, request)


def fill(member: bytes, token: int, key: bytes = KEY) -> Fill:
    return Fill(member, ME, key, token, b"1", 300.0, 0.0, ())


@pytest.fixture
def queues() -> Queues:
    return Queues()


@pytest.fixture
def line(queues: Queues) -> Queues:
    """A queues where A loads a key, and B and C wait for it."""
    for member in (A, B, C):
        queues.asked(member)
    assert queues.answers() == [load(A, 1), wait(B), wait(A), wait(C)], "A is told, once, that it is waited for"
    return queues


def test_who_asks_twice_is_answered_the_same_and_keeps_one_place_in_line(line: Queues) -> None:
    line.asked(A)
    line.asked(B)
    assert line.answers() == [load(A, 1), wait(B)]
    line.redeem(fill(A, 1))
    assert sorted((asker.member, asker.id) for asker in line.release(KEY)) == [(B, 1), (C, 1)]
    assert len(line) == 0


def test_keys_do_not_wait_for_each_other(line: Queues) -> None:
    line.asked(A, 2, KEY2)
    assert line.answers() == [load(A, 2, request=2)]


@pytest.mark.parametrize("wrong", [fill(A, 2), fill(B, 1), fill(A, 1, KEY2)])
def test_token_is_good_for_its_holder_and_its_key_alone(line: Queues, wrong: Fill) -> None:
    assert line.redeem(wrong) is None
    assert line.redeem(fill(A, 1)) is not None


def test_token_is_good_once(line: Queues) -> None:
    grant = line.redeem(fill(A, 1))
    assert grant is not None
    assert (grant.at, grant.version) == (0.0, 0)
    assert line.redeem(fill(A, 1)) is None


def test_event_voids_the_token_and_the_next_in_line_loads_anew(line: Queues) -> None:
    line.at(5.0, 7).pass_on(KEY)
    assert line.answers() == [load(B, 2), wait(B)]
    assert line.redeem(fill(A, 1)) is None
    grant = line.redeem(fill(B, 2))
    assert grant is not None
    assert (grant.at, grant.version) == (5.0, 7)


def test_namespace_event_voids_the_tokens_of_what_lies_below_it(queues: Queues) -> None:
    queues.asked(A, 1, KEY)
    queues.asked(A, 2, KEY2)
    queues.at(0.0, 1).pass_on_all("users")
    assert queues.redeem(fill(A, 2, KEY2)) is None
    queues.at(0.0, 1).pass_on_all("use")
    assert queues.redeem(fill(A, 1)) is not None
    queues.asked(A, 3, KEY)
    queues.at(0.0, 1).pass_on_all("")
    assert len(queues) == 0


def test_failed_load_passes_on_and_the_second_releases_everybody(line: Queues) -> None:
    line.asked(A, 2)
    assert line.answers() == [wait(A, 2)]
    line.failed(1, B)
    line.failed(2, A)
    assert line.answers() == [], "who has no token cannot fail"
    line.failed(1, A)
    assert line.answers() == [load(B, 2), wait(B)]
    line.failed(2, B)
    assert line.answers() == [Alone(ME, C, 1), Alone(ME, A, 2)]
    assert len(line) == 0


@pytest.mark.parametrize("first", ["failed", "given up"])
@pytest.mark.parametrize("second", ["failed", "given up"])
def test_loads_that_are_given_up_are_bounded_as_those_that_fail(line: Queues, first: str, second: str) -> None:
    def end(member: bytes, token: int, how: str) -> None:
        if how == "failed":
            line.at(1.0, 0).failed(token, member)
        else:
            line.at(1.0, 0).cancel(member, 1)

    end(A, 1, first)
    assert line.answers() == [load(B, 2), wait(B)]
    end(B, 2, second)
    assert line.answers() == [Alone(ME, C, 1)]
    assert len(line) == 0


def test_events_do_not_count_as_loads_that_gave_nothing(line: Queues) -> None:
    line.at(1.0, 1).pass_on(KEY)
    line.asked(A, 2)
    line.answers()
    line.at(1.0, 0).cancel(B, 1)
    assert line.answers() == [load(C, 3), wait(C)]


def test_who_will_wait_longest_is_to_load_next(queues: Queues) -> None:
    queues.asked(A)
    queues.asked(B, patience=5.0)
    queues.asked(C, patience=50.0)
    queues.answers()
    queues.at(1.0, 0).cancel(A, 1)
    assert queues.answers() == [load(C, 2), wait(C)]
    queues.asked(A, 2, patience=60.0)
    assert queues.answers() == [wait(A, 2)], "C knows by now that it is waited for"
    queues.redeem(fill(C, 2))
    assert len(queues.at(1.0).release(KEY)) == 2


def test_who_loads_alone_is_not_told_that_it_is_waited_for(queues: Queues) -> None:
    queues.asked(A)
    queues.asked(A)
    assert queues.answers() == [load(A, 1), load(A, 1)]
    queues.asked(B)
    queues.cancel(B, 1)
    queues.answers()
    queues.pass_on(KEY)
    assert len(queues) == 0


def test_who_waits_no_more_is_passed_over() -> None:
    queues = Queues()
    queues.asked(A)
    queues.asked(B, patience=5.0)
    queues.asked(C, patience=50.0)
    queues.answers()
    queues.at(10.0, 1).pass_on(KEY)
    assert queues.answers() == [load(C, 2), wait(C)]
    queues.asked(B, 2, now=10.0, patience=5.0)
    queues.answers()
    queues.redeem(fill(C, 2))
    assert queues.at(20.0).release(KEY) == []


def test_token_lapses_after_the_load_timeout(line: Queues) -> None:
    line.run(LOAD_TIMEOUT - 0.1)
    assert line.answers() == []
    line.at(29.9, 5).pass_on(KEY)  # the first token is void before it lapses
    assert line.answers() == [load(B, 2), wait(B)]
    line.run(LOAD_TIMEOUT)
    assert line.answers() == [], "the token that lapses does not stand any more"
    line.run(29.9 + LOAD_TIMEOUT)
    assert line.answers() == [load(C, 3)]
    grant = line.redeem(fill(C, 3))
    assert grant is not None
    assert grant.version == 5


def test_cancelled_request_gives_its_token_or_its_place_up(line: Queues) -> None:
    line.cancel(B, 1)
    line.cancel(A, 9)
    assert line.answers() == []
    line.cancel(A, 1)
    assert line.answers() == [load(C, 2)]
    line.cancel(C, 1)
    assert line.answers() == []
    assert len(line) == 0


def test_member_that_left_waits_for_nothing_anywhere(line: Queues) -> None:
    line.asked(A, 2, KEY2)
    line.asked(B, 3, KEY2)
    line.answers()
    line.cancel_all(A)
    assert line.answers() == [load(B, 3), wait(B), load(B, 4, request=3)]
    line.cancel_all(B)
    assert line.answers() == [load(C, 5)], "who dies has not given a load up"
    assert len(line) == 1


def test_member_that_left_waits_for_nothing_more(line: Queues) -> None:
    line.cancel_all(B)
    line.at(0.0, 1).pass_on(KEY)
    assert line.answers() == [load(C, 2)]


def test_no_key_is_kept_that_nobody_loads(line: Queues) -> None:
    for n in range(3):
        line.at(float(n), n).pass_on(KEY)
    assert len(line) == 0
    line.at(9.0, 9).pass_on(KEY)
    line.at(9.0, 9).failed(3, C)
    assert line.at(9.0).release(KEY) == []


def test_who_has_left_is_not_given_what_its_other_requests_give_back(line: Queues) -> None:
    line.asked(A, 2)
    line.answers()
    line.cancel_all(A)
    assert line.answers() == [load(B, 2), wait(B)]


def test_askers_beyond_the_limits_load_for_themselves(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_queues, "MAX_KEYS", 1)
    monkeypatch.setattr(load_queues, "MAX_WAITERS", 1)
    for request in (1, 2, 3):
        queues.asked(A, request)
    queues.asked(A, 2)
    queues.asked(A, 4, KEY2)
    assert queues.answers() == [load(A, 1), wait(A, 2), wait(A), Alone(ME, A, 3), wait(A, 2), Alone(ME, A, 4)]
    queues.cancel_all(A)
    queues.asked(A, 5, KEY2)
    assert queues.answers() == [load(A, 2, 5)]


def test_a_request_is_about_one_key(queues: Queues) -> None:
    queues.asked(A, 1)
    queues.asked(A, 1, KEY2)
    assert queues.answers() == [load(A, 1), Alone(ME, A, 1)]


def test_one_timer_serves_all_tokens_and_what_is_spent_is_not_kept(queues: Queues) -> None:
    for request in range(100):
        queues.asked(A, request, now=float(request) / 10)
        queues.redeem(fill(A, request + 1))
        queues.release(KEY)
    assert len(queues.timers._heap) == 1
    assert not queues._standing
    assert not queues._wires


def test_where_dependencies_are_too_many_to_be_named_everybody_loads_alone(line: Queues) -> None:
    line.around.positions = None
    line.at(1.0, 1).pass_on(KEY)
    assert line.answers() == [Alone(ME, B, 1), Alone(ME, C, 1)]
    assert len(line) == 0
    assert not line._wires
