"""How many reads load again after a host is lost, and after all hosts were restarted one after another?

    python -m benchmarks.copies [--quick] [--write] [--only killed,rolling]

Three hosts on loopback, each with two processes and a directory of its own. Each host has users of its own, as behind a
load balancer that sends a user to one host, and each key belongs to one user: so nobody else has read it. Loading a
value takes 10 ms. At first every key is loaded and read; then all processes read keys at random, and a load is one that
would not have to be. While a host is away, its users go to the other two. It gets them back once it is current.

**killed**: all processes of a host are killed at the same instant by SIGKILL, and started anew in the same directory a
second later, as a supervisor does it; with one copy of each value, and with two. Reads count from the kill until 15 s
after it. **gone**: the same, and nobody starts them again. Then the others cannot know what that host has invalidated
last. So after 3 s they serve only what is young, and when they forget the host, after 30 s, they begin anew: loads of
the first 3 s are those that copies can avoid. **rolling**: the hosts are ended by `Cache.close` and started anew, one
after another; reads count from the first end until 5 s after the last start; with the handing over and without it.

Shares do not depend much on how fast the machine is, unless it is so busy that hosts do not answer in time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.group import MEMORY
from benchmarks.measure import Ratio, Report, options, progress
from colocache import Cache

HOSTS: Final = 3
LOADING: Final = 0.01  # s
SIZE: Final = 1000  # bytes of a value
PATIENCE: Final = 60.0  # s
LIMITS: Final = {"killed": 0.02, "rolling": 0.01}  # of the reads

KEYS, QUICK_KEYS = 6000, 1500
RATE: Final = 300  # reads a second of one process
PROCESSES: Final = 2  # of a host


# --- One process of a host


def work(seed: int) -> None:
    """Read the keys of the users that the parent names, and tell it, ten times a second, what that has come to."""
    cache, rng = Cache(), random.Random(seed)
    cache.start()
    host = cache._member.own_host()
    assert host is not None
    while not host.is_current():
        time.sleep(0.01)
    orders: list[dict[str, Any]] = []
    threading.Thread(target=lambda: orders.extend(map(json.loads, sys.stdin)), daemon=True).start()
    users: list[range] = []
    loads = reads = 0

    def load() -> str:
        nonlocal loads
        loads += 1
        time.sleep(LOADING)
        return "x" * SIZE

    def read(key: int) -> None:
        nonlocal reads
        reads += 1
        cache.get_or_load(f"key {key}", load)

    told_at, due = 0.0, time.monotonic()
    while True:
        now = time.monotonic()
        while orders:
            order = orders.pop(0)
            if "users" in order:
                users = [range(*each) for each in order["users"]]
            elif "warm" in order:
                for key in range(*order["warm"]):
                    read(key)
            else:
                cache.close()
                return
            told_at = 0.0
        if users and now >= due:
            due = max(due + 1 / RATE, now - 0.1)
            keys = rng.choice(users)
            read(keys[rng.randrange(len(keys))])
        if now >= told_at + 0.1:
            told_at = now
            figures = cache.stats()
            print(json.dumps([now, reads, loads, figures.hedged, figures.hedges_won, figures.copied]), flush=True)
        time.sleep(max(0.0005, min(due - time.monotonic(), 0.05) if users else 0.01))


class Worker:
    """A process of a host, as the parent sees it."""

    def __init__(self, seed: int, environ: dict[str, str]) -> None:
        self.told: list[list[float]] = []  # when, reads, loads and further figures
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from benchmarks.copies import work; work({seed})"],
            env={**os.environ, **environ}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def order(self, **what: Any) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def at(self, when: float) -> list[float]:
        """Return what it had told by an instant."""
        return next((each for each in reversed([*self.told]) if each[0] <= when), [0.0] * 6)

    def wait_until_told(self) -> None:
        """Wait until it tells something new: it has carried out what was ordered before."""
        now = time.monotonic()
        wait_for(lambda: bool(self.told) and self.told[-1][0] > now)


def wait_for(condition: Any) -> None:
    """Wait for a condition. Raise TimeoutError if it does not come true."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError("a process does not do what it is told to do")
        time.sleep(0.02)


# --- The group


