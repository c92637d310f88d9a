"""A policy in which everything takes time: steps, sleeps, messages, stops. What happens next is what is due next.

`verification.host.dice` lets threads go on in any order, and time passes only when nobody can. That finds what is
wrong with the memory of one host. Between hosts the times are what matters: how long a lease lasts, and how long a
message is under way. So here each thread goes on at an instant of the machine's clock, and so do the events of a
history: messages that arrive, faults, and hosts that boot.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from math import log
from random import Random

from verification.host.machine import PIECES, Hold, Machine, Process, State, Thread

POLL = 0.0003  # s between two looks of a thread that waits for a lock
LOCK_PATIENCE = 0.003  # s after which it gives up


class Timed:
    """What is due, in order."""

    def __init__(
        self, random: Random, machine: Machine, *, pace: float, end: float, late: float, holds: float, ages: float
    ) -> None:
        """``pace`` steps are taken between two interruptions, on the average, of which a share ``late`` is long.

        ``holds`` and ``ages`` are chances, as in `verification.host.dice`. The history is over at ``end``.
        """
        self.machine = machine
        self._arms: dict[int, dict[str, Callable[[Thread], object]]] = {}
        self._random = random
        self._draw = random.random
        self._pace = 1 / pace
        self._end = end
        self._late = late
        self._holds = holds
        self._ages = ages
        self._queue: list[tuple[float, int, Thread | Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._due: dict[Thread, int] = {}  # thread → the number of its place in the queue that counts
        self._parked: dict[Process, list[Thread]] = {}  # threads of processes that are stopped
        self._locked_since: dict[Thread, float] = {}
        self._buffers: list[Thread] = []
        self._aimed = False
        self._rested: set[Thread] = set()  # threads that see nothing older when they go on
        self.at(end + 1, lambda: None)  # so something is always due

    # --- What a history does

    def at(self, moment: float, event: Callable[[], object]) -> None:
        """Have something happen at a moment of the clock."""
        heapq.heappush(self._queue, (moment, next(self._numbers), event))

    def after(self, seconds: float, event: Callable[[], object]) -> None:
        """Have something happen later."""
        self.at(self.machine.clock + seconds, event)

    def be_quick(self) -> None:
        """Have no interruption be a long one from now on. With many of them a gateway is too slow for its leases."""
        self._late = 0.0

    def start(self, thread: Thread, seconds: float = 0.0) -> None:
        """Let a new thread begin."""
        self._schedule(thread, self.machine.clock + seconds)

    def wake(self, thread: Thread | None) -> None:
        """Let a thread look whether it still has to wait."""
        if thread is not None and thread.waits is not None:
            self._schedule(thread, self.machine.clock + 10e-6)

    def sleep(self, seconds: float) -> None:
        """Have the current thread sleep."""
        self.enter_the_kernel()
        self.machine.wait(None, until=self.machine.clock + seconds)
        self.enter_the_kernel()

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Have the current thread wait until it is woken and a condition holds, for so many seconds at most."""
        self.enter_the_kernel()
        self.machine.wait(condition, until=self.machine.clock + seconds)
        self.enter_the_kernel()

    def enter_the_kernel(self) -> None:
        """Have all stores of the current thread seen, and let it see nothing any more that is older than now."""
        machine = self.machine
        thread = machine.current
        if thread.buffer:
            machine.drain_all(thread)
        if machine.weak:
            machine.refresh(thread)

    def stop(self, process: Process, seconds: float) -> None:
        """Stop a process for so long."""
        if process.state is State.RUNS:
            self.machine.stop(process)
            self.after(seconds, lambda: self._go_on(process))

    def kill(self, process: Process, buried: Callable[[], object]) -> None:
        """Kill a process. Some time later the kernel frees its locks."""
        if process.state in (State.RUNS, State.STOPPED):
            self.machine.kill(process)

            def bury() -> None:
                self.machine.bury(process)
                buried()

            self.after(self._random.choice((0.0, 20e-6, 0.002)), bury)

    def _go_on(self, process: Process) -> None:
        if process.state is State.STOPPED:
            self.machine.go_on(process)
            for thread in self._parked.pop(process, []):
                self._rested.add(thread)
                self._schedule(thread, self.machine.clock + self._random.random() * 1e-5)

    def arms(self, host: int) -> dict[str, Callable[[Thread], object]]:
        """Return what happens at some places in the code of a host, once, by the labels of the places."""
        return self._arms.setdefault(host, {})

    def disarm(self) -> None:
        """Have nothing happen at any place."""
        for armed in self._arms.values():
            armed.clear()

    def point(self, host: int, label: str) -> None:
        """Come to a place in the code at which something may be aimed."""
        aimed = self.arms(host).pop(label, None)
        if aimed is not None:
            aimed(self.machine.current)
            self.machine.left = self.machine._saved = 0
            self._aimed = True
            self.machine.yield_now()

    # --- What a policy does

    def steps(self) -> int:
        """Choose how many steps come before the next interruption."""
        return int(-log(1.0 - self._draw()) / self._pace)  # `Random.expovariate`, in one call

    def pause(self, machine: Machine, thread: Thread, offset: int, size: int, stores: bool) -> Thread | None:
        """Let some time pass."""
        draw = self._draw
        delay = 2e-6 + 4e-6 * draw()
        is_long = draw() < self._late
        if thread.buffer and thread not in self._buffers:
            self._buffers.append(thread)
        if is_long:  # for so long that its stores are seen by everybody
            delay += self._random.uniform(0.001, 0.02)
            self.enter_the_kernel()
        if self._buffers:
            self._drain()
        moment = machine.clock + delay
        if not self._aimed and self._queue[0][0] > moment:
            machine.clock = moment
            if is_long:
                machine.refresh(thread)
            return thread
        if is_long or self._aimed:
            self._rested.add(thread)
        self._aimed = False
        self._schedule(thread, moment)
        return self._pick(machine)

    def next(self, machine: Machine) -> Thread | None:
        """Let go on who is due next."""
        thread = machine.current
        if thread.is_over:
            self._remove(machine, thread)
        elif thread.waits is not None and thread not in self._due:
            self._schedule(thread, machine.clock + POLL if thread.wakes_at is None else thread.wakes_at)
        return self._pick(machine)

    @staticmethod
    def _remove(machine: Machine, thread: Thread) -> None:
        machine.drain_all(thread)
        if thread in thread.process.threads:
            thread.process.threads.remove(thread)
            machine.threads.remove(thread)

    def _drain(self) -> None:
        machine, random = self.machine, self._random
        for other in [*self._buffers]:
            while other.buffer and random.random() < 0.5:
                machine.drain(other, random.choice(machine.drainable(other)))
            if not other.buffer:
                self._buffers.remove(other)

    def _schedule(self, thread: Thread, moment: float) -> None:
        number = next(self._numbers)
        self._due[thread] = number
        heapq.heappush(self._queue, (moment, number, thread))

    def _pick(self, machine: Machine) -> Thread | None:
        queue, due = self._queue, self._due
        while queue:
            moment, number, what = heapq.heappop(queue)
            if moment > self._end:
                machine.clock = self._end
                return None
            machine.clock = max(machine.clock, moment)
            if not isinstance(what, Thread):
                self._outside(machine, what)
                continue
            if due.get(what) != number:
                continue
            del due[what]
            state = what.process.state
            if state is State.STOPPED:
                self._parked.setdefault(what.process, []).append(what)
            elif state is State.RUNS and not what.is_over:
                if what.waits is None or what.waits():
                    self._locked_since.pop(what, None)
                    if what in self._rested:
                        self._rested.discard(what)
                        machine.refresh(what)
                    return what
                if what.wakes_at is None:  # it waits for a lock
                    since = self._locked_since.setdefault(what, machine.clock)
                    what.gives_up = machine.clock > since + LOCK_PATIENCE
                    self._schedule(what, machine.clock + POLL)
                else:
                    self._schedule(what, what.wakes_at)
        return None

    def _outside(self, machine: Machine, event: Callable[[], object]) -> None:
        """Have something happen that is no step of a thread."""
        before = machine.current, machine.left, machine._saved
        machine.current, machine.left, machine._saved = machine.outside, 1 << 60, 0
        try:
            event()
        finally:
            machine.current, machine.left, machine._saved = before

    def holds(self, machine: Machine, thread: Thread) -> Hold:
        """Choose whether a store waits."""
        if not self._holds or self._random.random() >= self._holds:
            return Hold.NOT
        return Hold.ALONE if machine.weak and self._random.random() < 0.5 else Hold.WITH_ALL_LATER

    def age(self, machine: Machine, choices: int) -> int:
        """Choose what a load gives."""
        return self._random.randrange(choices) if self._random.random() < self._ages else 0

    def pieces(self, machine: Machine, size: int) -> tuple[int, bool]:
        """Choose the pieces of a slice."""
        return self._random.choice(PIECES), self._random.random() < 0.5

    def gives_up(self, machine: Machine, thread: Thread) -> bool:
        """Wait for a lock, at first."""
        return False
