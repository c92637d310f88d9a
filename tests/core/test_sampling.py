"""Which hits are drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from colocache.core.sampling import Sample


def hits_drawn(sample: Sample, hits: int) -> int:
    """How many of so many hits are drawn by `Sample.skip`."""
    drawn, at = 0, sample.skip()
    while at < hits:
        drawn, at = drawn + 1, at + 1 + sample.skip()
    return drawn


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 1.0])
def test_both_ways_draw_the_share(share: float) -> None:
    sample, hits = Sample(share, random.Random(1).random), 200_000
    deviation = (hits * share * (1 - share)) ** 0.5
    assert abs(hits_drawn(sample, hits) - hits * share) <= 4 * deviation
    assert abs(sum([sample.draws() for _ in range(hits)]) - hits * share) <= 4 * deviation


def numbers(*given: float) -> Iterator[float]:
    yield from given


def test_skip_is_what_asking_at_each_hit_would_give() -> None:
    """A number below the share draws the first hit, one below that of two hits the second one, and so on."""
    share = 0.25
    for skipped in range(5):
        least, most = 1 - (1 - share) ** skipped, 1 - (1 - share) ** (skipped + 1)
        given = numbers(least + 1e-9, most - 1e-9)
        sample = Sample(share, lambda given=given: next(given))  # type: ignore[misc]
        assert [sample.skip(), sample.skip()] == [skipped, skipped]


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_any_share_gives_a_number_of_hits(number: float) -> None:
    assert Sample(1.0, lambda: number).skip() == 0
    for share in (5e-324, 1e-300, 1e-9):
        skipped = Sample(share, lambda: number).skip()
        assert isinstance(skipped, int)
        assert (skipped == 0) == (number == 0)
