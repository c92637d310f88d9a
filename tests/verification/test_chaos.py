"""A short run of chaos; `make chaos` is the long one."""

from __future__ import annotations

import random

import pytest

from verification.chaos import chaos
from verification.chaos.verdict import LENIENT


@pytest.mark.parametrize("shelf", chaos.SHELVES)
def test_no_read_in_chaos_is_older_than_what_was_acknowledged_before_it_began(shelf: str) -> None:
    seed = random.randrange(1 << 32)
    result = chaos.run(seed, seconds=8, workers=4, longest=2.0, shelf=shelf, floors=LENIENT)
    print(result.table())
    assert not result.complaints(), result.table()
