"""Statistics: the table of figures is complete, and the package counts every one of them."""

from __future__ import annotations

import ast
import asyncio
import itertools
from dataclasses import FrozenInstanceError, asdict, fields
from functools import cache
from pathlib import Path
from time import monotonic

import pytest

import colocache
from colocache import Cache
from colocache.core.host.scores import COLUMNS, OTHERS, ROWS
from colocache.figures import Figure
from colocache.operations import load
from colocache.stats import (
    COUNTED,
    FIGURES,
    IN_COLUMNS,
    LOAD_TIMES,
    OF_HOSTS,
    TIMES_AT,
    Counters,
    Ledger,
    Stats,
)
from tests.conftest import NewCache

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
    stats = Stats.of([counters], {"copied": 10, "processes": 4})
    counters.loads += 1
    assert stats == Stats(loads=3, copied=10, processes=4)


def test_stats_are_the_sums_of_all_namespaces() -> None:
    one, other = Counters(), Counters()
    one.hits, other.hits, other.misses, other.load_seconds = 3, 4, 1, 0.5
    assert Stats.of([one, other], {}) == Stats(hits=7, misses=1, load_seconds=0.5)


def test_a_cache_shows_what_its_host_counts_too(cache: Cache) -> None:
    """Each figure is counted by the operations, or given by the host."""
    assert cache.stats() == Stats()
    cache.start()
    host = cache._member.own_host()
    assert host is not None
    assert set(host.figures()) | set(COUNTED) == set(NAMES)
    assert not set(host.figures()) & set(COUNTED)


def test_a_cache_counts_by_namespace_and_its_figures_are_the_sums(cache: Cache) -> None:
    users, posts = cache.namespace("users"), cache.namespace("posts")
    for space, keys in ((users, "abc"), (posts, "a")):
        for key in keys:
            for _ in range(3):
                space.get_or_load(key, lambda: "value")
    users.invalidate("a")
    posts.get("b")
    stats, counted = cache.stats(), cache._member.life.ledger.all()
    assert {path: (each.loads, each.hits, each.misses) for path, each in counted.items() if path} == {
        "users": (3, 6, 0),
        "posts": (1, 2, 1),
    }
    assert (counted["users"].invalidations, counted["posts"].invalidations) == (1, 0)
    assert (stats.loads, stats.hits, stats.misses, stats.invalidations) == (4, 8, 1, 1)


def test_a_namespace_counts_what_leaves_for_want_of_room(new_cache: NewCache) -> None:
    cache = new_cache(memory="1MiB")
    small, large = cache.namespace("small"), cache.namespace("large")
    small.get_or_load("k", lambda: "value")
    for number in range(30):
        large.get_or_load(str(number), lambda: "value" * 20_000)
    stats, counted = cache.stats(), cache._member.life.ledger.all()
    assert counted["large"].evictions >= 20
    assert counted["large"].evictions + counted["small"].evictions == stats.evictions == 31 - stats.entries


def test_what_was_counted_stays_when_a_cache_leaves_and_comes_again(cache: Cache) -> None:
    for _ in range(3):
        cache.get_or_load("k", lambda: "value")
    before = cache.stats()
    assert (before.loads, before.hits) == (1, 2)
    cache._member.leave()
    assert (cache.stats().loads, cache.stats().hits) == (1, 2)
    for _ in range(3):
        cache.get_or_load("k", lambda: "value")
    assert (cache.stats().loads, cache.stats().hits) == (2, 4)


# --- How long loaders take


@pytest.mark.parametrize(
    ("seconds", "place"),
    [(0.0, 0), (0.001, 0), (0.00101, 1), (0.1, 6), (0.2, 7), (10.0, 12), (10.1, 13), (3600.0, 13)],
)
def test_a_load_counts_in_the_class_of_its_time(seconds: float, place: int) -> None:
    counters = Counters()
    counters.time_load(seconds)
    assert counters.load_times == [int(each == place) for each in range(len(LOAD_TIMES) + 1)]
    assert counters.load_seconds == seconds


