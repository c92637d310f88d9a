"""Keys as users write them, and as they travel.

A wire key is ``length of the namespace | namespace | body``. The body is self-delimiting (every part carries its type
and length), so ``("a:b", "c")`` and ``("a", "b:c")`` differ. A body above `MAX_BODY` bytes travels as its BLAKE2b hash.
Keys that are equal in Python are one key here too: ``True`` is ``1``, as in a dict.
"""

from __future__ import annotations

from datetime import date
from hashlib import blake2b
from typing import Any
from uuid import UUID

MAX_BODY = 200  # bytes; longer ones travel hashed, so a key costs at most this much on the bus
MAX_NAMESPACE = 200  # bytes of UTF-8
MAX_WIRE = 1 + MAX_NAMESPACE + MAX_BODY
MAX_DEPTH = 8  # nested tuples

#: What a user may give as a key: a text, or a tuple of texts and of the types below, nested up to `MAX_DEPTH`.
Key = str | tuple[Any, ...]

_PARTS: tuple[object, ...] = (int, bool, type(None), bytes, UUID, date)


def prefix(namespace: str) -> bytes:
    """Return the part of a wire key that says its namespace. Raises ValueError if the name is too long."""
    encoded = namespace.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_NAMESPACE:
        raise ValueError(f"the namespace {namespace!r} takes {len(encoded)} bytes; at most {MAX_NAMESPACE} are allowed")
    return bytes((len(encoded),)) + encoded


def wire(namespace_prefix: bytes, key: Key) -> bytes:
    """Return the wire key of ``key`` under a namespace's `prefix`. Raises TypeError naming a part of a wrong type."""
    if type(key) is str:
        body = b"s" + key.encode("utf-8", "surrogatepass")
    elif type(key) is tuple:
        body = _tuple(key, key, 0)
    else:
        remedy = f"write ({_shown(key, 60)},)" if type(key) in _PARTS else "convert it, for example with str()"
        raise TypeError(f"a key is a str or a tuple, not {type(key).__name__}: {_shown(key, 100)}; {remedy}")
    if len(body) > MAX_BODY:
        body = b"#" + blake2b(body, digest_size=32, person=b"colocache-key").digest()
    return namespace_prefix + body


def namespace_of(wire_key: bytes) -> str:
    """Return the namespace of a wire key. Raises ValueError if the key is malformed."""
    length = wire_key[0] if wire_key else 0
    if len(wire_key) < length + 2:
        raise ValueError("a wire key that is shorter than it says")
    return wire_key[1 : length + 1].decode("utf-8", "surrogatepass")


def within(namespace: str, ancestor: str) -> bool:
    """Whether ``namespace`` is ``ancestor`` or lies below it; namespaces nest by ``/``, and ``""`` holds all."""
    return not ancestor or namespace == ancestor or namespace.startswith(ancestor + "/")


def _tuple(parts: tuple[Any, ...], whole: Key, depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise TypeError(f"a key nests tuples deeper than {MAX_DEPTH}: {_shown(whole, 100)}")
    return b"(" + b"".join([_sized(_part(part, whole, depth)) for part in parts])


def _sized(encoded: bytes) -> bytes:
    return len(encoded).to_bytes(4, "big") + encoded


def _part(part: object, whole: Key, depth: int) -> bytes:
    kind = type(part)
    if isinstance(part, str) and kind is str:
        return b"s" + part.encode("utf-8", "surrogatepass")
    if isinstance(part, int) and kind in (int, bool):
        return b"i" + int(part).to_bytes(part.bit_length() // 8 + 1, "big", signed=True)
    if part is None:
        return b"-"
    if isinstance(part, bytes) and kind is bytes:
        return b"b" + part
    if isinstance(part, UUID) and kind is UUID:
        return b"u" + part.bytes
    if isinstance(part, date) and kind is date:
        return b"d" + part.toordinal().to_bytes(4, "big")
    if isinstance(part, tuple) and kind is tuple:
        return _tuple(part, whole, depth + 1)
    raise TypeError(
        f"a key may hold str, int, bool, None, bytes, UUID, date and tuples of them, not {kind.__name__}: "
        f"{_shown(part, 60)} in {_shown(whole, 100)}; convert it, for example with str()"
    )


def _shown(value: object, width: int) -> str:
    try:
        return repr(value)[:width]
    except Exception as error:  # of an object's own, an int of 5,000 digits, or tuples that nest too deep to be shown
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
