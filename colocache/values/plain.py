"""How values of Python's plain types travel: numbers, texts, dates, and the containers that msgpack does not know."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from ..errors import OversizeError
from ..interruptions import raise_if_from_handler
from .form import Form, hashable, type_name

_MAX_NUMBER: Final = 4096  # bytes of one number, because arithmetic with longer ones takes quadratic time

# --- Dates and times

_CLOCK: Final = struct.Struct(">BBBI")
_DATE: Final = struct.Struct(">HBB")
_TIMEDELTA: Final = struct.Struct(">iII")


def _zone_body(zone: tzinfo | None) -> bytes:
    if zone is None:
        return b""
    if type(zone) is ZoneInfo and zone.key is not None:
        return b"z" + zone.key.encode()
    if type(zone) is not timezone and type(zone) is not _pydantic_zone():
        raise TypeError(f"its time zone is of type {type_name(type(zone))}; use a ZoneInfo or a datetime.timezone")
    offset: Any = zone.utcoffset(None)
    name: Any = zone.tzname(None)
    body = struct.pack(">q", offset // timedelta(microseconds=1))
    if type(zone) is not timezone:
        return b"p" + body
    return b"o" + body if name == timezone(offset).tzname(None) else b"n" + body + _text_body(name)


def _zone(body: bytes) -> tzinfo | None:
    if not body:
        return None
    if body.startswith(b"z"):
        return ZoneInfo(body[1:].decode())
    offset = timedelta(microseconds=struct.unpack(">q", body[1:9])[0])
    if body.startswith(b"n"):
        return timezone(offset, _text(body[9:]))
    if body.startswith(b"o") and len(body) == 9:
        return timezone(offset)
    if body.startswith(b"p") and len(body) == 9 and (fixed := _pydantic_zone()) is not None:
        return fixed(offset // timedelta(seconds=1))  # type: ignore[no-any-return]
    raise ValueError(f"no time zone: {body!r}")


def _pydantic_zone() -> Any:
    """Return the class of the zones that pydantic makes of texts such as ``2026-01-01T00:00Z``; None without it."""
    return getattr(sys.modules.get("pydantic_core"), "TzInfo", None)


def _time_body(value: time | datetime) -> bytes:
    clock = _CLOCK.pack(value.hour, value.minute, value.second, value.microsecond * 2 + value.fold)
    return clock + _zone_body(value.tzinfo)


def _time(body: bytes) -> time:
    hour, minute, second, rest = _CLOCK.unpack_from(body)
    return time(hour, minute, second, rest // 2, _zone(body[_CLOCK.size :]), fold=rest % 2)


def _date_body(value: date) -> bytes:
    return _DATE.pack(value.year, value.month, value.day)


def _datetime(body: bytes) -> datetime:
    return datetime.combine(date(*_DATE.unpack_from(body)), _time(body[_DATE.size :]))


# --- Texts and numbers

_COMPLEX: Final = struct.Struct(">dd")

# A malformed text must raise even in an application that does not trap InvalidOperation.
_STRICT: Final = Context(traps=[InvalidOperation])


def _text_body(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(body: bytes) -> str:
    return body.decode("utf-8", "surrogatepass")


def _bounded(body: bytes, error: type[Exception] = ValueError) -> bytes:
    if len(body) > _MAX_NUMBER:
        raise error(f"a number may take {_MAX_NUMBER} bytes, and it takes {len(body)}: convert it to str")
    return body


def _int_body(value: int) -> bytes:
    return _bounded(value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True), OversizeError)


def _fraction(parts: list[Any]) -> Fraction:
    if set(map(type, parts)) != {int}:
        raise ValueError("a fraction that is not of two ints")
    numerator, denominator = parts
    return Fraction(numerator, denominator)


# --- The tables

FORMS: Final[Mapping[type, Form]] = {
    tuple: Form(1, list, tuple, is_box=True),
    set: Form(2, list, lambda parts: set(hashable(parts)), is_box=True),
    frozenset: Form(3, list, lambda parts: frozenset(hashable(parts)), is_box=True),
    bytearray: Form(4, bytes, bytearray),
    int: Form(5, _int_body, lambda body: int.from_bytes(_bounded(body), "big", signed=True)),
    complex: Form(
        6,
        lambda value: _COMPLEX.pack(value.real, value.imag),
        lambda body: complex(*_COMPLEX.unpack(body)),
    ),
    datetime: Form(7, lambda value: _date_body(value) + _time_body(value), _datetime),
    date: Form(8, _date_body, lambda body: date(*_DATE.unpack(body))),
    time: Form(9, _time_body, _time),
    timedelta: Form(
        10,
        lambda value: _TIMEDELTA.pack(value.days, value.seconds, value.microseconds),
        lambda body: timedelta(*_TIMEDELTA.unpack(body)),
    ),
    Decimal: Form(
        11,
        lambda value: _bounded(str(value).encode("ascii"), OversizeError),
        lambda body: Decimal(_bounded(body).decode("ascii"), _STRICT),
    ),
    UUID: Form(12, lambda value: value.bytes, lambda body: UUID(bytes=body)),
    Fraction: Form(13, lambda value: [value.numerator, value.denominator], _fraction, is_box=True),
    str: Form(14, _text_body, _text),
}
CODES: Final = {form.code: form for form in FORMS.values()}

#: The types that msgpack itself carries.
NATIVE: Final = frozenset({type(None), bool, float, bytes, list, dict, msgpack.Timestamp})

#: The types of `NATIVE` and `FORMS` whose values hold no other values. Without bytearray, which msgpack packs as bytes.
LEAVES: Final = NATIVE.union(kind for kind, form in FORMS.items() if not form.is_box) - {list, dict, bytearray}

Boxes = Mapping[type, Callable[[Any], Iterable[Any]]]

#: The containers, each with the function that returns what is inside.
BOXES: Final[Boxes] = {
    list: list,
    dict: lambda mapping: [*mapping, *mapping.values()],
    **{kind: form.to_wire for kind, form in FORMS.items() if form.is_box},
}


def extended(value: Any) -> Any:
    """Return `value` with extensions for what msgpack would change, or refuse, without asking ``default``."""
    kind = type(value)
    if kind is bytearray or (kind is str and not _is_utf8(value)):
        return msgpack.ExtType(FORMS[kind].code, FORMS[kind].to_wire(value))
    if kind is list:
        return [extended(item) for item in value]
    if kind is dict:
        return {extended(key): extended(item) for key, item in value.items()}
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise_if_from_handler(error)
        return False
    return True
