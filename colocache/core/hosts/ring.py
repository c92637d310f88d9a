"""The ring of hosts: which host owns which slot of the keys. All who know the same weights have the same table.

How it is dealt
    The hosts race. A host with weight w reaches each slot at a time of its own, drawn from the exponential distribution
    with the rate w, and the first one to reach a slot owns it. So a host owns its weight's part of the slots. A host
    that owns 1.1 times that part is full: it keeps the slots that it reached earliest, and each slot that it passes
    over goes to the next one to reach it.

Why so
    Without the full hosts this is rendezvous hashing (Thaler and Ravishankar, 1998) with weights, by the "logarithmic
    method" of "Weighted Distributed Hash Tables" (Schindelhauer and Schomaker, 2005), which Ceph uses as "straw2". If a
    host comes or goes, or its weight changes, slots move from or to that host, and no others. If hosts take turns in
    proportion to their weights, as in Envoy's form of Maglev (Eisenbud et al., 2016), then the parts are exact, and
    other slots move, too. The bound is that of "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup and
    Zadimoghaddam, 2018). Its price is that a full host which loses a slot takes one that it passed over.

    Names deal the slots: a host that restarts gets its slots back. A host without weight, such as one that only reads,
    owns nothing, and changes nothing.

The times
    With times that are drawn one by one, loads vary by the root of their mean. So a host has a wish list, all slots in
    a pseudo-random order, and reaches the slot at place p, from 0, at the time that is to be expected for the smallest
    but p of ``SLOTS`` draws: (1/SLOTS + 1/(SLOTS - 1) + ... + 1/(SLOTS - p)) / w (Rényi, 1953). Then all hosts have
    equally many early wishes for their weight, which about halves the variance. Such a sum can be had in whole numbers.
    A logarithm might differ in its last digit from one machine to another, and with it an owner.

The wish list
    Slots form a grid. A two-round Feistel network (Luby and Rackoff, 1988), keyed by SHAKE-128 of the host's name, maps
    the place in the wish list to the slot; it runs backwards as easily, which gives a slot's place in any host's list
    without the list. Bytes are used one by one, so the byte order of the machine does not matter.

What is measured (benchmarks/ring_of_hosts.py)
    For 2 to 100 hosts, with equal weights and with weights from 1 to 1,024, a host that comes or goes moves 1.00 to
    1.02 times its part; a single one of 100 slots or more moves at worst 1.11 times that. One step of weight moves 0.93
    to 1.13 times what has to move. That may be 20 slots, and then chance counts: a single step moves that many, give or
    take twice the root of it, here 9. With 100 hosts, turns instead of the race move 1.3 to 1.8 times the part of a
    host that goes, and 5 to 11 times what one step has to move.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b, shake_128
from heapq import heapify, heappop, heapreplace
from math import log
from typing import Final, NamedTuple

from ...interruptions import raise_if_from_handler

SLOTS: Final = 32768
"""How many buckets the key space has. Another number would give all keys new owners."""

MAX_WEIGHT: Final = 1 << 20
"""The greatest weight of a host. With more, two places of a wish list might be reached at the same time."""

_COLUMN_BITS = 7
_COLUMNS = 1 << _COLUMN_BITS
_ROWS = SLOTS // _COLUMNS  # neither side above 256: one byte of the wish key turns one row or one column
_SECOND = 1 << 44  # the unit of time; whole numbers of it tell all places apart, also after division by any weight

_COLUMN_MASK, _ROW_MASK = _COLUMNS - 1, _ROWS - 1
_LOWS = bytes(range(_COLUMNS)) * _ROWS
_TURNED = tuple(bytes((row + turn) % _ROWS for row in range(_ROWS)) for turn in range(_ROWS))


def slot_of(wire: bytes, secret: bytes = b"") -> int:
    """Return the slot, 0 to ``SLOTS`` - 1, of a wire key: BLAKE2b, keyed with the group's secret if there is one.

    Without the secret, nobody can choose keys that all have one owner. Safe in any thread.
    """
    key = secret if len(secret) <= blake2b.MAX_KEY_SIZE else _shortened(secret)
    digest = blake2b(wire, digest_size=8, key=key, person=b"colocache slot").digest()
    return int.from_bytes(digest, "big") % SLOTS


class Ring:
    """The immutable table slot -> host for the weights of the hosts, in whatever order they are given.

    No host owns more than 1.1 times its part by weight, rounded up. Rings of the same weights are equal. Building one
    takes tens of milliseconds, so get it from `ring_of`; a look-up takes a tenth of a microsecond. Safe in any thread.
    """

    __slots__ = ("_racers", "_table", "_weights")

    def __init__(self, weights: Mapping[str, int]) -> None:
        """Deal the slots to hosts by their weights, from 0 to ``MAX_WEIGHT``; otherwise raise ``ValueError``."""
        for host, weight in weights.items():
            if not 0 <= weight <= MAX_WEIGHT:
                raise ValueError(f"the weight of the host {host!r} is {weight}: give one from 0 to {MAX_WEIGHT}")
        self._weights = {host: weights[host] for host in sorted(weights) if weights[host]}
        self._racers = tuple(_Racer(host, weight, _wish_key(host)) for host, weight in self._weights.items())
        self._table = _deal(self._racers)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that have a weight, sorted."""
        return tuple(self._weights)

    def owner(self, slot: int) -> str | None:
        """Return the host that owns ``slot``; None if no host has a weight. Raise ``LookupError`` if there is no such
        slot.
        """
        try:
            return self._racers[self._table[slot]].host if self._racers else None
        except IndexError as error:
            raise_if_from_handler(error)
            raise LookupError(f"there is no slot {slot}: slots go from 0 to {SLOTS - 1}") from None

    def owners(self, slot: int, n: int) -> tuple[str, ...]:
        """Return the first ``n`` hosts for ``slot``, all different, in order of preference; all if there are fewer.

        The first is ``owner(slot)``. Each further one is most likely the owner once those before it have left. It takes
        about half a microsecond per host of the ring. Raise ``LookupError`` as ``owner`` does.
        """
        if (owner := self.owner(slot)) is None:
            return ()
        order = [self._racers[index].host for _, index in sorted(_arrivals(self._racers, slot))]
        # The hosts that reached the slot before its owner were full, and hardly have room when it leaves.
        first = order.index(owner)
        return tuple((order[first:] + order[:first])[:n])

    def slots(self, host: str) -> tuple[int, ...]:
        """Return the slots that a host owns, in ascending order; none if it is unknown."""
        if host not in self._weights:
            return ()
        index = self.hosts.index(host)
        return tuple(slot for slot, owner in enumerate(self._table) if owner == index)

    def __eq__(self, other: object) -> bool:
        return self._weights == other._weights if isinstance(other, Ring) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._weights.items()))

    def __repr__(self) -> str:
        return f"Ring({self._weights!r})"


