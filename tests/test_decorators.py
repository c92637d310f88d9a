"""`cached`: functions, methods and coroutine functions that keep their results by their arguments."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import inspect
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from unittest import mock
from uuid import UUID

import pydantic
import pytest

from colocache import Cache, CacheInfo, ConfigError, Receipt, RecursiveLoadError
from tests import ROOT
from tests.conftest import waiting

if TYPE_CHECKING:
    from tests.conftest import Crew, NewCache, Until


def answer(result: Any) -> Any:
    """What a decorated function gives, awaited if need be."""
    return asyncio.run(result) if inspect.isawaitable(result) else result


ITEM = TypeVar("ITEM")
Make = Callable[..., tuple[Any, list[Any]]]


@pytest.fixture(params=["sync", "async"])
def profile(request: pytest.FixtureRequest) -> Make:
    """Makes a decorated function with a default and an argument by name only, and the list of its real calls."""

    def make(cache: Cache, **options: Any) -> tuple[Any, list[Any]]:
        calls: list[Any] = []

        def compute(user_id: Any, depth: int, full: bool) -> Any:
            calls.append((user_id, depth, full))
            return {"user": type(user_id).__name__, "version": len(calls)}

        if request.param == "sync":

            @cache.cached(**options)
            def profile(user_id: Any, depth: int = 1, *, full: bool = False) -> Any:
                """Return a profile."""
                return compute(user_id, depth, full)
        else:

            @cache.cached(**options)
            async def profile(user_id: Any, depth: int = 1, *, full: bool = False) -> Any:
                """Return a profile."""
                await asyncio.sleep(0)
                return compute(user_id, depth, full)

        return profile, calls

    return make


def versions(profile: Any, *arguments: Any) -> list[int]:
    """The versions of the results for these users."""
    return [answer(profile(argument))["version"] for argument in arguments]


# --- Calls


def test_a_result_is_computed_once(cache: Cache, profile: Make) -> None:
    function, calls = profile(cache)
    assert versions(function, 1, 1, 2, 1, 2) == [1, 1, 2, 1, 2]
    assert calls == [(1, 1, False), (2, 1, False)]


def test_all_ways_to_give_the_same_arguments_are_one_call(cache: Cache, profile: Make) -> None:
    function, calls = profile(cache)
    ways: list[Callable[[], Any]] = [
        lambda: function(7),
        lambda: function(user_id=7),
        lambda: function(7, 1),
        lambda: function(7, depth=1),
        lambda: function(depth=1, user_id=7),
        lambda: function(7, full=False),
        lambda: function(full=False, depth=1, user_id=7),
    ]
    assert [answer(way())["version"] for way in ways] == [1] * len(ways)
    assert len(calls) == 1
    assert answer(function(7, full=True))["version"] == 2
    assert answer(function(7, 2))["version"] == 3


def test_arguments_that_do_not_fit_are_python_s_own_error(cache: Cache, profile: Make) -> None:
    function, _ = profile(cache)
    for wrong in (lambda: function(), lambda: function(1, 2, 3), lambda: function(1, other=2)):
        with pytest.raises(TypeError, match="argument"):
            answer(wrong())


def test_another_process_finds_the_result(pair: list[Cache], profile: Make) -> None:
    one, other = (profile(cache) for cache in pair)
    assert versions(one[0], *range(10)) == versions(other[0], *range(10))
    assert len(one[1]) == 10
    assert other[1] == []


def test_none_is_a_result(cache: Cache) -> None:
    calls = []

    @cache.cached()
    def nothing() -> None:
        calls.append(1)

    assert nothing() is nothing() is None
    assert len(calls) == 1


def test_an_exception_is_the_functions_own_and_not_kept(cache: Cache) -> None:
    errors = [LookupError("first"), LookupError("second")]
    raised = iter(errors)

    @cache.cached()
    def broken() -> None:
        raise next(raised)

    for error in errors:
        with pytest.raises(LookupError) as caught:
            broken()
        assert caught.value is error


def test_one_load_for_many_threads(cache: Cache, crew: Crew, until: Until) -> None:
    go_on, calls = threading.Event(), []

    @cache.cached()
    def slow(n: int) -> int:
        calls.append(n)
        go_on.wait(30)
        return n

    crew.start(lambda: slow(5), times=8)
    until(lambda: waiting(cache) == 7)
    go_on.set()
    assert crew.join() == [5] * 8
    assert calls == [5]


def test_functions_that_call_each_other_and_themselves(cache: Cache) -> None:
    @cache.cached()
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    @cache.cached()
    def forever(n: int) -> int:
        return forever(n)

    assert fibonacci(40) == 102334155
    assert cache.stats().loads == 41
    with pytest.raises(RecursiveLoadError):
        forever(1)


# --- Keys


@pytest.mark.parametrize(
    "argument",
    ["text", 1, True, None, b"bytes", UUID(int=1), date(2024, 1, 1), ("tuple", (1, None)), 10**5000, int, MemoryError],
    ids=lambda argument: type(argument).__name__,
)
def test_arguments_of_these_kinds_are_keys(cache: Cache, profile: Make, argument: Any) -> None:
    function, calls = profile(cache)
    assert versions(function, argument, argument) == [1, 1]
    assert len(calls) == 1


@pytest.mark.parametrize("argument", [object(), len, io.StringIO(), (n for n in ()), threading.Lock()])
def test_other_arguments_are_refused_with_the_remedies(cache: Cache, profile: Make, argument: Any) -> None:
    function, calls = profile(cache)
    kind = type(argument).__name__
    for call in (function, function.invalidate, function.refresh, function.cache_key):
        for use in (lambda call=call: call(argument), lambda call=call: call(1, full=argument)):
            with pytest.raises(TypeError, match=rf"profile\(\) has an argument '\w+' of the type {kind}, ") as raised:
                answer(use())
            assert "define __cache_key__(self)" in str(raised.value)
            assert "cached(key=...)" in str(raised.value)
            assert "cached(ignore=('" in str(raised.value)
    assert calls == []


def test_what_is_within_an_argument_is_refused_by_the_argument_and_by_name(cache: Cache, profile: Make) -> None:
    function, _ = profile(cache)
    with pytest.raises(TypeError, match=r"an argument 'user_id' of the type tuple, with a object in it, which"):
        answer(function((1, [object()])))
    with pytest.raises(TypeError, match=r"an argument 'full' of the type list, with a object in it, which"):
        answer(function(1, full=[object()]))


class Account:
    """Has a key of its own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __cache_key__(self) -> str:
        return f"account {self.number}"


