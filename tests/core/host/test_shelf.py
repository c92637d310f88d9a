"""The shelf: what readers find, what a write makes void, and what stays true whoever comes between any two steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from colocache.core.host import hashes
from colocache.core.host.board import GROUP
from colocache.core.host.hashes import WRITES
from colocache.core.host.layout import LINE
from colocache.core.host.logs import MOST, Logs
from colocache.core.host.record import Miss, Outcome, Record
from colocache.core.host.shelf import ATTEMPTS, LOOKS
from tests.core.leases import LEASE, WordLease

from .shelves import Host, Process, but_writes, groups, keys_of_one_bucket

ROOT = (hashes.ROOT,)
TAG = hashes.tag_hash("t")
NEW_TAG = hashes.tag_hash("new")
SPACE = hashes.namespace_hash("a")
KEY = b"key"
HASH = hashes.key_hash(KEY)
EVERYTHING = (hashes.ROOT, SPACE, TAG)
END = 1e6  # when that expires which is written here


@pytest.fixture
def host() -> Host:
    return Host(1 << 20)


def put(host: Host, payload: bytes, wire: bytes = KEY, things: tuple[int, ...] = ROOT) -> Record:
    outcome, record = host.shelf.set(wire, hashes.key_hash(wire), payload, things, math.inf)
    assert outcome is Outcome.STORED
    assert record is not None
    return record


def found(host: Host, wire: bytes = KEY) -> bytes | None:
    record = host.shelf.find(wire, hashes.key_hash(wire), host.now)
    return None if record is None else bytes(record.payload)


def miss(host: Host, wire: bytes = KEY, things: tuple[int, ...] = ROOT) -> Miss:
    looked = host.shelf.look(wire, hashes.key_hash(wire), things, host.now)
    assert isinstance(looked, Miss)
    return looked


def fill(host: Host, payload: bytes, seen: Miss) -> Outcome:
    return host.shelf.fill(KEY, HASH, payload, seen, math.inf)[0]


def never() -> bool:
    raise AssertionError("nobody has to ask whether a tag had an event")


def evict(host: Host) -> None:
    """Drop all that is there."""
    for way in range(host.geometry.ways):
        host.memory.index[way] = 0


# --- What is done to a key: it gets the payload "new", or keeps "old" and expires at another time


def set_it(process: Process, host: Host) -> Outcome:
    return process.shelf.set(KEY, HASH, b"new", EVERYTHING, END)[0]


def add_it(process: Process, host: Host) -> Outcome:
    return process.shelf.add(KEY, HASH, b"new", EVERYTHING, END)[0]


def replace_it(process: Process, host: Host) -> Outcome:
    record = host.process().shelf.find(KEY, HASH, host.now)
    version = 0 if record is None else record.version
    return process.shelf.replace(KEY, HASH, version, b"new", EVERYTHING, END, never)[0]


def count_it(process: Process, host: Host) -> Outcome:
    return process.shelf.change(KEY, HASH, lambda record: (b"new", END) if record else None, ROOT)[0]


def touch_it(process: Process, host: Host) -> Outcome:
    def touched(record: Record | None) -> tuple[bytes, float] | None:
        return (bytes(record.payload), END) if record else None

    return process.shelf.change(KEY, HASH, touched, ROOT)[0]


def begin_count(process: Process, host: Host) -> Outcome:
    return process.shelf.change(KEY, HASH, lambda record: None if record else (b"new", END), EVERYTHING)[0]


def set_after_a_miss(process: Process, host: Host) -> Outcome:
    looked = host.process().shelf.look(KEY, HASH, EVERYTHING, host.now)
    assert isinstance(looked, Miss)
    return process.shelf.set_fenced(KEY, HASH, b"new", looked, END)[0]


def fill_it(process: Process, host: Host) -> Outcome:
    looked = host.process().shelf.look(KEY, HASH, EVERYTHING, host.now)
    assert isinstance(looked, Miss)
    return process.shelf.fill(KEY, HASH, b"new", looked, END)[0]


Do = Callable[[Process, Host], Outcome]
OVER_A_VALUE: list[Do] = [set_it, replace_it, count_it, touch_it]
OVER_NOTHING: list[Do] = [set_it, add_it, begin_count, set_after_a_miss]
DERIVED: list[Do] = [replace_it, count_it, touch_it]


# --- Reading


@pytest.mark.parametrize("size", [0, 1, 4000, 4096, 60_000, 100_000])
def test_what_was_set_is_found_by_every_process(host: Host, size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    stored = put(host, payload, things=EVERYTHING)
    host.enter()
    record = host.shelf.find(KEY, HASH, host.now)
    assert record is not None
    assert bytes(record.payload) == payload
    assert record._replace(payload=payload) == stored
    assert but_writes(record.label) == host.board.label((hashes.ROOT, HASH, SPACE, TAG))
    assert groups(record.label)[2][:8] == host.board.group(HASH ^ WRITES)[:8]
    assert host.board.stands(groups(record.label)[2])


def test_a_record_tells_how_often_it_was_found_before(host: Host) -> None:
    """Whoever found it: other processes count, too."""
    assert put(host, b"x").uses == 0
    uses = []
    for _ in range(6):
        host.enter()
        record = host.shelf.find(KEY, HASH, host.now)
        assert record is not None
        uses.append(record.uses)
    assert uses == [0, 1, 2, *3 * [MOST]]


def test_uses_near_and_changes_are_uses_and_looks_that_find_nothing_are_none(host: Host) -> None:
    def uses() -> int:
        record = host.process().shelf.find(KEY, HASH, host.now)
        assert record is not None
        return record.uses

    way = put(host, b"x").way
    host.shelf.use((way,))
    assert uses() == 1
    put(host, b"x", b"other")
    count_it(host.present, host)
    assert uses() == 3
    host.memory.used[way] = 0
    assert host.shelf.find(b"another", HASH, host.now) is None
    host.board.invalidate((HASH,))
    assert host.shelf.find(KEY, HASH, host.now) is None
    assert host.memory.used[way] == 0


@pytest.mark.parametrize("filled", [False, True])
def test_a_new_key_was_never_found_before(host: Host, filled: bool) -> None:
    if filled:
        fill(host, b"x", miss(host))
    else:
        put(host, b"x")
    for expected in (0, 1):
        record = host.shelf.find(KEY, HASH, host.now)
        assert record is not None
        assert record.uses == expected


@pytest.mark.parametrize("others", [1, 2, 20])
def test_every_group_of_a_label_counts_however_many_there_are(host: Host, others: int) -> None:
    things = (hashes.ROOT, *[hashes.tag_hash(str(number)) for number in range(others)])
    for thing in (*things, HASH):
        put(host, b"x", things=things)
        host.board.invalidate((hashes.tag_hash("another"),))
        assert found(host) == b"x"
        host.board.invalidate((thing,))
        assert found(host) is None
        outcome, record = host.shelf.set_fenced(KEY, HASH, b"y", miss(host, things=things), math.inf)
        assert outcome is Outcome.STORED
        assert record is not None
        assert len(record.label) == GROUP.size * (others + 3)
        assert found(host) == b"y"
        host.board.invalidate((thing,))
        assert found(host) is None


def test_an_expired_record_is_not_found(host: Host) -> None:
    host.shelf.set(KEY, HASH, b"x", ROOT, host.now + 1)
    assert found(host) == b"x"
    host.now += 1
    assert found(host) is None


@pytest.mark.parametrize("thing", [hashes.ROOT, HASH, SPACE, TAG])
@pytest.mark.parametrize("write", [*OVER_NOTHING, fill_it])
def test_an_invalidation_of_anything_it_depends_on_makes_a_record_void(host: Host, write: Do, thing: int) -> None:
    assert write(host.present, host) is Outcome.STORED
    assert found(host) == b"new"
    host.board.invalidate((thing,))
    assert found(host) is None
    host.enter()
    assert found(host) is None


@pytest.mark.parametrize("place", [0, 8, 16, 24, 30, 96, 140, 151, 152, 160, 254])
def test_a_torn_record_is_not_found(host: Host, place: int) -> None:
    put(host, b"x" * 100)
    host.map[host.geometry.data_offset + host.geometry.small_size + place] ^= 255
    assert found(host) is None


def test_a_record_whose_bytes_are_seen_later_than_its_way_is_found_behind_a_fence(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(host, b"x" * 100)
    place = host.geometry.data_offset + host.geometry.small_size + 150
    host.map[place] ^= 255

    def order() -> None:
        host.map[place] ^= 255

    monkeypatch.setattr(host.present.fences, "order", order)
    assert found(host) == b"x" * 100


def test_an_earlier_record_at_the_same_place_does_not_pass_for_a_later_one(host: Host) -> None:
    record = put(host, b"x" * 100)
    host.memory.index[record.way] += (host.geometry.ring_size - host.geometry.small_size) // 16
    assert found(host) is None


def test_a_way_to_a_record_that_was_replaced_leads_to_nothing(host: Host) -> None:
    """What a record is worth stands in the record. So it does no harm if a way comes back, or if a lock fails."""
    record = put(host, b"1")
    word = host.memory.index[record.way]
    put(host, b"2")
    host.memory.index[record.way] = word
    assert found(host) is None


def test_keys_of_one_tag_and_bucket_take_each_others_way(host: Host) -> None:
    one, two = HASH, HASH ^ 1 << 30  # the same tag and bucket, other marks
    host.shelf.set(b"one", one, b"1", ROOT, math.inf)
    host.shelf.set(b"two", two, b"2", ROOT, math.inf)
    assert host.shelf.find(b"one", one, host.now) is None
    assert host.shelf.find(b"two", two, host.now) is not None
    assert host.shelf.entries() == 1


@pytest.mark.parametrize(("one", "two"), [(b"one", b"two"), (b"one", b"one and more"), (b"", b"x"), (b"xy", b"x")])
def test_keys_of_one_hash_are_told_apart(host: Host, one: bytes, two: bytes) -> None:
    host.shelf.set(one, HASH, b"yyyy", ROOT, math.inf)
    assert host.shelf.find(two, HASH, host.now) is None
    assert host.shelf.add(two, HASH, b"2", ROOT, math.inf)[0] is Outcome.STORED
    record = host.shelf.find(two, HASH, host.now)
    assert record is not None
    assert record.payload == b"2"
    assert host.shelf.find(one, HASH, host.now) is None


def test_a_find_counts_uses_up_to_three(host: Host) -> None:
    record = put(host, b"x")
    for _ in range(5):
        found(host)
    assert host.memory.used[record.way] == 3
    host.memory.used[record.way] = 0
    host.shelf.use([record.way])
    assert host.memory.used[record.way] == 1
    host.shelf.use([record.way] * 5)
    assert host.memory.used[record.way] == 3


@pytest.mark.parametrize("write", OVER_A_VALUE)
def test_a_key_that_has_a_value_all_the_time_is_found_at_every_step_of_a_write(host: Host, write: Do) -> None:
    seen = set()
    for at in itertools.count():
        put(host, b"old", things=EVERYTHING)
        reader = host.process()

        def find(reader: Process = reader) -> None:
            record = reader.shelf.find(KEY, HASH, host.now)
            assert record is not None
            seen.add((bytes(record.payload), record.expires))

        if not host.overtaken(lambda: write(host.present, host), at, find):
            break
    assert at > 20
    assert len(seen) == 2


@pytest.mark.parametrize("write", OVER_A_VALUE)
def test_a_key_that_has_a_value_all_the_time_is_found_by_whom_a_write_overtakes(host: Host, write: Do) -> None:
    results: list[bytes | None] = []
    for at in itertools.count():
        put(host, b"old", things=EVERYTHING)
        writer = host.process()
        if not host.overtaken(lambda: results.append(found(host)), at, lambda writer=writer: write(writer, host)):
            break
    assert at > 10
    assert None not in results


def test_a_reader_whom_writers_overtake_all_the_time_gives_up(host: Host) -> None:
    put(host, b"old")
    writer, steps, writes = host.process(), host.present.steps, 0

    def others() -> None:
        nonlocal writes
        writes += 1
        assert writer.shelf.set(KEY, HASH, b"new", ROOT, math.inf)[0] is Outcome.STORED
        steps.steps_left = 0

    host.overtaken(lambda: found(host), 0, others)
    assert found(host) == b"new"
    assert LOOKS < writes < 20 * LOOKS


# --- Misses and fills


def test_a_fill_is_found_under_the_label_of_its_miss(host: Host) -> None:
    seen = miss(host, things=EVERYTHING)
    assert seen.at == host.now
    assert fill(host, b"x", seen) is Outcome.STORED
    record = host.shelf.find(KEY, HASH, host.now)
    assert record is not None
    assert record.label == seen.label == host.board.label((hashes.ROOT, HASH, HASH ^ WRITES, SPACE, TAG))


def test_a_fill_stamps_nothing_and_rings_no_bell(host: Host) -> None:
    seen, bell = miss(host), host.board.bell[0]
    assert fill(host, b"x", seen) is Outcome.STORED
    assert host.board.label((hashes.ROOT, HASH, HASH ^ WRITES)) == seen.label
    assert host.board.bell[0] == bell


@pytest.mark.parametrize("write", [*OVER_NOTHING, fill_it])
def test_a_fill_does_not_replace_a_current_record(host: Host, write: Do) -> None:
    seen = miss(host, things=EVERYTHING)
    assert write(host.present, host) is Outcome.STORED
    outcome, record = host.shelf.fill(KEY, HASH, b"older", seen, math.inf)
    assert outcome is Outcome.REFUSED
    assert record is not None
    assert record.payload == b"new"
    assert found(host) == b"new"


@pytest.mark.parametrize("write", OVER_NOTHING)
@pytest.mark.parametrize("end", ["it expires", "its tag is invalidated", "it is evicted"])
def test_a_load_that_began_before_a_write_is_void_whatever_becomes_of_what_was_written(
    host: Host, write: Do, end: str
) -> None:
    seen = miss(host)
    assert write(host.present, host) is Outcome.STORED
    if end == "it expires":
        host.now = END
    elif end == "its tag is invalidated":
        host.board.invalidate((TAG,))
    else:
        evict(host)
    assert found(host) is None
    assert fill(host, b"older", seen) is Outcome.STORED
    assert found(host) is None


def test_a_fill_whose_label_is_void_is_for_those_who_have_the_same_label_alone(host: Host) -> None:
    seen = miss(host)
    host.board.invalidate((HASH,))
    later = miss(host)
    assert fill(host, b"x", seen) is Outcome.STORED
    assert found(host) is None
    taken = host.shelf.find_labelled(KEY, HASH, seen.label, host.now, -math.inf)
    assert taken is not None
    assert taken.payload == b"x"
    assert taken.label == seen.label
    assert host.shelf.find_labelled(KEY, HASH, later.label, host.now, -math.inf) is None


def test_who_waits_for_a_label_takes_what_is_current_too_and_nothing_that_has_expired(host: Host) -> None:
    seen = miss(host)
    host.shelf.set(KEY, HASH, b"set", ROOT, host.now + 1)
    record = host.shelf.find_labelled(KEY, HASH, seen.label, host.now, -math.inf)
    assert record is not None
    assert record.payload == b"set"
    host.now += 1
    assert host.shelf.find_labelled(KEY, HASH, seen.label, host.now, -math.inf) is None
    later = miss(host)
    host.shelf.fill(KEY, HASH, b"loaded", later, host.now + 1)
    assert host.shelf.find_labelled(KEY, HASH, later.label, host.now, -math.inf) is not None
    assert host.shelf.find_labelled(b"other", HASH, later.label, host.now, -math.inf) is None
    host.now += 1
    assert host.shelf.find_labelled(KEY, HASH, later.label, host.now, -math.inf) is None


@pytest.mark.parametrize("write", OVER_NOTHING)
def test_who_misses_beside_a_write_finds_its_value_or_has_a_label_that_it_made_void(host: Host, write: Do) -> None:
    looked: list[Record | Miss] = []
    for at in itertools.count():
        host.board.invalidate((HASH,))
        writer = host.process()
        if not host.overtaken(
            lambda: looked.append(host.shelf.look(KEY, HASH, ROOT, host.now)), at,
            lambda writer=writer: write(writer, host),
        ):  # fmt: skip
            break
        if isinstance(looked[-1], Miss):
            assert not host.board.stands(looked[-1].label)
        else:
            assert looked[-1].payload == b"new"
    assert at > 15
    assert {type(each) for each in looked} == {Miss, Record}


def test_between_the_label_and_the_look_of_a_miss_is_a_fence(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.present.fences, "order", lambda: host.process().board.stamp((HASH,)))
    assert not host.board.stands(miss(host).label)
    monkeypatch.setattr(host.present.fences, "order", lambda: set_it(host.process(), host))
    assert isinstance(host.shelf.look(KEY, HASH, ROOT, host.now), Record)


# --- Writes


@pytest.mark.parametrize("write", OVER_NOTHING)
def test_a_write_makes_void_what_was_missed_before_it(host: Host, write: Do) -> None:
    label, bell = miss(host, things=EVERYTHING).label, host.board.bell[0]
    assert write(host.present, host) is Outcome.STORED
    assert not host.board.stands(label)
    assert host.board.stands(but_writes(label)), "it is a write and no invalidation"
    assert host.board.bell[0] != bell


@pytest.mark.parametrize("write", OVER_A_VALUE)
@pytest.mark.parametrize("filled", [False, True])
def test_a_write_makes_copies_of_the_value_before_void(host: Host, write: Do, filled: bool) -> None:
    if filled:
        fill(host, b"old", miss(host, things=EVERYTHING))
    else:
        put(host, b"old", things=EVERYTHING)
    record, bell = host.shelf.find(KEY, HASH, host.now), host.board.bell[0]
    assert record is not None
    assert write(host.present, host) is Outcome.STORED
    assert not host.board.stands(record.label)
    assert host.board.bell[0] != bell
    later = host.shelf.find(KEY, HASH, host.now)
    assert later is not None
    assert later.version != record.version
    assert host.board.stands(later.label)


@pytest.mark.parametrize("write", [*OVER_A_VALUE, add_it, set_after_a_miss])
def test_a_write_is_stored_then_its_way_then_its_stamps_and_at_last_the_bell(host: Host, write: Do) -> None:
    if write in OVER_A_VALUE:
        put(host, b"old", things=EVERYTHING)
    journal = host.present.steps.journal
    journal.clear()
    assert write(host.present, host) is Outcome.STORED
    first, second, third, fourth = (f"mark {mark}" for mark in host.board.marks_of(HASH ^ WRITES))
    way = next(place for place, what in enumerate(journal) if what.startswith("way"))
    last_head = 8 + 3 + 1  # the word of the main log's head
    assert max(place for place, what in enumerate(journal) if what == f"head {last_head}") < way
    assert "data" not in journal[way:]
    assert "data" in journal[: journal.index(f"head {last_head}")]
    after = [what for what in journal[way + 1 :] if not what.startswith(("used", "head"))]
    assert after == ["order", fourth, third, second, "order", first, "order", "bell 0", "full"]


def test_nobody_has_to_wait_for_the_bell_of_another_one(host: Host) -> None:
    held: list[int] = []

    def others() -> None:
        held.append(len(host.holders))

    for at in itertools.count():
        if not host.overtaken(lambda: put(host, b"x"), at, others):
            break
    assert held[-1] == 0
    assert set(held[:-1]) == {1}


def test_add_stores_only_where_nothing_current_is(host: Host) -> None:
    assert host.shelf.add(KEY, HASH, b"1", ROOT, host.now + 1)[0] is Outcome.STORED
    outcome, there = host.shelf.add(KEY, HASH, b"2", ROOT, math.inf)
    assert outcome is Outcome.REFUSED
    assert there is not None
    assert there.payload == b"1"
    host.now += 1
    assert host.shelf.add(KEY, HASH, b"3", ROOT, math.inf)[0] is Outcome.STORED
    host.board.invalidate((HASH,))
    assert host.shelf.add(KEY, HASH, b"4", ROOT, math.inf)[0] is Outcome.STORED
    assert found(host) == b"4"


def test_replace_needs_the_version_of_the_current_record(host: Host) -> None:
    assert host.shelf.replace(KEY, HASH, 0, b"2", ROOT, math.inf, never)[0] is Outcome.REFUSED
    first = put(host, b"1")
    second = put(host, b"2")

    def replaced(version: int, expires: float = math.inf) -> Outcome:
        return host.shelf.replace(KEY, HASH, version, b"3", ROOT, expires, never)[0]

    assert replaced(first.version) is Outcome.REFUSED
    assert replaced(second.version, host.now + 1) is Outcome.STORED
    assert replaced(second.version) is Outcome.REFUSED
    third = host.shelf.find(KEY, HASH, host.now)
    assert third is not None
    host.now += 1
    assert replaced(third.version) is Outcome.REFUSED
    fourth = put(host, b"4")
    host.board.invalidate((HASH,))
    assert replaced(fourth.version) is Outcome.REFUSED


def test_replace_gives_a_value_the_namespaces_and_tags_that_it_depends_on_from_then_on(host: Host) -> None:
    record = put(host, b"1", things=EVERYTHING)
    things, asked = (hashes.ROOT, SPACE, NEW_TAG), []

    def no_tag_event() -> bool:
        asked.append(host.present.steps.journal[-1])
        return True

    outcome, second = host.shelf.replace(KEY, HASH, record.version, b"2", things, math.inf, no_tag_event)
    assert outcome is Outcome.STORED
    assert second is not None
    assert asked == ["order"], "its stamps are read before"
    before, after = groups(record.label), groups(second.label)
    assert after[:2] == before[:2]
    assert after[3:] == [before[3], host.board.group(NEW_TAG)]
    host.board.invalidate((TAG,))
    assert found(host) == b"2"
    host.board.invalidate((NEW_TAG,))
    assert found(host) is None


def test_replace_with_a_new_tag_is_refused_if_any_tag_was_invalidated(host: Host) -> None:
    record = put(host, b"1")
    outcome, _ = host.shelf.replace(KEY, HASH, record.version, b"2", EVERYTHING, math.inf, lambda: False)
    assert outcome is Outcome.REFUSED
    assert found(host) == b"1"


def test_an_invalidation_after_the_question_for_any_tag_makes_what_replaces_void(host: Host) -> None:
    record = put(host, b"1")

    def no_tag_event() -> bool:
        host.board.invalidate((NEW_TAG,))
        return True

    things = (hashes.ROOT, NEW_TAG)
    host.shelf.replace(KEY, HASH, record.version, b"2", things, math.inf, no_tag_event)
    assert found(host) is None


@pytest.mark.parametrize("thing", [hashes.ROOT, HASH, SPACE, TAG])
@pytest.mark.parametrize("write", [*DERIVED, set_after_a_miss, fill_it])
def test_an_invalidation_at_any_step_makes_void_what_is_made_of_something_older(
    host: Host, write: Do, thing: int
) -> None:
    outcomes: list[Outcome] = []
    stored = 0
    for at in itertools.count():
        if write in DERIVED:
            put(host, b"old", things=EVERYTHING)
        other = host.process().board
        if not host.overtaken(
            lambda: outcomes.append(write(host.present, host)), at, lambda other=other: other.invalidate((thing,))
        ):
            break
        stored += outcomes[-1] is Outcome.STORED
        assert found(host) is None
    assert stored > 10


@pytest.mark.parametrize("write", DERIVED)
def test_what_is_derived_takes_over_a_label_that_an_invalidation_has_half_stamped(host: Host, write: Do) -> None:
    for done in range(1, 4):
        record = put(host, b"old", things=EVERYTHING)
        marks, number = host.board.marks_of(HASH), host.process().numbers.next()
        for mark in marks[:done]:
            host.marks[mark] = number
        assert write(host.present, host) is Outcome.STORED
        derived = host.shelf.find(KEY, HASH, host.now)
        assert derived is not None
        assert but_writes(derived.label) == but_writes(record.label)
        for mark in marks[done:]:
            host.marks[mark] = number
        assert found(host) is None


def test_a_change_keeps_tags_and_begins_where_nothing_is(host: Host) -> None:
    assert host.shelf.change(KEY, HASH, lambda record: None, ROOT) == (Outcome.REFUSED, None)
    host.shelf.change(KEY, HASH, lambda record: (b"1", math.inf), (hashes.ROOT, TAG))
    host.shelf.change(
        KEY, HASH, lambda record: (bytes(record.payload) + b"1", 5.0 + host.now) if record else None, ROOT
    )
    record = host.shelf.find(KEY, HASH, host.now)
    assert record is not None
    assert (record.payload, record.expires) == (b"11", host.now + 5)
    host.board.invalidate((TAG,))
    assert found(host) is None


def test_a_change_is_a_use(host: Host) -> None:
    way = put(host, b"1").way
    for used in (1, 2, 3, 3):
        count_it(host.present, host)
        assert host.memory.used[way] == used


def test_a_change_whose_record_is_dropped_meanwhile_begins_again(host: Host) -> None:
    seen: list[Record | None] = []

    def decide(record: Record | None) -> tuple[bytes, float]:
        seen.append(record)
        evict(host)
        return bytes(record.payload) + b"1" if record else b"0", math.inf

    put(host, b"0")
    outcome, _ = host.shelf.change(KEY, HASH, decide, ROOT)
    assert outcome is Outcome.STORED
    assert [record and record.payload for record in seen] == [b"0", None]
    assert found(host) == b"0"


def test_a_change_whose_record_comes_and_goes_gives_up(host: Host) -> None:
    record = put(host, b"0")
    word, calls = host.memory.index[record.way], 0

    def decide(record: Record | None) -> tuple[bytes, float]:
        nonlocal calls
        calls += 1
        evict(host)
        if record is None:
            host.memory.index[way] = word
        return b"1", math.inf

    way = record.way
    assert host.shelf.change(KEY, HASH, decide, ROOT) == (Outcome.DECLINED, None)
    assert calls == ATTEMPTS


def test_a_fenced_set_needs_the_label_of_its_miss_and_nothing_current(host: Host) -> None:
    seen = miss(host, things=EVERYTHING)
    outcome, record = host.shelf.set_fenced(KEY, HASH, b"1", seen, math.inf)
    assert outcome is Outcome.STORED
    assert record is not None
    assert but_writes(record.label) == but_writes(seen.label)
    assert host.shelf.set_fenced(KEY, HASH, b"2", seen, math.inf)[0] is Outcome.REFUSED
    host.board.invalidate((HASH,))
    later = miss(host)
    assert host.shelf.fill(KEY, HASH, b"3", later, math.inf)[0] is Outcome.STORED
    assert host.shelf.set_fenced(KEY, HASH, b"4", later, math.inf)[0] is Outcome.REFUSED
    assert found(host) == b"3"
    host.board.invalidate((HASH,))
    assert host.shelf.set_fenced(KEY, HASH, b"5", later, math.inf)[0] is Outcome.REFUSED
    assert found(host) is None


def test_a_lock_that_is_not_to_be_had_makes_a_set_an_invalidation(host: Host) -> None:
    record, seen = put(host, b"1"), miss(host, b"other")
    host.holders[0] = "somebody else"

    def decide(record: Record | None) -> tuple[bytes, float]:
        raise AssertionError("nothing can be changed")

    assert host.shelf.add(KEY, HASH, b"2", ROOT, math.inf) == (Outcome.BUSY, None)
    assert host.shelf.replace(KEY, HASH, record.version, b"2", ROOT, math.inf, never) == (Outcome.BUSY, None)
    assert host.shelf.change(KEY, HASH, decide, ROOT) == (Outcome.BUSY, None)
    assert fill(host, b"2", seen) is Outcome.BUSY
    assert found(host) == b"1"
    assert host.shelf.set(KEY, HASH, b"2", ROOT, math.inf) == (Outcome.BUSY, None)
    assert found(host) is None


@pytest.mark.parametrize("why", ["busy", "declined"])
def test_a_fenced_set_that_is_not_possible_is_an_invalidation(host: Host, why: str) -> None:
    seen, bell = miss(host), host.board.bell[0]
    if why == "busy":
        host.holders[0] = "somebody else"
    payload = b"1" if why == "busy" else bytes(host.geometry.max_value + 1)
    assert host.shelf.set_fenced(KEY, HASH, payload, seen, math.inf)[0] is Outcome[why.upper()]
    assert not host.board.stands(seen.label)
    assert host.board.bell[0] != bell


def test_a_value_that_is_too_large_makes_a_set_an_invalidation(host: Host) -> None:
    put(host, b"1")
    large = bytes(host.geometry.max_value + 1)
    assert host.shelf.add(b"new", 1, large, ROOT, math.inf)[0] is Outcome.DECLINED
    assert host.shelf.change(KEY, HASH, lambda record: (large, math.inf), ROOT)[0] is Outcome.DECLINED
    assert found(host) == b"1"
    assert host.shelf.set(KEY, HASH, large, ROOT, math.inf)[0] is Outcome.DECLINED
    assert found(host) is None
    put(host, large[1:])
    assert found(host) == large[1:]


def test_a_value_that_depends_on_too_much_is_declined(host: Host) -> None:
    put(host, b"1")
    many = tuple(range(1, host.geometry.max_record // GROUP.size))
    assert host.shelf.set(KEY, HASH, b"2", (hashes.ROOT, *many), math.inf)[0] is Outcome.DECLINED
    assert found(host) is None


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_lock_is_given_back_after_an_error(host: Host, error: type[BaseException]) -> None:
    def decide(record: Record | None) -> tuple[bytes, float]:
        raise error

    with pytest.raises(error):
        host.shelf.change(KEY, HASH, decide, ROOT)
    assert not host.holders
    put(host, b"1")


def test_a_full_bucket_gives_up_what_was_found_least(host: Host) -> None:
    wires = keys_of_one_bucket(9, host.geometry)
    for number, wire in enumerate(wires[:8]):
        put(host, b"%d" % number, wire)
        if number != 3:
            found(host, wire)
    put(host, b"8", wires[8])
    assert [found(host, wire) is None for wire in wires] == [number == 3 for number in range(9)]
    assert host.shelf.entries() == 8


def test_a_record_whose_way_was_taken_does_not_come_back_by_older_loads(host: Host) -> None:
    wires = keys_of_one_bucket(9, host.geometry)
    seen = miss(host, wires[0])
    for wire in wires:
        put(host, b"new", wire)
    assert found(host, wires[0]) is None
    host.shelf.fill(wires[0], hashes.key_hash(wires[0]), b"older", seen, math.inf)
    assert found(host, wires[0]) is None


# --- Death


@pytest.mark.parametrize("write", OVER_A_VALUE)
@pytest.mark.parametrize("filled", [False, True])
def test_a_death_at_any_store_leaves_the_old_value_or_the_new_one(host: Host, write: Do, filled: bool) -> None:
    left = set()
    for after in itertools.count():
        if filled:
            host.board.invalidate((HASH,))
            fill(host, b"old", miss(host, things=EVERYTHING))
        else:
            put(host, b"old", things=EVERYTHING)
        before = host.shelf.find(KEY, HASH, host.now)
        died = host.dies(lambda: write(host.present, host), after)
        there = host.shelf.find(KEY, HASH, host.now)
        assert before is not None
        assert there is not None
        left.add((bytes(there.payload), there.expires))
        changed: list[Record | None] = []
        host.shelf.change(KEY, HASH, lambda record, changed=changed: changed.append(record), ROOT)
        assert changed == [there._replace(uses=0)], "who changes it finds the same"
        if not died:
            break
        put(host, b"later")
        assert not host.board.stands(before.label)
        assert not host.board.stands(there.label)
        assert found(host) == b"later"
    assert after > 8
    assert len(left) == 2


@pytest.mark.parametrize("write", [*OVER_NOTHING, fill_it])
def test_a_death_at_any_store_leaves_nothing_or_the_new_value(host: Host, write: Do) -> None:
    left = set()
    for after in itertools.count():
        host.board.invalidate((HASH,))
        seen = miss(host, things=EVERYTHING)
        died = host.dies(lambda: write(host.present, host), after)
        left.add(found(host))
        put(host, b"later")
        fill(host, b"older", seen)
        assert found(host) == b"later"
        if not died:
            break
    assert after > 4
    assert left == {None, b"new"}


@pytest.mark.parametrize("write", DERIVED)
def test_what_is_left_by_a_death_is_void_after_an_invalidation(host: Host, write: Do) -> None:
    for after in itertools.count():
        put(host, b"old", things=EVERYTHING)
        died = host.dies(lambda: write(host.present, host), after)
        host.board.invalidate((TAG,))
        assert found(host) is None
        if not died:
            break


# --- Locks that do not exclude


def test_two_writers_at_once_leave_what_is_whole_or_nothing(host: Host) -> None:
    """A lock can be given away twice, after exceptions of signal handlers. That may cost values, and nothing else."""
    payloads = [letter * size for letter, size in ((b"a", 300), (b"b", 700), (b"c", 100))]
    for at in itertools.count():
        put(host, payloads[0])
        other = host.process()
        other.locks.unlock = other.locks.lock = lambda ring: True  # type: ignore[method-assign, assignment]

        def others(other: Process = other) -> None:
            other.shelf.set(KEY, HASH, payloads[1], ROOT, math.inf)
            other.shelf.set(b"other", hashes.key_hash(b"other"), payloads[1], ROOT, math.inf)

        happened = host.overtaken(lambda: host.shelf.set(KEY, HASH, payloads[2], ROOT, math.inf), at, others)
        assert found(host) in (None, *payloads)
        assert found(host, b"other") in (None, payloads[1])
        for number in range(3):
            put(host, payloads[number])
            assert found(host) == payloads[number]
        if not happened:
            break


@pytest.mark.parametrize("write", [set_it, count_it])
def test_garbage_that_comes_back_declines_the_value(host: Host, write: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the lock as well may store his head over one that was just reset."""
    put(host, b"old")
    log = LINE + 3  # main's words: the tail, the head, the limit
    reset = Logs.reset

    def is_overtaken(logs: Logs, ring: int) -> None:
        last = host.memory.head[log + 1]
        reset(logs, ring)
        host.memory.head[log + 1] = last

    monkeypatch.setattr(Logs, "reset", is_overtaken)
    host.memory.head[log] = 8  # which is no place of a record
    assert write(host.present, host) is Outcome.DECLINED
    assert found(host) is None
    assert not host.holders
    monkeypatch.undo()
    put(host, b"new")
    assert found(host) == b"new"


