"""What metrics say, beside what was done: 8 gunicorn workers under load, replaced and killed; ``make metered``.

    python -m verification.servers.metered [--seconds 20 | --requests N] [--workers 8] [--visitors 8] [--keys 200]
                                           [--max-requests 200] [--kills 10] [--prometheus] [--seed 1]

Visitors ask for pages, one read of the cache each, and for invalidations, and count what they are answered. All the
while somebody scrapes ``/metrics``, of whatever worker answers: no counter may ever be less than it was. Workers are
replaced after so many requests each. There are three parts:

1. **Replaced.** Every figure has to be exactly what was counted: reads, loads, invalidations. The sums of what the
   processes have exported by OpenTelemetry have to be the same.
2. **Replaced, and killed** by SIGKILL. A process shows about once a second what it has counted, and one that is killed
   takes the rest with it. So the figures may lack what the killed ones had answered in their last seconds, and may have
   what was carried out, and not answered any more.
3. **Replaced** again: every figure has to grow by exactly what was counted.

With ``--prometheus`` a Prometheus (Debian's package) scrapes too, and is asked afterwards whether any counter was ever
reset, and whether any rate was negative. Exits with 0 only if all of that holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families

from verification.servers.modes import gunicorn
from verification.servers.rolling import witness
from verification.servers.running import PATIENCE, Broken, Running, free_port, place, until

INVALIDATIONS = 0.05  # of all requests
SCRAPE_EVERY = 0.05  # s
LOOK_EVERY = 0.01
SHOWN_WITHIN = 6.0  # s in which a process shows what it has counted, also one that does nothing but hit
APP = "verification.servers.served_metered:application"

Series = tuple[str, frozenset[tuple[str, str]]]


def counters(text: str) -> dict[Series, float]:
    """The counters of a scrape, those of histograms included."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


def total(scrape: dict[Series, float], name: str, **labels: str) -> int:
    """The sum of all series of a name that have some labels."""
    wanted = set(labels.items())
    return int(sum(value for (series, has), value in scrape.items() if series == name and wanted <= has))


class Figures(NamedTuple):
    """As the visitors count, or as a scrape shows."""

    reads: int
    loads: int
    invalidations: int

    def minus(self, other: Figures) -> Figures:
        """What has come since then."""
        return Figures(*[mine - its for mine, its in zip(self, other, strict=True)])


def shown(scrape: dict[Series, float]) -> Figures:
    """What a scrape shows."""
    return Figures(
        total(scrape, "colocache_reads_total"),
        total(scrape, "colocache_reads_total", result="load"),
        total(scrape, "colocache_invalidations_total"),
    )


class Answer(NamedTuple):
    """What a visitor was answered."""

    what: str
    pid: int
    time: float


@dataclass
class Ledger:
    """What the visitors were answered. Thread-safe."""

    answers: list[Answer] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)  # whether they were carried out nobody knows

    def count(self, what: str) -> int:
        """How often something was answered."""
        return sum(each.what == what for each in [*self.answers])

    def of(self, pid: int, after: float) -> int:
        """How many answers a process has given from a moment on."""
        return sum(each.pid == pid and each.time >= after for each in [*self.answers])


class Visitor(threading.Thread):
    """Asks, one request after another, until told to stop."""

    def __init__(self, server: Running, ledger: Ledger, keys: int, seed: str) -> None:
        super().__init__(daemon=True)
        self._server, self._ledger, self._keys = server, ledger, keys
        self._rng = random.Random(seed)
        self.stopped = threading.Event()

    def run(self) -> None:
        """The visitor's life."""
        while not self.stopped.is_set():
            what = "invalidate" if self._rng.random() < INVALIDATIONS else "read"
            try:
                answer = self._server.ask(f"/{what}/key-{self._rng.randrange(self._keys)}")
            except Broken as error:
                self._ledger.unanswered.append(str(error).splitlines()[0])
            else:
                self._ledger.answers.append(Answer(what, answer["pid"], time.monotonic()))


