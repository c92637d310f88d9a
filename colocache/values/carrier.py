"""How values travel: numbers in a form of their own, and all others by the cache's codec, under the codec's mark."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from ..core.numbers import pack_integer, unpack_integer
from ..core.options import MAX_VALUE
from ..errors import OversizeError
from ..interruptions import raise_if_from_handler
from .codec import Codec
from .large import takes_more_than
from .msgpack_codec import MsgpackCodec


class Carrier:
    """Makes payloads of values, and values of payloads. Any thread may use it."""

    def __init__(self, codec: Codec | None) -> None:
        self.codec = codec if codec is not None else MsgpackCodec()
        self._decode = self.codec.decode
        self._mark = blake2b(self.codec.name.encode(), digest_size=4).digest()

    def encode(self, value: object) -> bytes:
        """Return a value as it travels.

        Raise TypeError if it cannot travel, OversizeError if it is too large, and MemoryError if there is no memory.
        """
        if type(value) is int:
            number = pack_integer(value)
            if number is not None:
                return number
        try:
            body = self.codec.encode(value)
        except RecursionError as error:
            raise_if_from_handler(error)
            raise OversizeError(str(error)) from None
        size = len(self._mark) + len(body)
        if size > MAX_VALUE:
            raise OversizeError(f"it takes {size} bytes, more than {MAX_VALUE}")
        return self._mark + body

    def takes_more_than(self, value: object, limit: int) -> bool:
        """Tell whether a value certainly takes more than ``limit`` bytes, without encoding it. False may be wrong."""
        return isinstance(self.codec, MsgpackCodec) and takes_more_than(value, limit)

    def decode(self, payload: bytes | memoryview) -> Any:
        """Return the value of a payload. Raise ValueError if this process cannot read it."""
        if payload[:4] != self._mark:
            number = unpack_integer(bytes(payload))
            if number is not None:
                return number
            raise ValueError(f"it was written with another codec than {self.codec.name!r}")
        try:
            return self._decode(bytes(payload[4:]))
        except ValueError:
            raise
        except Exception as error:  # a codec that breaks its contract must not break the application
            raise_if_from_handler(error)  # not one of any other type that is not known: codecs have types of their own
            raise ValueError(f"the codec {self.codec.name!r} raised {type(error).__name__}: {error}") from error

    def learn(self, function: Callable[..., Any]) -> None:
        """Let the classes travel that a function's annotations name."""
        if isinstance(self.codec, MsgpackCodec):
            self.codec.learn(function)

    def check(self, function: Callable[..., Any]) -> None:
        """Raise TypeError if a function's return annotation names a class that cannot travel."""
        if isinstance(self.codec, MsgpackCodec):
            self.codec.check(function)
