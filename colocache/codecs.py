"""How values become the bytes that travel between processes, and values again.

`MsgpackCodec` is the default. It keeps three promises:

1. What `decode` returns equals what `encode` was given and has the same type, at every depth.
2. What cannot be carried so raises `TypeError` at `encode`; nothing is changed silently.
3. No payload, however hostile, makes `decode` raise anything but `ValueError`, import a module, run code of a class
   that is not registered, or take more than about 150 bytes of memory for each byte of payload.

On the wire a value is msgpack: None, bool, int of 64 bits, float, str, bytes, list, dict (with keys of any type that
can be one) and msgpack.Timestamp are msgpack's own; the other types are its extensions:

==== ============= =============================================================================================
code type          body (numbers big-endian)
==== ============= =============================================================================================
1    tuple         msgpack array
2    set           msgpack array
3    frozenset     msgpack array
4    bytearray     its bytes
5    int           two's complement, when it does not fit into 64 bits
6    complex       real and imaginary part, two float64
7    datetime      u16 year, u8 month, day, hour, minute, second, u32 microsecond * 2 + fold, zone
8    date          u16 year, u8 month, day
9    time          u8 hour, minute, second, u32 microsecond * 2 + fold, zone
10   timedelta     i32 days, u32 seconds, u32 microseconds
11   Decimal       its text
12   UUID          16 bytes
13   Fraction      msgpack array of numerator and denominator
14   str           UTF-8 with surrogates, when it has a lone surrogate
15   registered    msgpack array: registered name, then field, value, field, value, ...; of an enum the member's name,
                   of a flag its value
==== ============= =============================================================================================

A zone is empty (naive); or "o", i64 microseconds east of UTC; or "n", the same and a name; or "z", a ZoneInfo key.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import hmac
import pickle
import reprlib
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from .errors import ConfigError

MAX_BYTES: Final = 2**20 + 4096
"""The default limit of a payload: a value of 1 MiB, and room for the heads of its extensions."""

MAX_DEPTH: Final = 64
"""How many containers may be nested. 64 are safe for recursive code (repr, ==, deepcopy) under Python's own limit."""

MAX_ITEMS: Final = 100_000
"""How many members one container may have."""

_MAX_NUMBER: Final = 4096  # bytes of one number: arithmetic on longer ones is quadratic, and a peer could make us pay
_MAX_EQUAL_HASHES: Final = 64  # the powers of two of a float share a hash by 34; honest sets have hardly more
_FAST_NESTING: Final = 8  # each level of extension recurses through C frames, up to 1024 of them for nested lists

_Class = TypeVar("_Class", bound=type)


class Codec(Protocol):
    """Turns values into bytes and back; shared by all threads without a lock.

    ``name`` identifies the format on the wire, so that two applications with different codecs notice.
    """

    name: str

    def encode(self, value: object) -> bytes:
        """Return the payload of `value`; `TypeError` if it cannot be carried, saying what, where in it, and a remedy."""

    def decode(self, payload: bytes) -> object:
        """Return a new value, equal to the encoded one; `ValueError` if `payload` does not parse."""


# How single types travel


