"""Peeks and sets: every call gets its outcome, and nothing is kept that an event has overtaken."""

from __future__ import annotations

import math
from typing import Any

import pytest

from colocache.core.entry import DEAD, Entry
from colocache.core.group.announcements import Receipt
from colocache.core.group.messages import (
    MAX_TARGETS,
    NO_NUMBER,
    Found,
    Peek,
    Record,
    Set,
    Settled,
    Stored,
    key_target,
    pack_record,
)
from colocache.core.group.requests import Requests, Seen, Written
from colocache.core.timers import Timers
from tests.core.group.fakes import KEY, KEY2, ME, OTHER, OWNER, FakeHost

FETCH_TIMEOUT, SETTLE_TIMEOUT = 0.25, 9.0


class Desk(Requests):
    """A `Requests` with its host, its timers and its clock."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.timers = Timers()
        super().__init__(self.host, FETCH_TIMEOUT, SETTLE_TIMEOUT, self.timers)

    @property
    def now(self) -> float:
        return self.host.now

    def pass_time(self, seconds: float) -> None:
        """Let timers run."""
        self.host.now += seconds
        self.timers.run(self.now)

    def look(self, *keys: bytes, known: dict[bytes, Entry] | None = None) -> list[Any]:
        """Begin a peek with ticket 1; return the requests."""
        self.peek(1, known or {}, keys, self.now)
        return self.host.take()

    def answer(self, peek: Peek, *records: tuple[int, bytes], current: bool = True, more: bool = False,
               tags: tuple[str, ...] = (), sender: bytes = OWNER) -> None:  # fmt: skip
        """Have an owner's answer arrive."""
        blobs = tuple(pack_record(Record(place, payload, 1.5, 10.0, tags)) for place, payload in records)
        self.found(Found(sender, ME, peek.id, current, more, blobs), self.now)

    def seen(self) -> dict[bytes, bytes | None]:
        """Return what the one call that returned has seen."""
        ((ticket, outcome),) = self.host.outcomes()
        assert ticket == 1
        assert isinstance(outcome, Seen)
        return {key: entry.payload for key, entry in outcome.entries.items()}

    def write(self, settle: bool = False) -> Set | None:
        """Begin a set with ticket 1; return the request."""
        self.set(1, KEY, b"1", 300.0, ("t",), settle, self.now)
        requests = self.host.take()
        return requests[0] if requests else None


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- Peeks


def test_peek_asks_each_owner_once_and_returns_what_they_have(desk: Desk) -> None:
    desk.host.positions = b"x" * 24
    (peek,) = desk.look(KEY, KEY2, known={b"\0k0": Entry(b"\0k0", b"0", 0.0, 0.0, ())})
    assert peek == Peek(ME, OWNER, peek.id, FETCH_TIMEOUT, b"x" * 24, (KEY, KEY2))
    desk.pass_time(0.1)
    desk.answer(peek, (1, b"2"))
    assert desk.seen() == {b"\0k0": b"0", KEY2: b"2"}
    entry = desk.host.kept[KEY2]
    assert (entry.loaded_at, entry.expires) == (100.0 - 1.5, 100.0 + 10.0), "both counted from the request"
    assert len(desk) == 0


def test_peek_at_nothing_or_at_own_keys_or_at_a_silent_owner_returns_at_once(desk: Desk) -> None:
    for owner in (ME, None):
        desk.host.owner = owner
        assert desk.look(KEY) == []
        assert desk.seen() == {}
    assert desk.look() == []
    assert desk.seen() == {}


def test_peek_at_many_keys_is_split(desk: Desk) -> None:
    keys = [KEY + n.to_bytes(2, "big") for n in range(MAX_TARGETS + 1)]
    first, second = desk.look(*keys)
    assert (len(first.keys), second.keys) == (MAX_TARGETS, (keys[-1],))
    desk.answer(second, (0, b"9"))
    assert desk.host.settled == []
    desk.answer(first, (0, b"1"), more=True)
    desk.answer(first, (1, b"2"))
    assert desk.seen() == {keys[-1]: b"9", keys[0]: b"1", keys[1]: b"2"}


def test_an_owner_that_sends_much_is_not_given_up_while_it_sends(desk: Desk) -> None:
    (peek,) = desk.look(KEY, KEY2)
    for number in range(4):
        desk.pass_time(FETCH_TIMEOUT * 0.9)
        assert desk.host.passed_over == []
        desk.answer(peek, (number % 2, b"x"), more=True)
    desk.pass_time(FETCH_TIMEOUT * 0.9)
    assert desk.host.settled == []
    desk.pass_time(FETCH_TIMEOUT * 0.2)
    assert desk.host.passed_over == [OWNER], "it has fallen silent"
    assert desk.seen() == {KEY: b"x", KEY2: b"x"}, "what it had sent is used"


