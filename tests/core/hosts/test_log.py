"""The log of a host: what is appended is there at once and whole, and who is killed, stopped or slow breaks nothing."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

import pytest

from colocache.core.hosts import layout
from colocache.core.hosts.event import KEYS, MAX_HASHES, NAMESPACES, TAGS, WRITES, Event, Position
from colocache.core.hosts.layout import LANES, SLOTS
from colocache.core.hosts.log import MAX_CHUNKS, HostLog, NoLane
from tests.core.host.shelves import Death, Locks, StepFences, Steps, StepWords
from tests.interrupts import at_every_point

A, B, C = (Event(KEYS, (number, number << 32, (1 << 64) - number)) for number in (1, 2, 3))


class Process:
    """One process of a host, with its own view of the log."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.steps = Steps()
        self.locks = Locks(host.holders)
        words = StepWords("word", host.words, self.steps)
        self.log = HostLog(words, self.locks, StepFences(self.steps), host.grow)

    def dies_after(self, stores: int, work: Callable[[], object]) -> bool:
        """Have it die after so many stores; return whether it came to that."""
        self.steps.stores_left = stores
        try:
            work()
        except Death:
            self.locks.free_all()
            return True
        return False


class Host:
    """The memory and the locks of a host's log."""

    def __init__(self) -> None:
        self.words = array("Q", bytes(8 * layout.ROWS_AT))
        self.holders: dict[int, object] = {}
        self.grown: list[int] = []
        self.has_room = True

    def grow(self, lane: int) -> bool:
        self.grown.append(lane)
        return self.has_room

    def hold(self, *lanes: int) -> None:
        """Have a stopped process hold the locks of lanes."""
        self.holders.update(dict.fromkeys(lanes, "stopped"))


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def log(host: Host) -> HostLog:
    return Process(host).log


def events(log: HostLog, lane: int = 0) -> list[Event | None]:
    return [log.read(lane, number) for number in range(1, log.last(lane) + 1)]


# What is appended


def test_numbers_begin_at_one_and_have_no_gaps_whoever_appends(host: Host, log: HostLog) -> None:
    other = Process(host).log
    assert log.lasts() == {}
    assert [log.append(A), other.append(B), log.append(C)] == [Position(0, 1), Position(0, 2), Position(0, 3)]
    assert other.lasts() == {0: 3}
    assert events(other) == [A, B, C]


@pytest.mark.parametrize("kind", [KEYS, TAGS, NAMESPACES, WRITES])
@pytest.mark.parametrize("related", [False, True])
@pytest.mark.parametrize("count", [1, 2, MAX_HASHES])
def test_an_event_is_read_as_it_was_appended(log: HostLog, kind: int, related: bool, count: int) -> None:
    event = Event(kind, tuple((1 << 64) - number for number in range(1, count + 1)), related)
    assert log.read(*log.append(event)) == event


@pytest.mark.parametrize(
    "event", [Event(0, (1,)), Event(5, (1,)), Event(KEYS, ()), Event(KEYS, (1,) * (MAX_HASHES + 1))]
)
def test_what_cannot_be_an_event_is_refused(log: HostLog, event: Event) -> None:
    with pytest.raises(ValueError, match="an event has a kind, and from 1 to 13 hashes"):
        log.append(event)
    assert log.lasts() == {}


def test_a_longer_event_leaves_nothing_in_the_slot_of_a_shorter_one(host: Host, log: HostLog) -> None:
    log.append(Event(KEYS, tuple(range(1, MAX_HASHES + 1)), related=True), stamped=True)
    host.words[layout.lane_last(0)] = SLOTS
    position = log.append(Event(TAGS, (7,)))
    assert position == (0, SLOTS + 1)
    assert log.read(*position) == Event(TAGS, (7,))
    assert not log.is_stamped(*position)


def test_what_was_overwritten_is_not_read(host: Host, log: HostLog) -> None:
    first = [log.append(A), log.append(B)]
    host.words[layout.lane_last(0)] = SLOTS
    assert [log.read(*position) for position in first] == [A, B]  # the next event takes the slot of the first one
    log.append(C)
    assert [log.read(*position) for position in first] == [None, B]


@pytest.mark.parametrize(
    ("lane", "number"),
    [(0, 0), (0, -1), (0, 2), (0, SLOTS + 1), (0, 1 << 64), (1, 1), (LANES, 1), (-1, 1), (1 << 40, 1)],
)  # fmt: skip
def test_what_never_was_is_not_read(log: HostLog, lane: int, number: int) -> None:
    log.append(A)
    assert log.read(lane, number) is None
    assert not log.is_stamped(lane, number)


