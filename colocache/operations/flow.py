"""The steps in which a flow asks its member.

An operation is a generator, a flow. It yields a `Wait` for each question, and gets the answer. Get-or-load also yields
a `colocache.operations.load.Load`. `colocache.operations.drive` carries out these steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from ..core.group.calls import Calls
from ..runtime.driver import Driver
from ..runtime.waiting.answers import Asked

T = TypeVar("T")
Item = TypeVar("Item")

BYTES_AT_ONCE = 8 << 20  # of the values in the questions of one call; one value may be larger

Command = Callable[[Calls, int, float], None]


class Wait(NamedTuple):
    """The step that asks the member a question, and waits for the answer."""

    driver: Driver
    command: Command | None  # None: `answer` asks
    limit: float  # s within which the driver answers, unless it is in trouble
    otherwise: Any  # the answer if the member ends, or if the wait takes too long
    local: bool = False  # this process alone answers, at once: allowed on an event loop's thread
    answer: Callable[[], Asked] | None = None  # gives the answer to wait for; None: a new one

    def begin(self) -> Asked:
        """Return the answer to wait for. To be called only where waiting is allowed."""
        return self.answer() if self.answer is not None else self.driver.new_call()


Flow = Generator[Wait, Any, T]


class Ahead(Generic[Item]):
    """The questions of one call: some are asked ahead, but never too many at once."""

    def __init__(
        self, driver: Driver, items: Iterable[Item], command: Callable[[Item], Command], otherwise: Any, limit: float,
        most: int, size: Callable[[Item], int] = lambda _: 0,
    ) -> None:  # fmt: skip
        self._driver = driver
        self._items = iter(items)
        self._command = command
        self._otherwise = otherwise
        self._limit = limit
        self._most = most
        self._size = size
        self._asked = deque[tuple[Asked, int]]()
        self._bytes = 0

    def question(self) -> Wait:
        """Return the step that waits for the next answer, in the order of the items."""
        return Wait(self._driver, None, self._limit, self._otherwise, answer=self._next)

    def _next(self) -> Asked:
        """Return the next answer, once its question is asked, and further ones with it."""
        while len(self._asked) < self._most and self._bytes < BYTES_AT_ONCE:
            try:
                item = next(self._items)
            except StopIteration:
                break
            self._asked.append((self._driver.ask(self._command(item), self._otherwise), self._size(item)))
            self._bytes += self._asked[-1][1]
        asked, size = self._asked.popleft()
        self._bytes -= size
        return asked
