"""The owner's desk: one token per key, in line, and never to be had by a load that an event has overtaken."""

from __future__ import annotations

from typing import Any

import pytest

from colocache.core.group import fills
from colocache.core.group.fills import Desk
from colocache.core.group.messages import Alone, Fill, Get, Load, Wait
from colocache.core.timers import Timers
from tests.core.group.fakes import KEY, KEY2, ME, OTHER, OWNER, THIRD

A, B, C = OTHER, OWNER, THIRD
LOAD_TIMEOUT = 30.0


class Counter(Desk):
    """A desk whose mail is kept."""

    def __init__(self) -> None:
        self.mail: list[Any] = []
        self.timers = Timers()
        super().__init__(ME, LOAD_TIMEOUT, self.mail.append, lambda wires: b"", self.timers)

    def asked(
        self, member: bytes, request: int = 1, key: bytes = KEY, now: float = 0.0, patience: float = 60.0
    ) -> None:
        """Have a member ask for a key."""
        self.ask(Get(member, ME, request, key, patience, b""), now, 0)

    def answers(self) -> list[Any]:
        """Return, and forget, what was answered."""
        mail, self.mail[:] = list(self.mail), []
        return mail


def load(member: bytes, token: int, request: int = 1) -> Load:
    return Load(ME, member, request, token)


def wait(member: bytes, request: int = 1) -> Wait:
    return Wait(ME, member, request)


def fill(member: bytes, token: int, key: bytes = KEY) -> Fill:
    return Fill(member, ME, key, token, b"1", 300.0, 0.0, ())


@pytest.fixture
def desk() -> Counter:
    return Counter()


@pytest.fixture
def line(desk: Counter) -> Counter:
    """A desk where A loads a key, and B and C wait for it."""
    for member in (A, B, C):
        desk.asked(member)
    assert desk.answers() == [load(A, 1), wait(B), wait(A), wait(C)], "A is told, once, that it is waited for"
    return desk


def test_who_asks_twice_is_answered_the_same_and_keeps_one_place_in_line(line: Counter) -> None:
    line.asked(A)
    line.asked(B)
    assert line.answers() == [load(A, 1), wait(B)]
    line.redeem(fill(A, 1))
    assert sorted((asker.member, asker.id) for asker in line.release(KEY, 0.0)) == [(B, 1), (C, 1)]
    assert len(line) == 0


def test_keys_do_not_wait_for_each_other(line: Counter) -> None:
    line.asked(A, 2, KEY2)
    assert line.answers() == [load(A, 2, request=2)]


@pytest.mark.parametrize("wrong", [fill(A, 2), fill(B, 1), fill(A, 1, KEY2)])
def test_token_is_good_for_its_holder_and_its_key_alone(line: Counter, wrong: Fill) -> None:
    assert line.redeem(wrong) is None
    assert line.redeem(fill(A, 1)) is not None


def test_token_is_good_once(line: Counter) -> None:
    grant = line.redeem(fill(A, 1))
    assert grant is not None
    assert (grant.at, grant.moment) == (0.0, 0)
    assert line.redeem(fill(A, 1)) is None


def test_event_voids_the_token_and_the_next_in_line_loads_anew(line: Counter) -> None:
    line.pass_on(KEY, 5.0, 7)
    assert line.answers() == [load(B, 2), wait(B)]
    assert line.redeem(fill(A, 1)) is None
    grant = line.redeem(fill(B, 2))
    assert grant is not None
    assert (grant.at, grant.moment) == (5.0, 7)


def test_namespace_event_voids_the_tokens_of_what_lies_below_it(desk: Counter) -> None:
    desk.asked(A, 1, KEY)
    desk.asked(A, 2, KEY2)
    desk.pass_on_all("users", 0.0, 1)
    assert desk.redeem(fill(A, 2, KEY2)) is None
    desk.pass_on_all("use", 0.0, 1)
    assert desk.redeem(fill(A, 1)) is not None
    desk.asked(A, 3, KEY)
    desk.pass_on_all("", 0.0, 1)
    assert len(desk) == 0


def test_failed_load_passes_on_and_the_second_releases_everybody(line: Counter) -> None:
    line.asked(A, 2)
    assert line.answers() == [wait(A, 2)]
    line.fail(KEY, 1, B, 0.0, 0)
    line.fail(KEY, 2, A, 0.0, 0)
    assert line.answers() == [], "who has no token cannot fail"
    line.fail(KEY, 1, A, 0.0, 0)
    assert line.answers() == [load(B, 2), wait(B)]
    line.fail(KEY, 2, B, 0.0, 0)
    assert line.answers() == [Alone(ME, C, 1), Alone(ME, A, 2)]
    assert len(line) == 0


@pytest.mark.parametrize("first", ["failed", "given up"])
@pytest.mark.parametrize("second", ["failed", "given up"])
def test_loads_that_are_given_up_are_bounded_as_those_that_fail(line: Counter, first: str, second: str) -> None:
    def end(member: bytes, token: int, how: str) -> None:
        if how == "failed":
            line.fail(KEY, token, member, 1.0, 0)
        else:
            line.cancel(member, 1, 1.0, 0)

    end(A, 1, first)
    assert line.answers() == [load(B, 2), wait(B)]
    end(B, 2, second)
    assert line.answers() == [Alone(ME, C, 1)]
    assert len(line) == 0


def test_events_do_not_count_as_loads_that_gave_nothing(line: Counter) -> None:
    line.pass_on(KEY, 1.0, 1)
    line.asked(A, 2)
    line.answers()
    line.cancel(B, 1, 1.0, 0)
    assert line.answers() == [load(C, 3), wait(C)]