def test_an_object_is_a_key_by_its_cache_key(cache: Cache, profile: Make) -> None:
    function, _ = profile(cache)
    assert versions(function, Account(1), Account(2), Account(1)) == [1, 2, 1]
    assert answer(function(user_id=Account(2)))["version"] == 2


def test_an_object_given_by_name_is_a_key_by_its_cache_key(cache: Cache) -> None:
    calls = []

    @cache.cached()
    def find(*, account: Account, kind: type = int) -> int:
        calls.append(account.number)
        return len(calls)

    assert [find(account=Account(n)) for n in (1, 2, 1)] == [1, 2, 1]
    assert find.cache_key(account=Account(1)) == find.cache_key(account=Account(1), kind=int)
    assert find.cache_key(account=Account(1)) != find.cache_key(account=Account(2))


def test_arguments_by_place_and_by_name_are_never_confused(cache: Cache) -> None:
    """The arguments by name are one part of the key; given as an argument by place, such a part is another call."""

    @cache.cached()
    def everything(*args: Any, **kwargs: Any) -> Any:
        return [list(map(str, args)), {key: str(value) for key, value in kwargs.items()}]

    @cache.cached()
    def options(*args: Any, flag: int = 0) -> Any:
        return [list(map(str, args)), flag]

    part = (("flag", 1),)
    for function in (everything, options):
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
            ((), {}), ((), {"flag": 1}), ((part,), {}), ((part,), {"flag": 1}), ((part, part), {}), (((),), {}),
            ((1,), {}), ((1, ()), {}), ((1,), {"flag": 1}), ((1, part), {}), ((1, part, part), {}),
        ]  # fmt: skip
        for _ in range(2):  # loads, then hits
            for args, kwargs in calls:
                assert function(*args, **kwargs) == function.__wrapped__(*args, **kwargs), (args, kwargs)
        assert len({function.cache_key(*args, **kwargs) for args, kwargs in calls}) == len(calls)


