"""What may be in a key, and which keys are the same: by one rule, whatever is cached, in every process."""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import zoneinfo
from collections import OrderedDict, defaultdict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import combinations
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core.parts import MAX_DEPTH, NotAPart, canonical, encode
from tests import printed_with_two_hash_seeds, shown


class Number(enum.IntEnum):
    ONE = 1


class Letter(enum.StrEnum):
    A = "a"


class Mixed(str, enum.Enum):  # noqa: UP042  # as they are written
    RED = "red"


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = "crimson"


class Shade(enum.Enum):
    RED = "red"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Loud(enum.Enum):
    """Compares its members in its own way, so they cannot be looked up."""

    ON = 1

    def __eq__(self, other: object) -> bool:
        return True


class Text(str):
    __slots__ = ()


class Id(UUID):
    pass


class Day(date):
    pass


Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass
class Filter:
    word: str
    limits: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Query:
    word: str
    limits: list[int] = dataclasses.field(default_factory=list)


class User:
    def __init__(self, number: Any) -> None:
        self.number = number

    def __cache_key__(self) -> Any:
        return self.number


class Admin(User):
    pass


class Meta(type):
    """Classes that are equal to all others: they cannot be looked up."""

    def __eq__(cls, other: object) -> bool:
        return True

    def __hash__(cls) -> int:
        return 20210719


class Odd(metaclass=Meta):
    def __cache_key__(self) -> int:
        return 1


class Odder(metaclass=Meta):
    def __cache_key__(self) -> int:
        return 1


def form(part: Any) -> bytes:
    return encode(canonical(part))


UTC, BERLIN, VIENNA = UTC, zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Europe/Vienna")

#: In each row all are equal in Python, and one part.
EQUAL: list[list[Any]] = [
    [1, 1.0, True, Decimal(1), Decimal("1.00"), Fraction(1), Number.ONE, complex(1, 0)],
    [0, 0.0, -0.0, False, Decimal("-0"), Fraction(0)],
    [2.5, Decimal("2.5"), Fraction(5, 2), complex(2.5, 0)],
    [Decimal("0.1"), Fraction(1, 10)],
    [0.1, Decimal.from_float(0.1), Fraction(0.1)],
    [float("inf"), Decimal("inf")],
    [10**30, Decimal(10**30), Fraction(10**30)],
    [int(1e30), 1e30],
    ["a", Letter.A, Text("a")],
    ["red", Mixed.RED],
    [b"a", bytearray(b"a"), memoryview(b"a")],
    [(1, 2), Pair(1, 2), (True, 2.0)],
    [UUID(int=1), Id(int=1)],
    [date(2024, 1, 1), Day(2024, 1, 1)],
]

#: No two of them are one part.
APART: list[Any] = [
    *(row[0] for row in EQUAL),
    float("nan"), Decimal("nan"), Decimal("snan"), float("-inf"), 1j, 1 + 1j, complex("nan+1j"),
    datetime(2024, 1, 1), datetime(2024, 1, 1, fold=1), datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2024, 1, 1, 1, tzinfo=BERLIN),
    datetime(2024, 1, 1, 1, tzinfo=VIENNA), datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
    time(1), time(1, tzinfo=UTC), time(1, fold=1), timedelta(1), timedelta(0), "2024-01-01", "2024-01-01T00:00:00",
    Colour.RED, Colour.CRIMSON, Shade.RED, "RED", Right.READ, Right.READ | Right.WRITE, Loud.ON,
    [], [1, 2], [2, 1], [[1], 2], [1, [2]], set(), {1, 2}, frozenset({1, 2}), {}, {1: 2}, {2: 1}, {"a": [1]}, ((1, 2),),
    Filter("a"), Filter("b"), Filter("a", [1]), Query("a"), {"word": "a", "limits": []},
    User(1), User("1"), Admin(1), User((1,)), User([1]), (User, 1), User, Admin, int, f"{__name__}:User",
    Odd(), Odder(), Odd, Odder,
    PurePosixPath("a"), PurePosixPath("a/b"), range(3), range(4), range(0, 3, 2), slice(3), slice(0, 3),
    ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("10.0.0.1"), ipaddress.ip_interface("10.0.0.1/32"),
    ipaddress.ip_address("::1"), "10.0.0.1", None, "None", "", (), "x" * 300, ["x" * 300], ["x" * 301], (["x" * 300],),
]  # fmt: skip


