"""Values that are too large to be kept: how to see that without encoding them, and for which keys to look."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

MOST: Final = 1000  # keys; of more, all are forgotten

_TEXTS: Final = (str, bytes, bytearray)
_CONTAINERS: Final = (list, tuple, dict, set, frozenset)


class Large:
    """Keys whose last value was too large. Any thread may call all methods."""

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}

    def holds(self, wire: bytes) -> bool:
        """Tell whether the last value of a key was too large."""
        return wire in self._keys

    def note(self, wire: bytes) -> None:
        """Note that a value was too large."""
        if len(self._keys) >= MOST:
            self._keys.clear()
        self._keys[wire] = None

    def forget(self, wire: bytes) -> None:
        """Note that a value was small enough."""
        self._keys.pop(wire, None)


def takes_more_than(value: Any, limit: int) -> bool:
    """Tell whether a value certainly takes more than ``limit`` bytes in msgpack, without encoding it.

    Each part takes one byte at least, and a text one for each character. So this looks at ``limit`` parts at most, also
    where a value contains itself. What is of another type counts as one byte: then False may be wrong.
    """
    size = 0
    stack: list[Iterator[Any]] = [iter((value,))]
    while stack:
        inner = None
        for each in stack[-1]:
            is_text, is_container = type(each) in _TEXTS, type(each) in _CONTAINERS
            size += 1 + (len(each) if is_text else 0)
            if size > limit or (is_container and len(each) > limit):
                return True
            if is_container:
                inner = _parts(each)
                stack.append(inner)
                break
        if inner is None:
            stack.pop()
    return False


def _parts(value: Any) -> Iterator[Any]:
    if type(value) is dict:
        return chain.from_iterable([*value.items()])  # a copy, because another thread may change it
    return iter(value if type(value) in (list, tuple) else [*value])