def test_any_number_of_arguments(cache: Cache) -> None:
    calls = []

    @cache.cached()
    def total(first: int, *others: int) -> int:
        calls.append(others)
        return first + sum(others)

    assert [total(1), total(1, 2), total(1, 2, 3), total(1, 2), total(1)] == [1, 3, 6, 3, 1]
    assert len(calls) == 3
    assert total.cache_key(1, 2) == (1, 2)


def test_the_order_of_arguments_by_name_does_not_matter(cache: Cache) -> None:
    calls = []

    @cache.cached()
    def search(**filters: str) -> int:
        calls.append(filters)
        return len(calls)

    assert search(a="1", b="2") == search(b="2", a="1") == 1
    assert search(a="2", b="1") == search(b="1", a="2") == 2
    assert search() == search() == 3


def test_a_key_of_ones_own_making(cache: Cache, profile: Make) -> None:
    function, calls = profile(cache, key=lambda user_id, *_, **__: ("user", user_id["id"]))
    first, second = {"id": 1, "name": "a"}, {"id": 2}
    assert versions(function, first, second, {"id": 1, "name": "b"}) == [1, 2, 1]
    assert function.cache_key(first) == ("user", 1)
    assert answer(function.invalidate({"id": 1})).complete
    assert versions(function, first) == [3]
    assert len(calls) == 3


def test_a_key_of_ones_own_that_is_none_is_refused(cache: Cache, profile: Make) -> None:
    function, calls = profile(cache, key=lambda *args, **kwargs: 1.5)
    with pytest.raises(TypeError, match="a key is a str or a tuple, not float"):
        answer(function(1))
    assert calls == []


@pytest.mark.parametrize("key", ["user", ("user", 1), 1])
def test_a_key_that_is_no_function_is_refused_by_the_decorator(cache: Cache, key: Any) -> None:
    with pytest.raises(TypeError, match="key is a function that makes the key of a call from its arguments"):
        cache.cached(key=key)


def test_what_a_key_function_raises_reaches_the_caller(cache: Cache, profile: Make) -> None:
    function, _ = profile(cache, key=lambda user: user.id)
    with pytest.raises(AttributeError):
        answer(function("text"))


# --- Methods


@pytest.fixture
def shop(cache: Cache) -> type[Any]:
    class Shop:
        calls: list[Any] = []  # noqa: RUF012

        def __init__(self, name: str) -> None:
            self.name = name

        def __cache_key__(self) -> tuple[str, str]:
            return ("shop", self.name)

        @cache.cached()
        def stock(self, item: str, more: int = 0) -> str:
            self.calls.append(item)
            return f"{self.name}: {item}"

        @cache.cached()
        async def astock(self, item: str) -> str:
            self.calls.append(item)
            return f"{self.name}: {item}"

        @classmethod
        @cache.cached()
        def kinds(cls, item: str) -> str:
            cls.calls.append(item)
            return f"{cls.__name__}: {item}"

        @staticmethod
        @cache.cached()
        def price(item: str) -> str:
            Shop.calls.append(item)
            return item

    return Shop


def test_methods_are_told_apart_by_the_keys_of_their_objects(shop: Any) -> None:
    a, b, again = shop("a"), shop("b"), shop("a")
    assert [each.stock("tea") for each in (a, b, again)] == ["a: tea", "b: tea", "a: tea"]
    assert a.stock(item="tea", more=0) == "a: tea"
    assert shop.calls == ["tea", "tea"]
    assert shop.stock.cache_key(a, "tea") == a.stock.cache_key("tea", more=0) != b.stock.cache_key("tea")
    assert shop.stock.invalidate(a, "tea").complete
    assert a.stock("tea") == "a: tea"
    assert b.stock("tea") == "b: tea"
    assert len(shop.calls) == 3


def test_coroutine_methods(shop: Any) -> None:
    assert inspect.iscoroutinefunction(shop.astock)
    assert inspect.iscoroutinefunction(shop("a").astock)
    assert [answer(shop(name).astock("tea")) for name in "aba"] == ["a: tea", "b: tea", "a: tea"]
    assert len(shop.calls) == 2


def test_class_methods_are_told_apart_by_class(shop: Any) -> None:
    class Kiosk(shop):  # type: ignore[misc]
        pass

    assert [cls.kinds("tea") for cls in (shop, Kiosk, shop)] == ["Shop: tea", "Kiosk: tea", "Shop: tea"]
    assert shop("a").kinds("tea") == "Shop: tea"
    assert len(shop.calls) == 2