def _zone_body(zone: tzinfo | None) -> bytes:
    if zone is None:
        return b""
    if type(zone) is ZoneInfo and zone.key is not None:
        return b"z" + zone.key.encode()
    if type(zone) is not timezone:
        raise TypeError(f"its time zone is {zone!r}: use zoneinfo.ZoneInfo(key) or datetime.timezone")
    offset, name = zone.utcoffset(None), zone.tzname(None)
    body = struct.pack(">q", offset // timedelta(microseconds=1))
    return b"o" + body if name == timezone(offset).tzname(None) else b"n" + body + name.encode("utf-8", "surrogatepass")


def _zone(body: bytes) -> tzinfo | None:
    if not body:
        return None
    kind, rest = body[:1], body[1:]
    if kind == b"z":
        return ZoneInfo(rest.decode())
    offset = timedelta(microseconds=struct.unpack(">q", rest[:8])[0])
    if kind == b"o" and len(rest) == 8:
        return timezone(offset)
    if kind == b"n":
        return timezone(offset, rest[8:].decode("utf-8", "surrogatepass"))
    raise ValueError(f"unknown time zone {body!r}")


_CLOCK = struct.Struct(">BBBI")
_DATE = struct.Struct(">HBB")
_TIMEDELTA = struct.Struct(">iII")
_COMPLEX = struct.Struct(">dd")


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


def _timedelta(body: bytes) -> timedelta:
    return timedelta(*_TIMEDELTA.unpack(body))


def _number_body(body: bytes) -> bytes:
    if len(body) > _MAX_NUMBER:
        raise TypeError(f"it takes {len(body)} bytes, more than the {_MAX_NUMBER} that a number may: convert it to str")
    return body


def _number(body: bytes) -> bytes:
    if len(body) > _MAX_NUMBER:
        raise ValueError(f"a number of {len(body)} bytes, more than {_MAX_NUMBER}")
    return body


def _int_body(value: int) -> bytes:
    return _number_body(value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


# A malformed text must raise, also in an application whose own context does not trap InvalidOperation.
_STRICT = Context(traps=[InvalidOperation])


def _decimal(body: bytes) -> Decimal:
    return Decimal(_number(body).decode("ascii"), _STRICT)


def _fraction(parts: list[Any]) -> Fraction:
    numerator, denominator = parts
    if type(numerator) is not int or type(denominator) is not int:
        raise ValueError("a fraction that is not two ints")
    return Fraction(numerator, denominator)


def _hashable(members: list[Any]) -> list[Any]:
    """Return `members`; `ValueError` if so many have one hash that a set of them would cost quadratic time.

    The hashes of numbers, and of tuples of them, are no secret: a peer can choose 80,000 in 1 MiB that all collide.
    """
    if len(members) > _MAX_EQUAL_HASHES and max(Counter(map(hash, members)).values()) > _MAX_EQUAL_HASHES:
        raise ValueError(f"more than {_MAX_EQUAL_HASHES} keys or members with the same hash")
    return members


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    _hashable([key for key, _ in pairs])
    return dict(pairs)


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """How the values of one type travel: as extension `code`.

    `apart` makes the body of a value, and `together` the value of a body; of a box, what they make and take is not
    the body but the list of parts that is packed into it.
    """

    code: int
    apart: Callable[[Any], Any]
    together: Callable[[Any], Any]
    is_box: bool = False


_REGISTERED: Final = 15

_FORMS: Final[Mapping[type, _Form]] = {
    tuple: _Form(1, list, tuple, is_box=True),
    set: _Form(2, list, lambda parts: set(_hashable(parts)), is_box=True),
    frozenset: _Form(3, list, lambda parts: frozenset(_hashable(parts)), is_box=True),
    bytearray: _Form(4, bytes, bytearray),
    int: _Form(5, _int_body, lambda body: int.from_bytes(_number(body), "big", signed=True)),
    complex: _Form(6, lambda value: _COMPLEX.pack(value.real, value.imag), lambda body: complex(*_COMPLEX.unpack(body))),
    datetime: _Form(7, lambda value: _date_body(value) + _time_body(value), _datetime),
    date: _Form(8, _date_body, lambda body: date(*_DATE.unpack(body))),
    time: _Form(9, _time_body, _time),
    timedelta: _Form(10, lambda value: _TIMEDELTA.pack(value.days, value.seconds, value.microseconds), _timedelta),
    Decimal: _Form(11, lambda value: _number_body(str(value).encode("ascii")), _decimal),
    UUID: _Form(12, lambda value: value.bytes, lambda body: UUID(bytes=body)),
    Fraction: _Form(13, lambda value: [value.numerator, value.denominator], _fraction, is_box=True),
    str: _Form(14, lambda value: value.encode("utf-8", "surrogatepass"), lambda body: body.decode("utf-8", "surrogatepass")),
}
_CODES: Final = {form.code: form for form in _FORMS.values()}

_NATIVE: Final = frozenset({type(None), bool, float, bytes, msgpack.Timestamp, list, dict})  # beside those of _FORMS
_SIZED: Final = frozenset({list, dict, tuple, set, frozenset})
_LEAVES: Final = (_NATIVE | {kind for kind, form in _FORMS.items() if not form.is_box}) - {list, dict, bytearray}


def _keys_and_values(mapping: dict[Any, Any]) -> Iterable[Any]:
    return chain(mapping, mapping.values())


_INSIDE: Final[Mapping[type, Callable[[Any], Iterable[Any]]]] = {
    list: iter,
    dict: _keys_and_values,
    **{kind: form.apart for kind, form in _FORMS.items() if form.is_box},
}


# What the bytes alone tell


_BOX_HEADS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])  # of arrays and maps
_OTHER_HEADS: Final = bytes([*range(0xC4, 0xCA), *range(0xD4, 0xD9)])  # of bytes and extensions
_NO_HEADS: Final = bytes(set(range(256)).difference(_BOX_HEADS, _OTHER_HEADS))


