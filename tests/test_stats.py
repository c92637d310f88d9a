"""Statistics: the table of figures is complete, and the package counts every one of them."""

from __future__ import annotations

import ast
from dataclasses import FrozenInstanceError, asdict, fields
from functools import cache
from pathlib import Path

import pytest

import colocache
from colocache.stats import COUNTED, FIGURES, Counters, Stats, with_counters

PACKAGE = Path(colocache.__file__).parent
NAMES = [field.name for field in fields(Stats)]


@cache
def changed() -> set[str]:
    """The names of the attributes that the package adds to: ``x.name += 1``."""
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]
    sums = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.AugAssign)]
    return {node.target.attr for node in sums if isinstance(node.target, ast.Attribute)}


def test_a_member_that_has_done_nothing_has_counted_nothing() -> None:
    assert all(value == 0 for value in asdict(Stats()).values())
    assert all(getattr(Counters(), name) == 0 for name in COUNTED)


def test_stats_cannot_be_changed() -> None:
    stats = Stats(loads=3)
    with pytest.raises(FrozenInstanceError):
        stats.loads = 4  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Stats(3)  # type: ignore[misc]


def test_stats_do_not_follow_the_counters_that_they_were_made_of() -> None:
    counters = Counters()
    counters.loads += 1
    counters.loads += 2
    counters.seconds_behind += 0.5
    stats = with_counters(Stats(loads=10, members=4), counters)
    counters.loads += 1
    assert stats == Stats(loads=13, seconds_behind=0.5, members=4)


@pytest.mark.parametrize("unknown", ["load", "Loads", "values", "shard_hits"])
def test_a_wrong_name_cannot_be_counted(unknown: str) -> None:
    with pytest.raises(AttributeError, match=unknown):
        setattr(Counters(), unknown, 1)


@pytest.mark.parametrize("name", COUNTED)
def test_the_package_counts_every_counter(name: str) -> None:
    assert name in changed()


@pytest.mark.parametrize("name", COUNTED)
def test_a_counter_has_the_type_of_its_figure(name: str) -> None:
    assert type(getattr(Counters(), name)) is type(getattr(Stats(), name))


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_has_a_sentence_of_help(figure: colocache.stats.Figure) -> None:
    assert figure.section
    assert figure.help[0].isupper() or figure.help.startswith(("`", "0"))
    assert figure.help.endswith(".")
    assert figure.unit in ("", "bytes", "seconds")


def test_the_table_lists_the_fields_in_their_order() -> None:
    assert [figure.name for figure in FIGURES] == NAMES
