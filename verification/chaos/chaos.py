"""Chaos: processes that read and write, and are stopped, killed, closed, forked and interrupted at random.

Every read is judged.

``python -m verification.chaos.chaos --seconds 1200 --workers 6`` is the long form: half of it with a large shelf, and
half with one so small that everything is evicted soon. The seed repeats the faults and their order. It does not repeat
the interleavings, because these depend on the machine. So the report of a violation contains its story, and everything
that the processes left behind.
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
from contextlib import suppress
from pathlib import Path
from signal import SIGABRT, SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import Any

from verification.chaos.board import KEYS, Board, keys_of
from verification.chaos.counting import COUNTERS, Counting
from verification.chaos.group import PATIENCE, Died, Group, Started, Worker, together
from verification.chaos.register import Register
from verification.chaos.steps import Doom
from verification.chaos.verdict import Floors, Result, story

SHELVES = {"large": "64MiB", "tiny": "1MiB"}
LOAD_TIMEOUT = 1.0  # s; short, because some of those who load are stopped
PAUSE = 0.8  # s; in so many seconds, at most, somebody else comes for one who is missing
DOOMED = 0.3  # the share of processes that are stopped or killed at a chosen step
LOOK_EVERY = 0.05  # s between two looks for those that have stopped themselves

FAULTS = {
    "stop": 8, "freeze": 1, "kill": 4, "abort": 2, "close": 3, "roll": 1, "fork": 3, "stop_and_kill": 2, "delete": 1,
    "run_out": 6, "rest": 3,
}  # how often  # fmt: skip
WHOLE = "the directory"
_FILES = {"board", "shelf", "locks", *(f"claims.{number}" for number in range(16))}
EXHAUSTIBLE = ("descriptors", "file size", "threads")
DELETED = (WHOLE, WHOLE, "all directories", "board", "shelf", "locks", "claims.7")


class Chaos:
    """One run."""

    def __init__(self, seed: int, workers: int, longest: float, shelf: str) -> None:
        """``longest``: for as long, at most, a process is stopped, in seconds."""
        self.group = Group(shelf=SHELVES[shelf], load_timeout=LOAD_TIMEOUT)
        self._dice = random.Random(seed)
        self._longest = longest
        self._wanted = workers
        self._slots = 3 * workers  # of those who work, who are about to end, and of children
        directory = self.group.directory
        Register.create(directory, keys_of(self._slots))
        self.board = Board.create(directory, self._slots)
        self.counting = Counting.create(directory, self._slots)
        self._working: dict[Worker, int] = {}  # and in which slot
        self._holders: dict[int, Worker] = {}  # who works in a slot
        self._begun: dict[Worker, Future[Any]] = {}
        self._stopped: set[Worker] = set()
        self._short: set[Worker] = set()  # of something
        self._share_of_doomed = DOOMED
        self._doomed: set[Worker] = set()
        self._paused: set[Worker] = set()  # who have stopped themselves
        self._asked: dict[Worker, Future[Any]] = {}  # in which region they are, after a deletion
        self._asked_at = 0.0
        self._looked_at = 0.0
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.lives: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        for _ in range(workers):
            self._begin()

    def harm(self, seconds: float) -> None:
        """Do harm for so long."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            fault = self._dice.choices(list(FAULTS), list(FAULTS.values()))[0]
            if getattr(self, "_" + fault)() is not False:
                self.faults[fault] += 1
            self._pass(self._dice.uniform(0.02, 0.3 + self._longest / 10))

    # --- Faults. False: there was nobody to do it to.

    def _rest(self) -> None:
        """Let them recover for once."""
        self._pass(self._dice.uniform(0, 2) * PAUSE)

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
        self._at(self._dice.uniform(0, 2) * PAUSE, lambda: self._end(worker, SIGKILL))
        return self._hold(worker, math.inf)

    def _close(self) -> bool | None:
        worker = self._pick()
        return self._dismiss(worker) if worker else False

    def _roll(self) -> None:
        """One after the other gives way to a successor, who is there first."""
        for number, worker in enumerate(list(self._working)):
            self._at(0.2 * number, self._begin)
            self._at(0.2 * number + self._dice.uniform(0, PAUSE), lambda worker=worker: self._dismiss(worker))

    def _fork(self) -> bool | None:
        """The child works beside its parent for a while, and ends by chance one way or the other."""
        parent = self._pick()
        if (
            parent is None
            or parent in self._short
            or not self._begun[parent].done()
            or len(self._working) > self._wanted + 2
        ):
            return False
        self._note("fork", parent)
        parent.send("fork").add_done_callback(
            lambda forked: None if forked.exception() else _ignore(parent.send("reap", pid=forked.result()))
        )
        return None

    def _delete(self) -> bool | None:
        """Somebody deletes the group's files, all of them or one."""
        if self.board.deletions % 2:  # they have not recovered yet
            return False
        what = self._dice.choice(DELETED)
        self.board.change_deletions()
        self.board.note("fault", fault="delete", deleted=what)
        if what in (WHOLE, "all directories"):
            shutil.rmtree(self.group.files if what == WHOLE else self.group.files.parent, ignore_errors=True)
        else:
            (self.group.files / what).unlink(missing_ok=True)
        return None

    def _run_out(self) -> bool | None:
        """Something runs out in a process, more or less, and is there again after a while."""
        worker = self._pick()
        if worker is None or worker in self._short or not self._begun[worker].done():
            return False
        what, room = self._dice.choice(EXHAUSTIBLE), self._dice.random()
        self._note("run out", worker, of=what, room=room)
        self._short.add(worker)
        _ignore(worker.send("run_out", of=what, room=room))
        self._at(3 * self._a_while(), lambda: self._refill(worker))
        return None

    def _refill(self, worker: Worker) -> None:
        self._short.discard(worker)
        if not worker.dead.is_set():
            _ignore(worker.send("run_out", of="nothing", room=0.0))

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
        self._at(self._dice.uniform(0, PAUSE), lambda: self._begin(only_if_missing=True))

    def _begin(self, only_if_missing: bool = False) -> None:
        self.group.reap()
        if not only_if_missing or len(self._working) < self._wanted:
            (worker,) = self.group.start(1, join=False)
            self._work(worker)

    def _work(self, worker: Worker) -> None:
        self._clear_slots()
        free = [slot for slot in range(self._slots) if slot not in self._holders]
        if not free:  # so many are about to end
            worker.signal(SIGKILL)
            self._call_another()
            return
        slot = self._dice.choice(free)
        self._count += 1
        self.lives["started" if isinstance(worker, Started) else "forked"] += 1
        self._working[worker], self._holders[slot] = slot, worker
        doom = Doom.draw(self._dice) if self._dice.random() < self._share_of_doomed else None
        if doom is not None:
            self._doomed.add(worker)
        self._begun[worker] = worker.send(
            "begin_work", slot=slot, slots=self._slots, seed=self._dice.random(), doom=doom
        )
        self._note("begin", worker, doom=doom)

    def _clear_slots(self) -> None:
        """Have others take the slots of the dead: two at once would overwrite what each other writes there."""
        for slot, worker in list(self._holders.items()):
            if worker.dead.is_set():
                Counting(self.group.directory, self._slots, slot).inherit()
                del self._holders[slot]

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
            if now >= self._looked_at + LOOK_EVERY:
                self._looked_at = now
                self._look_around()
            time.sleep(0.005)

    def _until(self, condition: Callable[[], object], what: str) -> None:
        """Let time pass until a condition holds."""
        ends = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > ends:
                raise AssertionError(f"it did not come to pass in {PATIENCE} s: {what}")
            self._pass(0.02)

    def _adopt(self, child: Worker) -> None:
        self._work(child)
        ends = self._dice.choice((self._dismiss, lambda child: self._end(child, SIGKILL)))
        self._at(self._dice.uniform(0.5, 2) * PAUSE, lambda: ends(child))

    def _look_around(self) -> None:
        for worker in [worker for worker in self._working if worker.dead.is_set()]:
            if worker not in self._doomed:
                self.board.accuse("died", victim=worker.pid)
            self._miss(worker)
        self._clear_slots()
        for worker in self._doomed & set(self.group.living) - self._paused - self._stopped:
            if _is_stopped(worker):
                self._paused.add(worker)
                self._at(self._a_while(), lambda worker=worker: self._go_on(worker))
        if self.board.deletions % 2:
            self._look_whether_they_have_recovered()

    def _go_on(self, worker: Worker) -> None:
        self._paused.discard(worker)
        if worker not in self._stopped:
            worker.signal(SIGCONT)

    def _look_whether_they_have_recovered(self) -> None:
        """After a deletion all processes share new files, as soon as nobody is stopped."""
        if self._asked:
            if all(answer.done() for answer in self._asked.values()):
                answers = {None if answer.exception() else answer.result() for answer in self._asked.values()}
                is_all = self._asked.keys() == self._working.keys()
                self._asked = {}
                if is_all and len(answers) == 1 and None not in answers and self.group.names() >= _FILES:
                    self.board.note("fault", fault="recovered")
                    self.board.change_deletions()
            return
        now = time.monotonic()
        able = self._working and not self._stopped and not self._paused and self._all_have_begun()
        if able and now >= self._asked_at + 0.2:
            self._asked_at = now
            if not self.group.names() >= _FILES and self._dice.random() < 0.1:
                self._close()  # and so have somebody come, who finds out that a file is missing
            self._asked = {worker: worker.send("region") for worker in self._working}

    def _all_have_begun(self) -> bool:
        return all(self._begun[worker].done() for worker in self._working)

    # --- The end

    def recover(self) -> None:
        """All go on, those who are missing come back, and soon all agree, and read what is true."""
        self._share_of_doomed = 0.0
        self._until(lambda: not self._later, "nothing is left to be done")
        for spared in [worker.send("be_spared") for worker in self._working]:
            self._until(spared.done, "all are spared their dooms")
        self._until(lambda: not self._later and not self.board.deletions % 2, "all have recovered")
        self._until(lambda: all(w in self._working for w in self.group.living), "the others have ended")
        self._until(self._all_have_begun, "all have begun")
        workers = list(self._working)
        self.group.settle(workers)
        together(workers, "end_work")
        self.group.settle(workers)
        register = Register(self.group.directory)
        truth = register.write(KEYS)
        register.close()
        self._judge_counters(together(workers, "counts"))
        for worker in workers:
            if not worker.call("clear")["complete"]:
                self.board.accuse("incomplete at the end", victim=worker.pid)
        for versions in together(workers, "read_register", keys=list(KEYS)):
            if versions != truth:
                self.board.accuse("wrong at the end", versions=versions, truth=truth)
        together(workers, "look_back")
        for resets in together(workers, "ring_resets"):
            if resets:
                self.board.accuse("garbage", resets=resets)
        for begun in self._begun.values():
            if not isinstance(begun.exception(), Died | None):
                self.board.accuse("could not begin", error=repr(begun.exception()))
        self._clear_slots()
        for worker in workers:
            worker.quit()
        self._until(lambda: not self.group.living, "all have ended")
        if self.group.files.exists():
            self.board.accuse("left behind", names=sorted(self.group.names()))

    def _judge_counters(self, shown: list[dict[str, int | None]]) -> None:
        """Nobody counts any more, and all see the same."""
        for counter in COUNTERS:
            numbers = {counts[counter] or 0 for counts in shown}
            least, most = self.counting.bounds(counter, self.counting.look(counter))
            if least is None or len(numbers) != 1 or not least <= min(numbers) <= most:
                self.board.accuse("miscounted at the end", counter=counter, numbers=[*numbers], least=least, most=most)


