"""Reading the bytes of keys, for people who look what is cached: the other way of `colocache.core.parts.encode`.

What `encode` keeps is made again: texts, whole numbers, floats, bytes, None, UUIDs, dates, and tuples of these. Of the
rest only the class can be told, or nothing where a part, or a whole key, is so long that it is kept as its hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from fractions import Fraction
from typing import Any
from uuid import UUID

from ..interruptions import raise_if_from_handler

MOST_PARTS = 64  # that are shown of one key


class NotReadable(ValueError):
    """The bytes hold something that cannot be made again."""


def decode(body: bytes) -> Any:
    """Return the part that some bytes stand for. Raise NotReadable if it cannot be made again."""
    kind, rest = body[:1], body[1:]
    try:
        match kind:
            case b"s":
                return rest.decode("utf-8", "surrogatepass")
            case b"i":
                return int.from_bytes(rest, "big", signed=True)
            case b"-":
                return None
            case b"b":
                return rest
            case b"u":
                return UUID(bytes=rest)
            case b"d":
                return date.fromordinal(int.from_bytes(rest, "big"))
            case b"f":
                return float("inf" if rest == b"+" else "-inf")
            case b"q":
                return _number(rest)
            case b"(":
                return tuple([decode(each) for each in _items(rest)])
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise_if_from_handler(error)
        raise NotReadable(str(error)) from error
    raise NotReadable("a hash, or an object")


def shown_body(body: bytes) -> str:
    """Return what people see of a part: what can be read as Python writes it, and classes in angle brackets."""
    kind, rest = body[:1], body[1:]
    if kind == b"(":
        items = [*_items(rest)]
        shown = [shown_body(each) for each in items[:MOST_PARTS]]
        shown += ["…"] if len(items) > MOST_PARTS else []
        return f"({', '.join(shown)}{',' if len(shown) == 1 else ''})"
    if kind == b"c":
        return f"<class {_text(rest)}>"
    if kind == b"#":
        return f"<hash {rest[:6].hex()}>"
    if kind in (b"e", b"k", b"o"):
        return _shown_object(kind, rest)
    try:
        return repr(decode(body))
    except NotReadable:
        return f"<{len(body)} bytes>"


def _shown_object(kind: bytes, rest: bytes) -> str:
    """Return what people see of a member of an enum, of an object with a ``__cache_key__``, or of another object."""
    items = [*_items(rest[: 4 + int.from_bytes(rest[:4], "big")])]
    if not items:
        return f"<{len(rest)} bytes>"
    name, content = _text(items[0]), rest[4 + len(items[0]) :]
    if kind == b"e":
        return f"<{name}.{_text(content[1:])}>" if content[:1] == b"s" else f"<{name} {shown_body(content)}>"
    return f"<{name} {shown_body(content)}>" if kind == b"k" else f"<{name}>"


def _items(rest: bytes) -> Iterator[bytes]:
    """Return what was joined, each with its length before it. What is cut off is left out."""
    while len(rest) >= 4:
        size = int.from_bytes(rest[:4], "big")
        item, rest = rest[4 : 4 + size], rest[4 + size :]
        yield item


def _number(rest: bytes) -> Any:
    numerator, denominator = [decode(each) for each in _items(rest)]
    value = Fraction(numerator, denominator)
    close = float(value)
    return close if Fraction(close) == value else value


def _text(encoded: bytes) -> str:
    return encoded.decode("utf-8", "replace")
