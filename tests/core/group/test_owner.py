"""The owner's side: what it answers, after which events, and which writes come too late."""

from __future__ import annotations

import math
from typing import Any

import pytest

from colocache.core.group import owner, storing
from colocache.core.group.atomic import Atomic
from colocache.core.group.entry import Entry
from colocache.core.group.fences import Fences
from colocache.core.group.load_queues import LoadQueues
from colocache.core.group.messages import (
    MAX_LINK,
    MAX_TAG,
    MAX_TAGS,
    MAX_TARGETS,
    MAX_VALUE,
    Alone,
    Cancel,
    Fill,
    Get,
    Load,
    Peek,
    Peeked,
    Set,
    SetReceipt,
    Stored,
    Value,
    Wait,
    encode,
    key_target,
    pack_positions,
    unpack_record,
)
from colocache.core.group.owner import MAX_PARKED, Owner
from colocache.core.group.storing import Storing
from colocache.core.receipt import Receipt
from tests.core.group.fakes import KEY, KEY2, ME, OTHER, THIRD, Surroundings

A, B = OTHER, THIRD
DEPENDENCIES = pack_positions({A: 5})


class Shop(Owner):
    """An owner with what surrounds it, its load queues, and what it stores."""

    def __init__(self) -> None:
        self.around: Any = Surroundings()
        around = self.around
        self.queues = LoadQueues(around, around, around.timers)
        self.storing = Storing(around, around, around, around, around)
        atomic = Atomic(around, around, around, around, Fences(30.0))
        super().__init__(around, around, around, around, self.queues, atomic)

    @property
    def now(self) -> float:
        return self.around.now

    def get(self, member: bytes = A, request: int = 1, patience: float = 30.0, key: bytes = KEY) -> list[Any]:
        """Have a member ask for a key; return the answers."""
        self.asked(Get(member, ME, request, key, patience, DEPENDENCIES))
        return self.around.take()

    def peek(self, *keys: bytes) -> list[Any]:
        """Have a member look for keys; return the answers."""
        self.asked(Peek(A, ME, 1, 0.25, b"", keys))
        return self.around.take()

    def keep(self, key: bytes = KEY, payload: bytes = b"1", tags: tuple[str, ...] = ()) -> None:
        """Have an entry in the shard."""
        self.around.shard[key] = Entry(key, payload, self.now - 2.0, self.now + 10.0, tags)

    def fill(self, token: int = 1, payload: bytes = b"1", tags: tuple[str, ...] = ()) -> list[Any]:
        """Have A fill a value in; return what is sent for it."""
        self.filled(Fill(A, ME, KEY, token, payload, 300.0, 0.0, tags))
        return self.around.take()

    def write(self, request: int = 1, payload: bytes = b"1", after: int = 0, acknowledged: bool = False,
              key: bytes = KEY) -> list[Any]:  # fmt: skip
        """Have A set a value; return what is sent for it."""
        self.storing.set(Set(A, ME, request, key, payload, 300.0, acknowledged, after, ("t",)))
        return self.around.take()


@pytest.fixture
def shop() -> Shop:
    return Shop()


# --- Gets


def test_value_comes_with_its_age_and_the_time_that_it_has_left(shop: Shop) -> None:
    shop.keep(tags=("t",))
    assert shop.get() == [Value(ME, A, 1, b"1", 2.0, 10.0, True, ("t",))]
    shop.around.current = False
    assert shop.get() == [Value(ME, A, 1, b"1", 2.0, 10.0, False, ("t",))]


def test_missing_key_is_loaded_by_the_first_who_asks(shop: Shop) -> None:
    assert shop.get(A) == [Load(ME, A, 1, 1)]
    assert shop.get(B) == [Wait(ME, B, 1), Wait(ME, A, 1)]


def test_entry_without_its_bytes_cannot_be_handed_over(shop: Shop) -> None:
    shop.keep()
    shop.around.shard[KEY].payload = None
    assert shop.get() == [Load(ME, A, 1, 1)]
    assert shop.peek(KEY) == [Peeked(ME, A, 1, True, False, ())]


def test_request_waits_until_what_it_depends_on_is_applied(shop: Shop) -> None:
    shop.keep()
    shop.around.applied = False
    assert shop.get() == []
    shop.retry()
    assert shop.around.take() == []
    shop.around.applied = True
    shop.around.shard.clear()  # by what was applied
    shop.retry()
    assert shop.around.take() == [Load(ME, A, 1, 1)]
    shop.retry()
    assert shop.around.take() == []