def _is_stopped(worker: Worker) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def _ignore(_: object) -> None:
    """What came of it does not matter."""


def run(seed: int, seconds: float, workers: int, longest: float, shelf: str, floors: Floors) -> Result:
    """One run. Raises AssertionError if the group does not recover, or a process complained."""
    began = time.monotonic()
    chaos = Chaos(seed, workers, longest, shelf)
    group, board = chaos.group, chaos.board
    try:
        chaos.harm(seconds)
        chaos.recover()
        violations, history = board.violations(), board.history()
        told = story(history, violations[0], group.log()) if violations else ""
        evidence = _keep(group.directory, seed) if violations else None
        spent = time.monotonic() - began
        dooms = [line for line in history if line["what"] == "doom"]
        steps = Counter(line["place"] + (", stopped" if line["stops"] else "") for line in dooms)
        return Result(
            seed, workers, shelf, spent, dict(chaos.faults), dict(steps), dict(chaos.lives), board.sums(), violations,
            told, evidence, floors,
        )  # fmt: skip
    except AssertionError as error:
        group.abort()  # and so have them say what they do
        raise AssertionError(f"{error}\n{group.log()}\nall of it is in {_keep(group.directory, seed)}") from None
    finally:
        group.close()


def _keep(directory: Path, seed: int) -> Path:
    """Copy all that the processes wrote to where it stays."""
    kept = Path(tempfile.mkdtemp(prefix=f"colocache-chaos-{seed}-"))
    shutil.copytree(directory, kept, ignore=shutil.ignore_patterns("*.bus", "children"), dirs_exist_ok=True)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--longest", type=float, default=10.0, help="s; how long a process is stopped, at most")
    parser.add_argument("--shelf", choices=SHELVES, help="only with this one")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    shelves = [options.shelf] if options.shelf else [*SHELVES]
    failed = False
    for shelf in shelves:
        seconds = options.seconds / len(shelves)
        result = run(options.seed, seconds, options.workers, options.longest, shelf, Floors())
        print(result.table(), flush=True)
        failed = failed or bool(result.complaints())
    return failed


if __name__ == "__main__":
    sys.exit(main())
