"""Peeks, sets and attempts: every call gets its outcome, and nothing is kept that an event has overtaken."""

from __future__ import annotations

import math
from typing import Any

import pytest

from colocache.core.entry import DEAD
from colocache.core.group.attempts import Attempts
from colocache.core.group.entry import Entry
from colocache.core.group.messages import (
    MAX_TARGETS,
    NO_NUMBER,
    Altered,
    Fenced,
    Peek,
    Peeked,
    Record,
    Set,
    SetReceipt,
    Stored,
    key_target,
    pack_record,
)
from colocache.core.group.outcomes import DONE, Seen, Written
from colocache.core.group.peeks import Peeks
from colocache.core.group.requests import Requests
from colocache.core.group.sets import Sets
from colocache.core.options import EntryOptions
from colocache.core.receipt import Receipt
from tests.core.group.fakes import KEY, KEY2, ME, OTHER, OWNER, Surroundings

FETCH_TIMEOUT, RECEIPT_TIMEOUT = 0.25, 9.0


class Asker:
    """The table of requests, the peeks, the sets and the attempts, with what surrounds them."""

    def __init__(self) -> None:
        around: Any = Surroundings()
        self.around = around
        self.requests = Requests(around, around.timers)
        self.peeks = Peeks(around, around, around, self.requests)
        self.sets = Sets(around, around, around.timers, self.requests, around, around)
        self.attempts = Attempts(around, around, around, around.timers, around, self.requests, around)

    def __len__(self) -> int:
        return len(self.requests)

    def pass_time(self, seconds: float) -> None:
        """Let timers run, late."""
        self.around.now += seconds
        self.around.timers.run(self.around.now)

    def look(self, *keys: bytes, known: dict[bytes, Entry] | None = None) -> list[Any]:
        """Begin a peek with ticket 1; return the requests."""
        self.peeks.peek(1, known or {}, keys)
        return self.around.take()

    def answer(self, peek: Peek, *records: tuple[int, bytes], current: bool = True, more: bool = False,
               tags: tuple[str, ...] = (), sender: bytes = OWNER) -> None:  # fmt: skip
        """Have an owner's answer arrive."""
        blobs = tuple(pack_record(Record(place, payload, 1.5, 10.0, tags)) for place, payload in records)
        self.peeks.answered(Peeked(sender, ME, peek.id, current, more, blobs))

    def seen(self) -> dict[bytes, bytes | None]:
        """Return what the one call that returned has seen."""
        ((ticket, outcome),) = self.around.outcomes()
        assert ticket == 1
        assert isinstance(outcome, Seen)
        return {key: entry.payload for key, entry in outcome.entries.items()}

    def write(self, acknowledged: bool = False) -> Set | None:
        """Begin a set with ticket 1; return the request."""
        self.sets.set(1, KEY, b"1", EntryOptions(300.0, ("t",)), acknowledged)
        requests = self.around.take()
        return requests[0] if requests else None


@pytest.fixture
def asker() -> Asker:
    return Asker()


# --- Peeks


def test_peek_asks_each_owner_once_and_returns_what_they_have(asker: Asker) -> None:
    asker.around.positions = b"x" * 24
    (peek,) = asker.look(KEY, KEY2, known={b"\0k0": Entry(b"\0k0", b"0", 0.0, 0.0, ())})
    assert peek == Peek(ME, OWNER, peek.id, FETCH_TIMEOUT, b"x" * 24, (KEY, KEY2))
    asker.pass_time(0.1)
    asker.answer(peek, (1, b"2"))
    assert asker.seen() == {b"\0k0": b"0", KEY2: b"2"}
    entry = asker.around.kept[KEY2]
    assert (entry.loaded_at, entry.expires) == (100.0 - 1.5, 100.0 + 10.0), "both counted from the request"
    assert len(asker) == 0


def test_peek_at_nothing_or_at_own_keys_or_at_a_silent_owner_returns_at_once(asker: Asker) -> None:
    for owner in (ME, None):
        asker.around.owner = owner
        assert asker.look(KEY) == []
        assert asker.seen() == {}
    assert asker.look() == []
    assert asker.seen() == {}


