"""The figures of the demo, as a dict and as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from check import Checker
from load import Tally

# The sources of a page, by their counters.
ORIGINS = {
    "hits": "pages from the worker's own memory",
    "fetches": "pages from the memory that the workers share",
    "loads": "pages loaded from the database",
}

# Further figures of the workers in the JSON file.
COUNTERS = (
    "database_reads", *ORIGINS, "waits", "fallbacks", "failed_loads", "invalidations", "incomplete",
)  # fmt: skip

SEVERAL_LOADS = "loads per missing page above 1: a worker was killed while it loaded, or a write came between"


@dataclass(frozen=True)
class Phase:
    """The observations in one phase. ``counted`` has the figures of the workers for the time of the traffic."""

    name: str
    seconds: float
    tallies: list[Tally]
    checker: Checker
    counted: dict[str, int]
    loads_at_once: list[int]
    pids: list[int]

    def gathered(self, name: str) -> list[Any]:
        """Return one list of the tallies of all visitors."""
        return [value for tally in self.tallies for value in getattr(tally, name)]

    def total(self, name: str) -> int:
        """Return the sum of a number in the tallies of all visitors."""
        return sum(getattr(tally, name) for tally in self.tallies)

    def is_good(self) -> bool:
        """Tell whether there were answers, all requests were answered, and no answer was stale."""
        checker = self.checker
        return bool(checker.judged) and not (checker.stale or checker.impossible or self.gathered("unanswered"))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of the values by nearest rank, and 0 if there are no values."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)] if ranked else 0.0


def summary(phase: Phase) -> dict[str, Any]:
    """Return the figures of a phase by name, for the JSON file."""
    seconds, receipts = phase.gathered("seconds"), phase.gathered("receipts")
    answered, reads = len(seconds), phase.counted.get("database_reads", 0)
    found = sum(phase.counted.get(name, 0) for name in ORIGINS)
    return {
        "seconds": round(phase.seconds, 2),
        "answered": answered,
        "requests_per_second": round(answered / phase.seconds, 1),
        "answer_ms": {p: round(1000 * percentile(seconds, float(p)), 2) for p in ("50", "99")},
        "shares": {name: round(phase.counted.get(name, 0) / found, 4) if found else 0.0 for name in ORIGINS},
        "database_reads_per_1000_requests": round(1000 * reads / answered, 1) if answered else 0.0,
        "loads_per_missing_key": round(sum(phase.loads_at_once) / max(1, len(phase.loads_at_once)), 2),
        "writes": phase.total("writes"),
        "invalidations_acknowledged": len(receipts),
        "invalidation_ms": {p: round(percentile(receipts, float(p)), 2) for p in ("50", "99", "100")},
        "writes_incomplete": phase.total("incomplete"),
        "resent": phase.total("resent"),
        "unanswered": len(phase.gathered("unanswered")),
        "stale": len(phase.checker.stale),
        "impossible": len(phase.checker.impossible),
        "judged": phase.checker.judged,
        "workers_seen": len(phase.pids),
        "counted": {name: phase.counted.get(name, 0) for name in COUNTERS},
    }


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the lines of a table. The first column is aligned to the left, the others to the right."""
    every = [headings, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(headings))]
    first, *others = ("  ".join(_laid_out(row, widths)).rstrip() for row in every)
    return "\n".join([first, "-" * (sum(widths) + 2 * len(widths) - 2), *others])


def _laid_out(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    left, *right = row
    return [left.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(right, widths[1:], strict=True))]


def lines(with_cache: Phase, without: Phase) -> list[str]:
    """Return the lines of the report: a table, then remarks and what went wrong, then the verdict."""
    figures = [summary(with_cache), summary(without)]
    rows = [[label, *(cell(figure) for figure in figures)] for label, cell in ROWS]
    text = [table(["", with_cache.name, without.name], rows), ""]
    if figures[0]["loads_per_missing_key"] > 1:
        text.append(SEVERAL_LOADS)
    for phase in (with_cache, without):
        text += _complaints(phase)
    judged, stale = (sum(figure[name] for figure in figures) for name in ("judged", "stale"))
    return [*text, f"stale reads: {stale} of {judged:,}"]


def _complaints(phase: Phase) -> list[str]:
    stale = [f"{phase.name}: STALE: {one.page} at version {one.shown}, {one.acknowledged} was acknowledged"
             for one in phase.checker.stale]  # fmt: skip
    others = [f"{phase.name}: UNANSWERED: {one}" for one in phase.gathered("unanswered")]
    others += [f"{phase.name}: THE CHECK IS WRONG: {one}" for one in phase.checker.impossible]
    if incomplete := phase.total("incomplete"):
        others.append(f"{phase.name}: {incomplete} writes whose invalidation was not complete: not checked")
    return [*stale[:10], *others[:10]]


def _if_invalidated(cell: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
    return lambda figures: cell(figures) if figures["counted"]["invalidations"] else "-"


def _percent(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda figures: f"{100 * figures['shares'][name]:.1f} %"


ROWS: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("requests answered", lambda f: f"{f['answered']:,}"),
    ("requests per second", lambda f: f"{f['requests_per_second']:,.0f}"),
    ("time for an answer, median / p99", lambda f: f"{f['answer_ms']['50']:.1f} / {f['answer_ms']['99']:.1f} ms"),
    *((label, _percent(name)) for name, label in ORIGINS.items()),
    ("database reads per 1,000 requests", lambda f: f"{f['database_reads_per_1000_requests']:,.0f}"),
    ("loads per missing page, all asking at once", lambda f: f"{f['loads_per_missing_key']:.2f}"),
    ("writes", lambda f: f"{f['writes']:,}"),
    ("invalidations acknowledged", _if_invalidated(lambda f: f"{f['invalidations_acknowledged']:,}")),
    ("their time, median / p99",
     _if_invalidated(lambda f: f"{f['invalidation_ms']['50']:.1f} / {f['invalidation_ms']['99']:.1f} ms")),
    ("requests cut off by the kill, sent again", lambda f: f"{f['resent']:,}"),
]  # fmt: skip
