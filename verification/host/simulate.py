"""Many random histories of one simulated host, with progress.

    python -m verification.host.simulate                              # 20,000 on all cores: ten minutes
    python -m verification.host.simulate --histories 500 --seed 7000 --kinds kill stop
    python -m verification.host.simulate --replay kill 7003           # tell one history again

Prints what was seen per kind of history, and for each one that broke the contract the command that tells it again. A
cache that never hits breaks no promise, so there is a floor under the hits of each kind, and under all else that it is
to see.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from verification.host.history import KINDS, History, Result, draw
from verification.host.mutations import MUTANTS

HISTORIES = 20_000
CHUNK = 20  # histories of a task

HITS = ("near", "shelf", "waited", "inherited")  # where readers were given what they had not loaded themselves

#: Column → what is counted in it.
COLUMNS: dict[str, tuple[str, ...]] = {
    "reads": ("reads",),
    "near": ("near", "inherited"),
    "waited": ("waited",),
    "fills": ("fills",),
    "sets": ("writes",),
    "counted": ("counted",),
    "events": ("events",),
    "tags": ("tags",),
    "spaces": ("namespaces", "clears"),
    "forks": ("forks",),
    "kills": ("kills",),
    "stops": ("stops",),
    "lost": ("losses",),
    "evicted": ("evicted",),
}

FLOORS = {"tiny": 0.45, "lost-locks": 0.4, "all": 0.35}  # of hits among all reads, by kinds
FLOOR = 0.5  # of the others

#: Kind → what has to be seen in it, in as many histories as there are at least on the average.
SEEN: dict[str, tuple[str, ...]] = {
    "calm": ("near", "waited", "fills", "fenced", "added", "replaced", "touched", "counted", "tags", "namespaces"),
    "tiny": ("evicted", "moved"),
    "kill": ("kills",),
    "stop": ("stops", "busy"),
    "fork": ("forks", "inherited"),
    "lost-locks": ("losses", "resets"),
    "slow-loads": ("waited",),
    "all": ("kills", "stops", "forks", "losses", "evicted"),
}
ENOUGH = 100  # histories of a kind, from which on all of that must have been seen


@dataclass
class Tally:
    """The sum of the histories of one kind."""

    kind: str
    histories: int = 0
    violations: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """Count one more history."""
        self.histories += 1
        self.violations += bool(result.violation)
        self.counts.update(result.counts)

    @property
    def hits(self) -> float:
        """Which share of the reads were given what they had not loaded themselves."""
        return sum(self.counts[name] for name in HITS) / max(1, self.counts["reads"])

    def line(self) -> str:
        """Return a line of the table."""
        cells = [sum(self.counts[name] for name in names) for names in COLUMNS.values()]
        told = " ".join(f"{cell:>{_width(title)},}" for title, cell in zip(COLUMNS, cells, strict=True))
        return f"{self.kind:10} {self.histories:9,} {self.hits:5.1%} {told} {self.violations:6,}"

    def complaints(self) -> list[str]:
        """Return what is too little."""
        if self.histories < ENOUGH:
            return []
        floor = FLOORS.get(self.kind, FLOOR)
        few = [f"{self.kind}: only {self.hits:.1%} hits, less than {floor:.0%}"] if self.hits < floor else []
        return few + [f"{self.kind}: no {name}" for name in SEEN[self.kind] if not self.counts[name]]


def _width(title: str) -> int:
    return 9 if title in ("reads", "near", "sets", "fills") else 7


HEAD = " ".join([
    f"{'kind':10} {'histories':>9} {'hits':>5}", *[f"{title:>{_width(title)}}" for title in COLUMNS], "broken",
])  # fmt: skip


def histories(chunk: Sequence[tuple[int, str]]) -> list[Result]:
    """Run some histories."""
    return [History(draw(seed, kind)).go() for seed, kind in chunk]


def simulate(first: int, count: int, kinds: Sequence[str], jobs: int | None, quiet: bool = False) -> list[Tally]:
    """Run so many histories, spread over the kinds; show progress, and how to tell a history that is broken."""
    work = [(seed, kinds[seed % len(kinds)]) for seed in range(first, first + count)]
    chunks = [work[start : start + CHUNK] for start in range(0, count, CHUNK)]
    tallies = {kind: Tally(kind) for kind in kinds}
    began = shown = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        for done, results in enumerate(pool.map(histories, chunks), 1):
            _take(results, tallies)
            if not quiet and time.monotonic() > shown + 60:
                shown = time.monotonic()
                print(f"  {done * CHUNK:,} of {count:,} histories, {shown - began:.0f} s", flush=True)
    return [*tallies.values()]


def _take(results: Iterable[Result], tallies: dict[str, Tally]) -> None:
    for result in results:
        tallies[result.kind].add(result)
        if result.violation:
            print(
                f"{result.kind} {result.seed}: {result.violation}\n"
                f"  again: python -m verification.host.simulate --replay {result.kind} {result.seed}",
                flush=True,
            )


def replay(kind: str, seed: int, mutant: str = "") -> int:
    """Tell the story of a history; the exit status is 1 if it breaks the contract."""
    history = History(draw(seed, kind), tells=True)
    with ExitStack() as stack:
        if mutant:
            stack.enter_context(MUTANTS[mutant].change())
        violation = history.go().violation
    print(history.plan, *history.story, violation or "this history breaks nothing", sep="\n")
    return 1 if violation else 0


def main() -> int:
    """Run the campaign; the exit status is 1 if a history is broken, or if too little was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=int, default=HISTORIES, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--replay", nargs=2, metavar=("KIND", "SEED"), help="tell one history again")
    parser.add_argument("--mutant", default="", help="with --replay: take a rule out")
    options = parser.parse_args()
    if options.replay:
        return replay(options.replay[0], int(options.replay[1]), options.mutant)
    print(f"{options.histories:,} histories from seed {options.seed} on; {platform.platform()}, "
          f"Python {platform.python_version()}, {options.jobs} of {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}",
          flush=True)  # fmt: skip
    began = time.monotonic()
    tallies = simulate(options.seed, options.histories, options.kinds, options.jobs)
    total = Tally("together")
    print(HEAD)
    for tally in tallies:
        print(tally.line())
        total.histories += tally.histories
        total.violations += tally.violations
        total.counts.update(tally.counts)
    print(total.line())
    complaints = [complaint for tally in tallies for complaint in tally.complaints()]
    print(*complaints, f"{time.monotonic() - began:.0f} s", sep="\n")
    return 1 if total.violations or complaints else 0


if __name__ == "__main__":
    sys.exit(main())
