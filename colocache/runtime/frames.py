"""What the processes of a host tell each other by the bus, and its form on the wire.

=============  =========================================================================================
kind           meaning
=============  =========================================================================================
`KEYS`         the keys with these hashes were invalidated: drop what is dead of them
`TAGS`         the same about tags
`NAMESPACES`   the same about namespaces
`EVERYTHING`   much has happened: look at all that you have. There are no hashes
`LOADED`       loads of the keys with these hashes have ended, and somebody waits: look again
=============  =========================================================================================

A frame is a head, and then the hashes as words of 8 bytes. The head is a `struct` of the layout ``=2sBBIQQ``: the bytes
"cb", the version 1, the kind, 0, the sender's name, and the number of this frame among those of its sender. A gap in
the numbers shows the receiver that something was lost.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

KEYS: Final = 1
TAGS: Final = 2
NAMESPACES: Final = 3
EVERYTHING: Final = 4
LOADED: Final = 5

IN_A_FRAME: Final = 1024  # hashes at most

_HEAD = struct.Struct("=2sBBIQQ")
_MAGIC, _VERSION = b"cb", 1

LARGEST: Final = _HEAD.size + 8 * IN_A_FRAME  # bytes of a frame


class Frame(NamedTuple):
    """A part of what a process says."""

    kind: int
    sender: int
    number: int
    hashes: Sequence[int]


def encode(kind: int, sender: int, number: int, hashes: array[int]) -> bytes:
    """Return a frame on the wire. ``hashes`` is an array of the type "Q"."""
    return _HEAD.pack(_MAGIC, _VERSION, kind, 0, sender, number) + hashes.tobytes()


def decode(data: bytes) -> Frame:
    """Return the frame. Raise ValueError if there is something else on the wire."""
    if not _HEAD.size <= len(data) <= LARGEST or (len(data) - _HEAD.size) % 8:
        raise ValueError("the frame has a wrong size")
    magic, version, kind, spare, sender, number = _HEAD.unpack_from(data)
    if (magic, version, spare) != (_MAGIC, _VERSION, 0) or not KEYS <= kind <= LOADED:
        raise ValueError("the frame has a wrong head")
    return Frame(kind, sender, number, array("Q", data[_HEAD.size :]))
