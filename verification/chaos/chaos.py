"""Chaos: processes that read and write, and are stopped, killed, closed and forked at random; every read is judged.

``python -m verification.chaos.chaos --seconds 1200 --workers 6`` is the long form. The seed repeats the
faults and their order. It does not repeat the interleavings, because these depend on the machine. So the report of a
violation contains its story, and everything that the processes left behind.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from signal import SIGABRT, SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import Any

from verification.chaos.board import KEYS, Board, keys_of
from verification.chaos.group import Died, Group, Started, Worker, together, until
from verification.chaos.register import Register
from verification.chaos.verdict import Floors, Result, story
from verification.chaos.work import MARGIN

LEASE = 0.8  # s; short, so that a run holds many
FORGET = 3.0  # s; so that those who are stopped for longest are forgotten, and come back

FAULTS = {
    "stop": 8, "freeze": 1, "kill": 4, "abort": 2, "close": 3, "roll": 1, "fork": 3, "stop_and_kill": 2, "rest": 3,
}  # how often  # fmt: skip


class Chaos:
    """One run."""

    def __init__(self, seed: int, workers: int, longest: float) -> None:
        """``longest``: for as long, at most, a process is stopped, in seconds."""
        self.group = Group(lease=LEASE, forget_after=FORGET)
        self._dice = random.Random(seed)
        self._longest = longest
        self._wanted = workers
        self._slots = 3 * workers  # of those who work, who are about to end, and of children
        directory = self.group.directory
        Register.create(directory, keys_of(self._slots))
        self.board = Board.create(directory, self._slots)
        self._working: dict[Worker, int] = {}  # and in which slot
        self._holders: dict[int, Worker] = {}  # who works in a slot, or did last
        self._begun: dict[Worker, Future[Any]] = {}
        self._stopped: set[Worker] = set()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.lives: Counter[str] = Counter()
        for _ in range(workers):
            self._begin()

    def harm(self, seconds: float) -> Counter[str]:
        """Do harm for so long; return what was done."""
        ends = time.monotonic() + seconds
        faults: Counter[str] = Counter()
        while time.monotonic() < ends:
            fault = self._dice.choices(list(FAULTS), list(FAULTS.values()))[0]
            if getattr(self, "_" + fault)() is not False:
                faults[fault] += 1
            self._pass(self._dice.uniform(0.02, 0.3 + self._longest / 10))
        return faults

    # --- Faults. False: there was nobody to do it to.

    def _rest(self) -> None:
        """Let them recover for once."""
        self._pass(self._dice.uniform(0, 2) * LEASE)

    def _stop(self) -> bool | None:
        worker = self._pick()
        return self._hold(worker, self._a_while()) if worker else False

    def _freeze(self) -> None:
        """All stop, and all wake at once."""
        seconds = self._a_while()
        for worker in list(self._working):
            self._hold(worker, seconds)

    def _kill(self) -> bool | None:
        worker = self._pick(stopped=True)
        return self._end(worker, SIGKILL) if worker else False

    def _abort(self) -> bool | None:
        worker = self._pick(stopped=True)
        return self._end(worker, SIGABRT) if worker else False

    def _stop_and_kill(self) -> bool | None:
        worker = self._pick()
        if worker is None:
            return False
        self._at(self._dice.uniform(0, 2) * LEASE, lambda: self._end(worker, SIGKILL))
        return self._hold(worker, math.inf)

    def _close(self) -> bool | None:
        worker = self._pick()
        return self._dismiss(worker) if worker else False

    def _roll(self) -> None:
        """One after the other gives way to a successor, who is there first."""
        for number, worker in enumerate(list(self._working)):
            self._at(0.2 * number, self._begin)
            self._at(0.2 * number + self._dice.uniform(0, LEASE), lambda worker=worker: self._dismiss(worker))

    def _fork(self) -> bool | None:
        """The child works beside its parent for a while, and ends by chance one way or the other."""
        parent = self._pick()
        if parent is None or not self._begun[parent].done() or len(self._working) > self._wanted + 2:
            return False
        self._note("fork", parent)
        parent.send("fork").add_done_callback(
            lambda forked: None if forked.exception() else _ignore(parent.send("reap", pid=forked.result()))
        )
        return None

    # --- What they are made of

    def _pick(self, *, stopped: bool = False) -> Worker | None:
        """Somebody, now and then somebody who has not even begun."""
        able = [worker for worker in self._working if stopped or worker not in self._stopped]
        if self._dice.random() < 0.9:
            able = [worker for worker in able if self._begun[worker].done()]
        return self._dice.choice(able) if able else None

    def _a_while(self) -> float:
        return 0.1 * (self._longest / 0.1) ** self._dice.random()

    def _hold(self, worker: Worker, seconds: float) -> None:
        if worker not in self._stopped:
            self._note("stop", worker, seconds=seconds)
            worker.signal(SIGSTOP)
            self._stopped.add(worker)
            if seconds < math.inf:
                self._at(seconds, lambda: self._let_go(worker))

    def _let_go(self, worker: Worker) -> None:
        if worker in self._working:
            self._note("go on", worker)
            worker.signal(SIGCONT)
            self._stopped.discard(worker)

    def _end(self, worker: Worker, number: Signals) -> None:
        if worker in self._working:
            self._note(number.name, worker)
            worker.signal(number)
            worker.signal(SIGCONT)
            self._miss(worker)

    def _dismiss(self, worker: Worker) -> None:
        """Have a process end in its own time, once it has begun."""
        if worker in self._working and worker not in self._stopped:
            self._note("close", worker)
            begun = self._begun[worker]
            self._miss(worker)
            begun.add_done_callback(lambda _: worker.send("end_work").add_done_callback(lambda _: worker.send("quit")))

    def _miss(self, worker: Worker) -> None:
        """One is missing: soon somebody else comes."""
        del self._working[worker]
        self._stopped.discard(worker)
        self._call_another()

    def _call_another(self) -> None:
        self._at(self._dice.uniform(0, LEASE), lambda: self._begin(only_if_missing=True))

    def _begin(self, only_if_missing: bool = False) -> None:
        self.group.reap()
        if not only_if_missing or len(self._working) < self._wanted:
            (worker,) = self.group.start(1, join=False)
            self._work(worker)

    def _work(self, worker: Worker) -> None:
        free = [slot for slot in range(self._slots) if self._is_free(slot)]
        if not free:  # so many are about to end
            worker.signal(SIGKILL)
            self._call_another()
            return
        slot = self._dice.choice(free)
        self._count += 1
        self.lives["started" if isinstance(worker, Started) else "forked"] += 1
        self._working[worker], self._holders[slot] = slot, worker
        self._begun[worker] = worker.send("begin_work", slot=slot, slots=self._slots, seed=self._dice.random())
        self._note("begin", worker)

    def _is_free(self, slot: int) -> bool:
        """Whether nobody writes there any more: two at once would overwrite each other's floors."""
        return slot not in self._holders or self._holders[slot].dead.is_set()

    def _note(self, fault: str, worker: Worker, **details: Any) -> None:
        self.board.note("fault", fault=fault, victim=worker.pid, slot=self._working[worker], **details)

    # --- Time

    def _at(self, delay: float, do: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._later, (time.monotonic() + delay, self._count, lambda: _ignore(do())))

    def _pass(self, seconds: float) -> None:
        """Let time pass, and do what is due."""
        ends = time.monotonic() + seconds
        while (now := time.monotonic()) < ends:
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            child = self.group.adopt_any()
            if child is not None:
                self._adopt(child)
            self._look_around()
            time.sleep(0.005)

    def _adopt(self, child: Worker) -> None:
        self._work(child)
        ends = self._dice.choice((self._dismiss, lambda child: self._end(child, SIGKILL)))
        self._at(self._dice.uniform(0.5, 2) * LEASE, lambda: ends(child))

    def _look_around(self) -> None:
        for worker in [worker for worker in self._working if worker.dead.is_set()]:
            self.board.accuse("died", victim=worker.pid)
            self._miss(worker)

    # --- The end

    def recover(self) -> None:
        """All go on, those who are missing come back, and soon all agree, and read what is true."""
        while self._later:
            self._pass(0.01)
        workers = list(self._working)
        until(lambda: self.group.adopt_any() or all(w in workers for w in self.group.living), "the others have ended")
        self.group.settle(workers)
        together(workers, "end_work")
        self.group.settle(workers)
        register = Register(self.group.directory)
        truth = register.write(KEYS)
        register.close()
        for worker in workers:
            if not worker.call("clear")["complete"]:  # nobody is silent, and everybody has met everybody
                self.board.accuse("incomplete at the end", victim=worker.pid)
        for versions in together(workers, "read_register", keys=list(KEYS)):
            if versions != truth:
                self.board.accuse("wrong at the end", versions=versions, truth=truth)
        time.sleep(1.05 * LEASE + MARGIN)  # until what nobody waited for has come
        together(workers, "look_back")
        for begun in self._begun.values():
            if not isinstance(begun.exception(), Died | None):
                self.board.accuse("could not begin", error=repr(begun.exception()))


