"""Decorated methods: what is got by an object or a class is bound to it, and so is what it offers beside the call."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import weakref
from typing import Any

import pytest

from colocache import Cache

VERSIONS = {"now": 1}


class Shop:
    """Read by all tests; each has its own cache, with which it decorates these functions."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Shop({self.name!r})"


def make(cache: Cache, base: type = Shop) -> Any:
    class Stall(base):  # type: ignore[misc]
        @cache.cached(ttl=60)
        def price(self, sku: str = "tea") -> Any:
            """Return a price."""
            return [type(self).__name__, self.name, sku, VERSIONS["now"]]

        @cache.cached(ttl=60)
        async def aprice(self, sku: str = "tea") -> Any:
            return [self.name, sku, VERSIONS["now"]]

        @classmethod
        @cache.cached(ttl=60)
        def rate(cls, currency: str = "EUR") -> Any:
            return [cls.__name__, currency, VERSIONS["now"]]

        @staticmethod
        @cache.cached(ttl=60)
        def tax(country: str = "DE") -> Any:
            return [country, VERSIONS["now"]]

        @property
        @cache.cached(ttl=60)
        def total(self) -> Any:
            return [self.name, VERSIONS["now"]]

        tea = functools.partialmethod(price, "tea")

    return Stall


@pytest.fixture
def stall(cache: Cache) -> Any:
    VERSIONS["now"] = 1
    return make(cache)


WAYS: dict[str, tuple[Any, Any]] = {
    "of an object": (lambda a: a.price("tea"), lambda a: a.price.invalidate("tea")),
    "of an object, by default": (lambda a: a.price(), lambda a: a.price.invalidate()),
    "of an object, by name": (lambda a: a.price("tea"), lambda a: a.price.invalidate(sku="tea")),
    "of the class": (lambda a: a.price(), lambda a: type(a).price.invalidate(a)),
    "classmethod, of the class": (lambda a: a.rate(), lambda a: type(a).rate.invalidate("EUR")),
    "classmethod, of an object": (lambda a: a.rate("EUR"), lambda a: a.rate.invalidate()),
    "staticmethod": (lambda a: a.tax(), lambda a: type(a).tax.invalidate("DE")),
    "staticmethod, of an object": (lambda a: a.tax("DE"), lambda a: a.tax.invalidate()),
    "property": (lambda a: a.total, lambda a: type(a).total.fget.invalidate(a)),
    "partialmethod": (lambda a: a.tea(), lambda a: a.price.invalidate("tea")),
    "refresh": (lambda a: a.price(), lambda a: a.price.refresh() and a.price.invalidate()),
}


@pytest.mark.parametrize(("call", "invalidate"), WAYS.values(), ids=WAYS.keys())
def test_what_is_invalidated_is_what_was_called(stall: Any, call: Any, invalidate: Any) -> None:
    a, b = stall("a"), stall("b")
    for version in (1, 2):
        VERSIONS["now"] = version
        assert call(a)[-1] == call(b)[-1] == 1
    assert invalidate(a).complete
    assert call(a)[-1] == 2
    shared = isinstance(inspect.getattr_static(stall, "rate"), classmethod) and call(a) == call(b)
    assert call(b)[-1] == (2 if shared else 1), "that of another object stays"


def test_coroutine_methods(stall: Any) -> None:
    async def story() -> None:
        a, b = stall("a"), stall("b")
        assert await a.aprice() == ["a", "tea", 1]
        assert await b.aprice() == ["b", "tea", 1]
        VERSIONS["now"] = 2
        assert (await a.aprice.invalidate(sku="tea")).complete
        assert [await each.aprice("tea") for each in (a, b)] == [["a", "tea", 2], ["b", "tea", 1]]
        VERSIONS["now"] = 3
        assert await b.aprice.refresh("tea") == ["b", "tea", 3] == await stall.aprice(b, "tea")
        assert (await a.aprice.cache_clear()).complete

    asyncio.run(story())
    for each in (stall.aprice, stall("a").aprice):
        assert inspect.iscoroutinefunction(each)


def test_classmethods_of_subclasses_are_their_own(stall: Any) -> None:
    class Kiosk(stall):  # type: ignore[misc]
        pass

    assert [each.rate() for each in (stall, Kiosk)] == [["Stall", "EUR", 1], ["Kiosk", "EUR", 1]]
    VERSIONS["now"] = 2
    assert Kiosk.rate.invalidate().complete
    assert [each.rate() for each in (stall, Kiosk)] == [["Stall", "EUR", 1], ["Kiosk", "EUR", 2]]
    with pytest.raises(TypeError, match="too many positional arguments"):
        Kiosk.rate.invalidate(Kiosk, "EUR")


