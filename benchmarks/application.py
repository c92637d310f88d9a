"""What does a cache do for a whole application, and how stale does it make it?

    python -m benchmarks.application [--quick] [--write]

The small application of `shop.py` runs under gunicorn, with 1, 2, 4 and 8 sync workers, and with no cache, a TTLCache
in each process, Redis, Memcached, and colocache. 8 visitors, which are threads of this process, ask for pages and
change some: 0, 1, 5 and 20 % of their requests are writes. They choose pages among 1,000 by Zipf's law. All five
servers run at the same time, each with a database of its own. The visitors come to one after another, half a second to
each, in an order that is shuffled for each round; the others rest. Before the first round there is a second for each
server that does not count. Then come the rounds with the fewest writes first, and no cache is emptied between them.

A write has the cache drop the page. Otherwise pages live for 60 s in Redis, Memcached and colocache. A TTLCache cannot
drop what other processes hold, so pages live there for 1 s.

An answer is **stale** if it shows an older version than a write that had been answered when the page was asked for. Its
staleness is the time from the earliest answer to a write that it does not show until the page was asked for. A page
that is asked for while a write is under way may be old or new. Redis and Memcached can be stale, too:

1. A worker reads the database.
2. Another worker writes, and deletes the key.
3. The first worker stores what it has read. The old page stays until its ttl ends.

The visitors share the machine with the workers, so the figures say how the caches compare, not what gunicorn can do.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from benchmarks import shop
from benchmarks.group import MEMORY
from benchmarks.measure import Contender, Report, Series, exactly, interleave, options, percentile, ratio, samples
from benchmarks.servers import Servers

WORKERS = (1, 2, 4, 8)
WRITES = (0.0, 0.01, 0.05, 0.2)
VISITORS = 8
WARMING, VISIT = 1.0, 0.5  # s
PAGES = 1000
PATIENCE = 30.0  # s
BASELINE = "Redis"
OURS = "colocache"
#: Those than which colocache should take less time per request, with 2 workers and more, up to a share of writes.
BEATEN = {"Redis": 0.2, "Memcached": 0.05}
PACKAGES = ("gunicorn", "cachetools", "redis", "pylibmc")
HEAVY = list(accumulate(1 / rank for rank in range(1, PAGES + 1)))  # Zipf's law, added up


class Site:
    """gunicorn with the shop and one cache, on a Unix socket."""

    def __init__(
        self, cache: str, workers: int, directory: Path, memory: Path, database: Path, servers: Servers
    ) -> None:
        directory.mkdir()
        self.cache, self.workers = cache, workers
        self.socket = str(directory / "http")
        self._log = directory / "log"
        shutil.copy(database, directory / "database")
        environment = os.environ | {
            "SHOP_CACHE": cache, "SHOP_DATABASE": str(directory / "database"),
            "COLOCACHE_DIR": str(memory / directory.name),
            "SHOP_REDIS": servers.redis_socket, "SHOP_MEMCACHED": servers.memcached_socket,
        }  # fmt: skip
        command = [sys.executable, "-m", "gunicorn", "--bind", f"unix:{self.socket}", "--workers", str(workers),
                   "--no-control-socket", "--backlog", "256", "benchmarks.shop:application()"]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def settle(self) -> None:
        """Return when every worker answers, and knows the others where that means something."""
        ends, seen = monotonic() + PATIENCE, dict[int, int]()
        while len(seen) < self.workers or min(seen.values()) != (self.workers if self.cache == OURS else 0):
            if monotonic() > ends or self._process.poll() is not None:
                words = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.cache}, {self.workers} workers: not ready, {seen}\n{words}")
            try:
                answer = ask(self.socket, "GET", "/ready").content
                seen[answer["pid"]] = answer["members"]
            except OSError:
                time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and how many pages its worker has read so far."""

    content: dict[str, Any]
    pid: int
    reads: int


