"""What a process asks of the owner host of a key, and its form on the wire.

Requests go straight from the process that asks to the one port of the owner host. Each is answered once. A frame is a
msgpack array: the kind, and then the fields; those that a later version adds stand at the end, and are passed over.

**Whoever has a host's address now answers**, and after a restart that is another incarnation. So what an answer says of
events says whose they are, and what is asked about events names the incarnation that is meant. Otherwise:

1. C, a client, has M announce something. M's event 5 is lost on its way to A. M restarts.
2. M' has more than 5 events, which all others have acknowledged.
3. C asks M' to wait for event 5. M' answers at once. A, whose lease of M goes on for a while, serves what C has made
   void, after C's call has returned.

A key is given by its wire key; ``hashes`` are those of what its value depends on beside it: the root first, then
namespaces and tags. Payloads are opaque. Seconds are durations, because every host has a clock of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgpack

from ...errors import WireError
from ...interruptions import raise_if_foreign
from .dependencies import OVER, Dependencies
from .event import KEYS, NAMESPACES
from .event import MAX_HASHES as MAX_HASHES_OF_EVENT
from .layout import ENTRIES, LANES
from .log import MAX_CHUNKS
from .ring import SLOTS
from .rows import MAX_NAME, Incarnation, Numbers

MAX_WIRE: Final = 1 << 15  # bytes of a wire key
MAX_PAYLOAD: Final = 1 << 20
MAX_HASHES: Final = 1024  # namespaces and tags of one value
MAX_MANY: Final = 1024  # keys of one request
MAX_FENCE: Final = 64 << 10
MAX_OFFERED: Final = 256  # keys of one offer
SLOT_BYTES: Final = SLOTS // 8  # one bit for each slot of the ring
MAX_VOID: Final = MAX_CHUNKS * MAX_HASHES_OF_EVENT  # things of one invalidation
MAX_NAMES: Final = 2048  # hosts of one receipt
MAX_PROCESSES: Final = 512  # of one report
MAX_SPACES: Final = 1024
MAX_COLUMNS: Final = 256
LARGEST: Final = (1 << 20) + (256 << 10)  # bytes of a frame

T = TypeVar("T")


class Key(NamedTuple):
    """A key, and what its value depends on beside it."""

    wire: bytes
    hashes: tuple[int, ...]


class Get(NamedTuple):
    """Have you a value? If ``leads``, and nobody loads it yet, the asker may get the duty to load it.

    Answered by `Found`, `Missing`, `Granted`, `Busy` or `Refused`.
    """

    key: Key
    depends: Dependencies
    leads: bool
    patience: float  # s that the asker would still wait for somebody else's load
    asker: Incarnation = b"\0" * 16  # the asker's host


class GetMany(NamedTuple):
    """Which of these have you? Answered by `FoundMany` or `Refused`."""

    keys: tuple[Key, ...]
    depends: Dependencies


class Fill(NamedTuple):
    """What was loaded under a grant; None gives the grant back. Answered by `Done`."""

    token: int
    payload: bytes | None
    ttl: float
    age: float  # s since the loader began


class Put(NamedTuple):
    """Store a value, whatever is there; None only invalidates the key. Answered by `Done`.

    With ``waits``, the answer comes when no host serves anything older any more.
    """

    key: Key
    payload: bytes | None
    ttl: float
    waits: bool


class PutFenced(NamedTuple):
    """Store a value if nothing has happened to the key since it was missed. Answered by `Done`.

    ``fence`` is what `Missing` has given. ``tags`` are the hashes of tags, which nobody knew then.
    """

    key: Key
    payload: bytes
    ttl: float
    fence: bytes
    tags: tuple[int, ...]


class Add(NamedTuple):
    """Store a value if there is none. Answered by `Done`."""

    key: Key
    payload: bytes
    ttl: float
    depends: Dependencies


class Replace(NamedTuple):
    """Store a value if the key had no event since `Found` has given this version. Answered by `Done`."""

    key: Key
    payload: bytes
    ttl: float
    version: int
    any_tag: int
    depends: Dependencies


class Count(NamedTuple):
    """Add to a number; ``start`` is what to store where there is none, or None. Answered by `Done`."""

    key: Key
    delta: int
    start: bytes | None
    ttl: float
    depends: Dependencies


class Touch(NamedTuple):
    """Give a value another time to live. Answered by `Done`."""

    key: Key
    ttl: float
    depends: Dependencies


class Offer(NamedTuple):
    """I have these, and you may want copies of them: ask me. Answered by `Done`, once what was lacking is there.

    ``depends`` names the events of ``sender`` up to now: its writes have made older copies void.
    """

    sender: Incarnation
    keys: tuple[Key, ...]
    depends: Dependencies


class Harvest(NamedTuple):
    """Which keys of these slots have you? Answered by `Held`.

    ``slots`` are bits, that of slot 0 first. ``first`` is where to begin, 0 or what `Held` has said. ``hot`` says
    whether those that were used before are wanted, or the others.
    """

    slots: bytes
    first: int
    hot: bool


class Report(NamedTuple):
    """What have the processes of your host counted? Answered by `Reported`, and by `Refused` before there was this."""


class Announce(NamedTuple):
    """Invalidate these things, as an event of the host that is asked. Answered by `Announced` or `Refused`.

    Only a client asks, which has no events of its own. ``kind`` is that of `colocache.core.hosts.event`.
    """

    sender: Incarnation
    kind: int
    hashes: tuple[int, ...]
    related: bool


class Settle(NamedTuple):
    """Wait until no host serves what these events have made void.

    ``by`` is whose they are: the host that is asked. Answered by `Settlement`, or by `Refused` if that is over.
    """

    sender: Incarnation
    by: Incarnation
    numbers: Numbers


class Found(NamedTuple):
    """A value, with the hashes that its label names beside the key and the root."""

    payload: bytes
    hashes: tuple[int, ...]
    ttl: float  # s that it still lives
    age: float  # s since it was loaded
    version: int
    any_tag: int


class FoundMany(NamedTuple):
    """What is there of several keys, in their order."""

    values: tuple[Found | None, ...]


class Missing(NamedTuple):
    """There is no value. ``fence`` is for `PutFenced`, and ``depends`` as in `Granted`."""

    fence: bytes
    depends: Dependencies


class Granted(NamedTuple):
    """There is no value, and the asker is to load it, once it has applied all that the owner has.

    Otherwise:

    1. The owner has applied an event, of a page and of a part of it, and reads the stamps under which the page will
       stand. It grants the load.
    2. The asker has not applied the event yet, and its writer still waits for that. So its loader is served the old
       part.
    3. The asker fills the owner's shelf with a page that is made of it. It stands there for good.
    """

    token: int
    depends: Dependencies


class Busy(NamedTuple):
    """Somebody else still loads it: ask again."""


class Refused(NamedTuple):
    """This host cannot help: it is not as far as the asker, or not current."""


class Done(NamedTuple):
    """What has come of a write: the name of an outcome, and what was stored."""

    outcome: str
    payload: bytes | None = None
    complete: bool = False  # no host serves anything older any more
    events: Numbers | None = None  # of the host that has written: up to there it has announced the write
    by: Incarnation | None = None  # which host that is


class Held(NamedTuple):
    """Keys that a host has, and where it would go on; 0 is the end."""

    keys: tuple[Key, ...]
    next: int


class Announced(NamedTuple):
    """Whose event it is, and which one, by its lane, and whether the asker's host has applied it."""

    by: Incarnation
    numbers: Numbers
    is_applied: bool


