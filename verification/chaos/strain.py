"""What makes life hard for one process: a deaf bus, an impatient or a greedy interpreter, user code everywhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from random import Random
from time import monotonic
from typing import Any, NamedTuple

import colocache
from colocache.runtime.bus import Bus
from verification.chaos import userland


class Strain(NamedTuple):
    """What one process has to put up with."""

    loss: float = 0.0  # the share of what the bus hears that is lost
    switch: float = 0.005  # s; the interpreter's switch interval
    hog: float = 0.0  # s; for as long, at most, threads of no use keep the interpreter to themselves
    litters: bool = False  # finalizers use the cache
    handler: str = ""  # what a log handler does; see `userland.HANDLERS`
    alarms: float = 0.0  # s from one signal to the next whose handler uses the cache
    interrupted: bool = False  # signals interrupt calls of the main thread, in place of these alarms; see `interrupted`

    @classmethod
    def draw(cls, dice: Random) -> Strain:
        """Draw lots; every other process is spared each of them."""
        return cls(
            loss=dice.choice((0.0, 0.0, 0.3, 1.0)),
            switch=dice.choice((1e-6, 0.005, 0.005, 0.2)),
            hog=dice.choice((0.0, 0.0, 0.0, 0.1, 1.2)),
            litters=dice.choice((False, True)),
            handler=dice.choice(userland.HANDLERS),
            alarms=dice.choice((0.0, 0.0, 0.02, 0.3)),
            interrupted=dice.choice((False, True)),
        )

    def prepare(self) -> None:
        """Have this process be interrupted as often as that."""
        sys.setswitchinterval(self.switch)

    def impose(
        self, cache: colocache.Cache, dice: Random, enough: threading.Event, accuse: Callable[..., None]
    ) -> list[threading.Thread]:
        """Have a process overhear messages; return the threads that make life hard until it is enough."""
        genuine: Any = Bus._hand_over
        Bus._hand_over = lambda bus, message: dice.random() < self.loss or genuine(bus, message)  # type: ignore[assignment, method-assign, return-value]
        hogs = (_compute, _spin) if self.hog else ()
        threads = [threading.Thread(target=_hog, args=(how, self.hog, Random(dice.random()), enough)) for how in hogs]
        use = userland.Use(cache, Random(dice.random()), accuse)
        if self.handler:
            userland.handle_lines(self.handler, use, Random(dice.random()))
        if self.alarms and not self.interrupted:
            userland.alarm(use, self.alarms)
        return [*threads, *([userland.litter(use, enough)] if self.litters else [])]


def _hog(how: Callable[[float], None], longest: float, dice: Random, enough: threading.Event) -> None:
    while not enough.wait(dice.expovariate(1 / (4 * longest))):
        how(dice.uniform(0, longest))


def _compute(seconds: float) -> None:
    """One call into C that never gives the interpreter up, as a runaway regular expression is."""
    began, probe = monotonic(), 100_000
    sum(range(probe))
    sum(range(int(probe * seconds / max(1e-4, monotonic() - began))))


def _spin(seconds: float) -> None:
    """Python that gives it up only when asked."""
    ends = monotonic() + seconds
    while monotonic() < ends:
        pass