def test_who_will_wait_longest_is_to_load_next(desk: Counter) -> None:
    desk.asked(A)
    desk.asked(B, patience=5.0)
    desk.asked(C, patience=50.0)
    desk.answers()
    desk.cancel(A, 1, 1.0, 0)
    assert desk.answers() == [load(C, 2), wait(C)]
    desk.asked(A, 2, patience=60.0)
    assert desk.answers() == [wait(A, 2)], "C knows by now that it is waited for"
    desk.redeem(fill(C, 2))
    assert len(desk.release(KEY, 1.0)) == 2


def test_who_loads_alone_is_not_told_that_it_is_waited_for(desk: Counter) -> None:
    desk.asked(A)
    desk.asked(A)
    assert desk.answers() == [load(A, 1), load(A, 1)]
    desk.asked(B)
    desk.cancel(B, 1, 0.0, 0)
    desk.answers()
    desk.pass_on(KEY, 0.0, 0)
    assert len(desk) == 0


def test_who_waits_no_more_is_passed_over() -> None:
    desk = Counter()
    desk.asked(A)
    desk.asked(B, patience=5.0)
    desk.asked(C, patience=50.0)
    desk.answers()
    desk.pass_on(KEY, 10.0, 1)
    assert desk.answers() == [load(C, 2), wait(C)]
    desk.asked(B, 2, now=10.0, patience=5.0)
    desk.answers()
    desk.redeem(fill(C, 2))
    assert desk.release(KEY, 20.0) == []


def test_token_lapses_after_the_load_timeout(line: Counter) -> None:
    line.timers.run(LOAD_TIMEOUT - 0.1)
    assert line.answers() == []
    line.pass_on(KEY, 29.9, 5)  # the first token is void before it lapses
    assert line.answers() == [load(B, 2), wait(B)]
    line.timers.run(LOAD_TIMEOUT)
    assert line.answers() == [], "the token that lapses does not stand any more"
    line.timers.run(29.9 + LOAD_TIMEOUT)
    assert line.answers() == [load(C, 3)]
    grant = line.redeem(fill(C, 3))
    assert grant is not None
    assert grant.moment == 5, "held to every event since the grant before"


def test_cancelled_request_gives_its_token_or_its_place_up(line: Counter) -> None:
    line.cancel(B, 1, 0.0, 0)
    line.cancel(A, 9, 0.0, 0)
    assert line.answers() == []
    line.cancel(A, 1, 0.0, 0)
    assert line.answers() == [load(C, 2)]
    line.cancel(C, 1, 0.0, 0)
    assert line.answers() == []
    assert len(line) == 0


def test_member_that_left_waits_for_nothing_anywhere(line: Counter) -> None:
    line.asked(A, 2, KEY2)
    line.asked(B, 3, KEY2)
    line.answers()
    line.cancel_all(A, 0.0, 0)
    assert line.answers() == [load(B, 3), wait(B), load(B, 4, request=3)]
    line.cancel_all(B, 0.0, 0)
    assert line.answers() == [load(C, 5)], "who dies has not given a load up"
    assert len(line) == 1


def test_member_that_left_waits_for_nothing_more(line: Counter) -> None:
    line.cancel_all(B, 0.0, 0)
    line.pass_on(KEY, 0.0, 1)
    assert line.answers() == [load(C, 2)]


def test_no_key_is_kept_that_nobody_loads(line: Counter) -> None:
    for n in range(3):
        line.pass_on(KEY, float(n), n)
    assert len(line) == 0
    line.pass_on(KEY, 9.0, 9)
    line.fail(KEY, 3, C, 9.0, 9)
    assert line.release(KEY, 9.0) == []


def test_who_has_left_is_not_given_what_its_other_requests_give_back(line: Counter) -> None:
    line.asked(A, 2)
    line.answers()
    line.cancel_all(A, 0.0, 0)
    assert line.answers() == [load(B, 2), wait(B)]


def test_askers_beyond_the_limits_load_for_themselves(desk: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fills, "MAX_KEYS", 1)
    monkeypatch.setattr(fills, "MAX_WAITERS", 1)
    for request in (1, 2, 3):
        desk.asked(A, request)
    desk.asked(A, 2)
    desk.asked(A, 4, KEY2)
    assert desk.answers() == [load(A, 1), wait(A, 2), wait(A), Alone(ME, A, 3), wait(A, 2), Alone(ME, A, 4)]
    desk.cancel_all(A, 0.0, 0)
    desk.asked(A, 5, KEY2)
    assert desk.answers() == [load(A, 2, 5)]


def test_a_request_is_about_one_key(desk: Counter) -> None:
    desk.asked(A, 1)
    desk.asked(A, 1, KEY2)
    assert desk.answers() == [load(A, 1), Alone(ME, A, 1)]


def test_one_timer_serves_all_tokens_and_what_is_spent_is_not_kept(desk: Counter) -> None:
    for request in range(100):
        desk.asked(A, request, now=float(request) / 10)
        desk.redeem(fill(A, request + 1))
        desk.release(KEY, 0.0)
    assert len(desk.timers._heap) == 1
    assert not desk._standing
    assert not desk._wires


def test_where_dependencies_are_too_many_to_be_named_everybody_loads_alone(line: Counter) -> None:
    line._dependencies = lambda wires: None
    line.pass_on(KEY, 1.0, 1)
    assert line.answers() == [Alone(ME, B, 1), Alone(ME, C, 1)]
    assert len(line) == 0
    assert not line._wires