def test_garbage_is_no_event_and_raises_nothing(host: Host, log: HostLog) -> None:
    for _ in range(4):
        log.append(A)
    dice, seen = random.Random(7), set()
    slot = layout.slot_of(0, 2)
    for _ in range(2000):
        for place in range(slot, slot + layout.SLOT_WORDS):
            host.words[place] = dice.getrandbits(64)
        if dice.random() < 0.9:
            host.words[slot] = 2
            host.words[slot + 1] = dice.choice([dice.getrandbits(17), dice.getrandbits(40)])
        event = log.read(0, 2)
        seen.add(event is None)
        if event is not None:
            assert event.kind in (KEYS, TAGS, NAMESPACES, WRITES)
            assert 0 < len(event.hashes) <= MAX_HASHES
        log.is_stamped(0, 2)
    assert seen == {True, False}


# What one call invalidates


@pytest.mark.parametrize("related", [False, True])
def test_a_call_with_few_hashes_is_one_event(log: HostLog, related: bool) -> None:
    hashes = list(range(MAX_HASHES))
    assert log.append_all(KEYS, hashes, related) == (0, 1)
    assert events(log) == [Event(KEYS, tuple(hashes), related)]


@pytest.mark.parametrize("count", [MAX_HASHES + 1, 2 * MAX_HASHES, 3 * MAX_HASHES - 1])
def test_a_call_with_many_hashes_is_several_events_which_come_twice(log: HostLog, count: int) -> None:
    log.append(A)
    position = log.append_all(NAMESPACES, list(range(count)), related=True)
    found = events(log)
    assert position == (0, len(found))
    half = (len(found) - 1) // 2
    assert found[0] == A
    assert found[1 : 1 + half] == found[1 + half :]
    assert sum([event.hashes for event in found[1 : 1 + half] if event], ()) == tuple(range(count))
    assert {event.kind for event in found[1:] if event} == {NAMESPACES}


def test_of_a_call_all_is_there_or_nothing(host: Host) -> None:
    hashes, reader = list(range(2 * MAX_HASHES)), Process(host).log
    stores = 0
    while (writer := Process(host)).dies_after(stores, lambda: writer.log.append_all(KEYS, hashes, related=True)):
        assert reader.lasts() == {}
        stores += 1
    assert reader.lasts() == {0: 4}
    assert stores == 1 + 4 * (3 + MAX_HASHES)  # the memory of the lane, the slots, and `last`, which is the last


def test_a_call_with_very_many_hashes_invalidates_everything(log: HostLog) -> None:
    most = MAX_CHUNKS * MAX_HASHES
    assert log.append_all(KEYS, range(most), related=True) == (0, 2 * MAX_CHUNKS)
    position = log.append_all(KEYS, range(most + 1), related=True)
    assert position == (0, 2 * MAX_CHUNKS + 1)
    assert log.read(*position) == Event(NAMESPACES, (0,), related=True)


# Deaths, and signals


def test_who_is_killed_leaves_nothing_and_the_next_one_takes_the_number(host: Host) -> None:
    log = Process(host).log
    log.append(A)
    stores = 0
    while (writer := Process(host)).dies_after(stores, lambda: writer.log.append(B, stamped=True)):
        assert log.lasts() == {0: 1 + stores}
        assert log.read(0, 2 + stores) is None
        assert not log.is_stamped(0, 2 + stores)
        assert log.append(C) == (0, 2 + stores)
        assert not log.is_stamped(0, 2 + stores)
        stores += 1
    assert events(log) == [A, *[C] * stores, B]
    assert stores == 4 + len(B.hashes)  # the number, the shape, the mark, the hashes, and `last`


def test_what_a_signal_handler_raises_leaves_no_lock_and_no_half_event(host: Host) -> None:
    expected: list[Event | None] = []
    log = Process(host).log

    def work() -> None:
        log.append(A)
        log.append_all(KEYS, range(2 * MAX_HASHES), related=True)

    for _ in at_every_point(work):
        assert host.holders == {}
        assert log.append(B) == (0, log.last(0))
        found = events(log)[len(expected) :]
        chunks = [Event(KEYS, tuple(range(MAX_HASHES))), Event(KEYS, tuple(range(MAX_HASHES, 2 * MAX_HASHES)))] * 2
        assert found in ([B], [A, B], [A, *chunks, B])
        expected += found
    assert len(expected) > 50


# Lanes


