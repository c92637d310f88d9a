"""Simulated processes that run the operations of the shell: what users call, over the memory of a simulated host.

The member, the near cache, the operations, and all of the core are the real ones. Simulated are the region, the clock,
the bus and the threads.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from random import Random
from types import FrameType, SimpleNamespace
from typing import Any, cast

import colocache.host
import colocache.member
import colocache.near_cache
import colocache.operations.invalidate
import colocache.operations.keyspace
from colocache.config import Config
from colocache.core.entry import MISSING, Entry, Home
from colocache.core.host.claims import Sleep
from colocache.core.host.numbers import Numbers
from colocache.core.host.scores import SIZE, Writer
from colocache.core.keys import Key
from colocache.core.near import NearStore
from colocache.host import Host, Shared
from colocache.member import Member
from colocache.operations import load, read
from colocache.operations.flow import Flow
from colocache.operations.keyspace import Given, Keyspace
from colocache.runtime import holds
from colocache.runtime.board_file import LIVES
from colocache.runtime.region import Region
from verification.host.machine import (
    Machine,
    Process,
    SimulatedClaimLocks,
    SimulatedFences,
    SimulatedRingLocks,
    State,
)
from verification.host.mutations import replaced
from verification.host.world import Memory

CONFIG = Config.resolve(
    {"group": "simulated", "private": True, "memory": "1MiB", "shelf": "1MiB", "load_timeout": "10s"}, {}
)
_READ_THE_CLOCK = (
    colocache.host, colocache.member, colocache.near_cache, colocache.operations.invalidate,
    colocache.operations.keyspace,
)  # fmt: skip


@contextmanager
def clock_of(machine: Machine) -> Iterator[None]:
    """Have the shell read the clock of a machine, and log nothing: some values are too large on purpose.

    And have it find the functions of simulated threads, which are greenlets.
    """
    with ExitStack() as stack:
        stack.enter_context(replaced(holds, "is_over", partial(_is_over, machine)))
        stack.enter_context(replaced(logging.getLogger("colocache"), "disabled", True))
        for module in _READ_THE_CLOCK:
            stack.enter_context(replaced(module, "monotonic", lambda: machine.clock))
        yield


def _is_over(machine: Machine, hold: holds.Hold) -> bool:
    """Do what `colocache.runtime.holds.is_over` does."""
    stacks: list[FrameType | None] = [sys._getframe(), *[each.greenlet.gr_frame for each in machine.threads]]
    for frame in stacks:
        while frame is not None:
            if frame is hold[1]:
                return False
            frame = frame.f_back
    return hold[1] is not None


class _NoFences:
    """Those of the scoreboard, by which nobody decides anything."""

    def order(self) -> None:
        """Do nothing."""

    def full(self) -> None:
        """Do nothing."""


class SimulatedRegion:
    """What the shell uses of `colocache.runtime.region.Region`."""

    path = ""
    id = bytes(16)
    hosts = None
    seats_version = 0

    def __init__(self, memory: Memory, process: Process, writer: int) -> None:
        machine = memory.machine
        self.numbers = Numbers(writer)
        self.fences = SimulatedFences(machine)
        self.bell, self.heard, self.marks, self.mark_count = memory.bell, memory.bell, memory.marks, memory.mark_count
        self.hints, self.state = memory.hints, [LIVES]
        self.geometry = memory.geometry
        self.shelf = memory.shelf(lambda start, end: True)
        self.rings = SimulatedRingLocks(machine, process)
        self.claims = SimulatedClaimLocks(machine, process)
        self.seat = SimpleNamespace(number=writer, nonce=writer)
        self.scores = Writer(memoryview(bytearray(SIZE)).cast("Q"), _NoFences(), lambda start, end: True)
        self.scores.sit_down(writer, writer, 0)

    def is_in_place(self) -> bool:
        """Tell whether newcomers find it."""
        return True

    def seats(self) -> list[Any]:
        """Return the other processes."""
        return []


class SimulatedShared(Shared):
    """What the caches of a process share, with a simulated bus."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(cast(Region, worker.region), CONFIG, None)
        self._worker = worker

    def now(self) -> float:
        """Return the time of the machine."""
        return self._worker.computer.machine.clock

    def sweep_soon(self) -> None:
        """Do nothing: whether memory is freed now or later must make no difference."""

    def _wake(self, hash: int) -> None:
        self._worker.computer.wake(hash)


