"""The demo: the same application under the same load, with the cache and without it. Every answer is checked.

    python drive.py [--seconds 20] [--without 10] [--workers 4] [--visitors 8] [--seed 1]

The exit status is 0 only if no answer was stale and every request was answered. The environment variable DEMO_JSON
names a file for the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from http.client import HTTPException
from pathlib import Path

import build
from check import Checker
from load import Catalogue, Client, Unanswered, Visitor, Workers, Zipf, ask_at_once, catalogue
from report import Phase, lines, summary
from server import HERE, Server

DATABASE = HERE / ".data" / "unicode.sqlite"
STAMPEDES = 10  # missing pages, each asked for by all visitors at once
BOOT = 20.0  # seconds until every worker must have answered

INTRODUCTION = """\
A web application about Unicode, served by {workers} gunicorn workers, runs for {seconds:.0f} s with colocache and
for {without:.0f} s without it, under the same load. One request in fifty writes, and every answer is checked:
no page may be older than the last write that was answered before the page was asked for.
"""


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


class Ticker:
    """Shows the live figures: on a terminal in one line that changes, otherwise in a new line every five seconds."""

    def __init__(self) -> None:
        self._rewrites = sys.stdout.isatty()
        self._due = time.monotonic() + 5

    def show(self, text: str) -> None:
        """Show the figures."""
        if self._rewrites:
            print(f"\r\033[K  {text}", end="", flush=True)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + 5
            say(f"  {text}")

    def note(self, text: str) -> None:
        """Show an event, on a line that stays."""
        say(f"\r\033[K  {text}" if self._rewrites else f"  {text}")


def prepare_database() -> None:
    """Build the database, unless there is one that is newer than ``build.py``. Delete earlier annotations."""
    if not DATABASE.exists() or DATABASE.stat().st_mtime < Path(build.__file__).stat().st_mtime:
        say("1. Building a SQLite database of every Unicode character, about 145,000 (a few seconds, once) ...")
        build.build(DATABASE)
    else:
        say("1. The SQLite database of every Unicode character is there from the last time.")


def forget_annotations() -> None:
    """Delete all annotations, so that both phases begin with the same database."""
    connection = sqlite3.connect(DATABASE)
    with connection:
        connection.execute("DELETE FROM annotation")
    connection.close()


def are_ready(workers: Workers, wanted: int, cached: bool) -> bool:
    """Tell whether so many workers have answered and, with the cache, all have joined."""
    acquainted = workers.least("processes") >= wanted
    return len(workers.pids()) >= wanted and (acquainted or not cached)


def await_workers(server: Server, client: Client, wanted: int, cached: bool) -> None:
    """Wait until the workers are ready. Exit if that takes too long."""
    deadline = time.monotonic() + BOOT
    while not are_ready(client.workers, wanted, cached):
        if time.monotonic() > deadline or not server.is_running():
            sys.exit(f"the {wanted} workers are not ready: {client.workers.totals()}\n{server.last_words()}")
        try:
            client.send("GET", "/char/0041")
        except (OSError, HTTPException, Unanswered):
            time.sleep(0.05)


class Traffic:
    """The visitors of one phase at work, and the signals to the workers."""

    def __init__(self, client: Client, pages: Catalogue, options: argparse.Namespace) -> None:
        self.client = client
        self.checker = Checker()
        self.ticker = Ticker()
        seeds = [random.Random(options.seed * 1000 + number) for number in range(options.visitors)]
        self.visitors = [
            Visitor(f"visitor {number}", client, self.checker, Zipf(pages.popular, rng), rng)
            for number, rng in enumerate(seeds, start=1)
        ]
        self._struck: list[int] = []

    def run(self, seconds: float, blows: list[signal.Signals]) -> float:
        """Let the visitors work, and send the signals at even intervals. Return the seconds that it took."""
        started = time.monotonic()
        for visitor in self.visitors:
            visitor.start()
        for number, blow in enumerate(blows, start=1):
            self._watch(started, started + seconds * number / (len(blows) + 1))
            self._strike(blow)
        self._watch(started, started + seconds)
        for visitor in self.visitors:
            visitor.stop()
        for visitor in self.visitors:
            visitor.join()
        return time.monotonic() - started

    def _watch(self, started: float, until: float) -> None:
        while (now := time.monotonic()) < until:
            answered = sum(len(visitor.tally.seconds) for visitor in self.visitors)
            rate = answered / max(now - started, 0.1)
            self.ticker.show(
                f"{now - started:4.0f} s  {answered:7,} answers  {rate:6,.0f} a second"
                f"  {len(self.checker.stale)} of {self.checker.judged:,} stale"
            )
            time.sleep(min(0.25, max(0.0, until - now)))

    def _strike(self, blow: signal.Signals) -> None:
        victim = next((pid for pid in self.client.workers.pids() if pid not in self._struck), None)
        if victim is None:
            return
        self._struck.append(victim)
        os.kill(victim, blow)
        deed = "killed" if blow is signal.SIGKILL else "restarted"
        self.ticker.note(f"worker {victim} is {deed} ({blow.name}); gunicorn starts another in its place")


def run_phase(name: str, seconds: float, pages: Catalogue, options: argparse.Namespace, cached: bool) -> Phase:
    """Run one phase, from the start of the server to its end."""
    forget_annotations()
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        settings = {} if cached else {"COLOCACHE_DISABLED": "true"}
        with Server(Path(directory), DATABASE, options.workers, **settings) as server:
            client = Client(server.socket, Workers())
            await_workers(server, client, options.workers, cached)
            loads = [ask_at_once(client, page, options.visitors) for page in pages.reserved[:STAMPEDES]]
            before = client.workers.totals()
            traffic = Traffic(client, pages, options)
            took = traffic.run(seconds, [signal.SIGKILL, signal.SIGTERM] if cached else [])
            after = client.workers.totals()
        tallies = [visitor.tally for visitor in traffic.visitors]
        counted = {figure: after[figure] - before.get(figure, 0) for figure in after}
        return Phase(name, took, tallies, traffic.checker, counted, loads, client.workers.pids())


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="drive.py", description="The colocache demo; takes about a minute.")
    parser.add_argument("--seconds", type=float, default=20.0, help="of traffic with the cache (20)")
    parser.add_argument("--without", type=float, default=10.0, help="seconds of traffic without it (10)")
    parser.add_argument("--workers", type=int, default=4, help="gunicorn worker processes (4)")
    parser.add_argument("--visitors", type=int, default=8, help="threads that send requests (8)")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (1)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the demo. Return the exit status."""
    options = parse(arguments)
    say(INTRODUCTION.format(**vars(options)))
    prepare_database()
    pages = catalogue(DATABASE, options.seed)
    say(f"\n2. With the cache: {options.visitors} visitors. One worker is killed on the way, and another restarted.")
    with_cache = run_phase("with the cache", options.seconds, pages, options, cached=True)
    say("\n3. Without the cache (COLOCACHE_DISABLED=true): nobody is killed.")
    without = run_phase("without", options.without, pages, options, cached=False)
    say("\n4. The outcome\n")
    say("\n".join(lines(with_cache, without)))
    if path := os.environ.get("DEMO_JSON"):
        figures = {phase.name: summary(phase) for phase in (with_cache, without)}
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if with_cache.is_good() and without.is_good() else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
