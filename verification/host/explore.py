"""Every interleaving of the small scenarios, within a budget of deviations.

python -m verification.host.explore                          # all scenarios on all cores
python -m verification.host.explore two_count --budget 3
python -m verification.host.explore two_count --weak --route 17.1,40.2   # tell one run again
python -m verification.host.explore --mutant no_full_fence   # a run that notices that a rule is missing
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial

from verification.host import search
from verification.host.mutations import MUTANTS
from verification.host.scenarios import SCENARIOS, played
from verification.host.search import Report, Route

BUDGET = 1
RUNS = 10_000  # after which a search is cut


def explore(name: str, weak: bool, budget: int | None, runs: int, mutant: str = "") -> Report:
    """Search one scenario, perhaps without one of the rules."""
    with ExitStack() as stack:
        if mutant:
            stack.enter_context(MUTANTS[mutant].change())
        return search.search(played(name, weak=weak), budget, runs)


def spelled(route: Route) -> str:
    """Return a route as it is given to ``--route``."""
    return ",".join(f"{moment}.{option}" for moment, option in route)


def told(name: str, weak: bool, report: Report, mutant: str = "") -> str:
    """Return the story of a violation, and how to tell it again."""
    more = (" --weak" if weak else "") + (f" --mutant {mutant}" if mutant else "")
    return "\n".join([
        *(f"    {line}" for line in report.story),
        f"again: python -m verification.host.explore {name}{more} --route {spelled(report.route)}",
    ])  # fmt: skip


def _one(budget: int | None, runs: int, work: tuple[str, bool]) -> tuple[str, bool, Report, float]:
    began = time.monotonic()
    report = explore(*work, budget, runs)
    return *work, report, time.monotonic() - began


def explore_all(names: Sequence[str], weak: Sequence[bool], budget: int | None, runs: int, jobs: int | None) -> int:
    """Search scenarios, and print a line for each; return how many are broken."""
    broken = cut = all_runs = 0
    work = [(name, mode) for name in names for mode in weak]
    began = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        for name, mode, report, seconds in pool.map(partial(_one, budget, runs), work):
            print(f"{name:50} {'weak' if mode else 'x86':4} {report}  {seconds:.1f} s", flush=True)
            all_runs += report.runs
            cut += not report.exhausted
            if report.violation:
                broken += 1
                print(told(name, mode, report), flush=True)
    print(
        f"{len(work)} searches, {all_runs:,} runs; {cut} cut after {runs:,} runs, {broken} broken; "
        f"{time.monotonic() - began:.0f} s"
    )
    return broken


def main() -> int:
    """Search; the exit status is 1 if something is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="those to search (default: all)")
    parser.add_argument("--budget", type=int, default=BUDGET, help="deviations of a run (default %(default)s)")
    parser.add_argument("--exhaustive", action="store_true", help="no budget: take every run")
    parser.add_argument("--runs", type=int, default=RUNS, help="cut a search after so many runs (%(default)s)")
    parser.add_argument("--weak", action="store_true", help="only on a machine that reorders more than x86")
    parser.add_argument("--x86", action="store_true", help="only on x86")
    parser.add_argument("--mutant", default="", help="take a rule out; if no scenario is given, in that of the mutant")
    parser.add_argument("--route", default="", help="tell one run of one scenario")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args()
    budget = None if options.exhaustive else options.budget
    names = options.scenarios or ([MUTANTS[options.mutant].scenario] if options.mutant else list(SCENARIOS))
    modes = [True] if options.weak else [False] if options.x86 else [False, True]
    if options.route:
        route = tuple((int(moment), int(option)) for moment, option in (
            step.split(".") for step in options.route.split(",")
        ))  # fmt: skip
        with ExitStack() as stack:
            if options.mutant:
                stack.enter_context(MUTANTS[options.mutant].change())
            print("\n".join(search.replay(played(names[0], weak=options.weak), route)))
        return 0
    if options.mutant:
        if not names[0]:
            parser.error(f"{options.mutant} has no scenario of its own: give one")
        if budget is not None:
            budget = max(budget, MUTANTS[options.mutant].budget)
        for weak in modes:
            report = explore(names[0], weak, budget, options.runs, options.mutant)
            print(f"{names[0]:50} {'weak' if weak else 'x86':4} {report}")
            if report.violation:
                print(told(names[0], weak, report, options.mutant))
        return 0
    within = "every run" if budget is None else f"every run within {budget} deviations"
    print(f"{within}; {platform.platform()}, Python {platform.python_version()}, {options.jobs} of {os.cpu_count()} "
          f"cores, {time.strftime('%Y-%m-%d')}", flush=True)  # fmt: skip
    return 1 if explore_all(names, modes, budget, options.runs, options.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
