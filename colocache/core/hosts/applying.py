"""How an event is applied to the board of a host: to its own, and to that of every other host."""

from __future__ import annotations

from ..host.board import Board
from ..host.hashes import ANY_TAG, ROOT
from ..host.memory import Fences
from .event import NAMESPACES, TAGS, Event

EVERYTHING = Event(NAMESPACES, (ROOT,))


def stamp(board: Board, fences: Fences, event: Event) -> None:
    """Stamp what an event invalidates, and ring the bell: from then on nobody on this host serves anything older."""
    if event.kind == TAGS:  # a reader that does not know yet which tags a value will have looks at this one
        board.stamp((ANY_TAG,))
        fences.order()
    board.invalidate(event.hashes, related=event.related)
