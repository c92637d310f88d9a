"""Hosts without sockets: the protocol between them in one process, with a network and a clock that are computed.

    group = Simulation(100)
    group.start(range(99))           # at about the same time
    group.run_until(group.are_current)
    group.run(10.0)                  # simulated seconds
    print(group.sent["Ping"], group.bytes["Ping"])

What hosts say is decided by the shipped `colocache.core.hosts.gateway`. What carries it is written anew here, as short
as possible: each host dials every other one, says hello, pings each line at every tick, and once more when it learns
who is there, as `colocache.runtime.network.speaker` does. Nothing is lost, and everything takes `LATENCY`.

How many workers a host has does not matter to the protocol: they share its log, and hear of others by its memory.
"""

from __future__ import annotations

import heapq
import itertools
import mmap
import random
from collections import Counter
from collections.abc import Callable, Iterable, Set
from functools import partial
from time import thread_time

from colocache.core.host.board import PAGE, Board
from colocache.core.host.numbers import Numbers
from colocache.core.hosts import layout
from colocache.core.hosts.event import KEYS, Event
from colocache.core.hosts.gateway import SECOND, Gateway, Reply, Send, Times
from colocache.core.hosts.log import HostLog
from colocache.core.hosts.messages import Message, Pong, decode, encode
from colocache.core.hosts.rows import ACKED, Host, Incarnation, Row, Rows
from colocache.runtime.network.speaker import FEW
from colocache.runtime.network.wire import hello
from colocache.version import __version__

LATENCY = SECOND // 5000  # ns one way, with the time that the network threads take: 0.2 ms
CONNECTING = 3 * LATENCY  # until a line can be used: TCP, and the handshake of ZMTP with CURVE
SPREAD = SECOND // 2  # ns within which hosts start that start at the same time
HELLO = "Hello"


class _NoFences:
    """The fences of one thread."""

    order = staticmethod(lambda: None)

    def full(self) -> None:
        """Do nothing."""


class _NoLocks:
    """The locks of one thread."""

    def lock(self, place: int, /) -> bool:
        """Take one."""
        return True

    def unlock(self, place: int, /) -> None:
        """Give it back."""


class _Line:
    """A connection that a host has dialled."""

    def __init__(self) -> None:
        self.is_dialled = True
        self.is_usable = False
        self.host: Incarnation | None = None  # who is there


class SimulatedHost:
    """A host: its memory, its gateway, and its lines to others. It is what its gateway asks of discovery, too."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self._simulation = simulation
        self.number = number
        self.id = (1 + number).to_bytes(8, "big") * 2
        self.me = Host(self.id, f"web{number}", f"10.0.{number >> 8}.{number & 255}:7400", 16, __version__)
        self.lines: dict[int, _Line] = {}
        self.took = 0.0  # s of processor time of the protocol, with its encoding and decoding

    def start(self, listed: Iterable[int], now: int) -> None:
        """Begin: the first tick, and a line to each host that is listed."""
        fences = _NoFences()
        self._memory = mmap.mmap(-1, layout.WORD * layout.WORDS)  # what is not touched takes nothing
        self.words = memoryview(self._memory).cast("Q")
        self.log = HostLog(self.words, _NoLocks(), fences, lambda lane: True)
        self.board = Board([0], [0] * (1 + PAGE), PAGE, Numbers(1 + self.number), fences)
        self.rows = Rows(self.words, fences)
        self.gateway = Gateway(
            self.me, self.words, Row(self.words, fences, 0), self.log, self.board, fences, self, Times(), now=now
        )
        for number in listed:
            self.dial(number)
        self.tick()

    # --- What the protocol asks of discovery

    def are_complete(self, established: bool, forgotten: Set[Incarnation]) -> bool:
        """Tell whether all that are dialled were met."""
        return established or all(line.host is not None for line in self.lines.values())

    def tell(self, host: Host) -> None:
        """Dial a host of which others have told."""
        self.dial(_number_of(host.id))

    def end(self, host: Incarnation, goodbye: bool) -> None:
        """Note nothing: no host ends here."""

    def given_up(self) -> set[int]:
        """Return nothing: all are there."""
        return set()

    def give_up(self, places: Set[int]) -> None:
        """Note nothing."""

    # --- What the network thread does

    def dial(self, number: int) -> None:
        """Have a line to a host."""
        if number != self.number and number not in self.lines:
            self.lines[number] = _Line()
            self._simulation.after(CONNECTING, lambda: self._connected(number))

    def _connected(self, number: int) -> None:
        simulation, line = self._simulation, self.lines[number]
        line.is_dialled = simulation.hosts[number] in simulation.running
        if not line.is_dialled:
            return  # until it is heard: see `_hurry` of the speaker
        for _ in range(2):  # one each way
            simulation.count(HELLO, len(hello(__version__).pack()))
        simulation.after(2 * LATENCY, lambda: self._greeted(line, number))

    def _greeted(self, line: _Line, number: int) -> None:
        line.is_usable = True
        self._ping(number)

    def tick(self) -> None:
        """Do what is to be done at each tick, and have the next one come."""
        times, now = self.gateway.times, self._simulation.now
        self._timed(lambda: self._send(self.gateway.tick(now), None))
        for number in self.lines:
            self._ping(number)
        met = sum(line.host is not None for line in self.lines.values())
        self._simulation.after(times.ping if met <= FEW else times.lease // 3, self.tick)

    def _ping(self, number: int) -> None:
        line = self.lines[number]
        if line.is_usable:
            self._timed(lambda: self._post(number, self.gateway.ping(line.host, self._simulation.now), dialled=True))

    def invalidate(self, hashes: Iterable[int]) -> None:
        """Announce an event, as a worker of this host does, and wake the gateway."""
        position = self.log.append(Event(KEYS, tuple(hashes)))
        self.log.mark_stamped(position)
        self._timed(lambda: self._send(self.gateway.look(self._simulation.now), None))

    def take(self, source: int, frame: bytes, dialled: bool) -> None:
        """Take a frame of another host; ``dialled`` says by a line of which end it came: of the other host's."""
        self._timed(lambda: self._take(source, frame, dialled))

    def _take(self, source: int, frame: bytes, dialled: bool) -> None:
        message = decode(frame)
        if source in self.lines and not self.lines[source].is_dialled:
            self.lines[source].is_dialled = True
            self._simulation.after(CONNECTING, lambda: self._connected(source))
        self._send(self.gateway.receive(message, self._simulation.now), (source, not dialled))
        if isinstance(message, Pong) and self.lines[source].host is None:
            self.lines[source].host = message.me.id
            self._ping(source)

    def _send(self, messages: Iterable[Send | Reply], back: tuple[int, bool] | None) -> None:
        for each in messages:
            if isinstance(each, Reply):
                assert back is not None
                self._post(back[0], each.message, dialled=back[1])
            elif (line := self.lines.get(_number_of(each.to))) is not None and line.host is not None:
                self._post(_number_of(each.to), each.message, dialled=True)

    def _post(self, number: int, message: Message, dialled: bool) -> None:
        frame, simulation = encode(message), self._simulation
        simulation.count(type(message).__name__, len(frame))
        simulation.after(LATENCY, lambda: simulation.hosts[number].take(self.number, frame, dialled))

    def _timed(self, do: Callable[[], object]) -> None:
        began, before = thread_time(), self._simulation.nested
        self._simulation.nested = 0.0
        do()
        took = thread_time() - began
        self.took += took - self._simulation.nested
        self._simulation.nested = before + took


