"""What a key may hold, and its canonical form. Keys with equal canonical forms are one key, in every process.

There are two rules, whatever the cache holds:

1. Numbers, texts, bytes, UUIDs, dates and tuples, and their subclasses, are the same part if they are equal in Python,
   as in a dict: ``1``, ``1.0``, ``True`` and ``Decimal(1)``; ``"a"`` and a member of a StrEnum that equals it.
2. All other parts are the same if their types and their contents are the same.

Readers look up a key first as its user wrote it, and then in its canonical form. Rule 2 must hold there, too. So the
canonical form of a part under rule 2 is a `Part`, which equals nothing that a user can write. Classes and members of
enums stay as they are, because they equal nothing but themselves.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from hashlib import blake2b
from operator import index
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from ..interruptions import raise_if_from_handler
from ..naming import qualified

MAX_PART = 200  # bytes; a longer part is kept, and travels, as its hash
MAX_DEPTH = 16  # nested containers
MAX_DIGITS = 100_000  # of a Decimal without exponent


class NotAPart(TypeError):
    """The object ``part`` cannot be part of a key. ``reason`` says why, and completes "which …"."""

    def __init__(self, part: object, reason: str) -> None:
        super().__init__(reason)
        self.part = part
        self.reason = reason


class _Marker:
    """Equals nothing but itself. It is not an enum, because Python code computes the hash of an enum's members."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


_PART: Final = _Marker("PART")

#: The first item in the canonical form of an object with a ``__cache_key__``. Its class and that key follow.
OBJECT: Final = _Marker("OBJECT")


