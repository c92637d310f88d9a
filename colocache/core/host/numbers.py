"""Numbers that are never used twice in the life of a region: what stamps, bells and versions are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

COUNTER_BITS = 36
MAX_WRITER = (1 << 64 - COUNTER_BITS) - 1


class Numbers:
    """The numbers of one process. Any thread may take one.

    The processes of a host need not agree on an order, only on being different. A counter that all of them read and
    raise would not do:

    1. P reads 7, and is stopped.
    2. Q reads 7, and stores 8. An entry is labelled with 8.
    3. R stores 9: the entry is invalid.
    4. P goes on, and stores 8: the entry is valid again.
    """

    def __init__(self, writer: int) -> None:
        """``writer`` is this process's own, given once in the life of the region, from 1 to `MAX_WRITER`."""
        if not 0 < writer <= MAX_WRITER:
            raise ValueError(f"writer={writer}: give a number from 1 to {MAX_WRITER}")
        self._numbers: Iterator[int] = count((writer << COUNTER_BITS) + 1)
        self.next = self._numbers.__next__  # written in C, so no two threads get the same number
