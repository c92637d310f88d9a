"""Which of the group's secrets is tried next with a host, and when. Pure; for one thread.

A host presents the key of one secret only, and the dialling side cannot ask which. So each attempt is with one secret,
and attempts take turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

PAUSE, PAUSE_AT_MOST = 0.25, 8.0  # s after a round of failures: the first time, and in the end


class Rotation:
    """The attempts to come in at one host.

    The secret that was right the last time is tried first. Each of the others follows at once, because while a secret
    is changed a failure is to be expected. Once none was right, there is a pause, and pauses grow: an attempt costs the
    host a millisecond, and a wrong secret stays wrong until somebody corrects it.
    """

    def __init__(self, secrets: int, chance: Callable[[], float]) -> None:
        """``secrets`` is their number, 1 at least; ``chance`` returns random numbers from 0 to 1.

        Raise ValueError if there is none.
        """
        if secrets < 1:
            raise ValueError("there is no secret to try")
        self.current = 0  #: which of them is to be tried, or is in use
        self._secrets = secrets
        self._chance = chance
        self._failures = 0  # in a row
        self._refusals = 0  # of these

    def succeeded(self) -> None:
        """Note that the host has let this one in."""
        self._failures = self._refusals = 0

    def failed(self, refused: bool) -> float:
        """Note that it has not, go on to the next secret, and return how many seconds to wait before.

        ``refused``: the host ended the handshake. It is False if it did not answer, or what it said made no sense.
        """
        self._failures += 1
        self._refusals = self._refusals + 1 if refused else 0
        self.current = (self.current + 1) % self._secrets
        rounds, within = divmod(self._failures, self._secrets)
        if within:
            return 0.0
        pause = min(PAUSE * math.ldexp(1.0, min(rounds - 1, 10)), PAUSE_AT_MOST)
        return pause * (1 + self._chance()) / 2  # hosts that were refused at one instant do not come back at one

    @property
    def is_refused(self) -> bool:
        """Whether every secret was refused, and the last two attempts were.

        One refusal alone says nothing: a host that ends during the handshake looks the same.
        """
        return self._refusals >= max(2, self._secrets)
