"""Each rule of a host taken out, one at a time: something must notice.

    python -m verification.host.mutants                    # all on all cores: ten minutes
    python -m verification.host.mutants no_full_fence threads_do_not_join --histories 1000

Three nets, from the finest on: every interleaving of the mutant's scenario (`explore`), random histories (`simulate`),
and, for what may slip through both, the tests that are written by hand. Prints after how many runs and histories each
was noticed, and what was wrong then.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

from verification.host.explore import explore
from verification.host.history import KINDS, History, Result, draw
from verification.host.mutations import MUTANTS

HISTORIES = 160
RUNS = 10_000


class Caught(NamedTuple):
    """Where a mutant was noticed."""

    runs: int | None  # in its scenario
    is_weak: bool  # there, on a machine that reorders more than x86
    histories: int | None
    test: str  # "" if that was not needed, or if none noticed
    what: str  # was wrong first

    @property
    def is_missed(self) -> bool:
        """Whether nothing has noticed it."""
        return self.runs is None and self.histories is None and not self.test

    def line(self, name: str) -> str:
        """Return a line of the table."""
        runs = "" if self.runs is None else f"{self.runs:,}{' weak' if self.is_weak else ''}"
        histories = "" if self.histories is None else f"{self.histories:,}"
        what = "NOT CAUGHT" if self.is_missed else self.what
        return f"{name:48} {runs:>11} {histories:>9}  {what:.100}"


def first_history(name: str, histories: int, kinds: Sequence[str] = KINDS) -> tuple[int, Result] | None:
    """Return how many random histories it takes to notice a mutant, and the one that does; None if none of so many."""
    for seed in range(histories):
        with MUTANTS[name].change():
            result = History(draw(seed, kinds[seed % len(kinds)])).go()
        if result.violation:
            return seed + 1, result
    return None


def by_hand(name: str) -> str:
    """Return the first test that notices a mutant; "" if none does."""
    command = [sys.executable, "-m", "verification.host.mutants", "--by-hand", name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class First:
    """A plugin of pytest that notes the first test that fails."""

    name = ""

    def pytest_runtest_logreport(self, report: object) -> None:
        """Note it."""
        if getattr(report, "failed", False) and not self.name:
            self.name = str(getattr(report, "nodeid", "")).rpartition("::")[2]


def run_tests(name: str) -> str:
    """Run the tests that are written by hand without a rule, up to the first that fails, and return its name."""
    import pytest  # it is needed for nothing else here

    first = First()
    with MUTANTS[name].change(), contextlib.redirect_stdout(io.StringIO()):
        # A test that takes long where other programs run has noticed nothing.
        options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "timeout=1200"]
        pytest.main([*options, MUTANTS[name].tests], plugins=[first])
    return first.name


def look(histories: int, runs: int, name: str) -> Caught:
    """Look for a mutant with all nets."""
    mutant = MUTANTS[name]
    found, is_weak, what = None, False, ""
    for weak in (True,) if mutant.only_weak else (False, True):
        if mutant.scenario and found is None:
            report = explore(mutant.scenario, weak, mutant.budget, runs, name)
            if report.violation:
                found, is_weak, what = report.runs, weak, report.violation
    history = first_history(name, histories)
    if history is not None:
        what = what or f"{history[1].kind}: {history[1].violation}"
    test = by_hand(name) if mutant.tests and found is None and history is None else ""
    return Caught(found, is_weak, None if history is None else history[0], test, what or test)


def main() -> int:
    """Print the table; the exit status is 1 if a mutant is not caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="mutant", help="which (default: all)")
    parser.add_argument("--histories", type=int, default=HISTORIES, help="for each, at most (%(default)s)")
    parser.add_argument("--runs", type=int, default=RUNS, help="of the scenario of each, at most (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--by-hand", metavar="MUTANT", help="print the first test that notices this one")
    options = parser.parse_args()
    if options.by_hand:
        print(run_tests(options.by_hand))
        return 0
    names = options.names or list(MUTANTS)
    began, lines = time.monotonic(), list[Caught]()
    print(f"{'the host, but':48} {'runs':>11} {'histories':>9}  what was wrong first, or the test that notices")
    with ProcessPoolExecutor(options.jobs) as pool:
        for name, caught in zip(names, pool.map(partial(look, options.histories, options.runs), names), strict=True):
            lines.append(caught)
            print(caught.line(name), flush=True)
    told = [
        f"{sum(not caught.is_missed for caught in lines)} of {len(lines)} caught",
        f"{sum(caught.runs is not None for caught in lines)} by every interleaving of a scenario",
        f"{sum(caught.histories is not None for caught in lines)} within {options.histories} random histories",
        f"{sum(bool(caught.test) for caught in lines)} by a test alone",
    ]
    print(f"{', '.join(told)}; {time.monotonic() - began:.0f} s")
    return 1 if any(caught.is_missed for caught in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
