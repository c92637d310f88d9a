"""A short run of chaos; `make chaos` is the long one."""

from __future__ import annotations

import random

from verification.chaos import chaos
from verification.chaos.verdict import LENIENT


def test_no_read_in_chaos_is_older_than_what_was_acknowledged_before_it_began() -> None:
    result = chaos.run(random.randrange(1 << 32), seconds=10, workers=4, longest=2.0, floors=LENIENT)
    print(result.table())
    assert not result.complaints(), result.table()
