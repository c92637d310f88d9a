"""Which item is looked up when. Pure: time is an argument. For one thread.

A lookup may take a minute where a name server does not answer. So several run at a time, and those that failed the last
time get only half of the places: the names that work are found soon, however many do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from .peers import Item

AT_ONCE: Final = 16  # lookups, each of which has a thread
FAILING_AT_ONCE: Final = AT_ONCE // 2


class Schedule:
    """Looks every item up at once, and then again and again, ``interval`` seconds after each answer."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due: dict[Item, float] = {}  # of those that are not under way, too
        self._under_way: dict[Item, float] = {}  # since when; also those that are not listed any more
        self._failing: set[Item] = set()

    def keep(self, items: Iterable[Item], now: float) -> None:
        """Look up these items and no others. Those that are new are due at once."""
        self._due = {item: self._due.get(item, now) for item in items}
        self._failing &= self._due.keys() | self._under_way.keys()

    def take(self, now: float) -> list[Item]:
        """Return what is to be looked up now. Each is under way until `done`."""
        taken = self._within_failing([item for item, due in self._startable() if due <= now])[: self._room()]
        for item in taken:
            self._under_way[item] = now
        return taken

    def done(self, item: Item, now: float, well: bool) -> None:
        """Note that an answer has come, and whether it helps."""
        self._under_way.pop(item, None)
        if item in self._due:
            self._due[item] = now + self._interval
        if well or item not in self._due:
            self._failing.discard(item)
        else:
            self._failing.add(item)

    def look_again(self, now: float) -> None:
        """Have everything looked up anew, for example in a forked child, where no lookup is under way."""
        self._under_way.clear()
        self._due = dict.fromkeys(self._due, now)

    def deadline(self) -> float:
        """Return when `take` has something to say; infinity if an answer must come first."""
        waiting = self._within_failing([item for item, _ in self._startable()])
        return min((self._due[item] for item in waiting), default=math.inf) if self._room() else math.inf

    def slow(self, now: float, limit: float) -> Iterator[Item]:
        """Yield the listed items whose lookups have been under way for ``limit`` seconds or more."""
        return (item for item, since in self._under_way.items() if now - since >= limit and item in self._due)

    def _room(self) -> int:
        return max(0, AT_ONCE - len(self._under_way))

    def _startable(self) -> list[tuple[Item, float]]:
        """Return what is not under way, with the instants: those that do not fail first, then by instant and order."""
        waiting = [(item, due) for item, due in self._due.items() if item not in self._under_way]
        return sorted(waiting, key=lambda each: (each[0] in self._failing, each[1]))

    def _within_failing(self, items: list[Item]) -> list[Item]:
        room = FAILING_AT_ONCE - sum(item in self._failing for item in self._under_way)
        failing = [item for item in items if item in self._failing]
        kept = set(failing[: max(0, room)])
        return [item for item in items if item not in self._failing or item in kept]