def test_a_lane_gets_its_memory_before_it_is_used_first(host: Host, log: HostLog) -> None:
    log.append(A)
    assert host.grown == [0]
    Process(host).log.append(B)
    assert host.grown == [0]


def test_where_a_lane_is_held_another_one_is_used_and_stays_so(host: Host, log: HostLog) -> None:
    log.append(A)
    host.hold(0)
    assert log.append(B) == (1, 1)
    assert host.grown == [0, 1]
    del host.holders[0]
    assert log.append(C) == (1, 2)  # without waiting for the first one again
    assert Process(host).log.append(A) == (0, 2)
    host.hold(1)
    assert log.append(A) == (2, 1)
    assert log.lasts() == {0: 2, 1: 2, 2: 1}


def test_where_all_lanes_are_held_nothing_is_appended(host: Host, log: HostLog) -> None:
    log.append(A)
    host.hold(*range(LANES))
    with pytest.raises(NoLane):
        log.append(B)
    with pytest.raises(NoLane):
        log.append_all(KEYS, range(100), related=True)
    assert log.lasts() == {0: 1}
    del host.holders[5]
    assert log.append(B) == (5, 1)


def test_where_there_is_no_room_open_lanes_are_used_and_no_others(host: Host, log: HostLog) -> None:
    host.has_room = False
    with pytest.raises(NoLane):
        log.append(A)
    assert host.holders == {}
    assert host.grown == list(range(LANES))
    host.has_room = True
    assert log.append(A) == (0, 1)
    host.has_room = False
    host.hold(0)
    with pytest.raises(NoLane):
        log.append(A)
    del host.holders[0]
    assert log.append(B) == (0, 2)


def test_who_died_while_a_lane_was_opened_left_it_for_the_next_one(host: Host) -> None:
    process = Process(host)
    assert process.dies_after(0, lambda: process.log.append(A))
    assert Process(host).log.append(B) == (0, 1)
    assert host.grown == [0, 0]


# Marks


def test_an_event_is_stamped_once_that_is_said(log: HostLog) -> None:
    first, second = log.append(A), log.append(B)
    assert list(log.unstamped(0, 1)) == [1, 2]
    log.mark_stamped(second)
    assert list(log.unstamped(0, 1)) == [1]
    assert log.is_stamped(*second)
    log.mark_stamped(first)
    assert list(log.unstamped(0, 1)) == []
    assert log.append(C, stamped=True) == (0, 3)
    assert list(log.unstamped(0, 1)) == []


def test_one_mark_is_for_all_events_of_a_call(log: HostLog) -> None:
    log.append(A)
    position = log.append_all(KEYS, range(3 * MAX_HASHES), related=True)
    log.append(B)
    assert list(log.unstamped(0, 1)) == list(range(1, 9))
    log.mark_stamped(position)
    assert list(log.unstamped(0, 1)) == [1, 8]
    assert list(log.unstamped(0, 2)) == [8]


def test_a_mark_that_comes_late_marks_no_other_event(host: Host, log: HostLog) -> None:
    late = log.append(A)
    host.words[layout.lane_last(0)] = SLOTS
    position = log.append(B)
    log.mark_stamped(late)
    assert not log.is_stamped(*late)
    assert not log.is_stamped(*position)


def test_what_was_overwritten_counts_as_not_stamped(host: Host, log: HostLog) -> None:
    log.append(A, stamped=True)
    host.words[layout.lane_last(0)] = SLOTS
    log.append(B, stamped=True)
    assert not log.is_stamped(0, 1)
    assert next(log.unstamped(0, 1)) == 1


# In between


def test_a_reader_who_is_overtaken_at_any_step_reads_the_event_or_nothing() -> None:
    outcomes = []
    for step in range(12):
        host = Host()
        reader, writer = Process(host), Process(host)
        writer.log.append(A)
        host.words[layout.lane_last(0)] = SLOTS
        reader.steps.steps_left, reader.steps.others = step, lambda log=writer.log: log.append(B)
        outcomes.append(reader.log.read(0, 1))
    assert set(outcomes) == {A, None}


def test_a_reader_beside_who_is_killed_and_who_takes_his_number_reads_what_stays() -> None:
    for step in range(12):
        for stores in range(1, 7):
            host = Host()
            reader, killed, writer = Process(host), Process(host), Process(host)
            killed.dies_after(stores, lambda log=killed.log: log.append(A))
            reader.steps.steps_left, reader.steps.others = step, lambda log=writer.log: log.append(B)
            assert reader.log.read(0, 1) in (None, B)
