"""Streams: nothing is applied out of turn or twice, and nothing is forgotten that must be remembered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core.messages import EVERYTHING, Event, decode
from colocache.core.stream import MAX_AHEAD, Announcer, Log, Reception, Remembered, TagMoments

A, B = b"a" * 16, b"b" * 16
quick = settings(derandomize=True, deadline=None, max_examples=300)


def event(number: int) -> Event:
    return Event(A, number, (EVERYTHING,))


def numbers(events: Iterable[Event]) -> list[int]:
    return [each.number for each in events]


# --- How a stream is heard


class Heard:
    """The model: all numbers ever heard, and the greatest reset."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self.floor = 0
        self.known = 0

    def applied(self) -> int:
        applied = self.floor
        while applied + 1 in self.numbers:
            applied += 1
        return applied


heard_or_reset = st.tuples(st.sampled_from(("hear", "hear", "hear", "hear", "reset")), st.integers(1, 30))


@given(st.lists(heard_or_reset, max_size=60))
@quick
def test_events_are_applied_in_turn_and_once_whatever_comes_in_whatever_order(steps: list[tuple[str, int]]) -> None:
    reception, model = Reception(), Heard()
    for what, number in steps:
        before = model.applied()
        model.known = max(model.known, number)
        if what == "hear":
            model.numbers.add(number)
            ready = reception.hear(event(number))
            assert numbers(ready) == list(range(before + 1, model.applied() + 1))
        else:
            model.floor = max(before, number)
            ready = reception.reset(number)
            assert numbers(ready) == list(range(max(before, number) + 1, model.applied() + 1))
        assert (reception.applied, reception.known) == (model.applied(), model.known)
        assert reception.behind is (model.known > model.applied())
        assert all(number > reception.applied + 1 for number in reception._ahead), "what was applied takes no room"


@given(st.permutations(range(1, 31)))
@quick
def test_any_order_comes_out_as_one(order: list[int]) -> None:
    reception = Reception()
    ready = [each for number in order for each in reception.hear(event(number))]
    assert numbers(ready) == list(range(1, 31))
    assert not reception.behind


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


@given(
    st.integers(1, 6), st.sampled_from((0.0, 1.0, 5.0)),
    st.lists(st.tuples(st.booleans(), st.sampled_from((0.0, 0.5, 1.0, 4.0))), max_size=30),
)  # fmt: skip
@quick
def test_a_log_gives_all_from_a_number_on_or_nothing(limit: int, keep: float, steps: list[tuple[bool, float]]) -> None:
    log, now = Log(limit, keep), 0.0
    appended: list[float] = []
    for append, seconds in steps:
        now += seconds
        if append:
            appended.append(now)
            log.append(b"%d" % len(appended), now)
        else:
            log.prune(now)
        kept = [n for n, at in enumerate(appended, 1) if at >= now - keep and n > len(appended) - limit]
        assert log.last == len(appended)
        assert len(log) == len(kept) <= limit
        for first in range(-1, log.last + 3):
            reaches = all(number in kept for number in range(first, log.last + 1)) and first > 0
            assert log.since(first) == ([b"%d" % n for n in range(first, log.last + 1)] if reaches else None)


def test_the_log_of_a_silent_stream_ages() -> None:
    log = Log(10, 60.0)
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
    """A journal that notes what others could know at the moment when it is written to."""

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
    notebook.announcer = Announcer(A, Log(10, 60.0), notebook)
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


class Past(NamedTuple):
    """One event that a model remembers for ever."""

    at: float
    wire: bytes  # b"" is bulk
    stream: bytes
    number: int
    moment: int


KEEP = 4.0
STEPS = (0.0, 0.5, 1.0, 2.0)  # seconds between two turns
WIRES = (b"k1", b"k2", b"k3", b"k4")

hits = st.lists(
    st.tuples(st.sampled_from((*WIRES, *WIRES, b"")), st.sampled_from((A, B)), st.sampled_from(STEPS)), max_size=40
)


def highest(events: Iterable[Past]) -> dict[bytes, int]:
    positions: dict[bytes, int] = {}
    for each in events:
        positions[each.stream] = max(each.number, positions.get(each.stream, 0))
    return positions


