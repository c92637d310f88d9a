"""The ring: which seat keeps which slot, the same table in every member that knows the same seats.

How it is dealt
    Every seat has a wish list: all slots, in a pseudo-random order drawn from the seat's name alone. Seats take turns;
    at its turn a seat names its next wish and gets that slot if it is still free. A seat that holds 1.1 times the mean
    is full and passes. The dealing ends when no slot is free.

Why so
    Without the full seats this is rendezvous hashing (Thaler and Ravishankar, 1998): a slot goes to the seat that
    wishes for it earliest, so a seat that joins takes slots, and one that leaves gives them back, and nothing else
    moves. Wishing in turns, rather than drawing one score per slot and seat, gives every seat the same number of early
    wishes, which halves the variance of the loads. The bound is that of "Consistent Hashing with Bounded Loads"
    (Mirrokni, Thorup and Zadimoghaddam, 2018). It has a price: a full seat that loses a slot takes one that it passed
    over, and gives one up when the bound falls. Measured with benchmarks/ring.py, one seat that comes or goes moves
    at most 1.18 times its share, from 2 to 200 seats. With half as many slots it would be 1.35 times at 200 seats.

The wish list
    Slots form a grid. A two-round Feistel network (Luby and Rackoff, 1988), keyed by SHAKE-128 of the seat's name, maps
    the place in the wish list to the slot; it runs backwards as easily, which gives a slot's place in any seat's list
    without the list. Bytes are used one by one, so the byte order of the machine does not matter.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b, shake_128

SLOTS = 32768
"""How many buckets the key space has. Another number would give all keys new owners."""

_COLUMNS = 128
_ROWS = SLOTS // _COLUMNS  # neither side above 256: one byte of the wish key turns one row or one column


def slot_of(wire: bytes, secret: bytes = b"") -> int:
    """Return the slot, 0 to ``SLOTS`` - 1, of a wire key: BLAKE2b, keyed with the group's secret if there is one.

    Without the secret, nobody can choose keys that all have one owner. Safe in any thread.
    """
    key = secret if len(secret) <= blake2b.MAX_KEY_SIZE else _shortened(secret)
    digest = blake2b(wire, digest_size=8, key=key, person=b"colocache slot").digest()
    return int.from_bytes(digest, "big") % SLOTS


class Ring:
    """The immutable table slot -> seat for a set of seats, whatever their order and number of mentions.

    A seat is a name such as ``"web1/0"``. No seat owns more than 1.1 times the mean, rounded up. Rings of the same
    seats are equal. Building one takes tens of milliseconds, a look-up a tenth of a microsecond. Safe in any thread.
    """

    __slots__ = ("_seats", "_table", "_wish_keys")

    def __init__(self, seats: Iterable[str]) -> None:
        """Deal the slots to ``seats``. A lone ``str`` raises ``TypeError``: it would be taken for its letters."""
        if isinstance(seats, str):
            raise TypeError(f"Ring({seats!r}): give a collection of seats, such as [{seats!r}]")
        self._seats = tuple(sorted(set(seats)))
        self._wish_keys = tuple(map(_wish_key, self._seats))
        self._table = _deal(self._wish_keys)

    @property
    def seats(self) -> tuple[str, ...]:
        """The seats, sorted."""
        return self._seats

    def owner(self, slot: int) -> str:
        """Return the seat that keeps ``slot``. Raises ``LookupError`` if there are no seats, or no such slot."""
        try:
            return self._seats[self._table[slot]]
        except IndexError:
            has = f"this ring has {len(self._seats)} seats, and slots from 0 to {SLOTS - 1}"
            raise LookupError(f"slot {slot} has no owner: {has}") from None

    def owners(self, slot: int, n: int) -> tuple[str, ...]:
        """Return the first ``n`` seats for ``slot`` in order of preference; all of them if there are fewer.

        The first is ``owner(slot)``. Each further one is most likely the owner once those before it have left. Raises
        ``LookupError`` as ``owner`` does.
        """
        owner = self.owner(slot)
        places = {seat: _place(key, slot) for seat, key in zip(self._seats, self._wish_keys, strict=True)}
        eager = sorted(places, key=places.__getitem__)
        # The seats that wished for the slot before its owner were full, and hardly have room when it leaves.
        first = eager.index(owner)
        return tuple((eager[first:] + eager[:first])[:n])

    def __eq__(self, other: object) -> bool:
        return self._seats == other._seats if isinstance(other, Ring) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._seats)

    def __repr__(self) -> str:
        return f"Ring({list(self._seats)!r})"


@lru_cache(maxsize=8)
def _shortened(secret: bytes) -> bytes:
    """Return a secret that is too long for a key of BLAKE2b, shortened to fit."""
    return blake2b(secret, person=b"colocache secret").digest()


def _wish_key(seat: str) -> bytes:
    """Return the round keys of a seat's wish list: how far each row is turned, and then how far each column is."""
    return shake_128(b"colocache seat " + seat.encode("utf-8", "surrogatepass")).digest(_ROWS + _COLUMNS)


def _wishes(key: bytes) -> Iterator[int]:
    """Yield all slots, in the order in which the seat with this wish key wants them."""
    row_turns, column_turns = key[:_ROWS], key[_ROWS:]
    for high in range(_ROWS):
        for low, turn in enumerate(column_turns):
            row = (high + turn) % _ROWS
            yield row * _COLUMNS + (low + row_turns[row]) % _COLUMNS


def _place(key: bytes, slot: int) -> int:
    """Return the place of ``slot`` in the wish list of the seat with this wish key: the inverse of ``_wishes``."""
    row, column = divmod(slot, _COLUMNS)
    low = (column - key[row]) % _COLUMNS
    high = (row - key[_ROWS + low]) % _ROWS
    return high * _COLUMNS + low


def _deal(wish_keys: tuple[bytes, ...]) -> array[int]:
    """Return the index of each slot's seat; nothing if there are no seats."""
    seats = len(wish_keys)
    if not seats:
        return array("H")
    table = array("H", [seats]) * SLOTS  # the index behind the last seat's says that the slot is free
    room = [-(-11 * SLOTS // (10 * seats))] * seats
    free = SLOTS
    for turn in zip(*map(_wishes, wish_keys), strict=True):
        for seat, slot in enumerate(turn):
            if table[slot] == seats and room[seat]:
                table[slot] = seat
                room[seat] -= 1
                free -= 1
        if not free:
            break
    return table
