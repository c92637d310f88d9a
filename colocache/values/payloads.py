"""What a payload tells before anybody looks at the value in it."""

from __future__ import annotations

from typing import Final

import msgpack

from .codec import MAX_DEPTH

_BOX_HEADS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])  # of arrays and maps
_OTHER_HEADS: Final = bytes([*range(0xC4, 0xCA), *range(0xD4, 0xD9)])  # of bytes and extensions
_LONG_HEADS: Final = (b"\xdc", b"\xdd", b"\xde", b"\xdf")
SHORT: Final = 2048
LONG: Final = 4096  # bytes: of longer payloads it is faster to look at their values first
_NO_HEADS: Final = bytes(set(range(256)).difference(_BOX_HEADS, _OTHER_HEADS))
_PLAIN: Final = frozenset({type(None), bool, int, float, str})
_SIMPLE: Final = _PLAIN | {bytes}
_LEVELS: Final = 4
_BYTES_A_PART: Final = 64


def heads(payload: bytes) -> bytes:
    """Return the bytes that can be heads of arrays, maps, bytes or extensions. Every level of nesting has one.

    Some of these bytes are parts of texts and numbers. So many of them prove nothing, but few prove that the value is
    shallow, in much less time than a look at each of its parts takes.
    """
    return payload.translate(None, _NO_HEADS)


def is_shallow(value: object, size: int, parts: frozenset[type] = _SIMPLE) -> bool:
    """Tell whether `value`, whose payload has `size` bytes, certainly is one of `parts`, or shallow lists and dicts.

    It looks at one part for each `_BYTES_A_PART` bytes of the payload at most, so that it takes much less time than a
    look at all these bytes.
    """
    level, left = [value], size // _BYTES_A_PART
    for _ in range(_LEVELS):
        boxes = [item for item in level if type(item) not in parts]
        if not boxes:
            return True
        level = []
        for box in boxes:
            if type(box) is dict:
                level += box
                level += box.values()
            elif type(box) is list:
                level += box
            else:
                return False
        left -= len(level)
        if left < 0:
            return False
    return False


def is_plain(value: object, payload: bytes) -> bool:
    """Tell whether `value` certainly holds only None, bool, int, float, str, list and dict, within the limits."""
    if type(value) in _PLAIN or (len(payload) > LONG and is_shallow(value, len(payload), _PLAIN)):
        return True
    found = heads(payload)
    return len(found) <= MAX_DEPTH and not found.strip(_BOX_HEADS)


def may_be_deep(value: object, payload: bytes) -> bool:
    """Tell whether containers may be nested too deep in `value`, whose payload this is."""
    if type(value) in _SIMPLE or (len(payload) > LONG and is_shallow(value, len(payload))):
        return False
    return len(heads(payload)) > MAX_DEPTH


def refuse_lies(payload: bytes) -> None:
    """Raise an exception if an array or map of `payload` claims more members than follow.

    For each head, msgpack reserves 8 bytes for every member that the head claims, before it reads the members. 1000
    nested heads in 100 KB that claim 100,000 members each would reserve 800 MB. A short head claims 15 at most. In a
    short payload all heads together reserve at most 12 MB, because none may claim more members than the payload has
    bytes.
    """
    if len(payload) > SHORT and any(head in payload for head in _LONG_HEADS):
        unpacker = msgpack.Unpacker(max_buffer_size=len(payload))
        unpacker.feed(payload)
        unpacker.skip()
