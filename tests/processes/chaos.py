"""Chaos: processes that read and write, and are stopped, killed, closed and forked at random; every read is judged.

``python tests/processes/chaos.py --seconds 1200 --workers 6`` is the long form. The seed gives the same faults in the
same order, not the same interleavings: those are the machine's.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from group import Group, Started, Worker, together, until
from work import KEYS, Board, Register

LEASE = 0.8  # s; short, so that a run holds many
FORGET = 3.0

FAULTS = {"stop": 8, "kill": 4, "abort": 2, "close": 3, "fork": 2, "stop and kill": 2, "rest": 3}  # how often


@dataclass
class Result:
    """What a run saw."""

    seed: int
    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    violations: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""

    @property
    def hit_rate(self) -> float:
        """The share of reads that did not load."""
        return 1 - self.counts["loads"] / max(1, self.counts["reads"])

    def summary(self) -> str:
        """The figures, as one line."""
        shown = asdict(self) | {"hit_rate": round(self.hit_rate, 3), "violations": len(self.violations)}
        del shown["log"]
        return json.dumps(shown)


class Chaos:
    """One run."""

    def __init__(self, seed: int, workers: int) -> None:
        self.result = Result(seed)
        self._dice = random.Random(seed)
        self._group = Group(lease=LEASE, forget_after=FORGET)
        self._slots = 2 * workers  # the second half is for forked children
        directory = self._group.directory
        (directory / "board").write_bytes(bytes(Board.size(self._slots)))
        Register.create(directory)
        self._board = Board(directory, self._slots)
        self._working: dict[int, Worker] = {}  # by slot
        self._begun: dict[Worker, Future[Any]] = {}
        self._stopped: set[int] = set()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._works = 0
        for slot in range(workers):
            self._begin(slot)

    def run(self, seconds: float) -> Result:
        """Do harm for so long; then let all recover, and have a last look."""
        started = time.monotonic()
        faults: Counter[str] = Counter()
        while time.monotonic() < started + seconds:
            fault = self._dice.choices(list(FAULTS), list(FAULTS.values()))[0]
            faults[fault] += 1
            if fault != "rest":
                getattr(self, "_" + fault.replace(" ", "_"))(self._dice.randrange(self._slots // 2))
            self._pass(self._dice.uniform(0.02, 0.4))
        self.result.faults = dict(faults)
        try:
            self._recover()
        except AssertionError as error:
            self._group.abort()  # and so have them say what they do
            raise AssertionError(f"{error}\n{self._group.log()}") from None
        self.result.seconds = round(time.monotonic() - started, 1)
        self._collect()
        return self.result

    def close(self) -> None:
        """End all processes."""
        self._group.close()

    # --- Faults

    def _stop(self, slot: int) -> None:
        worker = self._working.get(slot)
        if worker is not None and slot not in self._stopped:
            worker.signal(signal.SIGSTOP)
            self._stopped.add(slot)
            self._at(self._dice.choice((0.05, 0.3, 1.0, 3.0)) * LEASE, lambda: self._go_on(slot, worker))

    def _go_on(self, slot: int, worker: Worker) -> None:
        if self._working.get(slot) is worker:
            worker.signal(signal.SIGCONT)
            self._stopped.discard(slot)

    def _kill(self, slot: int) -> None:
        self._end(slot, signal.SIGKILL)

    def _abort(self, slot: int) -> None:
        self._end(slot, signal.SIGABRT)

    def _stop_and_kill(self, slot: int) -> None:
        self._stop(slot)
        self._at(self._dice.uniform(0, LEASE), lambda: self._kill(slot))

    def _end(self, slot: int, number: signal.Signals) -> None:
        worker = self._working.pop(slot, None)
        if worker is not None:
            worker.signal(number)
            worker.signal(signal.SIGCONT)
            self._stopped.discard(slot)
            self._at(self._dice.uniform(0, LEASE), lambda: self._begin(slot))

    def _close(self, slot: int) -> None:
        if slot not in self._stopped and self._dismiss(slot):
            self._at(self._dice.uniform(0, LEASE), lambda: self._begin(slot))

    def _fork(self, slot: int) -> None:
        """The child works beside its parent for a while, and ends by chance one way or the other."""
        place = slot + self._slots // 2
        if slot in self._stopped or slot not in self._working or place in self._working:
            return
        parent = self._working[slot]
        pid = parent.call("fork")
        (child,) = self._group.adopt_all([pid])
        self._work(place, child)
        parent.send("reap", pid=pid)
        ends = self._dice.choice((self._kill, self._dismiss))
        self._at(self._dice.uniform(0.5, 2) * LEASE, lambda: ends(place) or self._kill(place))

    def _dismiss(self, slot: int) -> bool:
        """Have a process end in its own time; not before it has begun."""
        worker = self._working.get(slot)
        if worker is None or not self._begun[worker].done():
            return False
        del self._working[slot]
        worker.send("end_work").add_done_callback(lambda _: worker.send("quit"))
        return True

    # --- Steps

    def _begin(self, slot: int) -> None:
        if slot < self._slots // 2 and slot not in self._working:  # children are not begun again
            (worker,) = self._group.start(1, join=False)
            assert isinstance(worker, Started)
            self._work(slot, worker)

    def _work(self, slot: int, worker: Worker) -> None:
        self._works += 1
        self._begun[worker] = worker.send("begin_work", slot=slot, slots=self._slots, seed=self._works)
        self._working[slot] = worker

    def _at(self, delay: float, do: Callable[[], None]) -> None:
        self._works += 1
        heapq.heappush(self._later, (time.monotonic() + delay, self._works, do))

    def _pass(self, seconds: float) -> None:
        """Let time pass, and do what is due."""
        ends = time.monotonic() + seconds
        while (now := time.monotonic()) < ends:
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            time.sleep(0.005)

    # --- The end

    def _recover(self) -> None:
        """All go on, those who are missing come back, and soon all agree, and read what is true."""
        while self._later:
            self._pass(0.01)
        workers = list(self._working.values())
        until(lambda: all(worker in workers for worker in self._group.living), "those who were to end have ended")
        self._group.settle(workers)
        together(workers, "end_work")
        self._group.settle(workers)
        register = Register(self._group.directory)
        truth = register.write(KEYS)
        register.close()
        together(workers[:1], "invalidate", keys=list(KEYS))
        for versions in together(workers, "read_register", keys=list(KEYS)):
            if versions != truth:
                self._board.accuse(at_the_end=versions, truth=truth)

    def _collect(self) -> None:
        lines = (self._group.directory / "violations").read_text().splitlines()
        self.result.violations = [json.loads(line) for line in lines]
        self.result.counts = self._board.sums()
        self.result.log = self._group.log()


def run(seed: int, seconds: float, workers: int) -> Result:
    """One run of chaos. Raises AssertionError if the group does not recover, or a process complained."""
    chaos = Chaos(seed, workers)
    try:
        return chaos.run(seconds)
    finally:
        chaos.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--log", type=Path, help="where to write what the processes logged")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    result = run(options.seed, options.seconds, options.workers)
    print(result.summary())
    for violation in result.violations[:20]:
        print(json.dumps(violation))
    if options.log:
        options.log.write_text(result.log)
    return bool(result.violations)


if __name__ == "__main__":
    sys.exit(main())