def test_peek_at_many_keys_is_split(asker: Asker) -> None:
    keys = [KEY + n.to_bytes(2, "big") for n in range(MAX_TARGETS + 1)]
    first, second = asker.look(*keys)
    assert (len(first.keys), second.keys) == (MAX_TARGETS, (keys[-1],))
    asker.answer(second, (0, b"9"))
    assert asker.around.resolved == []
    asker.answer(first, (0, b"1"), more=True)
    asker.answer(first, (1, b"2"))
    assert asker.seen() == {keys[-1]: b"9", keys[0]: b"1", keys[1]: b"2"}


def test_an_owner_that_sends_much_is_not_given_up_while_it_sends(asker: Asker) -> None:
    (peek,) = asker.look(KEY, KEY2)
    for number in range(4):
        asker.pass_time(FETCH_TIMEOUT * 0.9)
        assert asker.around.passed_over == []
        asker.answer(peek, (number % 2, b"x"), more=True)
    asker.pass_time(FETCH_TIMEOUT * 0.9)
    assert asker.around.resolved == []
    asker.pass_time(FETCH_TIMEOUT * 0.2)
    assert asker.around.passed_over == [OWNER], "it has fallen silent"
    assert asker.seen() == {KEY: b"x", KEY2: b"x"}, "what it had sent is used"


def test_an_owner_that_answers_earlier_requests_is_not_given_up(asker: Asker) -> None:
    """The time-outs of many requests grow with their number; and one that was passed by is given up in time."""
    requests = []
    for ticket in range(5):
        asker.sets.set(ticket, KEY, b"x", EntryOptions(60.0), False)
        requests += asker.around.take()
    for number in (0, 1, 3):
        asker.pass_time(FETCH_TIMEOUT * 0.9)
        assert asker.around.passed_over == []
        asker.sets.stored(Stored(OWNER, ME, requests[number].id, number + 1, True))
    asker.pass_time(FETCH_TIMEOUT * 0.2)
    assert asker.around.passed_over == [OWNER], "the third is passed by, the fifth has time"
    assert len(asker) == 1
    asker.pass_time(FETCH_TIMEOUT)
    assert asker.around.passed_over == [OWNER, OWNER], "it has fallen silent"
    assert len(asker) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda asker: setattr(asker.around, "current", False),
        lambda asker: asker.around.remembered.update({KEY: (OTHER, 1, 1)}),
        lambda asker: asker.around.tag_versions.update(t=1),
    ],
    ids=["owner behind", "key invalidated", "tag invalidated"],
)
def test_overtaken_value_is_seen_and_not_kept(asker: Asker, spoil: Any) -> None:
    (peek,) = asker.look(KEY)
    spoil(asker)
    asker.answer(peek, (0, b"1"), tags=("t",), current=asker.around.current)
    ((_, outcome),) = asker.around.outcomes()
    assert outcome.entries[KEY].expires == DEAD
    assert asker.around.kept == {}


def test_joiners_peek_keeps_nothing(asker: Asker) -> None:
    asker.around.established = False
    (peek,) = asker.look(KEY)
    asker.around.established = True
    asker.answer(peek, (0, b"1"))
    assert asker.seen() == {KEY: b"1"}
    assert asker.around.kept == {}


def test_owner_that_does_not_answer_a_peek_has_nothing(asker: Asker) -> None:
    (peek,) = asker.look(KEY, KEY2)
    asker.answer(peek, (0, b"1"), more=True)
    asker.pass_time(FETCH_TIMEOUT)
    assert asker.around.passed_over == [OWNER]
    assert asker.seen() == {KEY: b"1"}
    asker.answer(peek, (1, b"2"))
    assert KEY2 not in asker.around.kept, "what comes after the call returned is nobody's"
    asker.pass_time(FETCH_TIMEOUT)
    assert asker.around.passed_over == [OWNER]


def test_owner_that_leaves_has_nothing(asker: Asker) -> None:
    asker.look(KEY)
    asker.requests.owner_left(OTHER)
    assert asker.around.resolved == []
    asker.requests.owner_left(OWNER)
    assert asker.seen() == {}