def test_request_that_depends_on_what_can_never_be_applied_is_refused(shop: Shop) -> None:
    shop.keep()
    shop.around.applied = None
    assert shop.get() == [Alone(ME, A, 1)]
    assert shop.peek(KEY) == [Peeked(ME, A, 1, False, False, ())]
    shop.around.applied = False
    assert shop.get() == []
    shop.around.applied = None
    shop.retry()
    assert shop.around.take() == [Alone(ME, A, 1)]


def test_request_that_waits_for_events_is_forgotten_with_its_asker(shop: Shop) -> None:
    """Otherwise a member that is gone would get a token, and hold everybody up until it lapses."""
    shop.around.applied = False
    shop.get(A)
    shop.get(B)
    shop.member_left(A)
    shop.cancel(Cancel(B, ME, 1))
    shop.around.applied = True
    shop.retry()
    assert shop.around.take() == []
    assert shop.get(B, 2) == [Load(ME, B, 2, 1)]


def test_cancel_of_one_get_touches_no_other_request(shop: Shop) -> None:
    shop.around.applied = False
    shop.get(A, 1)
    shop.get(A, 2, key=KEY2)
    shop.asked(Peek(A, ME, 1, 0.25, DEPENDENCIES, (KEY,)))
    shop.cancel(Cancel(A, ME, 1))
    shop.around.applied = True
    shop.retry()
    assert shop.around.take() == [Load(ME, A, 2, 1), Peeked(ME, A, 1, True, False, ())]


def test_request_that_waits_for_events_longer_than_its_asker_is_dropped(shop: Shop) -> None:
    shop.keep()
    shop.around.applied = False
    shop.get(patience=0.25)
    shop.around.applied = True
    shop.around.now += 0.25
    shop.retry()
    assert shop.around.take() == []


def test_requests_that_wait_for_events_are_bounded(shop: Shop) -> None:
    shop.keep()
    shop.around.applied = False
    for n in range(MAX_PARKED):
        assert shop.get(request=n, patience=math.inf) == []
    assert shop.get(request=MAX_PARKED) == [Alone(ME, A, MAX_PARKED)]
    shop.around.applied = True
    shop.retry()
    assert len(shop.around.take()) == MAX_PARKED


def test_what_requests_depend_on_is_bounded_and_so_is_their_wait(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "MAX_PARKED_POSITIONS", 2)
    shop.around.applied = False
    assert [shop.get(request=n, patience=math.inf) for n in range(3)] == [[], [], [Alone(ME, A, 2)]]
    shop.around.now += 60.0
    shop.retry()
    assert shop.get(request=3) == []


# --- Fills