def _number_of(id: Incarnation) -> int:
    return int.from_bytes(id[:8], "big") - 1


class Simulation:
    """Some hosts, and the network between them."""

    def __init__(self, hosts: int, seed: int = 1) -> None:
        """Make hosts that have not started. ``seed`` is that of when they start."""
        self.now = 1000 * SECOND  # ns
        self.hosts = [SimulatedHost(self, number) for number in range(hosts)]
        self.running: list[SimulatedHost] = []
        self.spread = SPREAD / SECOND  #: s within which hosts start that start together
        self.sent = Counter[str]()  #: frames, by what they say
        self.bytes = Counter[str]()
        self.nested = 0.0  # s of processor time that is counted already
        self._random = random.Random(seed)
        self._events: list[tuple[int, int, Callable[[], object]]] = []  # a heap
        self._numbers = itertools.count()

    def start(self, numbers: Iterable[int]) -> None:
        """Have these hosts start at about the same time. Each has all of them, and all that run, in its list."""
        chosen = list(numbers)
        listed = [host.number for host in self.running] + chosen
        delays = [self._random.randrange(SPREAD) for _ in chosen]
        delays[-1] = SPREAD if len(chosen) > 1 else 0
        for number, delay in zip(chosen, delays, strict=True):
            self.after(delay, partial(self._start, number, listed))

    def _start(self, number: int, listed: Iterable[int]) -> None:
        self.running.append(self.hosts[number])
        self.hosts[number].start(listed, self.now)

    def count(self, what: str, size: int) -> None:
        """Note a frame that is sent."""
        self.sent[what] += 1
        self.bytes[what] += size

    def after(self, ns: int, do: Callable[[], object]) -> None:
        """Have something done later."""
        heapq.heappush(self._events, (self.now + ns, next(self._numbers), do))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        ends = self.now + int(seconds * SECOND)
        while self._events and self._events[0][0] <= ends:
            self._step()
        self.now = ends

    def run_until(self, condition: Callable[[], bool], patience: float = 60.0) -> float:
        """Let time pass until something is so; return the seconds. Raise TimeoutError if it takes too long."""
        began = self.now
        while not condition():
            if self.now > began + patience * SECOND:
                raise TimeoutError(f"not within {patience} simulated seconds")
            self._step()
            while self._events and self._events[0][0] == self.now:
                self._step()
        return (self.now - began) / SECOND

    def _step(self) -> None:
        self.now, _, do = heapq.heappop(self._events)
        do()

    def are_current(self) -> bool:
        """Tell whether all hosts are current, and know all others."""
        return bool(self.running) and all(
            host.words[layout.UNTIL] > self.now and len(host.rows.live()) == len(self.running) - 1
            for host in self.running
        )

    def have_acknowledged(self, host: SimulatedHost) -> bool:
        """Tell whether all others have acknowledged all events of a host."""
        numbers = host.log.lasts()
        return all(host.rows.has_reached(id, numbers, ACKED) for id in host.rows.counted())

    def forget_counts(self) -> None:
        """Begin to count anew."""
        self.sent.clear()
        self.bytes.clear()
        for host in self.hosts:
            host.took = 0.0
