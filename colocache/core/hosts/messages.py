"""What hosts say to each other, and its form on the wire.

A gateway dials every other host. What it sends on such a line is answered on the same line, so each pair of hosts has
two. Events go out on the sender's own line, and their acknowledgements come back on it.

| message      | on the line      | answered by |
|--------------|------------------|-------------|
| `Ping`       | of who asks      | `Pong`      |
| `Told`       | of whose it is   | `Ack`       |
| `Ask`        | of who asks      | `Replayed`, or `Reset` |
| `News`       | of who sends     |             |

A client dials all members, and nobody dials it. So their events come to it on its own line to them, and its
acknowledgements go there, too. In a message a client is known by its weight, 0.

A frame is a msgpack array: the kind, and then the fields. Fields that a later version adds stand at the end, and are
passed over. Everything is checked: what a peer sends is no reason to trust it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgpack

from ...errors import WireError
from .event import KEYS, MAX_HASHES, WRITES, Event
from .layout import ENTRIES, LANES, SLOTS
from .rows import ENDED, ENDED_AT, LIVE, MAX_ADDRESS, MAX_NAME, MAX_RELEASE, Host, Incarnation

ID_BYTES: Final = 16
LARGEST: Final = 256 << 10  # bytes of a frame
MOST_REPLAYED: Final = 512  # events in one answer
MOST_WEIGHT: Final = 1 << 40

Numbers = dict[int, int]
T = TypeVar("T")


class Known(NamedTuple):
    """One incarnation in a roster."""

    host: Host
    state: int
    last: Numbers | None  # of what has ended: the numbers of its last events, if they are known


class View(NamedTuple):
    """What a host knows of others when it sends a ping, or a pong."""

    live: int  # a digest of who lives
    all: int  # a digest of who lives, and of who has ended
    roster: tuple[Known, ...]  # all of them; empty if the other side knows the same, as far as the sender knows
    forgotten: Mapping[Incarnation, Numbers]  # which live ones are forgotten, and what is applied of each
    silent: Mapping[Incarnation, int]  # ns for which each live one has been silent, while it could have been heard
    unheard: Mapping[Incarnation, int] = {}  # ns since the last sign of life, where that is long ago


class Ping(NamedTuple):
    """Who are you, and what was your last event?"""

    me: Host
    sent: int  # ns, on the sender's clock
    view: View
    to: Incarnation | None = None  # who is asked, if that is known
    applied: Numbers = {}  # noqa: RUF012  # of a client: which events of that host it has applied


class Pong(NamedTuple):
    """The answer."""

    me: Host
    to: Incarnation
    sent: int  # as in the ping
    last: Numbers  # of the sender's events
    applied: Numbers  # of the asker's events
    view: View
    late: int = 0  # ns for which clients may still serve what they were told before they were to know all hosts
    deaf: int = 0  # ns for which the sender has not heard the asker, which it hears where it asks itself


class Told(NamedTuple):
    """An event of the sender."""

    sender: Incarnation
    lane: int
    number: int
    event: Event


class Ack(NamedTuple):
    """Your events up to these numbers are applied on the whole host of the sender."""

    sender: Incarnation
    to: Incarnation
    applied: Numbers


class Ask(NamedTuple):
    """Which events come after these?"""

    sender: Incarnation
    to: Incarnation
    applied: Numbers


class Replayed(NamedTuple):
    """Events of the sender, one after another."""

    sender: Incarnation
    lane: int
    first: int
    events: tuple[Event, ...]


class Reset(NamedTuple):
    """The sender's events up to these numbers are not there any more: drop everything instead."""

    sender: Incarnation
    last: Numbers


class News(NamedTuple):
    """What has become of some hosts. A goodbye is the sender's own end."""

    sender: Incarnation
    roster: tuple[Known, ...]


Message = Ping | Pong | Told | Ack | Ask | Replayed | Reset | News

_KINDS: Final[tuple[Any, ...]] = (Ping, Pong, Told, Ack, Ask, Replayed, Reset, News)
_NUMBER: Final[dict[type, int]] = {kind: number for number, kind in enumerate(_KINDS, 1)}


def encode(message: Message) -> bytes:
    """Return the frame of a message."""
    return msgpack.packb([_NUMBER[type(message)], *message])  # type: ignore[no-any-return]


def decode(frame: bytes) -> Message:
    """Return the message. Raise WireError, and nothing else, if the frame is none."""
    if len(frame) > LARGEST:
        raise WireError(f"a frame of {len(frame)} bytes, and {LARGEST} are the most")
    try:
        kind, *fields = msgpack.unpackb(frame, strict_map_key=False, use_list=True)
        return _READERS[kind](*fields[: _FIELDS[kind]])
    except WireError:
        raise
    except Exception as error:  # whatever msgpack, or a wrong type, leads to
        raise WireError(f"a frame that cannot be read: {type(error).__name__}: {error}") from None


