"""Choices read off bytes: the same bytes give the same choices, from whatever source they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Choices, one after another; once the bytes are used up, always the first of what is offered.

    So a shorter input is a simpler story, which is what fuzzers make of a long one.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there are bytes left."""
        return self._at < len(self._data)

    def bytes(self, count: int) -> bytes:
        """Return the next bytes: ``count`` of them, or as many as there are."""
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.bytes(len(self._data))

    def below(self, limit: int) -> int:
        """Return a number from 0 to ``limit`` - 1."""
        return int.from_bytes(self.bytes(1 if limit <= 256 else 8), "big") % limit

    def pick(self, options: Sequence[T]) -> T:
        """Return one of some options."""
        return options[self.below(len(options))]

    def once_in(self, times: int) -> bool:
        """Return whether something rare is to happen."""
        return self.below(times) == times - 1

    def blob(self, most: int = 255) -> bytes:
        """Return bytes of any length up to ``most``."""
        return self.bytes(self.below(most + 1))
