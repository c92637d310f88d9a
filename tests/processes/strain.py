"""What makes life hard for one process: full queues, short logs, lost messages, and a busy interpreter."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from random import Random
from time import monotonic
from typing import Any, NamedTuple

import colocache.core.group.seam
import colocache.runtime.bus
import colocache.runtime.directory
from colocache.core.group.seam import Send

RECORD = 128  # bytes; what an event of a few keys takes in a journal, generously


class Strain(NamedTuple):
    """What one process has to put up with."""

    queue: int = 100_000  # the most messages that a socket queues for one peer
    log: int = 10_000  # the events that are kept for who missed them, in memory and, about, in the journal
    loss: float = 0.0  # the share of publications that never leave
    cut: float = 0.0  # s; for as long, at most, nothing that is sent to one member leaves, or no answer, or no request
    switch: float = 0.005  # s; the interpreter's switch interval
    hog: float = 0.0  # s; for as long, at most, threads of no use keep the interpreter to themselves

    @classmethod
    def draw(cls, dice: Random, lease: float) -> Strain:
        """Draw lots; every other process is spared each of them."""
        return cls(
            queue=dice.choice((10, 100_000)),
            log=dice.choice((8, 10_000)),
            loss=dice.choice((0.0, 0.1, 0.3)),
            cut=dice.choice((0.0, 1.5)) * lease,
            switch=dice.choice((1e-6, 0.005, 0.005, 0.2)),
            hog=dice.choice((0.0, 0.0, 0.0, 0.1, 1.5)) * lease,
        )

    def prepare(self) -> None:
        """Have the members that this process starts from now on queue and log no more than that."""
        sys.setswitchinterval(self.switch)
        bus: Any = colocache.runtime.bus
        bus.Settings = partial(colocache.core.group.seam.Settings, log_events=self.log)
        bus.Directory = partial(colocache.runtime.directory.Directory, log_bytes=self.log * RECORD)
        bus.Bus._socket = lambda member, kind, largest, queue: _socket(member, kind, largest, min(queue, self.queue))

    def impose(self, cache: colocache.Cache, dice: Random, enough: threading.Event) -> list[threading.Thread]:
        """Have a member lose publications; return the threads that hog the interpreter until it is enough."""
        member: Any = cache._member()
        member._bus = Lossy(member._bus, self.loss, dice)
        if self.cut:
            member._act = Cut(member, self.cut, dice)
        hogs = (_compute, _spin) if self.hog else ()
        return [threading.Thread(target=_hog, args=(how, self.hog, Random(dice.random()), enough)) for how in hogs]


class Lossy:
    """A socket that loses some of what is sent."""

    def __init__(self, socket: Any, loss: float, dice: Random) -> None:
        self._socket = socket
        self._loss = loss
        self._dice = dice

    def send(self, frame: bytes) -> None:
        if self._dice.random() >= self._loss:
            self._socket.send(frame)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class Cut:
    """What a member does, but for what would be sent to one other: requests and answers go different ways.

    Each time to another one, and never for so long that it would be forgotten.
    """

    def __init__(self, member: Any, longest: float, dice: Random) -> None:
        self._member = member
        self._act = member._act
        self._longest = longest
        self._dice = dice
        self._lost: tuple[bytes, tuple[bool, ...]] = (b"", ())  # to whom, and whether it is an answer
        self._until = 0.0

    def __call__(self, actions: list[Any]) -> None:
        if monotonic() >= self._until:
            self._until = monotonic() + self._dice.uniform(0, self._longest)
            others = [incarnation for incarnation in self._member._links if incarnation != self._lost[0]]
            to = self._dice.choice([*others, b"", b""])
            self._lost = (to, self._dice.choice(((True,), (False,), (True, False))))
        self._act([action for action in actions if not self._loses(action)])

    def _loses(self, action: Any) -> bool:
        to, kinds = self._lost
        return isinstance(action, Send) and action.to == to and action.reply in kinds


_socket: Callable[..., Any] = colocache.runtime.bus.Bus._socket


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
