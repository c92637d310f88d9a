"""Statistics: the table of figures is complete, and the package counts every one of them."""

from __future__ import annotations

import ast
from dataclasses import FrozenInstanceError, asdict, fields
from functools import cache
from pathlib import Path

import pytest

import colocache
from colocache import Cache
from colocache.figures import Figure
from colocache.stats import COUNTED, FIGURES, Counters, Stats

PACKAGE = Path(colocache.__file__).parent
OLD = PACKAGE / "core" / "group"  # has counters of its own
NAMES = [field.name for field in fields(Stats)]


@cache
def changed() -> set[str]:
    """The names of what the package adds to: ``x.name += 1``."""
    nodes = [node for path in PACKAGE.rglob("*.py") if OLD not in path.parents for node in ast.walk(parsed(path))]
    return {
        each.target.attr for each in nodes if isinstance(each, ast.AugAssign) and isinstance(each.target, ast.Attribute)
    }


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


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
    stats = Stats.of(counters, {"hits": 10, "processes": 4})
    counters.loads += 1
    assert stats == Stats(loads=3, hits=10, processes=4)


def test_a_cache_shows_what_its_host_counts_too(cache: Cache) -> None:
    """Each figure is counted by the operations, or given by the host."""
    assert cache.stats() == Stats()
    cache.start()
    host = cache._member.own_host()
    assert host is not None
    assert set(host.figures()) | set(COUNTED) == set(NAMES)
    assert not set(host.figures()) & set(COUNTED)


@pytest.mark.parametrize("unknown", ["load", "Loads", "values", "hits", "entries"])
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
def test_every_figure_has_a_sentence_of_help(figure: Figure) -> None:
    assert figure.section
    assert figure.help[0].isupper() or figure.help.startswith(("`", "0"))
    assert figure.help.endswith(".")
    assert figure.unit in ("", "bytes", "seconds")


def test_the_table_lists_the_fields_in_their_order() -> None:
    assert [figure.name for figure in FIGURES] == NAMES
