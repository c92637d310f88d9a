"""What weak sets hold at one moment."""

from __future__ import annotations

from typing import TypeVar
from weakref import WeakSet

from ..interruptions import raise_if_from_handler

T = TypeVar("T")


def living(weak: WeakSet[T]) -> list[T]:
    """Return the members that live. Other threads may add some meanwhile, which Python answers with RuntimeError."""
    while True:
        try:
            return list(weak)
        except RuntimeError as error:
            raise_if_from_handler(error)