def _heads(payload: bytes) -> bytes:
    """Return the bytes that can be heads of arrays, maps, bytes or extensions; each level of nesting has one.

    Many are parts of texts and floats instead. So few of them prove something, and many nothing. It takes a tenth of
    the time of decoding, where a look at each object takes as long as that.
    """
    return payload.translate(None, _NO_HEADS)


def _is_plain(payload: bytes) -> bool:
    """Say whether `payload` was surely packed from nothing but None, bool, int, float, str, list and dict, in limits."""
    heads = _heads(payload)
    return len(payload) <= MAX_ITEMS and len(heads) <= MAX_DEPTH and not heads.strip(_BOX_HEADS)


def _extension(form: _Form, value: Any) -> msgpack.ExtType:
    return msgpack.ExtType(form.code, form.apart(value))


def _lowered(value: Any) -> Any:
    """Return `value` with those types replaced that msgpack changes, or refuses, without calling ``default``."""
    kind = type(value)
    if kind is bytearray or (kind is str and not _is_utf8(value)):
        return _extension(_FORMS[kind], value)
    if kind is list:
        return [_lowered(item) for item in value]
    if kind is dict:
        return {_lowered(key): _lowered(item) for key, item in value.items()}
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class MsgpackCodec:
    """The default codec: msgpack, with an extension for every type that msgpack would change or refuse.

    Carries None, bool, int, float, complex, Decimal, Fraction, str, bytes, bytearray, list, tuple, set, frozenset,
    dict, date, time, datetime (naive, or with a ``datetime.timezone`` or ``zoneinfo.ZoneInfo``), timedelta and UUID;
    and enums, dataclasses and NamedTuples that the application registers, under the same name in every process.
    Subclasses of these are other types and are refused.

    `encode` and `decode` may be called by any thread, at any time, also while another registers a class.
    """

    name = "msgpack-1"

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        """`max_bytes` limits a payload; a longer one raises `TypeError` at encode, and `ValueError` at decode."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # Replaced as a whole by `register`, never changed: so readers need no lock.
        self._forms: Mapping[type, _Form] = _FORMS
        self._inside = _INSIDE
        self._names: Mapping[str, tuple[type, _Form]] = {}

    def register(self, cls: _Class, *, name: str | None = None) -> _Class:
        """Let instances of `cls` travel, and return `cls`, so that it can be a decorator.

        Every process that exchanges values must register it under the same name, ``module:qualname`` by default. A
        class registered again under another name is written under the new one, and read under both.

        Instances are restored field by field, without ``__init__`` and ``__post_init__``; attributes that are not
        fields do not travel, and types of fields are not checked.

        Raises `TypeError` if `cls` is not an enum, a dataclass or a NamedTuple, and `ValueError` if `name` is taken.
        """
        name = name or _default_name(cls)
        form = _class_form(cls, name)
        with self._lock:
            taken, _ = self._names.get(name, (cls, form))
            if taken is not cls:
                raise ValueError(f"{name!r} is registered for {taken!r}: give name=... for {cls!r}")
            self._names = {**self._names, name: (cls, form)}
            self._inside = {**self._inside, cls: form.apart}
            self._forms = {**self._forms, cls: form}
        return cls

    def encode(self, value: object) -> bytes:
        """Return the payload of `value`; `TypeError` if it cannot be carried, saying what, where in it, and a remedy."""
        try:
            payload = self._pack(value, _FAST_NESTING)
            done = _is_plain(payload) or self._is_regular(value, is_long=len(payload) > MAX_ITEMS)
        except Exception:  # what it is, and where, the slow way finds out
            done = False
        if not done:
            self._check(value)
            payload = self._pack(_lowered(value), MAX_DEPTH, prepare=_lowered)
        if len(payload) > self._max_bytes:
            raise TypeError(f"the value takes {len(payload)} bytes, more than max_bytes={self._max_bytes}: split it")
        return payload

    def decode(self, payload: bytes) -> object:
        """Return a new value, equal to the encoded one; `ValueError` if `payload` does not parse or breaks a limit."""
        if len(payload) > self._max_bytes:
            raise ValueError(f"a payload of {len(payload)} bytes, more than max_bytes={self._max_bytes}")
        try:
            return self._read(payload, {"strict_map_key": True})
        except Exception:  # there may be keys that are neither str nor bytes: only those pay for `_mapping`
            pass
        try:
            return self._read(payload, {"strict_map_key": False, "object_pairs_hook": _mapping})
        except Exception as error:
            raise ValueError(f"the payload does not parse as {self.name}: {error}") from error

    def _pack(self, value: Any, room: int, prepare: Callable[[Any], Any] | None = None) -> bytes:
        """Pack `value` with up to `room` nested boxes; of each, the parts pass through `prepare` first."""
        default = partial(self._packed_extension, room, prepare)
        # A small buffer grows as needed; the default of 256 KiB costs a third of the time of packing 1 KiB.
        packer = msgpack.Packer(use_bin_type=True, strict_types=True, default=default, buf_size=2048)
        return packer.pack(value)  # type: ignore[no-any-return]

    def _packed_extension(self, room: int, prepare: Callable[[Any], Any] | None, value: Any) -> msgpack.ExtType:
        form = self._forms[type(value)]
        if not form.is_box:
            return msgpack.ExtType(form.code, form.apart(value))
        if not room:
            raise TypeError("nested too deep")
        parts = form.apart(value)
        return msgpack.ExtType(form.code, self._pack(prepare(parts) if prepare else parts, room - 1, prepare))

    def _read(self, payload: bytes, options: Mapping[str, Any]) -> object:
        value = self._unpack(payload, MAX_DEPTH, options)
        if len(_heads(payload)) > MAX_DEPTH and next(islice(self._levels(value), MAX_DEPTH, None), None):
            raise ValueError(f"containers are nested more than {MAX_DEPTH} deep")
        return value

    def _unpack(self, payload: bytes, room: int, options: Mapping[str, Any]) -> Any:
        return msgpack.unpackb(
            payload,
            ext_hook=partial(self._unpacked_extension, room, options),
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            **options,
        )

    def _unpacked_extension(self, room: int, options: Mapping[str, Any], code: int, body: bytes) -> Any:
        form = _CODES.get(code)
        if form is None and code != _REGISTERED:
            raise ValueError(f"unknown extension {code}")
        if form is not None and not form.is_box:
            return form.together(body)
        if not room:
            raise ValueError("nested too deep")
        parts = self._unpack(body, room - 1, options)
        if type(parts) is not list:
            raise ValueError(f"extension {code} is not an array")
        return form.together(parts) if form else self._together(*parts)

    def _together(self, name: str, *parts: Any) -> Any:
        if name not in self._names:
            raise ValueError(f"class {name!r} is not registered in this process: register it in all")
        return self._names[name][1].together(parts)

    def _levels(self, value: Any) -> Iterator[list[Any]]:
        """Yield the containers, and whatever is not known, at depth 1, 2, ...; the fastest walk that Python has."""
        level = [value]
        while boxes := [item for item in level if type(item) not in _LEAVES]:
            yield boxes
            level = []
            for box in boxes:
                level += self._inside.get(type(box), _nothing)(box)

    def _is_regular(self, value: Any, is_long: bool) -> bool:
        """Say whether what msgpack packed without complaint is what it should have packed."""
        for depth, boxes in enumerate(self._levels(value), 1):
            if depth > MAX_DEPTH or not self._inside.keys() >= set(map(type, boxes)):
                return False
            if is_long and any(type(box) in _SIZED and len(box) > MAX_ITEMS for box in boxes):
                return False
        return True

    def _check(self, value: Any) -> None:
        """Raise the `TypeError` that says which part of `value` cannot be carried, if there is one."""
        todo: list[tuple[tuple[str, ...], Any]] = [((), value)]
        while todo:
            path, item = todo.pop()
            if trouble := self._trouble(item, len(path)):
                kind = _default_name(type(item)).replace(":", ".").removeprefix("builtins.")
                raise TypeError(f"value{''.join(path)}, a {kind}, cannot be carried: {trouble}")
            todo += reversed([((*path, step), child) for step, child in self._steps(item)])

    def _trouble(self, item: Any, depth: int) -> str:
        kind = type(item)
        if kind in self._inside and depth >= MAX_DEPTH:
            return f"it is nested more than {MAX_DEPTH} deep, or contains itself: flatten it"
        if kind in _SIZED and len(item) > MAX_ITEMS:
            return f"it has {len(item)} members, more than {MAX_ITEMS}: split it"
        if kind in _NATIVE:
            return ""
        if kind not in self._forms:
            return _remedy(kind)
        try:
            self._forms[kind].apart(item)
        except Exception as error:  # a zone, a number's size, a field that was never set, a property of the user's
            return str(error)
        return ""

    def _steps(self, item: Any) -> Iterator[tuple[str, Any]]:
        """Yield the parts of `item`, each with the step that leads to it, as a user would write it."""
        kind = type(item)
        if kind is dict:
            for key, value in item.items():
                yield f" key {reprlib.repr(key)}", key
                yield f"[{reprlib.repr(key)}]", value
        elif kind in _INSIDE:
            for index, part in enumerate(_INSIDE[kind](item)):
                yield f"[{index}]", part
        elif kind in self._inside:
            _, *parts = self._inside[kind](item)
            for field, part in zip(parts[::2], parts[1::2], strict=False):
                yield f".{field}", part


def _nothing(_: Any) -> Iterable[Any]:
    return ()


# Registered classes


def _default_name(cls: type) -> str:
    # The main module of a spawned worker is __mp_main__; its classes are those of its parent's __main__.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return f"{module}:{cls.__qualname__}"


def _field_names(cls: type) -> tuple[str, ...] | None:
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    return getattr(cls, "_fields", None) if issubclass(cls, tuple) else None


def _remedy(kind: type) -> str:
    if issubclass(kind, enum.Enum) or _field_names(kind) is not None:
        first = f"register the class in every process, codec.register({kind.__name__})"
    else:
        base = next((base.__name__ for base in kind.__mro__ if base in _NATIVE or base in _FORMS), "")
        first = f"convert it, as by {base}(...)" if base else "convert it to types that are"
    return f"{first}, or use another codec"


def _class_form(cls: type, name: str) -> _Form:
    if issubclass(cls, enum.Flag):
        return _Form(_REGISTERED, lambda member: [name, member.value], lambda parts: cls(*parts), is_box=True)
    if issubclass(cls, enum.Enum):
        return _Form(_REGISTERED, lambda member: [name, member.name], partial(_member, cls), is_box=True)
    fields = _field_names(cls)
    if fields is None:
        raise TypeError(f"{cls!r} is not an enum, a dataclass or a NamedTuple: convert its instances to one")
    if not issubclass(cls, tuple):
        object.__new__(cls)  # raises TypeError if it is abstract, or has the hidden state of a built-in type
    return _Form(_REGISTERED, partial(_fields_of, name, fields), partial(_with_fields, cls, fields), is_box=True)


def _member(cls: type[enum.Enum], parts: tuple[Any, ...]) -> enum.Enum:
    (name,) = parts
    if name not in cls.__members__:
        raise ValueError(f"{cls!r} has no member {name!r}: the two applications have different versions")
    return cls.__members__[name]


def _fields_of(name: str, fields: tuple[str, ...], record: Any) -> list[Any]:
    values = record if isinstance(record, tuple) else [getattr(record, field) for field in fields]
    return [name, *chain.from_iterable(zip(fields, values, strict=True))]


def _with_fields(cls: type, fields: tuple[str, ...], parts: tuple[Any, ...]) -> Any:
    state = dict(zip(parts[::2], parts[1::2], strict=True))
    if state.keys() != set(fields):
        raise ValueError(f"{cls!r} has other fields than {[*state]}: the two applications have different versions")
    if issubclass(cls, tuple):
        return tuple.__new__(cls, [state[field] for field in fields])
    record = object.__new__(cls)
    for field in fields:
        object.__setattr__(record, field, state[field])
    return record


class PickleCodec:
    """Carries whatever pickle can, for those who take its risk; never used unless the application asks for it.

    The risk: whoever knows `key` can run any code in every process of the group, by a payload that he signs. The
    signature keeps all others out. It says nothing about the cache key that a payload belongs to, nor when it was
    made: a peer without the key can still serve an old payload, or that of another key.

    Both methods may be called by any thread at any time.
    """

    name = "pickle-1"

    def __init__(self, *, key: bytes, max_bytes: int = MAX_BYTES) -> None:
        """`key` is a secret of 32 bytes or more, the same in every process; `ConfigError` if it is not that."""
        if type(key) is not bytes or len(key) < 32:
            raise ConfigError("PickleCodec needs key=..., 32 secret bytes or more: make them once by os.urandom(32)")
        self._key = key
        self._max_bytes = max_bytes

    def encode(self, value: object) -> bytes:
        """Return the signed pickle of `value`; `TypeError` if pickle refuses it, or it is too long."""
        try:
            body = pickle.dumps(value, protocol=5)
        except Exception as error:
            raise TypeError(f"value, a {type(value).__qualname__}, cannot be pickled: {error}") from error
        if len(body) + _SIGNATURE > self._max_bytes:
            raise TypeError(f"the value takes {len(body)} bytes, more than max_bytes={self._max_bytes} allows: split it")
        return self._signature(body) + body

    def decode(self, payload: bytes) -> object:
        """Return the value; `ValueError` if `payload` is too long, not signed with the key, or does not load."""
        if len(payload) > self._max_bytes:
            raise ValueError(f"a payload of {len(payload)} bytes, more than max_bytes={self._max_bytes}")
        body = payload[_SIGNATURE:]
        if not hmac.compare_digest(self._signature(body), payload[:_SIGNATURE]):
            raise ValueError("the payload is not signed with this codec's key: give every process the same")
        try:
            return pickle.loads(body)
        except Exception as error:
            raise ValueError(f"the payload does not load: {error}") from error

    def _signature(self, body: bytes) -> bytes:
        # The name keeps a signature that the same key made for another purpose, or version, from being accepted.
        return hmac.digest(self._key, self.name.encode() + body, hashlib.sha256)


_SIGNATURE: Final = 32  # bytes of HMAC-SHA256