def test_static_methods(shop: Any) -> None:
    assert shop.price("tea") == shop("a").price("tea") == shop.price("tea")
    assert len(shop.calls) == 1
    assert shop.price.invalidate("tea").complete


def test_a_method_of_an_object_without_a_key_is_refused_with_the_remedies(cache: Cache) -> None:
    class Anonymous:
        @cache.cached()
        def stock(self) -> int:
            return 1

    with pytest.raises(TypeError, match=r"Anonymous.stock\(\) has an argument 'self' of the type .*Anonymous, which"):
        Anonymous().stock()


def test_a_method_may_have_its_key_made_for_it(cache: Cache) -> None:
    class Row:
        def __init__(self, number: int) -> None:
            self.number = number

        @cache.cached(key=lambda self, scale: (self.number, scale))
        def scaled(self, scale: int) -> int:
            return self.number * scale

    assert [Row(n).scaled(10) for n in (1, 2, 1)] == [10, 20, 10]
    assert cache.stats().loads == 2


def test_an_object_is_not_kept_alive_by_its_methods_results(shop: Any) -> None:
    import gc
    import weakref

    a = shop("a")
    a.stock("tea")
    alive = weakref.ref(a)
    del a
    gc.collect()
    assert alive() is None


# --- Tags and ttl


def test_tags_are_the_same_for_all_results(cache: Cache, profile: Make) -> None:
    function, calls = profile(cache, tags=("users", "profiles"))
    versions(function, 1, 2)
    assert cache.invalidate_tags("users").complete
    assert versions(function, 1, 2) == [3, 4]
    assert len(calls) == 4


def test_tags_are_made_of_the_arguments(cache: Cache, profile: Make) -> None:
    function, _ = profile(cache, tags=lambda user_id, *_, **__: (f"user:{user_id}",))
    versions(function, 1, 2)
    answer(function(1, full=True))
    cache.invalidate_tags("user:1")
    assert versions(function, 1, 2) == [4, 2]
    assert answer(function(1, full=True))["version"] == 5


def test_a_refresh_carries_the_tags_too(cache: Cache, profile: Make) -> None:
    function, _ = profile(cache, tags=lambda user_id, *_, **__: (f"user:{user_id}",))
    assert answer(function.refresh(1))["version"] == 1
    cache.invalidate_tags("user:1")
    assert versions(function, 1) == [2]


def test_a_text_is_no_tuple_of_tags(cache: Cache, profile: Make) -> None:
    with pytest.raises(TypeError, match=r"write tags=\('users',\)"):
        profile(cache, tags="users")
    function, calls = profile(cache, tags=lambda *args, **kwargs: "users")
    with pytest.raises(TypeError, match=r"write tags=\('users',\)"):
        answer(function(1))
    assert calls == []


def test_the_ttl_is_the_decorators_or_the_spaces(cache: Cache, profile: Make) -> None:
    function, calls = profile(cache, ttl=0)
    assert versions(function, 1, 1) == [1, 2]
    assert function.cache_parameters()["ttl"] == 0
    assert profile(cache.namespace("a"), ttl="90s")[0].cache_parameters()["ttl"] == 90.0
    assert profile(cache.namespace("b"), ttl=None)[0].cache_parameters()["ttl"] is None
    assert profile(cache.namespace("n", ttl=7))[0].cache_parameters()["ttl"] == 7.0
    with pytest.raises(ConfigError, match="ttl="):
        profile(cache, ttl=-1)
    assert len(calls) == 2


def test_a_result_in_a_copying_space_may_be_changed(cache: Cache, profile: Make) -> None:
    function, calls = profile(cache.namespace("copies", copy=True))
    for _ in range(3):
        result = answer(function(1))
        assert result == {"user": "int", "version": 1}
        result["mine"] = True
    assert len(calls) == 1


# --- What the decorated function offers


def test_invalidate(pair: list[Cache], profile: Make) -> None:
    one, other = (profile(cache)[0] for cache in pair)
    assert versions(one, 1, 2) == versions(other, 1, 2) == [1, 2]
    receipt = answer(one.invalidate(1))
    assert isinstance(receipt, Receipt)
    assert receipt.complete
    assert versions(other, 2) == [2]
    assert answer(other(1)) == {"user": "int", "version": 1}, "the other one's function is called for the first time"
    answer(one.invalidate(user_id=2, depth=1))
    assert versions(one, 2) == [3]


