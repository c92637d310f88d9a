"""When a copy is asked because the owner of a key is slow to answer.

A copy is asked after what nearly all answers of this owner have taken. See Dean and Barroso, "The tail at scale", CACM
2013. If many answers are late, all hosts are busy, and asking them twice makes that worse. So then nobody is, for a
while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from .rows import Incarnation

FIRST: Final = 0.005  # s: no copy is asked earlier
REMEMBERED: Final = 64  # answers of one owner
LOOK_EVERY: Final = 16  # answers, after which the delay is found anew
PART: Final = 0.05  # of the answers are later than the delay; and no larger part of the questions may be asked twice
FEW: Final = 200  # questions, before that is judged
REST: Final = 10.0  # s without a hedge, if too many were asked twice


class Hedging:
    """How long to wait for which owner. Any thread may call all methods; a count that is lost does not matter."""

    def __init__(self) -> None:
        self.hedged = 0  #: questions that were asked twice
        self.won = 0  #: those of them that the copy has answered first
        self._taken: dict[Incarnation, deque[float]] = {}
        self._delays: dict[Incarnation, float] = {}
        self._answers = 0
        self._asked = self._twice = 0  # lately
        self._rests_until = 0.0

    def delay(self, owner: Incarnation, now: float) -> float | None:
        """Return after how many seconds a copy is asked; None is never. This counts as a question."""
        self._asked += 1
        if self._asked >= 2 * FEW:
            self._asked, self._twice = self._asked // 2, self._twice // 2
        return None if now < self._rests_until else self._delays.get(owner, FIRST)

    def hedge(self, now: float) -> None:
        """Note that a copy is asked, too."""
        self.hedged += 1
        self._twice += 1
        if self._asked >= FEW and self._twice > PART * self._asked:
            self._rests_until = now + REST
            self._asked = self._twice = 0

    def win(self) -> None:
        """Note that the copy has answered first."""
        self.won += 1

    def note(self, owner: Incarnation, seconds: float) -> None:
        """Note how long an owner has taken to answer what it had."""
        taken = self._taken.get(owner)
        if taken is None:
            taken = self._taken.setdefault(owner, deque(maxlen=REMEMBERED))
        taken.append(seconds)
        self._answers += 1
        if self._answers % LOOK_EVERY == 0:
            ordered = sorted(taken.copy())
            self._delays[owner] = max(FIRST, ordered[int((1 - PART) * len(ordered))])

    def forget(self, owners: set[Incarnation]) -> None:
        """Forget all owners but these."""
        for id in self._taken.keys() - owners:
            self._taken.pop(id, None)
            self._delays.pop(id, None)


#: In the place of an answer: none has come yet, or nobody was asked.
AWAITED: Final = object()
UNASKED: Final = object()


class Race:
    """One question to two hosts, whose answers other threads give. None is that there is no answer."""

    __slots__ = ("_awaited", "_waiter", "copys", "is_over", "owners", "takes_owners")

    def __init__(self) -> None:
        self.owners: Any = AWAITED
        self.copys: Any = UNASKED
        self.is_over = False  # nobody waits any more
        self.takes_owners = False  # the owner's answer is the one that counts
        self._waiter: Callable[[Any], object] | None = None
        self._awaited = 0

    @property
    def given(self) -> int:
        """How many answers there are."""
        return (self.owners is not AWAITED) + (self.copys is not AWAITED and self.copys is not UNASKED)

    def take_owners(self, answer: Any) -> None:
        """Take the answer of the owner."""
        self.owners = answer
        self._wake()

    def take_copys(self, answer: Any) -> None:
        """Take the answer of the host with the copy."""
        self.copys = answer
        self._wake()

    def wait(self, count: int, waiter: Callable[[Any], object]) -> None:
        """Have the waiter called once there are so many answers. Both sides do their own step first, and then look."""
        self._awaited, self._waiter = count, waiter
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and self.given >= self._awaited:
            waiter(None)
