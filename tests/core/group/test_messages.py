"""Frames: what is sent is what arrives, and whatever else arrives is a WireError, soon and cheaply."""

from __future__ import annotations

import contextlib
import gc
import random
import tracemalloc
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core.group import messages
from colocache.core.group.members import MAX_MEMBERS
from colocache.core.group.messages import (
    EVERYTHING,
    LEAST_EVENT,
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

quick = settings(derandomize=True, deadline=None, max_examples=40)

ME, YOU = b"m" * 16, b"y" * 16
VERSION = bytes((PROTOCOL,))
KINDS: tuple[Any, ...] = get_args(Message)
EVERY_KIND = pytest.mark.parametrize("record", KINDS, ids=lambda record: record.__name__)


def hints(record: type[Any]) -> dict[str, Any]:
    """The annotations of a message's fields, with their layouts."""
    return get_type_hints(record, include_extras=True)


# --- What every field may hold

identities = st.binary(min_size=16, max_size=16)
counts = st.integers(0, NO_NUMBER)
seconds = st.floats(0, allow_nan=False)
seats = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_SEAT)
tags = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_TAG // 4)
namespaces = st.text(max_size=40)
keys = st.builds(wire, namespaces.map(prefix), st.text(max_size=250) | st.tuples(st.integers(), st.text()))
targets = (
    st.builds(key_target, keys) | st.builds(tag_target, tags) | st.builds(namespace_target, namespaces)
    | st.just(EVERYTHING)
)  # fmt: skip


def several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=4).map(tuple)


FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    messages.Identity: identities,
    messages.Digest: st.binary(min_size=8, max_size=8),
    messages.Count: counts,
    messages.Number: st.integers(-1, NO_NUMBER),
    messages.Delta: st.integers(-NO_NUMBER, NO_NUMBER),
    messages.Seconds: seconds,
    messages.Flag: st.booleans(),
    messages.Seat: seats,
    messages.Key: keys,
    messages.Payload: st.binary(max_size=100),
    messages.Start: st.binary(max_size=68),
    messages.Positions: st.dictionaries(identities, counts, max_size=3).map(pack_positions),
    messages.Tags: several(tags),
    messages.Targets: several(targets),
    messages.Keys: several(keys),
    messages.Records: several(st.binary(max_size=100)),
    messages.Seats: several(seats),
    messages.EventFrames: several(st.binary(min_size=LEAST_EVENT, max_size=100)),
    messages.Silent: several(st.tuples(identities, seconds)),
    messages.Members: several(st.tuples(identities, seats, counts, st.integers(-1, NO_NUMBER), seconds)),
}

