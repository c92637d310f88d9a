"""Records: values as they stand on the shelf, as bytes; and what readers and writers get of them.

| bytes | what |
|---|---|
| 8 | check: the checksum of all that follows, seeded with the record's position |
| 8 | shape: the record's length (32 bits), flags (16 bits), the number of groups beside the first three (16) |
| 4 | the key's length |
| 8 | the key's hash |
| 8 | the root's stamp |
| 48 | the key's group: four marks and their stamps |
| 48 | the group of the writes to the key |
| 8 | when it expires |
| 8 | its version |
| | the wire key; the other groups, 48 bytes each; the payload |

The seed is the position, so what is left of an earlier record at the same place can never pass for this one, and a
torn one passes once in 2**64 times. So readers need no lock: they copy the bytes, and believe the copy if its check is
right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, cast

from xxhash import xxh3_64_intdigest

from .board import Board, Group, Label
from .hashes import ROOT

CHECK = 8  # bytes of the check
HEADER = struct.Struct("=QIQQ" + 8 * "IQ" + "dQ")  # what follows it
GROUP = struct.Struct("=IQIQIQIQ")
PREFIX = CHECK + HEADER.size  # bytes before the wire key
_OF_HEADER = struct.Struct("=12xQ104xd")  # the hash and the expiry
MAX_GROUPS = (1 << 16) - 1

LENGTH = (1 << 32) - 1  # of a shape: the record's bytes
PAD = 1 << 32  # nothing is here, up to the end of the log
GROUPS_SHIFT = 48
ONE_GROUP = 1 << GROUPS_SHIFT

COPIED = 4096  # bytes: smaller payloads are given as bytes of their own, larger ones as views of the record's copy
_new: Any = tuple.__new__  # of named tuples: their own constructors take twice as long

PIECE = 60 << 10  # bytes: xxhash gives up the interpreter lock above 64 KiB, and gets it back milliseconds later


class Record(NamedTuple):
    """A value that was found on the shelf, or has been put there."""

    payload: bytes | memoryview
    label: Label
    expires: float
    version: int  # it stays when the record is moved; each write gives another one
    way: int  # where the index has it


class Miss(NamedTuple):
    """What a reader knows that found nothing. What is loaded then is stored under the label."""

    label: Label  # read before the look, and so before the source is
    at: float  # when the reader began


def unstored(payload: bytes, miss: Miss, expires: float) -> Record:
    """Return a record of what was loaded after a miss, and is not on the shelf."""
    return Record(payload, miss.label, expires, 0, 0)


class Outcome(Enum):
    """What came of a write."""

    STORED = auto()
    REFUSED = auto()  # what had to be there was not, or somebody else's record was
    BUSY = auto()  # the lock was not to be had
    DECLINED = auto()  # the value is too large, or there is no room for it


def checksum(body: bytes | memoryview, seed: int) -> int:
    """Return the check of a record's bytes behind its check."""
    if len(body) <= PIECE:
        return xxh3_64_intdigest(body, seed)
    view = memoryview(body)
    for start in range(0, len(body), PIECE):
        seed = xxh3_64_intdigest(view[start : start + PIECE], seed)
    return seed


def size_of(wire: bytes, groups: int, payload: bytes | memoryview) -> int:
    """Return the bytes of a record. ``groups`` are those beside the root's and the key's two."""
    return PREFIX + len(wire) + GROUP.size * groups + len(payload)


def pack(wire: bytes, hash: int, label: Label, payload: bytes | memoryview, expires: float, version: int) -> bytes:
    """Return a record's bytes behind its check."""
    root, key, writes, *others = label
    count = len(others)
    shape = PREFIX + len(wire) + GROUP.size * count + len(payload) | count << GROUPS_SHIFT
    header = HEADER.pack(shape, len(wire), hash, root[1], *key, *writes, expires, version)
    if others:
        return b"".join((header, wire, *[GROUP.pack(*group) for group in others], payload))
    return b"".join((header, wire, payload))


def unpack(body: bytes, wire: bytes, way: int) -> Record | None:
    """Return the record of a key; None if it is another key's. ``body`` is what follows the check, which is right."""
    shape, length, _, root, *groups, expires, version = HEADER.unpack_from(body)
    start = HEADER.size + length
    if length != len(wire) or not body.startswith(wire, HEADER.size):
        return None
    end = start + GROUP.size * (shape >> GROUPS_SHIFT)
    label = _label(root, groups, body[start:end])
    payload = body[end:] if len(body) - end <= COPIED else memoryview(body)[end:]
    return Record(payload, label, expires, version, way)


class Header(NamedTuple):
    """What a writer needs of a record that comes to the tail of its log."""

    hash: int
    expires: float


def unpack_header(body: bytes) -> Header:
    """Return the header of a record. ``body`` is what follows the check."""
    header: Header = _new(Header, _OF_HEADER.unpack_from(body))
    return header


def stands(body: bytes, board: Board) -> bool:
    """Tell whether the label of a record stands, as ``board.stands(label_of(body))`` does, but in half the time."""
    shape, length, _, root, a, s1, b, s2, c, s3, d, s4, e, w1, f, w2, g, w3, h, w4, _, _ = HEADER.unpack_from(body)
    marks = board.marks
    if (
        marks[ROOT] != root
        or (marks[a] != s1 and marks[b] != s2 and marks[c] != s3 and marks[d] != s4)
        or (marks[e] != w1 and marks[f] != w2 and marks[g] != w3 and marks[h] != w4)
    ):
        return False
    start = HEADER.size + length
    others = body[start : start + GROUP.size * (shape >> GROUPS_SHIFT)]
    return not others or board.stands(cast(Label, tuple(GROUP.iter_unpack(others))))


def label_of(body: bytes) -> Label:
    """Return the label of a record. ``body`` is what follows the check, which is right."""
    shape, length, _, root, *groups, _, _ = HEADER.unpack_from(body)
    start = HEADER.size + length
    return _label(root, groups, body[start : start + GROUP.size * (shape >> GROUPS_SHIFT)])


def _label(root: int, groups: Sequence[int], others: bytes) -> Label:
    key, writes = cast(Group, tuple(groups[:8])), cast(Group, tuple(groups[8:]))
    return ((0, root, 0, root, 0, root, 0, root), key, writes, *cast(Iterable[Group], GROUP.iter_unpack(others)))
