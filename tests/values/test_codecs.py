from __future__ import annotations

import dataclasses
import decimal
import enum
import hmac
import math
import pickle
import random
import struct
import sys
import tracemalloc
import zoneinfo
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from threading import Barrier, Lock
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from colocache import Codec, MsgpackCodec, PickleCodec
from colocache.errors import ConfigError, OversizeError
from colocache.values.codec import MAX_BYTES, MAX_DEPTH

# print_blob: a failure prints the line that replays it. No deadline: the machine may be busy.
replayable = settings(print_blob=True, deadline=None, database=None, max_examples=250)

needs_zones = pytest.mark.skipif(not zoneinfo.available_timezones(), reason="no time zone database on this machine")
PRAGUE, NEW_YORK = (
    [ZoneInfo("Europe/Prague"), ZoneInfo("America/New_York")] if zoneinfo.available_timezones() else [UTC, UTC]
)


class Colour(enum.Enum):
    RED = "r"
    GREEN = ("g", 1)
    CRIMSON = "r"  # an alias


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Unit(enum.StrEnum):
    METRE = "m"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Bit(enum.IntFlag):
    ONE = 1
    TWO = 2


@dataclasses.dataclass
class User:
    name: Any
    tags: Any = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: Any
    y: Any


@dataclasses.dataclass
class Order:
    """Its __init__ would need `rate`, and its __post_init__ would compute `total` again."""

    net: int
    rate: dataclasses.InitVar[int]
    total: int = dataclasses.field(init=False)

    def __post_init__(self, rate: int) -> None:
        self.total = self.net * rate


class Pair(NamedTuple):
    left: Any
    right: Any = None


Row = namedtuple("Row", ["id", "name"])


def make_codec() -> MsgpackCodec:
    codec = MsgpackCodec()
    for cls in (Colour, Level, Unit, Right, Bit, User, Point, Order, Pair, Row):
        codec.register(cls)
    return codec


CODEC = make_codec()


def same(a: Any, b: Any) -> bool:
    """Tell whether two values are equal and of one type at every depth. nan equals nan, and dicts keep their order."""
    kind = type(a)
    if kind is not type(b):
        return False
    if kind in (list, tuple, Pair, Row):
        return len(a) == len(b) and all(map(same, a, b))
    if kind is dict:
        return same([*a.items()], [*b.items()])
    if kind in (set, frozenset):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if kind is float:
        return struct.pack("d", a) == struct.pack("d", b)
    if kind is complex:
        return same([a.real, a.imag], [b.real, b.imag])
    if kind is Decimal:
        return a.as_tuple() == b.as_tuple()
    if kind in (datetime, time):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and same_zone(a.tzinfo, b.tzinfo)
    # Bits without a name are a new object each time, in Python 3.11.2 at least.
    return a is b if isinstance(a, enum.Enum) and not isinstance(a, enum.Flag) else a == b


def same_zone(a: tzinfo | None, b: tzinfo | None) -> bool:
    return type(a) is type(b) and a == b and str(a) == str(b)


def travelled(value: object, codec: Codec = CODEC) -> Any:
    return codec.decode(codec.encode(value))


def comes_back(value: object) -> bool:
    return same(travelled(value), value)


def refusal(value: object, codec: Codec = CODEC) -> str:
    with pytest.raises(TypeError) as caught:
        codec.encode(value)
    return str(caught.value)


def excess(value: object, codec: Codec = CODEC) -> str:
    with pytest.raises(OversizeError) as caught:
        codec.encode(value)
    return str(caught.value)


def complaint(payload: bytes, codec: Codec = CODEC) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        codec.decode(payload)
    return str(caught.value)


def extension(code: int, body: bytes) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, body))  # type: ignore[no-any-return]


# --- every type, equal and of the same type ---

WHOLE_DAY = timedelta(hours=24)
offsets = st.timedeltas(-WHOLE_DAY + timedelta(microseconds=1), WHOLE_DAY - timedelta(microseconds=1))
zones = st.one_of(
    st.none(),
    st.sampled_from([UTC, PRAGUE, NEW_YORK]),
    offsets.map(timezone),
    st.builds(timezone, offsets, st.text(max_size=5)),
)
folds = st.sampled_from([0, 1])
datetimes = st.builds(lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, folds)
times = st.builds(lambda clock, zone, fold: clock.replace(tzinfo=zone, fold=fold), st.times(), zones, folds)
surrogates = st.text(st.characters(categories=("Cs", "Lu")), min_size=1, max_size=3)
enums = st.sampled_from([*Colour, *Level, *Unit, *Right, *Bit, Right(0), Right(3), Bit(3), Bit(64)])
big_ints = st.integers(min_value=2**63).flatmap(lambda n: st.sampled_from([n, -n - 1]))

hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    big_ints,
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=40),
    surrogates,
    st.binary(max_size=40),
    datetimes,
    times,
    st.dates(),
    st.timedeltas(),
    st.decimals().filter(lambda number: not number.is_snan()),
    st.uuids(),
    st.fractions(),
    enums,
)
hashables = st.recursive(
    hashable_leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=4,
)
leaves = st.one_of(
    hashable_leaves,
    st.binary(max_size=40).map(bytearray),
    st.sampled_from([Decimal("sNaN"), Decimal("-sNaN12"), Decimal("NaN7"), Decimal("-0.00"), Decimal("1.500E+9")]),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.sets(hashables, max_size=4),
        st.frozensets(hashables, max_size=4),
        st.dictionaries(st.text(max_size=10), inner, max_size=5),
        st.dictionaries(hashables, inner, max_size=4),
        st.builds(User, inner, inner),
        st.builds(Point, inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(Row, inner, inner),
        st.builds(Order, st.integers(), st.integers()),
    ),
    max_leaves=12,
)


@replayable
@given(values)
@example([bytearray(), {"": bytearray(b"\xc4")}])
@example({True: 1, 2: "two", None: [()], 1.5: {}, b"b": set(), (1, ("a", None)): 0, frozenset({1}): 1, "s": 2})
def test_a_value_comes_back_equal_and_of_the_same_type(value: object):
    assert comes_back(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        2**64 - 1,
        -(2**63),
        2**64,
        -(2**63) - 1,
        10**4000,
        1 - 2 ** (8 * 4096 - 1),
        0.0,
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
        5e-324,
        complex(-0.0, math.nan),
        "",
        "Příliš žluťoučký kůň",
        "\ud800 alone, and \U0001f600",
        b"",
        b"\x00\xff",
        bytearray(b"\xc4\x01"),
        [],
        (),
        [(), [()], ((),)],
        set(),
        {1, "1", b"1"},
        frozenset({frozenset({1}), ()}),
        {},
        {"b": 1, "a": 2},
        Decimal("0.10"),
        Decimal("-0"),
        Decimal("NaN123"),
        Decimal("sNaN"),
        Decimal("-Infinity"),
        Decimal("1E+999999999999999999"),
        Fraction(-1, 3),
        Fraction(10**30, 7),
        UUID(int=0),
        UUID("12345678-1234-5678-1234-567812345678"),
        date.min,
        date.max,
        datetime.min,
        datetime.max,
        datetime(2026, 10, 25, 2, 30, fold=1),
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-5, seconds=-17))),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "")),
        time.min,
        time(23, 59, 59, 999_999, tzinfo=UTC, fold=1),
        timedelta.min,
        timedelta.max,
        timedelta(microseconds=-1),
        Colour.CRIMSON,
        Colour.GREEN,
        Level.HIGH,
        Unit.METRE,
        Right.READ | Right.WRITE,
        Right(0),
        Bit.ONE | 64,
        User("a", [Point(1, (2,))]),
        Order(2, 3),
        Pair((1,), Row(1, "x")),
        msgpack.Timestamp(1, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_type_comes_back(value: object):
    assert comes_back(value)
    assert comes_back([{"deep": (value,)}])


@needs_zones
@pytest.mark.parametrize("fold", [0, 1])
def test_a_zone_comes_back_by_its_key_with_the_fold(fold: int):
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=PRAGUE, fold=fold)
    back = travelled(moment)
    assert same(back, moment)
    assert back.tzinfo.key == "Europe/Prague"
    assert back.utcoffset() == timedelta(hours=2 - fold)
    assert same(travelled(moment.timetz()), moment.timetz())


@pytest.mark.parametrize(
    "key",
    [1, -(2**70), 10**5000, True, None, 1.5, b"b", "s", "\udfff", (1, (2,)), frozenset({1}), UUID(int=1), date.min,
     Decimal("1.0"), Level.LOW, Point(1, 2), Pair(1, 2)],
    ids=lambda key: type(key).__name__,
)  # fmt: skip
def test_a_key_of_any_type_comes_back(key: object):
    assert comes_back({key: 1})
    assert comes_back({"first": 0, key: {key: bytearray(b"x")}, "last": [({key: 2},)]})


def test_a_dict_keeps_its_order():
    assert [*travelled({9: 0, "b": 1, 1: 2, "a": 3, (): 4})] == [9, "b", 1, "a", ()]


def test_equal_objects_that_are_distinct_keys_stay_distinct():
    value = {Decimal("NaN"): bytearray(b"1"), Decimal("NaN"): 2}
    assert [type(key) for key in travelled(value)] == [Decimal, Decimal]


def test_what_is_decoded_is_new_each_time():
    payload = CODEC.encode({"a": [1]})
    first, second = CODEC.decode(payload), CODEC.decode(payload)
    assert first == second
    assert first is not second


@pytest.mark.parametrize("filler", ["", "ASCII", "ř", 1.1, 50_000, *range(0xC4, 0xDA)], ids=repr)
@pytest.mark.parametrize("odd", [bytearray(b"x"), [bytearray()], {"k": bytearray(b"long" * 100)}], ids=repr)
def test_a_bytearray_is_noticed_beside_any_bytes(filler: object, odd: object):
    assert comes_back([filler, odd])
    assert comes_back({"a": [filler] * 100, "b": {"c": odd}})


