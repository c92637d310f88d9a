"""Statistics: every figure is counted somewhere, and what is counted somewhere is a figure."""

from __future__ import annotations

import ast
from dataclasses import FrozenInstanceError, asdict, fields
from functools import cache
from pathlib import Path

import pytest

import colocache
from colocache import stats as stats_module
from colocache.stats import Counters, Stats

PACKAGE = Path(colocache.__file__).parent
NAMES = [field.name for field in fields(Stats)]


@cache
def nodes() -> list[ast.AST]:
    """All of the package's code, but the module that defines the figures."""
    sources = [path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "stats.py"]
    return [node for source in sources for node in ast.walk(ast.parse(source))]


@cache
def counted() -> set[str]:
    """The names that the package counts by: the first argument of `count` and `_count`."""
    calls = [node for node in nodes() if isinstance(node, ast.Call) and node.args]
    names = [call.args[0].value for call in calls
             if isinstance(call.func, ast.Attribute) and call.func.attr in ("count", "_count")
             and isinstance(call.args[0], ast.Constant)]  # fmt: skip
    return {name for name in names if isinstance(name, str) and name.isidentifier()}


@cache
def gauged() -> set[str]:
    """The names by which the package sets figures directly: of an argument of `update`, or in brackets."""
    updates = [node for node in nodes() if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "update"]
    slices = [node.slice for node in nodes() if isinstance(node, ast.Subscript)]
    return {keyword.arg for update in updates for keyword in update.keywords if keyword.arg} | {
        part.value for part in slices if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def test_a_member_that_has_done_nothing_has_counted_nothing() -> None:
    assert all(value == 0 for value in asdict(Stats()).values())
    assert Counters().values == asdict(Stats())


def test_stats_are_a_copy_that_nobody_changes() -> None:
    stats = Stats(loads=3)
    with pytest.raises(FrozenInstanceError):
        stats.loads = 4  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Stats(3)  # type: ignore[misc]


def test_counters_count_one_by_one_or_more_at_once() -> None:
    counters = Counters()
    counters.count("loads")
    counters.count("loads", 2)
    counters.count("seconds_behind", 0.5)
    copy = Stats(**counters.values)  # type: ignore[arg-type]
    counters.count("loads")
    assert (copy.loads, copy.seconds_behind, copy.sets) == (3, 0.5, 0)


@pytest.mark.parametrize("unknown", ["load", "", "Loads", "values"])
def test_what_no_figure_is_called_cannot_be_counted(unknown: str) -> None:
    counters = Counters()
    with pytest.raises(KeyError, match=repr(unknown)):
        counters.count(unknown)
    assert set(counters.values) == set(NAMES)


@pytest.mark.parametrize("name", sorted(counted()))
def test_what_the_package_counts_is_a_figure(name: str) -> None:
    # A misspelt one would raise in the member's thread, at the one moment when there is something to count.
    assert name in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_counted_somewhere(name: str) -> None:
    assert name in counted() | gauged()


@pytest.mark.parametrize("name", NAMES)
def test_every_counter_is_defined_beside_itself(name: str) -> None:
    lines = [line for line in Path(stats_module.__file__).read_text().splitlines() if line.startswith(f"    {name}: ")]
    assert len(lines) == 1
    plain = ("entries", "shard_entries", "near_entries", "bytes", "shard_bytes", "near_bytes")
    assert "  # " in lines[0] or name in plain