def test_odd_answers_to_a_peek_are_counted_and_harm_nothing(asker: Asker) -> None:
    (peek,) = asker.look(KEY)
    asker.answer(peek, (0, b"9"), sender=OTHER)
    asker.peeks.answered(Peeked(OWNER, ME, 99, True, False, ()))
    asker.answer(peek, (1, b"9"), (NO_NUMBER, b"9"), more=True)
    asker.peeks.answered(Peeked(OWNER, ME, peek.id, True, True, (b"", b"\xc0", b"\x90", peek.keys[0])))
    assert asker.around.counters.frames_refused == 6
    assert asker.around.kept == {}
    asker.answer(peek, (0, b"1"), (0, b"2"))
    assert asker.seen() == {KEY: b"2"}
    assert asker.around.kept[KEY].payload == b"2"


def test_where_dependencies_are_too_many_to_be_named_a_peek_finds_nothing(asker: Asker) -> None:
    asker.around.positions = None
    assert asker.look(KEY) == []
    assert asker.seen() == {}
    assert len(asker) == 0


# --- Sets


def test_set_returns_when_the_owner_has_stored_it(asker: Asker) -> None:
    asker.around.last = 5
    request = asker.write()
    assert request == Set(ME, OWNER, 1, KEY, b"1", 300.0, False, 5, ("t",))
    assert asker.around.touched == [KEY], "the writer's own copy goes first"
    asker.sets.stored(Stored(OWNER, ME, 1, 8, True))
    assert asker.around.outcomes() == [(1, Written(True, None, (OWNER, 8)))]
    assert asker.around.remembered[KEY][:2] == (OWNER, 8), "the writer's next read depends on it"
    asker.pass_time(RECEIPT_TIMEOUT)
    assert asker.around.announced == []
    assert len(asker) == 0


def test_answer_that_was_asked_for_before_the_set_returned_is_not_kept_after(asker: Asker) -> None:
    """1. W sets k at O; 2. the ring changes, and W peeks at O2, which has the old value; 3. the set returns; 4. O2's
    answer comes. W has not heard O's event yet, so only that it remembers the set tells it that 4 is too old."""
    request = asker.write()
    assert request is not None
    asker.around.owner = OTHER
    (peek,) = asker.look(KEY)
    asker.sets.stored(Stored(OWNER, ME, request.id, 8, True))
    asker.around.outcomes()
    asker.answer(peek, (0, b"0"), sender=OTHER)
    assert asker.around.kept == {}


def test_own_set_is_remembered_as_the_event_that_it_is(asker: Asker) -> None:
    asker.around.owner = ME
    request = asker.write()
    assert request is not None
    asker.sets.stored(Stored(ME, ME, request.id, 1, True))
    assert asker.around.outcomes() == [(1, Written(True, None, (ME, 1)))]
    assert asker.around.remembered == {}


@pytest.mark.parametrize("how", ["silent", "passed over", "left"])
def test_set_whose_owner_cannot_be_had_becomes_an_invalidation(asker: Asker, how: str) -> None:
    asker.around.owner = None if how == "passed over" else OWNER
    request = asker.write()
    if how == "silent":
        asker.pass_time(FETCH_TIMEOUT)
        assert asker.around.passed_over == [OWNER]
    elif how == "left":
        asker.requests.owner_left(OWNER)
    assert asker.around.announced == [(key_target(KEY),)]
    if request is not None:
        assert asker.around.outcomes() == [], "the owner may keep it yet"
        ((_, resolve),) = asker.around.receipts
        resolve(Receipt(("host/1",), (), True, 0.1))
    assert asker.around.outcomes() == [(1, Written(False, None))]
    if request is not None:
        asker.sets.stored(Stored(OWNER, ME, request.id, 1, True))
    asker.pass_time(FETCH_TIMEOUT)
    assert asker.around.resolved == []
    assert len(asker.around.announced) == 1