def test_refresh_calls_the_function_anew_and_everybody_sees_it(pair: list[Cache], profile: Make) -> None:
    one, other = (profile(cache)[0] for cache in pair)
    assert versions(one, 1) == versions(other, 1) == [1]
    assert answer(one.refresh(1))["version"] == 2
    assert versions(one, 1) == versions(other, 1) == [2]
    assert answer(other(1, full=True))["version"] == 1


def test_cache_clear_takes_all_results_and_those_of_no_other_function(pair: list[Cache], profile: Make) -> None:
    one, other = (profile(cache)[0] for cache in pair)

    @pair[0].cached()
    def unrelated() -> int:
        return len(calls)

    calls: list[int] = []
    assert unrelated() == 0
    calls.append(1)
    versions(one, 1, 2)
    answer(one(1, full=True))
    assert answer(one.cache_clear()).complete
    assert versions(one, 1, 2) == [4, 5]
    assert versions(other, 1, 2) == [4, 5]
    assert unrelated() == 0


def test_cache_info(pair: list[Cache], profile: Make) -> None:
    function, _ = profile(pair[0])
    assert function.cache_info() == CacheInfo(hits=0, misses=0, maxsize=None, currsize=0)
    versions(function, 1, 2)
    assert function.cache_info().currsize == 2
    versions(function, 1, 1, 2, 1)
    answer(function(1, depth=1))
    info = function.cache_info()
    assert info == (5, 2, None, 2)
    answer(function.cache_clear())
    assert function.cache_info() == (5, 2, None, 0)


def test_hits_of_a_copy_that_was_replaced_are_counted(cache: Cache) -> None:
    @cache.cached(ttl=0.05)
    def double(number: int) -> int:
        return 2 * number

    double(1)
    while double.cache_info().hits < 3:
        double(1)
    before = after = double.cache_info()
    while after.misses == before.misses:  # until it has expired, and is loaded again
        double(1)
        before, after = after, double.cache_info()
    assert after.hits >= before.hits


def test_cache_parameters(cache: Cache, profile: Make) -> None:
    function, _ = profile(cache, ttl=60, name="profiles")
    assert function.cache_parameters() == {"maxsize": None, "typed": False, "ttl": 60.0, "namespace": "profiles"}


def test_what_is_known_of_the_function_is_kept(cache: Cache, profile: Make) -> None:
    function, calls = profile(cache)
    assert function.__name__ == "profile"
    assert function.__qualname__ == "profile.<locals>.make.<locals>.profile"
    assert function.__doc__ == "Return a profile."
    assert function.__module__ == __name__
    assert str(inspect.signature(function)) == "(user_id: 'Any', depth: 'int' = 1, *, full: 'bool' = False) -> 'Any'"
    assert answer(function.__wrapped__(3))["version"] == 1
    assert answer(function.__wrapped__(3))["version"] == 2
    assert len(calls) == 2
    assert inspect.isfunction(function), "it binds as a method, and tools know it"


def test_a_coroutine_function_stays_one(cache: Cache) -> None:
    @cache.cached()
    async def load() -> int:
        return 1

    @cache.cached()
    def plain() -> int:
        return 1

    for name in ("invalidate", "refresh"):
        assert inspect.iscoroutinefunction(getattr(load, name))
        assert not inspect.iscoroutinefunction(getattr(plain, name))
    assert inspect.iscoroutinefunction(load)
    assert not inspect.iscoroutinefunction(plain)