@pytest.mark.parametrize("row", EQUAL, ids=shown)
def test_what_is_equal_is_one_part_and_found_as_such(row: list[Any]) -> None:
    first, *others = row
    for other in others:
        assert first == other
        assert form(first) == form(other)
        assert canonical(first) == canonical(other)
        assert hash(canonical(first)) == hash(canonical(other))


def test_all_others_are_apart_in_bytes_and_in_the_dictionary_of_hits() -> None:
    for one, other in combinations(APART, 2):
        assert form(one) != form(other), (one, other)
        assert canonical(one) != canonical(other), (one, other)
    assert len({canonical(part): None for part in APART}) == len(APART)


def test_a_part_under_rule_2_is_not_found_by_what_a_user_writes() -> None:
    """Readers look up the key as it is written first. That must not find another key."""
    kept = {canonical(part): form(part) for part in APART}
    for written in APART:
        try:
            found = kept.get(written)
        except TypeError:  # it has no hash, so it is looked up only in its canonical form
            continue
        assert found in (None, form(written)), written


@pytest.mark.parametrize("part", [*APART, *(part for row in EQUAL for part in row)], ids=shown)
def test_the_canonical_form_is_its_own(part: Any) -> None:
    known = canonical(part)
    assert canonical(known) == known
    assert encode(canonical(known)) == encode(known)


def test_the_order_of_sets_and_dicts_does_not_matter() -> None:
    assert form({"a": 1, "b": {"c": 2, "d": 3}}) == form({"b": {"d": 3, "c": 2}, "a": 1})
    assert form({1, "a", None}) == form({None, "a", 1})
    assert form([{"a": 1}]) == form([{"a": True}])


def test_nan_is_one_key() -> None:
    assert canonical(float("nan")) == canonical(float("-nan"))
    assert form([float("nan")]) == form([float("nan")])


numbers = (
    st.integers() | st.floats(allow_nan=False) | st.fractions() | st.decimals(allow_nan=False, places=3) | st.booleans()
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(numbers, numbers)
def test_numbers_are_one_part_exactly_if_they_are_equal(one: Any, other: Any) -> None:
    assert (form(one) == form(other)) == (one == other) == (canonical(one) == canonical(other))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(-(10**6), 10**6), st.sampled_from([int, float, Decimal, Fraction]), st.sampled_from([2, 4, 8, 1]))
def test_a_number_is_one_part_whatever_carries_it(numerator: int, kind: Any, denominator: int) -> None:
    assert form(Fraction(numerator, denominator)) == form(Decimal(numerator) / denominator)
    assert form(kind(numerator)) == form(numerator)


def test_keys_that_are_long_are_kept_by_their_hash() -> None:
    assert len(form(list(range(100_000)))) < 50
    assert len(repr(canonical(list(range(100_000))))) < 50


class FixedZone(timezone.__base__):  # type: ignore[misc, name-defined]
    def utcoffset(self, when: Any) -> timedelta | None:
        return None

    def tzname(self, when: Any) -> str:
        return "odd"

    def dst(self, when: Any) -> None:
        return None


itself: list[Any] = []
itself.append(itself)
deep: Any = 1
for _ in range(MAX_DEPTH + 2):
    deep = [deep]

