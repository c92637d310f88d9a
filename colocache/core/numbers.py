"""Whole numbers as payloads. They have a form of their own, whatever the codec is, so that they can be counted.

A call that counts holds a lock that others wait for, so it must not run a user's codec. It need not, because a counter
is an int.
"""

from __future__ import annotations

#: The first bytes of a number's payload. Other payloads have the digest of their codec's name there.
FORMAT = b"\0int"

MAX_BYTES = 64  # of one number: more than a counter needs, and still cheap to add up


def pack_integer(value: int) -> bytes | None:
    """Return the payload of a number; None if it is too large for a counter, so that the codec must carry it."""
    size = value.bit_length() // 8 + 1
    return FORMAT + value.to_bytes(size, "big", signed=True) if size <= MAX_BYTES else None


def unpack_integer(payload: bytes) -> int | None:
    """Return the number of a payload; None if the payload carries something else."""
    if payload[:4] != FORMAT or not 4 < len(payload) <= 4 + MAX_BYTES:
        return None
    return int.from_bytes(payload[4:], "big", signed=True)


def added(payload: bytes, delta: int) -> bytes | None:
    """Return the payload of a number plus ``delta``; None if there is no number, or the sum is too large."""
    number = unpack_integer(payload)
    return None if number is None else pack_integer(number + delta)