# --- registered classes ---


def test_init_and_post_init_do_not_run_at_decode(monkeypatch: pytest.MonkeyPatch):
    order = Order(2, 3)
    order.total = 100
    payload = CODEC.encode(order)
    monkeypatch.setattr(Order, "__init__", None)
    monkeypatch.setattr(Order, "__post_init__", None)
    back = CODEC.decode(payload)
    assert (type(back), back.net, back.total) == (Order, 2, 100)


def test_register_is_a_decorator_and_the_name_can_be_chosen():
    codec = MsgpackCodec()
    assert codec.register(User, name="u") is User
    assert travelled(User("x"), codec) == User("x")
    assert b"User" not in codec.encode(User("x"))


def test_a_class_registered_again_is_read_under_both_names():
    codec = MsgpackCodec()
    codec.register(User, name="old")
    written = codec.encode(User("x"))
    codec.register(User, name="new")
    assert codec.encode(User("x")) != written
    assert codec.decode(written) == User("x") == travelled(User("x"), codec)


def test_the_main_module_has_one_name_in_spawned_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "__mp_main__", sys.modules["__main__"])
    here, spawned = MsgpackCodec(), MsgpackCodec()
    mine, theirs = (
        dataclasses.make_dataclass("Job", ["id"], namespace={"__module__": name})
        for name in ("__main__", "__mp_main__")
    )
    here.register(mine)
    spawned.register(theirs)
    assert type(spawned.decode(here.encode(mine(1)))) is theirs


def test_a_name_has_one_class():
    codec = MsgpackCodec()
    codec.register(User, name="x")
    with pytest.raises(ValueError, match=r"'x' is already registered for .*User.*: give .*Point.* another name"):
        codec.register(Point, name="x")
    assert "Point" in refusal(Point(1, 2), codec)


@dataclasses.dataclass
class Sized(dict):  # type: ignore[type-arg]
    size: int = 0


@pytest.mark.parametrize(
    "cls", [int, dict, object, tuple, OrderedDict, Sized, msgpack.ExtType, User("x"), "User"], ids=repr
)
def test_only_enums_dataclasses_and_named_tuples_are_registered(cls: Any):
    with pytest.raises(TypeError):
        MsgpackCodec().register(cls)


def test_an_unregistered_name_imports_nothing():
    assert "antigravity" not in sys.modules
    body = msgpack.packb(["antigravity:fly", "x", 1])
    text = complaint(extension(15, body))
    assert text == (
        "the payload does not parse as msgpack-1: no class is registered as 'antigravity:fly' in this process: "
        "register it in all of them, or import the decorated function that returns it"
    )
    assert "antigravity" not in sys.modules


def versions() -> tuple[MsgpackCodec, MsgpackCodec]:
    """The codecs of two applications, of which the second has other classes under the same names."""
    ours, theirs = MsgpackCodec(), MsgpackCodec()
    ours.register(User, name="user")
    theirs.register(dataclasses.make_dataclass("User", ["name", "mail"]), name="user")
    ours.register(Pair, name="pair")
    theirs.register(namedtuple("Pair", ["left"]), name="pair")
    ours.register(Colour, name="colour")
    theirs.register(enum.Enum("Colour", ["RED"]), name="colour")
    return ours, theirs


@pytest.mark.parametrize("value", [User("x"), Pair(1, 2), Colour.GREEN], ids=repr)
def test_two_versions_of_a_class_are_told_apart(value: object):
    ours, theirs = versions()
    assert "the two applications have different versions of it" in complaint(ours.encode([value]), theirs)


@pytest.mark.parametrize("boundary", enum.FlagBoundary)
def test_a_flag_of_another_version_is_refused_and_loses_no_bits(boundary: enum.FlagBoundary):
    ours, theirs = MsgpackCodec(), MsgpackCodec()
    ours.register(Right, name="right")
    theirs.register(enum.Flag("Right", ["READ"], boundary=boundary), name="right")
    if boundary is enum.KEEP:
        assert theirs.decode(ours.encode(Right.WRITE)).value == Right.WRITE.value
    else:
        assert complaint(ours.encode(Right.WRITE), theirs)


# --- what cannot be carried ---


class Text(str):
    pass


class Plain:
    pass