def test_set_that_became_an_invalidation_is_settled_by_its_receipt(asker: Asker) -> None:
    asker.around.owner = None
    asker.write(acknowledged=True)
    assert asker.around.resolved == []
    ((number, resolve),) = asker.around.receipts
    receipt = Receipt(("host/1",), (), True, 0.1)
    resolve(receipt)
    assert number == 1
    assert asker.around.outcomes() == [(1, Written(False, receipt))]


@pytest.mark.parametrize("kept", [True, False])
def test_set_that_is_to_be_settled_returns_with_the_receipt(asker: Asker, kept: bool) -> None:
    request = asker.write(acknowledged=True)
    assert request is not None
    asker.sets.stored(Stored(OWNER, ME, request.id, 8, kept))
    assert asker.around.resolved == []
    asker.sets.acknowledged(SetReceipt(OTHER, ME, request.id, True, 0.5, 1, ("host/1", "host/2")))
    assert asker.around.resolved == []
    asker.sets.acknowledged(SetReceipt(OWNER, ME, request.id, True, 0.5, 1, ("host/1", "host/2")))
    receipt = Receipt(("host/1",), ("host/2",), True, 0.5)
    assert asker.around.outcomes() == [(1, Written(kept, receipt, (OWNER, 8)))]
    assert len(asker) == 0


@pytest.mark.parametrize("how", ["silent", "left"])
def test_set_whose_receipt_does_not_come_returns_without(asker: Asker, how: str) -> None:
    request = asker.write(acknowledged=True)
    assert request is not None
    asker.sets.stored(Stored(OWNER, ME, request.id, 8, True))
    if how == "left":
        asker.requests.owner_left(OWNER)
    else:
        asker.pass_time(RECEIPT_TIMEOUT)
    assert asker.around.outcomes() == [(1, Written(True, None, (OWNER, 8)))]
    asker.pass_time(RECEIPT_TIMEOUT)
    assert asker.around.resolved == []


def test_odd_answers_to_a_set_harm_nothing(asker: Asker) -> None:
    request = asker.write(acknowledged=True)
    assert request is not None
    asker.sets.stored(Stored(OTHER, ME, request.id, 8, True))
    asker.sets.stored(Stored(OWNER, ME, 99, 8, True))
    asker.sets.acknowledged(SetReceipt(OWNER, ME, request.id, True, 0.5, 0, ()))
    assert asker.around.resolved == []
    asker.sets.stored(Stored(OWNER, ME, request.id, 8, True))
    asker.sets.stored(Stored(OWNER, ME, request.id, 9, True))  # it was answered already
    asker.sets.acknowledged(SetReceipt(OWNER, ME, request.id, False, math.inf, NO_NUMBER, ("host/1",)))
    receipt = Receipt(("host/1",), (), False, math.inf)
    assert asker.around.outcomes() == [(1, Written(True, receipt, (OWNER, 8)))]


# --- Attempts


def test_answer_that_was_asked_for_before_a_count_returned_is_not_kept_after(asker: Asker) -> None:
    """As for a set: only that the count is remembered, at a version of its own, tells that the answer is too old."""
    asker.attempts.alter(1, KEY, 1, b"", EntryOptions(300.0))
    (alter,) = asker.around.take()
    asker.around.owner = OTHER
    (peek,) = asker.look(KEY)
    asker.attempts.altered(Altered(OWNER, ME, alter.id, 8, DONE, b"2"))
    asker.around.outcomes()
    asker.answer(peek, (0, b"1"), sender=OTHER)
    assert asker.around.kept == {}


@pytest.mark.parametrize("established", [True, False])
def test_value_that_comes_with_a_fence_is_kept_unless_a_joiner_has_asked(asker: Asker, established: bool) -> None:
    asker.around.established = established
    asker.attempts.get(1, KEY)
    (get,) = asker.around.take()
    asker.around.established = True
    asker.attempts.fenced(Fenced(OWNER, ME, get.id, 5, True, True, b"1", 0.0, 9.0, b"", ()))
    ((_, fence),) = asker.around.outcomes()
    assert (fence.entry.payload, fence.number) == (b"1", 5)
    assert (KEY in asker.around.kept) is established
