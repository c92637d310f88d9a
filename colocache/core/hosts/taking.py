"""How a host takes in what another one has: by rule R4, whoever asks, and whoever is asked.

The stamps of the key are read, **then** how far events are told on this host, and then the other host is asked. What it
answers is kept under the stamps that were read first. So it stands only if the other host's record was read after every
event of which these stamps know: see `colocache.core.hosts.dependencies`. Nothing else is asked of the other host. It
may be the owner of the key, or have a copy, and it may answer late. With the stamps read after the answer:

1. O, who is asked, answers a value.
2. W invalidates the key. O drops the value, and so does this host, which has none yet. W's call returns.
3. This host reads the stamps, and keeps the value under them. It stands, for good.

With the dependencies read before the stamps:

1. This host reads how far W's events are told: 6.
2. The gateway of this host stores that 7 is told, and stamps the key.
3. This host reads the new stamps, and asks O without naming 7. O has not heard of 7, and answers the old value. It
   stands.

The tags of a value are not known before it is there. So their stamps are read then, and hold if no tag at all was
invalidated since the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ..host.board import Board
from ..host.hashes import ANY_TAG, key_hash
from ..host.memory import Fences
from ..host.record import Miss, Outcome, Record, unstored
from ..host.shelf import Shelf
from .requests import Found, Key

SLOWER_CLOCK: Final = 1.01  # how much faster a clock on another host may run, at most


class Asked(NamedTuple):
    """A key that this host lacks, and what was read before another one is asked."""

    wire: bytes
    hash: int
    hashes: tuple[int, ...]
    any_tag: int  # the stamp of all tags together, read before the miss
    miss: Miss

    @property
    def key(self) -> Key:
        """The key as other hosts are asked for it."""
        return Key(self.wire, self.hashes)


class Taker:
    """Takes what other hosts answer into the memory of this one. Any thread may call all methods."""

    def __init__(self, board: Board, shelf: Shelf, fences: Fences) -> None:
        self._board, self._shelf, self._fences = board, shelf, fences
        self._any_tag = board.marks_of(ANY_TAG)[0]

    def look(self, wire: bytes, hashes: Sequence[int], now: float) -> Asked | Record:
        """Return the record of a key, or what to ask another host; the dependencies are to be read after this."""
        hash, any_tag = key_hash(wire), self._board.marks[self._any_tag]
        self._fences.order()
        found = self._shelf.look(wire, hash, hashes, now)
        if isinstance(found, Record):
            return found
        self._fences.order()  # then the dependencies
        return Asked(wire, hash, tuple(hashes), any_tag, found)

    def keep(self, asked: Asked, found: Found) -> Record:
        """Keep what was found, if that is possible, and return it as a record.

        A record that is not kept has the version 0. It can be used once all the same, as what was loaded can.
        """
        miss = asked.miss
        label, is_storable = miss.label, True
        unknown = [hash for hash in found.hashes if hash not in asked.hashes]
        if unknown:
            label += self._board.label(unknown)
            self._fences.order()
            is_storable = self._board.marks[self._any_tag] == asked.any_tag
        expires = miss.at + found.ttl
        miss = Miss(label, miss.at - found.age * SLOWER_CLOCK)
        if is_storable:
            outcome, record = self._shelf.fill(asked.wire, asked.hash, found.payload, miss, expires)
            if outcome is not Outcome.REFUSED and record is not None:
                return record
        return unstored(found.payload, miss, expires)