def ring_of(weights: Mapping[str, int]) -> Ring:
    """Return the ring of these weights, as `Ring` does. The last few are kept, because hosts come back.

    Hosts without weight make no difference, so no ring is built when one of them comes or goes. Safe in any thread.
    """
    return _ring_of(frozenset((host, weight) for host, weight in weights.items() if weight))


@lru_cache(maxsize=16)
def _ring_of(weights: frozenset[tuple[str, int]]) -> Ring:
    return Ring(dict(weights))


@lru_cache(maxsize=8)
def _shortened(secret: bytes) -> bytes:
    """Return a secret that is too long for a key of BLAKE2b, shortened to fit."""
    return blake2b(secret, person=b"colocache secret").digest()


class _Racer(NamedTuple):
    """A host with a weight. ``wish_key`` says how far each row of its grid is turned, and then each column."""

    host: str
    weight: int
    wish_key: bytes


def _wish_key(host: str) -> bytes:
    return shake_128(b"colocache host " + host.encode("utf-8", "surrogatepass")).digest(_ROWS + _COLUMNS)


@lru_cache(maxsize=1)
def _draws() -> array[int]:
    """Return when a host of weight 1 reaches the slot at each place of its wish list."""
    times, now = array("Q"), 0
    for left in range(SLOTS, 0, -1):
        now += _SECOND // left
        times.append(now)
    return times


