"""All that is proved with real processes on several hosts, one part after another; ``make hosts``.

``python -m verification.network.proof`` runs `campaign.py`, `many.py`, `mixed.py` and `secrets.py`, and prints a table
of verdicts, and the figures of each. ``--short`` runs each for some seconds, on fewer hosts. ``--write`` also writes
what it prints to docs/proof/hosts.txt.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, NamedTuple, Protocol

from verification import ROOT
from verification.network import campaign, many, mixed, secrets
from verification.network.namespaces import why_not

FILE: Final = ROOT / "docs" / "proof" / "hosts.txt"


class Judged(Protocol):
    """What came of a part."""

    def complaints(self) -> list[str]:
        """Why it is a failure; nothing if it is none."""

    def table(self) -> str:
        """The figures."""


class Part(NamedTuple):
    """Something to be proved."""

    name: str
    says: str
    run: Callable[[], Judged]
    why_not: Callable[[], str] = lambda: ""  # why it cannot be run
    must_run: bool = True  # what cannot be run is a failure


class Verdict(NamedTuple):
    """What was found of a part."""

    part: Part
    verdict: str
    seconds: float
    figures: str
    is_failure: bool


def parts(seed: int, *, seconds: float, is_short: bool) -> list[Part]:
    """All parts. ``seconds`` are those of the campaign; the others have times of their own."""
    hosts, workers = (2, 1) if is_short else (3, 4)
    few = 1 if is_short else 2  # processes on each host
    return [
        Part(
            "campaign", "hosts are cut off, killed and stopped",
            lambda: campaign.run(seed, seconds=seconds, hosts=hosts, workers=workers, least_hits=0.3),
        ),
        Part(
            "many", "many hosts, hardly used",
            lambda: many.run(seconds=min(seconds, 600.0), hosts=4 if is_short else 20), why_not,
        ),
        Part(
            "mixed", "two versions in one group, replaced both ways",
            lambda: mixed.run(seed, mixed.newest(), seconds=min(seconds, 120.0), hosts=hosts, workers=few),
            lambda: mixed.why_not_old(mixed.newest()), must_run=False,
        ),
        Part(
            "secrets", "the secret is changed, one is wrong, strangers knock",
            lambda: secrets.run(seed, seconds=min(seconds, 150.0), hosts=3, workers=few), why_not,
        ),
    ]  # fmt: skip


def judge(part: Part) -> Verdict:
    """Run a part. What it raises is its failure; only the interruption of this program is not."""
    began = monotonic()
    try:
        if reason := part.why_not():
            return Verdict(part, f"not run: {reason}", 0.0, "", is_failure=part.must_run)
        result = part.run()
    except Exception as error:
        first = str(error).partition("\n")[0]
        return Verdict(part, f"failed: {first[:200]}", monotonic() - began, f"{error}", is_failure=True)
    wrong = "; ".join(result.complaints())
    return Verdict(part, f"failed: {wrong}" if wrong else "passed", monotonic() - began, result.table(), bool(wrong))


def report(verdicts: Sequence[Verdict], command: str) -> str:
    """What is printed, and written."""
    lines = [command, f"Python {platform.python_version()}, {platform.system()} {platform.machine()}", ""]
    lines += [f"{each.part.name:<9} {each.seconds:>6.0f} s  {each.part.says}: {each.verdict}" for each in verdicts]
    for each in verdicts:
        if each.figures:
            lines += ["", f"--- {each.part.name}", each.figures]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run all; its exit status is 1 if any part failed."""
    parser = argparse.ArgumentParser(prog="proof.py", description="Prove what holds with several hosts.")
    parser.add_argument("--seconds", type=float, default=1200.0, help="of the campaign; the others take less")
    parser.add_argument("--short", action="store_true", help="some seconds each, on fewer hosts")
    parser.add_argument("--only", nargs="+", metavar="PART", help="campaign, many, mixed, secrets; all by default")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--write", action="store_true", help=f"to {FILE.relative_to(ROOT)}, too")
    options = parser.parse_args(arguments)
    seconds = min(options.seconds, 6.0) if options.short else options.seconds
    chosen = parts(options.seed, seconds=seconds, is_short=options.short)
    if unknown := set(options.only or ()) - {part.name for part in chosen}:
        parser.error(f"--only has no part {', '.join(sorted(unknown))}")
    print(f"seed {options.seed}", flush=True)
    verdicts = []
    for part in chosen:
        if not options.only or part.name in options.only:
            verdicts.append(judge(part))
            print(f"{part.name}: {verdicts[-1].verdict}", flush=True)
    said = [each for each in arguments if each != "--write"]
    command = "$ make hosts" + (f' ARGS="{" ".join(said)}"' if said else "")
    text = report(verdicts, command)
    print(f"\n{text}", end="", flush=True)
    if options.write:
        FILE.write_text(text)
    return any(each.is_failure for each in verdicts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
