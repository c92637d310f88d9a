"""Numbers that are never used twice in the life of a region: what stamps, bells and versions are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

COUNTER_BITS = 36
WRITER_BITS = 25
MAX_WRITER = (1 << WRITER_BITS) - 1

#: Every number has this bit. So its 64 bits, taken for a double, are positive and normal, and equal doubles have
#: equal bits. Python makes and compares doubles in less time than ints of this size (docs/decisions/0025). Hits
#: compare the bell in this way.
_NORMAL = 1 << 62


def number(writer: int, counter: int) -> int:
    """Return a number of a process."""
    return _NORMAL | writer << COUNTER_BITS | counter


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
        self._numbers: Iterator[int] = count(number(writer, 1))
        self.next = self._numbers.__next__  # written in C, so no two threads get the same number
