"""Many random histories of several simulated hosts, with progress.

    python -m verification.hosts.simulate                              # 2,000 on all cores: a quarter of an hour on two
    python -m verification.hosts.simulate --histories 500 --seed 7000 --kinds cuts gateways
    python -m verification.hosts.simulate --replay cuts 7003           # tell one history again

| kind | what happens |
|---|---|
| calm | messages are lost, late, and out of order; or not even that |
| cuts | ways are cut, one or both, of a pair, a star or a ring |
| gateways | gateways are killed and stopped, at some places on purpose; one that wakes speaks beside its successor |
| joiners | hosts come late, and restart |
| losses | hosts end at once, with or without anybody knowing it |
| ends | hosts say goodbye, or have no process for a moment |
| forgetting | hosts are cut off for so long that they are forgotten |
| writes | values are set, added, compared and set; counters count |
| weak | stores are seen late and out of order, and loads are made early |
| all | all of it |
| clients | the same, with one or two hosts that are clients |
| copies | hosts have copies of what others own, and are asked for them if the owner is slow, or was lost |

Prints what was seen per kind of history, and for each one that broke the contract the command that tells it again. A
cache that never hits breaks no promise, and neither does a receipt that is never complete. So there are floors under
both.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from verification.hosts.history import History, Result
from verification.hosts.plan import KINDS, draw
from verification.hosts.scripted import SCRIPTS, play

HISTORIES = 2_000
CHUNK = 5  # histories of a task

HITS = ("near", "shelf", "joined", "fetched")  # where readers were given what they had not loaded themselves

#: Column → what is counted in it.
COLUMNS: dict[str, tuple[str, ...]] = {
    "reads": ("reads",),
    "near": ("near",),
    "shelf": ("shelf",),
    "fetched": ("fetched",),
    "joined": ("joined",),
    "events": ("invalidations",),
    "complete": ("complete",),
    "early": ("early",),
    "writes": ("writes",),
    "counted": ("counted",),
    "cuts": ("cuts",),
    "kills": ("kills",),
    "stops": ("stops",),
    "aimed": ("aimed",),
    "ends": ("crashes", "goodbyes"),
    "forgot": ("forgotten",),
}

HIT_FLOORS = {"calm": 0.7, "cuts": 0.55, "gateways": 0.6, "writes": 0.5}  # of hits among all reads, by kinds
HIT_FLOOR = 0.45  # of the others
RECEIPT_FLOORS = {"calm": 0.95, "losses": 0.5, "forgetting": 0.5}  # of complete receipts
RECEIPT_FLOOR = 0.7

#: Kind → what has to be seen in it, in as many histories as there are at least on the average.
SEEN: dict[str, tuple[str, ...]] = {
    "calm": ("near", "shelf", "fetched", "joined", "early"),
    "cuts": ("cuts", "waited out"),
    "gateways": ("kills", "stops", "aimed"),
    "joiners": ("crashes",),
    "losses": ("crashes",),
    "ends": ("goodbyes", "kills"),
    "forgetting": ("forgotten", "incomplete"),
    "writes": ("writes", "counted", "compared"),
    "weak": ("near", "fetched"),
    "all": ("cuts", "kills", "stops", "crashes", "goodbyes"),
    "clients": ("cuts", "kills", "stops", "crashes", "goodbyes", "far", "fetched"),
    "copies": ("offers", "pulled", "hedged", "won", "peeked", "crashes", "writes"),
}
ENOUGH = 20  # histories of a kind, from which on all of that must have been seen


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

    @property
    def receipts(self) -> float:
        """Which share of the receipts were complete."""
        return self.counts["complete"] / max(1, self.counts["complete"] + self.counts["incomplete"])

    def line(self) -> str:
        """Return a line of the table."""
        cells = [sum(self.counts[name] for name in names) for names in COLUMNS.values()]
        told = " ".join(f"{cell:>{_width(title)},}" for title, cell in zip(COLUMNS, cells, strict=True))
        return f"{self.kind:10} {self.histories:9,} {self.hits:5.1%} {self.receipts:8.1%} {told} {self.violations:6,}"

    def complaints(self) -> list[str]:
        """Return what is too little."""
        if self.histories < ENOUGH:
            return []
        hits, receipts = HIT_FLOORS.get(self.kind, HIT_FLOOR), RECEIPT_FLOORS.get(self.kind, RECEIPT_FLOOR)
        few = [f"{self.kind}: only {self.hits:.1%} hits, less than {hits:.0%}"] if self.hits < hits else []
        if self.receipts < receipts:
            few.append(f"{self.kind}: only {self.receipts:.1%} complete receipts, less than {receipts:.0%}")
        return few + [f"{self.kind}: no {name}" for name in SEEN.get(self.kind, ()) if not self.counts[name]]


def _width(title: str) -> int:
    return 10 if title in ("reads", "near", "shelf") else 8


HEAD = " ".join([
    f"{'kind':10} {'histories':>9} {'hits':>5} {'receipts':>8}", *[f"{title:>{_width(title)}}" for title in COLUMNS],
    "broken",
])  # fmt: skip


def _collect_less() -> None:
    """Look for garbage less often: a history makes many objects, and few that only the collector finds."""
    gc.freeze()  # all modules
    gc.set_threshold(100_000, 5, 5)


def histories(chunk: Sequence[tuple[int, str]]) -> list[Result]:
    """Run some histories."""
    return [_history(kind, seed).go() for seed, kind in chunk]


def _history(kind: str, seed: int, *, tells: bool = False) -> History:
    return play(kind, seed, tells=tells) if kind in SCRIPTS else History(draw(seed, kind), tells=tells)


def simulate(first: int, count: int, kinds: Sequence[str], jobs: int | None, quiet: bool = False) -> list[Tally]:
    """Run so many histories, spread over the kinds; show progress, and how to tell a history that is broken."""
    work = [(seed, kinds[seed % len(kinds)]) for seed in range(first, first + count)]
    chunks = [work[start : start + CHUNK] for start in range(0, count, CHUNK)]
    tallies = {kind: Tally(kind) for kind in kinds}
    began = shown = time.monotonic()
    with ProcessPoolExecutor(jobs, initializer=_collect_less) as pool:
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
                f"  again: python -m verification.hosts.simulate --replay {result.kind} {result.seed}",
                flush=True,
            )


def replay(kind: str, seed: int, mutant: str = "") -> int:
    """Tell the story of a history; the exit status is 1 if it breaks the contract."""
    from verification.hosts.mutations import MUTANTS

    history = _history(kind, seed, tells=True)
    with ExitStack() as stack:
        if mutant:
            stack.enter_context(MUTANTS[mutant].change())
        violation = history.go().violation
    print(history.plan, *history.story, violation or "this history breaks nothing", sep="\n")
    return 1 if violation else 0


def main() -> int:
    """Run the campaign; the exit status is 1 if a history is broken, or if too little was seen."""
    names = f"{', '.join(KINDS)}; or one that is written by hand: {', '.join(SCRIPTS)}"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=int, default=HISTORIES, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--kinds", nargs="+", choices=(*KINDS, *SCRIPTS), default=KINDS, metavar="KIND", help=names)
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
