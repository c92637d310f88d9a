"""How values become the bytes that travel between processes, and values again.

`MsgpackCodec`, the default, keeps three promises:

1. What `decode` returns equals what `encode` was given and has the same type, at every depth.
2. What cannot be carried so raises `TypeError` at `encode`; nothing is changed silently.
3. No payload, however hostile, makes `decode` raise anything but `ValueError`, import a module, run code of a class
   that is not registered, or take more memory than 160 bytes for each byte of payload, and 12 MB.

What is too deep or has a number that is too long raises `OversizeError`: the cache uses it, and does not keep it.

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
   name; of a flag, its value; of a pydantic model, the names of the fields that were set, a map of what is extra, a map
   of what is private (each nil if there is none), and field, value, field, value, ...
16 a class of Python or of a library that need not be registered: an array of its name and, of an OrderedDict or a
   Counter, key, value, key, value, ...; of a defaultdict, the same after the name of its factory, or nil; of a deque,
   its maxlen and the members; of a range, start, stop and step; of a secret of pydantic, what it hides; of a path, an
   IP address, interface or network, a URL of pydantic, Markup or SafeString, its text

Numbers are big-endian. A zone is nothing (naive), or "o" and i64 microseconds east of UTC, or "n", the same and a name,
or "z" and the key of a ZoneInfo, or "p" and the microseconds of a zone of pydantic.
"""

from __future__ import annotations

import hmac
import pickle
import reprlib
import struct
import sys
import threading
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar, is_typeddict
from uuid import UUID
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

import msgpack

from ..errors import ConfigError, OversizeError
from .annotations import named_by, result_of, surely_in
from .classes import KNOWN, REGISTERED, Form, class_form, default_name, hashable, is_of_a_kind, type_name
from .known import known_form, reason, together_known

MAX_BYTES: Final = 2**20 + 4096
"""The default limit of a payload: a value of 1 MiB, and room for what it is wrapped in."""

MAX_DEPTH: Final = 64
"""How many containers may be nested: few enough for code that recurses (repr, ==, deepcopy)."""

_MAX_NUMBER: Final = 4096  # bytes of one number: arithmetic with longer ones takes quadratic time
_MAX_ERROR: Final = 400  # letters
_FAST_NESTING: Final = 8  # each nested extension adds C frames to the stack: up to 1024, if it is a list in a list ...
_SIGNATURE: Final = 32  # bytes of an HMAC-SHA256, and what RFC 2104 wants of its key

_Class = TypeVar("_Class", bound=type)


class Codec(Protocol):
    """Turns values into bytes and back. Any thread may call both methods at any time.

    `name` identifies the format on the wire, so that two applications with different codecs notice.
    """

    name: str

    def encode(self, value: object) -> bytes:
        """Return the payload of `value`.

        Raises `TypeError`, with what, where and a remedy, if it can never be carried, and `OversizeError` if only its
        size, depth or length is in the way: then the cache uses the value and does not keep it.
        """

    def decode(self, payload: bytes) -> object:
        """Return a new value, equal to the encoded one; raise `ValueError` if `payload` does not parse."""


# How the values of single types become the bodies of extensions


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
    return _bounded(value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True), OversizeError)


# Its own context, for a malformed text must raise even in an application that does not trap InvalidOperation.
_STRICT: Final = Context(traps=[InvalidOperation])


def _fraction(parts: list[Any]) -> Fraction:
    if set(map(type, parts)) != {int}:
        raise ValueError("a fraction that is not of two ints")
    numerator, denominator = parts
    return Fraction(numerator, denominator)


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    hashable([key for key, _ in pairs])
    return dict(pairs)