def test_an_owner_that_answers_earlier_requests_is_not_given_up(desk: Desk) -> None:
    """The time-outs of many requests grow with their number; and one that was passed by is given up in time."""
    requests = []
    for ticket in range(5):
        desk.set(ticket, KEY, b"x", 60.0, (), False, desk.now)
        requests += desk.host.take()
    for number in (0, 1, 3):
        desk.pass_time(FETCH_TIMEOUT * 0.9)
        assert desk.host.passed_over == []
        desk.stored(Stored(OWNER, ME, requests[number].id, number + 1, True), desk.now)
    desk.pass_time(FETCH_TIMEOUT * 0.2)
    assert desk.host.passed_over == [OWNER], "the third is passed by, the fifth has time"
    assert len(desk) == 1
    desk.pass_time(FETCH_TIMEOUT)
    assert desk.host.passed_over == [OWNER, OWNER], "it has fallen silent"
    assert len(desk) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda desk: setattr(desk.host, "current", False),
        lambda desk: desk.host.remembered.update({KEY: (OTHER, 1, 1)}),
        lambda desk: desk.host.tag_moments.update(t=1),
    ],
    ids=["owner behind", "key hit", "tag hit"],
)
def test_overtaken_value_is_seen_and_not_kept(desk: Desk, spoil: Any) -> None:
    (peek,) = desk.look(KEY)
    spoil(desk)
    desk.answer(peek, (0, b"1"), tags=("t",), current=desk.host.current)
    ((_, outcome),) = desk.host.outcomes()
    assert outcome.entries[KEY].expires == DEAD
    assert desk.host.kept == {}


def test_joiners_peek_keeps_nothing(desk: Desk) -> None:
    desk.host.established = False
    (peek,) = desk.look(KEY)
    desk.host.established = True
    desk.answer(peek, (0, b"1"))
    assert desk.seen() == {KEY: b"1"}
    assert desk.host.kept == {}


def test_owner_that_does_not_answer_a_peek_has_nothing(desk: Desk) -> None:
    (peek,) = desk.look(KEY, KEY2)
    desk.answer(peek, (0, b"1"), more=True)
    desk.pass_time(FETCH_TIMEOUT)
    assert desk.host.passed_over == [OWNER]
    assert desk.seen() == {KEY: b"1"}
    desk.answer(peek, (1, b"2"))
    assert KEY2 not in desk.host.kept, "what comes after the call returned is nobody's"
    desk.pass_time(FETCH_TIMEOUT)
    assert desk.host.passed_over == [OWNER]


def test_owner_that_leaves_has_nothing(desk: Desk) -> None:
    desk.look(KEY)
    desk.owner_left(OTHER)
    assert desk.host.settled == []
    desk.owner_left(OWNER)
    assert desk.seen() == {}


def test_odd_answers_to_a_peek_are_counted_and_harm_nothing(desk: Desk) -> None:
    (peek,) = desk.look(KEY)
    desk.answer(peek, (0, b"9"), sender=OTHER)
    desk.found(Found(OWNER, ME, 99, True, False, ()), desk.now)
    desk.answer(peek, (1, b"9"), (NO_NUMBER, b"9"), more=True)
    desk.found(Found(OWNER, ME, peek.id, True, True, (b"", b"\xc0", b"\x90", peek.keys[0])), desk.now)
    assert desk.host.counters.frames_refused == 6
    assert desk.host.kept == {}
    desk.answer(peek, (0, b"1"), (0, b"2"))
    assert desk.seen() == {KEY: b"2"}
    assert desk.host.kept[KEY].payload == b"2"


# --- Sets


def test_set_returns_when_the_owner_has_stored_it(desk: Desk) -> None:
    desk.host.last = 5
    request = desk.write()
    assert request == Set(ME, OWNER, 1, KEY, b"1", 300.0, False, 5, ("t",))
    assert desk.host.touched == [KEY], "the writer's own copy goes first"
    desk.stored(Stored(OWNER, ME, 1, 8, True), desk.now)
    assert desk.host.outcomes() == [(1, Written(True, None, (OWNER, 8)))]
    assert desk.host.remembered[KEY][:2] == (OWNER, 8), "the writer's next read depends on it"
    desk.pass_time(SETTLE_TIMEOUT)
    assert desk.host.announced == []
    assert len(desk) == 0