def deep(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Plain(), "value of type test_codecs.Plain cannot be carried: convert it or use another codec"),
        (
            Text("x"),
            "value of type test_codecs.Text cannot be carried: convert it, as by str(...), or use another codec",
        ),
        (
            [defaultdict(lambda: 1)],
            "value[0] of type collections.defaultdict cannot be carried: its default_factory is <function <lambda>",
        ),
        (memoryview(b"x"), "value of type memoryview cannot be carried: convert it or use another codec"),
        ({memoryview(b"x"): 1}, "value key <memory at"),
        ({"user": [1, {2: (0, Plain())}]}, "value['user'][1][2][1] of type test_codecs.Plain cannot"),
        ({(1, Text("x")): 0}, "value key (1, 'x')[1] of type test_codecs.Text cannot"),
        ({10**5000: Plain()}, "value[<int>] of type test_codecs.Plain cannot"),
        ([User("x", {"y": Plain()})], "value[0].tags['y'] of type test_codecs.Plain cannot"),
        (Pair(1, Plain()), "value.right of type test_codecs.Plain cannot"),
        (msgpack.ExtType(1, b"\x90"), "value of type msgpack.ext.ExtType cannot be carried: convert it, as by tuple("),
        ([1.1, msgpack.ExtType(99, b"")], "value[1] of type msgpack.ext.ExtType cannot be carried"),
        (int, "value of type type cannot be carried: convert it or use another codec"),
        ([iter([1])], "value[0] of type list_iterator cannot be carried: it can be read only once: make a list of it"),
        ([2 ** (8 * 4096), Plain()], "value[1] of type test_codecs.Plain cannot be carried: convert it"),
        ([deep(10_000, Plain())], "value[0][0][0][0][0][0] ... [0][0][0][0][0][0] of type test_codecs.Plain cannot"),
    ],
    ids=lambda case: case[:60] if isinstance(case, str) else type(case).__name__,
)
def test_a_refusal_names_the_type_the_place_and_a_remedy(value: object, text: str):
    assert refusal(value).replace(f"{__name__}.", "test_codecs.").startswith(text)


@pytest.mark.parametrize(
    "value", [Colour.RED, Level.LOW, Unit.METRE, Right.READ, User("x"), Pair(1), Row(1, 2)], ids=repr
)
def test_an_unregistered_class_is_refused_with_the_remedy(value: object):
    name = type(value).__name__
    remedy = (
        "name its class in an annotation of the decorated function, or register it in every process by "
        f"cache.register({name})"
    )
    text = refusal(["x", value], MsgpackCodec())
    assert text.startswith("value[1] of type ")
    assert text.endswith(f"{name} cannot be carried: {remedy}")


def test_a_subclass_of_a_registered_class_is_another_class():
    @dataclasses.dataclass
    class Admin(User):
        pass

    assert "cache.register(Admin)" in refusal(Admin("x"))