class Part(tuple[Any, ...]):
    """The canonical form of a part under rule 2: its type and its bytes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{self[1]} {blake2b(self[2], digest_size=4).hexdigest()}>"


def canonical(part: Any, depth: int = 0) -> Any:
    """Return the canonical form of a part of a key. It can be hashed, and `encode` makes bytes of it.

    The canonical form is the part itself if possible. A canonical form is its own canonical form. Raise NotAPart, and
    whatever a ``__cache_key__`` raises.
    """
    kind = type(part)
    if kind in _AS_THEY_ARE or (kind is float and math.isfinite(part)):
        return part
    if depth > MAX_DEPTH:
        raise NotAPart(part, f"nests deeper than {MAX_DEPTH}")
    if kind is tuple:
        return _tuple(part, depth)
    equal = _by_equality(part, depth)
    return _by_type(part, kind, depth) if equal is None else equal


def typed(part: Any, depth: int = 0) -> Any:
    """Return the canonical form of a part together with its class, even if the part equals a plain value.

    The object of a method needs it: ``Status.NEW`` and ``Size.SMALL`` are different, though both equal 1.
    """
    own = getattr(type(part), "__cache_key__", None)
    if own is not None and not isinstance(part, type):
        return _object(type(part), canonical(own(part), depth + 1))
    form = canonical(part, depth)
    names_class = type(form) is Part or isinstance(form, type | Enum) or (type(form) is tuple and form[:1] == (OBJECT,))
    return form if names_class else _object(type(part), form)


def encode(part: Any) -> bytes:
    """Return the bytes of a canonical part. Different parts have different bytes, which say where they end."""
    kind = type(part)
    if kind is str:
        return b"s" + _text(part)
    if kind is int or kind is bool:
        return b"i" + _int_bytes(part)
    if part is None:
        return b"-"
    if kind is bytes:
        return b"b" + bytes(part)
    if kind is UUID:
        return b"u" + bytes(part.bytes)
    if kind is date:
        return b"d" + int(part.toordinal()).to_bytes(4, "big")
    if kind is Part:
        return bytes(part[2])
    if kind is tuple:
        if part and part[0] is OBJECT:
            return b"k" + _sized(_text(qualified(part[1]))) + encode(part[2])
        return b"(" + b"".join([_sized(encode(each)) for each in part])
    if kind is float or kind is Fraction:
        return _number_bytes(part)
    if isinstance(part, Enum):
        return b"e" + _sized(_text(qualified(kind))) + encode(_enum_key(part))
    return b"c" + _text(qualified(part))


def _tuple(parts: tuple[Any, ...], depth: int) -> tuple[Any, ...]:
    made = [canonical(part, depth + 1) for part in parts]
    unchanged = all(new is old for new, old in zip(made, parts, strict=True))
    return parts if unchanged and type(parts) is tuple else tuple(made)


# --- Rule 1: by equality


def _by_equality(part: Any, depth: int) -> Any:
    """Return the plain value that a part equals; None if rule 2 applies to the part."""
    if isinstance(part, str):
        return str.__str__(part)
    if isinstance(part, int):
        return int.__int__(part)
    if isinstance(part, float):
        return _number(float.__float__(part))
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes.__getitem__(part, slice(None)) if isinstance(part, bytes) else bytes(part)
    if isinstance(part, tuple) and type(part) is not Part:
        return _tuple(tuple(tuple.__iter__(part)), depth)
    if isinstance(part, UUID):
        return UUID(int=part.int)
    if isinstance(part, date) and not isinstance(part, datetime):
        return date(part.year, part.month, part.day)
    if isinstance(part, numbers.Number) or type(part).__module__ == "numpy":
        return _number(part)
    return None


def _number(part: Any) -> Any:
    """Return an int, a float or a Fraction that equals a number; a `Part` if it is not real; None if not a number."""
    if isinstance(part, float) and math.isfinite(part):
        return part
    if isinstance(part, numbers.Integral) and hasattr(part, "__index__"):
        return _index(part)
    if type(part).__name__ in ("bool", "bool_"):  # numpy's, which is not a Number
        return bool(part)
    if not isinstance(part, numbers.Number):
        return None
    if isinstance(part, Decimal):
        return _decimal(part)
    if isinstance(part, numbers.Rational):
        return _rational(Fraction(int(part.numerator), int(part.denominator)))
    if isinstance(part, numbers.Real):
        value = float(part)
        if math.isnan(value):
            return _part("nan", b"")
        if value != part:
            raise NotAPart(part, "is a number that a float cannot hold")
        return value
    if isinstance(part, numbers.Complex):
        whole = complex(part)
        if whole.imag == 0:
            return _number(whole.real)
        return _part("complex", _joined(map(_number, (whole.real, whole.imag))))
    return None


def _index(part: Any) -> int:
    try:
        return index(part)
    except TypeError as error:  # numpy's time spans count as integers
        raise_if_from_handler(error)
        raise NotAPart(part, "is not a number: convert it, for example by .item()") from None


def _decimal(part: Decimal) -> Any:
    if part.is_nan():
        return _part("Decimal", _text(str(part)))
    if part.is_infinite():
        return float(part)
    if abs(part.adjusted()) > MAX_DIGITS:
        raise NotAPart(part, f"is a number of more than {MAX_DIGITS} digits")
    return _rational(Fraction(part))


def _rational(value: Fraction) -> int | float | Fraction:
    if value.denominator == 1:
        return value.numerator
    try:
        close = float(value)
    except OverflowError as error:
        raise_if_from_handler(error)
        return value
    return close if Fraction(close) == value else value


def _number_bytes(number: float | Fraction) -> bytes:
    if isinstance(number, float) and math.isinf(number):
        return b"f+" if number > 0 else b"f-"
    numerator, denominator = number.as_integer_ratio()
    return encode(numerator) if denominator == 1 else b"q" + _joined((numerator, denominator))


# --- Rule 2: by type and content


def _by_type(part: Any, kind: type, depth: int) -> Any:
    if isinstance(part, type):
        return part if type(part).__hash__ is type.__hash__ else _part("class", _text(qualified(part)))
    own = getattr(kind, "__cache_key__", None)
    if own is not None:
        return _object(kind, canonical(own(part), depth + 1))
    if isinstance(part, Enum):
        return _member(part, kind)
    form = _FORMS.get(kind)
    if form is not None:
        return _part(kind.__name__, form(part, depth + 1))
    if hasattr(kind, "__mapper__"):
        raise NotAPart(part, "is an object of an ORM, which changes and belongs to a session: use its primary key")
    for base in (datetime, time, timedelta, PurePath):
        if isinstance(part, base):
            return _part(qualified(kind), _FORMS[base](part, depth + 1))
    fields = _fields(part, kind)
    if fields is None:
        raise NotAPart(part, _why_not(kind))
    return _part(qualified(kind), _joined(canonical(each, depth + 1) for each in fields))


def _object(kind: type, key: Any) -> Any:
    if type(kind).__hash__ is type.__hash__:
        return (OBJECT, kind, key)
    return _part(qualified(kind), b"k" + encode(key))


def _member(part: Enum, kind: type[Enum]) -> Any:
    if kind.__eq__ is object.__eq__ and kind.__hash__ in (Enum.__hash__, Flag.__hash__):
        return part
    return _part(qualified(kind), encode(_enum_key(part)))


def _enum_key(part: Enum) -> Any:
    return part.value if isinstance(part, Flag) else part.name


def _fields(part: Any, kind: Any) -> Iterable[Any] | None:
    """Return the fields that tell a record from others of its class; None if the part is not a record."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(part, pydantic.BaseModel):
        names = kind.model_fields if hasattr(kind, "model_fields") else kind.__fields__
        return [{name: getattr(part, name) for name in names}, *(getattr(part, name, None) or None for name in _BESIDE)]
    if not is_faithful_record(kind):
        return None
    if dataclasses.is_dataclass(kind):
        return [{field.name: getattr(part, field.name, None) for field in dataclasses.fields(kind)}]
    attributes = getattr(kind, "__attrs_attrs__", None)
    if attributes is not None:
        return [{attribute.name: getattr(part, attribute.name, None) for attribute in attributes}]
    return None


