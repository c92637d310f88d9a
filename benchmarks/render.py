"""Write the text and the plots of results, from their JSON.

    python -m benchmarks.render                what results/*.json say, into .txt and .png beside them
    python -m benchmarks.render hit fetch

The JSON is what a benchmark found, and the only place where figures are kept: `measure.Report` writes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import draw
from benchmarks.draw import shown

RESULTS = Path(__file__).resolve().parent / "results"

Facts = Mapping[str, Any]  # what the JSON of a benchmark holds


def text(facts: Facts) -> str:
    """Return all that a benchmark found: its question, its tables, and what follows from them."""
    tables = ("\n".join(table(each)) for each in facts["tables"])
    return "\n\n".join(("\n".join(head(facts)), *tables, "\n".join(conclusion(facts)))).rstrip() + "\n"


def head(facts: Facts) -> Iterator[str]:
    """Return the question, and what a reader must know to judge the figures."""
    about = facts["machine"]
    yield facts["question"]
    yield f"{about['date']}, {about['python']}, {about['system']}"
    yield f"{about['cpu']}, {about['cores']} cores, load {' '.join(map(str, about['load'])) or 'not known'}"
    yield ", ".join(f"{name} {version}" for name, version in about["versions"].items())


def table(facts: Facts) -> Iterator[str]:
    """Return the lines of a table: the first column to the left, the others to the right."""
    cells = [facts["columns"], *([_cell(cell) for cell in row] for row in facts["rows"])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    yield f"# {facts['title']}"
    for row in cells:
        first, rest = row[0].ljust(widths[0]), zip(islice(row, 1, None), widths[1:], strict=True)
        yield "  ".join((first, *(cell.rjust(width) for cell, width in rest))).rstrip()


def conclusion(facts: Facts) -> Iterator[str]:
    """Return what is to be said beside the tables: notes, whether the targets are met, and who did not take part."""
    yield from facts["notes"]
    yield from map(target, facts["targets"])
    yield from (missing(name, reason) for name, reason in facts["missing"].items())


def target(facts: Facts) -> str:
    """Tell whether a figure is as small as it is meant to be."""
    verdict = "met    " if facts["met"] else "NOT met"
    return f"{verdict}  {facts['name']}: {spread(**facts['value'])}, at most {shown(facts['at_most'])}"


def missing(name: str, reason: str) -> str:
    """Tell why a contender does not take part."""
    return f"missing: {name}: {reason}"


def spread(median: float, low: float, high: float) -> str:
    """Return a figure with its spread."""
    return f"{shown(median)} ({shown(low)} to {shown(high)})"


def plots(facts: Facts) -> Iterator[Path]:
    """Draw the plots, and return their paths."""
    for plot in facts["plots"]:
        make = {"bars": draw.bars, "lines": draw.lines}[plot["kind"]]
        yield make(RESULTS / f"{plot['name']}.png", **plot["of"])


def write(facts: Facts) -> None:
    """Write text and plots of a benchmark."""
    (RESULTS / f"{facts['benchmark']}.txt").write_text(text(facts))
    if facts["plots"] and find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed (the extra `bench` has it)")
        return
    for path in plots(facts):
        print(f"drawn: results/{path.name}")


def _cell(value: Any) -> str:
    return shown(value) if isinstance(value, float) else str(value)


def main(names: Sequence[str]) -> None:
    """Render the results of these benchmarks, or of all."""
    for path in [RESULTS / f"{name}.json" for name in names] or sorted(RESULTS.glob("*.json")):
        write(json.loads(path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
