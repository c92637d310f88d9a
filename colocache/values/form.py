"""`Form`: how the values of one type travel, and what all forms need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

# The codes of the extensions whose first part names the class.
REGISTERED: Final = 15
KNOWN: Final = 16

_MAX_EQUAL_HASHES: Final = 64  # honest sets have no more: of the powers of two, up to 35 floats share one hash


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of one type travel: as the body of the extension `code`.

    `to_wire` makes the body of a value, and `from_wire` makes a value of a body. A box holds other values: its
    functions give and take the list of its parts, and the body is that list, packed.

    `heads` names the first parts of an instance of a class, for error texts. After them come names and values in turn.
    """

    code: int
    to_wire: Callable[[Any], Any]
    from_wire: Callable[[Any], Any]
    is_box: bool = False
    heads: tuple[str, ...] | None = None


def hashable(members: list[Any]) -> list[Any]:
    """Return `members`. Raise ValueError if so many have one hash that a set of them would take quadratic time.

    The hashes of numbers, and of tuples of numbers, are no secret: in 1 MiB a peer can send 80,000 that all collide.
    """
    if len(members) > _MAX_EQUAL_HASHES and max(Counter(map(hash, members)).values()) > _MAX_EQUAL_HASHES:
        raise ValueError(f"more than {_MAX_EQUAL_HASHES} members or keys have the same hash")
    return members


def in_turn(mapping: Any) -> chain[Any]:
    """Return key, value, key, value, ..."""
    return chain.from_iterable(mapping.items())


def mapping_of(parts: Any) -> dict[Any, Any]:
    """Return the dict of key, value, key, value, ..."""
    return dict(zip(hashable([*parts[::2]]), parts[1::2], strict=True))


def type_name(cls: type) -> str:
    """Return the name of a class as error texts show it."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