def ask(path: str, method: str, page: str) -> Answer:
    """Send a request on a connection of its own, which is all that gunicorn's sync workers offer. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(path)
        connection.sendall(f"{method} {page} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n".encode())
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"{method} {page} was answered with {said[:300]!r}")
    pid, reads = head.partition(b"X-Reads: ")[2].partition(b"\r\n")[0].split()
    return Answer(json.loads(body), int(pid), int(reads))


class Judge:
    """What has been acknowledged of each page, and how stale each answer was.

    It is thread-safe, because it only appends to lists.

    The writes of a page may be acknowledged in another order than they were committed in.
    """

    def __init__(self) -> None:
        self._acknowledged: dict[str, list[tuple[int, float]]] = {}

    def acknowledge(self, page: str, version: int) -> None:
        """A write was answered."""
        self._acknowledged.setdefault(page, []).append((version, monotonic()))

    def staleness(self, page: str, shown: int, asked_at: float) -> float:
        """Return for how long, when the question was asked, it was known that the page is newer; 0 if it was not."""
        missed = [at for version, at in self._acknowledged.get(page, ()) if version > shown and at < asked_at]
        return asked_at - min(missed) if missed else 0.0


@dataclass(slots=True)
class Tally:
    """What came of some visits."""

    seconds: list[float] = field(default_factory=list)  # of each request
    stale: list[float] = field(default_factory=list)  # seconds, of each stale answer
    pages: int = 0  # answers that could have been stale
    reads: int = 0  # pages read from the database
    lasted: float = 0.0  # s

    def add(self, other: Tally) -> None:
        """Take another one's figures in."""
        self.seconds += other.seconds
        self.stale += other.stale
        self.pages += other.pages
        self.reads += other.reads
        self.lasted += other.lasted


class Visits:
    """The visitors of one site, again and again."""

    def __init__(self, site: Site) -> None:
        self._site, self._judge = site, Judge()
        self._reads: dict[int, int] = {}
        self._visits = 0

    def visit(self, writes: float, seconds: float) -> Tally:
        """Have all visitors come for so long."""
        before, began, self._visits = sum(self._reads.values()), monotonic(), self._visits + 1
        tallies = [Tally() for _ in range(VISITORS)]
        threads = [
            threading.Thread(target=self._walk, args=(random.Random(f"{self._visits} {number}"), writes,
                                                      began + seconds, tally))
            for number, tally in enumerate(tallies)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = Tally(lasted=monotonic() - began, reads=sum(self._reads.values()) - before)
        for tally in tallies:
            total.add(tally)
        return total

    def _walk(self, dice: random.Random, writes: float, ends: float, tally: Tally) -> None:
        while (asked_at := monotonic()) < ends:
            page = f"/product/{bisect(HEAVY, dice.random() * HEAVY[-1], hi=PAGES - 1) * 7}"
            if dice.random() < writes:
                answer = ask(self._site.socket, "POST", page)
                self._judge.acknowledge(page, answer.content["version"])
            else:
                answer = ask(self._site.socket, "GET", page)
                tally.pages += 1
                if (age := self._judge.staleness(page, answer.content["version"], asked_at)) > 0:
                    tally.stale.append(age)
            tally.seconds.append(monotonic() - asked_at)
            self._reads[answer.pid] = max(answer.reads, self._reads.get(answer.pid, 0))


# --- The benchmark

Cell = tuple[str, int, float]  # cache, workers, writes


class Course:
    """The servers and the database that all sites begin with."""

    def __init__(self, servers: Servers, stack: ExitStack, options: Namespace, caches: Sequence[str]) -> None:
        """``stack`` ends what is begun."""
        directory, memory = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench", dir=place)))
            for place in (None, MEMORY)
        )
        self._servers, self._directory, self._memory, self._options = servers, directory, memory, options
        self.caches = caches
        self._database = directory / "database"
        shop.build(self._database)
        self.tallies: dict[Cell, Tally] = {}
        self.series: dict[Cell, Series] = {}

    def measure(self, workers: int) -> None:
        """Run all sites with so many workers, through all shares of writes.

        All begin with nothing. Otherwise the servers would have what they got for the sites with fewer workers.
        """
        rounds = self._options.rounds or 2
        self._servers.empty()
        with ExitStack() as open_sites:
            visits = {site.cache: Visits(site) for site in self._sites(workers, open_sites)}
            for visit in visits.values():
                visit.visit(0.0, WARMING)
            for writes in (0.05,) if self._options.quick else WRITES:
                cells = {cache: (cache, workers, writes) for cache in visits}
                contenders = [Contender(cache, self._sampler(cells[cache], visits[cache])) for cache in visits]
                found = interleave(contenders, rounds, title=f"{workers} workers, {writes:.0%} writes:")
                self.series |= {cells[cache]: series for cache, series in found.items()}

    def _sites(self, workers: int, open_sites: ExitStack) -> Iterator[Site]:
        sites = [
            open_sites.enter_context(
                Site(
                    cache, workers, self._directory / f"{workers} {number}", self._memory, self._database, self._servers
                )
            )
            for number, cache in enumerate(self.caches)
        ]
        for site in sites:
            site.settle()
            yield site

    def _sampler(self, cell: Cell, visits: Visits) -> Callable[[], list[float]]:
        """Return what visits a site, and gives the seconds per request; the first visit does not count."""

        def sample() -> list[float]:
            tally = visits.visit(cell[2], VISIT)
            if cell in self.tallies:
                self.tallies[cell].add(tally)
            else:
                self.tallies[cell] = Tally()
            return [tally.lasted / len(tally.seconds)]

        return sample


