"""The logs of a shelf: what makes room, what stays, and what a writer leaves that dies between any two stores."""

from __future__ import annotations

import math
import random

import pytest

from colocache.core.host import hashes
from colocache.core.host.layout import BUCKET
from colocache.core.host.logs import MAIN, MOST, POSITION, POSITION_END, TAG_SHIFT, UNIT_SHIFT
from colocache.core.host.record import PAD, Miss, Outcome, unpack_header

from .shelves import SMALLEST, Host, keys_of_one_bucket

ROOT = (hashes.ROOT,)
TAIL, HEAD, LIMIT = range(3)
SMALL, MAIN_LOG = 8, 11  # where the words of the first ring's logs begin, in the head


def put(host: Host, number: int, size: int = 500, prefix: str = "key", expires: float = math.inf) -> Outcome:
    wire = f"{prefix}{number}".encode()
    return host.shelf.set(wire, hashes.key_hash(wire), payload(number, size), ROOT, expires)[0]


def payload(number: int, size: int = 500) -> bytes:
    return (b"%d." % number * size)[:size]


def found(host: Host, number: int, prefix: str = "key") -> bytes | None:
    wire = f"{prefix}{number}".encode()
    record = host.shelf.find(wire, hashes.key_hash(wire), host.now)
    return None if record is None else bytes(record.payload)


def version_of(host: Host) -> int:
    record = host.shelf._peek(b"key0", hashes.key_hash(b"key0"))
    assert record is not None
    return record.version


def full() -> Host:
    """Return a host whose main log is full, so that what is new goes to the small one."""
    host = Host()
    for number in range(200):
        put(host, number, prefix="old")
    return host


def way_of(host: Host, number: int) -> int:
    wire = f"key{number}".encode()
    record = host.shelf._peek(wire, hashes.key_hash(wire))
    assert record is not None
    return record.way


def is_in_main(host: Host, number: int) -> bool:
    return bool(host.memory.index[way_of(host, number)] & MAIN)


def check(host: Host) -> None:
    """Every way points to a whole record of its own between the tail and the head of its log."""
    head = host.memory.head
    for way in range(host.geometry.ways):
        word = host.memory.index[way]
        if word:
            body = host.shelf._copy(way, word)
            assert body is not None
            hash = unpack_header(body).hash
            assert hash & host.geometry.ways - 1 & -BUCKET == way & -BUCKET
            assert hash >> TAG_SHIFT | 1 == word >> TAG_SHIFT
            at = MAIN_LOG if word & MAIN else SMALL
            position = (word & POSITION & ~MAIN) << UNIT_SHIFT
            assert head[at + TAIL] <= position < head[at + HEAD]
    for base in range(0, host.geometry.ways, BUCKET):
        tags = [word >> TAG_SHIFT for word in host.memory.bucket(base << 3) if word]
        assert len(tags) == len(set(tags))


# --- Room


def test_while_main_has_room_nothing_is_dropped() -> None:
    host = Host()
    number = 0
    while not host.shelf.evicted:
        assert put(host, number) is Outcome.STORED
        number += 1
    assert host.shelf.taken() > 0.9 * host.geometry.capacity
    assert sum(found(host, each) is not None for each in range(number)) == number - 1


def test_what_was_found_twice_in_the_small_log_moves_to_main_and_the_rest_goes() -> None:
    host = Host()
    for number in range(200):  # main is full now
        put(host, number)
    put(host, 1000)
    put(host, 1001)
    assert not is_in_main(host, 1000)
    found(host, 1000), found(host, 1000), found(host, 1001)
    for number in range(2000, 2020):
        put(host, number)
    assert is_in_main(host, 1000)
    assert found(host, 1001) is None
    put(host, 1001)  # its ghost was there
    assert is_in_main(host, 1001)
    check(host)


def test_a_record_that_is_used_stays_in_main() -> None:
    host = Host()
    for number in range(300):
        put(host, number, prefix="cold")
    put(host, 0)
    for number in range(2000):
        put(host, number, prefix="new")
        found(host, number, prefix="new"), found(host, number, prefix="new"), found(host, 0)
    assert found(host, 0) == payload(0)
    assert host.shelf.moved > 1000
    assert host.memory.head[MAIN_LOG + TAIL] > 2 * host.geometry.ring_size
    check(host)