_FORMS: Final[Mapping[type, Form]] = {
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
_CODES: Final = {form.code: form for form in _FORMS.values()}
_NATIVE: Final = frozenset({type(None), bool, float, bytes, list, dict, msgpack.Timestamp})
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
    return len(heads) <= MAX_DEPTH and not heads.strip(_BOX_HEADS)


def _refuse_lies(payload: bytes) -> None:
    """Raise if an array or map of `payload` claims more members than follow.

    For each head msgpack reserves 8 bytes for every member that it claims, before it reads them: in 100 KB, 1000 nested
    heads that claim 100,000 members each would reserve 800 MB. Short heads claim 15 at most; and in a short payload
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
    dict, date, time, datetime (naive, or with a ``datetime.timezone``, a ``zoneinfo.ZoneInfo`` or a zone of pydantic),
    timedelta and UUID;
    the classes of Python and of libraries that `colocache.values.known` lists; and the enums, dataclasses, NamedTuples,
    attrs classes and pydantic models that the application registers, or names in the annotations of a decorated
    function. Subclasses are other types: refused.

    Any thread may call its methods at any time, also while another registers a class.
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
        # These are used under the lock.
        self._learned = set[str]()  # the names that only annotations gave
        self._unlearned = WeakKeyDictionary[Callable[..., Any], None]()  # functions whose annotations may tell more

    def register(self, cls: _Class, *, name: str | None = None) -> _Class:
        """Let instances of `cls` travel, and return `cls`, so that this can be its decorator.

        Every process must register it under the same `name`, by default ``module:qualname``. A class that is
        registered again under another name is written under the new one and read under both.

        Instances are restored field by field, without ``__init__``, ``__post_init__`` or validators: attributes that
        are not fields do not travel, and the types of the fields are not checked. Of a pydantic model, its private and
        extra attributes travel, too.

        Raises `TypeError` if `cls` is not an enum, a dataclass, a NamedTuple, an attrs class or a pydantic model, or
        is mapped to a table, and `ValueError` if `name` is taken.
        """
        name = name or default_name(cls)
        form = class_form(cls, name)
        with self._registering:
            if self._names.get(name, cls) is not cls and name not in self._learned:
                raise ValueError(f"{name!r} is already registered for {self._names[name]!r}: give {cls!r} another name")
            self._name(cls, form, name)
            self._learned.discard(name)
        return cls

    def learn(self, function: Callable[..., Any]) -> None:
        """Let the classes travel that a function's annotations name, and those that these are made of.

        Each is registered under its default name, when it is first needed; annotations may name what is not defined
        yet. What cannot be resolved is left out. Where two classes have one name, the later one travels.
        """
        with self._registering:
            self._unlearned[function] = None

    def check(self, function: Callable[..., Any]) -> None:
        """Raise `TypeError` if the return annotation of a function names a class that can surely not be carried."""
        for cls in surely_in(result_of(function)):
            if self._form_of(cls) is None and cls not in _NATIVE and (why := _never(cls)):
                raise TypeError(f"{function.__qualname__}() returns {type_name(cls)}, which cannot be carried: {why}")

    def encode(self, value: object) -> bytes:
        """Return the payload of `value`; raise `TypeError`, with what, where and a remedy, if it cannot be carried.

        Raises `OversizeError` for a value of types that can be carried if it is too deep, or has a number that is too
        long.
        """
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
        except (TypeError, OversizeError):
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
        most = len(payload)
        return msgpack.unpackb(payload, ext_hook=hook, max_array_len=most, max_map_len=most, **options)

    def _unpack_extension(self, room: int, options: dict[str, Any], code: int, body: bytes) -> Any:
        form = _CODES.get(code)
        if form and not form.is_box:
            return form.together(body)
        together = form.together if form else {REGISTERED: self._restore, KNOWN: self._restore_known}.get(code)
        if together is None:
            raise ValueError(f"no extension has the code {code}")
        if not room:
            raise ValueError("nested too deep")
        parts = self._unpack(body, room - 1, options)
        if type(parts) is not list:
            raise ValueError(f"the body of extension {code} is not an array")
        return together(parts)

    def _restore(self, parts: list[Any]) -> Any:
        name, *rest = parts
        if name not in self._names:
            self._learn()
        cls = self._names.get(name)
        form = None if cls is None else self._forms.get(cls)
        if form is None:
            raise ValueError(
                f"no class is registered as {name!r} in this process: register it in all of them, or import the "
                "decorated function that returns it"
            )
        return form.together(tuple(rest))

    def _restore_known(self, parts: list[Any]) -> Any:
        value = self._together_known(parts)
        self._form_of(type(value))
        return value

    # --- What travels without being registered; a codec for a framework knows more

    def _known_form(self, cls: type) -> Form | None:
        """Return how instances of a class travel that nobody registers; None if the class is none of those."""
        return known_form(cls)

    def _together_known(self, parts: list[Any]) -> Any:
        """Return the instance that these are the parts of. Raises any exception if they are of none."""
        return together_known(parts)

    # --- The classes

    def _name(self, cls: type, form: Form, name: str) -> None:
        earlier = self._names.get(name, cls)
        self._add(cls, form)
        self._names = {**self._names, name: cls}  # last: who finds the class here looks for its form next
        if earlier not in self._names.values():  # its instances must not come back as those of the later class
            self._forms = {each: form for each, form in self._forms.items() if each is not earlier}
            self._boxes = {each: apart for each, apart in self._boxes.items() if each is not earlier}

    def _add(self, cls: type, form: Form) -> None:
        self._forms = {**self._forms, cls: form}
        self._boxes = {**self._boxes, cls: form.apart}

    def _form_of(self, cls: type) -> Form | None:
        """Return how instances of a class travel, however the codec may come to know; None if they do not."""
        if cls not in self._forms:
            self._learn()
        if cls not in self._forms and (form := self._known_form(cls)) is not None:
            with self._registering:
                self._add(cls, form)
        return self._forms.get(cls)

    def _learn(self) -> None:
        """Register the classes that annotations name, as far as they can be resolved by now."""
        with self._registering:
            functions = [*self._unlearned]
        for function in functions:
            named = named_by(function)
            for cls in named.classes:
                self._register_quietly(cls)
            if named.complete:
                with self._registering:
                    self._unlearned.pop(function, None)

    def _register_quietly(self, cls: type) -> None:
        if cls in self._forms or not is_of_a_kind(cls):
            return
        name = default_name(cls)
        try:
            form = class_form(cls, name)
        except TypeError:  # an abstract one, say
            return
        with self._registering:
            if name not in self._names or name in self._learned:
                self._learned.add(name)
                self._name(cls, form, name)

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
            if not level:
                return True
        return False

    def _check(self, value: Any) -> None:
        """Raise what tells which part of `value` cannot be carried, if there is one.

        A type that cannot be carried is a `TypeError`, however large or deep the value is; what is only too deep or
        too long is an `OversizeError`.
        """
        todo, seen = [_Part(None, ("", None), value)], dict[int, Any]()  # kept alive, so that no id is used twice
        excess: tuple[_Part, str] | None = None
        while todo:
            part = todo.pop()
            if type(part.item) in self._boxes and seen.setdefault(id(part.item), part) is not part:
                continue
            try:
                trouble = self._trouble(part.item)
            except OversizeError as error:
                trouble, excess = "", excess or (part, str(error))
            if trouble:
                raise TypeError(part.refused(trouble))
            todo += reversed([*self._parts(part)])
        if excess is None and (deepest := self._too_deep(value)) is not None:
            excess = deepest, f"it is nested more than {MAX_DEPTH} deep, or contains itself; flatten it"
        if excess is not None:
            raise OversizeError(excess[0].refused(excess[1]))

    def _trouble(self, item: Any) -> str:
        kind = type(item)
        if kind in _NATIVE:
            return ""
        form = self._form_of(kind)
        if form is None:
            return _remedy(kind)
        try:
            form.apart(item)
        except OversizeError:
            raise
        except Exception as error:  # besides our own, that of a field that was never set, or is a property
            return str(error) or repr(error)
        return ""

    def _too_deep(self, value: Any) -> _Part | None:
        """Return the first container that is nested too deep."""
        todo = [(_Part(None, ("", None), value), 0)]
        while todo:
            part, depth = todo.pop()
            if type(part.item) in self._boxes and depth >= MAX_DEPTH:
                return part
            todo += reversed([(inner, depth + 1) for inner in self._parts(part)])
        return None

    def _parts(self, part: _Part) -> Iterator[_Part]:
        """Yield what is inside of a part and may be in the way, each with the step that leads to it."""
        item, kind = part.item, type(part.item)
        if kind is dict:
            for key, value in item.items():
                if not _is_trivial(key):
                    yield _Part(part, (" key {}", key), key)
                if not _is_trivial(value):
                    yield _Part(part, ("[{}]", key), value)
        elif kind in _BOXES:
            for index, inner in enumerate(_BOXES[kind](item)):
                if not _is_trivial(inner):
                    yield _Part(part, ("[{}]", index), inner)
        elif kind in self._boxes:
            yield from self._parts_of_instance(part)

    def _parts_of_instance(self, part: _Part) -> Iterator[_Part]:
        form = self._forms[type(part.item)]
        parts = form.apart(part.item)
        for head, inner in zip(form.heads or (), parts, strict=False):
            yield _Part(part, (head, None), inner)
        rest = parts[len(form.heads or ()) :]
        if form.code == KNOWN:
            for index, inner in enumerate(rest):
                yield _Part(part, ("[{}]", index), inner)
        else:
            for field, inner in zip(rest[::2], rest[1::2], strict=True):
                yield _Part(part, (f".{field}", None), inner)


class _Part(NamedTuple):
    """A part of a value, and the way to it: a step is a template, and the key or index to be put there."""

    whole: _Part | None
    step: tuple[str, Any]
    item: Any

    def refused(self, why: str) -> str:
        """Return the text of the error that refuses it."""
        steps, part = list[str](), self
        while part.whole is not None:
            template, key = part.step
            steps.append(template.format(_label(key)))
            part = part.whole
        steps.reverse()
        if len(steps) > 12:
            steps[6:-6] = [" ... "]
        return f"value{''.join(steps)} of type {type_name(type(self.item))} cannot be carried: {why}"


_TRIVIAL: Final = frozenset({type(None), bool, float, str, bytes})


def _is_trivial(item: Any) -> bool:
    """Whether nothing can be in the way of a part: most are so, and a value may have a million."""
    kind = type(item)
    return kind in _TRIVIAL or (kind is int and -(2**63) <= item < 2**64)


def _label(key: Any) -> str:
    try:
        return reprlib.repr(key)
    except Exception:  # such as that of an int of more than 4300 digits
        return f"<{type_name(type(key))}>"


def _shortened(error: Exception) -> str:
    """Return the text of an error, without the middle of what a peer put into it: it may end in a log."""
    text = str(error)
    return text if len(text) <= _MAX_ERROR else f"{text[: _MAX_ERROR // 2]} ... {text[-_MAX_ERROR // 2 :]}"


# What to do about a class that cannot be carried


def _remedy(kind: type) -> str:
    if is_of_a_kind(kind):
        return (
            f"name its class in an annotation of the decorated function, or register it in every process by "
            f"cache.register({kind.__name__})"
        )
    base = next((base.__name__ for base in kind.__mro__ if base in _NATIVE or base in _FORMS), "")
    return reason(kind) or f"convert it{base and f', as by {base}(...),'} or use another codec"


def _never(cls: type) -> str:
    """Return what to do if neither an instance of a class can be carried nor, surely, one of a subclass; else ""."""
    if why := reason(cls):
        return why
    is_open = issubclass(type(cls), ABCMeta) or bool(getattr(cls, "_is_protocol", False) or cls.__subclasses__())
    if is_open or is_of_a_kind(cls) or is_typeddict(cls) or cls.__module__ in ("builtins", "typing"):
        return ""
    return _remedy(cls)


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
        """Return the signed pickle of `value`; raise what pickle, or a method of the value's, raises.

        Raises `OversizeError` if pickle finds the value too deep.
        """
        try:
            body = pickle.dumps(value, protocol=5)
        except RecursionError as error:
            raise OversizeError(f"value of type {type_name(type(value))} is nested too deep for pickle") from error
        except Exception as error:
            error.add_note(f"colocache: a value of type {type_name(type(value))} cannot be pickled")
            raise
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