# --- What the lease of the host lets readers have


@pytest.fixture
def leased() -> tuple[Host, WordLease]:
    """A host that has others, and is current for another second."""
    lease = WordLease(1001.0)
    return Host(1 << 20, lease=lease), lease


def loaded_at(host: Host) -> float:
    """Return when the record of the key was loaded, served or not."""
    record = host.shelf._peek(KEY, HASH)
    assert record is not None
    return record.loaded


@pytest.mark.parametrize("write", [set_it, add_it, begin_count], ids=lambda each: each.__name__)
def test_what_is_written_was_loaded_when_it_was_written(host: Host, write: Do) -> None:
    host.now += 0.25
    assert write(host.present, host) is Outcome.STORED
    assert loaded_at(host) == 1000.25


@pytest.mark.parametrize("write", [fill_it, set_after_a_miss], ids=lambda each: each.__name__)
def test_what_is_made_after_a_miss_was_loaded_when_its_miss_began(host: Host, write: Do) -> None:
    process = host.process()
    process.shelf._clock = lambda: host.now + 5  # of the write
    assert write(process, host) is Outcome.STORED
    assert loaded_at(host) == 1000.0


@pytest.mark.parametrize("write", [replace_it, count_it, touch_it], ids=lambda each: each.__name__)
def test_what_is_derived_was_loaded_when_that_was_of_which_it_is_made(host: Host, write: Do) -> None:
    put(host, b"old", things=EVERYTHING)
    host.now += 5
    assert write(host.present, host) is Outcome.STORED
    record = host.shelf.find(KEY, HASH, host.now)
    assert record is not None
    assert record.loaded == 1000.0


