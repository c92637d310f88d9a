"""A policy that throws dice: who goes on, what waits in buffers, who dies."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from verification.host.machine import PIECES, Hold, Machine, State, Thread


class Dice:
    """Chances, all from one seed."""

    def __init__(
        self, random: Random, *, pace: float, holds: float, ages: float, gives_up: float,
        fault: Callable[[], object], faults: float,
    ) -> None:  # fmt: skip
        """``pace`` steps are taken between two interruptions, on the average; ``fault`` is called at some of them."""
        self._random = random
        self._pace = 1 / pace
        self._holds = holds
        self._ages = ages
        self._gives_up = gives_up
        self._fault = fault
        self._faults = faults

    def steps(self) -> int:
        """Choose how many steps come before the next interruption."""
        return int(self._random.expovariate(self._pace))

    def pause(self, machine: Machine, thread: Thread, offset: int, size: int, stores: bool) -> Thread | None:
        """Let somebody go on, after some stores have become visible, and perhaps some fault has occurred."""
        return self._choose(machine)

    def next(self, machine: Machine) -> Thread | None:
        """Let somebody go on who can; if nobody can, have something happen that helps."""
        chosen = self._choose(machine)
        while chosen is None:
            for thread in machine.threads:
                machine.drain_all(thread)
            if not self._help(machine):
                return None
            chosen = self._choose(machine)
        return chosen

    def _choose(self, machine: Machine) -> Thread | None:
        random = self._random
        for thread in machine.threads:
            while thread.buffer and random.random() < 0.5:
                machine.drain(thread, random.choice(machine.drainable(thread)))
        if random.random() < self._faults:
            self._fault()
        ready = [thread for thread in machine.threads if thread.can_go_on()]
        return random.choice(ready) if ready else None

    def _help(self, machine: Machine) -> bool:
        """Bury a dead process, move the clock, let a stopped one go on, or let somebody give up; or nothing helps."""
        for process in machine.processes:
            if process.state is State.KILLED:
                machine.bury(process)
                return True
        for thread in machine.threads:
            waits_for_a_lock = thread.waits is not None and thread.wakes_at is None and not thread.is_over
            if waits_for_a_lock and not thread.gives_up and thread.process.state is State.RUNS and machine.holders:
                thread.gives_up = True
                return True
        if machine.advance():
            return True
        for process in machine.processes:
            if process.state is State.STOPPED:
                machine.go_on(process)
                return True
        return False

    def holds(self, machine: Machine, thread: Thread) -> Hold:
        """Choose whether a store waits."""
        if self._random.random() >= self._holds:
            return Hold.NOT
        return Hold.ALONE if machine.weak and self._random.random() < 0.5 else Hold.WITH_ALL_LATER

    def age(self, machine: Machine, choices: int) -> int:
        """Choose what a load gives."""
        return self._random.randrange(choices) if self._random.random() < self._ages else 0

    def pieces(self, machine: Machine, size: int) -> tuple[int, bool]:
        """Choose the pieces of a slice."""
        return self._random.choice(PIECES), self._random.random() < 0.5

    def gives_up(self, machine: Machine, thread: Thread) -> bool:
        """Choose whether a thread waits for a lock."""
        return self._random.random() < self._gives_up
