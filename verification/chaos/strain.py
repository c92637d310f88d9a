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
import colocache.runtime.directory
import colocache.runtime.driver
import colocache.runtime.transport

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
        runtime: Any = colocache.runtime
        runtime.driver.Settings = partial(colocache.core.group.seam.Settings, log_events=self.log)
        runtime.directory.Directory = partial(_Directory, journal_bytes=self.log * RECORD)
        runtime.transport.Transport._socket = lambda transport, kind, largest, queue: _socket(
            transport, kind, largest, min(queue, self.queue)
        )

    def impose(self, cache: colocache.Cache, dice: Random, enough: threading.Event) -> list[threading.Thread]:
        """Have a member lose publications; return the threads that hog the interpreter until it is enough."""
        transport: Any = cache._member.join()._transport  # type: ignore[union-attr]
        transport._publisher = Lossy(transport._publisher, self.loss, dice)
        if self.cut:
            transport.send = Cut(transport, self.cut, dice)
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
    """What a transport sends, except what would go to one other member: requests and answers go different ways.

    Each time to another one, and never for so long that it would be forgotten.
    """

    def __init__(self, transport: Any, longest: float, dice: Random) -> None:
        self._transport = transport
        self._send = transport.send
        self._longest = longest
        self._dice = dice
        self._lost: tuple[bytes, tuple[bool, ...]] = (b"", ())  # the receiver, and whether it is an answer
        self._until = 0.0

    def __call__(self, to: bytes, frame: bytes, reply: bool) -> Any:
        if monotonic() >= self._until:
            self._until = monotonic() + self._dice.uniform(0, self._longest)
            others = [incarnation for incarnation in self._transport._links if incarnation != self._lost[0]]
            unlucky = self._dice.choice([*others, b"", b""])
            self._lost = (unlucky, self._dice.choice(((True,), (False,), (True, False))))
        return (to == self._lost[0] and reply in self._lost[1]) or self._send(to, frame, reply)


_Directory: Callable[..., Any] = colocache.runtime.directory.Directory
_socket: Callable[..., Any] = colocache.runtime.transport.Transport._socket


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
