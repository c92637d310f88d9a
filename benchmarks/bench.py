"""All benchmarks, one after another, each in a process of its own.

    python -m benchmarks.bench             what `make bench` does: everything, written to results/, in 15 minutes
    python -m benchmarks.bench --quick     what `make bench-quick` does: compared with results/, in about a minute
    python -m benchmarks.bench --only hit,fetch

The quick form is the **guard**. It measures the ratios again, in a few rounds, and says which of them have moved by
more than the noise. The noise of a ratio is the spread of its own rounds, from the 10th to the 90th percentile. A ratio
has **moved** if the committed spread and the new one do not overlap, and the medians differ by more than 10 %, in this
run and in another one right after it. Ratios of one run hardly depend on what else the machine does, but they do depend
on the machine. On another processor, compare with results of that processor.

A ratio that has moved is no failure. Exit status 1 means that a benchmark broke.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks import render
from benchmarks.measure import Ratio, machine
from benchmarks.render import RESULTS

PROGRAMS = "benchmarks"  # the package that holds them
LEAST = 0.1  # of the committed ratio; two quiet runs differ by as much, so less is not reported


@dataclass(frozen=True)
class Benchmark:
    """One file, the seconds that it may take, and those of its quick form, or None if the guard leaves it out."""

    name: str
    seconds: int
    quick: int | None


BENCHMARKS = (
    Benchmark("hit", 120, 16),
    Benchmark("fetch", 120, 12),
    Benchmark("invalidate", 60, 12),
    Benchmark("load", 15, 3),
    Benchmark("stampede", 60, 8),
    Benchmark("application", 170, None),
    Benchmark("capacity", 70, None),
    Benchmark("footprint", 120, None),
    Benchmark("life", 70, None),
    Benchmark("watched", 60, None),
)
PATIENCE = 4  # times those seconds; a benchmark that takes longer hangs


# --- The guard


@dataclass(frozen=True)
class Change:
    """A ratio, as it was committed and as it is now."""

    name: str
    before: Ratio
    now: Ratio

    @property
    def relative(self) -> float:
        """By what part of the committed ratio it has changed."""
        return self.now.median / self.before.median - 1 if self.before.median else float(self.now.median != 0)

    @property
    def has_moved(self) -> bool:
        """Whether it has changed by more than the noise of the two runs."""
        apart = self.now.low > self.before.high or self.now.high < self.before.low
        return apart and abs(self.relative) > LEAST

    def __str__(self) -> str:
        return f"{self.relative:+7.0%}  {self.name}: {self.before}, now {self.now}"


def changes(committed: Mapping[str, Any], found: Mapping[str, Any]) -> list[Change]:
    """Return the changes of the ratios that both results have."""
    before, now = committed["ratios"], found["ratios"]
    return [Change(name, Ratio(**before[name]), Ratio(**now[name])) for name in before if name in now]


def moved(committed: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Change]:
    """Return the changes of ratios that have moved, by name, the greatest first."""
    far = [change for change in changes(committed, found) if change.has_moved]
    return {change.name: change for change in sorted(far, key=lambda change: -abs(change.relative))}


def compared(name: str, found: Mapping[str, Any], again: Callable[[], Mapping[str, Any] | None]) -> Iterator[str]:
    """Yield what has moved since the committed results of a benchmark, and moves the same way when run ``again``."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        yield f"{name}: nothing is committed to compare with"
        return
    committed = json.loads(path.read_text())
    yield from _elsewhere(name, committed["machine"], found["machine"])
    first = moved(committed, found)
    second = moved(committed, (again() if first else None) or {"ratios": {}})
    twice = [change for change in first.values() if _same_way(change, second.get(change.name))]
    yield f"{name}: {len(changes(committed, found))} ratios compared, {len(twice)} moved by more than the noise"
    yield from map(str, twice)