class Lunar(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(0)


def test_a_foreign_time_zone_is_refused_with_the_remedy():
    text = refusal([datetime(2026, 1, 1, tzinfo=Lunar())])
    assert text.startswith("value[0] of type datetime.datetime cannot be carried: its time zone is of type ")
    assert text.endswith("Lunar; use a ZoneInfo or a datetime.timezone")


def test_a_field_that_was_never_set_is_named():
    user = User("x")
    del user.name
    assert refusal([user]).endswith("cannot be carried: 'User' object has no attribute 'name'")


def test_a_value_that_changes_meanwhile_is_a_type_error(monkeypatch: pytest.MonkeyPatch):
    def change(_: object) -> None:
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr("colocache.values.msgpack_codec.extended", change)
    text = "value cannot be carried: RuntimeError('dictionary changed size during iteration')"
    assert refusal({"a": bytearray(b"x")}) == text


def test_an_error_without_a_text_is_told_by_its_type():
    class Broken(User):
        @property
        def tags(self) -> int:
            raise KeyError

    codec, value = MsgpackCodec(), object.__new__(Broken)
    codec.register(Broken)
    value.name = "x"
    text = refusal([value], codec)
    assert text.startswith("value[0] of type ")
    assert text.endswith("Broken cannot be carried: KeyError()")


def nested(depth: int, wrap: Any) -> Any:
    value = wrap(None)
    for _ in range(depth - 1):
        value = wrap(value)
    return value


WRAPS = [
    lambda inner: [inner],
    lambda inner: (inner,),
    lambda inner: {"k": inner},
    lambda inner: {1: inner},
    lambda inner: frozenset({inner}),
    lambda inner: User(inner, 0),
    lambda inner: Pair(0, inner),
    lambda inner: ["x" * 200, 1.1, inner, *range(0x80, 0xA0)],
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_64_levels_are_carried_and_65_refused(wrap: Any):
    value = nested(MAX_DEPTH, wrap)
    assert type(travelled(value)) is type(value)
    assert "it is nested more than 64 deep, or contains itself; flatten it" in excess(nested(MAX_DEPTH + 1, wrap))


@pytest.mark.parametrize("leaf", [b"x", bytearray(b"x"), 1 << 80, "\ud800"], ids=repr)
def test_what_holds_nothing_is_no_level(leaf: object):
    assert comes_back(deep(MAX_DEPTH, leaf))


def test_the_nesting_of_a_key_counts():
    assert comes_back({nested(MAX_DEPTH - 1, lambda inner: (inner,)): 0})
    text = excess({nested(MAX_DEPTH, lambda inner: (inner,)): 0})
    assert text.startswith(
        "value key (((((((...),),),),),),)[0][0][0][0][0] ... [0][0][0][0][0][0] of type tuple cannot"
    )


def test_a_value_that_contains_itself_is_oversize():
    cyclic: list[Any] = []
    cyclic += [cyclic, cyclic]
    through_tuple: list[Any] = []
    through_tuple.append((through_tuple, {"k": [through_tuple]}))
    in_dict: dict[str, Any] = {}
    in_dict["k"] = in_dict
    user = User("x")
    user.tags = {1: user}
    for value in (cyclic, through_tuple, in_dict, user):
        assert "contains itself" in excess(value)


def test_a_long_cycle_does_not_overflow_the_stack():
    cycle = last = []
    for _ in range(1000):
        last.append([])
        last = last[0]
    last.append((cycle,))
    assert "contains itself" in excess(cycle)


# --- hostile payloads ---


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x91",
        b"\xc0\xc0",
        b"\xa1\xff",
        b"\x81\x90\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x81\xc0" * 5000,
        extension(0, b""),
        extension(16, b"x"),
        extension(127, b"x"),
        extension(16, msgpack.packb([f"{__name__}:Level", "LOW"])),
        extension(1, b"\x80"),
        extension(1, b"\x90\x90"),
        extension(1, b""),
        extension(2, b"\x91\x90"),
        extension(3, b"\x91\x80"),
        extension(3, b"\x91" + extension(11, b"sNaN")),
        extension(5, b"\x01" * 4097),
        extension(6, b"x" * 15),
        extension(7, struct.pack(">HBBBBBI", 2026, 13, 1, 0, 0, 0, 0)),
        extension(7, struct.pack(">HBBBBBI", 2026, 1, 1, 0, 0, 0, 2_000_000)),
        extension(7, struct.pack(">HBBBBBI", 2026, 1, 1, 0, 0, 0, 0) + b"zNo/Such"),
        extension(7, struct.pack(">HBBBBBI", 2026, 1, 1, 0, 0, 0, 0) + b"z../../../../etc/passwd"),
        extension(7, struct.pack(">HBBBBBI", 2026, 1, 1, 0, 0, 0, 0) + b"z/etc/passwd"),
        extension(7, struct.pack(">HBBBBBI", 2026, 1, 1, 0, 0, 0, 0) + b"zEurope"),
        extension(7, struct.pack(">HBBBBBI", 2026, 1, 1, 0, 0, 0, 0) + b"z" + b"a" * 10_000),
        extension(7, struct.pack(">HBBBBBI", 2026, 1, 1, 0, 0, 0, 0) + b"o" + b"\x7f" * 8),
        extension(7, struct.pack(">HBBBBBI", 2026, 1, 1, 0, 0, 0, 0) + b"o" + bytes(9)),
        extension(7, struct.pack(">HBBBBBI", 2026, 1, 1, 0, 0, 0, 0) + b"?" + bytes(8)),
        extension(8, b"\0\0\1\1"),
        extension(8, b"\0"),
        extension(9, struct.pack(">BBBI", 24, 0, 0, 0)),
        extension(10, struct.pack(">iII", 2**31 - 1, 0, 0)),
        extension(11, b"1" * 4097),
        extension(11, b"one"),
        extension(11, b"\xff"),
        extension(12, b"x" * 15),
        extension(13, b"\x92\x01\x00"),
        extension(13, b"\x91\x01"),
        extension(13, b"\x92\xa11\xa12"),
        extension(13, b"\x92\xc3\x02"),
        extension(14, b"\xff"),
        extension(15, b"\x90"),
        extension(15, b"\x91\x90"),
        extension(15, b"\x91\xc0"),
        extension(15, msgpack.packb([f"{__name__}:User", "name"])),
        extension(15, msgpack.packb([f"{__name__}:User", "name", 1])),
        extension(15, msgpack.packb([f"{__name__}:User", "name", 1, "tags", 2, "more", 3])),
        extension(15, msgpack.packb([f"{__name__}:User", "name", 1, "tags", 2, "more"])),
        extension(15, msgpack.packb([f"{__name__}:User", [], 1, "tags", 2])),
        extension(15, msgpack.packb([f"{__name__}:Pair", "left", 1])),
        extension(15, msgpack.packb([f"{__name__}:Colour", "BLUE"])),
        extension(15, msgpack.packb([f"{__name__}:Colour", "__class__"])),
        extension(15, msgpack.packb([f"{__name__}:Colour", []])),
        extension(15, msgpack.packb([f"{__name__}:Colour"])),
        extension(15, msgpack.packb([f"{__name__}:Right", 4])),
        extension(15, msgpack.packb([f"{__name__}:Right", "READ"])),
        extension(15, msgpack.packb([f"{__name__}:Right"])),
        b"\xc7\x0c\xff" + b"\xff" * 12,
        pickle.dumps({"a": 1}),
    ],
    ids=lambda payload: payload[:24].hex(" "),
)
def test_what_does_not_parse_is_a_value_error(payload: bytes):
    assert complaint(payload).startswith("the payload does not parse as msgpack-1: ")
    assert complaint(b"\x92\x81\x01\xc3" + payload)


