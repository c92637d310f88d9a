"""Whole numbers as they travel: in a form of their own, whatever the codec, so that an owner can count.

The thread that drives a peer must not run a user's codec, and need not: a counter is an int, and ints are written here.
"""

from __future__ import annotations

#: Stands where other payloads carry the digest of their codec's name.
FORMAT = b"\0int"

MAX_BYTES = 64  # of one number: more than counters need, and cheap to add up


def pack_integer(value: int) -> bytes | None:
    """Return the payload of a number; None if it is too large for a counter, and better left to the codec."""
    size = value.bit_length() // 8 + 1
    return FORMAT + value.to_bytes(size, "big", signed=True) if size <= MAX_BYTES else None


def unpack_integer(payload: bytes) -> int | None:
    """Return the number of a payload; None if it carries something else."""
    if payload[:4] != FORMAT or not 4 < len(payload) <= 4 + MAX_BYTES:
        return None
    return int.from_bytes(payload[4:], "big", signed=True)
