"""What a payload tells before anybody looks at the value in it."""

from __future__ import annotations

from typing import Final

import msgpack

from .codec import MAX_DEPTH

_BOX_HEADS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])  # of arrays and maps
_OTHER_HEADS: Final = bytes([*range(0xC4, 0xCA), *range(0xD4, 0xD9)])  # of bytes and extensions
_LONG_HEADS: Final = (b"\xdc", b"\xdd", b"\xde", b"\xdf")
_SHORT: Final = 2048
_NO_HEADS: Final = bytes(set(range(256)).difference(_BOX_HEADS, _OTHER_HEADS))


def heads(payload: bytes) -> bytes:
    """Return the bytes that can be heads of arrays, maps, bytes or extensions. Every level of nesting has one.

    Some of these bytes are parts of texts and numbers. So many of them prove nothing, but few prove that the value is
    shallow, in a tenth of the time that a look at each of its parts takes.
    """
    return payload.translate(None, _NO_HEADS)


def is_plain(payload: bytes) -> bool:
    """Tell whether `payload` certainly holds only None, bool, int, float, str, list and dict, within the limits."""
    found = heads(payload)
    return len(found) <= MAX_DEPTH and not found.strip(_BOX_HEADS)


def refuse_lies(payload: bytes) -> None:
    """Raise an exception if an array or map of `payload` claims more members than follow.

    For each head, msgpack reserves 8 bytes for every member that the head claims, before it reads the members. 1000
    nested heads in 100 KB that claim 100,000 members each would reserve 800 MB. A short head claims 15 at most. In a
    short payload all heads together reserve at most 12 MB, because none may claim more members than the payload has
    bytes.
    """
    if len(payload) > _SHORT and any(head in payload for head in _LONG_HEADS):
        unpacker = msgpack.Unpacker(max_buffer_size=len(payload))
        unpacker.feed(payload)
        unpacker.skip()
