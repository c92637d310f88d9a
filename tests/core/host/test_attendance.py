"""Who is there: too few are told of once nobody comes and goes any more, and not while a deployment goes on."""

from __future__ import annotations

from colocache.core.host.attendance import AGAIN, LONGEST, SETTLED, Attendance, Said

NOTHING, TOO_FEW, ENOUGH = Said.NOTHING, Said.TOO_FEW, Said.ENOUGH
LATER = 1000.0


def those(*numbers: int) -> frozenset[int]:
    """Return processes by their numbers."""
    return frozenset(numbers)


def test_enough_are_not_talked_of() -> None:
    attendance = Attendance()
    assert {attendance.look(2, those(1, 2, 3), now) for now in (0.0, SETTLED, LATER)} == {NOTHING}


def test_too_few_are_told_of_when_nobody_has_come_for_a_while() -> None:
    attendance = Attendance()
    assert attendance.look(3, those(1), 0.0) is NOTHING
    assert attendance.look(3, those(1, 2), SETTLED - 1) is NOTHING
    assert attendance.look(3, those(1, 2), 2 * SETTLED - 1.5) is NOTHING
    assert attendance.look(3, those(1, 2), 2 * SETTLED - 1) is TOO_FEW


def test_a_clock_does_not_begin_at_zero() -> None:
    attendance = Attendance()
    assert attendance.look(2, those(1), LATER) is NOTHING
    assert attendance.look(2, those(1), LATER + SETTLED) is TOO_FEW


def test_they_are_told_of_again_after_a_minute() -> None:
    attendance = Attendance()
    attendance.look(2, those(1), 0.0)
    assert attendance.look(2, those(1), SETTLED) is TOO_FEW
    assert attendance.look(2, those(1), SETTLED + AGAIN - 1) is NOTHING
    assert attendance.look(2, those(1), SETTLED + AGAIN) is TOO_FEW
    assert attendance.look(2, those(1), SETTLED + AGAIN + 1) is NOTHING


def test_another_number_is_told_of_as_soon_as_it_lasts() -> None:
    attendance = Attendance()
    attendance.look(3, those(1), 0.0)
    assert attendance.look(3, those(1), SETTLED) is TOO_FEW
    assert attendance.look(3, those(1, 2), SETTLED + 1) is NOTHING
    assert attendance.look(3, those(1, 2), 2 * SETTLED + 1) is TOO_FEW


def test_nothing_is_said_while_a_deployment_replaces_one_after_the_other() -> None:
    attendance, now = Attendance(), 0.0
    for number in range(100):
        now += SETTLED / 2
        assert attendance.look(2, those(number), now) is NOTHING, "one has ended"
        now += SETTLED / 2
        assert attendance.look(2, those(number, number + 1), now) is NOTHING, "the next one is there"


def test_processes_that_come_and_go_do_not_put_it_off_for_ever() -> None:
    attendance, said = Attendance(), []
    for second in range(int(LONGEST) + 1):
        said.append(attendance.look(3, those(1, 1000 + second), float(second)))
    assert said == [NOTHING] * int(LONGEST) + [TOO_FEW]


def test_it_is_told_when_enough_are_there_again_if_too_few_were_told_of() -> None:
    attendance = Attendance()
    attendance.look(2, those(1), 0.0)
    assert attendance.look(2, those(1, 2), 1.0) is NOTHING, "nobody has heard of it"
    attendance.look(2, those(1), LATER)
    assert attendance.look(2, those(1), LATER + SETTLED) is TOO_FEW
    assert attendance.look(2, those(1, 3), LATER + SETTLED + 1) is ENOUGH
    assert attendance.look(2, those(1, 3), LATER + SETTLED + 2) is NOTHING
    assert attendance.look(2, those(1), LATER + SETTLED + 3) is NOTHING
    assert attendance.look(2, those(1), LATER + 2 * SETTLED + 3) is TOO_FEW, "the minute begins anew"