def is_faithful_record(kind: type) -> bool:
    """Tell whether the fields of a dataclass or attrs class hold the whole state of its objects.

    They do not if the class is also a container, or a subclass that adds state. A subclass adds state if it is not a
    dataclass or attrs class itself, and has an ``__init__``, an ``__eq__`` or slots of its own.
    """
    if issubclass(kind, dict | list | set | frozenset | tuple | bytearray):
        return False
    for base in kind.__mro__:
        own = vars(base)
        if "__dataclass_fields__" in own or "__attrs_attrs__" in own:
            return True
        if "__init__" in own or "__eq__" in own or own.get("__slots__"):
            return False
    return True


_BESIDE = ("__pydantic_extra__", "__pydantic_private__")  # what a model of pydantic holds beside its fields


def _why_not(kind: type) -> str:
    for base in (dict, list, set, frozenset):
        if issubclass(kind, base):
            name = base.__name__
            return f"is a subclass of {name} and may hold more than a {name}: convert it by {name}(...)"
    return "has no form that is the same in all processes"


def _datetime(part: datetime, depth: int) -> bytes:
    zone = part.tzinfo
    zoned = () if zone is None else (_zone(zone, part), _microseconds(part.utcoffset()), part.tzname())
    return _joined((part.replace(tzinfo=None).isoformat(), part.fold, *zoned))


def _time(part: time, depth: int) -> bytes:
    zoned = () if part.tzinfo is None else (_zone(part.tzinfo, part), part.tzname())
    return _joined((part.replace(tzinfo=None).isoformat(), part.fold, *zoned))


def _zone(zone: tzinfo, part: object) -> Any:
    """Return what tells a time zone from others: its name, or its offset if that never changes."""
    for attribute in ("key", "zone"):  # of zoneinfo and of pytz
        name = getattr(zone, attribute, None)
        if isinstance(name, str):
            return (qualified(type(zone)), str(name))
    offset = zone.utcoffset(None)
    if offset is None:
        raise NotAPart(part, f"has a time zone of the type {type(zone).__qualname__}: use a zoneinfo.ZoneInfo")
    return _microseconds(offset)


def _microseconds(span: timedelta | None) -> int | None:
    return None if span is None else span // timedelta(microseconds=1)


def _sorted(part: Iterable[Any], depth: int) -> bytes:
    return b"".join(sorted(_sized(encode(canonical(each, depth))) for each in part))


def _mapping(part: Mapping[Any, Any], depth: int) -> bytes:
    pairs = {
        _sized(encode(canonical(key, depth))): _sized(encode(canonical(value, depth))) for key, value in part.items()
    }
    if len(pairs) < len(part):
        raise NotAPart(part, "is a dict, and two of its keys are the same part")
    return b"".join(key + pairs[key] for key in sorted(pairs))


def _members(part: Iterable[Any], depth: int) -> bytes:
    return _joined(canonical(each, depth) for each in part)


def _written(part: object, depth: int) -> bytes:
    return _text(str(part))


#: How parts under rule 2 become bytes, by their types. Subclasses of the containers are refused: they may hold more.
_FORMS: Final[Mapping[type, Callable[[Any, int], bytes]]] = {
    datetime: _datetime,
    time: _time,
    timedelta: lambda part, depth: encode(_microseconds(part)),
    list: _members,
    set: _sorted,
    frozenset: _sorted,
    dict: _mapping,
    PurePath: _written,
    range: lambda part, depth: _joined((part.start, part.stop, part.step)),
    slice: lambda part, depth: _members((part.start, part.stop, part.step), depth),
    **dict.fromkeys(
        (
            ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network,
            ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network,
        ),
        _written,
    ),
}  # fmt: skip

_AS_THEY_ARE: Final = frozenset({str, int, bool, type(None), bytes, UUID, date, Part, Fraction, _Marker})


# --- Bytes


def _int_bytes(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)


def _part(kind: str, content: bytes) -> Part:
    body = b"o" + _sized(_text(kind)) + content
    return Part((_PART, kind, shortened(body, b"colocache-part")))


def shortened(body: bytes, person: bytes) -> bytes:
    """Return bytes as they are, or their hash if they are longer than `MAX_PART`."""
    return body if len(body) <= MAX_PART else b"#" + blake2b(body, digest_size=32, person=person).digest()


def _joined(parts: Iterable[Any]) -> bytes:
    return b"".join([_sized(encode(part)) for part in parts])


def _sized(encoded: bytes) -> bytes:
    return len(encoded).to_bytes(4, "big") + encoded


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def placeholder(kind: str) -> Part:
    """Return a part that stands for all objects of a kind that have no canonical form."""
    return _part(kind, b"")
