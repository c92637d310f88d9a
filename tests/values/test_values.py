"""Every kind of value that the codec carries comes back equal and of the same type, wherever it comes from."""

from __future__ import annotations

import dataclasses
import enum
import math
import pickle
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from colocache import MISSING, Cache, MsgpackCodec, PickleCodec
from colocache.core.options import MAX_VALUE
from tests.conftest import waiting

if TYPE_CHECKING:
    from tests.conftest import Call, NewCache, Until

GONE = object()


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass(frozen=True)
class User:
    name: str
    home: Point
    friends: list[User] = dataclasses.field(default_factory=list)


BERLIN = ZoneInfo("Europe/Berlin")
VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "int": -7,
    "int beyond 64 bits": 2**100,
    "negative int beyond 64 bits": -(2**64),
    "float": 0.1,
    "negative zero": -0.0,
    "infinity": -math.inf,
    "nan": math.nan,
    "complex": complex(1, -0.0),
    "Decimal": Decimal("1.10"),
    "Decimal nan": Decimal("NaN"),
    "Fraction": Fraction(1, 3),
    "str": "Grüße",
    "empty str": "",
    "lone surrogate": "\udc80",
    "bytes": b"\0\xff",
    "bytearray": bytearray(b"ab"),
    "list": [1, [2, []]],
    "tuple": (1, (2, ())),
    "list of tuples in a tuple": ([(1,), [2]],),
    "set": {1, "a", (2,)},
    "frozenset": frozenset({1, frozenset({2})}),
    "dict": {"a": {"b": None}},
    "dict of all kinds of keys": {1: "a", (2, 3): "b", None: "c", b"d": "d", 1.5: "e", frozenset({1}): "f"},
    "dict in its order": {"z": 1, "a": 2},
    "date": date(2024, 2, 29),
    "time": time(12, 30, 15, 999_999, fold=1),
    "datetime": datetime(2024, 2, 29, 12, 30),
    "datetime in UTC": datetime(2024, 2, 29, 12, 30, tzinfo=timezone.utc),  # noqa: UP017
    "datetime with an offset": datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    "datetime with a named offset": datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=1), "here")),
    "datetime in a zone, folded": datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
    "timedelta": timedelta(days=-1, microseconds=1),
    "UUID": UUID(int=42),
    "enum": Colour.BLUE,
    "flags": Rights.READ | Rights.WRITE,
    "NamedTuple": Point(1, 2.5),
    "dataclass": User("Ada", Point(0, 0.0), [User("Bob", Point(1, 1.0))]),
    "all together": [(None, {"a": {1, 2}}), {(Colour.RED, Point(1, 0.5)): Decimal(1)}, datetime(2024, 1, 1)],
}


