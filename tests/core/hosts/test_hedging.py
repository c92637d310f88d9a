"""When a copy is asked because the owner is slow, and which answer counts."""

from __future__ import annotations

from colocache.core.hosts.hedging import AWAITED, FEW, FIRST, LOOK_EVERY, REST, UNASKED, Hedging, Race

OWNER, OTHER = b"o" * 16, b"p" * 16


def test_at_first_and_for_quick_owners_the_delay_is_the_least() -> None:
    hedging = Hedging()
    assert hedging.delay(OWNER, 0.0) == FIRST
    for _ in range(LOOK_EVERY):
        hedging.note(OWNER, 0.0001)
    assert hedging.delay(OWNER, 0.0) == FIRST


def test_a_slow_owner_is_given_what_nearly_all_its_answers_take() -> None:
    hedging = Hedging()
    for number in range(4 * LOOK_EVERY):
        hedging.note(OWNER, 0.2 if number % 32 == 0 else 0.02)
    assert hedging.delay(OWNER, 0.0) == 0.02
    assert hedging.delay(OTHER, 0.0) == FIRST
    hedging.forget({OTHER})
    assert hedging.delay(OWNER, 0.0) == FIRST


def test_if_too_many_questions_are_asked_twice_none_is_for_a_while() -> None:
    hedging = Hedging()
    for number in range(FEW):
        assert hedging.delay(OWNER, 1.0) is not None
        if number % 20 == 0:
            hedging.hedge(1.0)  # five in a hundred
    hedging.hedge(1.0)
    assert hedging.delay(OWNER, 1.0) is None
    assert hedging.delay(OWNER, 0.9 + REST) is None
    assert hedging.delay(OWNER, 1.0 + REST) is not None


def test_that_is_judged_once_there_are_enough() -> None:
    hedging = Hedging()
    for _ in range(FEW - 1):
        hedging.delay(OWNER, 1.0)
        hedging.hedge(1.0)
    assert hedging.delay(OWNER, 1.0) is not None
    assert hedging.hedged == FEW - 1


def test_who_waits_for_answers_is_woken_however_early_they_come() -> None:
    race, woken = Race(), list[object]()
    race.wait(1, woken.append)
    assert (race.given, woken) == (0, [])
    race.take_owners(None)
    assert (race.given, woken) == (1, [None])
    race.copys = AWAITED
    race.take_copys("an answer")
    race.wait(2, woken.append)
    assert (race.given, len(woken)) == (2, 3)


def test_what_was_not_asked_is_no_answer() -> None:
    race = Race()
    assert (race.owners, race.copys) == (AWAITED, UNASKED)
    assert race.given == 0
