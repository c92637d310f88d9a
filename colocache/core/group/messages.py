"""The wire vocabulary: what members say to each other, as frozen records, and as frames.

A frame is one byte of protocol version and one **flat** msgpack array: the message's code and its fields. Nothing is
nested; lists are a message's last field, spread out. `decode` raises WireError, and only that, for every frame that is
not exactly one of these messages within its limits, and allocates no more than four times the frame, and 2 MiB, for
whatever bytes. (Left to itself, msgpack turns 1 MB of empty arrays into 65 MB, and 10 kB of arrays in arrays that lie
about their lengths into 82 MB; msgpack before 1.2 into gigabytes.)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import cycle, islice
from typing import Any, NamedTuple

import msgpack

from ...errors import WireError
from ..keys import MAX_WIRE
from ..numbers import MAX_BYTES

PROTOCOL = 1  # the first byte of every frame; members of another version are not understood, and counted

MAX_VALUE = 1 << 20  # bytes of one encoded value that may travel
MAX_TAG = 250  # bytes of UTF-8
MAX_TAGS = 64  # per value
MAX_BUS = 64 << 10  # a frame on the bus; a longer one would cut a subscriber off (see the bus)
MAX_TARGETS = 1024  # per event
MAX_STREAMS = 4096  # named in one dependency or roster
# A frame between two members: a value with all of its tags, and all that it depends on.
MAX_LINK = MAX_VALUE + MAX_TAGS * (MAX_TAG + 3) + MAX_STREAMS * 24 + 4096
MAX_SEAT = 200  # letters of a seat's name, which go into logs: printable ASCII
NO_NUMBER = (1 << 63) - 1  # a stream that ended without saying its last number

_POSITION = struct.Struct(">16sQ")

# What an event hits. A target is one letter and a name: b"k" + wire key, b"t" + tag, b"n" + namespace, or b"*".
EVERYTHING = b"*"


def key_target(wire: bytes) -> bytes:
    """Return the event target that hits one key."""
    return b"k" + wire


def tag_target(tag: str) -> bytes:
    """Return the event target that hits every entry with ``tag``. Raises ValueError if the tag is too long."""
    return b"t" + check_tag(tag).encode()


def namespace_target(namespace: str) -> bytes:
    """Return the event target that hits a namespace and all below it."""
    return b"n" + namespace.encode("utf-8", "surrogatepass")


def check_tag(tag: str) -> str:
    """Return ``tag``, or raise TypeError or ValueError if it is not a text that may travel."""
    if type(tag) is not str:
        raise TypeError(f"a tag is a str, not {type(tag).__name__}: {tag!r:.60}")
    try:
        size = len(tag.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the tag {tag!r:.60} has characters that UTF-8 cannot carry") from None
    if not 0 < size <= MAX_TAG:
        raise ValueError(f"the tag {tag!r:.60} takes {size} bytes; 1 to {MAX_TAG} are allowed")
    return tag


# --- On the bus -------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """One invalidation, the ``number``-th of its sender's stream."""

    sender: bytes
    number: int
    targets: tuple[bytes, ...]


class Goodbye(NamedTuple):
    """A stream has ended with the event ``last`` (`NO_NUMBER`: nobody knows); its member serves nothing any more."""

    sender: bytes
    stream: bytes
    last: int


# --- Between two members: who is there --------------------------------------------------------------------------


class Ping(NamedTuple):
    """Asks how far the receiver's stream is; introduces the sender, and tells what it has applied of that stream."""

    sender: bytes
    to: bytes
    id: int
    digest: bytes
    applied: int
    pid: int
    seat: str


class Pong(NamedTuple):
    """Answers a ping: the last number of the sender's stream, and whom the sender has not heard, for how long."""

    sender: bytes
    to: bytes
    id: int
    digest: bytes
    last: int
    silent: tuple[Any, ...]  # incarnation, seconds, …


class Roster(NamedTuple):
    """Whom the sender knows, sent to a member whose digest differs."""

    sender: bytes
    to: bytes
    rows: tuple[Any, ...]  # incarnation, seat, pid, last number if ended or -1 if alive, seconds of silence, …