def _arrivals(racers: Sequence[_Racer], slot: int) -> list[tuple[int, int]]:
    """Return when each host reaches a slot, and its index: `_race` backwards. Of two at one time, the lower counts."""
    draws = _draws()
    row, column = divmod(slot, _COLUMNS)
    arrivals = []
    for index, (_, weight, key) in enumerate(racers):
        low = column - key[row] & _COLUMN_MASK
        high = row - key[_ROWS + low] & _ROW_MASK
        arrivals.append((draws[high << _COLUMN_BITS | low] // weight, index))
    return arrivals


def _deal(racers: Sequence[_Racer]) -> array[int]:
    """Return the index of each slot's host; nothing if there are no hosts."""
    if len(racers) < 2:
        return array("H", [0] * SLOTS if racers else [])
    times, owners = _race(racers)
    total = sum(racer.weight for racer in racers)
    _share_out(racers, [-(-11 * SLOTS * racer.weight // (10 * total)) for racer in racers], times, owners)
    return array("H", owners)


def _race(racers: Sequence[_Racer]) -> tuple[list[int], list[int]]:
    """Return for each slot when it is first reached, and by whom, as if no host were ever full.

    The hosts walk along their wish lists until most slots are reached. For the few others it is cheaper to ask when
    each host would reach them. The moment of the change decides how long this takes, and not what comes out.
    """
    total = sum(racer.weight for racer in racers)
    end = int(_SECOND * log(3 * len(racers))) // total  # found by trying
    times, owners = [end] * SLOTS, [len(racers)] * SLOTS
    draws = _draws()
    until: dict[int, list[int]] = {}  # by weight, when the places of a wish list are reached
    for index, (_, weight, key) in enumerate(racers):
        if weight not in until:
            until[weight] = [time // weight for time in draws[: bisect_left(draws, end * weight)]]
        arrivals, turns = until[weight], key[_ROWS:]
        rows = b"".join([turns.translate(turned) for turned in _TURNED[: -(-len(arrivals) // _COLUMNS)]])
        for time, row, low in zip(arrivals, rows, _LOWS, strict=False):
            slot = row << _COLUMN_BITS | (low + key[row] & _COLUMN_MASK)
            if time < times[slot]:
                times[slot] = time
                owners[slot] = index
    for slot in [slot for slot, owner in enumerate(owners) if owner == len(racers)]:
        times[slot], owners[slot] = min(_arrivals(racers, slot))
    return times, owners


def _share_out(racers: Sequence[_Racer], room: list[int], times: list[int], owners: list[int]) -> None:
    """Take from each host what it has no room for, and give it to the next one to reach it, in ``owners``.

    It is the algorithm of Gale and Shapley (1962): a host that is full takes a slot all the same if it reached that one
    earlier than another of its own, and gives that one up. As hosts and slots order each other by the same times, only
    one outcome is stable: that of the race itself. So the order in which slots are looked at does not matter.
    """
    held: list[list[tuple[int, int]]] = [[] for _ in racers]
    for slot, owner in enumerate(owners):
        held[owner].append((-times[slot], slot))
    full: set[int] = set()  # those whose slots are a heap, the one that was reached last on top
    homeless = []
    for index, heap in enumerate(held):
        if len(heap) > room[index]:
            heapify(heap)
            full.add(index)
            homeless += [heappop(heap)[1] for _ in range(len(heap) - room[index])]
    offers: dict[int, list[tuple[int, int]]] = {}
    while homeless:
        slot = homeless.pop()
        if slot not in offers:
            offers[slot] = sorted(_arrivals(racers, slot), reverse=True)
        while True:  # ends, because the hosts together have more room than there are slots
            time, index = offers[slot].pop()
            heap = held[index]
            if len(heap) < room[index]:
                heap.append((-time, slot))
                break
            if index not in full:
                heapify(heap)
                full.add(index)
            if time < -heap[0][0]:
                homeless.append(heapreplace(heap, (-time, slot))[1])
                break
        owners[slot] = index