def test_moved_records_keep_their_version_and_label() -> None:
    host = Host()
    wire, hash = b"key0", hashes.key_hash(b"key0")
    for number in range(300):
        put(host, number, prefix="cold")
    put(host, 0)
    before = host.shelf.find(wire, hash, host.now)
    assert before is not None
    word = host.memory.index[before.way]
    for number in range(40):
        put(host, number, prefix="new")
        found(host, 0)
    after = host.shelf.find(wire, hash, host.now)
    assert after is not None
    assert after._replace(uses=before.uses) == before
    assert after.uses == MOST
    assert host.memory.index[after.way] != word
    assert host.shelf.replace(wire, hash, before.version, b"2", ROOT, math.inf, lambda: False)[0] is Outcome.STORED


@pytest.mark.parametrize("why", ["an event", "it has expired", "its way was taken"])
def test_what_is_not_current_makes_room_in_main(why: str) -> None:
    host = Host()
    for number in range(200):
        put(host, number, expires=host.now + 1)
    put(host, 1000)
    assert not is_in_main(host, 1000)
    tail = host.memory.head[MAIN_LOG + TAIL]
    first = way_of(host, next(number for number in range(200) if found(host, number) is not None))
    if why == "an event":
        host.board.invalidate((hashes.ROOT,))
    elif why == "it has expired":
        host.now += 1
    else:
        host.memory.index[first] = 0
    put(host, 1001, 480)
    assert is_in_main(host, 1001)
    assert host.memory.head[MAIN_LOG + TAIL] > tail


def test_of_a_few_large_records_that_are_not_current_none_is_looked_for_behind_the_last() -> None:
    """What stands there is no record, and the ring would be reset."""
    host = Host()
    for number in range(7):
        put(host, number, host.geometry.max_value - 500)
    put(host, 1000)
    assert not is_in_main(host, 1000)
    for number in range(7):
        assert is_in_main(host, number)
        host.board.invalidate((hashes.key_hash(b"key%d" % number),))
    put(host, 1001)
    assert is_in_main(host, 1001)
    assert found(host, 1000) == payload(1000)
    assert not host.shelf.resets()
    check(host)


@pytest.mark.parametrize("why", ["nothing", "an event", "it has expired"])
def test_what_was_found_twice_and_is_not_current_any_more_is_dropped(why: str) -> None:
    host = full()
    put(host, 0, expires=host.now + 1)
    found(host, 0), found(host, 0)
    if why == "an event":
        host.board.invalidate((hashes.key_hash(b"key0"),))
    elif why == "it has expired":
        host.now += 1
    for number in range(30):
        put(host, number, prefix="new")
    assert host.shelf.moved == (why == "nothing")


def test_a_full_bucket_forgets_slowly_what_was_used() -> None:
    host = Host()
    wires = keys_of_one_bucket(9, host.geometry)
    for wire in wires[:8]:
        host.shelf.set(wire, hashes.key_hash(wire), b"x", ROOT, math.inf)
    host.memory.used[:8] = bytes((3, 2, 2, 1, 3, 3, 3, 3))
    host.shelf.set(wires[8], hashes.key_hash(wires[8]), b"x", ROOT, math.inf)
    assert bytes(host.memory.used[:8]) == bytes((2, 1, 1, 0, 2, 2, 2, 2))


def test_a_new_record_has_no_uses_of_the_one_before() -> None:
    host = Host()
    put(host, 0)
    way = way_of(host, 0)
    host.memory.used[way] = 3
    put(host, 0)
    assert host.memory.used[way] == 3, "it is the same key"
    host.memory.index[way] = 0
    put(host, 0)
    assert host.memory.used[way_of(host, 0)] == 0


def test_one_key_written_many_times_drops_nothing_else() -> None:
    host = Host(1 << 20)
    for number in range(20):
        put(host, number)
    for _ in range(20_000):
        put(host, 1000, 40)
    assert found(host, 1000) == payload(1000, 40)
    assert host.shelf.entries() <= 21
    check(host)


def test_random_sizes_wrap_and_are_found_whole() -> None:
    host, rnd = Host(), random.Random(1)
    sizes: dict[int, int] = {}
    for _ in range(5000):
        number = rnd.randrange(60)
        sizes[number] = rnd.choice((0, 3, 100, 1000, 2500, 8000))
        put(host, number, sizes[number])
        other = rnd.randrange(60)
        assert found(host, other) in (None, payload(other, sizes.get(other, 0)))
    assert host.memory.head[MAIN_LOG + HEAD] > 20 * host.geometry.ring_size
    assert host.shelf.resets() == 0
    check(host)
    assert host.shelf.entries() == sum(word != 0 for word in host.memory.index.tolist())


# --- What is dropped


