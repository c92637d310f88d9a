"""Many random histories on all cores, with progress: `python -m verification.simulation.simulate --seeds 20000`.

Prints what was seen per class of faults, and for each history that broke the contract the command that replays it,
shrinks it to a few steps, and prints those as an interleaving.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields

from verification.simulation.history import History, Result
from verification.simulation.plan import EVERY, draw
from verification.simulation.shrink import story

CHUNK = 5  # histories per task


@dataclass
class Tally:
    """The sum of the histories of one fault class."""

    seeds: int = 0
    reads: int = 0
    hits: int = 0
    loads: int = 0
    invalidations: int = 0
    complete: int = 0
    violations: int = 0

    def add(self, result: Result) -> None:
        """Count one more history."""
        self.seeds += 1
        for name in ("reads", "hits", "loads", "invalidations", "complete"):
            setattr(self, name, getattr(self, name) + getattr(result, name))
        self.violations += len(result.violations)

    def line(self, faults: str) -> str:
        """Return a line of the table."""
        hit, complete = self.hits / max(1, self.reads), self.complete / max(1, self.invalidations)
        return (
            f"{faults:10} {self.seeds:7,} {self.reads:12,} {self.invalidations:11,} {self.violations:10,} "
            f"{hit:9.1%} {complete:9.1%}"
        )


HEAD = f"{'faults':10} {'seeds':>7} {'reads':>12} {'awaited':>11} {'violations':>10} {'hit ratio':>9} {'complete':>9}"


def histories(chunk: list[tuple[int, str, float]]) -> list[Result]:
    """Run some histories; an exception is a violation, too."""
    results = []
    for seed, faults, seconds in chunk:
        try:
            results.append(History(draw(seed, faults, seconds)).go())
        except Exception as error:
            results.append(Result(seed, faults, violations=[f"{type(error).__name__}: {error}"]))
    return results


def simulate(first: int, seeds: int, seconds: float, jobs: int, quiet: bool = False) -> dict[str, Tally]:
    """Run ``seeds`` histories, spread over all fault classes; show progress, and each failing run."""
    work = [(seed, EVERY[seed % len(EVERY)], seconds) for seed in range(first, first + seeds)]
    chunks = [work[start : start + CHUNK] for start in range(0, len(work), CHUNK)]
    tallies = {faults: Tally() for faults in EVERY}
    began = shown = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        for done, results in enumerate(pool.map(histories, chunks), 1):
            _take(results, tallies)
            if not quiet and time.monotonic() > shown + 10:
                shown = time.monotonic()
                print(f"  {done * CHUNK:,} of {seeds:,} histories, {shown - began:.0f} s", flush=True)
    return tallies


def _take(results: Iterable[Result], tallies: dict[str, Tally]) -> None:
    for result in results:
        tallies[result.faults].add(result)
        if result.violations:
            print(f"seed {result.seed}, {result.faults}: {result.violations[0]}")
            print(
                f"  replay: python -m verification.simulation.simulate --story {result.seed} {result.faults}",
                flush=True,
            )


def tell(seed: int, faults: str, seconds: float) -> int:
    """Print a history as an interleaving, as short as it can be told; the exit status is 1 if it broke the contract."""
    plan = draw(seed, faults, seconds)
    violations = History(plan).go().violations
    print("\n".join(violations) or "this history breaks nothing")
    if violations:
        least, lines = story(plan)
        print(f"in {len(least.steps)} steps of {len(plan.steps)}:", *lines, sep="\n  ")
    return 1 if violations else 0


def main() -> int:
    """Run the campaign; the exit status is 1 if a history broke the contract."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20_000, help="how many histories (default 20,000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed; its fault class follows from it")
    parser.add_argument("--seconds", type=float, default=3.0, help="simulated seconds of operations per history")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--story", nargs=2, metavar=("SEED", "FAULTS"), help="shrink one that broke the contract")
    options = parser.parse_args()
    if options.story:
        return tell(int(options.story[0]), options.story[1], options.seconds)
    print(f"{options.seeds:,} histories of {options.seconds:g} simulated seconds; {platform.platform()}, "
          f"Python {platform.python_version()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")  # fmt: skip
    began = time.monotonic()
    tallies = simulate(options.first, options.seeds, options.seconds, options.jobs)
    print(HEAD)
    total = Tally()
    for faults, tally in tallies.items():
        print(tally.line(faults))
        for field in fields(Tally):
            setattr(total, field.name, getattr(total, field.name) + getattr(tally, field.name))
    print(total.line("together"))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(main())
