"""The messages that members send each other, as frozen records and as frames.

A frame is one byte of protocol version, one byte that says which message it is, and the message's fields in the form
of its `Layout`. `decode` raises WireError, and only that, for every frame that is not exactly one of these messages
within its limits. Whatever the bytes, it allocates no more than four times the frame and 2 MiB.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple, get_args

from ...errors import WireError
from ..keys import MAX_WIRE
from ..numbers import MAX_BYTES
from ..options import MAX_TAG, MAX_TAGS, MAX_VALUE, check_tag
from .layout import Fixed, Layout, Rows, Sized

PROTOCOL = 1  # the first byte of every frame; a frame of another version is refused, and counted

MAX_BUS = 64 << 10  # bytes of a frame on the bus; a longer one would cut a subscriber off
MAX_TARGETS = 1024  # per event
MAX_STREAMS = 4096  # named in one dependency or roster
# Bytes of a frame between two members: a value with all of its tags, and all that it depends on.
MAX_LINK = MAX_VALUE + MAX_TAGS * (MAX_TAG + 4) + MAX_STREAMS * 24 + 4096
MAX_SEAT = 200  # letters of a seat's name, which go into logs: printable ASCII
LEAST_EVENT = 30  # bytes of an event's frame
NO_NUMBER = (1 << 63) - 1  # a stream that ended without saying its last number

_POSITION = struct.Struct(">16sQ")

# What an event covers. A target is one letter and a name: b"k" + wire key, b"t" + tag, b"n" + namespace, or b"*".
EVERYTHING = b"*"


def key_target(wire: bytes) -> bytes:
    """Return the event target that covers one key."""
    return b"k" + wire


def tag_target(tag: str) -> bytes:
    """Return the event target that covers every entry with ``tag``. Raise ValueError if the tag is too long."""
    return b"t" + check_tag(tag).encode()


def namespace_target(namespace: str) -> bytes:
    """Return the event target that covers a namespace and all below it."""
    return b"n" + namespace.encode("utf-8", "surrogatepass")


# --- What a field may hold; whatever does not, `decode` refuses -----------------------------------------------------


def _is_not_negative(value: float) -> bool:
    return value >= 0  # refuses nan; infinity is "for ever"


def _is_seat(text: str) -> bool:
    return text != "" and text.isascii() and text.isprintable()


def _is_key(wire: bytes) -> bool:
    end = wire[0] + 1 if wire else 0  # of the namespace, which must be text: see `namespace_of`
    return 0 < end < len(wire) and _is_text(wire[1:end])


def _is_target(target: bytes) -> bool:
    kind, name = target[:1], target[1:]
    if kind == b"k":
        return _is_key(name)
    if kind == b"t":
        return 0 < len(name) <= MAX_TAG and _is_text(name)
    if kind == b"n":
        return len(name) <= 256 and _is_text(name)
    return target == EVERYTHING


def _is_text(name: bytes) -> bool:
    try:
        name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


_IDENTITY = Fixed("16s")
_COUNT = Fixed("q", _is_not_negative)
_NUMBER = Fixed("q", lambda value: value >= -1)
_SECONDS = Fixed("d", _is_not_negative)
_SEAT = Sized(MAX_SEAT, _is_seat, is_text=True)
_KEY = Sized(MAX_WIRE, _is_key)
_TAG = Sized(MAX_TAG, bool, is_text=True)
_TARGET = Sized(MAX_WIRE + 1, _is_target)
# Because many shorter ones take far more memory than bytes.
_EVENT_FRAME = Sized(MAX_BUS, lambda frame: len(frame) >= LEAST_EVENT)

Identity = Annotated[bytes, _IDENTITY]
Digest = Annotated[bytes, Fixed("8s")]
Count = Annotated[int, _COUNT]
Number = Annotated[int, _NUMBER]
Delta = Annotated[int, Fixed("q", lambda value: abs(value) <= NO_NUMBER)]
Seconds = Annotated[float, _SECONDS]
Flag = Annotated[bool, Fixed("?")]
Seat = Annotated[str, _SEAT]
Key = Annotated[bytes, _KEY]
Payload = Annotated[bytes, Sized(MAX_VALUE)]
Start = Annotated[bytes, Sized(4 + MAX_BYTES)]
Positions = Annotated[bytes, Sized(MAX_STREAMS * _POSITION.size, lambda blob: len(blob) % _POSITION.size == 0)]
Tags = Annotated[tuple[str, ...], Rows(_TAG, MAX_TAGS)]
Targets = Annotated[tuple[bytes, ...], Rows(_TARGET, MAX_TARGETS)]
Keys = Annotated[tuple[bytes, ...], Rows(_KEY, MAX_TARGETS)]
Records = Annotated[tuple[bytes, ...], Rows(Sized(MAX_LINK), MAX_TARGETS)]
Seats = Annotated[tuple[str, ...], Rows(_SEAT, 2 * MAX_STREAMS)]
EventFrames = Annotated[tuple[bytes, ...], Rows(_EVENT_FRAME, MAX_LINK // LEAST_EVENT)]
# A member, and seconds of its silence.
Silent = Annotated[tuple[tuple[bytes, float], ...], Rows((_IDENTITY, _SECONDS), MAX_STREAMS)]
# A member, its seat and pid, the last number of its stream if that has ended, otherwise -1, and seconds of silence.
Members = Annotated[
    tuple[tuple[bytes, str, int, int, float], ...], Rows((_IDENTITY, _SEAT, _COUNT, _NUMBER, _SECONDS), MAX_STREAMS)
]

# --- On the bus -------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """One invalidation, the ``number``-th of its sender's stream."""

    sender: Identity
    number: Count
    targets: Targets


