"""The owner's notes of keys that were asked for with a fence."""

from __future__ import annotations

from colocache.core.group.fences import MAX_FENCES, Fences
from colocache.core.keys import prefix, wire

KEEP = 30.0
A, B = wire(prefix("n"), "a"), wire(prefix("n/m"), "b")


def test_a_fence_stands_until_its_key_has_an_event() -> None:
    fences = Fences(KEEP)
    fence = fences.give(A, 7, 0.0)
    assert fences.stands(A, fence, 1.0)
    assert not fences.stands(B, fence, 1.0), "nobody asked for it"
    fences.fall(B)
    assert fences.stands(A, fence, 1.0)
    fences.fall(A)
    assert not fences.stands(A, fence, 1.0)
    assert len(fences) == 0


def test_a_note_stands_only_for_fences_that_are_not_older_than_itself() -> None:
    fences = Fences(KEEP)
    old = fences.give(A, 7, 0.0)
    fences.fall(A)
    new = fences.give(A, 8, 0.1)
    assert (fences.stands(A, old, 0.2), fences.stands(A, new, 0.2)) == (False, True)


def test_all_who_ask_while_nothing_happens_have_a_fence() -> None:
    fences = Fences(KEEP)
    first, later = fences.give(A, 7, 0.0), fences.give(A, 9, 1.0)  # events of other keys between them
    assert fences.stands(A, first, 2.0)
    assert fences.stands(A, later, 2.0)


def test_events_of_a_namespace_cover_those_below_it() -> None:
    fences = Fences(KEEP)
    fence = fences.give(A, 1, 0.0), fences.give(B, 1, 0.0)
    fences.fall_all("n/m")
    assert (fences.stands(A, fence[0], 1.0), fences.stands(B, fence[1], 1.0)) == (True, False)
    fences.fall_all("")
    assert len(fences) == 0


def test_a_fence_holds_for_half_the_time_at_least_and_never_longer() -> None:
    """Invalidations of tags are remembered for that long. A note that was prolonged would outlive them."""
    fences = Fences(KEEP)
    first = fences.give(A, 1, 0.0)
    assert fences.stands(A, first, KEEP - 0.1)
    assert not fences.stands(A, first, KEEP)
    late = fences.give(A, 2, KEEP / 2 + 0.1)
    assert not fences.stands(A, first, KEEP / 2 + 0.2)
    assert fences.stands(A, late, KEEP)
    fences.expire(KEEP)
    assert len(fences) == 1
    fences.expire(2 * KEEP)
    assert len(fences) == 0


def test_the_notes_are_bounded_and_the_oldest_goes_first() -> None:
    fences = Fences(KEEP)
    keys = [wire(prefix(""), f"k{number}") for number in range(MAX_FENCES + 1)]
    for key in keys:
        fences.give(key, 1, 0.0)
    assert len(fences) == MAX_FENCES
    assert not fences.stands(keys[0], 1, 1.0)
    assert fences.stands(keys[-1], 1, 1.0)