def test_inherited_methods_and_those_of_super_are_bound(cache: Cache, stall: Any) -> None:
    class Kiosk(stall):  # type: ignore[misc]
        @cache.cached()
        def price(self, sku: str = "tea") -> Any:
            return ["kiosk", *super().price(sku)]

        def forget(self) -> None:
            super().price.invalidate("tea")
            self.price.invalidate("tea")

    kiosk, a = Kiosk("a"), stall("a")
    assert kiosk.price() == ["kiosk", "Kiosk", "a", "tea", 1]
    assert a.price() == ["Stall", "a", "tea", 1], "an object of the base class is another one"
    assert kiosk.aprice.cache_key() != a.aprice.cache_key()
    VERSIONS["now"] = 2
    kiosk.forget()
    assert (kiosk.price()[-1], a.price()[-1]) == (2, 1)


def test_a_method_without_its_object_is_refused(stall: Any) -> None:
    for use in (stall.price.invalidate, stall.price.refresh, stall.price.cache_key):
        with pytest.raises(TypeError, match=r"Stall.price is a method: give it the object first, .*Stall.*not str"):
            use("tea")
    with pytest.raises(TypeError, match="missing a required argument: 'self'"):
        stall.price.invalidate()


def test_a_bound_method_is_like_others(stall: Any) -> None:
    a, b = stall("a"), stall("b")
    method = a.price
    assert method == a.price != b.price
    assert len({a.price, a.price, b.price}) == 2
    assert method.__self__ is a
    assert (method.__name__, method.__doc__) == ("price", "Return a price.")
    assert str(inspect.signature(method)) == "(sku: 'str' = 'tea') -> 'Any'"
    assert str(inspect.signature(stall.price)) == "(self, sku: 'str' = 'tea') -> 'Any'"
    assert method.__wrapped__("milk") == ["Stall", "a", "milk", 1]
    assert stall.price.__wrapped__(b, "milk") == ["Stall", "b", "milk", 1]
    assert repr(method).endswith("Stall.price of Shop('a')>")
    assert weakref.WeakMethod(method)() == method
    assert a.price.cache_info() == stall.price.cache_info()
    assert a.price.cache_parameters()["ttl"] == 60.0


def test_a_method_carries_what_others_note_on_it(stall: Any) -> None:
    stall.price.short_description = "Price"
    assert stall("a").price.short_description == "Price"
    with pytest.raises(AttributeError):
        _ = stall("a").price.nothing


class Market(Shop):
    def aisle(self) -> str:
        return self.name


def test_a_bound_method_can_be_pickled_with_its_object(cache: Cache) -> None:
    Market.aisle = cache.cached()(Market.aisle)  # type: ignore[method-assign]
    method = pickle.loads(pickle.dumps(Market("a").aisle))
    assert method() == "a"
    assert pickle.loads(pickle.dumps(Market.aisle)) is Market.aisle


def test_a_cached_property_of_functools_may_be_above(cache: Cache) -> None:
    class Stall(Shop):
        @functools.cached_property
        @cache.cached()
        def total(self) -> Any:
            return [self.name, VERSIONS["now"]]

    VERSIONS["now"] = 1
    a = Stall("a")
    assert a.total == ["a", 1]
    VERSIONS["now"] = 2
    assert Stall.total.func.invalidate(a).complete  # type: ignore[attr-defined]
    assert (a.total, Stall("a").total) == (["a", 1], ["a", 2])


def test_a_method_may_be_replaced_in_an_object(stall: Any) -> None:
    """As `unittest.mock.patch.object` does it."""
    a = stall("a")
    a.price = lambda: "mine"
    assert a.price() == "mine"


def test_methods_that_are_cached_twice(cache: Cache) -> None:
    slow = cache.namespace("slow")

    class Stall(Shop):
        @cache.cached(ttl=1)
        @slow.cached(ttl=60)
        def price(self, sku: str = "tea") -> Any:
            return [self.name, sku, VERSIONS["now"]]

    VERSIONS["now"] = 1
    a = Stall("a")
    assert a.price() == ["a", "tea", 1]
    VERSIONS["now"] = 2
    assert a.price.invalidate("tea").complete
    assert a.price() == ["a", "tea", 2]
