"""How values become the bytes that travel between processes, and values again.

`MsgpackCodec`, the default, keeps three promises:

1. What `decode` returns equals what `encode` was given and has the same type, at every depth.
2. What cannot be carried so raises `TypeError` at `encode`; nothing is changed silently.
3. No payload, however hostile, makes `decode` raise anything but `ValueError`, import a module, run code of a class
   that is not registered, or take more memory than 160 bytes for each byte of payload, and 12 MB.

On the wire a value is msgpack. None, bool, float, bytes, list, dict (with any key that a dict may have), Timestamp, and
such int and str as msgpack can hold, are its own types; all others are its extensions, with these codes and bodies:

 1 tuple, 2 set, 3 frozenset: an array of the members      13 Fraction: an array of numerator and denominator
 4 bytearray: its bytes                                    11 Decimal: its text
 5 int, when beyond 64 bits: two's complement              12 UUID: its 16 bytes
 6 complex: two float64                                    14 str, when it has a lone surrogate: UTF-8 with surrogates
 8 date: u16 year, u8 month, u8 day                        10 timedelta: i32 days, u32 seconds, u32 microseconds
 9 time: u8 hour, u8 minute, u8 second, u32 microsecond * 2 + fold, and a zone
 7 datetime: a date and a time
15 a registered class: an array of its name and, of a record, field, value, field, value, ...; of an enum, the member's
   name; of a flag, its value

Numbers are big-endian. A zone is nothing (naive), or "o" and i64 microseconds east of UTC, or "n", the same and a name,
or "z" and the key of a ZoneInfo.
"""

from __future__ import annotations

import dataclasses
import enum
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
from itertools import chain
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from .errors import ConfigError

MAX_BYTES: Final = 2**20 + 4096
"""The default limit of a payload: a value of 1 MiB, and room for what it is wrapped in."""

MAX_DEPTH: Final = 64
"""How many containers may be nested: few enough for code that recurses (repr, ==, deepcopy)."""

MAX_ITEMS: Final = 100_000
"""How many members one container may have."""

_MAX_NUMBER: Final = 4096  # bytes of one number: arithmetic with longer ones takes quadratic time
_MAX_EQUAL_HASHES: Final = 64  # of the powers of two, up to 35 floats share a hash: honest sets have no more
_MAX_ERROR: Final = 400  # letters
_FAST_NESTING: Final = 8  # each nested extension adds C frames to the stack: up to 1024, if it is a list in a list ...
_SIGNATURE: Final = 32  # bytes of an HMAC-SHA256, and what RFC 2104 wants of its key

_Class = TypeVar("_Class", bound=type)
_Step = tuple[str, Any]  # from a container to a part of it: a template, and the key or index to be put there


class Codec(Protocol):
    """Turns values into bytes and back. Any thread may call both methods at any time.

    `name` identifies the format on the wire, so that two applications with different codecs notice.
    """

    name: str

    def encode(self, value: object) -> bytes:
        """Return the payload of `value`; raise `TypeError`, with what, where and a remedy, if it cannot be carried."""

    def decode(self, payload: bytes) -> object:
        """Return a new value, equal to the encoded one; raise `ValueError` if `payload` does not parse."""


# How the values of single types become the bodies of extensions