def row(cell: Cell, tally: Tally) -> tuple[Any, ...]:
    """Return a cell's row of the table."""
    answered = len(tally.seconds)
    percents = [percentile(tally.seconds, percent) * 1e3 for percent in (50, 99)]
    stale, longest = 100 * len(tally.stale) / max(1, tally.pages), max(tally.stale, default=0.0)
    return (f"{cell[2]:.0%} writes, {cell[0]}", answered / tally.lasted, *percents, 1000 * tally.reads / answered,
            stale, longest * 1e3)  # fmt: skip


def tell(report: Report, course: Course, workers: int) -> None:
    """Tell what came of so many workers."""
    columns = ("", "requests/s", "median ms", "p99", "database reads per 1000", "stale %", "longest ms")
    cells = [(cache, workers, part) for part in WRITES for cache in course.caches]
    cells = [cell for cell in cells if cell in course.tallies]
    report.table(f"{workers} workers", columns, [row(cell, course.tallies[cell]) for cell in cells])
    for cache, _, writes in cells:
        one, other = course.series[cache, workers, writes], course.series[BASELINE, workers, writes]
        if cache != BASELINE:
            report.ratio(f"time per request, {workers} workers, {writes:.0%} writes: {cache} / {BASELINE}",
                         ratio(one, other))  # fmt: skip
    for beaten, most in BEATEN.items() if workers > 1 else ():
        judge(report, course, workers, beaten, most)


def judge(report: Report, course: Course, workers: int, other: str, most: float) -> None:
    """Tell whether colocache takes less time per request than another cache, also where it compares worst."""
    compared = {
        writes: ratio(course.series[OURS, workers, writes], course.series[other, workers, writes])
        for writes in WRITES
        if writes <= most and (OURS, workers, writes) in course.series
    }
    worst = max(compared, key=lambda writes: compared[writes].median)
    report.target(f"application, {workers} workers: time per request / {other}, worst of up to {most:.0%} writes, "
                  f"at {worst:.0%}", compared[worst], 1.0)  # fmt: skip


def tell_stale(report: Report, course: Course) -> None:
    """Tell how many of colocache's answers were stale."""
    ours = [tally for (cache, _, _), tally in course.tallies.items() if cache == OURS]
    stale, pages = sum(len(tally.stale) for tally in ours), sum(tally.pages for tally in ours)
    report.note(f"colocache: {stale} of {pages:,} answers were stale")
    report.target("application: stale answers of colocache", exactly(stale), 0)


def draw(report: Report, course: Course) -> None:
    """Draw the requests a second of four workers, by writes, and their longest staleness."""

    def curve(cache: str) -> list[tuple[float, float]]:
        return [(100 * part, 1 / median(samples(course.series[cache, 4, part]))) for part in WRITES]

    report.lines("application_4", ("% writes", "requests per second"), {cache: curve(cache) for cache in course.caches},
                 title="The application with 4 gunicorn workers")  # fmt: skip
    stale = {cache: max(tally.stale, default=0.0) for (cache, workers, writes), tally in course.tallies.items()
             if workers == 4 and writes == 0.05}  # fmt: skip
    report.bars("application_stale", "longest staleness, seconds", stale, title="4 workers, 5 % writes")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    chosen = options(__doc__ or "", argv=argv)
    with Servers() as servers, ExitStack() as stack:
        report = Report("application", "What does a cache do for a whole application?", chosen, PACKAGES,
                        servers.versions())  # fmt: skip
        course = Course(servers, stack, chosen, tuple(shop.SHELVES))
        for workers in (4,) if chosen.quick else WORKERS:
            course.measure(workers)
            tell(report, course, workers)
    tell_stale(report, course)
    if not chosen.quick:
        draw(report, course)
    return report.finish()


if __name__ == "__main__":
    main()