class Group:
    """The hosts of a group, of which some may be away."""

    def __init__(self, base: str, keys: int, **settings: str) -> None:
        self.keys = keys
        self._base = base
        self._settings = {f"COLOCACHE_{name.upper()}": value for name, value in settings.items()}
        self._addresses = [f"127.0.0.1:{port}" for port in free_ports(HOSTS)]
        self._seeds = iter(range(1 << 20))
        self.hosts: dict[int, list[Worker]] = {}
        self.all: list[Worker] = []

    def start(self, number: int) -> None:
        """Start a host, and wait until it is current."""
        environ = {
            "COLOCACHE_GROUP": "bench", "COLOCACHE_DIR": f"{self._base}/{number}", "COLOCACHE_HOST": f"host {number}",
            "COLOCACHE_LISTEN": self._addresses[number], "COLOCACHE_PEERS": ",".join(self._addresses),
            "COLOCACHE_SHELF": "64MiB", "COLOCACHE_TTL": "1h", **self._settings,
        }  # fmt: skip
        workers = [Worker(next(self._seeds), environ) for _ in range(PROCESSES)]
        self.all += workers
        self.hosts[number] = workers

    def is_ready(self, number: int) -> bool:
        """Tell whether a host is current."""
        return all(worker.told for worker in self.hosts[number])

    def begin(self) -> None:
        """Start all hosts, load each key, and let all processes read."""
        for number in range(HOSTS):
            self.start(number)
        for number in range(HOSTS):
            wait_for(lambda number=number: self.is_ready(number))
        time.sleep(1.0)  # until each has seen all the others
        for number, workers in self.hosts.items():
            first, last = self._users(number)
            each = -(-(last - first) // len(workers))
            for place, worker in enumerate(workers):
                worker.order(warm=[first + place * each, min(last, first + (place + 1) * each)])
        for worker in self.all:
            worker.wait_until_told()
        self.deal()
        time.sleep(3.0)

    def _users(self, number: int) -> tuple[int, int]:
        return number * self.keys // HOSTS, (number + 1) * self.keys // HOSTS

    def deal(self) -> None:
        """Send users to their hosts; those of hosts that are away to all others."""
        here = [number for number in self.hosts if self.is_ready(number)]
        away = [self._users(number) for number in range(HOSTS) if number not in here]
        for number in here:
            for worker in self.hosts[number]:
                worker.order(users=[self._users(number), *away])

    def kill(self, number: int) -> None:
        """Kill all processes of a host."""
        workers = self.hosts.pop(number)
        for worker in workers:
            worker.process.send_signal(signal.SIGKILL)
        for worker in workers:
            worker.process.wait()
        self.deal()

    def stop(self, number: int) -> None:
        """End all processes of a host, after its users have gone elsewhere."""
        workers = self.hosts.pop(number)
        self.deal()
        for worker in workers:
            worker.order(end=True)
        for worker in workers:
            worker.process.wait(PATIENCE)

    def counts(self, began: float, ended: float) -> tuple[int, int, list[float]]:
        """Return reads and loads between two instants, and further figures."""
        changes = [
            [after - before for before, after in zip(worker.at(began), worker.at(ended), strict=True)]
            for worker in self.all
        ]
        sums = [sum(each) for each in zip(*changes, strict=True)]
        return int(sums[1]), int(sums[2]), sums[3:]

    def close(self) -> None:
        """End what still runs."""
        for worker in self.all:
            worker.process.kill()
            worker.process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports on which nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def group(keys: int, **settings: str) -> Iterator[Group]:
    """Begin a group, and end it."""
    base = tempfile.mkdtemp(prefix="copies", dir=MEMORY)
    made = Group(base, keys, **settings)
    try:
        made.begin()
        yield made
    finally:
        made.close()
        shutil.rmtree(base, ignore_errors=True)


# --- What is measured


def killed(keys: int, replicas: int) -> list[Sequence[Any]]:
    """Kill a host, and start it anew."""
    with group(keys, replicas=str(replicas)) as made:
        began = time.monotonic()
        made.kill(1)
        time.sleep(1.0)
        made.start(1)
        wait_for(lambda: made.is_ready(1))
        made.deal()
        current = time.monotonic() - began
        time.sleep(max(0.0, began + 15 - time.monotonic()))
        return [(f"killed, {replicas} of each", f"0 to 15 s; current after {current:.1f} s",
                 *made.counts(began, began + 15))]  # fmt: skip


def gone(keys: int, replicas: int) -> list[Sequence[Any]]:
    """Kill a host for good."""
    with group(keys, replicas=str(replicas)) as made:
        began = time.monotonic()
        made.kill(1)
        ends = (2.5, 30.0, 45.0)
        time.sleep(ends[-1])
        spans = zip((0.0, *ends), ends, strict=False)
        return [
            (f"gone, {replicas} of each", f"{first:.1f} to {last:.1f} s", *made.counts(began + first, began + last))
            for first, last in spans
        ]


def rolling(keys: int, replicas: int, handoff: str) -> list[Sequence[Any]]:
    """Restart all hosts, one after another."""
    with group(keys, replicas=str(replicas), handoff=handoff) as made:
        began = time.monotonic()
        for number in range(HOSTS):
            made.stop(number)
            made.start(number)
            wait_for(lambda number=number: made.is_ready(number))
            made.deal()
            time.sleep(5.0)
        ended = time.monotonic()
        name = f"rolling, {replicas} of each" + ("" if handoff != "0" else ", nothing handed over")
        return [(name, f"0 to {ended - began:.0f} s", *made.counts(began, ended))]


def show(report: Report, rows: Iterable[Sequence[Any]]) -> None:
    """Report shares."""
    shown = []
    for name, when, reads, loads, (hedged, won, copied) in rows:
        share = loads / max(1, reads)
        shown.append((name, when, reads, loads, 100 * share, int(hedged), int(won), int(copied)))
        kind = name.split(",")[0]
        if kind in LIMITS and "nothing" not in name and (kind != "killed" or "2 of" in name):
            report.target(f"{name}: reads that load again", Ratio(share, share, share), at_most=LIMITS[kind])
    columns = ("", "when", "reads", "loads", "% of reads", "hedged", "copy first", "copied")
    report.table("loads that would not have to be", columns, shown)


def run(report: Report, asked: Namespace) -> None:
    """Measure everything, or what was asked for."""
    keys = QUICK_KEYS if asked.quick else KEYS
    only = asked.only.split(",") if asked.only else ["killed", "gone", "rolling"]
    rows: list[Sequence[Any]] = []
    for replicas in (1, 2):
        if "killed" in only:
            progress(f"killed, {replicas}")
            rows += killed(keys, replicas)
        if "gone" in only and not asked.quick:
            progress(f"gone, {replicas}")
            rows += gone(keys, replicas)
        if "rolling" in only:
            progress(f"rolling, {replicas}")
            rows += rolling(keys, replicas, "1s")
    if "rolling" in only:
        rows += rolling(keys, 1, "0")
    show(report, rows)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    assert __doc__ is not None
    more = ("--only", {"metavar": "NAMES", "help": "killed, gone, rolling; commas between them"})
    asked = options(__doc__, more, argv=argv)
    report = Report("copies", __doc__.partition("\n")[0], asked)
    run(report, asked)
    return report.finish()


if __name__ == "__main__":
    main()
