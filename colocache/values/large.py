"""Keys whose values are too large to be kept. Their next loads do not encode the value again for nothing."""

from __future__ import annotations

from typing import Final

MOST: Final = 1000  # keys; of more, all are forgotten
LEAST: Final = 0.01  # s; what is found sooner need not be remembered
SHARE: Final = 10.0  # a load of such a key encodes its value only after so many times the time that this has taken


class Large:
    """Keys whose last value was too large. Any thread may call all methods.

    The next value may be smaller, so it is encoded again after a while.
    """

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def holds(self, wire: bytes, now: float) -> bool:
        """Tell whether a value of this key is not to be encoded now."""
        return now < self._until.get(wire, now)

    def note(self, wire: bytes, began: float, ended: float) -> None:
        """Note that to find out that a value is too large has taken from one instant to the other, in seconds."""
        if ended - began >= LEAST:
            if len(self._until) >= MOST:
                self._until.clear()
            self._until[wire] = ended + SHARE * (ended - began)

    def forget(self, wire: bytes) -> None:
        """Note that a value was small enough."""
        if self._until:
            self._until.pop(wire, None)
