"""Keys as users write them, and keys on the wire.

A wire key is ``length of the namespace | namespace | body``. Every part of the body carries its type and length, so
``("a:b", "c")`` and ``("a", "b:c")`` differ. A body of more than `MAX_BODY` bytes travels as its BLAKE2b hash.
`colocache.core.parts` says which keys are the same.
"""

from __future__ import annotations

from typing import Any

from ..naming import shown
from .parts import MAX_PART, NotAPart, canonical, encode, shortened
from .reading import NotReadable, decode, shown_body

MAX_BODY = MAX_PART  # bytes; a longer body travels hashed, so a key takes at most this much on the wire
MAX_NAMESPACE = 200  # bytes of UTF-8
_SHORT = MAX_BODY // 4  # letters that fit into a body whatever they are
MAX_WIRE = 1 + MAX_NAMESPACE + MAX_BODY

#: What a user may give as a key: a text, or a tuple of parts that `colocache.core.parts` accepts.
Key = str | tuple[Any, ...]


def prefix(namespace: str) -> bytes:
    """Return the first part of the wire keys in a namespace. Raise ValueError if the name is too long."""
    encoded = namespace.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_NAMESPACE:
        raise ValueError(
            f"the namespace {namespace!r} takes {len(encoded)} bytes: give it a name of at most {MAX_NAMESPACE}"
        )
    return bytes((len(encoded),)) + encoded


def wire(namespace_prefix: bytes, key: Key) -> bytes:
    """Return the wire key of ``key`` under a namespace's `prefix`. Raise TypeError as `canonical_form` does."""
    if type(key) is str and len(key) < _SHORT:  # what follows says the same, in three times the time
        return namespace_prefix + b"s" + key.encode("utf-8", "surrogatepass")
    return namespace_prefix + shortened(encode(canonical_form(key)), b"colocache-key")


def canonical_form(key: object) -> Any:
    """Return the canonical form of a key, by which readers find its entry. It is the key itself if possible.

    Keys that are the same have the same form. Raise TypeError, with the name of a part that cannot be in a key.
    """
    kind = type(key)
    if kind is str:
        return key
    if not issubclass(kind, str | tuple):
        remedy = f"write ({shown(key, 60)},)" if _is_part(key) else "convert it, for example with str()"
        raise TypeError(f"a key is a str or a tuple, not {kind.__name__}: {shown(key)}; {remedy}")
    try:
        return canonical(key)
    except NotAPart as error:
        raise TypeError(
            f"a key cannot hold {shown(error.part, 60)} of the type {type(error.part).__name__}, which "
            f"{error.reason}: {shown(key)}. Convert it, for example with str(), or define __cache_key__(self)"
        ) from None


def namespace_of(wire_key: bytes) -> str:
    """Return the namespace of a wire key. Raise ValueError if the key is malformed."""
    length = wire_key[0] if wire_key else 0
    if len(wire_key) < length + 2:
        raise ValueError("the wire key is shorter than its first byte says")
    return wire_key[1 : length + 1].decode("utf-8", "surrogatepass")


def read(wire_key: bytes) -> Key | None:
    """Return a key as its user may write it; None if it travels as a hash, or holds what cannot be made again.

    Raise ValueError if the wire key is malformed.
    """
    body = wire_key[1 + len(namespace_of(wire_key).encode("utf-8", "surrogatepass")) :]
    try:
        found = decode(body)
    except NotReadable:
        return None
    return found if isinstance(found, str | tuple) else None


def shown_wire(wire_key: bytes) -> str:
    """Return a key as people see it in lists: its namespace, and what can be read of it.

    A text is shown as it is, and the arguments of a decorated function, whose namespace has a ``:``, as a call.
    """
    namespace = namespace_of(wire_key)
    body = wire_key[1 + len(namespace.encode("utf-8", "surrogatepass")) :]
    if ":" in namespace and body[:1] == b"(":
        call = shown_body(body)
        return f"{namespace}{call[:-2]})" if call.endswith(",)") else f"{namespace}{call}"
    text = body[1:].decode("utf-8", "replace") if body[:1] == b"s" else shown_body(body)
    return f"{namespace} {text}" if namespace else text


def within(namespace: str, ancestor: str) -> bool:
    """Tell whether ``namespace`` is ``ancestor`` or lies below it. Namespaces nest by ``/``; ``""`` holds all."""
    return not ancestor or namespace == ancestor or namespace.startswith(ancestor + "/")


def _is_part(value: object) -> bool:
    try:
        canonical(value)
    except NotAPart:
        return False
    return True
