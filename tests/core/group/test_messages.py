"""Frames: what is sent is what arrives, and whatever else arrives is a WireError, soon and cheaply."""

from __future__ import annotations

import contextlib
import gc
import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core.group import messages
from colocache.core.group.members import MAX_MEMBERS
from colocache.core.group.messages import (
    EVERYTHING,
    MAX_BUS,
    MAX_LINK,
    MAX_SEAT,
    MAX_STREAMS,
    MAX_TAG,
    MAX_TAGS,
    MAX_TARGETS,
    MAX_VALUE,
    NO_NUMBER,
    PROTOCOL,
    Event,
    Get,
    Message,
    Peek,
    Peeked,
    Pong,
    Record,
    Set,
    Value,
    check_tag,
    decode,
    encode,
    key_target,
    namespace_target,
    pack_positions,
    pack_record,
    split_targets,
    tag_target,
    unpack_positions,
    unpack_record,
)
from colocache.core.keys import MAX_WIRE, namespace_of, prefix, wire
from colocache.errors import WireError

quick = settings(derandomize=True, deadline=None, max_examples=100)

ME, YOU = b"m" * 16, b"y" * 16
VERSION = bytes((PROTOCOL,))
KINDS = {record: (code, checks, rest) for code, record, checks, rest in messages._TABLE}
EVERY_KIND = pytest.mark.parametrize("record", KINDS, ids=lambda record: record.__name__)

# --- What every field may hold

identities = st.binary(min_size=16, max_size=16)
counts = st.integers(0, NO_NUMBER)
seconds = st.floats(0, allow_nan=False)
names = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=200)
tags = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_TAG // 4)
namespaces = st.text(max_size=40)
keys = st.builds(wire, namespaces.map(prefix), st.text(max_size=250) | st.tuples(st.integers(), st.text()))
targets = (
    st.builds(key_target, keys) | st.builds(tag_target, tags) | st.builds(namespace_target, namespaces)
    | st.just(EVERYTHING)
)  # fmt: skip

FIELDS: dict[Callable[[Any], bool], st.SearchStrategy[Any]] = {
    messages._identity: identities,
    messages._digest: st.binary(min_size=8, max_size=8),
    messages._count: counts,
    messages._number: st.integers(-1, NO_NUMBER),
    messages._delta: st.integers(-NO_NUMBER, NO_NUMBER),
    messages._seconds: seconds,
    messages._flag: st.booleans(),
    messages._name: names,
    messages._key: keys,
    messages._tag: tags,
    messages._payload: st.binary(max_size=100),
    messages._start: st.binary(max_size=68),
    messages._blob: st.binary(max_size=100),
    messages._event_frame: st.binary(min_size=25, max_size=100),
    messages._positions: st.dictionaries(identities, counts, max_size=3).map(pack_positions),
    messages._target: targets,
}

#: Values of every type that a frame can carry; each field must refuse all that are not its own.
STRANGE: list[Any] = [
    None, True, False, 0, -1, -2, 1, 1 << 63, (1 << 64) - 1, 1.5, -1.5, float("nan"), float("-inf"), "", "a", "a\nb",
    "a" * 301, "é" * 126, b"", b"a", b"x" * 15, b"x" * 17, b"x" * 23, b"\xff" * 24, b"\1\xffsa", b"k\1\xffsa",
    b"t\xff", b"n\xff", b"*a", b"k", b"k\0", b"t", b"x" * (MAX_WIRE + 1), b"t" + b"x" * (MAX_TAG + 1),
    b"n" + b"x" * 257,
    [], [1], {}, {"a": 1},
    msgpack.ExtType(5, b""), msgpack.ExtType(5, b"a"), msgpack.Timestamp(1), msgpack.Timestamp(1, 1),
]  # fmt: skip