def shape(value: Any) -> Any:
    """Something that is equal for values that are equal and of the same type at every depth."""
    kind = type(value)
    if kind is float:
        return kind, value.hex()  # tells -0.0 from 0.0, and nan is equal to itself
    if kind is complex:
        return kind, value.real.hex(), value.imag.hex()
    if kind is Decimal:
        return kind, str(value)
    if kind in (list, tuple, Point):
        return kind, [shape(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(repr(shape(item)) for item in value)
    if kind is dict:
        return kind, [(shape(key), shape(item)) for key, item in value.items()]
    if kind is User:
        return kind, [shape(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if kind in (datetime, time):
        return kind, value.isoformat(), value.fold, repr(value.tzinfo)
    return kind, value


@pytest.fixture
def codec() -> MsgpackCodec:
    codec = MsgpackCodec()
    for cls in (Colour, Rights, Point, User):
        codec.register(cls)
    return codec


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_values_come_back_as_they_were(new_group: Any, codec: MsgpackCodec, value: Any) -> None:
    one, other = new_group(2, codec=codec)

    def check(read: Callable[..., Any]) -> None:
        assert shape(read("k", GONE)) == shape(value)

    assert one.set("k", value)
    for cache in (one, other):
        check(cache.get)
        check(cache.get)  # what is found for the second time on the host is kept, so from the third read on it is a hit
        check(lambda key, default, cache=cache: cache.get_many([key])[key])
    assert [(cache.stats().fetches, cache.stats().hits) for cache in (one, other)] == [(2, 1), (1, 2)]
    assert one.invalidate("k").complete
    assert shape(one.get_or_load("k", lambda: value)) == shape(value)
    for cache in (one, other):
        check(lambda key, default, cache=cache: cache.get_or_load(key, lambda: GONE))
        check(cache.get)
    assert (one.stats().loads, one.stats().fills, other.stats().loads) == (1, 1, 0)


@pytest.mark.parametrize("value", [VALUES["all together"], VALUES["dataclass"], b"x" * 100_000])
def test_a_cache_that_copies_returns_copies(call: Call, new_group: Any, codec: MsgpackCodec, value: Any) -> None:
    for cache in new_group(2, codec=codec):
        space = cache.namespace("copies", copy=True)
        results = [call(space, "get_or_load", "k", lambda: value) for _ in range(3)]
        results += [call(space, "get", "k"), call(space, "get_many", ["k"])["k"]]
        assert [shape(result) for result in results] == [shape(value)] * 5
        if not isinstance(value, bytes):
            assert len(set(map(id, results))) == 5


REFUSED: dict[str, tuple[Any, str]] = {
    "an object": (object(), "object"),
    "a function": (len, "builtin_function_or_method"),
    "MISSING": (MISSING, "_Missing"),
    "an open file": (open, "builtin_function_or_method"),
    "a dict with a default of its own": (defaultdict(lambda: 0), "defaultdict"),
    "a subclass of int": (type("Id", (int,), {})(1), "Id"),
    "a generator": ((n for n in range(2)), "generator"),
    "a class that nobody registered": (dataclasses.make_dataclass("Unknown", ["a"])(1), "Unknown"),
}


@pytest.mark.parametrize(("value", "name"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("nested", [False, True], ids=["bare", "nested"])
def test_what_cannot_be_carried_is_refused_by_its_type_and_key(
    call: Call, cache: Cache, value: Any, name: str, nested: bool
) -> None:
    value = {"deep": [value]} if nested else value
    for method, argument in (("set", value), ("get_or_load", lambda: value), ("set_many", None)):
        arguments = ({("user", 42): value},) if method == "set_many" else (("user", 42), argument)
        with pytest.raises(TypeError, match=r"the value of the key \('user', 42\) cannot be carried") as raised:
            call(cache, method, *arguments)
        assert name in str(raised.value)
        assert ("['deep'][0]" in str(raised.value)) is nested
    assert call(cache, "get", ("user", 42)) is None
    assert call(cache, "get_or_load", ("user", 42), lambda: "fine") == "fine"


def test_a_set_of_many_with_one_that_cannot_be_carried_writes_nothing(call: Call, cache: Cache) -> None:
    with pytest.raises(TypeError, match="the value of the key 'b'"):
        call(cache, "set_many", {"a": 1, "b": object(), "c": 3})
    assert call(cache, "get_many", "abc") == {}


# --- Size


LARGE: dict[str, Any] = {"10 MB of text": "x" * 10_000_000, "10 MB of many parts": ["x" * 1000] * 10_000}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE.keys())
def test_what_is_too_large_is_used_and_not_kept(call: Call, pair: list[Cache], value: Any) -> None:
    one, other = pair
    key = "k"
    assert one.set(key, "old", wait="all")
    assert other.get(key) == "old"
    assert call(one, "set", key, value, wait="all") is False
    assert one.get(key) is other.get(key) is None, "the old value is gone all the same"
    assert call(one, "get_or_load", key, lambda: value) is value
    assert call(one, "get_or_load", key, lambda: "small") == "small"
    assert (one.stats().oversize, other.stats().oversize) == (2, 0)


def test_the_largest_value_that_is_kept(pair: list[Cache]) -> None:
    one, other = pair
    limit = MAX_VALUE - 4 - 5  # the codec's name, and what msgpack says of the length
    assert one.set("k", b"x" * limit)
    assert other.get("k") == one.get("k") == b"x" * limit
    assert one.set("k", b"x" * (limit + 1)) is False
    assert (one.stats().oversize, other.stats().oversize) == (1, 0)


def test_what_is_larger_than_an_eighth_of_a_small_shelf_is_used_and_not_kept(
    call: Call, new_cache: NewCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache = new_cache(shelf="1MiB")
    limit = (1 << 20) // 8 - 4 - 5
    assert call(cache, "set", "first of all", b"x" * (limit + 1)) is False
    assert call(cache, "set", "k", b"x" * limit)
    assert call(cache, "get", "k") == b"x" * limit
    value = b"x" * (limit + 1)
    assert call(cache, "set", "k", value) is False
    assert call(cache, "get", "k") is None, "the old value is gone all the same"
    assert call(cache, "get_or_load", "k", lambda: value) is value
    assert call(cache, "get", "k") is None
    assert call(cache, "add", "k", value) is False
    assert call(cache, "set_many", {"k": value, "l": 1}) is False
    assert call(cache, "get_many", ["k", "l"]) == {"l": 1}
    assert cache.stats().oversize == 5
    (line,) = caplog.messages
    assert "the value of the key 'first of all' of no namespace is used, and not kept" in line
    assert f"it takes {(1 << 20) // 8 + 1} bytes, more than the {(1 << 20) // 8} that a shelf of this size" in line


def test_what_is_larger_than_the_memory_for_near_copies_is_read_from_the_shelf(call: Call, new_cache: NewCache) -> None:
    cache = new_cache(memory="1MiB")
    value = b"x" * (MAX_VALUE - 9)
    assert call(cache, "get_or_load", "k", lambda: value) is value
    assert [call(cache, "get", "k") for _ in range(2)] == [value] * 2
    stats = cache.stats()
    assert (stats.oversize, stats.entries, stats.fetches, stats.hits) == (0, 0, 2, 0)


# --- Other codecs


@pytest.mark.in_a_group
def test_a_pickling_codec_carries_what_pickle_does(new_cache: NewCache) -> None:
    one, other = (new_cache("pickles", codec=PickleCodec(key=bytes(range(32)))) for _ in range(2))
    value = OrderedDict(a=deque([1]))
    for key in "abcd":
        assert one.set(key, value)
        assert shape(other.get(key)) == shape(value)
        assert shape(one.get(key)) == shape(value)
    with pytest.raises((pickle.PickleError, AttributeError), match=r"[Cc]an't (pickle|get)"):  # as pickle has it
        one.set("k", lambda: None)


class Faulty:
    """A codec with a bug: its `decode` always raises an exception that it must not raise."""

    name = "faulty"

    def encode(self, value: object) -> bytes:
        return repr(value).encode()

    def decode(self, payload: bytes) -> object:
        raise RuntimeError("a bug")


@pytest.mark.parametrize("copy", [False, True])
def test_a_codec_with_a_bug_costs_loads_and_not_the_application(
    call: Call, new_cache: NewCache, caplog: pytest.LogCaptureFixture, copy: Any
) -> None:
    cache = new_cache(codec=Faulty(), copy=copy)
    assert cache.set("k", "old")
    assert [call(cache, "get", "k") for _ in range(2)] == [None, None]
    assert [call(cache, "get_or_load", "k", lambda: "loaded") for _ in range(2)] == ["loaded"] * 2
    assert call(cache, "get_many", ["k"]) == {}
    stats = cache.stats()
    assert (stats.loads, stats.fallbacks, stats.misses) == (2, 2, 3)
    assert caplog.text.count("the codec 'faulty' raised RuntimeError: a bug") == 1
    load_other = [call(cache, "get_or_load", "other", lambda: "loaded") for _ in range(2)]
    assert load_other == ["loaded"] * 2


@pytest.mark.in_a_group
def test_a_class_that_is_not_registered_everywhere_costs_loads_where_it_is_not(
    call: Call, new_cache: NewCache, codec: MsgpackCodec, caplog: pytest.LogCaptureFixture
) -> None:
    knows, ignorant = new_cache(codec=codec), new_cache()
    assert knows.set("k", Colour.RED)
    assert call(ignorant, "get", "k", GONE) is GONE
    assert call(ignorant, "get_or_load", "k", lambda: "own") == "own"
    assert knows.get("k") is Colour.RED
    assert "register it in all of them" in caplog.text


# --- Limits of all kinds


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


GROWN: dict[str, Any] = {
    "too deep": lambda: nested(100),
    "far too deep": lambda: nested(50_000),
    "a long number": lambda: 10**10_000,
    "too large": lambda: [bytes(1 << 20)] * 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("make", GROWN.values(), ids=GROWN)
@pytest.mark.parametrize("copy", [False, True])
def test_a_value_that_has_grown_over_a_limit_is_used_and_not_kept(
    call: Call, new_cache: NewCache, caplog: pytest.LogCaptureFixture, make: Any, copy: Any
) -> None:
    cache, value = new_cache(copy=copy), make()
    for _ in range(2):
        assert call(cache, "get_or_load", "k", lambda: value) is value
    assert cache.set("k", "old")
    assert call(cache, "set", "k", value) is False
    assert call(cache, "get", "k") is None, "the old value is gone all the same"
    assert call(cache, "add", "k", value) is False
    assert cache.stats().oversize == 4
    assert caplog.text.count("the value of the key 'k' of no namespace is used, and not kept: ") == 1


@pytest.mark.parametrize("waiters", [1, 5])
def test_waiters_load_themselves_what_cannot_be_copied(new_cache: NewCache, until: Until, waiters: int) -> None:
    cache, begun, go = new_cache(copy=True), threading.Event(), threading.Event()

    def load() -> Any:
        begun.set()
        go.wait(30)
        return nested(50_000)

    with ThreadPoolExecutor(waiters + 1) as pool:
        results = [pool.submit(cache.get_or_load, "k", load)]
        begun.wait(30)
        results += [pool.submit(cache.get_or_load, "k", load) for _ in range(waiters)]
        until(lambda: waiting(cache) == waiters)
        go.set()
        assert all(type(result.result(30)) is list for result in results)


def test_rows_by_the_hundred_thousand_are_kept(pair: list[Cache]) -> None:
    one, other = pair
    rows = [*range(200_000)]
    assert one.set("k", rows)
    assert one.get("k") == other.get("k") == rows


def test_a_type_is_refused_whatever_else_is_too_large(call: Call, cache: Cache) -> None:
    for value in ([nested(100), object()], [0] * 2_000_000 + [object()], [10**10_000, {"a": object()}]):
        with pytest.raises(TypeError, match="of type object cannot be carried"):
            call(cache, "get_or_load", "k", lambda value=value: value)


# --- Annotations


class Team(NamedTuple):
    captain: User
    colour: Colour


class Unmade:
    pass


def test_what_a_decorated_function_returns_is_read_by_another_cache(pair: list[Cache]) -> None:
    one, other = pair
    value = Team(User("Ada", Point(0, 0.5)), Colour.RED)

    def decorated(cache: Cache) -> Any:
        @cache.cached(ttl=60)
        def team(n: int) -> list[Team]:
            return [value]

        return team

    for number in range(20):
        first, second = decorated(one)(number), decorated(other)(number)
        assert shape(list(first)) == shape(list(second)) == shape([value])
    assert (one.stats().loads, other.stats().loads) == (20, 0)


def test_a_class_that_an_annotation_names_and_that_cannot_travel_raises_before_anything_is_loaded(cache: Cache) -> None:
    ran: list[int] = []

    @cache.cached(ttl=60)
    def report(n: int) -> Unmade | None:
        ran.append(n)
        return None

    for _ in range(2):
        with pytest.raises(TypeError, match=r"report\(\) returns .*Unmade, which cannot be carried"):
            report(1)
    assert ran == []


def test_another_codec_decides_which_classes_travel(new_cache: NewCache) -> None:
    cache = new_cache(codec=PickleCodec(key=bytes(range(32))))

    @cache.cached(ttl=60)
    def report(n: int) -> Unmade | None:
        return None

    assert report(1) is None
    with pytest.raises(TypeError, match=r"the codec 'pickle-1' of .* decides for itself"):
        cache.register(Point)


def test_register_is_a_decorator_of_the_cache(cache: Cache) -> None:
    assert cache.register(Colour, name="colour") is Colour
    assert cache.set("k", Colour.RED)


# --- Many at once


@pytest.mark.slow
def test_many_keys_are_set_read_and_invalidated_by_two_caches(call: Call, new_group: Any) -> None:
    """They are more than one message of the bus can name."""
    one, other = new_group(2, shelf="64MiB")
    values = {("k", number): number for number in range(10_000)}
    assert call(one, "set_many", values)
    assert call(one, "get_many", values) == call(other, "get_many", iter(values)) == values
    assert call(one, "get_many", [*values][:10] * 3) == dict([*values.items()][:10])
    before = one.stats().invalidations
    receipt = call(one, "invalidate", *values)
    assert receipt.complete
    assert one.stats().invalidations == before + 1
    assert call(one, "get_many", values) == call(other, "get_many", values) == {}
    assert call(one, "invalidate_tags", *map(str, range(10_000))).complete
