"""What a codec is, and the limits that all codecs share."""

from __future__ import annotations

from typing import Final, Protocol

MAX_BYTES: Final = 2**20 + 4096
"""The default limit of a payload: a value of 1 MiB, and room for what surrounds it."""

MAX_DEPTH: Final = 64
"""How many containers may be nested. So few that code which recurses (repr, ==, deepcopy) can follow."""


class Codec(Protocol):
    """Turns values into bytes and back. Any thread may call both methods at any time.

    `name` identifies the format on the wire, so that two applications with different codecs notice.
    """

    name: str

    def encode(self, value: object) -> bytes:
        """Return the payload of `value`.

        Raise TypeError if the codec can never carry the value: the text says what, where, and what to do. Raise
        OversizeError if only its size, depth or length is too great: then the cache uses the value and does not keep
        it.
        """

    def decode(self, payload: bytes) -> object:
        """Return a new value, equal to the encoded one. Raise ValueError if `payload` does not parse."""


def refuse_long(payload: bytes, max_bytes: int) -> None:
    """Raise ValueError if a payload is longer than a codec accepts."""
    if len(payload) > max_bytes:
        raise ValueError(f"the payload has {len(payload)} bytes, more than max_bytes={max_bytes}")
