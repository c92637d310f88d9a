"""A rolling restart under load: 8 gunicorn workers, each replaced after so many requests; ``make rolling``.

    python -m verification.servers.rolling [--seconds 60 | --replaced N] [--workers 8] [--max-requests 400]
                                           [--visitors 16] [--keys 1000] [--seed 1]

Visitors ask for the pages of 1,000 **quiet** keys, which nobody ever changes, and of 100 **busy** ones, which the
visitors change as they go: each write changes the source, asks any worker to invalidate the key, and from the moment
that this was answered no answer to a question asked later may be older. A quiet key is loaded once at first; what is
loaded again later was lost with a worker. All settings are the defaults. Exits with 0 only if every request was
answered, none was stale, and workers were replaced.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from verification.servers.modes import gunicorn
from verification.servers.running import Broken, Running, place, until

WRITES = 0.02  # of all requests


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

    def __init__(self, server: Running, ledger: Ledger, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._server, self._ledger, self._rng = server, ledger, rng
        self.stopped = threading.Event()

    def run(self) -> None:
        """The visitor's life."""
        while not self.stopped.is_set():
            started = time.monotonic()
            try:
                if self._rng.random() < WRITES:
                    self._write(self._rng.choice(self._ledger.busy))
                else:
                    keys = self._ledger.busy if self._rng.random() < 0.2 else self._ledger.quiet
                    self._read(self._rng.choice(keys))
            except Broken as error:
                self._ledger.failed.append(str(error).splitlines()[0])
            else:
                self._ledger.seconds.append(time.monotonic() - started)

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


def warm(server: Running, workers: int, keys: list[str]) -> None:
    """Have all workers up and acquainted, and every quiet key loaded."""

    def ready() -> bool:
        assert not server.has_ended(), server.last_words()
        try:
            answers = server.burst("/who")
        except Broken:
            return False
        pids = {each["pid"] for each in answers if each["members"] == workers and each["current"]}
        return len(pids) == workers

    until(ready, lambda: f"{workers} workers are up{server.last_words()}")
    for future in [each for key in keys for each in server.ask_at_once(f"/read/{key}", 1)]:
        future.result()


def report(ledger: Ledger, loads: Counter[str], seconds: float, workers: int) -> str:
    """The figures."""
    quiet = len(ledger.quiet)
    again = sum(loads[key] for key in ledger.quiet)
    replaced = len(ledger.pids) - workers
    share = again / quiet / max(1, replaced)
    return "\n".join(
        [
            f"requests                       {len(ledger.seconds):,} in {seconds:.0f} s, from {workers} workers",
            f"workers replaced               {replaced}",
            f"failed requests                {len(ledger.failed)}",
            f"stale reads                    {len(ledger.stale)}",
            f"writes acknowledged by all     {len(ledger.receipts):,}, and {ledger.incomplete} not",
            f"quiet keys loaded again        {again:,} of {quiet:,}, {100 * share:.1f} % for each worker replaced",
            f"an answer, median and p99      {1000 * percentile(ledger.seconds, 0.5):.1f} ms, "
            f"{1000 * percentile(ledger.seconds, 0.99):.1f} ms",
            f"a write, median, p99, longest  {1000 * percentile(ledger.receipts, 0.5):.1f} ms, "
            f"{1000 * percentile(ledger.receipts, 0.99):.1f} ms, {1000 * max(ledger.receipts, default=0.0):.1f} ms",
            *ledger.failed[:5],
            *ledger.stale[:5],
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
    options = parser.parse_args(arguments)
    limit = options.max_requests
    mode = replace(
        gunicorn("", "--max-requests", str(limit), "--max-requests-jitter", str(limit // 2)), workers=options.workers
    )
    with place() as directory, Running(mode, directory) as server:
        quiet = [f"quiet-{number}" for number in range(options.keys)]
        busy = [f"busy-{number}" for number in range(options.keys // 10)]
        warm(server, options.workers, quiet)
        (directory / "loads").write_text("")  # appended to: the workers go on at its beginning
        ledger = Ledger(directory, quiet, busy)
        visitors = [Visitor(server, ledger, random.Random(f"{options.seed} {n}")) for n in range(options.visitors)]
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
        print(report(ledger, loads, seconds, options.workers))
        server.stop()
        alarms = server.alarms()
        print("\n".join(alarms[:20]))
    replaced = len(ledger.pids) > options.workers
    return 0 if ledger.seconds and replaced and not (ledger.failed or ledger.stale or alarms) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