def test_fill_is_stored_and_given_to_who_waits(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.around.now += 5.0
    assert shop.fill(tags=("t",)) == [Value(ME, B, 1, b"1", 5.0, 300.0, True, ("t",))]
    entry = shop.around.shard[KEY]
    assert (entry.loaded_at, entry.expires) == (100.0, shop.now + 300.0), "the age counts from the grant"
    assert len(shop.queues) == 0


def test_fill_that_is_older_than_its_token_says_so_itself(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.around.now += 5.0
    shop.filled(Fill(A, ME, KEY, 1, b"1", 300.0, 2.0, ()))
    assert shop.around.take() == [Value(ME, B, 1, b"1", 7.0, 300.0, True, ())]
    assert shop.around.shard[KEY].loaded_at == 98.0


def test_fill_under_a_token_that_does_not_stand_is_refused(shop: Shop) -> None:
    shop.get(A)
    shop.queues.pass_on(KEY)
    assert shop.fill() == []
    assert shop.around.shard == {}
    assert shop.around.counters.fills_refused == 1


def test_fill_is_refused_if_one_of_its_tags_was_invalidated_and_the_next_in_line_loads(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.around.version = 3
    shop.around.tag_versions["t"] = 3
    assert shop.fill(tags=("t",)) == [Load(ME, B, 1, 2)]
    assert shop.around.shard == {}


def test_fill_to_an_owner_that_is_behind_is_kept_and_handed_to_nobody(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.around.current = False
    assert shop.fill() == [Alone(ME, B, 1)]
    assert KEY in shop.around.shard


def test_fill_to_an_owner_that_is_not_established_is_not_kept(shop: Shop) -> None:
    shop.get(A)
    shop.around.established = shop.around.current = False
    shop.fill()
    assert shop.around.shard == {}


def test_fill_that_the_shard_does_not_take_reaches_who_waits_all_the_same(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.around.shard_takes = False
    assert shop.fill() == [Value(ME, B, 1, b"1", 0.0, 300.0, True, ())]


def test_token_of_a_reader_that_has_gone_is_passed_on(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.member_left(A)
    assert shop.around.take() == [Load(ME, B, 1, 2)]
    assert shop.fill() == []
    assert shop.around.shard == {}


# --- Sets


def test_set_is_announced_then_stored_and_answered(shop: Shop) -> None:
    assert shop.write() == [Stored(ME, A, 1, 1, True)]
    assert shop.around.announced == [(key_target(KEY),)]
    entry = shop.around.shard[KEY]
    assert (entry.payload, entry.tags) == (b"1", ("t",))
    assert entry.loaded_at == -math.inf, "nobody says when it was read from the source: never served while behind"
    assert shop.get() == [Value(ME, A, 1, b"1", math.inf, 300.0, True, ("t",))]


def test_late_duplicate_of_a_set_does_not_bring_an_old_value_back(shop: Shop) -> None:
    shop.write(1, b"1")
    shop.write(2, b"2")
    announced = len(shop.around.announced)
    assert shop.write(1, b"1") == []
    assert shop.write(2, b"2") == []
    assert shop.around.shard[KEY].payload == b"2"
    assert len(shop.around.announced) == announced


def test_set_that_its_writer_has_given_up_is_announced_and_not_kept(shop: Shop) -> None:
    """Its invalidation, event 4 of A, was applied here first, and others may have invalidated the key since."""
    shop.around.events = {(A, 4)}
    assert shop.write(1, after=3) == [Stored(ME, A, 1, 1, False)]
    assert shop.around.announced == [(key_target(KEY),)]
    assert shop.around.shard == {}
    assert shop.write(2, after=4) == [Stored(ME, A, 2, 2, True)]


def test_set_to_an_owner_that_is_behind_is_announced_and_not_kept(shop: Shop) -> None:
    shop.keep(payload=b"0")
    shop.around.current = False
    assert shop.write() == [Stored(ME, A, 1, 1, False)]
    assert shop.around.shard == {}, "what was there must go"


def test_set_that_is_too_large_is_announced_and_not_kept(shop: Shop) -> None:
    shop.around.shard_takes = False
    assert shop.write() == [Stored(ME, A, 1, 1, False)]


def test_numbers_of_sets_are_each_writers_own_and_go_with_it(shop: Shop) -> None:
    shop.write(9)
    shop.storing.set(Set(B, ME, 1, KEY2, b"1", 300.0, False, 0, ()))
    assert shop.around.take() == [Stored(ME, B, 1, 2, True)]
    shop.storing.member_left(A)
    assert shop.write(1) != [], "nothing is kept for those who are gone"


def test_receipt_of_a_set_follows_when_its_event_is_acknowledged(shop: Shop) -> None:
    shop.write(1, acknowledged=True)
    ((number, resolve),) = shop.around.receipts
    assert number == 1
    resolve(Receipt(("host/1", "host/2"), ("host/3",), True, 0.5))
    receipt = SetReceipt(ME, A, 1, True, 0.5, 2, ("host/1", "host/2", "host/3"))
    assert shop.around.take() == [receipt]


def test_sets_beyond_the_limit_are_stored_and_promise_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "MAX_WAITING", 1)
    assert shop.write(1, acknowledged=True) == [Stored(ME, A, 1, 1, True)]
    assert shop.write(2, acknowledged=True) == [Stored(ME, A, 2, 2, True), SetReceipt(ME, A, 2, False, 0.0, 0, ())]
    shop.around.receipts[0][1](Receipt((), (), True, 0.0))
    shop.around.take()
    assert shop.write(3, acknowledged=True) == [Stored(ME, A, 3, 3, True)]


# --- Peeks


def test_peek_finds_what_is_there_and_makes_nobody_load(shop: Shop) -> None:
    shop.keep(KEY2, b"2", ("t",))
    (found,) = shop.peek(KEY, KEY2)
    assert (found.current, found.more) == (True, False)
    (record,) = map(unpack_record, found.records)
    assert record == (1, b"2", 2.0, 10.0, ("t",))
    assert len(shop.queues) == 0
    shop.around.current = False
    assert not shop.peek(KEY2)[0].current


def test_peek_is_answered_in_frames_that_fit_a_link(shop: Shop) -> None:
    tags = tuple(f"{n}".ljust(MAX_TAG, "t") for n in range(MAX_TAGS))
    keys = tuple(KEY + bytes([n]) for n in range(4))
    for key in keys:
        shop.keep(key, bytes(MAX_VALUE), tags)
    parts = shop.peek(*keys)
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert all(len(encode(part)) <= MAX_LINK for part in parts)
    assert [unpack_record(blob).place for part in parts for blob in part.records] == [0, 1, 2, 3]


def test_peek_at_many_small_values_is_answered_at_once(shop: Shop) -> None:
    keys = tuple(KEY + n.to_bytes(2, "big") for n in range(MAX_TARGETS))
    for key in keys:
        shop.keep(key)
    (part,) = shop.peek(*keys)
    assert len(part.records) == MAX_TARGETS