def test_answer_that_was_asked_for_before_the_set_returned_is_not_kept_after(desk: Desk) -> None:
    """1. W sets k at O; 2. the ring changes, and W peeks at O2, which has the old value; 3. the set returns; 4. O2's
    answer comes. W has not heard O's event yet, so only that it remembers the set tells it that 4 is too old."""
    request = desk.write()
    assert request is not None
    desk.host.owner = OTHER
    (peek,) = desk.look(KEY)
    desk.stored(Stored(OWNER, ME, request.id, 8, True), desk.now)
    desk.host.outcomes()
    desk.answer(peek, (0, b"0"), sender=OTHER)
    assert desk.host.kept == {}


def test_own_set_is_remembered_as_the_event_that_it_is(desk: Desk) -> None:
    desk.host.owner = ME
    request = desk.write()
    assert request is not None
    desk.stored(Stored(ME, ME, request.id, 1, True), desk.now)
    assert desk.host.outcomes() == [(1, Written(True, None, (ME, 1)))]
    assert desk.host.remembered == {}


@pytest.mark.parametrize("how", ["silent", "passed over", "left"])
def test_set_whose_owner_cannot_be_had_becomes_an_invalidation(desk: Desk, how: str) -> None:
    desk.host.owner = None if how == "passed over" else OWNER
    request = desk.write()
    if how == "silent":
        desk.pass_time(FETCH_TIMEOUT)
        assert desk.host.passed_over == [OWNER]
    elif how == "left":
        desk.owner_left(OWNER)
    assert desk.host.announced == [(key_target(KEY),)]
    if request is not None:
        assert desk.host.outcomes() == [], "the owner may keep it yet"
        ((_, settle),) = desk.host.receipts
        settle(Receipt(("host/1",), (), True, 0.1))
    assert desk.host.outcomes() == [(1, Written(False, None))]
    if request is not None:
        desk.stored(Stored(OWNER, ME, request.id, 1, True), desk.now)
    desk.pass_time(FETCH_TIMEOUT)
    assert desk.host.settled == []
    assert len(desk.host.announced) == 1


def test_set_that_became_an_invalidation_is_settled_by_its_receipt(desk: Desk) -> None:
    desk.host.owner = None
    desk.write(settle=True)
    assert desk.host.settled == []
    ((number, settle),) = desk.host.receipts
    receipt = Receipt(("host/1",), (), True, 0.1)
    settle(receipt)
    assert number == 1
    assert desk.host.outcomes() == [(1, Written(False, receipt))]


@pytest.mark.parametrize("kept", [True, False])
def test_set_that_is_to_be_settled_returns_with_the_receipt(desk: Desk, kept: bool) -> None:
    request = desk.write(settle=True)
    assert request is not None
    desk.stored(Stored(OWNER, ME, request.id, 8, kept), desk.now)
    assert desk.host.settled == []
    desk.settled(Settled(OTHER, ME, request.id, True, 0.5, 1, ("host/1", "host/2")))
    assert desk.host.settled == []
    desk.settled(Settled(OWNER, ME, request.id, True, 0.5, 1, ("host/1", "host/2")))
    receipt = Receipt(("host/1",), ("host/2",), True, 0.5)
    assert desk.host.outcomes() == [(1, Written(kept, receipt, (OWNER, 8)))]
    assert len(desk) == 0


@pytest.mark.parametrize("how", ["silent", "left"])
def test_set_whose_receipt_does_not_come_returns_without(desk: Desk, how: str) -> None:
    request = desk.write(settle=True)
    assert request is not None
    desk.stored(Stored(OWNER, ME, request.id, 8, True), desk.now)
    if how == "left":
        desk.owner_left(OWNER)
    else:
        desk.pass_time(SETTLE_TIMEOUT)
    assert desk.host.outcomes() == [(1, Written(True, None, (OWNER, 8)))]
    desk.pass_time(SETTLE_TIMEOUT)
    assert desk.host.settled == []


def test_odd_answers_to_a_set_harm_nothing(desk: Desk) -> None:
    request = desk.write(settle=True)
    assert request is not None
    desk.stored(Stored(OTHER, ME, request.id, 8, True), desk.now)
    desk.stored(Stored(OWNER, ME, 99, 8, True), desk.now)
    desk.settled(Settled(OWNER, ME, request.id, True, 0.5, 0, ()))
    assert desk.host.settled == []
    desk.stored(Stored(OWNER, ME, request.id, 8, True), desk.now)
    desk.stored(Stored(OWNER, ME, request.id, 8, True), desk.now)
    desk.settled(Settled(OWNER, ME, request.id, False, math.inf, NO_NUMBER, ("host/1",)))
    receipt = Receipt(("host/1",), (), False, math.inf)
    assert desk.host.outcomes() == [(1, Written(True, receipt, (OWNER, 8)))]


def test_where_dependencies_are_too_many_to_be_named_a_peek_finds_nothing(desk: Desk) -> None:
    desk.host.positions = None
    assert desk.look(KEY) == []
    assert desk.seen() == {}
    assert len(desk) == 0
