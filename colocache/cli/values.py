"""Values of the cache for people who look: what can be read of them without the application.

The default codec is read as it is. Instances of the application's classes are shown by their names and fields, because
the command never imports the application. What pydantic keeps secret stays secret. A value of `PickleCodec` is not
shown: to read it would run code.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgpack

from ..core.numbers import unpack_integer
from ..values.codec import MAX_DEPTH
from ..values.form import KNOWN, REGISTERED
from ..values.known import known_from_wire
from ..values.msgpack_codec import MsgpackCodec
from ..values.payloads import refuse_lies
from ..values.plain import CODES

_MARKS: Final = {blake2b(name.encode(), digest_size=4).digest(): name for name in (MsgpackCodec.name, "pickle-1")}
_SECRETS: Final = ("pydantic.types:SecretStr", "pydantic.types:SecretBytes")
MOST: Final = 64 << 20  # bytes of a payload that are looked at


class Instance:
    """An instance of a class that this process does not have."""

    __slots__ = ("name", "parts")

    def __init__(self, name: str, parts: list[tuple[str, Any]]) -> None:
        self.name = name
        self.parts = parts

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" if name else repr(value) for name, value in self.parts]
        return f"<{self.name} {', '.join(shown)}>"


class Shown(NamedTuple):
    """A value, as far as it can be shown."""

    text: str  #: as Python writes it
    is_plain: bool  #: whether `plain` is all of it
    plain: Any = None  #: what JSON can say
    why: str = ""  #: why it is not shown; empty if it is


def shown(payload: bytes | memoryview) -> Shown:
    """Return what can be shown of a payload. Raise nothing: it may be anything."""
    payload = bytes(payload)
    codec = _MARKS.get(payload[:4])
    if codec is None:
        number = unpack_integer(payload)
        if number is not None:
            return _of(number)
        return _not(payload, "it was written with a codec of the application's own")
    if codec != MsgpackCodec.name:
        return _not(payload, "it is pickled, and to read it would run code")
    try:
        return _of(_decoded(payload[4:]))
    except (
        Exception
    ) as error:  # whatever a value that was damaged, or of another version, makes of msgpack and of classes
        return _not(payload, f"it cannot be read: {error or type(error).__name__}")


def _of(value: Any) -> Shown:
    text = _written(value)
    return Shown(text, True, value) if _is_plain(value, MAX_DEPTH) else Shown(text, False)


def _written(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # an int of more digits than Python writes
        return f"{value:#x}" if isinstance(value, int) else f"<{type(value).__name__}>"


def _not(payload: bytes, why: str) -> Shown:
    return Shown(f"<{len(payload)} bytes: {why}>", False, None, why)


def _is_plain(value: Any, depth: int) -> bool:
    """Tell whether JSON says all of a value."""
    kind = type(value)
    if kind is list:
        return depth > 0 and all(_is_plain(each, depth - 1) for each in value)
    if kind is dict:
        return depth > 0 and all(type(key) is str and _is_plain(each, depth - 1) for key, each in value.items())
    return value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value))


def _decoded(body: bytes) -> Any:
    if len(body) > MOST:
        raise ValueError(f"it has {len(body)} bytes")
    refuse_lies(body)
    return _unpacked(body, MAX_DEPTH)


def _unpacked(body: bytes, room: int) -> Any:
    return msgpack.unpackb(
        body, ext_hook=lambda code, data: _extension(code, data, room), strict_map_key=False, object_pairs_hook=_mapping
    )


def _mapping(pairs: list[tuple[Any, Any]]) -> Any:
    try:
        return dict(pairs)
    except TypeError:  # a key is an instance of a class that is not there, with a list in it
        return Instance("dict", [("", pair) for pair in pairs])


def _extension(code: int, body: bytes, room: int) -> Any:
    form = CODES.get(code)
    if form is not None and not form.is_box:
        return form.from_wire(body)
    if not room:
        raise ValueError("it is nested too deep")
    parts = _unpacked(body, room - 1)
    if form is not None:
        try:
            return form.from_wire(parts)
        except TypeError:  # a member of a set that cannot be hashed here
            return Instance({2: "set", 3: "frozenset"}.get(code, "?"), [("", each) for each in parts])
    name, *rest = parts
    if code == REGISTERED:
        return _instance(str(name), rest)
    if code != KNOWN:
        raise ValueError(f"it has an extension {code}, which this version does not know")
    if name in _SECRETS:
        return Instance(str(name).partition(":")[2], [("", "**********")])
    try:
        return known_from_wire(parts)
    except Exception:  # its library is not imported here
        return Instance(str(name), [("", each) for each in rest])


def _instance(name: str, rest: list[Any]) -> Instance:
    """Return an instance of a registered class: of a record, an enum, a flag, or a model of pydantic."""
    if len(rest) == 1:
        return Instance(name, [("", rest[0])])
    if len(rest) % 2:  # of a model: the names of the fields that were set, what is extra, what is private
        _, extra, _, *rest = rest
        more = list(extra.items()) if isinstance(extra, dict) else []
    else:
        more = []
    return Instance(name, [*zip(map(str, rest[::2]), rest[1::2], strict=True), *more])