def test_what_is_stored_is_told_with_when_it_was_loaded(host: Host) -> None:
    assert put(host, b"set").loaded == 1000.0
    host.now += 1
    _, record = host.shelf.change(KEY, HASH, lambda record: (b"new", END), ROOT)
    assert record is not None
    assert record.loaded == 1000.0


def test_a_current_host_serves_all_and_one_that_is_behind_what_is_young(leased: tuple[Host, WordLease]) -> None:
    host, lease = leased
    seen = miss(host)
    assert fill(host, b"old", seen) is Outcome.STORED
    host.now = 1001.0
    put(host, b"young", b"other")
    assert (found(host), found(host, b"other")) == (b"old", b"young"), "both are young"
    host.now = seen.at + LEASE
    assert (found(host), found(host, b"other")) == (None, b"young")
    assert isinstance(host.shelf.look(KEY, HASH, ROOT, host.now), Miss)
    lease.publish(host.now + 1)
    assert (found(host), found(host, b"other")) == (b"old", b"young")
    lease.publish(0.0)
    host.now += 1
    put(host, b"just now", b"other")
    assert (found(host), found(host, b"other")) == (None, None), "it is not established"


def test_who_says_from_when_on_is_served_that(host: Host) -> None:
    put(host, b"set")
    for after, served in ((999.0, True), (1000.0, False), (math.inf, False)):
        assert (host.shelf.find(KEY, HASH, host.now, after) is not None) == served
        assert isinstance(host.shelf.look(KEY, HASH, ROOT, host.now, after), Record) == served
        assert (host.shelf.find_labelled(KEY, HASH, b"", host.now, after) is not None) == served