@pytest.mark.parametrize(
    "payload",
    [
        extension(15, msgpack.packb(["x" * 100_000])),
        extension(15, msgpack.packb([f"{__name__}:User", "f" * 100_000, 1])),
        extension(15, msgpack.packb([f"{__name__}:Colour", "m" * 100_000])),
        extension(9, bytes(7) + b"q" * 100_000),
        extension(9, bytes(7) + b"z" + b"q" * 100_000),
    ],
    ids=["class", "field", "member", "zone", "key of a zone"],
)
def test_an_error_about_a_long_payload_is_short(payload: bytes):
    with pytest.raises(ValueError, match="the payload does not parse as msgpack-1: ") as caught:
        CODEC.decode(payload)
    assert len(str(caught.value)) < 500, "it may end in a log"


def test_the_size_is_checked_before_anything_else(monkeypatch: pytest.MonkeyPatch):
    codec = MsgpackCodec(max_bytes=10)
    assert codec.decode(codec.encode("x" * 9)) == "x" * 9
    monkeypatch.setattr(msgpack, "unpackb", None)
    assert complaint(b"\xaa" + b"x" * 10, codec) == "the payload has 11 bytes, more than max_bytes=10"
    assert complaint(bytes(MAX_BYTES + 1)) == "the payload has 1052673 bytes, more than max_bytes=1052672"


def test_a_malformed_decimal_raises_even_where_the_application_would_have_nan():
    with decimal.localcontext() as context:
        context.traps[decimal.InvalidOperation] = False
        complaint(extension(11, b"one"))


@pytest.mark.parametrize("wrap", WRAPS)
def test_deeper_nesting_is_refused_at_decode(wrap: Any, monkeypatch: pytest.MonkeyPatch):
    value = nested(MAX_DEPTH + 1, wrap)
    for module in ("msgpack_codec", "payloads", "refusals"):
        monkeypatch.setattr(f"colocache.values.{module}.MAX_DEPTH", 1000)
    payload = CODEC.encode(value)
    monkeypatch.undo()
    assert "nested" in complaint(payload)


def test_nesting_is_counted_across_extensions():
    payload = b"\xc0"
    for _ in range(20):
        payload = extension(1, b"\x91" * 3 + payload)
    assert travelled(CODEC.decode(payload)) == CODEC.decode(payload)
    for _ in range(2):
        payload = extension(1, b"\x91" * 3 + payload)
    assert "nested more than 64 deep" in complaint(payload)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2 ** (8 * 4096), "value of type int cannot be carried: a number may take 4096 bytes, and it takes 4097"),
        ([Decimal("1" * 5000)], "value[0] of type decimal.Decimal cannot be carried: a number may take 4096 bytes"),
        (Fraction(1, 2 ** (8 * 4096)), "value[1] of type int cannot be carried: a number may take 4096 bytes"),
        (deep(100_000, None), "value[0][0][0][0][0][0] ... [0][0][0][0][0][0] of type list cannot be carried: it is"),
    ],
    ids=["int", "Decimal", "Fraction", "deep"],
)
def test_a_value_that_is_only_too_long_or_too_deep_is_no_type_error(value: object, text: str):
    assert excess(value).startswith(text)


def test_there_may_be_as_many_members_as_the_size_allows():
    for value in ([0] * 1_000_000, {*range(200_000)}, dict.fromkeys(range(150_000)), [{}] * 500_000):
        assert travelled(value) == value


COLLIDING = {
    "big ints": lambda n: n * (2**61 - 1),
    "UUIDs": lambda n: UUID(int=n * (2**61 - 1)),
    "fractions": lambda n: Fraction(n * (2**61 - 1)),
    "tuples": lambda n: (n * (2**61 - 1),),
}


@pytest.mark.parametrize("make", COLLIDING.values(), ids=COLLIDING)
def test_chosen_hashes_cost_no_quadratic_time(make: Any):
    members = [make(n) for n in range(100)]
    assert len({*map(hash, members)}) == 1
    for code in (2, 3):
        body = b"\xdc\x00\x64" + b"".join(map(CODEC.encode, members))
        assert "have the same hash" in complaint(extension(code, body))
    pairs = b"".join(CODEC.encode(member) + b"\xc0" for member in members)
    assert "have the same hash" in complaint(b"\xde\x00\x64" + pairs)


def test_honest_collisions_are_carried():
    for value in ({2.0**exponent for exponent in range(-1074, 1024)}, dict.fromkeys(range(-1000, 1000))):
        assert travelled(value) == value


def array(member: bytes, size: int = 60_000) -> bytes:
    """Arrays of as many members as fit."""
    count, each = 0, size // len(member)
    chunks = []
    while each:
        claim = min(each, 10_000)
        chunks.append(b"\xdd" + claim.to_bytes(4, "big") + member * claim)
        each, count = each - claim, count + 1
    return bytes([0x90 | count]) + b"".join(chunks)