def test_a_record_that_is_dropped_does_not_come_back_by_older_loads() -> None:
    host = full()
    wire, hash = b"key0", hashes.key_hash(b"key0")
    seen = host.shelf.look(wire, hash, ROOT, host.now)
    assert isinstance(seen, Miss)
    put(host, 0)
    for number in range(1, 100):
        put(host, number, prefix="new")
    assert found(host, 0) is None
    host.shelf.fill(wire, hash, b"older", seen, math.inf)
    assert found(host, 0) is None


def test_dropping_a_record_stamps_nothing() -> None:
    """A near copy of it goes on being current, and so does a load of it that is under way."""
    host = full()
    wire, hash = b"key0", hashes.key_hash(b"key0")
    put(host, 0)
    record = host.shelf.find(wire, hash, host.now)
    assert record is not None
    for number in range(1, 100):
        put(host, number, prefix="new")
    assert found(host, 0) is None
    assert host.board.stands(record.label)


def test_a_counter_outlives_the_room_that_is_made_for_it() -> None:
    host = Host()
    wire, hash = b"key0", hashes.key_hash(b"key0")
    for count in range(1, 3000):
        _, record = host.shelf.change(
            wire, hash, lambda record: (b"%d" % (int(record.payload) + 1 if record else 1), math.inf), ROOT
        )
        assert record is not None
        assert record.payload == b"%d" % count
        put(host, count, 900)


def test_what_is_to_be_changed_is_moved_rather_than_dropped_for_its_own_change() -> None:
    host = full()
    wire, hash = b"key0", hashes.key_hash(b"key0")
    put(host, 0, 1500)
    way, number = way_of(host, 0), 1
    while host.memory.head[SMALL + TAIL] != (host.memory.index[way] & POSITION) << UNIT_SHIFT:
        put(host, number, 50, "new")
        number += 1
    host.memory.used[way] = 0
    outcome, _ = host.shelf.replace(wire, hash, version_of(host), payload(1, 1800), ROOT, math.inf, lambda: False)
    assert outcome is Outcome.STORED
    assert host.shelf.moved == 1
    assert found(host, 0) == payload(1, 1800)


# --- Growth


def test_a_log_grows_in_pieces_as_it_is_used() -> None:
    host = Host(4 << 20)
    assert host.grown == []
    put(host, 0)
    assert len(host.grown) == 1
    start = host.grown[0][0]
    assert start == host.geometry.data_offset + host.geometry.small_size
    for number in range(10_000):
        put(host, number)
    assert sum(end - start for start, end in host.grown) == host.geometry.ring_size
    assert len({start for start, _ in host.grown}) == len(host.grown)


def test_without_any_room_all_is_declined_and_sets_invalidate() -> None:
    host = Host(1 << 20, room=0)
    label = host.board.label((hashes.key_hash(b"key0"),))
    assert put(host, 0) is Outcome.DECLINED
    assert not host.board.stands(label)
    host.room = None
    assert put(host, 0) is Outcome.STORED


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_a_log_that_cannot_grow_goes_on_with_what_it_has(pieces: int) -> None:
    host = Host(4 << 20, room=pieces << 18)
    rnd = random.Random(pieces)
    sizes: dict[int, int] = {}
    for step in range(6000):
        number = rnd.randrange(2000)
        sizes[number] = rnd.randrange(3000)
        put(host, number, sizes[number])
        if step == 3000:
            host.room = None  # it stays frozen
        assert found(host, number) == payload(number, sizes[number])
    start = host.geometry.data_offset + host.geometry.small_size
    assert max(end for low, end in host.grown if low >= start) == start + (pieces << 18)
    assert host.shelf.resets() == 0
    assert host.memory.head[MAIN_LOG + LIMIT] & 1
    check(host)


# --- Garbage


def fill_up(host: Host) -> None:
    for number in range(305):
        put(host, number)