def the_times(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Have a clock say that loads take so long, one after the other."""
    instants = [instant for each in seconds for instant in (100.0, 100.0 + each)]
    monkeypatch.setattr(load, "monotonic", lambda: instants.pop(0))


def test_loads_are_timed_also_those_that_fail(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    the_times(monkeypatch, 0.5, 0.02, 20.0)
    space = cache.namespace("users")
    space.get_or_load("a", lambda: "value")
    with pytest.raises(ZeroDivisionError):
        space.get_or_load("b", lambda: 1 / 0)
    space.get_or_load("c", lambda: "value", ttl=0)
    counters = cache._member.life.ledger.of("users")
    assert counters.load_seconds == pytest.approx(20.52)
    assert sum(counters.load_times) == counters.loads == 3
    assert [counters.load_times[place] for place in (4, 8, 13)] == [1, 1, 1]
    assert cache.stats().load_seconds == pytest.approx(20.52)


def test_loads_of_coroutines_are_timed_once(new_cache: NewCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = new_cache(private=True)
    the_times(monkeypatch, 0.5, 0.25)

    async def loader() -> str:
        return "value"

    async def failing() -> str:
        raise LookupError

    async def both() -> None:
        await cache.aget_or_load("a", loader)
        with pytest.raises(LookupError):
            await cache.aget_or_load("b", failing)

    asyncio.run(both())
    counters = cache._member.counters
    assert (counters.load_seconds, sum(counters.load_times)) == (0.75, 2)


def test_a_value_that_cannot_travel_is_timed_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    the_times(monkeypatch, 0.5)
    with pytest.raises(TypeError):
        cache.get_or_load("a", object)
    assert cache._member.counters.load_times[8] == 1
    assert cache.stats().load_seconds == 0.5


# --- The ledger


def test_the_columns_are_the_counters_by_name_and_then_the_times() -> None:
    counters = Counters()
    for number, name in enumerate(COUNTED, 1):
        setattr(counters, name, number)
    counters.load_times[0], counters.load_times[-1] = 7, 8
    columns = counters.columns()
    assert len(columns) == COLUMNS
    assert dict(zip(COUNTED, columns, strict=False)) == {
        name: number * (1_000_000_000 if name == "load_seconds" else 1) for number, name in enumerate(COUNTED, 1)
    }
    assert columns[len(COUNTED) : TIMES_AT] == [0] * (TIMES_AT - len(COUNTED)), "of hosts, and of later versions"
    assert (columns[TIMES_AT], columns[-1]) == (7, 8)
    assert (*COUNTED, *OF_HOSTS) == IN_COLUMNS
    assert len(LOAD_TIMES) + 1 == COLUMNS - TIMES_AT


def test_a_namespace_has_the_same_counters_each_time() -> None:
    ledger = Ledger()
    assert ledger.of("users") is ledger.of("users", is_function=True) is not ledger.of("posts")
    assert set(ledger.all()) == {"", "users", "posts"}
    assert ledger.all()[""] is ledger.of("")


def test_namespaces_without_end_share_counters_and_leave_room_for_functions() -> None:
    ledger = Ledger()
    for number in range(ROWS):
        ledger.of(f"space {number}").loads += 1
    assert len(ledger.all()) == ROWS // 2 + 1
    assert ledger.of(OTHERS).loads == ROWS - (ROWS // 2 - 1), "one of the first half is that of no namespace"
    assert ledger.of("space 0").loads == 1
    for number in range(ROWS):
        ledger.of(f"function {number}", is_function=True).loads += 1
    assert len(ledger.all()) == ROWS - 1, "a row for each, and one that no namespace needs"
    assert ledger.of("function 0", is_function=True).loads == 1
    assert sum(counters.loads for counters in ledger.all().values()) == 2 * ROWS


def test_functions_without_end_share_counters_too() -> None:
    ledger = Ledger()
    for number in range(ROWS):
        ledger.of(f"function {number}", is_function=True).loads += 1
    assert len(ledger.all()) == ROWS
    assert ledger.of(OTHERS).loads == 2
    assert ledger.of("space") is ledger.of(OTHERS)


def test_what_is_untold_is_told_once() -> None:
    ledger = Ledger()
    assert tell(ledger) == {}
    users = ledger.of("users")
    assert tell(ledger) == {}, "nothing was counted there"
    users.loads, users.load_seconds = 2, 0.25
    users.load_times[3] += 1
    assert [columns[TIMES_AT + 3] for _, columns, _ in ledger.untold()] == [1]
    assert [path for path, _, _ in ledger.untold()] == ["users"], "it is untold until it is told"
    assert tell(ledger) == {"users": {"loads": 2, "load_seconds": 250_000_000}}
    assert tell(ledger) == {}
    users.loads += 1
    ledger.of("").hits += 5
    assert tell(ledger) == {"users": {"loads": 1}, "": {"hits": 5}}


def test_tiny_loads_add_up() -> None:
    """Rounded are the sums, and not what comes to them."""
    ledger, total = Ledger(), 0
    for _ in range(1000):
        ledger.of("").load_seconds += 4e-10
        total += tell(ledger).get("", {}).get("load_seconds", 0)
    assert total == 400


def tell(ledger: Ledger) -> dict[str, dict[str, int]]:
    """Tell what is untold, as `Writer.add` does, and return what of it is not 0, by namespace and name."""
    found = {}
    for path, columns, told in ledger.untold():
        found[path] = {
            name: count - before
            for name, count, before in zip(IN_COLUMNS, columns, told, strict=False)
            if count != before
        }
        told[:] = columns
    return found


@pytest.mark.parametrize("unknown", ["load", "Loads", "values", "hedged", "entries"])
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


def test_a_process_that_is_held_up_while_it_shows_its_figures_does_so_again_soon(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.start()
    host = cache._member.own_host()
    assert host is not None
    monkeypatch.setattr("colocache.host.monotonic", itertools.count(monotonic(), 100.0).__next__)
    earliest, latest = host._shared.publish()
    monkeypatch.undo()
    assert earliest <= latest < 100.0