#: Two values of each list, and the greatest number of them.
TWO: dict[Any, tuple[tuple[Any, Any], int]] = {
    messages.Tags: (("user:42", "é"), MAX_TAGS),
    messages.Targets: ((b"k\0sa", EVERYTHING), MAX_TARGETS),
    messages.Keys: ((b"\0sa", b"\0sb"), MAX_TARGETS),
    messages.Records: ((b"blob", b""), MAX_TARGETS),
    messages.Seats: (("web1/0", "web1/1"), 2 * MAX_STREAMS),
    messages.EventFrames: ((b"e" * 30, b"f" * 31), MAX_LINK // LEAST_EVENT),
    messages.Silent: (((ME, 7.5), (YOU, 8.5)), MAX_STREAMS),
    messages.Members: (((ME, "web1/0", 7, -1, 7.5), (YOU, "web1/1", 8, 3, 0.0)), MAX_STREAMS),
}
LISTING = [record for record in KINDS if [*hints(record).values()][-1] in TWO]

GOOD: dict[Any, Any] = {
    messages.Identity: ME, messages.Digest: b"d" * 8, messages.Count: 7, messages.Number: 7, messages.Delta: -7,
    messages.Seconds: 7.5, messages.Flag: True, messages.Seat: "web1/0", messages.Key: b"\0sa", messages.Payload: b"p",
    messages.Start: b"s", messages.Positions: pack_positions({ME: 7}), **{hint: two for hint, (two, _) in TWO.items()},
}  # fmt: skip

NO_SECONDS = (-1.5, float("nan"), float("-inf"), -5e-324)
NO_SEATS = ("", "a\nb", "\x7f", "é", "a" * (MAX_SEAT + 1))
NO_KEYS = (b"", b"a", b"\0", b"\1a", b"\1\xffsa", b"\2\xff\xfesa", b"\0".ljust(MAX_WIRE + 1, b"s"))
NO_TAGS = ("", "a" * (MAX_TAG + 1), "é" * (MAX_TAG // 2 + 1))
NO_TARGETS = (b"", b"*a", b"x", b"k", b"k\0", b"k\1\xffsa", b"t", b"t\xff", b"t" + b"x" * (MAX_TAG + 1), b"n\xff",
              b"n" + b"x" * 257, *(b"k" + key for key in NO_KEYS))  # fmt: skip

#: Values of a field's type that are out of its range.
WRONG: dict[Any, list[Any]] = {
    messages.Identity: [],
    messages.Digest: [],
    messages.Count: [-1, -(1 << 63)],
    messages.Number: [-2, -(1 << 63)],
    messages.Delta: [-(1 << 63)],
    messages.Seconds: [*NO_SECONDS],
    messages.Flag: [],
    messages.Seat: [*NO_SEATS],
    messages.Key: [*NO_KEYS],
    messages.Payload: [bytes(MAX_VALUE + 1)],
    messages.Start: [bytes(69)],
    messages.Positions: [b"a", bytes(23), bytes(25), bytes(24 * (MAX_STREAMS + 1))],
    messages.Tags: [(tag,) for tag in NO_TAGS],
    messages.Targets: [(target,) for target in NO_TARGETS],
    messages.Keys: [(key,) for key in NO_KEYS],
    messages.Records: [],
    messages.Seats: [(seat,) for seat in NO_SEATS],
    messages.EventFrames: [(bytes(LEAST_EVENT - 1),), (b"",), (bytes(MAX_BUS + 1),)],
    messages.Silent: [((ME, value),) for value in NO_SECONDS],
    messages.Members: [
        *[((ME, seat, 7, 7, 1.5),) for seat in NO_SEATS],
        *[((ME, "a", 7, 7, value),) for value in NO_SECONDS],
        ((ME, "a", -1, 7, 1.5),),
        ((ME, "a", 7, -2, 1.5),),
    ],
}


def instances(record: type[Any]) -> st.SearchStrategy[Any]:
    return st.builds(record, *(FIELDS[hint] for hint in hints(record).values()))


any_message = st.sampled_from(KINDS).flatmap(instances)
any_frame = any_message.map(encode)


def example(record: type[Any]) -> Any:
    """A message, with two values in its list if it has one."""
    return record(*(GOOD[hint] for hint in hints(record).values()))


def refused(frame: bytes) -> str:
    with pytest.raises(WireError) as caught:
        decode(frame)
    return str(caught.value)


def assert_usable(message: Message) -> None:
    """Assert that no field of a message can make its reader raise."""
    for hint, value in zip(hints(type(message)).values(), message, strict=True):
        if hint is messages.Key:
            namespace_of(value)
        elif hint is messages.Keys:
            assert all(namespace_of(key) is not None for key in value)
        elif hint is messages.Targets:
            for target in value:
                namespace_of(target[1:]) if target[:1] == b"k" else target[1:].decode("utf-8", "surrogatepass")
        elif hint is messages.Tags:
            assert all(check_tag(tag) for tag in value)
        elif hint is messages.Positions:
            unpack_positions(value)


def assert_refused_or_usable(frame: bytes) -> None:
    try:
        message = decode(frame)
    except WireError:
        return
    assert_usable(message)
    again = decode(encode(message))
    assert again == message


# --- What is sent arrives


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


def test_codes_are_those_of_every_other_release() -> None:
    # A code that is given to another message would make members of two releases misread one another.
    order = (
        "Event Goodbye Ping Pong Roster Ack Replay Replayed Reset Get Value Load Wait Alone Cancel Fill Fail Peek "
        "Peeked Set Stored SetReceipt GetFenced Fenced SetFenced Alter Altered"
    )
    assert [record.__name__ for record in KINDS] == order.split()
    assert [encode(example(record))[1] for record in KINDS] == [*range(1, len(KINDS) + 1)]


def test_a_frame_is_that_of_every_other_release() -> None:
    frame = encode(Event(ME, 300, (b"k\0sa", b"tx", EVERYTHING)))
    count_and_lengths = "00 00 00 03 00 00 00 04 00 00 00 02 00 00 00 01"
    assert frame.hex(" ") == f"01 01 {ME.hex(' ')} 00 00 00 00 00 00 01 2c {count_and_lengths} 6b 00 73 61 74 78 2a"


def test_an_event_without_targets_is_the_shortest_one() -> None:
    assert len(encode(Event(ME, 0, ()))) == LEAST_EVENT


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
        Pong(ME, YOU, 1, bytes(8), NO_NUMBER, ((ME, 1.5),) * MAX_STREAMS),
        messages.Roster(ME, YOU, ((ME, "h" * 60 + ".example/99", 1 << 22, NO_NUMBER, 1.5),) * MAX_STREAMS),
        messages.Replayed(ME, YOU, ME, (bytes(LEAST_EVENT),) * ((MAX_LINK - 1024) // (LEAST_EVENT + 4))),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_largest_messages_that_members_send_are_taken(message: Message) -> None:
    frame = encode(message)
    assert len(frame) <= MAX_LINK
    assert decode(frame) == message


# --- Whatever else arrives is a WireError


@pytest.mark.parametrize("frame", [b"", VERSION, VERSION + b"\0", VERSION + b"\x1c" + bytes(99), VERSION + b"\xff"])
def test_a_frame_of_no_message_is_refused(frame: bytes) -> None:
    refused(frame)


@pytest.mark.parametrize("version", [0, 2, 3, 0x91, 0xFF])
def test_another_version_of_the_protocol_is_refused_by_name(version: int) -> None:
    frame = encode(messages.Ack(ME, YOU, 1))
    assert f"not of protocol version {PROTOCOL}" in refused(bytes((version,)) + frame[1:])


def test_a_frame_beyond_the_limit_is_not_even_looked_at() -> None:
    at_limit = Peeked(ME, YOU, 1, True, False, (b"",))
    room = MAX_LINK - len(encode(at_limit))
    decode(encode(at_limit._replace(records=(bytes(room),))))
    assert f"a frame of {MAX_LINK + 1} bytes" in refused(encode(at_limit._replace(records=(bytes(room + 1),))))


@given(st.integers(0, 30), st.binary(max_size=300))
@quick
def test_random_bytes_are_refused_or_usable(code: int, noise: bytes) -> None:
    for frame in (noise, VERSION + noise, bytes((PROTOCOL, code)) + noise, bytes((PROTOCOL, code)) + ME + YOU + noise):
        assert_refused_or_usable(frame)


@EVERY_KIND
def test_a_frame_with_any_bit_flipped_is_refused_or_usable(record: type[Any]) -> None:
    frame = encode(example(record))
    for bit in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        assert_refused_or_usable(bytes(flipped))


@EVERY_KIND
def test_a_frame_cut_short_or_followed_by_something_is_refused(record: type[Any]) -> None:
    frame = encode(example(record))
    decode(frame)
    for length in range(len(frame)):
        refused(frame[:length])
    for more in (b"\0", b"\xff", frame, frame[2:]):
        refused(frame + more)


@given(any_frame, st.randoms(use_true_random=False))
@quick
def test_a_frame_with_bytes_changed_dropped_or_doubled_is_refused_or_usable(frame: bytes, rng: random.Random) -> None:
    damaged = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(damaged))
        part = damaged[at : at + rng.randint(1, 20)]
        damaged[at : at + len(part)] = rng.choice((b"", part + part, rng.randbytes(len(part)), bytes(4) + part))
        if not damaged:
            break
    assert_refused_or_usable(bytes(damaged))


@EVERY_KIND
def test_a_field_out_of_its_range_is_refused(record: type[Any]) -> None:
    good = example(record)
    for name, hint in hints(record).items():
        for value in WRONG[hint]:
            assert refused(encode(good._replace(**{name: value}))).startswith(f"a {record.__name__} with"), value


@pytest.mark.parametrize("record", LISTING)
def test_a_list_is_limited_in_length(record: type[Any]) -> None:
    good = example(record)
    (one, _), most = TWO[[*hints(record).values()][-1]]
    one = min(one, YOU, key=len) if type(one) is bytes else one
    if record is not messages.Replayed:  # whose greatest number is more than a frame has room for
        assert len(decode(encode(type(good)(*good[:-1], (one,) * most)))[-1]) == most
    refused(encode(type(good)(*good[:-1], (one,) * (most + 1))))


def test_bytes_that_are_no_text_are_refused_and_not_repeated() -> None:
    frame = encode(messages.Ping(ME, YOU, 1, bytes(8), 1, 1, "secret"))
    assert refused(frame[:-1] + b"\xff") == "a Ping with UnicodeDecodeError"
    refused(encode(Value(ME, YOU, 1, b"", 1.0, 1.0, True, ("abc",)))[:-3] + "\ud800".encode("utf-8", "surrogatepass"))


# --- What a frame can make the decoder allocate


#: What decoding may take beside four times the bytes: most of it for the greatest number of short texts.
ALLOWANCE = 2 << 20


def peak_of(use: Callable[[bytes], object], data: bytes) -> int:
    gc.collect()  # otherwise texts that an earlier error's traceback keeps alive are used again
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        with contextlib.suppress(WireError):
            use(data)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


#: The messages that take the most memory for their size: short texts, texts with one wide letter, rows.
COSTLY = {
    "roster": messages.Roster(ME, YOU, ((ME, "a", 300, 300, 1.5),) * MAX_STREAMS),
    "roster of long names": messages.Roster(ME, YOU, ((ME, "a" * MAX_SEAT, 300, NO_NUMBER, 1.5),) * MAX_STREAMS),
    "pong": Pong(ME, YOU, 1, bytes(8), 5, ((ME, 1.5),) * MAX_STREAMS),
    "receipt": messages.SetReceipt(ME, YOU, 1, True, 1.0, 5, ("a",) * 2 * MAX_STREAMS),
    "receipt of names": messages.SetReceipt(ME, YOU, 1, True, 1.0, 5, ("a" * 124,) * 2 * MAX_STREAMS),
    "receipt of long names": messages.SetReceipt(ME, YOU, 1, True, 1.0, 5, ("a" * MAX_SEAT,) * 2 * (MAX_MEMBERS + 1)),
    "replayed events": messages.Replayed(ME, YOU, ME, (bytes(LEAST_EVENT),) * 34_000),
    "event": Event(ME, 5, (b"ta",) * MAX_TARGETS),
    "records": Peeked(ME, YOU, 1, True, False, (b"",) * MAX_TARGETS),
    "value": Value(ME, YOU, 5, bytes(MAX_VALUE), 1.0, 1.0, True, tuple("😀" + "a" * 246 for _ in range(MAX_TAGS))),
    "acknowledgement": messages.Ack(ME, YOU, 5),
}


@pytest.mark.parametrize("what", COSTLY)
def test_no_message_takes_much_more_memory_than_its_frame(what: str) -> None:
    frame = encode(COSTLY[what])
    assert decode(frame) == COSTLY[what]
    assert peak_of(decode, frame) < 4 * len(frame) + ALLOWANCE


@EVERY_KIND
def test_no_length_is_believed(record: type[Any]) -> None:
    frame = encode(example(record))
    lying = [frame[:at] + length + frame[at + 4 :] for at in range(2, len(frame) - 3) for length in LENGTHS]
    for each in lying:
        assert_refused_or_usable(each)

    def decode_all(_: bytes) -> None:
        for each in lying:
            with contextlib.suppress(WireError):
                decode(each)

    assert peak_of(decode_all, frame) < 4 * len(frame) + 65_536


LENGTHS = [number.to_bytes(4, "big") for number in (300, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)]


@EVERY_KIND
def test_no_frame_makes_the_decoder_allocate_much(record: type[Any]) -> None:
    head = encode(example(record))[:2]

    def decode_all(frame: bytes) -> None:
        for byte in (0, 1, 0x61, 0xFF):  # so all lengths are 0, or 16 million, or more than there is
            with contextlib.suppress(WireError):
                decode(head + bytes((byte,)) * (len(frame) - 2))

    assert peak_of(decode_all, bytes(MAX_LINK)) < 4 * MAX_LINK + ALLOWANCE


def test_an_event_that_is_too_long_for_the_bus_is_not_taken_from_a_link_either() -> None:
    # Members keep up to 1024 events per stream that came too early: these must not be of a megabyte each.
    target = b"k\0" + b"x" * 100
    fits = Event(ME, 5, (target,) * ((MAX_BUS - 100) // (len(target) + 4)))
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

RECORD = Record(1, b"payload", 1.5, 2.5, ("a", "b"))


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


@given(
    st.binary(max_size=100)
    | st.builds(lambda packed, noise: packed[:-1] + noise, st.just(pack_record(RECORD)), st.binary())
)
@quick
def test_a_blob_that_is_no_record_is_refused(blob: bytes) -> None:
    try:
        record = unpack_record(blob)
    except WireError:
        return
    assert unpack_record(pack_record(record)) == record


@pytest.mark.parametrize("name", Record._fields)
def test_a_record_with_a_field_out_of_its_range_is_refused(name: str) -> None:
    for value in WRONG[hints(Record)[name]]:
        with pytest.raises(WireError):
            unpack_record(pack_record(RECORD._replace(**{name: value})))