# --- Between two members: streams -------------------------------------------------------------------------------


class Ack(NamedTuple):
    """The sender has applied the receiver's stream up to ``applied``."""

    sender: bytes
    to: bytes
    applied: int


class Replay(NamedTuple):
    """Asks for a stream's events from ``first`` on."""

    sender: bytes
    to: bytes
    stream: bytes
    first: int


class Replayed(NamedTuple):
    """Events of a stream, as the frames that were published."""

    sender: bytes
    to: bytes
    stream: bytes
    frames: tuple[bytes, ...]


class Reset(NamedTuple):
    """The log of a stream does not reach back: whatever may be stale must go; the stream is at ``last``."""

    sender: bytes
    to: bytes
    stream: bytes
    last: int


# --- Between two members: values --------------------------------------------------------------------------------


class Get(NamedTuple):
    """Asks an owner for a key's value, or for the permission to load it."""

    sender: bytes
    to: bytes
    id: int
    key: bytes
    patience: float
    dependencies: bytes


class Value(NamedTuple):
    """Answers a get: the value, how old, for how long it lives, and whether the owner is current."""

    sender: bytes
    to: bytes
    id: int
    payload: bytes
    age: float
    ttl_left: float
    current: bool
    tags: tuple[str, ...]


class Load(NamedTuple):
    """Answers a get: load the key yourself, once the dependencies are applied, and fill it in under this token."""

    sender: bytes
    to: bytes
    id: int
    token: int
    dependencies: bytes = b""


class Wait(NamedTuple):
    """Answers a get: somebody is loading the key; an answer follows."""

    sender: bytes
    to: bytes
    id: int


class Alone(NamedTuple):
    """Answers a get: load the key for yourself."""

    sender: bytes
    to: bytes
    id: int


class Cancel(NamedTuple):
    """The asker of a get has given up."""

    sender: bytes
    to: bytes
    id: int


class Fill(NamedTuple):
    """The value that was loaded under a token."""

    sender: bytes
    to: bytes
    key: bytes
    token: int
    payload: bytes
    ttl: float
    older: float  # by how much it may be older than the token, having been made of cached values; infinity: unknown
    tags: tuple[str, ...]


class Fail(NamedTuple):
    """The load under a token gave no value that could be filled in."""

    sender: bytes
    to: bytes
    key: bytes
    token: int


class Peek(NamedTuple):
    """Asks an owner for the values of keys that it has; never makes anybody load."""

    sender: bytes
    to: bytes
    id: int
    patience: float
    dependencies: bytes
    keys: tuple[bytes, ...]


class Peeked(NamedTuple):
    """Answers a peek, in one or more parts: records as of `pack_record`."""

    sender: bytes
    to: bytes
    id: int
    current: bool
    more: bool
    records: tuple[bytes, ...]


class Set(NamedTuple):
    """Asks an owner to store a value unconditionally, and to announce it; ``after`` is the writer's own last number."""

    sender: bytes
    to: bytes
    id: int
    key: bytes
    payload: bytes
    ttl: float
    acknowledged: bool
    after: int
    tags: tuple[str, ...]


class Stored(NamedTuple):
    """Answers a set: the event that announces it, and whether the value was kept."""

    sender: bytes
    to: bytes
    id: int
    number: int
    kept: bool


class SetReceipt(NamedTuple):
    """Follows a stored, where asked: what became of the event's acknowledgements (a Receipt, spread out)."""

    sender: bytes
    to: bytes
    id: int
    complete: bool
    seconds: float
    acknowledged: int
    seats: tuple[str, ...]  # first the acknowledged ones, then those waited out


class GetFenced(NamedTuple):
    """Asks an owner for what it has under a key, and for a fence: see `colocache.core.group.fences`."""

    sender: bytes
    to: bytes
    id: int
    key: bytes
    patience: float
    dependencies: bytes


class Fenced(NamedTuple):
    """Answers it: the fence, or -1; what there is; and what must be applied before a value is made under the fence."""

    sender: bytes
    to: bytes
    id: int
    fence: int
    current: bool
    found: bool
    payload: bytes
    age: float
    ttl_left: float
    dependencies: bytes
    tags: tuple[str, ...]


