"""A rolling restart under load: 8 gunicorn workers, each replaced after so many requests; ``make rolling``.

    python -m verification.servers.rolling [--seconds 60 | --replaced N] [--workers 8] [--max-requests 400]
                                           [--visitors 16] [--keys 1000] [--seed 1]

Visitors ask for the pages of 1,000 **quiet** keys, which nobody ever changes, and of 100 **busy** ones, which the
visitors change as they go: each write changes the source, asks any worker to invalidate the key, and from the moment
that this was answered no answer to a question asked later may be older. A quiet key is loaded once at first; what is
loaded again later was lost with a worker.

What no source has is lost for good, if it is lost. So each visitor has **sessions**, which it begins, changes, and asks
any worker for; and all count their requests in one **counter**. All settings are the defaults. Exits with 0 only if
every request was answered, none was stale, every receipt was complete, no session and no count was lost, at most one
quiet key in a hundred was loaded again, and workers were replaced.

Of a few workers, all may be replaced at once, and then nobody is left who has the values. With ``--witness`` this
process is in the group, too.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import colocache
from verification.servers.modes import gunicorn
from verification.servers.running import Broken, Running, place, until

WRITES, SESSIONS, COUNTS = 0.02, 0.1, 0.1  # of all requests
SESSIONS_EACH = 20
LOADED_AGAIN = 0.01  # of the quiet keys, at most


@dataclass
class Ledger:
    """What is acknowledged, and what came of the requests. Thread-safe."""

    directory: Path
    quiet: list[str]  # keys
    busy: list[str]
    floors: Counter[str] = field(default_factory=Counter)  # key to the version that must be shown at least
    seconds: list[float] = field(default_factory=list)  # one for each answer
    receipts: list[float] = field(default_factory=list)  # s, of each write that was acknowledged by everybody
    pids: set[int] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # sessions
    kept: int = 0  # sessions that were begun or changed
    counted: int = 0
    incomplete: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def change(self) -> int:
        """Change the source; its version, newer than all before."""
        with self.lock:
            number = int((self.directory / "version").read_text()) + 1
            fresh = self.directory / "version.new"
            fresh.write_text(str(number))
            fresh.rename(self.directory / "version")
            return number


class Visitor(threading.Thread):
    """Asks, and changes, one request after another until told to stop."""

    def __init__(self, server: Running, ledger: Ledger, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._server, self._ledger, self._number = server, ledger, number
        self._rng = random.Random(f"{seed} {number}")
        self._sessions: dict[str, str] = {}  # what the cache keeps for this visitor
        self.stopped = threading.Event()

    def run(self) -> None:
        """The visitor's life."""
        while not self.stopped.is_set():
            started = time.monotonic()
            try:
                self._ask()
            except Broken as error:
                self._ledger.failed.append(str(error).splitlines()[0])
            else:
                self._ledger.seconds.append(time.monotonic() - started)

    def _ask(self) -> None:
        what = self._rng.random()
        if what < WRITES:
            self._write(self._rng.choice(self._ledger.busy))
        elif what < WRITES + SESSIONS:
            self._visit(f"session-{self._number}-{self._rng.randrange(SESSIONS_EACH)}")
        elif what < WRITES + SESSIONS + COUNTS:
            self._count()
        else:
            keys = self._ledger.busy if self._rng.random() < 0.2 else self._ledger.quiet
            self._read(self._rng.choice(keys))

    def _visit(self, session: str) -> None:
        """Ask for a session, and change it now and then."""
        if session in self._sessions:
            value = self._server.ask(f"/kept/{session}")["value"]
            if value != self._sessions[session]:
                self._ledger.lost.append(f"{session} is {value}, and was {self._sessions[session]}")
        if session not in self._sessions or self._rng.random() < 0.3:
            value = f"{self._rng.random()}"
            if self._server.ask(f"/keep/{session}/{value}")["kept"]:
                self._sessions[session] = value
                with self._ledger.lock:
                    self._ledger.kept += 1
            else:
                self._sessions.pop(session, None)

    def _count(self) -> None:
        if self._server.ask("/count/requests")["number"] is not None:
            with self._ledger.lock:
                self._ledger.counted += 1

    def _read(self, key: str) -> None:
        floor = self._ledger.floors[key]  # before the question
        answer = self._server.ask(f"/read/{key}")
        self._ledger.pids.add(answer["pid"])
        if answer["version"] < floor:
            self._ledger.stale.append(f"{key} shows {answer['version']}, {floor} was acknowledged")

    def _write(self, key: str) -> None:
        number = self._ledger.change()
        started = time.monotonic()
        receipt = self._server.ask(f"/invalidate/{key}")
        with self._ledger.lock:
            if receipt["complete"]:
                self._ledger.receipts.append(time.monotonic() - started)
                self._ledger.floors[key] = max(number, self._ledger.floors[key])
            else:
                self._ledger.incomplete += 1


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


