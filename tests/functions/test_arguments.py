"""Which arguments make the key of a call: all, except those that are ignored or that a framework injects."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from colocache import MISSING, Cache

if TYPE_CHECKING:
    from tests.conftest import Until


class Session:
    """Stands for a session of a database: it is opened for a call, and closed after it."""

    def close(self) -> None: ...


# --- One rule, cold and warm


class Number(enum.IntEnum):
    ONE = 1


class Letter(enum.StrEnum):
    A = "a"


@dataclass
class Filter:
    word: str


PAIRS: list[tuple[Any, Any, bool]] = [
    (1, 1.0, True), (1, True, True), (1, Number.ONE, True), (1, Decimal(1), True), ("a", Letter.A, True),
    ((1, 2), (True, 2.0), True), ([1], [1.0], True), ({1: 2}, {1.0: 2}, True), (Filter("a"), Filter("a"), True),
    (1, "1", False), ([1], (1,), False), ({1}, frozenset({1}), False), (Filter("a"), Filter("b"), False),
    (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), False),
    (float("nan"), float("nan"), True), (int, "builtins:int", False),
]  # fmt: skip


@pytest.mark.parametrize("one_part", [True, False], ids=["one argument", "two arguments"])
@pytest.mark.parametrize(("plain", "odd", "is_one"), PAIRS, ids=str)
def test_equal_arguments_are_one_key_for_every_use_whatever_the_cache_holds(
    cache: Cache, plain: Any, odd: Any, is_one: bool, one_part: bool
) -> None:
    calls: list[str] = []

    def load() -> int:
        calls.append("load")
        return len(calls)

    @cache.cached(name="one")
    def one(x: Any) -> int:
        return load()

    @cache.cached(name="two")
    def two(x: Any, y: int = 0) -> int:
        return load()

    function: Any = one if one_part else two
    assert function(odd) == 1, "cold"
    assert function(plain) == (1 if is_one else 2), "warm"
    assert function(odd) == 1
    calls.clear()
    assert function.invalidate(plain).complete
    assert (function(odd) == 1 and calls == ["load"]) is is_one, "invalidated by the other"


@pytest.mark.parametrize(("plain", "odd", "is_one"), PAIRS, ids=str)
def test_keys_that_the_user_makes_follow_the_same_rule(cache: Cache, plain: Any, odd: Any, is_one: bool) -> None:
    assert cache.set(("key", odd), "odd")
    assert cache.get(("key", odd)) == cache.get(("key", odd)) == "odd"
    assert (cache.get(("key", plain)) == "odd") is is_one
    assert cache.get_or_load(("key", odd), lambda: "loaded") == "odd"
    assert cache.set(("key", plain), "plain")
    assert (cache.get(("key", odd)) == "plain") is is_one
    assert cache.invalidate(("key", plain)).complete
    assert (cache.get(("key", odd)) is None) is is_one
    assert cache.add(("key", odd), "again") is is_one


def test_values_without_a_hash_are_hits_too(cache: Cache, until: Until) -> None:
    calls = []

    @cache.cached()
    def search(words: list[str], *, where: dict[str, int]) -> int:
        calls.append(words)
        return len(calls)

    assert [search(["a"], where={"x": 1, "y": 2}), search([], where={})] == [1, 2]
    until(lambda: search.cache_info().currsize == 2)
    assert [search(["a"], where={"y": 2, "x": 1}), search([], where={})] == [1, 2]
    assert search.cache_info() == (2, 2, None, 2)


def test_keys_that_the_user_makes_need_no_hash(cache: Cache, until: Until) -> None:
    assert cache.get_or_load(("key", [1, {2: 3}]), lambda: "loaded") == "loaded"
    until(lambda: cache._keyspace.hit(("key", [1, {2: 3}])) == "loaded", failing="it never was served at once")
    assert cache._keyspace.hit(("key", [True, {2.0: 3}])) == "loaded"
    assert cache._keyspace.hit(("key", (1, {2: 3}))) is MISSING


# --- Arguments that are ignored


class Unusable:
    pass


@pytest.mark.parametrize("waits", [False, True], ids=["sync", "async"])
def test_ignored_arguments_reach_the_function_and_not_the_key(cache: Cache, waits: bool) -> None:
    calls: list[Any] = []

    def compute(db: Any, number: int, log: Any) -> int:
        calls.append((db, number, log))
        return number * 2

    if waits:

        @cache.cached(ignore=("db", "log"), name="double")
        async def double(db: Any, number: int, *, log: Any = None) -> int:
            return compute(db, number, log)
    else:

        @cache.cached(ignore=("db", "log"), name="double")
        def double(db: Any, number: int, *, log: Any = None) -> int:
            return compute(db, number, log)

    run: Callable[[Any], Any] = asyncio.run if waits else lambda value: value
    db, log = Unusable(), Unusable()
    function: Any = double
    for call in (lambda: function(db, 2, log=log), lambda: function(None, 2), lambda: function(number=2, db=log)):
        assert run(call()) == 4
    assert calls == [(db, 2, log)]
    assert function.cache_key(Unusable(), 2) == (2,)
    assert run(function.invalidate(None, 2)).complete
    assert run(function.refresh(db, 2)) == 4
    assert len(calls) == 2
    assert function.cache_info().hits >= 1


def test_any_kind_of_parameter_can_be_ignored(cache: Cache) -> None:
    def many(a: int, *rest: Any, b: int = 0, **more: Any) -> None: ...

    key = {
        ignore: cache.namespace(ignore).cached(ignore=ignore.split("-"))(many).cache_key(1, 2, b=3, c=4)
        for ignore in ("a", "rest", "b", "more", "c", "rest-more", "a-b", "rest-more-b")
    }
    assert key == {
        "a": (2, (("b", 3), ("c", 4))), "rest": (1, (("b", 3), ("c", 4))), "b": (1, 2, (("c", 4),)),
        "more": (1, 2, (("b", 3),)), "c": (1, 2, (("b", 3),)), "rest-more": (1, (("b", 3),)),
        "a-b": (2, (("c", 4),)), "rest-more-b": (1,),
    }  # fmt: skip


def test_the_object_of_a_method_can_be_ignored(cache: Cache) -> None:
    class Service:
        @cache.cached(ignore=("self",))
        def double(self, number: int) -> int:
            return number * 2

    assert Service().double(2) == Service().double(2) == 4
    assert cache.stats().loads == 1
    assert Service().double.invalidate(2).complete
    assert Service().double(2) == 4
    assert cache.stats().loads == 2


@pytest.mark.parametrize("ignore", [("dB",), ("db", 5), ("self",)])
def test_a_name_that_is_not_a_parameter_is_refused(cache: Cache, ignore: Any) -> None:
    def load(db: Any, number: int) -> None: ...

    with pytest.raises(TypeError, match=r"ignore names .*, which is not a parameter of .*load\(db: "):
        cache.cached(ignore=ignore)(load)


def test_ignore_cannot_be_a_text_or_stand_beside_key(cache: Cache) -> None:
    def load(db: Any) -> None: ...

    with pytest.raises(TypeError, match=r"write ignore=\('db',\)"):
        cache.cached(ignore="db")(load)
    with pytest.raises(TypeError, match="ignore and key cannot both be given"):
        cache.cached(ignore=("db",), key=lambda db: "a")


def test_a_session_cannot_be_part_of_a_key_and_is_not_ignored_by_default(cache: Cache) -> None:
    @cache.cached()
    def load(db: Session, number: int) -> int:
        return number

    with pytest.raises(TypeError, match=r"an argument 'db' of the type Session, .* give cached\(ignore=\('db',\)\)"):
        load(Session(), 1)