class ProcessReport(NamedTuple):
    """What one process has counted since it joined: see `colocache.core.host.scores.Block`."""

    seat: int
    pid: int
    role: str
    version: str
    is_alive: bool
    began: int  # ns since the epoch
    written: int
    gauges: tuple[int, ...]
    columns: tuple[int, ...]


class Reported(NamedTuple):
    """What the processes of a host have counted: each of them, and all that ever were, by namespace."""

    processes: tuple[ProcessReport, ...]
    spaces: tuple[tuple[str, tuple[int, ...]], ...]  # the path, and columns
    shelf: tuple[int, ...]  # entries, their bytes, and the bytes that they may take


class Settlement(NamedTuple):
    """What has come of events: see `colocache.core.hosts.waiting.Settled`. The asker's host is not named."""

    acknowledged: tuple[str, ...]
    waited_out: tuple[str, ...]
    forgotten: tuple[str, ...]
    complete: bool


Request = (
    Get | GetMany | Fill | Put | PutFenced | Add | Replace | Count | Touch
    | Announce | Settle | Offer | Harvest | Report
)  # fmt: skip
Answer = Found | FoundMany | Missing | Granted | Busy | Refused | Done | Announced | Settlement | Held | Reported

_REQUESTS: Final[tuple[Any, ...]] = (
    Get, GetMany, Fill, Put, PutFenced, Add, Replace, Count, Touch, Announce, Settle, Offer, Harvest, Report,
)  # fmt: skip
_ANSWERS: Final[tuple[Any, ...]] = (
    Found,
    FoundMany,
    Missing,
    Granted,
    Busy,
    Refused,
    Done,
    Announced,
    Settlement,
    Held,
    Reported,
)
_NUMBER: Final[dict[Any, int]] = {
    **{kind: number for number, kind in enumerate(_REQUESTS, 1)},
    **{kind: number for number, kind in enumerate(_ANSWERS, 65)},
}