def _zone_body(zone: tzinfo | None) -> bytes:
    if zone is None:
        return b""
    if type(zone) is ZoneInfo and zone.key is not None:
        return b"z" + zone.key.encode()
    if type(zone) is not timezone:
        raise TypeError(f"its time zone is of type {_type_name(type(zone))}; use a ZoneInfo or a datetime.timezone")
    offset, name = zone.utcoffset(None), zone.tzname(None)
    body = struct.pack(">q", offset // timedelta(microseconds=1))
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
    raise ValueError(f"no time zone: {body!r}")


_CLOCK: Final = struct.Struct(">BBBI")
_DATE: Final = struct.Struct(">HBB")
_TIMEDELTA: Final = struct.Struct(">iII")
_COMPLEX: Final = struct.Struct(">dd")


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


def _text_body(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(body: bytes) -> str:
    return body.decode("utf-8", "surrogatepass")


def _bounded(body: bytes, error: type[Exception] = ValueError) -> bytes:
    if len(body) > _MAX_NUMBER:
        raise error(f"a number may take {_MAX_NUMBER} bytes, and it takes {len(body)}: convert it to str")
    return body


def _int_body(value: int) -> bytes:
    return _bounded(value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True), TypeError)


# Its own context, for a malformed text must raise even in an application that does not trap InvalidOperation.
_STRICT: Final = Context(traps=[InvalidOperation])


def _fraction(parts: list[Any]) -> Fraction:
    if set(map(type, parts)) != {int}:
        raise ValueError("a fraction that is not of two ints")
    numerator, denominator = parts
    return Fraction(numerator, denominator)


def _hashable(members: list[Any]) -> list[Any]:
    """Return `members`; raise `ValueError` if so many have one hash that a set of them would take quadratic time.

    The hashes of numbers, and of tuples of them, are no secret: in 1 MiB a peer can send 80,000 that all collide.
    """
    if len(members) > _MAX_EQUAL_HASHES and max(Counter(map(hash, members)).values()) > _MAX_EQUAL_HASHES:
        raise ValueError(f"more than {_MAX_EQUAL_HASHES} members or keys have the same hash")
    return members


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    _hashable([key for key, _ in pairs])
    return dict(pairs)


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """How the values of one type travel: as the body of extension `code`.

    `apart` makes the body of a value, and `together` the value of a body. A box holds other values: what its functions
    make and take is the list of its parts, and the body is that list packed.
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
    int: _Form(5, _int_body, lambda body: int.from_bytes(_bounded(body), "big", signed=True)),
    complex: _Form(
        6,
        lambda value: _COMPLEX.pack(value.real, value.imag),
        lambda body: complex(*_COMPLEX.unpack(body)),
    ),
    datetime: _Form(7, lambda value: _date_body(value) + _time_body(value), _datetime),
    date: _Form(8, _date_body, lambda body: date(*_DATE.unpack(body))),
    time: _Form(9, _time_body, _time),
    timedelta: _Form(
        10,
        lambda value: _TIMEDELTA.pack(value.days, value.seconds, value.microseconds),
        lambda body: timedelta(*_TIMEDELTA.unpack(body)),
    ),
    Decimal: _Form(
        11,
        lambda value: _bounded(str(value).encode("ascii"), TypeError),
        lambda body: Decimal(_bounded(body).decode("ascii"), _STRICT),
    ),
    UUID: _Form(12, lambda value: value.bytes, lambda body: UUID(bytes=body)),
    Fraction: _Form(13, lambda value: [value.numerator, value.denominator], _fraction, is_box=True),
    str: _Form(14, _text_body, _text),
}
_CODES: Final = {form.code: form for form in _FORMS.values()}
_NATIVE: Final = frozenset({type(None), bool, float, bytes, list, dict, msgpack.Timestamp})
_SIZED: Final = frozenset({list, dict, tuple, set, frozenset})
_LEAVES: Final = _NATIVE.union(kind for kind, form in _FORMS.items() if not form.is_box) - {list, dict, bytearray}

# The containers, each with the function that gives what is inside.
_BOXES: Final[Mapping[type, Callable[[Any], Iterable[Any]]]] = {
    list: list,
    dict: lambda mapping: [*mapping, *mapping.values()],
    **{kind: form.apart for kind, form in _FORMS.items() if form.is_box},
}


# What a payload tells before anybody looks at the value

_BOX_HEADS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])  # of arrays and maps
_OTHER_HEADS: Final = bytes([*range(0xC4, 0xCA), *range(0xD4, 0xD9)])  # of bytes and extensions
_LONG_HEADS: Final = (b"\xdc", b"\xdd", b"\xde", b"\xdf")
_SHORT: Final = 2048
_NO_HEADS: Final = bytes(set(range(256)).difference(_BOX_HEADS, _OTHER_HEADS))


def _heads(payload: bytes) -> bytes:
    """Return the bytes that can be heads of arrays, maps, bytes or extensions: every level of nesting has one.

    Some of them are parts of texts and numbers, so that many prove nothing; but few prove that the value is shallow,
    in a tenth of the time that it takes to look at each of its parts.
    """
    return payload.translate(None, _NO_HEADS)


def _is_plain(payload: bytes) -> bool:
    """Tell whether `payload` surely holds no more than None, bool, int, float, str, list and dict, within limits."""
    heads = _heads(payload)
    return len(payload) <= MAX_ITEMS and len(heads) <= MAX_DEPTH and not heads.strip(_BOX_HEADS)


def _refuse_lies(payload: bytes) -> None:
    """Raise if an array or map of `payload` claims more members than follow.

    For each head msgpack reserves 8 bytes for every member that it claims, before it reads them: 1000 nested heads that
    claim 100,000 members each, 5 KB in all, would reserve 800 MB. Short heads claim 15 at most; and in a short payload
    all heads together cannot reserve more than 12 MB, since none may claim more members than the payload has bytes.
    """
    if len(payload) > _SHORT and any(head in payload for head in _LONG_HEADS):
        unpacker = msgpack.Unpacker(max_buffer_size=len(payload))
        unpacker.feed(payload)
        unpacker.skip()


def _lowered(value: Any) -> Any:
    """Return `value` with extensions for what msgpack changes, or refuses, without calling ``default``."""
    kind = type(value)
    if kind is bytearray or (kind is str and not _is_utf8(value)):
        return msgpack.ExtType(_FORMS[kind].code, _FORMS[kind].apart(value))
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
    """The default codec: msgpack, with extensions for the types that msgpack would change or refuse.

    It carries None, bool, int, float, complex, Decimal, Fraction, str, bytes, bytearray, list, tuple, set, frozenset,
    dict, date, time, datetime (naive, or with a ``datetime.timezone`` or ``zoneinfo.ZoneInfo``), timedelta and UUID;
    and the enums, dataclasses and NamedTuples that the application registers. Subclasses are other types: refused.

    Any thread may call `encode` and `decode` at any time, also while another registers a class.
    """

    name = "msgpack-1"

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        """`decode` refuses a payload of more than `max_bytes`; what `encode` returns, the caller must measure."""
        self._max_bytes = max_bytes
        self._registering = threading.Lock()
        # Each of these is replaced as a whole and never changed, so readers need no lock.
        self._names: Mapping[str, type] = {}
        self._forms = _FORMS
        self._boxes = _BOXES

    def register(self, cls: _Class, *, name: str | None = None) -> _Class:
        """Let instances of `cls` travel, and return `cls`, so that this can be its decorator.

        Every process must register it under the same `name`, by default ``module:qualname``. A class that is
        registered again under another name is written under the new one and read under both.

        Instances are restored field by field, without ``__init__`` or ``__post_init__``: attributes that are not fields
        do not travel, and the types of the fields are not checked.

        Raises `TypeError` if `cls` is not an enum, a dataclass or a NamedTuple, and `ValueError` if `name` is taken.
        """
        name = name or _default_name(cls)
        form = _class_form(cls, name)
        with self._registering:
            if self._names.get(name, cls) is not cls:
                raise ValueError(f"{name!r} is already registered for {self._names[name]!r}: give {cls!r} another name")
            self._forms = {**self._forms, cls: form}
            self._boxes = {**self._boxes, cls: form.apart}
            self._names = {**self._names, name: cls}  # last: who finds the class here looks for its form next
        return cls

    def encode(self, value: object) -> bytes:
        """Return the payload of `value`; raise `TypeError`, with what, where and a remedy, if it cannot be carried."""
        try:
            payload = self._pack(value, _FAST_NESTING)
            is_faithful = _is_plain(payload) or self._is_regular(value, self._boxes)
        except Exception:  # `_check` finds out what it is, and where
            is_faithful = False
        return payload if is_faithful else self._encode_carefully(value)

    def _encode_carefully(self, value: object) -> bytes:
        try:
            self._check(value)
            return self._pack(_lowered(value), MAX_DEPTH, _lowered)
        except TypeError:
            raise
        except Exception as error:  # such as that of a dict that another thread is changing
            raise TypeError(f"value cannot be carried: {error!r}") from error

    def decode(self, payload: bytes) -> object:
        """Return a new value, equal to the encoded one; raise `ValueError` if `payload` does not parse, or is too long.

        `ValueError` is also what a class gets that is not registered here, or has other fields than at the sender.
        """
        if len(payload) > self._max_bytes:
            raise ValueError(f"the payload has {len(payload)} bytes, more than max_bytes={self._max_bytes}")
        try:
            return self._read(payload, strict_map_key=True)
        except Exception:  # perhaps keys that are neither str nor bytes: they alone pay for `_mapping`
            pass
        try:
            return self._read(payload, strict_map_key=False, object_pairs_hook=_mapping)
        except Exception as error:
            raise ValueError(f"the payload does not parse as {self.name}: {_shortened(error)}") from error

    def _pack(self, value: Any, room: int, prepare: Callable[[Any], Any] | None = None) -> bytes:
        """Pack `value`, with no more than `room` nested boxes, whose parts pass through `prepare`."""
        default = partial(self._pack_extension, room, prepare)
        # The default buffer of 256 KiB costs a third of the time of packing 1 KiB; a small one grows when it must.
        packer = msgpack.Packer(use_bin_type=True, strict_types=True, default=default, buf_size=2048)
        return packer.pack(value)  # type: ignore[no-any-return]

    def _pack_extension(self, room: int, prepare: Callable[[Any], Any] | None, value: Any) -> msgpack.ExtType:
        form = self._forms[type(value)]
        body = form.apart(value)
        if form.is_box:
            if not room:
                raise TypeError("nested too deep")
            body = self._pack(prepare(body) if prepare else body, room - 1, prepare)
        return msgpack.ExtType(form.code, body)

    def _read(self, payload: bytes, **options: Any) -> object:
        value = self._unpack(payload, MAX_DEPTH, options)
        if len(_heads(payload)) > MAX_DEPTH and not self._is_regular(value, {**self._boxes, bytearray: lambda _: ()}):
            raise ValueError(f"containers are nested more than {MAX_DEPTH} deep")
        return value

    def _unpack(self, payload: bytes, room: int, options: dict[str, Any]) -> Any:
        _refuse_lies(payload)
        hook = partial(self._unpack_extension, room, options)
        most = min(len(payload), MAX_ITEMS)
        return msgpack.unpackb(payload, ext_hook=hook, max_array_len=most, max_map_len=most, **options)

    def _unpack_extension(self, room: int, options: dict[str, Any], code: int, body: bytes) -> Any:
        form = _CODES.get(code)
        if form is None and code != _REGISTERED:
            raise ValueError(f"no extension has the code {code}")
        if form and not form.is_box:
            return form.together(body)
        if not room:
            raise ValueError("nested too deep")
        parts = self._unpack(body, room - 1, options)
        if type(parts) is not list:
            raise ValueError(f"the body of extension {code} is not an array")
        return form.together(parts) if form else self._restore(*parts)

    def _restore(self, name: str, *parts: Any) -> Any:
        cls = self._names.get(name)
        if cls is None:
            raise ValueError(f"no class is registered as {name!r} in this process: register it in all of them")
        return self._forms[cls].together(parts)

    def _is_regular(self, value: Any, boxes: Mapping[type, Callable[[Any], Iterable[Any]]]) -> bool:
        """Tell whether `value` keeps the limits, and holds no containers but `boxes` and nothing unknown.

        Goes level by level, which is the fastest walk that Python offers; where the trouble is, `_check` tells.
        """
        inside = [value]
        for _ in range(MAX_DEPTH + 1):
            level = [item for item in inside if (kind := type(item)) is not str and kind not in _LEAVES]
            inside = []
            for box in level:
                kind = type(box)
                if kind is dict:  # this and list are spared a call, being the most frequent
                    inside += box
                    inside += box.values()
                elif kind is list:
                    inside += box
                elif kind in boxes:
                    inside += boxes[kind](box)
                else:
                    return False
            if len(inside) > MAX_ITEMS and any(type(box) in _SIZED and len(box) > MAX_ITEMS for box in level):
                return False
            if not level:
                return True
        return False

    def _check(self, value: Any) -> None:
        """Raise the `TypeError` that tells which part of `value` cannot be carried, if there is one."""
        todo: list[tuple[tuple[_Step, ...], Any]] = [((), value)]
        while todo:
            path, item = todo.pop()
            if trouble := self._trouble(item, len(path)):
                steps = [template.format(_label(key)) for template, key in path]
                if len(steps) > 12:
                    steps[6:-6] = [" ... "]
                raise TypeError(f"value{''.join(steps)} of type {_type_name(type(item))} cannot be carried: {trouble}")
            todo += reversed([((*path, step), part) for step, part in self._parts(item)])

    def _trouble(self, item: Any, depth: int) -> str:
        kind = type(item)
        if kind in self._boxes and depth >= MAX_DEPTH:
            return f"it is nested more than {MAX_DEPTH} deep, or contains itself; flatten it"
        if kind in _SIZED and len(item) > MAX_ITEMS:
            return f"it has {len(item)} members, more than {MAX_ITEMS}; split it"
        if kind in _NATIVE:
            return ""
        if kind not in self._forms:
            return _remedy(kind)
        try:
            self._forms[kind].apart(item)
        except Exception as error:  # besides our own, that of a field that was never set, or is a property
            return str(error) or repr(error)
        return ""

    def _parts(self, item: Any) -> Iterator[tuple[_Step, Any]]:
        """Yield what is inside `item`, each with the step that leads to it."""
        kind = type(item)
        if kind is dict:
            for key, value in item.items():
                yield (" key {}", key), key
                yield ("[{}]", key), value
        elif kind in _BOXES:
            for index, part in enumerate(_BOXES[kind](item)):
                yield ("[{}]", index), part
        elif kind in self._boxes:
            _, *parts = self._boxes[kind](item)
            for field, part in zip(parts[::2], parts[1::2], strict=False):
                yield (f".{field}", None), part


def _label(key: Any) -> str:
    try:
        return reprlib.repr(key)
    except Exception:  # such as that of an int of more than 4300 digits
        return f"<{_type_name(type(key))}>"


def _shortened(error: Exception) -> str:
    """Return the text of an error, without the middle of what a peer put into it: it may end in a log."""
    text = str(error)
    return text if len(text) <= _MAX_ERROR else f"{text[: _MAX_ERROR // 2]} ... {text[-_MAX_ERROR // 2 :]}"


# Registered classes


def _type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _default_name(cls: Any) -> str:
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r} is not a class")
    # The main module of a spawned worker is __mp_main__, and is its parent's __main__.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return f"{module}:{cls.__qualname__}"


def _field_names(cls: type) -> tuple[str, ...] | None:
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    is_named_tuple = issubclass(cls, tuple) and cls is not msgpack.ExtType  # which msgpack would pack as what it is
    return getattr(cls, "_fields", None) if is_named_tuple else None


def _remedy(kind: type) -> str:
    if issubclass(kind, enum.Enum) or _field_names(kind) is not None:
        return f"register its class in every process by codec.register({kind.__name__}), or convert it"
    base = next((base.__name__ for base in kind.__mro__ if base in _NATIVE or base in _FORMS), "")
    return f"convert it{base and f', as by {base}(...),'} or use another codec"


def _class_form(cls: type, name: str) -> _Form:
    if issubclass(cls, enum.Flag):
        return _Form(_REGISTERED, lambda flag: [name, flag.value], partial(_flag, cls), is_box=True)
    if issubclass(cls, enum.Enum):
        return _Form(_REGISTERED, lambda member: [name, member.name], partial(_member, cls), is_box=True)
    fields = _field_names(cls)
    if fields is None:
        raise TypeError(f"{cls!r} is not an enum, a dataclass or a NamedTuple: convert its instances to one")
    if not issubclass(cls, tuple):
        object.__new__(cls)  # raises TypeError if it is abstract, or has the hidden state of a built-in type
    return _Form(_REGISTERED, partial(_fields_apart, name, fields), partial(_record, cls, fields), is_box=True)


def _member(cls: type[enum.Enum], parts: tuple[str]) -> enum.Enum:
    (name,) = parts
    if name not in cls.__members__:
        raise ValueError(f"{cls!r} has no member {name!r} here: the two applications have different versions of it")
    return cls.__members__[name]


def _flag(cls: type[enum.Flag], parts: tuple[int]) -> enum.Flag:
    """Some flags refuse bits that they do not know; others, and in Python 3.11.2 most, would drop them silently."""
    (value,) = parts
    flag = cls(value)
    if not isinstance(flag, cls) or flag.value != value:
        raise ValueError(f"{cls!r} has no bits for {value!r} here: the two applications have different versions of it")
    return flag


def _fields_apart(name: str, fields: tuple[str, ...], record: Any) -> list[Any]:
    values = record if isinstance(record, tuple) else [getattr(record, field) for field in fields]
    return [name, *chain.from_iterable(zip(fields, values, strict=True))]


def _record(cls: type, fields: tuple[str, ...], parts: tuple[Any, ...]) -> Any:
    values = dict(zip(parts[::2], parts[1::2], strict=True))
    if values.keys() != set(fields):
        raise ValueError(f"{cls!r} has not the fields {[*values]}: the two applications have different versions of it")
    if issubclass(cls, tuple):
        return tuple.__new__(cls, map(values.__getitem__, fields))
    record = object.__new__(cls)
    for field in fields:
        object.__setattr__(record, field, values[field])
    return record


class PickleCodec:
    """Carries whatever pickle can, for those who take its risk; never used unless the application asks for it.

    The risk: whoever knows `key` can sign a payload that runs any code in every process of the group. The signature
    keeps everybody else out. It does not say when a payload was made, nor for which key of the cache: a peer that does
    not know `key` can still pass off one signed value for another.

    Any thread may call both methods at any time.
    """

    name = "pickle-1"

    def __init__(self, *, key: bytes, max_bytes: int = MAX_BYTES) -> None:
        """`key` is a secret of at least 32 bytes, the same in every process; raise `ConfigError` if it is not."""
        if type(key) is not bytes or len(key) < _SIGNATURE:
            raise ConfigError(f"PickleCodec needs key=..., at least {_SIGNATURE} secret bytes: make some by os.urandom")
        self._key = key
        self._max_bytes = max_bytes

    def encode(self, value: object) -> bytes:
        """Return the signed pickle of `value`; raise `TypeError` if pickle refuses it."""
        try:
            body = pickle.dumps(value, protocol=5)
        except Exception as error:
            raise TypeError(f"value of type {_type_name(type(value))} cannot be pickled: {error}") from error
        return self._signature(body) + body

    def decode(self, payload: bytes) -> object:
        """Return the value; raise `ValueError` if `payload` is too long, not signed with the key, or does not load."""
        if len(payload) > self._max_bytes:
            raise ValueError(f"the payload has {len(payload)} bytes, more than max_bytes={self._max_bytes}")
        signature, body = payload[:_SIGNATURE], payload[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._signature(body)):
            raise ValueError("the payload is not signed with the key of this PickleCodec: give every process the same")
        try:
            return pickle.loads(body)
        except Exception as error:
            raise ValueError(f"the payload does not load: {error}") from error

    def _signature(self, body: bytes) -> bytes:
        # With the name, so that what the same key signed for another purpose, or version, is not accepted.
        return hmac.digest(self._key, self.name.encode() + body, "sha256")