@contextmanager
def witness(directory: Path, wanted: bool) -> Iterator[int]:
    """Be in the group, or not; how many are that are no workers."""
    if not wanted:
        yield 0
        return
    with colocache.Cache("servers", directory=str(directory / "c")) as cache:
        cache.start()
        yield 1


def warm(server: Running, workers: int, others: int, keys: list[str]) -> None:
    """Have all workers up, and every quiet key loaded."""

    def ready() -> bool:
        assert not server.has_ended(), server.last_words()
        try:
            answers = server.burst("/who")
        except Broken:
            return False
        pids = {each["pid"] for each in answers if each["processes"] == workers + others}
        return len(pids) == workers

    until(ready, lambda: f"{workers} workers are up{server.last_words()}")
    for future in [each for key in keys for each in server.ask_at_once(f"/read/{key}", 1)]:
        future.result()


def report(ledger: Ledger, again: int, shown: int, seconds: float, workers: int) -> str:
    """The figures: so many quiet keys were loaded ``again``, and so much is ``shown`` by the counter."""
    quiet = len(ledger.quiet)
    replaced = len(ledger.pids) - workers
    return "\n".join(
        [
            f"requests                       {len(ledger.seconds):,} in {seconds:.0f} s, from {workers} workers",
            f"workers replaced               {replaced}",
            f"failed requests                {len(ledger.failed)}",
            f"stale reads                    {len(ledger.stale)}",
            f"writes                         {len(ledger.receipts):,} complete, and {ledger.incomplete} not",
            f"sessions                       kept {ledger.kept:,} times, and lost {len(ledger.lost)} times",
            f"counted                        {ledger.counted:,}, and the counter shows {shown:,}",
            f"quiet keys loaded again        {again:,} of {quiet:,}, {100 * again / quiet:.1f} %",
            f"an answer, median and p99      {1000 * percentile(ledger.seconds, 0.5):.1f} ms, "
            f"{1000 * percentile(ledger.seconds, 0.99):.1f} ms",
            f"a write, median, p99, longest  {1000 * percentile(ledger.receipts, 0.5):.1f} ms, "
            f"{1000 * percentile(ledger.receipts, 0.99):.1f} ms, {1000 * max(ledger.receipts, default=0.0):.1f} ms",
            *ledger.failed[:5],
            *ledger.stale[:5],
            *ledger.lost[:5],
        ]
    )


def main(arguments: list[str]) -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(prog="rolling.py", description="A rolling restart of gunicorn under load.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--replaced", type=int, default=0, help="workers, after which it ends; else after the seconds")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--max-requests", type=int, default=400, help="of a worker; up to half more")
    parser.add_argument("--visitors", type=int, default=16, help="threads that send requests")
    parser.add_argument("--keys", type=int, default=1000, help="quiet ones; a tenth as many are busy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--witness", action="store_true", help="be in the group, for few workers")
    options = parser.parse_args(arguments)
    limit = options.max_requests
    mode = replace(
        gunicorn("", "--max-requests", str(limit), "--max-requests-jitter", str(limit // 2)), workers=options.workers
    )
    with place() as directory, Running(mode, directory) as server, witness(directory, options.witness) as others:
        quiet = [f"quiet-{number}" for number in range(options.keys)]
        busy = [f"busy-{number}" for number in range(options.keys // 10)]
        warm(server, options.workers, others, quiet)
        (directory / "loads").write_text("")  # appended to: the workers go on at its beginning
        ledger = Ledger(directory, quiet, busy)
        visitors = [Visitor(server, ledger, number, options.seed) for number in range(options.visitors)]
        started = time.monotonic()
        for visitor in visitors:
            visitor.start()
        if options.replaced:
            until(lambda: len(ledger.pids) >= options.workers + options.replaced, "so many workers are replaced")
        else:
            time.sleep(options.seconds)
        for visitor in visitors:
            visitor.stopped.set()
        for visitor in visitors:
            visitor.join()
        seconds = time.monotonic() - started
        loads = Counter(line.split()[0] for line in (directory / "loads").read_text().splitlines())
        again = sum(loads[key] for key in quiet)
        shown = server.ask("/count/requests")["number"] - 1
        print(report(ledger, again, shown, seconds, options.workers))
        server.stop()
        alarms = server.alarms()
        print("\n".join(alarms[:20]))
    bad = ledger.failed or ledger.stale or ledger.lost or ledger.incomplete or alarms or shown != ledger.counted
    good = ledger.receipts and ledger.kept and ledger.counted and len(ledger.pids) > options.workers
    return 0 if good and not bad and again <= LOADED_AGAIN * len(quiet) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