def _ignore(_: object) -> None:
    """What came of it does not matter."""


def run(seed: int, seconds: float, workers: int, longest: float, floors: Floors) -> Result:
    """One run. Raises AssertionError if the group does not recover, or a process complained."""
    began = time.monotonic()
    chaos = Chaos(seed, workers, longest)
    group, board = chaos.group, chaos.board
    try:
        faults = chaos.harm(seconds)
        chaos.recover()
        violations = board.violations()
        told = story(board.history(), violations[0], group.log()) if violations else ""
        evidence = _keep(group.directory, seed) if violations else None
        spent = time.monotonic() - began
        lives, counts = dict(chaos.lives), board.sums()
        return Result(seed, workers, spent, dict(faults), lives, counts, violations, told, evidence, floors)
    except AssertionError as error:
        group.abort()  # and so have them say what they do
        raise AssertionError(f"{error}\n{group.log()}\nall of it is in {_keep(group.directory, seed)}") from None
    finally:
        group.close()


def _keep(directory: Path, seed: int) -> Path:
    """Copy all that the processes wrote to where it stays."""
    kept = Path(tempfile.mkdtemp(prefix=f"colocache-chaos-{seed}-"))
    shutil.copytree(directory, kept, ignore=shutil.ignore_patterns("*.link", "*.bus", "children"), dirs_exist_ok=True)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--longest", type=float, default=10.0, help="s; how long a process is stopped, at most")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    result = run(options.seed, options.seconds, options.workers, options.longest, Floors())
    print(result.table())
    return bool(result.complaints())


if __name__ == "__main__":
    sys.exit(main())
