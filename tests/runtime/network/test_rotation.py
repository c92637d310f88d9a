"""Which secret is tried next, and when."""

from __future__ import annotations

import pytest

from colocache.runtime.network.rotation import PAUSE, PAUSE_AT_MOST, Rotation


def test_every_secret_has_its_turn_at_once_and_then_there_is_a_pause_that_grows() -> None:
    rotation = Rotation(2, lambda: 1.0)
    tried, pauses = [], []
    for _ in range(16):
        tried.append(rotation.current)
        pauses.append(rotation.failed(refused=True))
    assert tried == [0, 1] * 8
    assert pauses[::2] == [0.0] * 8
    assert pauses[1::2] == [PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE, 16 * PAUSE, *[PAUSE_AT_MOST] * 3]


def test_pauses_end_at_different_times_and_never_grow_beyond_all_bounds() -> None:
    assert Rotation(1, lambda: 0.0).failed(True) == PAUSE / 2
    assert Rotation(1, lambda: 0.5).failed(True) == PAUSE * 0.75
    rotation = Rotation(1, lambda: 1.0)
    assert max(rotation.failed(True) for _ in range(5000)) == PAUSE_AT_MOST


def test_the_secret_that_was_right_is_the_first_the_next_time() -> None:
    rotation = Rotation(2, lambda: 0.0)
    rotation.failed(True)
    rotation.succeeded()
    assert rotation.current == 1
    assert rotation.failed(True) == 0.0  # a new round
    assert rotation.current == 0


def test_a_host_refuses_us_only_if_it_has_refused_every_secret_and_twice() -> None:
    one, two = Rotation(1, lambda: 0.0), Rotation(2, lambda: 0.0)
    seen = []
    for rotation in (one, two):
        for refused in (True, True, False, True, True):
            rotation.failed(refused)
            seen.append(rotation.is_refused)
    assert seen == [False, True, False, False, True] * 2
    one.succeeded()
    assert not one.is_refused


def test_there_must_be_a_secret() -> None:
    with pytest.raises(ValueError, match="no secret"):
        Rotation(0, lambda: 0.0)