class SetFenced(NamedTuple):
    """Asks an owner to store a value if its key had no event since it gave the fence, and to announce it."""

    sender: bytes
    to: bytes
    id: int
    key: bytes
    payload: bytes
    ttl: float
    fence: int
    tags: tuple[str, ...]


class Alter(NamedTuple):
    """Asks an owner to add to a number, or to let a value expire in ``left`` seconds: a touch.

    Where there is nothing, ``start`` is stored, unless it is empty.
    """

    sender: bytes
    to: bytes
    id: int
    key: bytes
    touch: bool
    delta: int
    start: bytes
    ttl: float
    patience: float
    dependencies: bytes
    tags: tuple[str, ...]


class Altered(NamedTuple):
    """Answers both: what became of it, the event that announces it, or 0, and the value as it is now."""

    sender: bytes
    to: bytes
    id: int
    number: int
    outcome: int
    payload: bytes


#: What one member says to another one.
Addressed = (
    Ping | Pong | Roster | Ack | Replay | Replayed | Reset | Get | Value | Load | Wait | Alone | Cancel | Fill | Fail
    | Peek | Peeked | Set | Stored | SetReceipt | GetFenced | Fenced | SetFenced | Alter | Altered
)  # fmt: skip
#: What answers a request that an owner was asked.
Answer = Value | Load | Wait | Alone | Peeked | Stored | SetReceipt | Fenced | Altered
Message = Event | Goodbye | Addressed


# --- Frames -----------------------------------------------------------------------------------------------------

Check = Callable[[Any], bool]


def _identity(value: Any) -> bool:
    return type(value) is bytes and len(value) == 16


def _digest(value: Any) -> bool:
    return type(value) is bytes and len(value) == 8


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= NO_NUMBER


def _delta(value: Any) -> bool:
    return type(value) is int and -NO_NUMBER <= value <= NO_NUMBER


def _number(value: Any) -> bool:
    return type(value) is int and -1 <= value <= NO_NUMBER


def _seconds(value: Any) -> bool:
    return type(value) is float and value >= 0.0  # refuses nan; inf is "for ever"


def _flag(value: Any) -> bool:
    return type(value) is bool


def _name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_SEAT and value.isascii() and value.isprintable()


def _key(value: Any) -> bool:
    if type(value) is not bytes or not 2 <= len(value) <= MAX_WIRE:
        return False
    end = value[0] + 1  # of the namespace, which must be text: see `namespace_of`
    return len(value) > end and _is_text(value[1:end])


def _tag(value: Any) -> bool:
    return type(value) is str and 0 < len(value.encode()) <= MAX_TAG


def _payload(value: Any) -> bool:
    return type(value) is bytes and len(value) <= MAX_VALUE


def _start(value: Any) -> bool:
    return type(value) is bytes and len(value) <= 4 + MAX_BYTES


def _blob(value: Any) -> bool:
    return type(value) is bytes


def _event_frame(value: Any) -> bool:
    return type(value) is bytes and len(value) >= _LEAST_EVENT


def _positions(value: Any) -> bool:
    return type(value) is bytes and len(value) % _POSITION.size == 0 and len(value) <= MAX_STREAMS * _POSITION.size


def _target(value: Any) -> bool:
    if type(value) is not bytes or not value:
        return False
    kind, name = value[:1], value[1:]
    if kind == b"k":
        return _key(name)
    if kind == b"t":
        return 0 < len(name) <= MAX_TAG and _is_text(name)
    if kind == b"n":
        return len(name) <= 256 and _is_text(name)
    return bool(value == EVERYTHING)


def _is_text(name: bytes) -> bool:
    try:
        name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


class _Rest(NamedTuple):
    """The last field of a message that is a list: its elements' checks in turn, and how many rows at most."""

    row: tuple[Check, ...]
    limit: int


_ID, _TAGS = (_identity, _identity), _Rest((_tag,), MAX_TAGS)
_LEAST_EVENT = 25  # bytes of an event's frame; shorter ones, in great number, would take far more memory than bytes

