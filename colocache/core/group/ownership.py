"""Which member owns which key, by the ring of the seats that are taken."""

from __future__ import annotations

from functools import lru_cache

from .members import Members
from .ring import Ring, slot_of


class Ownership:
    """The owners of keys, and which of them are passed over. Not thread-safe."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._seats: dict[str, bytes] = {}
        self._ring = ring_of(frozenset())

    def owner_of(self, wire: bytes) -> bytes | None:
        """Return the owner of a key; None if it is passed over."""
        seats = self._members.seats()
        if seats is not self._seats:
            self._seats, self._ring = seats, ring_of(frozenset(seats))
        owner = seats[self._ring.owner(slot_of(wire))]
        other = self._members.get(owner)
        return None if other is not None and other.unresponsive else owner

    def pass_over(self, owner: bytes) -> None:
        """Do not ask an owner again until it answers a ping."""
        other = self._members.get(owner)
        if other is not None:
            other.unresponsive = True


@lru_cache(maxsize=16)
def ring_of(seats: frozenset[str]) -> Ring:
    """Return the ring of some seats. Rings are kept, because a recycled worker gives its seat up and takes it again."""
    return Ring(seats)
