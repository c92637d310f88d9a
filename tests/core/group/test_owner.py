"""The owner's side: what it answers, after which events, and which writes come too late."""

from __future__ import annotations

import math
from typing import Any

import pytest

from colocache.core.entry import Entry
from colocache.core.group import owner
from colocache.core.group.announcements import Receipt
from colocache.core.group.atomic import Atomic
from colocache.core.group.fills import Desk
from colocache.core.group.messages import (
    MAX_LINK,
    MAX_TAG,
    MAX_TAGS,
    MAX_TARGETS,
    MAX_VALUE,
    Alone,
    Fill,
    Found,
    Get,
    Load,
    Peek,
    Set,
    Settled,
    Stored,
    Value,
    Wait,
    encode,
    key_target,
    pack_positions,
    unpack_record,
)
from colocache.core.group.owner import MAX_PARKED, Owner
from colocache.core.timers import Timers
from tests.core.group.fakes import KEY, KEY2, ME, OTHER, THIRD, FakeHost

A, B = OTHER, THIRD
DEPENDENCIES = pack_positions({A: 5})


class Shop(Owner):
    """An owner with its host and its desk."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.desk = Desk(ME, 30.0, self.host.send, lambda wires: b"", Timers())
        super().__init__(self.host, self.desk, Atomic(self.host, 30.0))

    @property
    def now(self) -> float:
        return self.host.now

    def get(self, member: bytes = A, request: int = 1, patience: float = 30.0, key: bytes = KEY) -> list[Any]:
        """Have a member ask for a key; return the answers."""
        self.asked(Get(member, ME, request, key, patience, DEPENDENCIES), self.now)
        return self.host.take()

    def peek(self, *keys: bytes) -> list[Any]:
        """Have a member look for keys; return the answers."""
        self.asked(Peek(A, ME, 1, 0.25, b"", keys), self.now)
        return self.host.take()

    def keep(self, key: bytes = KEY, payload: bytes = b"1", tags: tuple[str, ...] = ()) -> None:
        """Have an entry in the shard."""
        self.host.shard[key] = Entry(key, payload, self.now - 2.0, self.now + 10.0, tags)

    def fill(self, token: int = 1, payload: bytes = b"1", tags: tuple[str, ...] = ()) -> list[Any]:
        """Have A fill a value in; return what is sent for it."""
        self.filled(Fill(A, ME, KEY, token, payload, 300.0, 0.0, tags), self.now)
        return self.host.take()

    def write(self, request: int = 1, payload: bytes = b"1", after: int = 0, settle: bool = False,
              key: bytes = KEY) -> list[Any]:  # fmt: skip
        """Have A set a value; return what is sent for it."""
        self.set(Set(A, ME, request, key, payload, 300.0, settle, after, ("t",)), self.now)
        return self.host.take()


@pytest.fixture
def shop() -> Shop:
    return Shop()


# --- Gets


def test_value_comes_with_its_age_and_the_time_that_it_has_left(shop: Shop) -> None:
    shop.keep(tags=("t",))
    assert shop.get() == [Value(ME, A, 1, b"1", 2.0, 10.0, True, ("t",))]
    shop.host.current = False
    assert shop.get() == [Value(ME, A, 1, b"1", 2.0, 10.0, False, ("t",))]


def test_missing_key_is_loaded_by_the_first_who_asks(shop: Shop) -> None:
    assert shop.get(A) == [Load(ME, A, 1, 1)]
    assert shop.get(B) == [Wait(ME, B, 1), Wait(ME, A, 1)]


def test_entry_without_its_bytes_cannot_be_handed_over(shop: Shop) -> None:
    shop.keep()
    shop.host.shard[KEY].payload = None
    assert shop.get() == [Load(ME, A, 1, 1)]
    assert shop.peek(KEY) == [Found(ME, A, 1, True, False, ())]


def test_request_waits_until_what_it_depends_on_is_applied(shop: Shop) -> None:
    shop.keep()
    shop.host.applied = False
    assert shop.get() == []
    shop.retry(shop.now)
    assert shop.host.take() == []
    shop.host.applied = True
    shop.host.shard.clear()  # by what was applied
    shop.retry(shop.now)
    assert shop.host.take() == [Load(ME, A, 1, 1)]
    shop.retry(shop.now)
    assert shop.host.take() == []


def test_request_that_depends_on_what_can_never_be_applied_is_refused(shop: Shop) -> None:
    shop.keep()
    shop.host.applied = None
    assert shop.get() == [Alone(ME, A, 1)]
    assert shop.peek(KEY) == [Found(ME, A, 1, False, False, ())]
    shop.host.applied = False
    assert shop.get() == []
    shop.host.applied = None
    shop.retry(shop.now)
    assert shop.host.take() == [Alone(ME, A, 1)]


def test_request_that_waits_for_events_is_forgotten_with_its_asker(shop: Shop) -> None:
    """Or a member that is gone would be given a token, and hold everybody up until it lapses."""
    shop.host.applied = False
    shop.get(A)
    shop.get(B)
    shop.left(A, shop.now)
    shop.cancel(B, 1, shop.now)
    shop.host.applied = True
    shop.retry(shop.now)
    assert shop.host.take() == []
    assert shop.get(B, 2) == [Load(ME, B, 2, 1)]


def test_cancel_of_one_get_touches_no_other_request(shop: Shop) -> None:
    shop.host.applied = False
    shop.get(A, 1)
    shop.get(A, 2, key=KEY2)
    shop.asked(Peek(A, ME, 1, 0.25, DEPENDENCIES, (KEY,)), shop.now)
    shop.cancel(A, 1, shop.now)
    shop.host.applied = True
    shop.retry(shop.now)
    assert shop.host.take() == [Load(ME, A, 2, 1), Found(ME, A, 1, True, False, ())]


def test_request_that_waits_for_events_longer_than_its_asker_is_dropped(shop: Shop) -> None:
    shop.keep()
    shop.host.applied = False
    shop.get(patience=0.25)
    shop.host.applied = True
    shop.retry(shop.now + 0.25)
    assert shop.host.take() == []


def test_requests_that_wait_for_events_are_bounded(shop: Shop) -> None:
    shop.keep()
    shop.host.applied = False
    for n in range(MAX_PARKED):
        assert shop.get(request=n, patience=math.inf) == []
    assert shop.get(request=MAX_PARKED) == [Alone(ME, A, MAX_PARKED)]
    shop.host.applied = True
    shop.retry(shop.now)
    assert len(shop.host.take()) == MAX_PARKED


def test_what_requests_depend_on_is_bounded_and_so_is_their_wait(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "MAX_PARKED_POSITIONS", 2)
    shop.host.applied = False
    assert [shop.get(request=n, patience=math.inf) for n in range(3)] == [[], [], [Alone(ME, A, 2)]]
    shop.host.now += 60.0
    shop.retry(shop.now)
    assert shop.get(request=3) == []


# --- Fills


def test_fill_is_stored_and_given_to_who_waits(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.host.now += 5.0
    assert shop.fill(tags=("t",)) == [Value(ME, B, 1, b"1", 5.0, 300.0, True, ("t",))]
    entry = shop.host.shard[KEY]
    assert (entry.loaded_at, entry.expires) == (100.0, shop.now + 300.0), "the age counts from the grant"
    assert len(shop.desk) == 0


def test_fill_that_is_older_than_its_token_says_so_itself(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.host.now += 5.0
    shop.filled(Fill(A, ME, KEY, 1, b"1", 300.0, 2.0, ()), shop.now)
    assert shop.host.take() == [Value(ME, B, 1, b"1", 7.0, 300.0, True, ())]
    assert shop.host.shard[KEY].loaded_at == 98.0


def test_fill_under_a_token_that_does_not_stand_is_refused(shop: Shop) -> None:
    shop.get(A)
    shop.desk.pass_on(KEY, shop.now, 1)
    assert shop.fill() == []
    assert shop.host.shard == {}
    assert shop.host.counters.fills_refused == 1


def test_fill_is_refused_if_one_of_its_tags_was_hit_and_the_next_in_line_loads(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.host.moment = 3
    shop.host.tag_moments["t"] = 3
    assert shop.fill(tags=("t",)) == [Load(ME, B, 1, 2)]
    assert shop.host.shard == {}


def test_fill_to_an_owner_that_is_behind_is_kept_and_handed_to_nobody(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.host.current = False
    assert shop.fill() == [Alone(ME, B, 1)]
    assert KEY in shop.host.shard


def test_fill_to_an_owner_that_is_not_established_is_not_kept(shop: Shop) -> None:
    shop.get(A)
    shop.host.established = shop.host.current = False
    shop.fill()
    assert shop.host.shard == {}


def test_fill_that_the_shard_does_not_take_reaches_who_waits_all_the_same(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.host.shard_takes = False
    assert shop.fill() == [Value(ME, B, 1, b"1", 0.0, 300.0, True, ())]


def test_token_of_a_reader_that_has_gone_is_passed_on(shop: Shop) -> None:
    shop.get(A)
    shop.get(B)
    shop.left(A, shop.now)
    assert shop.host.take() == [Load(ME, B, 1, 2)]
    assert shop.fill() == []
    assert shop.host.shard == {}


# --- Sets


def test_set_is_announced_then_stored_and_answered(shop: Shop) -> None:
    assert shop.write() == [Stored(ME, A, 1, 1, True)]
    assert shop.host.announced == [(key_target(KEY),)]
    entry = shop.host.shard[KEY]
    assert (entry.payload, entry.tags) == (b"1", ("t",))
    assert entry.loaded_at == -math.inf, "nobody says when it was read from the source: never served while behind"
    assert shop.get() == [Value(ME, A, 1, b"1", math.inf, 300.0, True, ("t",))]


def test_late_duplicate_of_a_set_does_not_bring_an_old_value_back(shop: Shop) -> None:
    shop.write(1, b"1")
    shop.write(2, b"2")
    announced = len(shop.host.announced)
    assert shop.write(1, b"1") == []
    assert shop.write(2, b"2") == []
    assert shop.host.shard[KEY].payload == b"2"
    assert len(shop.host.announced) == announced


def test_set_that_its_writer_has_given_up_is_announced_and_not_kept(shop: Shop) -> None:
    """Its invalidation, event 4 of A, was applied here first, and others may have hit the key since."""
    shop.host.hits = {(A, 4)}
    assert shop.write(1, after=3) == [Stored(ME, A, 1, 1, False)]
    assert shop.host.announced == [(key_target(KEY),)]
    assert shop.host.shard == {}
    assert shop.write(2, after=4) == [Stored(ME, A, 2, 2, True)]


def test_set_to_an_owner_that_is_behind_is_announced_and_not_kept(shop: Shop) -> None:
    shop.keep(payload=b"0")
    shop.host.current = False
    assert shop.write() == [Stored(ME, A, 1, 1, False)]
    assert shop.host.shard == {}, "what was there must go"


def test_set_that_is_too_large_is_announced_and_not_kept(shop: Shop) -> None:
    shop.host.shard_takes = False
    assert shop.write() == [Stored(ME, A, 1, 1, False)]


def test_numbers_of_sets_are_each_writers_own_and_go_with_it(shop: Shop) -> None:
    shop.write(9)
    shop.set(Set(B, ME, 1, KEY2, b"1", 300.0, False, 0, ()), shop.now)
    assert shop.host.take() == [Stored(ME, B, 1, 2, True)]
    shop.left(A, shop.now)
    assert shop.write(1) != [], "nothing is kept for those who are gone"


def test_set_is_settled_when_its_event_is(shop: Shop) -> None:
    shop.write(1, settle=True)
    ((number, settle),) = shop.host.receipts
    assert number == 1
    settle(Receipt(("host/1", "host/2"), ("host/3",), True, 0.5))
    settled = Settled(ME, A, 1, True, 0.5, 2, ("host/1", "host/2", "host/3"))
    assert shop.host.take() == [settled]


def test_sets_beyond_the_limit_are_stored_and_promise_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "MAX_SETTLING", 1)
    assert shop.write(1, settle=True) == [Stored(ME, A, 1, 1, True)]
    assert shop.write(2, settle=True) == [Stored(ME, A, 2, 2, True), Settled(ME, A, 2, False, 0.0, 0, ())]
    shop.host.receipts[0][1](Receipt((), (), True, 0.0))
    shop.host.take()
    assert shop.write(3, settle=True) == [Stored(ME, A, 3, 3, True)]


# --- Peeks


def test_peek_finds_what_is_there_and_makes_nobody_load(shop: Shop) -> None:
    shop.keep(KEY2, b"2", ("t",))
    (found,) = shop.peek(KEY, KEY2)
    assert (found.current, found.more) == (True, False)
    (record,) = map(unpack_record, found.records)
    assert record == (1, b"2", 2.0, 10.0, ("t",))
    assert len(shop.desk) == 0
    shop.host.current = False
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