class Goodbye(NamedTuple):
    """Says that a stream has ended, with the event ``last`` or `NO_NUMBER`. Its member serves nothing any more."""

    sender: Identity
    stream: Identity
    last: Count


# --- Between two members: who is there --------------------------------------------------------------------------


class Ping(NamedTuple):
    """Asks for the last number of the receiver's stream. Introduces the sender, and says what it has applied of it."""

    sender: Identity
    to: Identity
    id: Count
    digest: Digest
    applied: Count
    pid: Count
    seat: Seat


class Pong(NamedTuple):
    """Answers a ping: the last number of the sender's stream, and the members that the sender does not hear."""

    sender: Identity
    to: Identity
    id: Count
    digest: Digest
    last: Count
    silent: Silent  # incarnation, seconds, …


class Roster(NamedTuple):
    """The members that the sender knows, sent to a member whose digest differs."""

    sender: Identity
    to: Identity
    rows: Members  # incarnation, seat, pid, last number if ended or -1 if alive, seconds of silence, …


# --- Between two members: streams -------------------------------------------------------------------------------


class Ack(NamedTuple):
    """Says that the sender has applied the receiver's stream up to ``applied``."""

    sender: Identity
    to: Identity
    applied: Count


class Replay(NamedTuple):
    """Asks for a stream's events from ``first`` on."""

    sender: Identity
    to: Identity
    stream: Identity
    first: Count


class Replayed(NamedTuple):
    """Events of a stream, as the frames that were published."""

    sender: Identity
    to: Identity
    stream: Identity
    frames: EventFrames


class Reset(NamedTuple):
    """Says that the log of a stream does not reach back, and that the receiver drops what events may have covered."""

    sender: Identity
    to: Identity
    stream: Identity
    last: Count


# --- Between two members: values --------------------------------------------------------------------------------


class Get(NamedTuple):
    """Asks an owner for the value of a key, or for the permission to load it."""

    sender: Identity
    to: Identity
    id: Count
    key: Key
    patience: Seconds
    dependencies: Positions


class Value(NamedTuple):
    """Answers a get: the value, its age, how long it lives, and whether the owner is current."""

    sender: Identity
    to: Identity
    id: Count
    payload: Payload
    age: Seconds
    ttl_left: Seconds
    current: Flag
    tags: Tags


class Load(NamedTuple):
    """Answers a get: apply the dependencies, load the key, and fill it in under this token."""

    sender: Identity
    to: Identity
    id: Count
    token: Count
    dependencies: Positions = b""


class Wait(NamedTuple):
    """Answers a get: another member is loading the key, and an answer follows."""

    sender: Identity
    to: Identity
    id: Count


class Alone(NamedTuple):
    """Answers a get: load the key for your own process."""

    sender: Identity
    to: Identity
    id: Count


class Cancel(NamedTuple):
    """Says that the sender of a get does not wait any longer."""

    sender: Identity
    to: Identity
    id: Count


class Fill(NamedTuple):
    """The value that was loaded under a token."""

    sender: Identity
    to: Identity
    key: Key
    token: Count
    payload: Payload
    ttl: Seconds
    older: Seconds  # s that it may be older than the token, because it was made of cached values; infinity: unknown
    tags: Tags


class Fail(NamedTuple):
    """Says that the load under a token gave no value to fill in."""

    sender: Identity
    to: Identity
    key: Key
    token: Count


class Peek(NamedTuple):
    """Asks an owner for the values that it has for keys. It never causes a load."""

    sender: Identity
    to: Identity
    id: Count
    patience: Seconds
    dependencies: Positions
    keys: Keys


class Peeked(NamedTuple):
    """Answers a peek, in one or more parts: records as of `pack_record`."""

    sender: Identity
    to: Identity
    id: Count
    current: Flag
    more: Flag
    records: Records


class Set(NamedTuple):
    """Asks an owner to store a value in any case, and to announce it. ``after`` is the last number of the writer."""

    sender: Identity
    to: Identity
    id: Count
    key: Key
    payload: Payload
    ttl: Seconds
    acknowledged: Flag
    after: Count
    tags: Tags


class Stored(NamedTuple):
    """Answers a set: the event that announces it, and whether the value was kept."""

    sender: Identity
    to: Identity
    id: Count
    number: Count
    kept: Flag


