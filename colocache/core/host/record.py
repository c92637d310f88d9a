"""Records: values as they stand on the shelf, as bytes; and what readers and writers get of them.

| bytes | what |
|---|---|
| 8 | check: the checksum of all that follows, seeded with the record's position |
| 8 | shape: the record's length (32 bits), that of the wire key (15), a flag, the number of groups (16) |
| 8 | when it expires |
| 8 | its version |
| 8 | when it was loaded |
| | the label: groups of 40 bytes, each a hash and four stamps; the root's, the key's, that of the writes to the key |
| | the wire key; the payload |

The seed is the position. So what is left of an earlier record at the same place does not pass for this one, and a torn
record passes with a probability of 2**-64. So readers need no lock: they copy the bytes, and believe the copy if its
check is right.
"""

from __future__ import annotations

from enum import Enum, auto
from struct import Struct
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from .board import GROUP, Label

CHECK = 8  # bytes of the check
LABEL_AT = 32  # where the label begins in what follows the check
BESIDE = CHECK + LABEL_AT  # bytes of a record beside label, key and payload
#: Of what follows the check: the shape, the expiry, the version, when it was loaded; the root's stamp; the four stamps
#: of the key; the four stamps of the writes to it.
HEAD = Struct("=QdQd8xQ32x4Q8x4Q")
_SHAPE, _OWN, _HEADER = Struct("=Q"), Struct("=QdQd"), Struct("=8xd56xQ")  # the last: the expiry, and the key's hash
PREFIX = CHECK + HEAD.size  # bytes of a record without namespaces, tags, key and payload
KEY_GROUPS = 3
MAX_GROUPS = (1 << 16) - 1

LENGTH = (1 << 32) - 1  # of a shape: the record's bytes
PAD = 1 << 47  # nothing is here, up to the end of the log
WIRE_SHIFT, WIRE = 32, (1 << 15) - 1
GROUPS_SHIFT = 48
MORE_GROUPS = KEY_GROUPS + 1 << GROUPS_SHIFT

COPIED = 4096  # bytes: smaller payloads are given as bytes of their own, larger ones as views of the record's copy
_new: Any = tuple.__new__  # of named tuples: their own constructors take longer

PIECE = 60 << 10  # bytes: xxhash gives up the interpreter lock above 64 KiB, and gets it back milliseconds later


class Record(NamedTuple):
    """A value that was found on the shelf, or has been put there."""

    payload: bytes | memoryview
    label: Label
    expires: float
    loaded: float  # what has happened to the value's source before that instant, the value knows of
    version: int  # it stays when the record is moved; each write gives another one
    way: int  # where the index has it
    uses: int  # how often it was found before, as far as that is counted


class Miss(NamedTuple):
    """What a reader knows if it has found nothing. What it then loads is stored under the label."""

    label: Label  # read before the look, and so before the source is
    at: float  # when the reader began, or later: the source is read after it


def unstored(payload: bytes, miss: Miss, expires: float) -> Record:
    """Return a record of what was loaded after a miss, and is not on the shelf."""
    return Record(payload, miss.label, expires, miss.at, 0, 0, 0)


class Outcome(Enum):
    """What came of a write."""

    STORED = auto()
    REFUSED = auto()  # what had to be there was not, or somebody else's record was
    BUSY = auto()  # the lock could not be taken in time
    DECLINED = auto()  # the value is too large, or there is no room for it


def checksum(body: bytes | memoryview, seed: int) -> int:
    """Return the check of a record's bytes behind its check."""
    if len(body) <= PIECE:
        return xxh3_64_intdigest(body, seed)
    view = memoryview(body)
    for start in range(0, len(body), PIECE):
        seed = xxh3_64_intdigest(view[start : start + PIECE], seed)
    return seed


def pack(wire: bytes, label: Label, payload: bytes | memoryview, expires: float, version: int, loaded: float) -> bytes:
    """Return a record's bytes behind its check."""
    length, groups = len(wire), len(label) // GROUP.size
    shape = BESIDE + len(label) + length + len(payload) | length << WIRE_SHIFT | groups << GROUPS_SHIFT
    return b"".join((_OWN.pack(shape, expires, version, loaded), label, wire, payload))


def unpack(body: bytes, wire: bytes, way: int) -> Record | None:
    """Return the record of a key; None if it is another key's. ``body`` is what follows the check, which is right."""
    shape, expires, version, loaded = _OWN.unpack_from(body)
    start = LABEL_AT + GROUP.size * (shape >> GROUPS_SHIFT)
    end = start + (shape >> WIRE_SHIFT & WIRE)
    if body[start:end] != wire:
        return None
    payload = body[end:] if len(body) - end <= COPIED else memoryview(body)[end:]
    return Record(payload, body[LABEL_AT:start], expires, loaded, version, way, 0)


class Seen(NamedTuple):
    """A record as somebody sees it who looks what is there, current or not."""

    wire: bytes
    record: Record
    size: int  # bytes of the whole record
    uses: int  # how often it was found, up to 3
    is_current: bool  # whether its label stands, and it has not expired


class Header(NamedTuple):
    """What a writer needs of a record that comes to the tail of its log."""

    hash: int
    expires: float


def unpack_header(body: bytes) -> Header:
    """Return the header of a record. ``body`` is what follows the check."""
    expires, hash = _HEADER.unpack_from(body)
    header: Header = _new(Header, (hash, expires))
    return header


def groups_of(label: Label) -> dict[bytes, bytes]:
    """Return the groups of a label, by the hashes that they begin with."""
    size = GROUP.size
    return {label[at : at + 8]: label[at : at + size] for at in range(0, len(label), size)}


def label_of(body: bytes) -> Label:
    """Return the label of a record. ``body`` is what follows the check, which is right."""
    (shape,) = _SHAPE.unpack_from(body)
    return body[LABEL_AT : LABEL_AT + GROUP.size * (shape >> GROUPS_SHIFT)]


def wire_of(body: bytes) -> bytes:
    """Return the wire key of a record. ``body`` is what follows the check, which is right."""
    (shape,) = _SHAPE.unpack_from(body)
    start = LABEL_AT + GROUP.size * (shape >> GROUPS_SHIFT)
    return body[start : start + (shape >> WIRE_SHIFT & WIRE)]


def hashes_of(label: Label) -> tuple[int, ...]:
    """Return what a label names beside the root, the key, and the writes to it."""
    return tuple([GROUP.unpack_from(label, at)[0] for at in range(KEY_GROUPS * GROUP.size, len(label), GROUP.size)])
