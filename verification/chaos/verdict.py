"""What a run of `chaos.py` saw, as tables for people; and the story of a read that it should not have seen."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

BEFORE = 15.0  # s of the past that a story tells


class Floors(NamedTuple):
    """What a run must come to: a cache that never hits, or a group that never agrees, would pass every other check."""

    hits: float = 0.5
    exact: float = 0.2  # the share of looks at a counter beside which nothing reset it
    reads: float = 100.0  # per second
    complete: float = 1.0
    counted: float = 10.0
    interrupted: float = 0.5


#: Of a run of a few seconds on a machine that has something else to do.
LENIENT = Floors(0.2, 0.0, 10.0, 0.1, 0.1, 0.0)


@dataclass(frozen=True)
class Result:
    """One run."""

    seed: int
    workers: int
    shelf: str
    seconds: float
    faults: dict[str, int]
    steps: dict[str, int]  # where processes have stopped or killed themselves
    lives: dict[str, int]
    counts: dict[str, int]
    violations: list[dict[str, Any]]
    story: str  # of the first violation
    evidence: Path | None  # where all is kept that the processes wrote
    floors: Floors

    @property
    def hit_rate(self) -> float:
        """The share of reads that did not load."""
        return 1 - self.counts["loads"] / max(1, self.counts["reads"])

    @property
    def exact(self) -> float:
        """The share of looks at a counter that could tell a lost count."""
        return self.counts["counts_exact"] / max(1, self.counts["counts_read"])

    def complaints(self) -> list[str]:
        """Why this run is a failure; nothing if it is none."""
        counts, floors = self.counts, self.floors
        found = [f"{len(self.violations)} violations"] if self.violations else []
        if self.hit_rate < floors.hits:
            found.append(f"only {self.hit_rate:.1%} of the reads were hits")
        if self.exact < floors.exact:
            found.append(f"only {self.exact:.1%} of the looks at counters could tell a lost count")
        done = {
            "reads": floors.reads, "complete": floors.complete, "counted": floors.counted,
            "interrupted": floors.interrupted,
        }  # fmt: skip
        for what, least in done.items():
            if counts[what] < least * self.seconds:
                found.append(f"hardly anything was done: {what} {counts[what]:,}")
        return found

    def table(self) -> str:
        """The figures, the verdict, and the story if there is one."""
        counts, floors = self.counts, self.floors
        writes = {name: counts[f"by_{name}"] for name in ("key", "tag", "namespace", "set")}
        incomplete = [each for each in self.violations if each["what"] == "incomplete"]
        rows = {
            "seed, shelf": f"{self.seed}, {self.shelf}",
            "seconds, workers": f"{self.seconds:.0f}, {self.workers}",
            "processes": _listed(self.lives),
            "faults": _listed(self.faults),
            "at chosen steps": _listed(self.steps),
            "reads judged": f"{counts['reads']:,}, of them {counts['async_reads']:,} in tasks and {counts['fenced']:,} "
            f"by get and set (floor {floors.reads:.0f} a second)",
            "reads given up": f"{counts['impatient']:,}",
            "hits": f"{self.hit_rate:.2%}, {counts['loads']:,} loads (floor {floors.hits:.0%})",
            "writes": _listed(writes),
            "receipts": f"{counts['complete']:,} complete, {counts['prompt']:,} in 0.1 s; {len(incomplete)} not, and "
            f"{counts['excused']:,} after a deletion, which may be",
            "values not kept": f"{counts['busy']:,}, too large or beside a stopped process",
            "counts": f"{counts['counted']:,}, and {counts['not_counted']:,} refused",
            "looks at counters": f"{counts['counts_read']:,}, {self.exact:.1%} exact (floor {floors.exact:.0%})",
            "interrupted calls": f"{counts['interrupted']:,} by what a signal handler raised; in {counts['handled']:,} "
            "one has used the cache",
            "violations": _listed(Counter(each["what"] for each in self.violations)),
            "verdict": "; ".join(self.complaints()) or "passed",
        }
        lines = [f"{name:<19} {value}" for name, value in rows.items()]
        if self.violations:
            lines += ["", *map(json.dumps, self.violations[:10]), "", self.story, f"all of it is in {self.evidence}"]
        return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return f"{sum(counts.values()):,}: " + ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def story(history: list[dict[str, Any]], violation: dict[str, Any], log: str) -> str:
    """What happened before a violation: the faults, the writes of the key, and what the process in question logged."""
    began, ended = violation.get("began", violation["at"]), violation["at"]
    part, pid = violation.get("part", ""), str(violation["pid"])
    writes = [line for line in history if part in line.get("versions", {}) and line["at"] <= ended]
    faults = [line for line in history if line["what"] in ("fault", "begins") and line["at"] <= ended]
    recent = [line for line in faults + writes if line["at"] >= began - BEFORE * 1e9]
    lines = [
        f"what came before, in seconds from the beginning of the read by process {pid}:",
        *[_told(line, part, began) for line in sorted(recent, key=lambda line: line["at"])],
        f"the newest writes of {part}:",
        *[_told(line, part, began) for line in writes[-12:]],
        "the last that this process logged:",
        *[line for line in log.splitlines() if f" {pid} " in line][-20:],
    ]
    return "\n".join(lines)


def _told(line: dict[str, Any], part: str, began: int) -> str:
    """One line of the history; of its many versions only the one in question."""
    details = {name: value for name, value in line.items() if name not in ("at", "what", "versions")}
    if "versions" in line:
        details[part] = line["versions"][part]
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in details.items()}
    told = ", ".join(f"{name} {value}" for name, value in rounded.items())
    return f"{(line['at'] - began) / 1e9:+10.4f} {line['what']}: {told}"