def test_the_lease_is_asked_before_the_label_is_compared() -> None:
    """1. A reader finds that the label stands. 2. Its host hears of an event, and is current. 3. The reader asks."""

    class Late(WordLease):
        def until(self, now: float) -> float:
            host.present.board.invalidate((HASH,))
            self.publish(host.now + 1)
            return super().until(now)

    host = Host(1 << 20, lease=Late(0.0))
    put(host, b"old")
    assert found(host) is None


@pytest.mark.parametrize("write", [fill_it, set_after_a_miss], ids=lambda each: each.__name__)
def test_what_may_not_be_served_is_replaced_by_what_is_loaded_instead(
    leased: tuple[Host, WordLease], write: Do
) -> None:
    host, _ = leased
    put(host, b"old")
    host.now += LEASE
    assert write(host.present, host) is Outcome.STORED
    assert found(host) == b"new"


def test_what_is_younger_stays_although_it_may_not_be_served(leased: tuple[Host, WordLease]) -> None:
    host, lease = leased
    lease.publish(0.0)
    early = miss(host)
    host.now += 1
    late = miss(host)
    assert fill(host, b"late", late) is Outcome.STORED
    assert fill(host, b"early", early) is Outcome.REFUSED
    assert host.shelf.set_fenced(KEY, HASH, b"early", early, END)[0] is Outcome.REFUSED
    host.now += 1
    assert fill(host, b"later", miss(host)) is Outcome.STORED
    assert found(host) is None


def test_a_counter_that_may_not_be_served_is_not_begun_anew(leased: tuple[Host, WordLease]) -> None:
    """Who counts looks first whether the host is current, and it may be behind a moment later."""
    host, _ = leased
    put(host, b"7")
    host.now += LEASE
    for write in (add_it, begin_count):
        assert write(host.present, host) is Outcome.REFUSED
    assert count_it(host.present, host) is Outcome.STORED
    assert found(host) is None
