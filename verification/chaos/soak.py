"""Soak: processes that work all the time, and one after the other end and come back; what they hold must not grow.

``python -m verification.chaos.soak`` runs for half an hour. Some processes are never restarted: they show whether a
process keeps something of others that have come and gone. The others end, by turns gracefully and by SIGKILL, and a
successor must not be larger than its predecessors were. Their directory must not fill up either.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from verification.chaos.board import Board, keys_of
from verification.chaos.counting import Counting
from verification.chaos.group import Group, Worker, together
from verification.chaos.register import Register

RESIDENTS = ("resident", "silent resident")  # the second one writes nothing, and so announces nothing
EVERY = 2.0  # s between two samples
CENSUS = 5  # samples between two looks into the processes
QUIET = 10.0  # s; the longest that anything is kept which depends on the load: links to mates, which are looked at then

#: What depends on how much is done just now, and so is compared only when nothing is done.
OF_THE_LOAD = ("blocks", "objects", "loads", "sleepers", "claims", "entries", "bytes")

#: By how much the median of the last quarter may exceed that of the first: a share, and so many in any case. One mate
#: more than before, at the instants when somebody looks, is 2 descriptors, both of them sockets. How much of the
#: region a process has touched is not looked at: in the end it is all of it. Which values are near is chance.
TOLERANCE = {
    "memory KiB": (0.05, 2048), "mapped KiB": (0.0, 0), "descriptors": (0.0, 4), "sockets": (0.0, 4),
    "threads": (0.0, 0), "blocks": (0.04, 0), "objects": (0.02, 0), "processes": (0.0, 1),
    "loads": (0.0, 0), "sleepers": (0.0, 0), "claims": (0.0, 0), "entries": (0.0, 120), "bytes": (0.0, 4 << 20),
    "files": (0.0, 4), "KiB on disk": (0.0, 1024),
}  # fmt: skip


class Point(NamedTuple):
    """One figure of one process, with its name, the number of restarts before it, and its time."""

    who: str
    what: str
    restarts: int
    at: float
    value: float


class Soak:
    """One run."""

    def __init__(self, workers: int, every: float, seed: int) -> None:
        """``every``: s between two restarts."""
        # No development mode, which makes memory larger than it is; and so little of it that it is full soon.
        self.group = Group(options=(), memory="4MiB")
        self.restarts = 0
        self.points: list[Point] = []
        self._every = every
        self._dice = random.Random(seed)
        self._slots = workers
        Register.create(self.group.directory, keys_of(workers))
        self.board = Board.create(self.group.directory, workers)
        Counting.create(self.group.directory, workers)
        self._began = time.monotonic()
        self._begun: dict[Worker, Future[Any]] = {}
        self._workers = [self._begin(slot) for slot in range(workers)]  # by slot; residents first
        self._next = len(RESIDENTS)

    def run(self, seconds: float) -> None:
        """Work, restart and take samples for so long."""
        for begun in self._begun.values():
            begun.result()
        samples, began = 0, time.monotonic()
        restart_at = self._every
        while (now := time.monotonic() - began) < seconds:
            if now >= restart_at:
                restart_at += self._every
                self._restart()
            if now >= samples * EVERY:
                samples += 1
                self._sample(census=samples % CENSUS == 0)
            time.sleep(0.05)

    def rest(self) -> None:
        """Have all finish their work; and, once what depends on it has run out, see what is left."""
        for begun in self._begun.values():
            begun.result()
        together(self._workers, "end_work")
        time.sleep(QUIET)
        for name, worker in self._residents():
            self._note(f"{name}, at rest", worker.call("census"))

    def go_on(self) -> None:
        """Have all work again."""
        for slot, worker in enumerate(self._workers):
            self._give_work(worker, slot)

    def _begin(self, slot: int) -> Worker:
        (worker,) = self.group.start(1, join=False)
        self._give_work(worker, slot)
        return worker

    def _give_work(self, worker: Worker, slot: int) -> None:
        order = {"slot": slot, "slots": self._slots, "seed": self._dice.random(), "writes": slot != 1}
        self._begun[worker] = worker.send("begin_soaking", **order)

    def _restart(self) -> None:
        """End the one whose turn it is, as it was at its largest, and begin its successor."""
        slot, self._next = self._next, self._next + 1 if self._next + 1 < self._slots else len(RESIDENTS)
        worker = self._workers[slot]
        self._begun.pop(worker).result()  # where the next one is due before this one is there
        self._note("restarted", {**_figures(worker.pid, self.group.files), **_tables(worker)})
        self.restarts += 1
        if self.restarts % 2:
            worker.kill()
        else:
            worker.call("end_work")
            worker.quit()
            worker.dead.wait()
        self.group.reap()
        self._workers[slot] = self._begin(slot)

    def _sample(self, *, census: bool) -> None:
        for name, worker in self._residents():
            self._note(name, _figures(worker.pid, self.group.files))
            if census:
                self._note(name, _tables(worker))
        paths = list(self.group.files.iterdir())
        blocks = sum(_blocks(path) for path in paths)
        self._note("directory", {"files": len(paths), "KiB on disk": blocks // 2})

    def _residents(self) -> Iterable[tuple[str, Worker]]:
        return zip(RESIDENTS, self._workers, strict=False)

    def _note(self, who: str, figures: dict[str, float]) -> None:
        at = time.monotonic() - self._began
        self.points += [Point(who, what, self.restarts, at, value) for what, value in figures.items()]


def _tables(worker: Worker) -> dict[str, float]:
    """What a process has in its tables, whatever it is doing."""
    return {what: value for what, value in worker.call("census").items() if what not in OF_THE_LOAD}


def _figures(pid: int, files: Path) -> dict[str, float]:
    """What the kernel says of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    links = [_link(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    return {
        "memory KiB": int(status["RssAnon"].split()[0]),
        "mapped KiB": _mapped(pid, files),
        "descriptors": len(links),
        "sockets": sum(link.startswith("socket:") for link in links),
        "threads": int(status["Threads"]),
    }


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks
    except FileNotFoundError:
        return 0


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed in the meantime
        return ""


def _mapped(pid: int, files: Path) -> float:
    """How much of the group's files a process maps, those deleted included."""
    ranges = [line.split()[0] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if str(files) in line]
    return sum(int(last, 16) - int(first, 16) for first, last in (each.split("-") for each in ranges)) / 1024


class Row(NamedTuple):
    """One line of the result."""

    who: str
    what: str
    first: float  # the medians of two quarters
    last: float
    slope: float  # per 100 restarts
    tolerance: float

    @property
    def grows(self) -> bool:
        return self.last - self.first > self.tolerance


def rows(points: Iterable[Point]) -> list[Row]:
    """The result, of the points that were taken after all had warmed up."""
    series: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        series.setdefault((point.who, point.what), []).append(point)
    return [_row(who, what, sorted(some, key=lambda point: point.at)) for (who, what), some in series.items()]


def _row(who: str, what: str, points: list[Point]) -> Row:
    values = [point.value for point in points]
    quarter = max(1, len(values) // 4)
    first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    restarts = [point.restarts for point in points]
    slope = statistics.linear_regression(restarts, values).slope * 100 if len(set(restarts)) > 1 else 0.0
    share, least = TOLERANCE[what]
    return Row(who, what, first, last, slope, max(share * first, least))


def table(found: list[Row]) -> str:
    """The result, for people."""
    lines = [f"{'':24} {'':19} {'first quarter':>14} {'last quarter':>14} {'per 100 restarts':>17} {'tolerance':>10}"]
    for row in sorted(found):
        figures = f"{row.first:14,.0f} {row.last:14,.0f} {row.slope:+17,.1f} {row.tolerance:10,.0f}"
        lines.append(f"{row.who:24} {row.what:19} {figures} {'GROWS' if row.grows else ''}".rstrip())
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--every", type=float, default=10.0, help="s between two restarts")
    parser.add_argument("--warm", type=float, default=120.0, help="s that do not count: until all is full")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    soak = Soak(options.workers, options.every, options.seed)
    try:
        soak.run(options.warm)
        soak.points.clear()
        soak.rest()
        soak.go_on()
        soak.run(options.seconds - options.warm - 2 * QUIET)
        soak.rest()
        counts, violations = soak.board.sums(), soak.board.violations()
    finally:
        soak.group.close()
    found = rows(soak.points)
    growing = [f"{row.who}: {row.what}" for row in found if row.grows]
    print(f"{options.seconds:.0f} s, {options.workers} workers, {soak.restarts} restarts; {_work(counts)}")
    print(table(found))
    print(f"verdict: {'; '.join(growing) + ' grows' if growing else 'flat'}; {len(violations)} violations")
    return bool(growing or violations)


def _work(counts: dict[str, Any]) -> str:
    return f"{counts['reads']:,} reads, {counts['loads']:,} loads, {counts['complete']:,} invalidations"


if __name__ == "__main__":
    sys.exit(main())
