"""Streams: nothing is applied out of turn or twice, and nothing is forgotten that must be remembered."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from colocache.core.group.messages import EVERYTHING, Event, decode
from colocache.core.group.stream import MAX_AHEAD, MAX_BULK, Announcer, EventLog, Reception, Remembered, TagVersions

A, B = b"a" * 16, b"b" * 16


def event(number: int) -> Event:
    return Event(A, number, (EVERYTHING,))


def numbers(events: Iterable[Event]) -> list[int]:
    return [each.number for each in events]


# --- How a stream is heard


def test_a_gap_holds_back_what_follows_until_it_is_closed() -> None:
    reception = Reception()
    assert numbers(reception.hear(event(1))) == [1]
    assert reception.hear(event(3)) == reception.hear(event(4)) == []
    assert (reception.applied, reception.known, reception.behind) == (1, 4, True)
    assert numbers(reception.hear(event(2))) == [2, 3, 4]
    assert not reception.behind


def test_a_reset_applies_what_came_early_and_lies_beyond_it() -> None:
    reception = Reception()
    for number in (3, 5, 6, 8):
        reception.hear(event(number))
    assert numbers(reception.reset(4)) == [5, 6]
    assert (reception.applied, reception.known) == (6, 8)
    assert reception.reset(2) == []
    assert reception.applied == 6
    assert reception.hear(event(3)) == []


def test_a_pong_can_tell_of_events_that_nobody_heard() -> None:
    reception = Reception()
    reception.known = 2
    assert reception.behind
    assert numbers([*reception.hear(event(1)), *reception.hear(event(2))]) == [1, 2]
    assert not reception.behind


def test_of_what_comes_early_a_bounded_number_is_kept_and_the_rest_can_come_again() -> None:
    reception = Reception()
    for number in range(2, 2 * MAX_AHEAD):
        assert reception.hear(event(number)) == []
    assert len(reception._ahead) == MAX_AHEAD
    assert numbers(reception.hear(event(1))) == list(range(1, MAX_AHEAD + 2))
    assert reception.behind
    replayed = [each for number in range(1, 2 * MAX_AHEAD) for each in reception.hear(event(number))]
    assert numbers(replayed) == list(range(MAX_AHEAD + 2, 2 * MAX_AHEAD))
    assert not reception.behind
    assert not reception._ahead


# --- The log of a stream


def test_the_log_of_a_silent_stream_ages() -> None:
    log = EventLog(10, 60.0)
    log.append(b"1", 100.0)
    log.append(b"2", 130.0)
    log.prune(160.0)
    assert log.since(1) == [b"1", b"2"]
    log.prune(160.001)
    assert (log.since(1), log.since(2), log.last) == (None, [b"2"], 2)
    log.prune(1000.0)
    assert (log.since(2), log.since(3), log.last) == (None, [], 2)


# --- Announcing


class Notebook:
    """A journal that notes what others could know at the version when it is written to."""

    def __init__(self) -> None:
        self.announcer: Announcer | None = None
        self.entries: list[tuple[int, bytes]] = []
        self.known: list[tuple[int, int]] = []
        self.full = False

    def append(self, number: int, frame: bytes) -> None:
        assert self.announcer is not None
        if self.full:
            raise OSError("no space left")
        self.known.append((self.announcer.last, len(self.announcer.log)))
        self.entries.append((number, frame))


@pytest.fixture
def notebook() -> Notebook:
    notebook = Notebook()
    notebook.announcer = Announcer(A, EventLog(10, 60.0), notebook)
    return notebook


def test_an_event_is_in_the_journal_before_a_pong_could_tell_of_it(notebook: Notebook) -> None:
    announcer = notebook.announcer
    assert announcer is not None
    assert announcer.last == 0
    announced = [announcer.announce((b"k\0sa", target), 1.0) for target in (b"tred", EVERYTHING)]
    assert notebook.entries == announced
    assert notebook.known == [(0, 0), (1, 1)]
    assert [decode(frame) for _, frame in announced] == [
        Event(A, 1, (b"k\0sa", b"tred")),
        Event(A, 2, (b"k\0sa", EVERYTHING)),
    ]
    assert announcer.log.since(1) == [frame for _, frame in announced]
    assert announcer.last == 2


def test_what_cannot_be_journalled_is_not_announced_and_takes_no_number(notebook: Notebook) -> None:
    announcer = notebook.announcer
    assert announcer is not None
    announcer.announce((EVERYTHING,), 1.0)
    notebook.full = True
    with pytest.raises(OSError, match="no space left"):
        announcer.announce((EVERYTHING,), 2.0)
    assert (announcer.last, len(announcer.log)) == (1, 1)
    notebook.full = False
    assert announcer.announce((EVERYTHING,), 3.0)[0] == 2


# --- What a request must name


KEEP = 4.0


def test_an_event_is_remembered_for_its_time_however_the_generations_fall() -> None:
    for begin in (0.0, 0.1, 3.9, 4.0, 4.1, 7.9):
        remembered = Remembered(KEEP)
        remembered.turn(0.0)
        remembered.turn(begin)
        remembered.key(b"k1", A, 7, 1)
        remembered.bulk(B, 8, 2)
        for tenth in range(41):
            remembered.turn(begin + tenth / 10)
            assert remembered.dependencies((b"k1",)) == {A: 7, B: 8}
            assert remembered.invalidated_since(b"k1", 0)
        for tenth in range(41, 82):
            remembered.turn(begin + tenth / 10)
        assert remembered.dependencies((b"k1",)) == {}
        assert len(remembered) == 0


def test_a_key_depends_on_its_own_events_and_on_bulk_ones() -> None:
    remembered = Remembered(KEEP)
    remembered.key(b"k1", A, 5, 1)
    remembered.key(b"k1", A, 3, 2)  # of an earlier number, heard later: a set that this member was told of
    remembered.key(b"k2", B, 9, 3)
    assert remembered.dependencies((b"k1",)) == {A: 5}
    assert remembered.dependencies((b"k1", b"k2", b"k3")) == {A: 5, B: 9}
    assert remembered.dependencies((b"k3",)) == remembered.dependencies(()) == {}
    remembered.bulk(A, 4, 4)
    assert remembered.dependencies((b"k1",)) == {A: 5}
    assert remembered.dependencies(()) == {A: 4}


def test_a_reset_to_nothing_is_a_dependency_like_any_other() -> None:
    remembered = Remembered(KEEP)
    remembered.bulk(A, 0, 1)
    assert remembered.dependencies((b"k1",)) == {A: 0}


def test_a_generation_that_is_full_becomes_bulk_and_names_no_less() -> None:
    remembered = Remembered(KEEP, limit=3)
    for number in range(1, 4):
        remembered.key(b"k%d" % number, A, number, number)
    assert remembered.dependencies((b"other",)) == {}
    assert not remembered.invalidated_since(b"other", 0)
    remembered.key(b"k3", B, 7, 4)  # a key that is in it already needs no room
    assert len(remembered) == 3
    remembered.key(b"k4", A, 5, 5)
    assert len(remembered) == 1
    assert remembered.dependencies((b"k1",)) == remembered.dependencies((b"other",)) == {A: 3, B: 7}
    assert remembered.dependencies((b"k4",)) == {A: 5, B: 7}
    assert remembered.invalidated_since(b"other", 3)
    assert not remembered.invalidated_since(b"other", 4)
    assert remembered.invalidated_since(b"k4", 4)


def test_what_overflowed_is_kept_for_as_long_as_what_did_not() -> None:
    remembered = Remembered(KEEP, limit=1)
    remembered.turn(0.0)
    remembered.key(b"k1", A, 1, 1)
    remembered.key(b"k2", A, 2, 2)
    remembered.turn(KEEP)
    assert remembered.dependencies((b"k1",)) == {A: 1}
    remembered.turn(2 * KEEP)
    assert remembered.dependencies((b"k1", b"k2")) == {}


# --- When tags were invalidated


def test_tags_that_overflow_count_as_invalidated_until_then() -> None:
    versions = TagVersions(KEEP, limit=2)
    versions.invalidate("red", 1)
    versions.invalidate("green", 2)
    versions.invalidate("red", 3)  # known already: needs no room
    assert not versions.invalidated_since(("blue",), 0)
    versions.invalidate("blue", 4)
    for tag in ("red", "green", "blue", "never invalidated"):
        assert versions.invalidated_since((tag,), 3)
        assert not versions.invalidated_since((tag,), 4)
    assert not versions.invalidated_since((), 0)


def test_invalidations_of_tags_are_forgotten_in_time() -> None:
    versions = TagVersions(KEEP)
    versions.turn(0.0)
    versions.invalidate("red", 1)
    for now in (3.9, 4.0, 7.9):
        versions.turn(now)
        assert versions.invalidated_since(("red",), 0)
    versions.turn(8.0)
    assert not versions.invalidated_since(("red",), 0)
    assert not versions._young
    assert not versions._old


def test_where_more_streams_are_to_be_named_than_can_be_nobody_is_asked_until_they_are_forgotten() -> None:
    remembered = Remembered(6.0)
    for n in range(MAX_BULK):
        remembered.bulk(n.to_bytes(16, "big"), 1, n)
    assert remembered.dependencies((b"k",)) is not None
    remembered.turn(0.0)
    for n in range(MAX_BULK, 3 * MAX_BULK):
        remembered.bulk(n.to_bytes(16, "big"), 1, n)
    assert remembered.dependencies((b"k",)) is None
    assert remembered.invalidated_since(b"k", 3 * MAX_BULK - 2)
    remembered.turn(6.0)
    assert remembered.dependencies((b"k",)) is None
    remembered.turn(12.0)
    assert remembered.dependencies((b"k",)) == {}
