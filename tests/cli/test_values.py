"""Values that are shown without the application that made them."""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pydantic
import pytest

from colocache import MsgpackCodec, PickleCodec
from colocache.cli.values import shown
from colocache.values.carrier import Carrier


@dataclass(frozen=True)
class Tea:
    name: str
    price: Any


class Pair(NamedTuple):
    one: int
    other: list[Any]


class Colour(enum.Enum):
    GREEN = "g"


class Bits(enum.Flag):
    A = 1
    B = 2


class Model(pydantic.BaseModel):
    id: int
    secret: pydantic.SecretStr


def carried(value: object, *classes: type) -> bytes:
    codec = MsgpackCodec()
    for cls in classes:
        codec.register(cls, name=f"shop:{cls.__name__}")
    return Carrier(codec).encode(value)


PLAIN = [None, True, 7, -(1 << 70), 2.5, "text", "\ud800", [1, [2, {"a": None}]], {"k": {"l": []}}]


@pytest.mark.parametrize("value", PLAIN, ids=ascii)
def test_what_json_can_say_is_plain(value: Any) -> None:
    assert shown(carried(value)) == (repr(value), True, value, "")


OTHERS = [
    (1, "a"), {1, 2}, frozenset({3}), b"bytes", bytearray(b"x"), 1 + 2j, date(2026, 1, 2), Decimal("1.50"), {1: 2},
    datetime(2026, 1, 2, 3, tzinfo=UTC), UUID(int=7), float("inf"), {"deep": (1,)}, OrderedDict(a=1), range(3),
]  # fmt: skip


@pytest.mark.parametrize("value", OTHERS, ids=ascii)
def test_of_other_values_python_writes_the_text(value: Any) -> None:
    assert shown(carried(value)) == (repr(value), False, None, "")


def test_instances_of_the_application_are_shown_by_name_and_fields() -> None:
    assert shown(carried(Tea("green", [Pair(1, [Colour.GREEN])]), Tea, Pair, Colour)).text == (
        "<shop:Tea name='green', price=[<shop:Pair one=1, other=[<shop:Colour 'GREEN'>]>]>"
    )
    assert (
        shown(carried({Tea("a", 1): Bits.A | Bits.B}, Tea, Bits)).text
        == "{<shop:Tea name='a', price=1>: <shop:Bits 3>}"
    )
    assert shown(carried({Tea("a", 1)}, Tea)).text == "{<shop:Tea name='a', price=1>}"


def test_what_pydantic_keeps_secret_stays_secret() -> None:
    secret = pydantic.SecretStr("hunter2")
    for value in (secret, Model(id=1, secret=secret), [{"a": secret}]):
        text = shown(carried(value, Model)).text
        assert "hunter2" not in text
        assert "**********" in text


def test_a_pickle_is_not_opened() -> None:
    codec = PickleCodec(key=b"k" * 32)
    found = shown(Carrier(codec).encode(["value"]))
    assert "it is pickled, and to read it would run code" in found.text
    assert found.why


TEXT = carried("x")[:4]
TORN = [
    b"", b"x", b"\0" * 4, TEXT, carried([1, 2])[:-1], TEXT + b"\xc1", TEXT + b"\xc7\xff\x63x",
    TEXT + b"\xdd\xff\xff\xff\xff",
]  # fmt: skip


@pytest.mark.parametrize("payload", TORN)
def test_whatever_cannot_be_read_says_so_and_raises_nothing(payload: bytes) -> None:
    found = shown(payload)
    assert found.why
    assert not found.is_plain
    assert len(found.text) < 1000