def encode(message: Request | Answer) -> bytes:
    """Return the frame of a request, or of an answer."""
    return msgpack.packb([_NUMBER[type(message)], *message])  # type: ignore[no-any-return]


def decode_request(frame: bytes) -> Request:
    """Return the request. Raise WireError, and nothing else, if the frame is none."""
    request: Request = _decode(frame, _REQUEST_READERS)
    return request


def decode_answer(frame: bytes) -> Answer:
    """Return the answer. Raise WireError, and nothing else, if the frame is none."""
    answer: Answer = _decode(frame, _ANSWER_READERS)
    return answer


def _decode(frame: bytes, readers: dict[int, tuple[Any, tuple[Callable[[Any], Any], ...]]]) -> Any:
    if len(frame) > LARGEST:
        raise WireError(f"a frame of {len(frame)} bytes, and {LARGEST} are the most")
    try:
        kind, *fields = msgpack.unpackb(frame, strict_map_key=False, use_list=True)
        make, checks = readers[kind]
        if len(fields) < len(checks):
            raise WireError(f"{len(fields)} fields for {make.__name__}")
        return make(*[check(each) for check, each in zip(checks, fields)])  # noqa: B905  # later versions send more
    except WireError:
        raise
    except Exception as error:  # whatever msgpack, or a wrong type, leads to
        raise_if_foreign(error)
        raise WireError(f"a frame that cannot be read: {type(error).__name__}: {error}") from None


# --- Checks


