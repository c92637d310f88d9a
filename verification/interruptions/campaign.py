"""All interruptions: each operation, each kind, at each line or instruction, on one host and on two.

``python -m verification.interruptions.campaign`` takes every line. ``--unit opcodes`` takes every instruction, and
``--every 7`` each seventh point. ``--seconds 600`` takes points that lie far apart, and then those between, of each
call in turn, until the time is over. ``--operation``, ``--kind`` and ``--group`` choose; ``--at`` makes one attempt,
which repeats a failure. ``--write`` also writes the report to docs/proof/interruptions.txt, that of instructions to
interruptions-opcodes.txt.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from verification import ROOT
from verification.interruptions.crew import Crew, crew
from verification.interruptions.kinds import CANCEL, KINDS, LATE, RAISING, USES
from verification.interruptions.operations import OPERATIONS
from verification.interruptions.points import UNITS

PROOF: Final = ROOT / "docs" / "proof"
GROUPS: Final = ("host", "hosts")
MOST: Final = 200_000  # points of one call
LINES: Final = 12  # of a failure
TIMES: Final = 3  # that an attempt is made whose outcome is late
APART: Final = {"lines": 199, "opcodes": 1499}  # points between two that are taken in one round; primes
SHIFT: Final = 37  # points from the first one of a run to that of the next
ROUND: Final = 123  # points from the first one of a round to that of the next round, round and round


@dataclass
class Run:
    """One operation with one kind, at its points."""

    group: str
    operation: str
    kind: str
    unit: str
    points: int = 0  # those of the call
    attempts: int = 0
    failures: list[tuple[int, str, list[str]]] = field(default_factory=list)  # the point's number and place, and what

    def command(self, at: int) -> str:
        """Return what repeats an attempt."""
        return (
            f"python -m verification.interruptions.campaign --group {self.group} --operation '{self.operation}' "
            f"--kind '{self.kind}' --unit {self.unit} --at {at}"
        )


def kinds_of(operation: str) -> tuple[str, ...]:
    """Return what can come in an operation."""
    if OPERATIONS[operation].is_async:
        return KINDS
    return tuple(kind for kind in KINDS if kind != CANCEL)


def attempt(run: Run, it: Crew, at: int) -> dict[str, Any]:
    """Make an attempt. What comes too late must do so each time: the machine may be busy."""
    for _ in range(TIMES):
        result = it.attempt(run.operation, run.kind, run.unit, at)
        if not any(each.startswith(LATE) for each in result["found"]):
            break
    return result


def carry_out(run: Run, it: Crew, first: int, every: int, last: int = MOST, most_failures: int = 200) -> None:
    """Make attempts at each so many points, until there are so many failures."""
    for at in range(first, last + 1, every):
        result = attempt(run, it, at)
        if not result["came"]:
            run.points = max(run.points, result["passed"])
            if result["found"]:
                run.failures.append((at, "without an interruption", result["found"]))
            return
        run.points, run.attempts = max(run.points, at), run.attempts + 1
        if result["found"]:
            run.failures.append((at, result["where"], result["found"]))
            _say(run.command(at), result["where"], *result["found"])
            if len(run.failures) >= most_failures:
                return


def carry_out_rounds(runs: Sequence[Run], it: Crew, seconds: float) -> None:
    """Take points that lie far apart, of each run in turn, and then others, until the time is over or all are taken.

    The runs are mixed, so that one that is cut off has taken some of each kind. Those that join come last: they need
    other processes.
    """
    ends = time.monotonic() + seconds
    mixed = sorted(runs, key=lambda run: (OPERATIONS[run.operation].joins, random.Random(run.command(0)).random()))
    for number in range(max(APART.values())):
        for place, run in enumerate(mixed):
            apart = APART[run.unit]
            if time.monotonic() >= ends or number >= apart:
                return
            first = 1 + (ROUND * number + SHIFT * place) % apart
            if first <= (run.points or MOST):
                carry_out(run, it, first, apart, run.points or MOST)
        _say(f"{number + 1} rounds, {sum(run.attempts for run in runs)} attempts")


def _say(*lines: str) -> None:
    print(*lines, sep="\n    ", flush=True)


def report(runs: Sequence[Run], seconds: float) -> str:
    """Return the table of all runs, and their failures."""
    points, attempts = sum(run.points for run in runs), sum(run.attempts for run in runs)
    failures, reached = sum(len(run.failures) for run in runs), sum(run.attempts > 0 for run in runs)
    lines = [
        f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"{len(runs)} runs, which are calls with a kind of interruption; {reached} of them were reached",
        f"{points} points as far as they are known, {attempts} attempts ({attempts / max(1, points):.1%}), "
        f"{failures} failures, {seconds:.0f} s",
        "",
        f"{'group':6} {'operation':24} {'unit':8} {'kinds':>5} {'points':>8} {'attempts':>8} {'failures':>8}",
    ]
    calls: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        calls.setdefault((run.group, run.operation, run.unit), []).append(run)
    for (group, operation, unit), some in calls.items():
        kinds, failed = sum(run.attempts > 0 for run in some), sum(len(run.failures) for run in some)
        points, attempts = sum(run.points for run in some), sum(run.attempts for run in some)
        lines.append(f"{group:6} {operation:24} {unit:8} {kinds:5} {points:8} {attempts:8} {failed:8}")
    for run in runs:
        for at, where, found in run.failures:
            lines += ["", run.command(at), f"  {where}", *[f"  {line}" for text in found for line in _short(text)]]
    return "\n".join(lines) + "\n"


def _short(text: str) -> list[str]:
    lines = text.splitlines()
    return lines if len(lines) <= LINES else [*lines[:LINES], "…"]


def chosen(arguments: argparse.Namespace) -> Iterator[Run]:
    """Give the runs that are wanted."""
    for group in arguments.group or GROUPS:
        for operation in arguments.operation or OPERATIONS:
            for kind in arguments.kind or kinds_of(operation):
                if kind in kinds_of(operation):
                    yield Run(group, operation, kind, arguments.unit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if anything has failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", choices=GROUPS, action="append")
    parser.add_argument("--operation", choices=tuple(OPERATIONS), action="append")
    parser.add_argument("--kind", choices=(*KINDS, "raising", "using"), action="append")
    parser.add_argument("--unit", choices=UNITS, default=UNITS[0])
    parser.add_argument("--every", type=int, default=1, help="take each so many points")
    parser.add_argument("--seconds", type=float, help="take points in rounds, for so long in each group")
    parser.add_argument("--first", type=int, default=1, help="the first point")
    parser.add_argument("--at", type=int, help="take this point alone")
    parser.add_argument("--write", action="store_true", help="write the report")
    options = parser.parse_args(arguments)
    if options.kind:
        several = {"raising": (*RAISING, CANCEL), "using": USES}
        options.kind = [kind for each in options.kind for kind in several.get(each, (each,))]
    first, last = (options.first, MOST) if options.at is None else (options.at, options.at)
    began, runs = time.monotonic(), list(chosen(options))
    for group in GROUPS:
        some = [run for run in runs if run.group == group]
        if some:
            with crew(is_of_hosts=group == "hosts") as it:
                if options.seconds is not None:
                    carry_out_rounds(some, it, options.seconds)
                    continue
                for run in some:
                    since = time.monotonic()
                    carry_out(run, it, first, options.every, last)
                    _say(
                        f"{run.group}, {run.operation}, {run.kind}: {run.points} {run.unit}, {run.attempts} attempts, "
                        f"{len(run.failures)} failures, {time.monotonic() - since:.1f} s"
                    )
    text = report(runs, time.monotonic() - began)
    print(text)
    kinds = Counter(line for run in runs for _, _, found in run.failures for line in found)
    for line, count in kinds.most_common(20):
        print(f"{count:6} {line.splitlines()[0][:160]}")
    if options.write:
        name = "interruptions.txt" if options.unit == UNITS[0] else f"interruptions-{options.unit}.txt"
        (PROOF / name).write_text(text)
    return int(any(run.failures for run in runs))


if __name__ == "__main__":
    sys.exit(main())