#: What of these each field takes.
TAKEN: dict[Callable[[Any], bool], list[Any]] = {
    messages._identity: [],
    messages._digest: [],
    messages._count: [0, 1],
    messages._number: [0, -1, 1],
    messages._delta: [0, -1, -2, 1],
    messages._seconds: [1.5],
    messages._flag: [True, False],
    messages._name: ["a"],
    messages._key: [b"t" + b"x" * (MAX_TAG + 1), b"n" + b"x" * 257],  # both say how long their namespaces are
    messages._tag: ["a", "a\nb"],
    messages._payload: [value for value in STRANGE if type(value) is bytes],
    messages._start: [value for value in STRANGE if type(value) is bytes and len(value) <= 68],
    messages._blob: [value for value in STRANGE if type(value) is bytes],
    messages._event_frame: [value for value in STRANGE if type(value) is bytes and len(value) >= 25],
    messages._positions: [b"", b"\xff" * 24],
    messages._target: [],
}


def takes(check: Callable[[Any], bool], value: Any) -> bool:
    return any(type(value) is type(taken) and value == taken for taken in TAKEN[check])


def rows_of(record: type[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    rest = KINDS[record][2]
    assert rest is not None
    row = st.tuples(*(FIELDS[check] for check in rest.row))
    return st.lists(row, max_size=4).map(lambda rows: tuple(value for row in rows for value in row))


def instances(record: type[Any]) -> st.SearchStrategy[Any]:
    _, checks, rest = KINDS[record]
    fields = [FIELDS[check] for check in checks]
    return st.builds(record, *fields, *([rows_of(record)] if rest else []))


any_message = st.sampled_from(list(KINDS)).flatmap(instances)
any_frame = any_message.map(encode)


def example(record: type[Any]) -> list[Any]:
    """The fields of a message with two rows, if it has rows, as they are packed."""
    values = {
        messages._identity: ME, messages._digest: b"d" * 8, messages._count: 7, messages._number: 7,
        messages._seconds: 7.5, messages._flag: True, messages._name: "web1/0", messages._key: b"\0sa",
        messages._tag: "user:42", messages._payload: b"p", messages._blob: b"blob", messages._target: b"k\0sa",
        messages._positions: pack_positions({ME: 7}), messages._event_frame: b"e" * 25,
        messages._delta: -7, messages._start: b"s",
    }  # fmt: skip
    code, checks, rest = KINDS[record]
    return [code, *(values[check] for check in checks), *([values[check] for check in rest.row] * 2 if rest else [])]


def framed(fields: Any) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return VERSION + packed


def refused(frame: bytes) -> str:
    with pytest.raises(WireError) as caught:
        decode(frame)
    return str(caught.value)


def assert_usable(message: Message) -> None:
    """Assert that no field of a message can make whoever uses it raise."""
    _, checks, rest = KINDS[type(message)]
    values = list(zip(checks, message, strict=False))
    if rest is not None:
        listed: Any = message[-1]
        values += [(rest.row[place % len(rest.row)], value) for place, value in enumerate(listed)]
    for check, value in values:
        if check is messages._key:
            namespace_of(value)
        elif check is messages._target and value[:1] == b"k":
            namespace_of(value[1:])
        elif check is messages._target:
            value[1:].decode("utf-8", "surrogatepass")
        elif check is messages._tag:
            check_tag(value)
        elif check is messages._positions:
            unpack_positions(value)


# --- What is sent arrives


def test_the_table_describes_every_message() -> None:
    assert set(KINDS) == set(get_args(Message))
    assert len({code for code, _, _ in KINDS.values()}) == len(KINDS)
    for record, (code, checks, rest) in KINDS.items():
        assert 0 < code < 128, "a code is one byte"
        assert len(record._fields) == len(checks) + (rest is not None), record
        assert record.__doc__


@EVERY_KIND
def test_every_message_arrives_as_it_was_sent(record: type[Any]) -> None:
    @given(instances(record))
    @quick
    def arrives(message: Any) -> None:
        arrived = decode(encode(message))
        assert type(arrived) is record
        assert arrived == message
        assert_usable(arrived)

    arrives()


@EVERY_KIND
def test_codes_are_those_of_every_other_release(record: type[Any]) -> None:
    # A code that is given to another message would make members of two releases misread one another.
    order = (
        "Event Goodbye Ping Pong Roster Ack Replay Replayed Reset Get Value Load Wait Alone Cancel Fill Fail Peek "
        "Peeked Set Stored SetReceipt GetFenced Fenced SetFenced Alter Altered"
    )
    assert KINDS[record][0] == order.split().index(record.__name__) + 1


def test_a_frame_is_that_of_every_other_release() -> None:
    frame = encode(Event(ME, 300, (b"k\0sa", b"tx", EVERYTHING)))
    assert frame.hex(" ") == f"01 96 01 c4 10 {ME.hex(' ')} cd 01 2c c4 04 6b 00 73 61 c4 02 74 78 c4 01 2a"


MOST_TAGS = tuple(f"{number:0{MAX_TAG}}" for number in range(MAX_TAGS))
LONGEST_KEY = wire(prefix("n" * 200), "k" * 199)
MOST_POSITIONS = pack_positions({number.to_bytes(16, "big"): NO_NUMBER for number in range(MAX_STREAMS)})


@pytest.mark.parametrize(
    "message",
    [
        Value(ME, YOU, NO_NUMBER, bytes(MAX_VALUE), 1.5, 1.5, True, MOST_TAGS),
        Set(ME, YOU, NO_NUMBER, LONGEST_KEY, bytes(MAX_VALUE), 1.5, True, NO_NUMBER, MOST_TAGS),
        messages.Fenced(ME, YOU, 1, 5, True, True, bytes(MAX_VALUE), 1.5, 1.5, MOST_POSITIONS, MOST_TAGS),
        messages.SetFenced(ME, YOU, NO_NUMBER, LONGEST_KEY, bytes(MAX_VALUE), 1.5, NO_NUMBER, MOST_TAGS),
        messages.Alter(ME, YOU, 1, LONGEST_KEY, False, -NO_NUMBER, bytes(68), 1.5, 1.5, MOST_POSITIONS, MOST_TAGS),
        messages.Fill(ME, YOU, LONGEST_KEY, NO_NUMBER, bytes(MAX_VALUE), 1.5, 0.5, MOST_TAGS),
        Peeked(ME, YOU, 1, True, False, (pack_record(Record(1023, bytes(MAX_VALUE), 1.5, 1.5, MOST_TAGS)),)),
        Get(ME, YOU, 1, LONGEST_KEY, 1.5, MOST_POSITIONS),
        Peek(ME, YOU, 1, 1.5, MOST_POSITIONS, (LONGEST_KEY,) * MAX_TARGETS),
        Pong(ME, YOU, 1, bytes(8), NO_NUMBER, (ME, 1.5) * MAX_STREAMS),
        messages.Roster(ME, YOU, (ME, "h" * 60 + ".example/99", 1 << 22, NO_NUMBER, 1.5) * MAX_STREAMS),
        messages.Replayed(ME, YOU, ME, (b"\1\x94\1" + bytes(22),) * ((MAX_LINK - 1024) // 30)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_largest_messages_that_members_send_are_taken(message: Message) -> None:
    frame = encode(message)
    assert len(frame) <= MAX_LINK
    assert decode(frame) == message


# --- Whatever else arrives is a WireError


@pytest.mark.parametrize("frame", [b"", VERSION, VERSION + b"\x90", VERSION + b"\xc0", VERSION + b"\xdc", b"\x91\x01"])
def test_next_to_nothing_is_no_frame(frame: bytes) -> None:
    refused(frame)


@pytest.mark.parametrize("version", [0, 2, 3, 0x91, 0xFF])
def test_another_version_of_the_protocol_is_refused_by_name(version: int) -> None:
    frame = encode(messages.Ack(ME, YOU, 1))
    assert f"not of protocol version {PROTOCOL}" in refused(bytes((version,)) + frame[1:])


def test_a_frame_beyond_the_limit_is_not_even_looked_at() -> None:
    at_limit = Peeked(ME, YOU, 1, True, False, (b"",))
    room = MAX_LINK - len(encode(at_limit)) - 3
    decode(encode(at_limit._replace(records=(bytes(room),))))
    assert f"a frame of {MAX_LINK + 1} bytes" in refused(encode(at_limit._replace(records=(bytes(room + 1),))))


@given(st.binary(max_size=300))
@quick
def test_random_bytes_are_refused_or_usable(noise: bytes) -> None:
    for frame in (noise, VERSION + noise, VERSION + b"\x94" + noise):
        try:
            message = decode(frame)
        except WireError:
            continue
        assert_usable(message)


junk = st.recursive(
    st.sampled_from(STRANGE) | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=20) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=15,
)


@given(st.integers(0, 30), junk)
@quick
def test_any_other_structure_is_refused_or_usable(code: int, structure: Any) -> None:
    fields = structure if isinstance(structure, list) else [structure]
    for frame in (framed(structure), framed([code, *fields]), framed([code, ME, YOU, *fields])):
        try:
            message = decode(frame)
        except WireError:
            continue
        assert_usable(message)


@EVERY_KIND
def test_a_frame_with_any_bit_flipped_is_refused_or_usable(record: type[Any]) -> None:
    frame = framed(example(record))
    for bit in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            message = decode(bytes(flipped))
        except WireError:
            continue
        assert_usable(message)


@EVERY_KIND
def test_a_frame_cut_short_or_followed_by_something_is_refused(record: type[Any]) -> None:
    frame = framed(example(record))
    decode(frame)
    for length in range(len(frame)):
        refused(frame[:length])
    for more in (b"\0", b"\xc0", b"\x90", frame, frame[1:], b"\xc1"):
        refused(frame + more)


@given(any_frame, st.randoms(use_true_random=False))
@quick
def test_a_frame_with_bytes_changed_dropped_or_doubled_is_refused_or_usable(frame: bytes, rng: random.Random) -> None:
    damaged = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(damaged))
        part = damaged[at : at + rng.randint(1, 20)]
        damaged[at : at + len(part)] = rng.choice((b"", part + part, rng.randbytes(len(part)), b"\xdd" + bytes(part)))
        if not damaged:
            break
    try:
        message = decode(bytes(damaged))
    except WireError:
        return
    assert_usable(message)
    assert decode(encode(message)) == message


@EVERY_KIND
def test_a_field_of_a_wrong_type_or_range_is_refused(record: type[Any]) -> None:
    _, checks, rest = KINDS[record]
    good = example(record)
    for place, check in enumerate((*checks, *(rest.row * 2 if rest else ())), 1):
        for value in STRANGE:
            frame = framed([*good[:place], value, *good[place + 1 :]])
            if takes(check, value):
                assert_usable(decode(frame))
            else:
                assert f"a {record.__name__} with a" in refused(frame) or "not msgpack" in refused(frame)


@EVERY_KIND
def test_a_message_with_a_field_too_few_or_too_many_is_refused(record: type[Any]) -> None:
    _, checks, rest = KINDS[record]
    good = example(record)
    for kept in range(1, len(checks) + 1):
        assert f"a {record.__name__} with {kept - 1} fields" in refused(framed(good[:kept]))
    if rest is None:
        assert f"a {record.__name__} with {len(checks) + 1} fields" in refused(framed([*good, 1]))
    elif len(rest.row) > 1:
        assert f"a {record.__name__} with {2 * len(rest.row) - 1} listed values" in refused(framed(good[:-1]))
    else:
        decode(framed(good[:-1]))


@pytest.mark.parametrize("record", [record for record, (_, _, rest) in KINDS.items() if rest])
def test_rows_are_limited_in_number(record: type[Any]) -> None:
    _, checks, rest = KINDS[record]
    assert rest is not None
    fixed, row = example(record)[: len(checks) + 1], example(record)[-len(rest.row) :]
    message: Any = decode(framed(fixed + row * rest.limit))
    assert len(message[-1]) == rest.limit * len(rest.row)
    refused(framed(fixed + row * (rest.limit + 1)))


@pytest.mark.parametrize("code", [0, 28, 127, -1, 200, 1.0, True, "Event", None, b"\1"])
def test_an_unknown_kind_is_refused(code: object) -> None:
    assert refused(framed([code, ME, 1])) == "a frame of no known kind"


@pytest.mark.parametrize("packed", [{}, {1: 2}, 1, "a", b"a", None, msgpack.ExtType(1, b"a")])
def test_what_is_no_list_is_refused(packed: object) -> None:
    assert refused(framed(packed)) == "a frame that is not a list"


@pytest.mark.parametrize("nested", [[], [1], [[]], {}, {"a": 1}, [[[[1]]]]])
def test_nothing_is_nested(nested: object) -> None:
    for fields in ([nested], [1, ME, 1, nested], [nested, 1], [1, ME, 1, b"*", nested, b"*"]):
        refused(framed(fields))


def test_a_key_whose_namespace_is_no_text_is_refused() -> None:
    # namespace_of would raise, for instance when everything below a namespace is dropped, and end the member.
    bad = b"\2\xff\xfesa"
    for fields in ([10, ME, YOU, 1, bad, 1.0, b""], [18, ME, YOU, 1, 1.0, b"", bad], [1, ME, 1, b"k" + bad]):
        refused(framed(fields))


def test_a_tag_is_limited_in_bytes() -> None:
    fields = [11, ME, YOU, 1, b"", 1.0, 1.0, True]
    decode(framed([*fields, "é" * (MAX_TAG // 2)]))
    refused(framed([*fields, "é" * (MAX_TAG // 2 + 1)]))


# --- What a frame can make the decoder allocate


#: What decoding may take beside four times the bytes: most of it for the greatest number of short texts.
ALLOWANCE = 2 << 20


def peak_of(use: Callable[[bytes], object], data: bytes) -> int:
    gc.collect()  # or texts that an earlier error's traceback keeps alive would be used again
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        with contextlib.suppress(WireError):
            use(data)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def listing(count: int, packed: bytes) -> bytes:
    """A frame whose list says that it has ``count`` fields."""
    return VERSION + b"\xdd" + struct.pack(">I", count) + packed


def repeated(element: bytes) -> bytes:
    count = (MAX_LINK - 6) // len(element)
    return listing(count, element * count)


def nested(header: bytes, size: int) -> bytes:
    """List in list, a thousand deep, all of which say that they are long."""
    return VERSION + (header * 1020).ljust(size, b"\0")


#: A list of most listed values, of a kind that may have so many.
MOST = (MAX_LINK - 1024) // 30

HOSTILE = {
    "empty lists": repeated(b"\x90"),
    "empty maps": repeated(b"\x80"),
    "empty extensions": repeated(b"\xc7\0\1"),
    "small numbers": repeated(b"\1"),
    "numbers": repeated(b"\xcd\1\1"),
    "large numbers": repeated(b"\xcf" + b"\1" * 8),
    "floats": repeated(b"\xcb" + b"\1" * 8),
    "short texts": repeated(b"\xa2ab"),
    "texts of one wide letter": repeated(b"\xa4\xf0\x9f\x98\x80"),
    "short bytes": repeated(b"\xc4\2ab"),
    "a long text with one wide letter": VERSION + b"\x91\xdb\0\x10\0\0" + "😀".encode() + b"a" * ((1 << 20) - 4),
    "as many short texts as fields are allowed": listing(MOST, b"\xa2ab" * MOST),
    "as many texts of wide letters as fit": listing(MOST, (b"\xbc" + ("😀" + "a" * 24).encode()) * MOST),
    "as many short bytes as fields are allowed": listing(MOST, b"\xc4\2ab" * MOST),
    "as many empty lists as fields are allowed": listing(MOST, b"\x90" * MOST),
    "as many empty maps as fields are allowed": listing(MOST, b"\x80" * MOST),
    "a lying list": listing((1 << 32) - 1, bytes(100)),
    "a lying list of the frame's length": listing(MAX_LINK - 6, b"\x90" * 100 + b"\xa1" * (MAX_LINK - 200)),
    "lying bytes": VERSION + b"\x92\1\xc6\xff\xff\xff\xff" + bytes(100),
    "lying text": VERSION + b"\x92\1\xdb\xff\xff\xff\xff" + bytes(100),
    "a lying map": VERSION + b"\x92\1\xdf\xff\xff\xff\xff" + bytes(100),
    "a large map": VERSION + b"\x91\xdf\0\1\0\0" + b"".join(b"\xa7%07d\1" % number for number in range(1 << 16)),
    "a lying extension": VERSION + b"\x92\1\xc9\xff\xff\xff\xff\1" + bytes(100),
    "lying lists, nested, in a long frame": nested(b"\xdd" + struct.pack(">I", MAX_LINK - 6000), MAX_LINK),
    "lying lists, nested, in a short frame": nested(b"\xdc" + struct.pack(">H", 10_000), 10_100),
    "short lists, nested": nested(b"\x9f", 2000),
    "maps, nested": nested(b"\x81\1", 3000),
}  # fmt: skip


#: The messages that take the most memory for their size: short texts, texts with one letter that makes all wide, rows.
COSTLY = {
    "roster": messages.Roster(ME, YOU, (ME, "a", 300, 300, 1.5) * MAX_STREAMS),
    "roster of long names": messages.Roster(ME, YOU, (ME, "a" * MAX_SEAT, 300, NO_NUMBER, 1.5) * MAX_STREAMS),
    "pong": Pong(ME, YOU, 1, bytes(8), 5, (ME, 1.5) * MAX_STREAMS),
    "receipt": messages.SetReceipt(ME, YOU, 1, True, 1.0, 5, ("a",) * 2 * MAX_STREAMS),
    "receipt of names": messages.SetReceipt(ME, YOU, 1, True, 1.0, 5, ("a" * 124,) * 2 * MAX_STREAMS),
    "receipt of long names": messages.SetReceipt(ME, YOU, 1, True, 1.0, 5, ("a" * MAX_SEAT,) * 2 * (MAX_MEMBERS + 1)),
    "replayed events": messages.Replayed(ME, YOU, ME, (bytes(25),) * 35_000),
    "event": Event(ME, 5, (b"ta",) * MAX_TARGETS),
    "value": Value(ME, YOU, 5, bytes(MAX_VALUE), 1.0, 1.0, True, MOST_TAGS),
    "acknowledgement": messages.Ack(ME, YOU, 5),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_frame_makes_the_decoder_allocate_much(what: str) -> None:
    frame = HOSTILE[what]
    refused(frame)  # what is made once, is made now
    assert peak_of(decode, frame) < 4 * len(frame) + ALLOWANCE
    if "lying" in what or "nested" in what:
        assert peak_of(decode, frame) < 2 * len(frame) + 65_536  # 41 kB of it are the unpacker itself


@pytest.mark.parametrize("what", COSTLY)
def test_no_message_takes_much_more_memory_than_its_frame(what: str) -> None:
    frame = encode(COSTLY[what])
    assert decode(frame) == COSTLY[what]
    assert peak_of(decode, frame) < 4 * len(frame) + ALLOWANCE


@pytest.mark.parametrize("what", HOSTILE)
def test_no_record_makes_the_decoder_allocate_much(what: str) -> None:
    record = HOSTILE[what][1:]
    with pytest.raises(WireError):
        unpack_record(record)
    assert peak_of(unpack_record, record) < 4 * len(record) + ALLOWANCE


def test_an_event_that_is_too_long_for_the_bus_is_not_taken_from_a_link_either() -> None:
    # Members keep up to 1024 events per stream that came too early: these must not be of a megabyte each.
    target = b"k\0" + b"x" * 100
    fits = Event(ME, 5, (target,) * ((MAX_BUS - 100) // (len(target) + 2)))
    assert decode(encode(fits)) == fits
    too_long = fits._replace(targets=(target,) * (MAX_BUS // len(target)))
    assert "an Event of" in refused(encode(too_long))


# --- Targets


@given(st.lists(targets, max_size=40))
@quick
def test_split_targets_keeps_every_target_in_order(many: list[bytes]) -> None:
    parts = split_targets(iter(many))
    assert [target for part in parts for target in part] == many
    assert all(parts)


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 100, 254, 255, 256, 257, 401])
def test_no_event_is_too_long_for_the_bus(size: int) -> None:
    # 31, 32, 255 and 256 bytes are where the lengths of lengths change
    many = [b"k\0".ljust(min(size, MAX_WIRE + 1), b"x")] * 5000
    parts = split_targets(many)
    assert sum(map(len, parts)) == 5000
    for part in parts:
        assert len(encode(Event(ME, NO_NUMBER, part))) <= MAX_BUS
        assert len(part) <= MAX_TARGETS
    fullest = max(map(len, parts))
    assert fullest == MAX_TARGETS or fullest * (size + 5) > MAX_BUS - 2048, "no more parts than need be"


@pytest.mark.parametrize("seed", range(8))
def test_no_event_of_mixed_targets_is_too_long_for_the_bus(seed: int) -> None:
    rng = random.Random(seed)
    longest = rng.choice((3, 60, 300, 400))
    for part in split_targets(b"k\0" + rng.randbytes(rng.randrange(1, longest)) for _ in range(2000)):
        frame = encode(Event(ME, NO_NUMBER, part))
        assert len(frame) <= MAX_BUS
        assert decode(frame) == Event(ME, NO_NUMBER, part)


def test_nothing_is_split_into_no_events() -> None:
    assert split_targets([]) == []


@pytest.mark.parametrize("tag", ["a", "user:42", "é" * 125, "\0", "x" * MAX_TAG])
def test_a_tag_that_may_travel_is_returned(tag: str) -> None:
    assert check_tag(tag) is tag
    assert tag_target(tag) == b"t" + tag.encode()


@pytest.mark.parametrize(
    ("tag", "error", "text"),
    [
        ("", ValueError, "the tag '' takes 0 bytes; 1 to 250 are allowed"),
        ("é" * 126, ValueError, "takes 252 bytes; 1 to 250 are allowed"),
        ("a\ud800", ValueError, "has characters that UTF-8 cannot carry"),
        (42, TypeError, "a tag is a str, not int: 42"),
        (b"a", TypeError, "a tag is a str, not bytes: b'a'"),
        (None, TypeError, "a tag is a str, not NoneType: None"),
    ],
)
def test_a_tag_that_may_not_travel_is_refused_by_name(tag: Any, error: type[Exception], text: str) -> None:
    for use in (check_tag, tag_target):
        with pytest.raises(error, match=text):
            use(tag)


# --- Positions and records


@given(st.dictionaries(identities, counts, max_size=50))
@quick
def test_positions_arrive_as_they_were_sent(positions: dict[bytes, int]) -> None:
    assert unpack_positions(pack_positions(positions)) == positions


@given(
    st.builds(Record, counts, st.binary(max_size=100), seconds, seconds, st.lists(tags, max_size=MAX_TAGS).map(tuple))
)
@quick
def test_records_arrive_as_they_were_sent(record: Record) -> None:
    assert unpack_record(pack_record(record)) == record


@given(st.binary(max_size=100) | junk.map(msgpack.packb))
@quick
def test_a_blob_that_is_no_record_is_refused(blob: bytes) -> None:
    try:
        record = unpack_record(blob)
    except WireError:
        return
    assert unpack_record(pack_record(record)) == record


def test_a_record_with_a_wrong_field_is_refused() -> None:
    good = list(Record(1, b"payload", 1.5, 2.5, ())[:-1])
    unpack_record(msgpack.packb([*good, "a", "b"]))
    for place, check in enumerate((*messages._RECORD, messages._tag)):
        for value in STRANGE:
            if not takes(check, value):
                with pytest.raises(WireError):
                    unpack_record(msgpack.packb([*good[:place], value, *good[place + 1 :]]))
    for kept in range(4):
        with pytest.raises(WireError):
            unpack_record(msgpack.packb(good[:kept]))
    with pytest.raises(WireError):
        unpack_record(msgpack.packb([*good, *("a" * (MAX_TAGS + 1))]))