@pytest.mark.parametrize("at", [0, 8, 12, 200])
def test_garbage_at_a_tail_resets_the_ring_and_stamps_nothing(at: int) -> None:
    host = Host()
    fill_up(host)
    label = host.board.label(ROOT)
    tail = host.memory.head[SMALL + TAIL]
    place = host.geometry.data_offset + tail % host.geometry.small_size
    assert host.memory.words[place // 8 + 1] != PAD
    host.map[place + at] ^= 255
    for number in range(1000, 1040):
        assert put(host, number) is Outcome.STORED
        assert found(host, number) == payload(number)
    assert host.shelf.resets() == 1
    assert host.board.stands(label)
    assert found(host, 304) is None
    assert host.memory.head[SMALL + TAIL] > tail, "what is left there does not pass for something new"
    assert host.shelf.entries() == sum(word != 0 for word in host.memory.index.tolist()) <= 40
    check(host)


@pytest.mark.parametrize("word", [TAIL, HEAD, LIMIT])
@pytest.mark.parametrize("value", [(1 << 64) - 1, 1 << 42, 12345678 * 16])
def test_garbage_in_the_words_of_a_log_resets_the_ring(word: int, value: int) -> None:
    host = Host()
    fill_up(host)
    host.memory.head[MAIN_LOG + word] = value
    for number in range(2000):
        put(host, number)
        assert found(host, number) == payload(number)
    assert host.shelf.resets() >= 1
    check(host)


def test_two_ways_of_one_tag_reset_the_ring() -> None:
    host = Host()
    put(host, 0)
    way = way_of(host, 0)
    host.memory.index[way ^ 1] = host.memory.index[way]
    put(host, 0, 10)
    assert host.shelf.resets() == 1
    assert found(host, 0) == payload(0, 10)


def test_a_log_begins_anew_where_positions_end() -> None:
    host = Host()
    size = host.geometry.ring_size - host.geometry.small_size
    last = POSITION_END // size * size - 3 * size
    host.memory.head[MAIN_LOG + HEAD] = host.memory.head[MAIN_LOG + TAIL] = last
    for number in range(1000):
        put(host, number)
        found(host, number), found(host, number)
        assert found(host, number) == payload(number)
        assert host.memory.head[MAIN_LOG + HEAD] <= POSITION_END
    assert host.shelf.resets() == 1
    assert host.memory.head[MAIN_LOG + HEAD] < 20 * size
    check(host)


# --- Death


def test_a_writer_may_die_before_any_store() -> None:
    """Whatever it was about to do: what others set before is whole, and the shelf works on."""
    rnd = random.Random(2)
    deaths = 0
    for after in range(260):
        host = Host(SMALLEST)
        for number in range(rnd.randrange(150, 260)):
            put(host, number, rnd.choice((100, 500, 1500)))
            for _ in range(rnd.randrange(3)):
                found(host, rnd.randrange(number + 1))
        wire, hash = b"victim", hashes.key_hash(b"victim")
        host.shelf.set(wire, hash, b"old", ROOT, math.inf)
        found(host, 0, "victim")

        def action(host: Host = host) -> None:
            for number in range(3):
                host.shelf.set(b"victim", hashes.key_hash(b"victim"), b"new" * 700, ROOT, math.inf)
                put(host, 5000 + number, 1500)

        deaths += host.dies(action, after % 130)
        check(host)
        record = host.shelf.find(wire, hash, host.now)
        assert record is None or bytes(record.payload) in (b"old", b"new" * 700)
        for number in range(25):
            assert put(host, 7000 + number, 500) is Outcome.STORED
            assert found(host, 7000 + number) == payload(7000 + number)
        check(host)
        assert host.shelf.resets() == 0
    assert deaths > 130


def test_whoever_dies_over_and_over_a_load_never_brings_back_what_was_set_since() -> None:
    host, rnd = Host(), random.Random(3)
    deaths = dropped = 0
    for turn in range(1500):
        wire = b"key%d" % rnd.randrange(50)
        hash = hashes.key_hash(wire)
        seen = host.shelf.look(wire, hash, ROOT, host.now)
        host.shelf.set(wire, hash, b"set%d" % turn, ROOT, math.inf)

        def action(host: Host = host) -> None:
            for _ in range(rnd.randrange(1, 40)):
                put(host, rnd.randrange(1000), rnd.choice((10, 400, 1500)), "other")

        deaths += host.dies(action, rnd.randrange(1, 500))
        if isinstance(seen, Miss):
            host.shelf.fill(wire, hash, b"loaded", seen, math.inf)
        record = host.shelf.find(wire, hash, host.now)
        assert record is None or record.payload == b"set%d" % turn
        dropped += record is None
    assert deaths > 500
    assert dropped > 50
    assert host.shelf.resets() == 0
    check(host)


def test_ten_thousand_puts_after_a_death() -> None:
    host = Host()
    fill_up(host)
    assert host.dies(lambda: put(host, 1000, 1500), 5)
    for number in range(10_000):
        assert put(host, number) is Outcome.STORED
    assert host.shelf.resets() == 0
    assert found(host, 9999) == payload(9999)
    check(host)
