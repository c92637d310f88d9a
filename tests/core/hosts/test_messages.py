"""The wire between gateways: all that is said comes back, and nothing that is sent does harm."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from colocache.core.hosts.event import KEYS, MAX_HASHES, TAGS, Event
from colocache.core.hosts.layout import ENTRIES, LANES
from colocache.core.hosts.messages import (
    LARGEST,
    MOST_REPLAYED,
    Ack,
    Ask,
    Known,
    Message,
    News,
    Ping,
    Pong,
    Replayed,
    Reset,
    Told,
    View,
    decode,
    encode,
)
from colocache.core.hosts.rows import ENDED, ENDED_AT, LIVE, Host
from colocache.errors import WireError

A, B = b"a" * 16, b"b" * 16
HOST = Host(A, "a host, é", "[::1]:7400", 64)
EVENT = Event(KEYS, (1, (1 << 64) - 1))
KNOWN = (Known(HOST, LIVE, None), Known(HOST, ENDED, None), Known(HOST, ENDED_AT, {0: 5, 7: 1}))
VIEW = View(1, (1 << 64) - 1, KNOWN, {B: {0: 3}}, {B: 12}, {B: 13})
MESSAGES: tuple[Message, ...] = (
    Ping(HOST, 5, VIEW),
    Pong(HOST, B, 5, {0: 1}, {1: 2}, VIEW, 3, 4),
    Told(A, 7, 1 << 40, EVENT),
    Ack(A, B, {0: 1}),
    Ask(A, B, {}),
    Replayed(A, 0, 1, (EVENT, Event(TAGS, (5,), True))),
    Reset(A, dict.fromkeys(range(LANES), 9)),
    News(A, KNOWN),
)


def raw(message: Message) -> list[Any]:
    """Return the fields of a frame."""
    fields: list[Any] = msgpack.unpackb(encode(message), strict_map_key=False)
    return fields


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_fields_of_a_later_version_are_passed_over(message: Message) -> None:
    assert decode(msgpack.packb([*raw(message), "more", 1])) == message


def test_the_last_numbers_of_what_lives_are_passed_over() -> None:
    fields = raw(News(A, KNOWN[:1]))
    fields[2][0][2] = {0: 1}
    assert decode(msgpack.packb(fields)) == News(A, KNOWN[:1])


# --- Whatever comes, it is a message or a WireError


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_cut_or_flipped_does_no_harm(message: Message) -> None:
    dice, frame = random.Random(7), encode(message)
    for end in range(len(frame)):
        with pytest.raises(WireError):
            decode(frame[:end])
    for _ in range(500):
        flipped = bytearray(frame)
        for _ in range(dice.randint(1, 3)):
            flipped[dice.randrange(len(flipped))] = dice.randrange(256)
        check(bytes(flipped))


def test_noise_does_no_harm() -> None:
    dice = random.Random(8)
    for _ in range(2000):
        check(dice.randbytes(dice.randrange(40)))


ODD: tuple[Any, ...] = (
    None, True, -1, 1 << 63, 1.5, float("nan"), "", "x" * 65, "\x00", "é" * 33, b"", b"x" * 15, [], [[]], {}, {"a": 1},
    {0: -1}, {LANES: 1}, {-1: 1}, [None] * 3, {b"x" * 16: 1}, [0] * (MAX_HASHES + 1),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each thing in a frame."""
    found = [path]
    if isinstance(value, list):
        for number, each in enumerate(value):
            found += places(each, (*path, number))
    elif isinstance(value, dict):
        for name, each in value.items():
            found += places(each, (*path, name))
    return found


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_odd_values_at_any_place_do_no_harm(message: Message) -> None:
    for path in places(raw(message))[1:]:
        for odd in ODD:
            fields = raw(message)
            inner = fields
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = odd
            check(msgpack.packb(fields))


def check(frame: bytes) -> None:
    """Decode a frame. If that gives a message, it is one that can be sent again."""
    try:
        message = decode(frame)
    except WireError:
        return
    assert decode(encode(message)) == message


# --- Limits


def with_field(message: Message, change: Callable[[list[Any]], None]) -> bytes:
    """Return a frame that was changed."""
    fields = raw(message)
    change(fields)
    frame: bytes = msgpack.packb(fields)
    return frame


def put(*path: Any, value: Any) -> Callable[[list[Any]], None]:
    """Return what puts a value at a place."""

    def change(fields: Any) -> None:
        for step in path[:-1]:
            fields = fields[step]
        fields[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (Told(A, 0, 1, EVENT), put(4, 1, value=[1] * (MAX_HASHES + 1))),
        (Told(A, 0, 1, EVENT), put(4, 0, value=0)),
        (Told(A, 0, 1, EVENT), put(4, 0, value=5)),
        (Told(A, 0, 1, EVENT), put(4, 2, value=1)),
        (Told(A, 0, 1, EVENT), put(2, value=LANES)),
        (Told(A, 0, 1, EVENT), put(3, value=1 << 63)),
        (Told(A, 0, 1, EVENT), put(1, value=b"x" * 17)),
        (Replayed(A, 0, 1, (EVENT,)), put(4, value=[[KEYS, [1], False]] * (MOST_REPLAYED + 1))),
        (News(A, KNOWN[:1]), put(2, value=[[[A, "n", "", 1], LIVE, None]] * (ENTRIES + 1))),
        (News(A, KNOWN[:1]), put(2, 0, 1, value=4)),
        (News(A, KNOWN[:1]), put(2, 0, 0, 1, value="n\n")),
        (News(A, KNOWN[:1]), put(2, 0, 0, 3, value=(1 << 40) + 1)),
        (Ping(HOST, 5, VIEW), put(3, 4, value={bytes([n // 256, n % 256]) * 8: 1 for n in range(ENTRIES + 1)})),
        (Reset(A, {}), put(2, value=dict.fromkeys(range(LANES + 1), 1))),
    ],
)
def test_what_is_too_much_is_refused(message: Message, change: Callable[[list[Any]], None]) -> None:
    with pytest.raises(WireError):
        decode(with_field(message, change))


def test_a_frame_that_is_too_long_is_not_looked_at() -> None:
    with pytest.raises(WireError, match=str(LARGEST)):
        decode(bytes(LARGEST + 1))


def test_the_largest_roster_fits() -> None:
    host = Host(A, "n" * 64, "a" * 64, 1 << 40)
    numbers = dict.fromkeys(range(LANES), (1 << 63) - 1)
    ids = [number.to_bytes(16, "big") for number in range(ENTRIES)]
    times = dict.fromkeys(ids, 9)
    view = View(1, 2, (Known(host, ENDED_AT, numbers),) * ENTRIES, dict.fromkeys(ids, numbers), times, times)
    assert len(encode(Pong(host, B, 5, numbers, numbers, view))) <= LARGEST
