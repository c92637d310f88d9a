"""Where everything lies in the file ``hosts`` of a region: what a host knows of other hosts, and its own log.

A file that holds only zeros is that of a host that knows nobody. All offsets are in words of 8 bytes.

====== ================================================================================================================
part   what
====== ================================================================================================================
head   `UNTIL`, the instant until which the host is current; since when it is established; how many rows are in use;
       whether it is a client; the heads of the lanes
lanes  the host's own events, for its gateways to tell other hosts; see `colocache.core.hosts.log`
rows   what each gateway knows of other hosts, and at which listed places it misses nobody; see
       `colocache.core.hosts.rows`
====== ================================================================================================================

The head is there from the beginning. A lane, and a row, is allocated before its first use.
"""

from __future__ import annotations

from typing import Final

WORD: Final = 8  # bytes

UNTIL: Final = 0  # ns on the host's monotonic clock; 0 as long as the host is not established
ESTABLISHED: Final = 1  # ns: since when it is
ROWS_USED: Final = 2
CLIENT: Final = 3  # 1 if this host is a client: it owns nothing, and is no member

LANES: Final = 8
SLOTS: Final = 8192  # events of a lane that can still be read; a power of two
SLOT_WORDS: Final = 16
LANE_WORDS: Final = SLOTS * SLOT_WORDS

ROWS: Final = 8  # gateways of a host that live at the same time, all but one of them stopped
ENTRIES: Final = 256  # members in a row, with those that have ended
LISTENERS: Final = 768  # clients in a row
ENTRY_WORDS: Final = 64
ROW_WORDS: Final = (ENTRIES + LISTENERS) * ENTRY_WORDS

_PAGE = 512
_LANE_HEADS_AT = 64
_LANE_HEAD_WORDS = 8

HEAD_WORDS: Final = _PAGE
LANES_AT: Final = _PAGE
ROWS_AT: Final = LANES_AT + LANES * LANE_WORDS
WORDS: Final = ROWS_AT + ROWS * ROW_WORDS  # of the whole file


def lane_last(lane: int) -> int:
    """Return the word with the number of the last event of a lane."""
    return _LANE_HEADS_AT + lane * _LANE_HEAD_WORDS


def lane_open(lane: int) -> int:
    """Return the word that says whether a lane has its memory. Before that its slots must not be touched."""
    return _LANE_HEADS_AT + lane * _LANE_HEAD_WORDS + 1


def slot_of(lane: int, number: int) -> int:
    """Return the first word of the slot for an event of a lane."""
    return LANES_AT + lane * LANE_WORDS + (number & SLOTS - 1) * SLOT_WORDS


def entry_of(row: int, entry: int) -> int:
    """Return the first word of an entry of a row."""
    return ROWS_AT + row * ROW_WORDS + entry * ENTRY_WORDS


def lane_part(lane: int) -> tuple[int, int]:
    """Return where the bytes of a lane begin and end in the file."""
    start = WORD * (LANES_AT + lane * LANE_WORDS)
    return start, start + WORD * LANE_WORDS


def row_part(row: int) -> tuple[int, int]:
    """Return where the bytes of a row begin and end in the file."""
    start = WORD * (ROWS_AT + row * ROW_WORDS)
    return start, start + WORD * ROW_WORDS