class SimulatedMember(Member):
    """A member that has joined."""

    def __init__(self, host: Host) -> None:
        super().__init__(CONFIG, None)
        self.life.host = host
        self.near_caches.bind(host.keeper.store, self.life.ledger)
        self._simulated = host

    def join(self) -> Host:
        """Return the host."""
        return self._simulated

    own_host = join


class Worker:
    """One simulated process, with a cache."""

    def __init__(self, computer: Computer, name: str, writer: int) -> None:
        self.computer = computer
        self.process = computer.machine.process(name)
        self.region = SimulatedRegion(computer.memory, self.process, writer)
        self.shared = SimulatedShared(self)
        self.host = Host(self.shared, CONFIG)
        self.member = SimulatedMember(self.host)
        self.keyspaces = {
            (path, fence): Keyspace(self.member, path, None, copies=False, fence=fence)
            for path in computer.namespaces
            for fence in (False, True)
        }
        self.inherited: dict[tuple[str, Key], Entry] = {}  # of a parent, until this process forgets
        self._inherited_near = NearStore(1 << 20, "lru", self.host.board, self.region.fences, self.host.lease)

    @property
    def runs(self) -> bool:
        """Whether it lives, and is not stopped."""
        return self.process.state is State.RUNS

    def fork(self, name: str, forgets: bool) -> Worker:
        """Return a child, which may serve what its parent has near until it uses the cache for more."""
        child = self.computer.worker(name)
        if not forgets:
            for (path, fence), keyspace in self.keyspaces.items():
                if not fence:
                    for key, entry in keyspace.near[0].items():
                        copy = Entry(
                            Home(None), key, entry.value, entry.hash, entry.label, entry.way, entry.expires, entry.size
                        )
                        copy.bell = entry.bell
                        child.inherited[path, key] = copy
        return child

    # --- Operations that look near first, or wait

    def get(self, path: str, key: Key, *, fence: bool = False) -> tuple[Any, str]:
        """Return a value, or MISSING, and where it was found."""
        entry = self.inherited.get((path, key))
        if entry is not None and self._inherited_near.lets(entry, self.computer.machine.clock):
            return entry.value, "inherited"
        self.inherited.clear()
        keyspace = self.keyspaces[path, fence]
        value = keyspace.hit(key)
        if value is not MISSING:
            return value, "near"
        return read.get(keyspace, key, MISSING), "shelf"

    def get_or_load(self, path: str, key: Key, loader: Callable[[], Any], given: Given) -> tuple[Any, str]:
        """Return a value, and where it was found, if not by this call's loader."""
        self.inherited.clear()
        keyspace = self.keyspaces[path, False]
        value = keyspace.hit(key)
        if value is not MISSING:
            return value, "near"
        return self._drive(load.get_or_load(keyspace, key, loader, given))

    def _drive(self, flow: Flow[Any]) -> tuple[Any, str]:
        """Carry out the steps of a flow in the current thread, and return what comes of it, and by which steps."""
        machine, answer, where = self.computer.machine, None, "shelf"
        try:
            while True:
                try:
                    step = flow.send(answer)
                except StopIteration as end:
                    return end.value, where
                if isinstance(step, Sleep):
                    where = "waited"
                    answer = self._sleep(machine, step)
                else:
                    where = "loaded"
                    answer = _load(step)
        finally:
            flow.close()

    @staticmethod
    def _sleep(machine: Machine, step: Sleep) -> Any:
        machine.yield_now()
        woken: list[Any] = []
        step.register(woken.append)
        machine.wait(lambda: bool(woken), until=machine.clock + step.seconds)
        return woken[0] if woken else None


def _load(step: load.Run) -> Any:
    try:
        value = step.call()
        step.succeed(value)
    except BaseException as error:
        step.fail(error)
        raise
    return value


class Computer:
    """A simulated host, with its processes."""

    def __init__(self, memory: Memory, namespaces: Sequence[str], random: Random) -> None:
        self.machine = memory.machine
        self.memory = memory
        self.namespaces = namespaces
        self.workers: list[Worker] = []
        self._random = random

    def worker(self, name: str) -> Worker:
        """Return a new process."""
        worker = Worker(self, name, len(self.workers) + 1)
        self.workers.append(worker)
        return worker

    def wake(self, hash: int) -> None:
        """Do what the bus does when a load has ended for which others wait; some messages are lost."""
        for worker in self.workers:
            if worker.runs and self._random.random() < 0.8:
                worker.shared.claims.wake(hash)