def wrapped(payload: bytes, levels: int) -> bytes:
    for _ in range(levels):
        payload = extension(1, b"\x91" + payload)
    return payload


LIE = b"\xdd" + (100_000).to_bytes(4, "big")
BOMBS = {
    "lists": array(b"\x90"),
    "dicts": array(b"\x80"),
    "dicts of one": array(b"\x81\xa0\xc0"),
    "dicts by number": array(b"\x81\x01\xc0"),
    "sets": array(extension(2, b"\x90")),
    "decimals": array(extension(11, b"1")),
    "sets within": wrapped(array(extension(2, b"\x90")), levels=60),
    "too many levels": wrapped(msgpack.packb(bytes(200_000)), levels=300),
    "nested lies": LIE * 1000 + bytes(100_000),
    "nested lies of maps": (b"\xdf" + LIE[1:] + b"\xa1k") * 1000 + bytes(100_000),
    "short lies": b"\xdc\x07\xff" * 682,
    "short great lies": LIE * 400,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_takes_bounded_memory(bomb: bytes):
    tracemalloc.start()
    try:
        CODEC.decode(bomb)
    except ValueError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 160 * len(bomb) + 12_000_000


def decodes_or_raises_value_error(payload: bytes) -> None:
    try:
        value = CODEC.decode(payload)
    except ValueError:
        return
    assert comes_back(value)


@replayable
@given(st.binary(max_size=200))
def test_random_bytes_are_a_value_or_a_value_error(payload: bytes):
    decodes_or_raises_value_error(payload)


@replayable
@given(st.integers(1, 15), st.binary(max_size=40))
def test_random_bodies_are_a_value_or_a_value_error(code: int, body: bytes):
    decodes_or_raises_value_error(extension(code, body))


@replayable
@given(values, st.integers(0, 2**32))
def test_a_damaged_payload_is_a_value_or_a_value_error(value: object, seed: int):
    rng = random.Random(seed)
    payload = bytearray(CODEC.encode(value))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(payload) + 1)
        match rng.randrange(3):
            case 0:
                payload[at : at + 1] = rng.randbytes(1)
            case 1:
                del payload[at : at + rng.randint(1, 9)]
            case _:
                payload[at:at] = rng.choice([b"\x91", b"\x81\x01", b"\xd4\x02\x90", b"\xc7\x00\x0f", rng.randbytes(2)])
    decodes_or_raises_value_error(bytes(payload))


# --- the wire ---

MOMENT = datetime(2026, 11, 20, 8, 15, 30, 5, tzinfo=timezone(timedelta(hours=1), "CET"), fold=1)


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        ({"a": [1, None, b"b", 1.5]}, "81 a161 94 01 c0 c40162 cb3ff8000000000000"),
        ({1: 2}, "81 01 02"),
        ((1,), "d501 9101"),
        ({1}, "d502 9101"),
        (frozenset({1}), "d503 9101"),
        (bytearray(b"x"), "d404 78"),
        (2**64, "c70905 010000000000000000"),
        (-(2**63) - 1, "c70905 ff7fffffffffffffff"),
        (1 + 0.5j, "d806 3ff0000000000000 3fe0000000000000"),
        (MOMENT.replace(tzinfo=None), "c70b07 07ea 0b 14 08 0f 1e 0000000b"),
        (MOMENT, "c71707 07ea 0b 14 08 0f 1e 0000000b 6e 00000000d693a400 434554"),
        (MOMENT.astimezone(UTC), "c71407 07ea 0b 14 07 0f 1e 0000000a 6f 0000000000000000"),
        (date(2026, 11, 20), "d608 07ea 0b 14"),
        (MOMENT.time(), "c70709 08 0f 1e 0000000b"),
        (timedelta(-1, 2, 3), "c70c0a ffffffff 00000002 00000003"),
        (Decimal("-1.50"), "c7050b 2d312e3530"),
        (UUID(int=1), "d80c" + "00" * 15 + "01"),
        (Fraction(1, 2), "c7030d 92 01 02"),
        ("\ud800", "c7030e eda080"),
        (Level.LOW, "c7070f 92 a16c a34c4f57"),
        (Right.WRITE, "d60f 92 a172 02"),
        (Point(1, 2), "c7090f 95 a170 a17801 a17902"),
        (Pair(1, 2), "d80f 95 a162 a46c65667401 a5726967687402"),
    ],
    ids=lambda case: case if isinstance(case, str) else repr(case),
)
def test_the_wire_does_not_change_under_its_name(value: object, wire: str):
    codec = MsgpackCodec()
    for name, cls in {"l": Level, "r": Right, "p": Point, "b": Pair}.items():
        codec.register(cls, name=name)
    assert codec.name == "msgpack-1"
    assert codec.encode(value) == bytes.fromhex(wire)
    assert same(codec.decode(bytes.fromhex(wire)), value)


@needs_zones
def test_the_wire_of_a_zone_does_not_change():
    wire = bytes.fromhex("c71809 080f1e 0000000a 7a") + b"America/New_York"
    assert CODEC.encode(time(8, 15, 30, 5, tzinfo=NEW_YORK)) == wire