# code, record, a check per field, the list that ends it
_TABLE: tuple[tuple[int, type[Any], tuple[Check, ...], _Rest | None], ...] = (
    (1, Event, (_identity, _count), _Rest((_target,), MAX_TARGETS)),
    (2, Goodbye, (_identity, _identity, _count), None),
    (3, Ping, (*_ID, _count, _digest, _count, _count, _name), None),
    (4, Pong, (*_ID, _count, _digest, _count), _Rest((_identity, _seconds), MAX_STREAMS)),
    (5, Roster, _ID, _Rest((_identity, _name, _count, _number, _seconds), MAX_STREAMS)),
    (6, Ack, (*_ID, _count), None),
    (7, Replay, (*_ID, _identity, _count), None),
    (8, Replayed, (*_ID, _identity), _Rest((_event_frame,), MAX_LINK // (_LEAST_EVENT + 5))),
    (9, Reset, (*_ID, _identity, _count), None),
    (10, Get, (*_ID, _count, _key, _seconds, _positions), None),
    (11, Value, (*_ID, _count, _payload, _seconds, _seconds, _flag), _TAGS),
    (12, Load, (*_ID, _count, _count, _positions), None),
    (13, Wait, (*_ID, _count), None),
    (14, Alone, (*_ID, _count), None),
    (15, Cancel, (*_ID, _count), None),
    (16, Fill, (*_ID, _key, _count, _payload, _seconds, _seconds), _TAGS),
    (17, Fail, (*_ID, _key, _count), None),
    (18, Peek, (*_ID, _count, _seconds, _positions), _Rest((_key,), MAX_TARGETS)),
    (19, Peeked, (*_ID, _count, _flag, _flag), _Rest((_blob,), MAX_TARGETS)),
    (20, Set, (*_ID, _count, _key, _payload, _seconds, _flag, _count), _TAGS),
    (21, Stored, (*_ID, _count, _count, _flag), None),
    (22, SetReceipt, (*_ID, _count, _flag, _seconds, _count), _Rest((_name,), 2 * MAX_STREAMS)),
    (23, GetFenced, (*_ID, _count, _key, _seconds, _positions), None),
    (24, Fenced, (*_ID, _count, _number, _flag, _flag, _payload, _seconds, _seconds, _positions), _TAGS),
    (25, SetFenced, (*_ID, _count, _key, _payload, _seconds, _count), _TAGS),
    (26, Alter, (*_ID, _count, _key, _flag, _delta, _start, _seconds, _seconds, _positions), _TAGS),
    (27, Altered, (*_ID, _count, _count, _count, _payload), None),
)
_BY_CODE = {code: (record, checks, rest) for code, record, checks, rest in _TABLE}
_BY_RECORD = {record: (code, rest is not None) for code, record, _, rest in _TABLE}
_HEAD = bytes((PROTOCOL,))


def encode(message: Message) -> bytes:
    """Return the frame of a message."""
    code, spread = _BY_RECORD[type(message)]
    values: tuple[Any, ...] = message
    fields = (code, *values[:-1], *values[-1]) if spread else (code, *values)
    packed: bytes = msgpack.packb(fields)
    return _HEAD + packed


def decode(frame: bytes) -> Message:
    """Return the message of a frame. Raises WireError, and nothing else, for any other bytes."""
    if len(frame) > MAX_LINK or frame[:1] != _HEAD:
        raise WireError(f"a frame of {len(frame)} bytes that is not of protocol version {PROTOCOL}")
    packed = memoryview(frame)[1:]
    count, start = _list_head(packed)
    values = _values(packed[start:], count)
    code = next(values, None)
    entry = _BY_CODE.get(code) if type(code) is int else None
    if entry is None:
        raise WireError("a frame of no known kind")
    if entry[0] is Event and len(frame) > MAX_BUS:
        raise WireError(f"an Event of {len(frame)} bytes")
    return _read(*entry, values, count - 1)  # type: ignore[no-any-return]


def _read(record: type[Any], checks: tuple[Check, ...], rest: _Rest | None, values: Iterator[Any], count: int) -> Any:
    """Return the record of so many values, each of which is checked before the next one is unpacked."""
    listed = count - len(checks)
    if listed < 0 or (rest is None and listed):
        raise WireError(f"a {record.__name__} with {count} fields")
    if rest is not None and (listed % len(rest.row) or listed > rest.limit * len(rest.row)):
        raise WireError(f"a {record.__name__} with {listed} listed values")
    fields: list[Any] = _checked(values, checks, record, "field")
    if rest is not None:
        fields.append(tuple(_checked(values, islice(cycle(rest.row), listed), record, "listed value")))
    for _ in values:  # there is none; but whether the frame ends here, is found out here
        pass
    return record(*fields)


def _checked(values: Iterator[Any], checks: Iterable[Check], record: type[Any], what: str) -> list[Any]:
    checked = []
    for check, value in zip(checks, values, strict=False):  # in this order: when the checks end, no value is taken
        if not check(value):
            raise WireError(f"a {record.__name__} with a {what} out of its range")
        checked.append(value)
    return checked


def _values(packed: memoryview, count: int) -> Iterator[Any]:
    """Yield the values of a packed list, none of which has anything in it, one after another.

    So nothing is unpacked beyond the first value that is refused, whatever a list says of its length.
    """
    size = len(packed)
    unpacker = msgpack.Unpacker(
        max_buffer_size=size or 1, read_size=size or 1,
        max_str_len=MAX_TAG, max_array_len=0, max_map_len=0, max_ext_len=0,
    )  # fmt: skip
    found = 0
    try:
        unpacker.feed(packed)
        for value in islice(unpacker, count):
            found += 1
            yield value
    except Exception as error:  # msgpack raises ValueError, its own classes, and UnicodeDecodeError, by the bytes
        raise WireError(f"a frame that is not msgpack: {type(error).__name__}") from None
    if found < count or unpacker.tell() < size:
        raise WireError("a frame that is shorter or longer than it says")


def _list_head(packed: memoryview) -> tuple[int, int]:
    """Return how many values a packed list says that it has, and where they begin."""
    first = packed[0] if packed else 0
    if 0x90 <= first <= 0x9F:
        return first & 0x0F, 1
    width = {0xDC: 2, 0xDD: 4}.get(first, 0)
    if not 0 < width < len(packed):
        raise WireError("a frame that is not a list")
    return int.from_bytes(packed[1 : 1 + width], "big"), 1 + width


def pack_positions(positions: Mapping[bytes, int]) -> bytes:
    """Return stream positions (incarnation to number) as one blob."""
    if not positions:
        return b""
    return b"".join([_POSITION.pack(stream, number) for stream, number in positions.items()])


def unpack_positions(blob: bytes) -> dict[bytes, int]:
    """Return the stream positions of a blob that `decode` has checked."""
    return dict(_POSITION.iter_unpack(blob)) if blob else {}


class Record(NamedTuple):
    """One value in the answer to a peek: which of the keys asked for, and the rest as in `Value`."""

    place: int
    payload: bytes
    age: float
    ttl_left: float
    tags: tuple[str, ...]


_RECORD = (_count, _payload, _seconds, _seconds)


def pack_record(record: Record) -> bytes:
    """Return a record of a `Peeked`."""
    packed: bytes = msgpack.packb((*record[:-1], *record.tags))
    return packed


def unpack_record(blob: bytes) -> Record:
    """Return the record of a `Peeked`. Raises WireError."""
    packed = memoryview(blob)
    count, start = _list_head(packed)
    return _read(Record, _RECORD, _TAGS, _values(packed[start:], count), count)  # type: ignore[no-any-return]


def split_targets(targets: Iterable[bytes]) -> list[tuple[bytes, ...]]:
    """Return the targets in parts that each fit an event on the bus, by count and by bytes."""
    parts: list[tuple[bytes, ...]] = []
    part: list[bytes] = []
    size = 0
    for target in targets:
        if part and (len(part) == MAX_TARGETS or size + len(target) > MAX_BUS - 1024):
            parts.append(tuple(part))
            part, size = [], 0
        part.append(target)
        size += len(target) + 5
    if part:
        parts.append(tuple(part))
    return parts