REFUSED: dict[str, tuple[Any, str]] = {
    "object": (object(), "has no form that is the same in all processes"),
    "function": (len, "has no form"),
    "lambda": (lambda: 1, "has no form"),
    "generic": (list[int], "has no form"),
    "OrderedDict": (OrderedDict(a=1), r"a subclass of dict and may hold more than a dict: convert it by dict\("),
    "defaultdict": (defaultdict(list), "a subclass of dict"),
    "itself": (itself, "nests deeper than"),
    "deep": (deep, "nests deeper than"),
    "time zone": (datetime(2024, 1, 1, tzinfo=FixedZone()), "has a time zone of the type FixedZone: use a zoneinfo"),
    "huge": (Decimal("1E+999999999"), "is a number of more than 100000 digits"),
    "tiny": (Decimal("1E-999999999"), "is a number of more than 100000 digits"),
    "ambiguous": ({float("nan"): 1, float("nan"): 2}, "is a dict, and two of its keys are the same part"),
}


@pytest.mark.parametrize(("part", "reason"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: (1, [part])], ids=["alone", "within"])
def test_what_has_no_form_is_refused_with_the_reason(part: Any, reason: str, wrap: Any) -> None:
    with pytest.raises(NotAPart, match=reason):
        canonical(wrap(part))


def test_an_object_of_an_orm_is_refused_though_it_is_a_dataclass() -> None:
    @dataclasses.dataclass
    class Row:
        __mapper__ = None
        number: int

    with pytest.raises(NotAPart, match=r"is an object of an ORM, .* use its primary key"):
        canonical(Row(1))


def test_an_exception_of_a_cache_key_comes_through() -> None:
    class Broken:
        def __cache_key__(self) -> str:
            raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        canonical(Broken())


def test_a_class_that_is_defined_again_is_the_same_on_the_wire() -> None:
    again = type("User", (), {"__cache_key__": User.__cache_key__, "__module__": __name__, "number": 1})
    assert form(again()) == form(User(1))
    assert canonical(again()) != canonical(User(1)), "the old class may be another one"


# --- What other packages bring


def test_numbers_and_texts_of_numpy() -> None:
    np = pytest.importorskip("numpy")
    for one, other in [
        (np.int64(1), 1), (np.uint8(1), 1), (np.float64(2.5), 2.5), (np.float32(2.5), 2.5), (np.bool_(True), 1),
        (np.str_("a"), "a"), (np.bytes_(b"a"), b"a"), (np.complex128(1 + 2j), 1 + 2j),
        (np.float32(0.1), float(np.float32(0.1))), (np.float64("inf"), float("inf")), (np.float32("nan"), float("nan")),
    ]:  # fmt: skip
        assert form(one) == form(other), one
        assert canonical(one) == canonical(other), one
    for refused in (np.array([1, 2]), np.array(1), np.datetime64("2024-01-01"), np.zeros((2, 2))):
        with pytest.raises(NotAPart):
            canonical(refused)


def test_models_of_pydantic_are_told_apart_by_class_and_fields() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Item(pydantic.BaseModel):
        number: int
        words: list[str] = []  # noqa: RUF012

    class Other(Item):
        model_config = {"extra": "allow"}  # noqa: RUF012

    models = [Item(number=1), Item(number=2), Item(number=1, words=["a"]), Other(number=1), Other(number=1, more=2)]
    assert len({form(model) for model in models}) == len(models)
    assert form(Item(number=1)) == form(Item(number=1, words=[]))
    adapter = pydantic.TypeAdapter(datetime)
    assert form(adapter.validate_python("2024-01-01T00:00:00Z")) == form(datetime(2024, 1, 1, tzinfo=UTC))


def test_records_of_attrs_are_told_apart_by_class_and_fields() -> None:
    attrs = pytest.importorskip("attrs")

    @attrs.define
    class Point:
        x: int
        y: list[int]

    assert form(Point(1, [2])) == form(Point(1, [2])) != form(Point(1, [3]))


PROGRAM = """
from tests.core.test_parts import APART, form
print([form(part).hex() for part in APART])
"""


def test_every_process_makes_the_same_bytes() -> None:
    assert len(printed_with_two_hash_seeds(PROGRAM)) == 1