# --- Checks


def _int(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise WireError(f"{value!r:.40} is no number from 0 to {most}")
    return value


def _word(value: Any) -> int:
    return _int(value, (1 << 64) - 1)


def _time(value: Any) -> int:
    return _int(value, (1 << 63) - 1)


def _id(value: Any) -> Incarnation:
    if type(value) is not bytes or len(value) != ID_BYTES:
        raise WireError(f"{value!r:.40} is no id of a host")
    return value


def _text(value: Any, most: int) -> str:
    if type(value) is not str or len(value.encode("utf-8", "surrogatepass")) > most or not (value.isprintable()):
        raise WireError(f"{value!r:.40} is no text of {most} bytes at most")
    return value


def _several(value: Any, most: int, read: Callable[[Any], T]) -> tuple[T, ...]:
    if type(value) is not list or len(value) > most:
        raise WireError(f"no list of {most} at most")
    return tuple([read(each) for each in value])


def _mapping(value: Any, most: int, key: Callable[[Any], Any], read: Callable[[Any], T]) -> dict[Any, T]:
    if type(value) is not dict or len(value) > most:
        raise WireError(f"no mapping of {most} at most")
    return {key(name): read(each) for name, each in value.items()}


def _lane(value: Any) -> int:
    return _int(value, LANES - 1)


def _numbers(value: Any) -> Numbers:
    return _mapping(value, LANES, _lane, _time)


def _event(value: Any) -> Event:
    kind, hashes, related = value
    if _int(kind, WRITES) < KEYS or type(related) is not bool:
        raise WireError(f"no event of kind {kind!r:.40}")
    return Event(kind, _several(hashes, MAX_HASHES, _word), related)


def _host(value: Any) -> Host:
    id, name, address, weight = value[:4]
    release = _text(value[4], MAX_RELEASE) if len(value) > 4 else ""
    return Host(_id(id), _text(name, MAX_NAME), _text(address, MAX_ADDRESS), _int(weight, MOST_WEIGHT), release)


def _known(value: Any) -> Known:
    host, state, last = value[:3]
    if state not in (LIVE, ENDED, ENDED_AT):
        raise WireError(f"no state of a host: {state!r:.40}")
    return Known(_host(host), state, _numbers(last) if state == ENDED_AT else None)


def _roster(value: Any) -> tuple[Known, ...]:
    return _several(value, ENTRIES, _known)


def _silent(value: Any) -> dict[Incarnation, int]:
    """Read how long hosts were silent: in each ping and pong, of all hosts. So one look is for all, if all is well."""
    if (
        type(value) is dict and 0 < len(value) <= ENTRIES
        and {*map(type, value)} == {bytes} and {*map(len, value)} == {ID_BYTES}
        and {*map(type, value.values())} == {int} and min(value.values()) >= 0 and max(value.values()) < 1 << 63
    ):  # fmt: skip
        return value
    return _mapping(value, ENTRIES, _id, _time)


def _view(value: Any) -> View:
    live, all, roster, forgotten, silent, unheard = value[:6]
    return View(
        _word(live), _word(all), _roster(roster), _mapping(forgotten, ENTRIES, _id, _numbers),
        _silent(silent), _mapping(unheard, ENTRIES, _id, _time),
    )  # fmt: skip


_READERS: Final[dict[int, Callable[..., Message]]] = {
    1: lambda me, sent, view, to, applied: Ping(
        _host(me), _time(sent), _view(view), None if to is None else _id(to), _numbers(applied)
    ),
    2: lambda me, to, sent, last, applied, view, late, deaf: Pong(
        _host(me), _id(to), _time(sent), _numbers(last), _numbers(applied), _view(view), _time(late), _time(deaf)
    ),
    3: lambda sender, lane, number, event: Told(_id(sender), _lane(lane), _time(number), _event(event)),
    4: lambda sender, to, applied: Ack(_id(sender), _id(to), _numbers(applied)),
    5: lambda sender, to, applied: Ask(_id(sender), _id(to), _numbers(applied)),
    6: lambda sender, lane, first, events: Replayed(
        _id(sender), _lane(lane), _time(first), _several(events, MOST_REPLAYED, _event)
    ),
    7: lambda sender, last: Reset(_id(sender), _numbers(last)),
    8: lambda sender, roster: News(_id(sender), _roster(roster)),
}
_FIELDS: Final = {number: len(kind._fields) for number, kind in enumerate(_KINDS, 1)}
assert SLOTS >= MOST_REPLAYED