# --- threads ---


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    """Let threads take turns after every few instructions instead of every 5 ms."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_hasty_threads")
def test_threads_encode_and_decode_while_another_registers():
    codec, barrier = make_codec(), Barrier(4)
    value = {"users": [User(n, {Point(n, (n,)): Level.LOW}) for n in range(20)], 1: bytearray(b"x")}
    payload = codec.encode(value)

    def use(_: int) -> bool:
        barrier.wait()
        return all(codec.encode(value) == payload and same(codec.decode(payload), value) for _ in range(100))

    def register(thread: int) -> bool:
        barrier.wait()
        for n in range(300):
            codec.register(dataclasses.make_dataclass("C", ["x"]), name=f"{thread} {n}")
        return True

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(task, n) for n, task in enumerate((use, use, register, register))]
        assert all(task.result() for task in tasks)


@pytest.mark.usefixtures("_hasty_threads")
def test_no_registration_is_lost_among_threads():
    codec, barrier = MsgpackCodec(), Barrier(4)
    classes = [dataclasses.make_dataclass(f"C{n}", ["x"]) for n in range(200)]

    def register(mine: list[type]) -> None:
        barrier.wait()
        for cls in mine:
            codec.register(cls)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(register, [classes[n::4] for n in range(4)]))
    assert all(travelled(cls(1), codec) == cls(1) for cls in classes)


def test_a_class_can_be_registered_while_the_same_thread_registers_another():
    """A signal handler may do so at any instruction. Here it is the hash of a class."""

    class Interrupting(type):
        def __hash__(cls) -> int:
            if not done:
                done.append(cls)
                codec.register(User, name="user")
            return type.__hash__(cls)

    done = list[type]()
    codec = MsgpackCodec()
    cls: Any = Interrupting("Slow", (), {"__annotations__": {"x": int}, "__module__": __name__})
    done.append(cls)  # the decorator uses the hash, too
    cls = dataclasses.dataclass(cls)
    done.clear()
    codec.register(cls, name="slow")
    assert done
    assert travelled(User("x", []), codec) == User("x", [])
    assert travelled(cls(1), codec) == cls(1)


# --- pickle ---

KEY = bytes(range(32))


def test_pickle_carries_what_pickle_can():
    codec: Codec = PickleCodec(key=KEY)
    assert codec.name == "pickle-1"
    assert same(travelled({"a": (1, User("x")), "b": range(3)}, codec), {"a": (1, User("x")), "b": range(3)})


@pytest.mark.parametrize("key", [b"", b"k" * 31, "k" * 32, None, bytearray(32)], ids=repr)
def test_pickle_needs_a_long_key_and_does_not_tell_it(key: Any):
    with pytest.raises(ConfigError, match="at least 32 secret bytes") as caught:
        PickleCodec(key=key)
    assert "kkkk" not in str(caught.value)


def test_pickle_has_no_default_key():
    with pytest.raises(TypeError, match="key"):
        PickleCodec()  # type: ignore[call-arg]


class Bomb:
    went_off = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "went_off", True)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        pickle.dumps(Bomb()),
        bytes(32) + pickle.dumps(Bomb()),
        PickleCodec(key=b"another key of the same length!!").encode(Bomb()),
        PickleCodec(key=KEY).encode(Bomb())[:-1],
        PickleCodec(key=KEY).encode(Bomb()) + b".",
        PickleCodec(key=KEY).encode([])[:32] + pickle.dumps(Bomb()),
        hmac.digest(KEY, pickle.dumps(Bomb()), "sha256") + pickle.dumps(Bomb()),  # signed for another purpose
    ],
    ids=len,
)
def test_what_is_not_signed_with_the_key_is_never_loaded(payload: bytes):
    assert "is not signed with the key of this PickleCodec" in complaint(payload, PickleCodec(key=KEY))
    assert not Bomb.went_off


class Unpicklable:
    def __getstate__(self) -> Any:
        raise pickle.PickleError("not me")


def test_what_pickle_or_the_value_raises_comes_through():
    for value, error in ((Unpicklable(), pickle.PickleError), (Lock(), TypeError)):
        with pytest.raises(error) as caught:
            PickleCodec(key=KEY).encode(value)
        assert caught.value.__context__ is None
        assert "cannot be pickled" in caught.value.__notes__[0]


def test_what_is_too_deep_for_pickle_is_oversize():
    assert "too deep for pickle" in excess(deep(100_000, None), PickleCodec(key=KEY))


class Gone:
    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_what_pickle_cannot_load_is_a_value_error():
    codec = PickleCodec(key=KEY)
    assert complaint(codec.encode(Gone()), codec).startswith("the payload does not load: invalid literal")


def test_a_long_pickle_is_refused_unread():
    codec = PickleCodec(key=KEY, max_bytes=100)
    assert complaint(bytes(101), codec) == "the payload has 101 bytes, more than max_bytes=100"