def _elsewhere(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for what in ("cpu", "cores", "python"):
        if here[what] != there[what]:
            yield f"{name}: committed with another {what}: {there[what]}, now {here[what]}"


def _same_way(change: Change, again: Change | None) -> bool:
    return again is not None and (change.relative > 0) == (again.relative > 0)


# --- Running


def run(benchmark: Benchmark, flags: Sequence[str], *, limit: float, aloud: bool) -> dict[str, Any] | None:
    """Run one benchmark. Return what it found; if it broke, print how, and return None."""
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        facts, log = Path(directory) / "facts", Path(directory) / "log"
        command = [sys.executable, "-m", f"{PROGRAMS}.{benchmark.name}", *flags, "--json", str(facts)]
        with log.open("wb") as quietly:
            status = _waited(command, None if aloud else quietly, limit)
        if status == 0 and facts.exists():
            return dict(json.loads(facts.read_text()))
        print(f"{benchmark.name} BROKE: {status}\n{log.read_text(errors='replace')[-4000:]}", flush=True)
        return None


def _waited(command: Sequence[str], output: Any, limit: float) -> int | str:
    """Return the exit status. A command that takes too long is killed, with all processes that it has started."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"no end after {limit:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_all(chosen: Sequence[Benchmark], flags: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """Run benchmarks in full, and show their output. Return what each found."""
    found, began = dict[str, dict[str, Any] | None](), monotonic()
    for number, benchmark in enumerate(chosen, 1):
        gone = monotonic() - began
        print(f"\n=== {number} of {len(chosen)}: {benchmark.name}, about {benchmark.seconds} s ({gone:.0f} s gone)",
              flush=True)  # fmt: skip
        found[benchmark.name] = run(benchmark, flags, limit=PATIENCE * benchmark.seconds, aloud=True)
    print(f"\n=== all in {monotonic() - began:.0f} s", flush=True)
    return found


def targets(found: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    """Yield a line for each target, which says whether it was met."""
    for name, facts in found.items():
        for target in facts["targets"] if facts else ():
            yield render.target({**target, "name": f"{name}: {target['name']}"})


def full(chosen: Sequence[Benchmark], flags: Sequence[str]) -> bool:
    """Run everything, and sum up. Return whether nothing broke."""
    found = run_all(chosen, flags)
    for line in targets(found):
        print(line)
    missing = {name: reason for facts in found.values() if facts for name, reason in facts["missing"].items()}
    for name, reason in missing.items():
        print(render.missing(name, reason))
    return _none_broke(found)


def quick(chosen: Sequence[Benchmark]) -> bool:
    """Measure the ratios again, and print which have moved. Return whether nothing broke."""
    found = dict[str, dict[str, Any] | None]()
    print(f"{machine()['cpu']}, load {os.getloadavg()[0]:.1f}")
    for benchmark in chosen:
        limit = PATIENCE * (benchmark.quick or benchmark.seconds) + 30
        quickly = partial(run, benchmark, ["--quick"], limit=limit, aloud=False)
        facts = found[benchmark.name] = quickly()
        for line in compared(benchmark.name, facts, quickly) if facts else ():
            print(line, flush=True)
    print()
    for line in targets(found):
        print(line)
    return _none_broke(found)


def _none_broke(found: Mapping[str, object]) -> bool:
    broken = [name for name, facts in found.items() if facts is None]
    if broken:
        print(f"BROKEN: {', '.join(broken)}")
    return not broken


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="compare the ratios with the committed ones")
    parser.add_argument("--only", default="", help=f"some of {','.join(each.name for each in BENCHMARKS)}")
    parser.add_argument("--dry", action="store_true", help="write no results")
    arguments = parser.parse_args(argv)
    names = [name for name in arguments.only.split(",") if name]
    unknown = set(names).difference(each.name for each in BENCHMARKS)
    if unknown:
        parser.error(f"--only: there is no benchmark {', '.join(sorted(unknown))}")
    chosen = [each for each in BENCHMARKS if each.name in names or not names]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the benchmark that is running ends too
    if arguments.quick:
        chosen = [each for each in chosen if each.quick is not None or names]
        return 0 if quick(chosen) else 1
    return 0 if full(chosen, [] if arguments.dry else ["--write"]) else 1


if __name__ == "__main__":
    sys.exit(main())