class Scraper(threading.Thread):
    """Scrapes all the time, and notes each counter that has fallen."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._last: dict[Series, float] = {}
        self._lock = threading.Lock()
        self.fallen: list[str] = []
        self.pids: Counter[int] = Counter()  # who has answered how often
        self.processes = 0.0  # of the group, as the last answer has it
        self.stopped = threading.Event()

    def run(self) -> None:
        """Scrape until told to stop."""
        while not self.stopped.wait(SCRAPE_EVERY):
            self.scrape()

    def scrape(self) -> Figures | None:
        """Scrape once, and compare with what was shown before. None if the worker was killed that had to answer."""
        with self._lock:  # two at a time could be compared in the wrong order
            text = self._scraped()
            found = counters(text)
            for series, before in self._last.items() if found else ():
                now = found.get(series)
                if now is None or now < before:
                    self.fallen.append(f"{series[0]}{dict(series[1])}: {before} and then {now}")
            self._last = found or self._last
            self.processes = sum(map(float, re.findall(r"^colocache_processes\{.*\} (.*)$", text, re.MULTILINE)))
            return shown(found) if found else None

    def _scraped(self) -> str:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request("GET", "/metrics", headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            self.pids[int(response.headers["X-Pid"])] += 1
            return body.decode()
        except (OSError, HTTPException):
            return ""
        finally:
            connection.close()


class Run:
    """A server, its visitors, and who scrapes it."""

    def __init__(self, server: Running, directory: Path, options: argparse.Namespace) -> None:
        self.server, self.ledger, self.scraper = server, Ledger(), Scraper(server.port)
        self.lines: list[str] = []
        self.is_good = True
        self._directory, self._options, self._rng = directory, options, random.Random(options.seed)
        self._lost = 0  # at most, with those that were killed

    def workers(self) -> set[int]:
        """The pids of those that live."""
        return {*self.server.processes()} - {self.server.first()}

    def counted(self) -> Figures:
        """What the visitors were answered, and the loads that the application has noted in a file."""
        loads = len((self._directory / "loads").read_text().splitlines())
        return Figures(self.ledger.count("read"), loads, self.ledger.count("invalidate"))

    def shown(self) -> Figures:
        """What a scrape shows."""
        return until(self.scraper.scrape, "somebody answers the scrape")

    def settled(self) -> Figures:
        """What is shown once each worker was scraped, and so has shown all that it has counted."""
        before = self.scraper.pids.copy()
        until(lambda: self.shown() and self.workers() <= (self.scraper.pids - before).keys(), "all are scraped")
        return self.shown()

    def exported(self) -> Figures:
        """What all processes have exported by OpenTelemetry, those that live since this was called."""
        now = time.time()

        def have_all() -> bool:
            written = {path.name: path.stat().st_mtime for path in self._directory.glob("exported-*")}
            return all(written.get(f"exported-{pid}", 0.0) > now for pid in self.workers())

        until(have_all, "all workers have exported")
        found: Counter[str] = Counter()
        for path in self._directory.glob("exported-*"):
            for name, attributes, value in json.loads(path.read_text()):
                found[name] += value
                found[f"{name} {attributes.get('colocache.result')}"] += value
        return Figures(found["colocache.reads"], found["colocache.reads load"], found["colocache.invalidations"])

    def part(self, name: str, kills: int) -> None:
        """Have visitors ask for a while, and compare."""
        counted, found, sent = self.counted(), self.settled(), self.exported()
        answered, unanswered = len(self.ledger.answers), len(self.ledger.unanswered)
        lost = self._asked(kills)
        counted, found = self.counted().minus(counted), self.settled().minus(found)
        if not kills:  # it is exported soon
            with suppress(AssertionError):
                until(lambda: self.exported().minus(sent) == counted, "")
        sent = self.exported().minus(sent)
        unknown = len(self.ledger.unanswered) - unanswered
        if kills:
            agrees = all(-unknown <= was - shows <= lost + unknown for was, shows in zip(counted, found, strict=True))
        else:
            agrees = counted == found == sent and not unknown
        self.is_good = self.is_good and agrees
        self.lines += [
            f"{name}",
            f"  requests                     {len(self.ledger.answers) - answered:,}, and {unknown} not answered",
            *[
                f"  {what:<29}{was:,} counted, {shows:,} shown, and {exports:,} exported"
                for what, was, shows, exports in zip(Figures._fields, counted, found, sent, strict=True)
            ],
            f"  {'agrees' if agrees else 'DOES NOT AGREE'}",
        ]
        if kills:
            self.lines.insert(
                -1, f"  killed                       {kills}; they had answered {lost} in their last seconds"
            )

    def _asked(self, kills: int) -> int:
        """Have visitors ask, and kill workers; how much these may have taken with them."""
        options, lost = self._options, 0
        visitors = [
            Visitor(self.server, self.ledger, options.keys, f"{self._rng.random()}") for _ in range(options.visitors)
        ]
        begins, answered = time.monotonic(), len(self.ledger.answers)

        def has_done(share: float) -> bool:
            if options.requests:
                return len(self.ledger.answers) - answered >= share * options.requests
            return time.monotonic() - begins >= share * options.seconds

        for visitor in visitors:
            visitor.start()
        for number in range(kills):
            self._wait_for(has_done, number / kills)
            lost += self._kill()
        self._wait_for(has_done, 1.0)
        for visitor in visitors:
            visitor.stopped.set()
        for visitor in visitors:
            visitor.join()
        return lost

    def _wait_for(self, has_done: Callable[[float], bool], share: float) -> None:
        while not has_done(share):
            assert not self.server.has_ended(), self.server.last_words()
            time.sleep(LOOK_EVERY)

    def _kill(self) -> int:
        """Kill a worker; how many answers it has given since it has shown for certain what it had counted.

        Others are in the group by then: when the last process of a group ends, counters begin at 0.
        """
        enough = max(2, self._options.workers // 2)
        until(lambda: self.scraper.scrape() and self.scraper.processes >= enough, "workers have joined")
        pid = self._rng.choice(sorted(self.workers()))
        after = time.monotonic() - SHOWN_WITHIN
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in self.workers(), "the worker is killed")
        return self.ledger.of(pid, after)


@contextmanager
def prometheus(directory: Path, port: int, wanted: bool) -> Iterator[int | None]:
    """A Prometheus that scrapes the server; its port."""
    if not wanted:
        yield None
        return
    own = free_port()
    job = {"job_name": "shop", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
    (directory / "prometheus.json").write_text(json.dumps(settings))
    command = ["prometheus", f"--config.file={directory / 'prometheus.json'}", f"--web.listen-address=127.0.0.1:{own}",
               f"--storage.tsdb.path={directory / 'tsdb'}", "--log.level=error"]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        until(lambda: _is_up(own), "Prometheus scrapes")
        yield own
    finally:
        process.terminate()
        process.wait()


def _is_up(port: int) -> bool:
    with suppress(OSError, HTTPException, ValueError, KeyError):  # it starts
        return bool(asked(port, "up == 1"))
    return False


def asked(port: int, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers. KeyError if it does not understand the question."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", f"/api/v1/query?query={quote(expression)}")
        found: list[dict[str, Any]] = json.loads(connection.getresponse().read())["data"]["result"]
        return found
    finally:
        connection.close()


def report_of_prometheus(port: int | None) -> tuple[bool, list[str]]:
    """Whether Prometheus has seen no counter that was reset, and no negative rate; in words, too."""
    if port is None:
        return True, []
    series = asked(port, "{__name__=~'colocache_.*_(total|count|sum|bucket)'}")
    names = sorted({each["metric"]["__name__"] for each in series})
    resets = [each for name in names for each in asked(port, f"resets({name}[1h]) > 0")]
    negative = [each for name in names for each in asked(port, f"min_over_time(rate({name}[10s])[1h:1s]) < 0")]
    lines = [
        f"counters in Prometheus         {len(series)}, of {len(names)} names",
        f"  that were reset              {len(resets)}",
        f"  with negative rates          {len(negative)}",
    ]
    return bool(names) and not resets and not negative, lines


def main(arguments: list[str]) -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(prog="metered.py", description="What metrics say, beside what was done.")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part")
    parser.add_argument("--requests", type=int, default=0, help="of each part, in place of the seconds")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--visitors", type=int, default=8, help="threads that send requests")
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--max-requests", type=int, default=200, help="of a worker; up to half more")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--prometheus", action="store_true", help="have a real one scrape, too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--witness", action="store_true", help="be in the group, for few workers")
    options = parser.parse_args(arguments)
    if options.prometheus and shutil.which("prometheus") is None:
        parser.error("prometheus is not installed; on Debian: apt-get install prometheus")
    limit = str(options.max_requests), "--max-requests-jitter", str(options.max_requests // 2)
    mode = replace(gunicorn("", "--max-requests", *limit, app=APP), workers=options.workers)
    with place() as directory, Running(mode, directory) as server, witness(directory, options.witness):
        run = Run(server, directory, options)
        until(lambda: len(run.workers()) == options.workers and run.scraper.scrape(), server.last_words)
        with prometheus(directory, server.port, options.prometheus) as port:
            run.scraper.start()
            run.part("1. workers are replaced", 0)
            run.part("2. workers are replaced and killed", options.kills)
            run.part("3. workers are replaced", 0)
            run.scraper.stopped.set()
            run.scraper.join()
            is_good, lines = report_of_prometheus(port)
        server.stop()
        alarms = server.alarms()
    print("\n".join([
        *run.lines,
        f"processes that were asked      {len({each.pid for each in run.ledger.answers})}",
        f"scrapes                        {run.scraper.pids.total():,}, of {len(run.scraper.pids)} processes",
        f"counters that have fallen      {len(run.scraper.fallen)}",
        *run.scraper.fallen[:5], *lines, *alarms[:20],
    ]))  # fmt: skip
    return 0 if run.is_good and is_good and not run.scraper.fallen and not alarms else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
