"""The default codec: msgpack, with extensions. It keeps three promises:

1. What `decode` returns equals what `encode` was given and has the same type, at every depth.
2. What cannot be carried in this way raises `TypeError` at `encode`. Nothing is changed silently.
3. No payload, however hostile, makes `decode` raise anything but `ValueError`, import a module, run code of a class
   that is not registered, or take more memory than 160 bytes for each byte of payload, and 12 MB.

A value that is too deep, or has a number that is too long, raises `OversizeError`: the cache uses it, and does not keep
it.

On the wire a value is msgpack. These types are msgpack's own: None, bool, float, bytes, list, dict (with any key that a
dict may have), Timestamp, and such int and str as msgpack can hold. All others are extensions, with these codes and
bodies:

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

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import msgpack

from ..errors import OversizeError
from .annotations import result_of, surely_in
from .codec import MAX_BYTES, MAX_DEPTH, refuse_long
from .form import KNOWN, REGISTERED, Form, hashable
from .known import known_form, known_from_wire
from .payloads import SHORT, is_plain, may_be_deep, refuse_lies
from .plain import CODES, LEAVES, extended
from .refusals import check, check_result, is_regular
from .registry import Registry

_MAX_ERROR: Final = 400  # letters
_FAST_NESTING: Final = 8  # each nested extension adds C frames to the stack: up to 1024, if it is a list in a list ...

_LEAVES: Final = LEAVES | {bytearray}  # of what was decoded, where no bytearray can be taken for bytes

_Class = TypeVar("_Class", bound=type)


class MsgpackCodec:
    """The default codec: msgpack, with extensions for the types that msgpack would change or refuse.

    It carries:

    - None, bool, int, float, complex, Decimal, Fraction, str, bytes, bytearray, list, tuple, set, frozenset, dict,
      date, time, datetime (naive, or with a ``datetime.timezone``, a ``zoneinfo.ZoneInfo`` or a zone of pydantic),
      timedelta and UUID;
    - the classes of Python and of libraries that `colocache.values.known` lists;
    - the enums, dataclasses, NamedTuples, attrs classes and pydantic models that the application registers, or names in
      the annotations of a decorated function.

    A subclass is another type, and is refused. Any thread may call the methods at any time, also while another thread
    registers a class.
    """

    name = "msgpack-1"

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        """Refuse a payload of more than `max_bytes` in `decode`. The caller of `encode` measures the result itself."""
        self._max_bytes = max_bytes
        self._classes = Registry(self._known_form)
        self._hook = partial(self._unpack_extension, MAX_DEPTH, {})

    def register(self, cls: _Class, *, name: str | None = None) -> _Class:
        """Let instances of `cls` travel, and return `cls`, so that this can be its decorator.

        Every process must register it under the same `name`, by default ``module:qualname``. A class that is
        registered again under another name is written under the new name, and read under both.

        Instances are restored field by field, without ``__init__``, ``__post_init__`` or validators. So attributes that
        are not fields do not travel, and nothing checks the types of the fields. A pydantic model keeps its private and
        extra attributes.

        Raise TypeError if `cls` is not an enum, a dataclass, a NamedTuple, an attrs class or a pydantic model, or is
        mapped to a table. Raise ValueError if `name` is taken.
        """
        return self._classes.register(cls, name)

    def learn(self, function: Callable[..., Any]) -> None:
        """Let the classes travel that a function's annotations name, and those that these are made of.

        Each is registered under its default name when it is first needed, because annotations may name what is not
        defined yet. What cannot be resolved is left out. If two classes have one name, the later one travels.
        """
        self._classes.learn(function)

    def check(self, function: Callable[..., Any]) -> None:
        """Raise TypeError if the return annotation of a function names a class that can certainly not be carried."""
        for cls in surely_in(result_of(function)):
            check_result(cls, function.__qualname__, self._classes)

    def encode(self, value: object) -> bytes:
        """Return the payload of `value`.

        Raise TypeError if the value cannot be carried: the text says what, where, and what to do. Raise
        OversizeError for a value of types that can be carried, if it is too deep or has a number that is too long, and
        MemoryError if there is no memory for the payload.
        """
        try:
            payload = self._pack(value, _FAST_NESTING)
            is_faithful = is_plain(value, payload) or is_regular(value, self._classes.boxes)
        except MemoryError:
            raise
        except Exception:  # `check` finds out what it is, and where
            is_faithful = False
        return payload if is_faithful else self._encode_carefully(value)

    def _encode_carefully(self, value: object) -> bytes:
        try:
            check(value, self._classes)
            return self._pack(extended(value), MAX_DEPTH, extended)
        except (TypeError, OversizeError, MemoryError):
            raise
        except Exception as error:  # for example that of a dict that another thread is changing
            raise TypeError(f"value cannot be carried: {error!r}") from error

    def decode(self, payload: bytes) -> object:
        """Return a new value, equal to the encoded one.

        Raise ValueError if `payload` does not parse or is too long, and if it holds an instance of a class that is
        not registered here, or has other fields here than at the sender.
        """
        refuse_long(payload, self._max_bytes)
        try:
            if len(payload) > SHORT:
                refuse_lies(payload)
            value = msgpack.unpackb(payload, ext_hook=self._hook)
            if not may_be_deep(value, payload) or self._is_regular(value):
                return value
        except MemoryError:
            raise
        except Exception:  # perhaps a key is neither str nor bytes: only such a payload pays for `_mapping`
            pass
        try:
            return self._decode_carefully(payload)
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"the payload does not parse as {self.name}: {_shortened(error)}") from error

    # --- Packing

    def _pack(self, value: Any, room: int, prepare: Callable[[Any], Any] | None = None) -> bytes:
        """Pack `value`, with at most `room` nested boxes, whose parts pass through `prepare`."""
        default = partial(self._pack_extension, room, prepare)
        # The default buffer of 256 KiB costs a third of the time of packing 1 KiB. A small one grows when it must.
        packer = msgpack.Packer(use_bin_type=True, strict_types=True, default=default, buf_size=2048)
        return packer.pack(value)  # type: ignore[no-any-return]

    def _pack_extension(self, room: int, prepare: Callable[[Any], Any] | None, value: Any) -> msgpack.ExtType:
        form = self._classes.forms[type(value)]
        body = form.to_wire(value)
        if form.is_box:
            if not room:
                raise TypeError("nested too deep")
            body = self._pack(prepare(body) if prepare else body, room - 1, prepare)
        return msgpack.ExtType(form.code, body)

    # --- Unpacking

    def _decode_carefully(self, payload: bytes) -> object:
        value = self._unpack(payload, MAX_DEPTH, {"strict_map_key": False, "object_pairs_hook": _mapping})
        if not self._is_regular(value):
            raise ValueError(f"containers are nested more than {MAX_DEPTH} deep")
        return value

    def _is_regular(self, value: object) -> bool:
        return is_regular(value, self._classes.boxes, _LEAVES)

    def _unpack(self, payload: bytes, room: int, options: dict[str, Any]) -> Any:
        """Unpack a payload. msgpack itself refuses arrays and maps of more members than the payload has bytes."""
        refuse_lies(payload)
        return msgpack.unpackb(payload, ext_hook=partial(self._unpack_extension, room, options), **options)

    def _unpack_extension(self, room: int, options: dict[str, Any], code: int, body: bytes) -> Any:
        form = CODES.get(code)
        if form and not form.is_box:
            return form.from_wire(body)
        from_wire = form.from_wire if form else {REGISTERED: self._restore, KNOWN: self._restore_known}.get(code)
        if from_wire is None:
            raise ValueError(f"no extension has the code {code}")
        if not room:
            raise ValueError("nested too deep")
        parts = self._unpack(body, room - 1, options)
        if type(parts) is not list:
            raise ValueError(f"the body of extension {code} is not an array")
        return from_wire(parts)

    def _restore(self, parts: list[Any]) -> Any:
        name, *rest = parts
        form = self._classes.named(name)
        if form is None:
            raise ValueError(
                f"no class is registered as {name!r} in this process: register it in all of them, or import the "
                "decorated function that returns it"
            )
        return form.from_wire(tuple(rest))

    def _restore_known(self, parts: list[Any]) -> Any:
        value = self._known_from_wire(parts)
        self._classes.form_of(type(value))  # so that its class is among the boxes, if `_read` must look into them
        return value

    # --- What travels without being registered; the codec of a framework knows more

    def _known_form(self, cls: type) -> Form | None:
        """Return how instances of a class travel that nobody registers; None for any other class."""
        return known_form(cls)

    def _known_from_wire(self, parts: list[Any]) -> Any:
        """Return the instance that has these parts. Raise any exception if no class has them."""
        return known_from_wire(parts)


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    hashable([key for key, _ in pairs])
    return dict(pairs)


def _shortened(error: Exception) -> str:
    """Return the text of an error without the middle of what a peer put into it, because a log may show it."""
    text = str(error)
    return text if len(text) <= _MAX_ERROR else f"{text[: _MAX_ERROR // 2]} ... {text[-_MAX_ERROR // 2 :]}"