class SetReceipt(NamedTuple):
    """Follows a `Stored`, if asked for: the receipt of the event, spread out."""

    sender: Identity
    to: Identity
    id: Count
    complete: Flag
    seconds: Seconds
    acknowledged: Count
    seats: Seats  # first those that acknowledged, then those that were waited out


class GetFenced(NamedTuple):
    """Asks an owner for the value of a key, and for a fence: see `colocache.core.group.fences`."""

    sender: Identity
    to: Identity
    id: Count
    key: Key
    patience: Seconds
    dependencies: Positions


class Fenced(NamedTuple):
    """Answers it: the fence, or -1; the value; and the events to apply before a value is made under the fence."""

    sender: Identity
    to: Identity
    id: Count
    fence: Number
    current: Flag
    found: Flag
    payload: Payload
    age: Seconds
    ttl_left: Seconds
    dependencies: Positions
    tags: Tags


class SetFenced(NamedTuple):
    """Asks an owner to store a value, and to announce it, if no event has covered the key since the fence."""

    sender: Identity
    to: Identity
    id: Count
    key: Key
    payload: Payload
    ttl: Seconds
    fence: Count
    tags: Tags


class Alter(NamedTuple):
    """Asks an owner to add to a number, or, as a touch, to let a value expire in ``ttl`` seconds.

    If there is no value, ``start`` is stored, unless it is empty.
    """

    sender: Identity
    to: Identity
    id: Count
    key: Key
    touch: Flag
    delta: Delta
    start: Start
    ttl: Seconds
    patience: Seconds
    dependencies: Positions
    tags: Tags


class Altered(NamedTuple):
    """Answers a fenced set and an alter: the outcome, the event that announces it, or 0, and the value as it is now."""

    sender: Identity
    to: Identity
    id: Count
    number: Count
    outcome: Count
    payload: Payload


#: What one member says to another one.
Addressed = (
    Ping | Pong | Roster | Ack | Replay | Replayed | Reset | Get | Value | Load | Wait | Alone | Cancel | Fill | Fail
    | Peek | Peeked | Set | Stored | SetReceipt | GetFenced | Fenced | SetFenced | Alter | Altered
)  # fmt: skip

#: The answers of an owner to a request.
Answer = Value | Load | Wait | Alone | Peeked | Stored | SetReceipt | Fenced | Altered

Message = Event | Goodbye | Addressed

# --- Frames -----------------------------------------------------------------------------------------------------

_LAYOUTS = {record: (code, Layout(record)) for code, record in enumerate(get_args(Message), 1)}
_BY_CODE = {code: (record, layout) for record, (code, layout) in _LAYOUTS.items()}


def encode(message: Message) -> bytes:
    """Return the frame of a message."""
    code, layout = _LAYOUTS[type(message)]
    return layout.pack(message, bytes((PROTOCOL, code)))


def decode(frame: bytes) -> Message:
    """Return the message of a frame. Raise WireError, and nothing else, for any other bytes."""
    if len(frame) > MAX_LINK or frame[:1] != bytes((PROTOCOL,)):
        raise WireError(f"a frame of {len(frame)} bytes that is not of protocol version {PROTOCOL}")
    record, layout = _BY_CODE.get(frame[1] if len(frame) > 1 else 0, (None, None))
    if layout is None:
        raise WireError("a frame of no known kind")
    if record is Event and len(frame) > MAX_BUS:
        raise WireError(f"an Event of {len(frame)} bytes")
    return layout.unpack(frame, 2)  # type: ignore[no-any-return]


def pack_positions(positions: Mapping[bytes, int]) -> bytes:
    """Return stream positions (incarnation to number) as one blob."""
    if not positions:
        return b""
    return b"".join([_POSITION.pack(stream, number) for stream, number in positions.items()])


def unpack_positions(blob: bytes) -> dict[bytes, int]:
    """Return the stream positions of a blob that `decode` has checked."""
    return dict(_POSITION.iter_unpack(blob)) if blob else {}


class Record(NamedTuple):
    """One value in the answer to a peek: the place of its key in the request, and the rest as in `Value`."""

    place: Count
    payload: Payload
    age: Seconds
    ttl_left: Seconds
    tags: Tags


_RECORD = Layout(Record)


def pack_record(record: Record) -> bytes:
    """Return a record of a `Peeked`."""
    return _RECORD.pack(record)


def unpack_record(blob: bytes) -> Record:
    """Return the record of a `Peeked`. Raise WireError for any other bytes."""
    return _RECORD.unpack(blob)  # type: ignore[no-any-return]


def split_targets(targets: Iterable[bytes]) -> list[tuple[bytes, ...]]:
    """Return the targets in parts, each of which fits an event on the bus in number and bytes."""
    parts: list[tuple[bytes, ...]] = []
    part: list[bytes] = []
    size = 0
    for target in targets:
        if part and (len(part) == MAX_TARGETS or size + len(target) > MAX_BUS - 1024):
            parts.append(tuple(part))
            part, size = [], 0
        part.append(target)
        size += len(target) + 4  # its length
    if part:
        parts.append(tuple(part))
    return parts
