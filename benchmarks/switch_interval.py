"""What does a shorter switch interval gain a fetch, and what does it cost the threads that compute?

    python -m benchmarks.switch_interval

A thread of the owner never pauses, while another process fetches keys from the owner: with Python's own interval, and
with shorter ones while somebody asks (`COLOCACHE_SWITCH_INTERVAL`). Then, without a cache, 1 to 8 threads compete for
the interpreter under a fixed interval. What they get done shows the most that a shorter interval can cost. It takes
about a minute.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.group import Group, Member
from benchmarks.measure import Report, options

INTERVALS = (0.0, 0.001, 0.0005, 0.0002)  # s; 0 leaves Python's own, 5 ms
ROUNDS, FETCHES, PAUSE = 3, 200, 0.002
THREADS, SECONDS = (1, 2, 4, 8), 0.5


class Side(Member):
    """One of the two processes."""

    def compute(self) -> None:
        """Have a thread compute from now on."""
        self._done, self._over = 0, threading.Event()

        def work() -> None:
            while not self._over.is_set():
                sum(range(1000))
                self._done += 1

        self._since = time.monotonic()
        threading.Thread(target=work, daemon=True).start()

    def computed(self) -> float:
        """End the thread, and return its rounds a second."""
        self._over.set()
        return self._done / (time.monotonic() - self._since)

    def fetch(self, keys: list[str]) -> list[float]:
        """Return the microseconds of each fetch."""
        times = []
        for key in keys:
            began = time.perf_counter()
            found = self.cache.get(key)
            times.append(1e6 * (time.perf_counter() - began))
            assert found is not None, key
            time.sleep(PAUSE)
        return times

    def store(self, keys: list[str]) -> None:
        """Store values under these keys in the group."""
        self.cache.set_many(dict.fromkeys(keys, "x" * 1000))


def fetches(interval: float) -> tuple[list[float], float]:
    """Return the times of fetches, and what the owner's thread got done meanwhile, in rounds a second."""
    with Group(fetch_timeout=5, switch_interval=interval) as group:
        asker, owner = group.start(Side, 2)
        keys = asker.call("owned_elsewhere", FETCHES, "k")
        owner.call("store", keys)
        owner.call("compute")
        times: list[float] = asker.call("fetch", keys)
        return times, owner.call("computed")


def throughput(threads: int, interval: float) -> int:
    """Return how many rounds as many competing threads get done in this process."""
    before, done, over = sys.getswitchinterval(), [0] * threads, threading.Event()

    def work(place: int) -> None:
        while not over.is_set():
            sum(number for number in range(300))
            done[place] += 1

    sys.setswitchinterval(interval or before)
    workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for worker in workers:
        worker.start()
    time.sleep(SECONDS)
    over.set()
    for worker in workers:
        worker.join()
    sys.setswitchinterval(before)
    return sum(done)


def asked(report: Report) -> None:
    """Report how long fetches from a process take whose thread never pauses, and what that thread gets done."""
    found: dict[float, list[Any]] = {interval: [] for interval in INTERVALS}
    for _ in range(ROUNDS):
        for interval in INTERVALS:
            times, rounds = fetches(interval)
            found[interval].append((statistics.median(times), statistics.quantiles(times, n=10)[-1], rounds))
    rows = [(name(interval), *map(statistics.median, zip(*runs, strict=True))) for interval, runs in found.items()]
    columns = ("interval", "fetch, median us", "p90", "the owner's thread, rounds/s")
    report.table(f"fetches while a thread of the owner computes, the medians of {ROUNDS} runs", columns, rows)


def competing(report: Report) -> None:
    """Report what threads get done that compete for the interpreter."""
    rows = []
    for threads in THREADS:
        runs = [[throughput(threads, interval) for interval in INTERVALS] for _ in range(ROUNDS)]
        rows.append((threads, *map(statistics.median, zip(*runs, strict=True))))
    columns = ("threads", *map(name, INTERVALS))
    report.table(f"rounds that competing threads get done in {SECONDS} s, by the interval", columns, rows)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    question = "What does a shorter switch interval gain a fetch, and what does it cost the threads that compute?"
    report = Report("switch_interval", question, options(__doc__ or "", argv=argv))
    asked(report)
    competing(report)
    return report.finish()


def name(interval: float) -> str:
    """Return an interval as the tables name it."""
    return f"{1000 * interval:g} ms" if interval else "Python's"


if __name__ == "__main__":
    main()