@pytest.mark.parametrize("limit", [100, 1, 2], ids=["roomy", "of one key", "of two keys"])
def test_events_are_dependencies_for_as_long_as_they_must_and_not_for_ever(limit: int) -> None:
    @given(hits, st.integers(0, 3))
    @quick
    def remembers(steps: list[tuple[bytes, bytes, float]], silence: int) -> None:
        remembered, now = Remembered(KEEP, limit), 100.0
        past: list[Past] = []
        for moment, (wire, stream, seconds) in enumerate((*steps, *[(WIRES[0], A, KEEP + 1)] * silence), 1):
            now += seconds
            remembered.turn(now)
            past.append(Past(now, wire, stream, moment, moment))
            if wire:
                remembered.key(wire, stream, moment, moment)
            else:
                remembered.bulk(stream, moment, moment)
            assert len(remembered) <= 2 * limit
            check(remembered, past, now)

    def check(remembered: Remembered, past: list[Past], now: float) -> None:
        overflows = limit < len(WIRES)  # keys may then count as bulk, which is safe
        for wires in (WIRES[:1], WIRES[1:3], ()):
            must = highest(e for e in past if e.wire in (*wires, b"") and e.at > now - KEEP)
            may = highest(e for e in past if overflows or e.wire in (*wires, b""))
            named = remembered.dependencies(wires)
            assert all(named.get(stream, 0) >= number for stream, number in must.items())
            assert all(number <= may[stream] for stream, number in named.items())
            oldest = min((e.at for e in past if (e.stream, e.number) in named.items()), default=now)
            assert oldest >= now - 2 * (KEEP + KEEP + 1), "forgotten in time"
        for wire in WIRES:
            for moment in range(max(0, len(past) - 6), len(past) + 1):
                after = [e for e in past if e.moment > moment]
                hit = [e for e in after if e.wire in (wire, b"")]
                if any(e.at > now - KEEP for e in hit):
                    assert remembered.hit_since(wire, moment)
                if not (after if overflows else hit):
                    assert not remembered.hit_since(wire, moment)

    remembers()


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
            assert remembered.hit_since(b"k1", 0)
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
    assert not remembered.hit_since(b"other", 0)
    remembered.key(b"k3", B, 7, 4)  # a key that is in it already needs no room
    assert len(remembered) == 3
    remembered.key(b"k4", A, 5, 5)
    assert len(remembered) == 1
    assert remembered.dependencies((b"k1",)) == remembered.dependencies((b"other",)) == {A: 3, B: 7}
    assert remembered.dependencies((b"k4",)) == {A: 5, B: 7}
    assert remembered.hit_since(b"other", 3)
    assert not remembered.hit_since(b"other", 4)
    assert remembered.hit_since(b"k4", 4)


def test_what_overflowed_is_kept_for_as_long_as_what_did_not() -> None:
    remembered = Remembered(KEEP, limit=1)
    remembered.turn(0.0)
    remembered.key(b"k1", A, 1, 1)
    remembered.key(b"k2", A, 2, 2)
    remembered.turn(KEEP)
    assert remembered.dependencies((b"k1",)) == {A: 1}
    remembered.turn(2 * KEEP)
    assert remembered.dependencies((b"k1", b"k2")) == {}


# --- When tags were hit

TAGS = ("red", "green", "blue", "grey")
tag_hits = st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(STEPS)), max_size=40)


@pytest.mark.parametrize("limit", [100, 1, 2], ids=["roomy", "of one tag", "of two tags"])
def test_a_tags_hits_are_known_for_as_long_as_they_must(limit: int) -> None:
    @given(tag_hits)
    @quick
    def knows(steps: list[tuple[str, float]]) -> None:
        moments, now = TagMoments(KEEP, limit), 100.0
        past: list[tuple[float, str, int]] = []
        for moment, (tag, seconds) in enumerate(steps, 1):
            now += seconds
            moments.turn(now)
            moments.hit(tag, moment)
            past.append((now, tag, moment))
            assert len(moments._young) + len(moments._old) <= 2 * limit
            for since in range(max(0, moment - 6), moment + 1):
                for tags in (TAGS[:1], TAGS[1:3], ()):
                    hit = [at for at, tag, when in past if tag in tags and when > since]
                    if any(at > now - KEEP for at in hit):
                        assert moments.hit_since(tags, since)
                    if not tags or (not hit if limit >= len(TAGS) else since == moment):
                        assert not moments.hit_since(tags, since)

    knows()


def test_tags_that_overflow_count_as_hit_until_then() -> None:
    moments = TagMoments(KEEP, limit=2)
    moments.hit("red", 1)
    moments.hit("green", 2)
    moments.hit("red", 3)  # known already: needs no room
    assert not moments.hit_since(("blue",), 0)
    moments.hit("blue", 4)
    for tag in ("red", "green", "blue", "never hit"):
        assert moments.hit_since((tag,), 3)
        assert not moments.hit_since((tag,), 4)
    assert not moments.hit_since((), 0)


def test_hits_of_tags_are_forgotten_in_time() -> None:
    moments = TagMoments(KEEP)
    moments.turn(0.0)
    moments.hit("red", 1)
    for now in (3.9, 4.0, 7.9):
        moments.turn(now)
        assert moments.hit_since(("red",), 0)
    moments.turn(8.0)
    assert not moments.hit_since(("red",), 0)
    assert not moments._young
    assert not moments._old