def test_another_decorator_may_be_below(cache: Cache) -> None:
    def doubled(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> int:
            return 2 * function(*args, **kwargs)

        return wrapper

    @cache.cached()
    @doubled
    def price(item: int, amount: int = 1) -> int:
        return item * amount

    assert price(3) == price(3, 1) == price(item=3) == 6
    assert cache.stats().loads == 1


# --- Ways to decorate


@pytest.mark.parametrize(
    ("decorate", "ttl"),
    [
        (lambda cache: cache.cached, 300.0),
        (lambda cache: cache.cached(), 300.0),
        (lambda cache: cache.cached("90s"), 90.0),
        (lambda cache: cache.cached(60), 60.0),
        (lambda cache: cache.cached(timedelta(minutes=1)), 60.0),
        (lambda cache: cache.cached(None), None),
        (lambda cache: cache.namespace("n", ttl=5).cached, 5.0),
    ],
)
def test_parentheses_and_the_name_of_the_ttl_may_be_left_out(cache: Cache, decorate: Any, ttl: float | None) -> None:
    def one(x: int) -> int:
        return x

    function = decorate(cache)(one)
    assert function(1) == 1
    assert function.cache_parameters()["ttl"] == ttl


@pytest.mark.parametrize("what", [len, Account, functools.partial(print), staticmethod(print), classmethod(print)])
def test_what_is_not_a_function_is_refused_without_parentheses_too(cache: Cache, what: Any) -> None:
    with pytest.raises(TypeError, match=r"decorates functions, not .*; put it below @classmethod"):
        cache.cached(what)


@pytest.mark.parametrize("wrong", ["60 parsecs", ("a",), -1])
def test_what_is_no_ttl_is_refused(cache: Cache, wrong: Any) -> None:
    with pytest.raises((ConfigError, TypeError), match="ttl"):
        cache.cached(wrong)


# --- Decorated twice


@pytest.mark.parametrize("waits", [False, True], ids=["sync", "async"])
def test_what_is_invalidated_outside_is_invalidated_inside(new_cache: NewCache, waits: bool) -> None:
    fast, slow, source = new_cache("fast"), new_cache("slow"), {"version": 1}

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    if waits:

        @fast.cached(ttl=60)
        @logged
        @slow.cached(ttl=3600)
        async def price(sku: str) -> int:
            return source["version"]
    else:

        @fast.cached(ttl=60)
        @logged
        @slow.cached(ttl=3600)
        def price(sku: str) -> int:
            return source["version"]

    function: Any = price
    assert answer(function("tea")) == 1
    for version, change in enumerate(
        [lambda: function.invalidate("tea"), lambda: function.cache_clear(), lambda: function.refresh("tea")], 2
    ):
        source["version"] = version
        assert answer(function("tea")) == version - 1
        receipt = answer(change())
        assert receipt == version or receipt.complete
        assert answer(function("tea")) == version
    source["version"] = 9
    assert function.__wrapped__.__wrapped__.cache_info().misses == 4
    assert answer(function.__wrapped__.__wrapped__.__wrapped__("tea")) == 9, "the function itself"


def test_a_receipt_is_complete_only_if_that_of_the_inner_cache_is(new_cache: NewCache) -> None:
    fast, slow = new_cache("fast"), new_cache("slow")

    @fast.cached()
    @slow.cached()
    def price(sku: str) -> int:
        return 1

    def incomplete(args: object, kwargs: object) -> Generator[Any, Any, Receipt]:
        yield from ()
        return Receipt(("a",), ("b",), False, 1.0, 4, ("c",))

    price("tea")
    inner: Any = price.__wrapped__
    inner._cc_calls.invalidate = incomplete
    receipt = price.invalidate("tea")
    assert not receipt.complete
    assert receipt.acknowledged == ("a",)
    assert receipt.waited_out == ("b",)
    assert receipt.seconds >= 1.0
    assert (receipt.hosts, receipt.forgotten) == (4, ("c",))


def test_attributes_of_the_function_do_not_hide_those_of_the_decorated_one(cache: Cache) -> None:
    def price(sku: str) -> str:
        return sku

    for name in ("invalidate", "refresh", "cache_clear", "cache_key", "cache_info", "cache_parameters", "mine"):
        setattr(price, name, "of the function")
    function: Any = cache.cached()(price)
    assert function.mine == "of the function"
    assert function("tea") == function.refresh("tea") == "tea"
    assert function.invalidate("tea").complete
    assert function.cache_clear().complete
    assert function.cache_key("tea") == ("tea",)
    assert function.cache_info().misses == 1
    assert price.invalidate == "of the function"  # type: ignore[attr-defined]


# --- Coroutine functions that do not look like ones


def passed_on(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def test_a_coroutine_function_behind_plain_decorators_is_seen(cache: Cache) -> None:
    calls: list[int] = []

    @cache.cached()
    @passed_on
    @passed_on
    async def load(x: int) -> int:
        calls.append(x)
        return x

    assert inspect.iscoroutinefunction(load)
    assert [asyncio.run(load(1)), asyncio.run(load(1))] == [1, 1]
    assert asyncio.run(load.invalidate(1)).complete
    assert asyncio.run(load.refresh(1)) == 1
    assert calls == [1, 1]


def test_a_function_that_is_marked_as_a_coroutine_function_is_one(cache: Cache) -> None:
    async def load(x: int) -> int:
        return x

    def hidden(x: int) -> Any:
        return load(x)

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(hidden)
    else:
        hidden._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    assert asyncio.run(cache.cached()(hidden)(1)) == 1


def test_a_function_that_gives_something_to_await_and_does_not_say_so_is_refused(cache: Cache) -> None:
    async def load(x: int) -> int:
        return x

    @cache.cached()
    def hidden(x: int) -> Any:
        return load(x)

    with pytest.raises(TypeError, match=r"hidden\(\) returns something that is to be awaited, and is not known"):
        hidden(1)


# --- What cannot be decorated


def test_an_argument_may_have_any_name(cache: Cache) -> None:
    @cache.cached(ttl=60)
    def given(**named: int) -> dict[str, int]:
        return named

    class Shop:
        def __cache_key__(self) -> str:
            return "shop"

        @cache.cached(ttl=60)
        def given(this, **named: int) -> dict[str, int]:
            return named

    for function in (given, Shop().given):
        named = {"self": 1, "args": 2, "function": 3, "calls": 4, "key": 5}
        assert function(**named) == function.refresh(**named) == named
        assert function.cache_key(**named) != function.cache_key(**{**named, "self": 2})
        assert function.invalidate(**named).complete


def test_a_lambda_has_no_name_to_be_known_by(cache: Cache) -> None:
    with pytest.raises(ValueError, match="write a def instead of a lambda"):
        cache.cached()(lambda: 1)


@pytest.mark.parametrize("what", [len, Account, 1, functools.partial(print), staticmethod(print), classmethod(print)])
def test_what_is_not_a_function_is_refused(cache: Cache, what: Any) -> None:
    with pytest.raises(TypeError, match=r"decorates functions, not .*; put it below @classmethod"):
        cache.cached()(what)


def test_a_generator_is_refused(cache: Cache) -> None:
    def numbers() -> Any:
        yield 1

    async def anumbers() -> Any:
        yield 1

    for generator in (numbers, anumbers):
        with pytest.raises(TypeError, match="is a generator, whose result can be used once: return a list"):
            cache.cached()(generator)


# --- Other processes

SCRIPT = """
import multiprocessing
import colocache

cache = colocache.Cache("test")
calls = []

class Account:
    @classmethod
    @cache.cached()
    def total(cls, number):
        calls.append(number)
        return number

@cache.cached()
def profile(number):
    calls.append(number)
    return number

def ask():
    return [Account.total(1), profile(2), calls, __name__]

if __name__ == "__main__":
    cache.start()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert ask() == [1, 2, [1, 2], "__main__"]
        print(pool.apply(ask))
        assert len(cache.members()) == 2
    cache.close()
"""


def test_a_spawned_worker_knows_functions_and_classes_by_the_names_of_its_parent(
    new_cache: NewCache, run_dir: str, tmp_path: Path
) -> None:
    """It runs the parent's script as __mp_main__. That counts as the same module."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {"COLOCACHE_DIR": run_dir, "PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[1, 2, [], '__mp_main__']\n"), done.stderr


# --- Arguments that are easily taken for others


def test_the_class_of_a_methods_object_counts_though_it_equals_a_number(cache: Cache) -> None:
    class WithLabel:
        name: str

        @cache.cached
        def label(self) -> str:
            return f"{type(self).__name__}.{self.name}"

    class Status(WithLabel, enum.IntEnum):
        NEW = 1

    class Size(WithLabel, enum.IntEnum):
        SMALL = 1

    for _ in range(2):
        assert (Status.NEW.label(), Size.SMALL.label()) == ("Status.NEW", "Size.SMALL")
    assert Status.NEW.label.invalidate().complete


def test_the_own_key_of_a_methods_object_counts_with_its_class(cache: Cache) -> None:
    class Number(int):
        def __cache_key__(self) -> int:
            return int(self)

        @cache.cached
        def kind(self) -> str:
            return type(self).__name__

    class Odd(Number):
        pass

    for _ in range(2):
        assert (Number(1).kind(), Odd(1).kind()) == ("Number", "Odd")


def test_a_subclass_of_a_record_that_adds_state_is_no_argument(cache: Cache) -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    class Named(Point):
        def __init__(self, x: int, name: str) -> None:
            super().__init__(x)
            self.name = name

    class Printed(Point):
        def text(self) -> str:
            return str(self.x)

    @dataclasses.dataclass
    class Rows(list[int]):
        name: str = ""

    @cache.cached
    def of(what: Any) -> str:
        return repr(what)

    assert of(Printed(1)) != of(Printed(2))
    for refused in (Named(1, "a"), Rows("a")):
        with pytest.raises(TypeError, match=r"of\(\) has an argument 'what'"):
            of(refused)


def test_a_default_without_a_form_stands_for_itself(cache: Cache) -> None:
    nothing = object()

    @cache.cached
    def search(word: str, limit: Any = nothing, order: Any = ...) -> str:
        return f"{word} {limit is nothing} {order is ...}"

    assert search("tea") == search("tea", nothing) == "tea True True"
    assert search("tea", None) == "tea False True"
    assert search.invalidate("tea").complete
    with pytest.raises(TypeError, match="argument 'limit' of the type object"):
        search("tea", object())


def test_a_keyword_that_has_the_name_of_an_ignored_place_counts(cache: Cache) -> None:
    @cache.cached(ignore=("db",))
    def rows(db: object, /, **where: int) -> dict[str, int]:
        return where

    assert (rows(object(), db=2), rows(object(), db=3)) == ({"db": 2}, {"db": 3})


def test_ignored_arguments_need_not_be_given_to_invalidate(cache: Cache) -> None:
    calls: list[str] = []

    @cache.cached(ignore=("db",))
    def product(db: object, sku: str) -> int:
        calls.append(sku)
        return len(calls)

    assert (product(object(), "tea"), product(object(), "tea")) == (1, 1)
    assert product.invalidate(sku="tea").complete  # type: ignore[call-arg]
    assert product(object(), "tea") == 2
    with pytest.raises(TypeError, match=r"product\(\): missing a required argument: 'sku'"):
        product.invalidate(object())  # type: ignore[call-arg]


def test_tags_are_asked_by_name_where_they_take_no_places(cache: Cache) -> None:
    calls: list[int] = []

    @cache.cached(tags=lambda number, **rest: [f"item:{number}"])
    def item(number: int, user: str) -> int:
        calls.append(number)
        return len(calls)

    assert (item(1, "ann"), item(number=1, user="ann")) == (1, 1)
    assert cache.invalidate_tags("item:1").complete
    assert item(1, "ann") == 2


def test_tags_that_do_not_fit_the_function_are_refused_as_it_is_decorated(cache: Cache) -> None:
    with pytest.raises(TypeError, match=r"tags of .*item\(number: 'int', user: 'str'\).* does not take these"):

        @cache.cached(tags=lambda number: [f"item:{number}"])
        def item(number: int, user: str) -> int:
            return number


def test_a_model_may_have_cached_methods(cache: Cache) -> None:
    class Order(pydantic.BaseModel):
        number: int

        @cache.cached
        def double(self) -> int:
            return self.number * 2

    assert (Order(number=1).double(), Order(number=2).double()) == (2, 4)
    assert Order(number=1).double.invalidate().complete


def test_generic_models_differ_by_what_they_are_of(cache: Cache) -> None:
    class Ref(pydantic.BaseModel, Generic[ITEM]):
        number: int

    def of_module(name: str) -> type:
        return type("Item", (pydantic.BaseModel,), {"__module__": name, "__annotations__": {"number": int}})

    one, other = of_module("one"), of_module("other")

    @cache.cached
    def module(ref: Any) -> str:
        return str(type(ref).__pydantic_generic_metadata__["args"][0].__module__)

    assert (module(Ref[one](number=1)), module(Ref[other](number=1))) == ("one", "other")  # type: ignore[valid-type]


def test_a_management_method_can_be_patched_and_put_back(cache: Cache) -> None:
    class Shop:
        def __cache_key__(self) -> int:
            return 1

        @cache.cached
        def price(self) -> int:
            return 1

    with mock.patch.object(Shop.price, "invalidate", return_value="patched"):
        assert Shop().price.invalidate() == "patched"
    assert Shop().price.invalidate().complete
