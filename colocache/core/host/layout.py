"""Where everything lies in the file of a shelf, and that memory as one process uses it.

A file that holds only zeros is an empty shelf. Its first part, up to ``data_offset``, has to be allocated before
anybody uses it, and the rest as the shelf grows. Nothing is moved or shrunk while the region lives.

| part | what |
|---|---|
| head | 8 words for the region's own use, then 8 words (a cache line) for each ring |
| index | the ways, 8 bytes each: 8 in a bucket, which is a cache line |
| used | a byte for each way: how often readers found its record, up to 3. Any value is harmless |
| ghosts | 4 bytes each: which keys left probation lately |
| data | the rings; of each an eighth is its small log, and the rest its main log |
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from .memory import Bytes, Words

KIB, MIB = 1 << 10, 1 << 20
PAGE_BYTES = 4096
BUCKET = 8  # ways
UNIT = 16  # bytes: records begin at multiples of it
LINE = 8  # words of a ring in the head, and of the region before them
GROWTH = 256 * KIB  # a log grows by so much at a time

MIN_CAPACITY = 64 * KIB
MAX_CAPACITY = 64 << 30
RING = 16 * MIB  # no ring is larger
WAYS_PER_KIB = 4
SMALL_SHARE = 8  # one of so many bytes of a ring is its small log's
MAX_VALUE = MIB
MAX_BESIDE = 64 * KIB  # the most that a record takes beside its value

#: What a shelf says when it needs more of its file: allocate the bytes from here to there; False if there is no room.
Grow = Callable[[int, int], bool]


class Geometry(NamedTuple):
    """The sizes and the offsets of a shelf, in bytes if not said otherwise. All follow from the capacity."""

    capacity: int  # what the data may take
    rings: int  # their number, a power of two
    ring_size: int
    small_size: int  # of a ring's small log
    ways: int  # of the whole index, a power of two
    ring_ways: int  # of one ring
    ring_ghosts: int  # of one ring, a power of two
    max_value: int  # the largest that is stored
    max_record: int  # and its record
    index_offset: int
    used_offset: int
    ghosts_offset: int
    data_offset: int
    total_size: int

    @property
    def size(self) -> int:
        """What has to be allocated when the region is made: all but the data."""
        return self.data_offset


def geometry(capacity: int) -> Geometry:
    """Return the geometry of a shelf for ``capacity`` bytes of data. Raise ValueError if it is too small or large."""
    if not MIN_CAPACITY <= capacity <= MAX_CAPACITY:
        raise ValueError(f"capacity={capacity}: a shelf has from {MIN_CAPACITY} to {MAX_CAPACITY} bytes")
    rings = _power_of_two(-(-capacity // RING))
    ring_size = _rounded_down(capacity // rings, SMALL_SHARE * PAGE_BYTES)
    ring_ways = _power_of_two(WAYS_PER_KIB * ring_size // KIB)
    max_value = min(MAX_VALUE, ring_size // 8)
    ring_ghosts = _power_of_two(ring_size // KIB)
    index_offset = _rounded_up(8 * LINE * (1 + rings), PAGE_BYTES)
    used_offset = index_offset + _rounded_up(8 * rings * ring_ways, PAGE_BYTES)
    ghosts_offset = used_offset + _rounded_up(rings * ring_ways, PAGE_BYTES)
    data_offset = ghosts_offset + _rounded_up(4 * rings * ring_ghosts, PAGE_BYTES)
    return Geometry(
        capacity=capacity,
        rings=rings,
        ring_size=ring_size,
        small_size=ring_size // SMALL_SHARE,
        ways=rings * ring_ways,
        ring_ways=ring_ways,
        ring_ghosts=ring_ghosts,
        max_value=max_value,
        max_record=max_value + min(MAX_BESIDE, ring_size // 16),
        index_offset=index_offset,
        used_offset=used_offset,
        ghosts_offset=ghosts_offset,
        data_offset=data_offset,
        total_size=data_offset + rings * ring_size,
    )


class Mapped(Bytes, Protocol):
    """A mapped file, or an anonymous map: what the class ``mmap.mmap`` is. Its slices are copies."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class ShelfMemory:
    """The memory of a shelf, as one process uses it. Offsets into ``data`` and ``words`` are offsets into the file."""

    __slots__ = ("_views", "bucket", "data", "geometry", "ghosts", "grow", "head", "index", "used", "words")

    def __init__(
        self, geometry: Geometry, head: Words, index: Words, bucket: Callable[[int], tuple[int, ...]],
        used: Words, ghosts: Words, data: Bytes, words: Words, grow: Grow,
    ) -> None:  # fmt: skip
        """``bucket`` loads eight ways, each whole, from so many bytes of the index on.

        ``used`` has bytes, and ``ghosts`` 4 bytes. ``words`` are the same bytes as ``data``, but loaded and stored as
        words, by their offsets divided by 8.
        """
        self.geometry = geometry
        self.head = head
        self.index = index
        self.bucket = bucket
        self.used = used
        self.ghosts = ghosts
        self.data = data
        self.words = words
        self.grow = grow
        self._views: list[memoryview] = []

    @classmethod
    def over(cls, mapped: Mapped, geometry: Geometry, grow: Grow) -> ShelfMemory:
        """Return the shelf in a map of ``geometry.total_size`` bytes. ``grow`` allocates bytes of its file."""
        whole = memoryview(mapped)
        index_bytes = whole[geometry.index_offset : geometry.index_offset + 8 * geometry.ways]
        unpack = struct.Struct(f"@{BUCKET}Q").unpack_from
        memory = cls(
            geometry=geometry,
            head=(head := whole[: geometry.index_offset].cast("Q")),
            index=(index := index_bytes.cast("Q")),
            bucket=partial(unpack, index_bytes),
            used=(used := whole[geometry.used_offset : geometry.used_offset + geometry.ways]),
            ghosts=(ghosts := whole[geometry.ghosts_offset : geometry.data_offset].cast("I")),
            data=mapped,
            words=(words := whole.cast("Q")),
            grow=grow,
        )
        memory._views = [head, index, used, ghosts, words, index_bytes, whole]
        return memory

    def release(self) -> None:
        """Let go of the map, so that it can be closed. The memory is not used any more."""
        for view in self._views:
            view.release()
        self._views = []


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _rounded_down(number: int, unit: int) -> int:
    return number // unit * unit


def _rounded_up(number: int, unit: int) -> int:
    return _rounded_down(number + unit - 1, unit)
