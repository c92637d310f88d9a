"""An event: what one call of a host has invalidated or written, as hashes, which mean the same on all hosts."""

from __future__ import annotations

from typing import Final, NamedTuple

KEYS: Final = 1  # keys were invalidated
TAGS: Final = 2
NAMESPACES: Final = 3
WRITES: Final = 4  # keys were written; the hashes are those of the writes to them

MAX_HASHES: Final = 13  # of one event; a call with more makes several


class Event(NamedTuple):
    """What is invalidated. ``related`` says that it is stamped twice; see `colocache.core.host.board`."""

    kind: int
    hashes: tuple[int, ...]
    related: bool = False


class Position(NamedTuple):
    """Where an event stands among those of its host. Numbers of a lane begin at 1, and have no gaps."""

    lane: int
    number: int
