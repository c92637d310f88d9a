"""A process that stops or kills itself at a chosen step: between two lines of what is done under a lock.

A signal from outside finds a process where it is most of the time, and hardly ever between two stores. So `chaos.py`
gives some processes a **doom**: a place, how often they get there before, and how many lines they run there until it
comes to pass. In a place, each line counts that is run by the code below it that uses the host's memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGSTOP
from types import FrameType
from typing import Any, NamedTuple

import colocache
from colocache.core.host.board import Board
from colocache.core.host.claims import Claims
from colocache.core.host.logs import Logs
from colocache.core.host.shelf import Shelf
from colocache.runtime import region

HALF = "half a record"

#: The places, and up to how many lines are worth a try there. What is done under a ring's lock is the most.
PLACES: dict[str, tuple[Any, str, int]] = {
    "a write": (Shelf, "_write", 150),
    "a change": (Shelf, "_change", 200),
    "a lock": (Shelf, "_put", 150),
    "a move": (Logs, "_move", 40),
    HALF: (Logs, "append", 1),
    "a claim": (Claims, "_take", 25),
    "a report": (Claims, "end", 25),
    "an invalidation": (Board, "invalidate", 40),
    "joining": (region, "_join_alone", 150),
    "leaving": (region, "_leave_files", 60),
}
RARE = ("joining", "leaving")  # where each process gets once

_OURS = tuple(str(Path(colocache.__file__).parent / part) + os.sep for part in ("core/host", "runtime"))


class Doom(NamedTuple):
    """What will become of a process."""

    place: str
    calls: int
    lines: int
    stops: bool

    @classmethod
    def draw(cls, dice: Random) -> Doom:
        """Draw one."""
        place = dice.choice([*PLACES])
        calls = 0 if place in RARE else int(dice.expovariate(1 / 100))
        return cls(place, calls, dice.randint(1, PLACES[place][2]), dice.random() < 0.3)


class Fate:
    """The doom of this process, until it is spared, or has come to pass. A child does not inherit it."""

    def __init__(self, doom: Doom, note: Callable[..., None]) -> None:
        self._doom = doom
        self._note = note
        self._pid = os.getpid()
        self._calls = doom.calls
        self._lines = doom.lines
        self._is_over = False
        owner, name, _ = PLACES[doom.place]
        self._genuine = getattr(owner, name)
        run = self._half if doom.place == HALF else self._traced

        def doomed(*arguments: Any, **options: Any) -> Any:
            return run(*arguments, **options)

        setattr(owner, name, doomed)

    def spare(self) -> None:
        """Have it not come to pass."""
        self._is_over = True

    def _is_due(self) -> bool:
        self._calls -= 1
        return self._calls < 0 and not self._is_over and self._pid == os.getpid()

    def _strike(self) -> None:
        self._is_over = True
        self._note("doom", place=self._doom.place, stops=self._doom.stops, line=self._doom.lines)
        os.kill(os.getpid(), SIGSTOP if self._doom.stops else SIGKILL)

    def _traced(self, *arguments: Any, **options: Any) -> Any:
        if not self._is_due():
            return self._genuine(*arguments, **options)
        sys.settrace(self._trace)
        try:
            return self._genuine(*arguments, **options)
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        if event == "line":
            self._lines -= 1
            if self._lines <= 0 and not self._is_over:
                self._strike()
        return self._trace

    def _half(self, logs: Any, ring: int, log: int, position: int, body: bytes) -> Any:
        if self._is_due():
            half = body[: len(body) // 2]
            start = logs._starts[log][ring] + position % logs._sizes[log] + 8
            logs._data[start : start + len(half)] = half
            self._strike()
        return self._genuine(logs, ring, log, position, body)
