"""The codec that carries all that pickle can, signed."""

from __future__ import annotations

import hmac
import pickle
from typing import Final

from ..errors import ConfigError, OversizeError
from ..interruptions import raise_if_from_handler
from .codec import MAX_BYTES, refuse_long
from .form import type_name

_SIGNATURE: Final = 32  # bytes of an HMAC-SHA256, and the length that RFC 2104 asks of its key


class PickleCodec:
    """Carries all that pickle can. It has a risk, so the cache never uses it unless the application asks for it.

    The risk: anybody who knows `key` can sign a payload that runs any code in every process of the group. The signature
    keeps all others out. It does not say when a payload was made, nor for which key of the cache it was made: a peer
    that does not know `key` can still send one signed value in place of another.

    Any thread may call both methods at any time.
    """

    name = "pickle-1"

    def __init__(self, *, key: bytes, max_bytes: int = MAX_BYTES) -> None:
        """Sign with `key`: at least 32 secret bytes, the same in every process. Raise ConfigError for a bad key."""
        if type(key) is not bytes or len(key) < _SIGNATURE:
            raise ConfigError(f"PickleCodec needs key=..., at least {_SIGNATURE} secret bytes: make some by os.urandom")
        self._key = key
        self._max_bytes = max_bytes

    def encode(self, value: object) -> bytes:
        """Return the signed pickle of `value`. Raise whatever pickle, or a method of the value, raises.

        Raise OversizeError if pickle finds the value too deep.
        """
        try:
            body = pickle.dumps(value, protocol=5)
        except RecursionError as error:
            raise_if_from_handler(error)
            raise OversizeError(f"value of type {type_name(type(value))} is nested too deep for pickle") from error
        except Exception as error:
            raise_if_from_handler(error)
            error.add_note(f"colocache: a value of type {type_name(type(value))} cannot be pickled")
            raise
        return self._signature(body) + body

    def decode(self, payload: bytes) -> object:
        """Return the value. Raise ValueError if `payload` is too long, not signed with the key, or does not load."""
        refuse_long(payload, self._max_bytes)
        signature, body = payload[:_SIGNATURE], payload[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._signature(body)):
            raise ValueError("the payload is not signed with the key of this PickleCodec: give every process the same")
        try:
            return pickle.loads(body)
        except Exception as error:
            raise_if_from_handler(error)
            raise ValueError(f"the payload does not load: {error}") from error

    def _signature(self, body: bytes) -> bytes:
        # The name is signed, too, so what the same key signed for another purpose, or version, is not accepted.
        return hmac.digest(self._key, self.name.encode() + body, "sha256")