def _word(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise WireError(f"{value!r:.40} is no word")
    return value


def _delta(value: Any) -> int:
    if type(value) is not int or not -(1 << 63) < value < 1 << 63:
        raise WireError(f"{value!r:.40} is nothing to add")
    return value


def _seconds(value: Any) -> float:
    if type(value) is not float or not value >= 0:  # nan, too
        raise WireError(f"{value!r:.40} are no seconds")
    return value


def _age(value: Any) -> float:
    if _seconds(value) == math.inf:
        raise WireError("an age that is infinite")
    return float(value)


def _bytes(most: int) -> Callable[[Any], bytes]:
    def read(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > most:
            raise WireError(f"{value!r:.40} are not {most} bytes at most")
        return value

    return read


def _id(value: Any) -> Incarnation:
    if type(value) is not bytes or len(value) != 16:
        raise WireError(f"{value!r:.40} is no id of a host")
    return value


def _or_none(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else read(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise WireError(f"{value!r:.40} is neither true nor false")
    return value


def _name(value: Any) -> str:
    if type(value) is not str or len(value) > 32:
        raise WireError(f"{value!r:.40} is no name of an outcome")
    return value


def _several(read: Callable[[Any], T], most: int) -> Callable[[Any], tuple[T, ...]]:
    def read_all(value: Any) -> tuple[T, ...]:
        if type(value) is not list or len(value) > most:
            raise WireError(f"no list of {most} at most")
        return tuple([read(each) for each in value])

    return read_all


_payload, _wire, _hashes = _bytes(MAX_PAYLOAD), _bytes(MAX_WIRE), _several(_word, MAX_HASHES)
_void = _several(_word, MAX_VOID)


def _key(value: Any) -> Key:
    wire, hashes = value
    return Key(_wire(wire), _hashes(hashes))


def _depends(value: Any) -> Dependencies:
    if type(value) is not dict or len(value) > 2 * ENTRIES:
        raise WireError("no dependencies")
    found: Dependencies = {}
    for id, numbers in value.items():
        found[_id(id)] = OVER if numbers is OVER else _numbers(numbers)
    return found


def _numbers(value: Any) -> Numbers:
    if type(value) is not dict or len(value) > LANES:
        raise WireError("no numbers of events")
    for lane, number in value.items():
        if not 0 <= _word(lane) < LANES or _word(number) < 0:
            raise WireError("the number of an event in a lane that cannot be")
    return value


def _slots(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != SLOT_BYTES:
        raise WireError(f"slots that are not {SLOT_BYTES} bytes")
    return value


def _kind(value: Any) -> int:
    if type(value) is not int or not KEYS <= value <= NAMESPACES:
        raise WireError(f"{value!r:.40} is nothing to invalidate")
    return value


def _host_name(value: Any) -> str:
    if type(value) is not str or len(value) > MAX_NAME:
        raise WireError(f"{value!r:.40} is no name of a host")
    return value


def _found(value: Any) -> Found:
    payload, hashes, ttl, age, version, any_tag = value[:6]
    return Found(_payload(payload), _hashes(hashes), _seconds(ttl), _age(age), _word(version), _word(any_tag))


def _text(most: int) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if type(value) is not str or len(value) > most:
            raise WireError(f"{value!r:.40} is no text of {most} letters at most")
        return value

    return read


def _process(value: Any) -> ProcessReport:
    seat, pid, role, version, is_alive, began, written, gauges, columns = value[:9]
    return ProcessReport(
        _word(seat), _word(pid), _name(role), _name(version), _flag(is_alive), _word(began), _word(written),
        _columns(gauges), _columns(columns),
    )  # fmt: skip


def _space(value: Any) -> tuple[str, tuple[int, ...]]:
    path, columns = value
    return _path(path), _columns(columns)


_columns, _path = _several(_word, MAX_COLUMNS), _text(256)
_host_names = _several(_host_name, MAX_NAMES)
_Checks = tuple[Callable[[Any], Any], ...]
_CHECKS: Final[dict[Any, _Checks]] = {
    Get: (_key, _depends, _flag, _age, _id),
    GetMany: (_several(_key, MAX_MANY), _depends),
    Fill: (_word, _or_none(_payload), _seconds, _age),
    Put: (_key, _or_none(_payload), _seconds, _flag),
    PutFenced: (_key, _payload, _seconds, _bytes(MAX_FENCE), _hashes),
    Add: (_key, _payload, _seconds, _depends),
    Replace: (_key, _payload, _seconds, _word, _word, _depends),
    Count: (_key, _delta, _or_none(_payload), _seconds, _depends),
    Touch: (_key, _seconds, _depends),
    Announce: (_id, _kind, _void, _flag),
    Settle: (_id, _id, _numbers),
    Offer: (_id, _several(_key, MAX_OFFERED), _depends),
    Harvest: (_slots, _word, _flag),
    Report: (),
    Found: (_payload, _hashes, _seconds, _age, _word, _word),
    FoundMany: (_several(_or_none(_found), MAX_MANY),),
    Missing: (_bytes(MAX_FENCE), _depends),
    Granted: (_word, _depends),
    Busy: (),
    Refused: (),
    Done: (_name, _or_none(_payload), _flag, _or_none(_numbers), _or_none(_id)),
    Held: (_several(_key, MAX_OFFERED), _word),
    Announced: (_id, _numbers, _flag),
    Settlement: (_host_names, _host_names, _host_names, _flag),
    Reported: (_several(_process, MAX_PROCESSES), _several(_space, MAX_SPACES), _columns),
}
_REQUEST_READERS: Final = {_NUMBER[kind]: (kind, _CHECKS[kind]) for kind in _REQUESTS}
_ANSWER_READERS: Final = {_NUMBER[kind]: (kind, _CHECKS[kind]) for kind in _ANSWERS}
