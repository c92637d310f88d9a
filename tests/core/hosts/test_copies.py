"""Copies between hosts: what is offered, pulled, harvested and handed over, and that none of it can be stale.

Hosts over plain memory, whose requests a test delivers when it wants to.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import pytest

from colocache.core.host.claims import HINT_WORDS, HINTS, Claims, Sleep
from colocache.core.host.hashes import ANY_TAG, ROOT, WRITES, key_hash, tag_hash
from colocache.core.host.record import Miss, Record
from colocache.core.hosts import layout
from colocache.core.hosts.copies import WARM, Copies
from colocache.core.hosts.dependencies import OVER, Dependencies, dependencies
from colocache.core.hosts.event import KEYS, Event, Position
from colocache.core.hosts.event import WRITES as EVENT_OF_A_WRITE
from colocache.core.hosts.gateway import Times
from colocache.core.hosts.lease import FOREVER
from colocache.core.hosts.log import HostLog
from colocache.core.hosts.offers import MOST_BYTES, Offers
from colocache.core.hosts.owner import Hooks, HostMemory, Owner
from colocache.core.hosts.requests import (
    MAX_OFFERED,
    SLOT_BYTES,
    Answer,
    Done,
    Found,
    Get,
    Granted,
    Harvest,
    Held,
    Key,
    Missing,
    Offer,
    Put,
    Refused,
    Request,
    decode_answer,
    decode_request,
    encode,
)
from colocache.core.hosts.rows import APPLIED, TOLD, Incarnation, Row
from colocache.core.hosts.rows import Host as Known
from colocache.core.hosts.taking import SLOWER_CLOCK, Asked, Taker
from tests.core.host.shelves import Host, Locks
from tests.core.hosts.test_grants import Bytes

LOAD_TIMEOUT = 10.0


class Group:
    """Hosts, and what is under way between them."""

    def __init__(self, count: int) -> None:
        self.under_way: list[Callable[[], object]] = []
        self.lost: set[Incarnation] = set()
        self.members = [Member(self, number) for number in range(1, count + 1)]
        for member in self.members:
            for other in self.members:
                if other is not member:
                    member.row.meet(Known(other.id, f"h{other.id[0]}", "", 1, ""), 1)

    def deliver(self) -> None:
        """Deliver everything that is under way, and what it leads to, until nothing is left to do at once."""
        while True:
            for member in self.members:
                member.owner.run()
            if self.under_way:
                self.under_way.pop(0)()
            elif not any(member.owner.has_work for member in self.members):
                return


class Member:
    """A host with its owner, and the others as it sees them: all own in the order of ``order``."""

    def __init__(self, group: Group, number: int) -> None:
        self.group, self.id = group, bytes([number]) * 16
        self.host = Host(256 << 10)
        self.process = self.host.process()
        hints, words = array("Q", bytes(8 * HINTS * HINT_WORDS)), array("Q", bytes(8 * layout.WORDS))
        self.shelf, self.board = self.process.shelf, self.process.board
        self.log = HostLog(words, Locks({}), self.process.fences, lambda lane: True)
        self.row = Row(words, self.process.fences, 0)
        self.order: Callable[[bytes], list[Incarnation]] = lambda wire: [each.id for each in group.members]
        self.shelf._announcer = self
        self.warm_until = 0.0
        self.taker = Taker(self.board, self.shelf, self.process.fences)
        self.roused = 0
        self.offers = Offers(self.id, 2, self.shelf, self.log, self, self._rouse)
        self.copies = Copies(self.id, self.taker, self.shelf, self.log, FOREVER, self, lambda: self.host.now)
        claims = Claims(self.shelf, Bytes({}), hints, self.process.numbers, self.process.fences, lambda hash: None)
        self.owner = Owner(
            self.id,
            HostMemory(words, self.row, self.log, self.board, self.shelf, claims, self.process.fences, FOREVER),
            Times(), lambda: self.host.now, LOAD_TIMEOUT, Hooks(), self.copies, self.offers,
        )  # fmt: skip

    def _rouse(self) -> None:
        self.roused += 1

    # --- The announcer of the shelf

    def announce(self, hash: int, /) -> Position:
        """Announce a write."""
        return self.log.append(Event(EVENT_OF_A_WRITE, (hash,)))

    def done(self, announced: object, /) -> None:
        """Note that it is stamped."""
        assert isinstance(announced, Position)
        self.log.mark_stamped(announced)

    # --- The others, for `Copies` and `Offers`

    def owners(self, wire: bytes, count: int, /) -> list[Incarnation]:
        """Return who is to have a key."""
        return self.order(wire)[:count]

    def everybody(self) -> list[Incarnation]:
        """Return all others."""
        return [each.id for each in self.group.members if each is not self]

    def own_slots(self) -> bytes:
        """Return all slots."""
        return b"\xff" * SLOT_BYTES

    def slot(self, wire: bytes, /) -> int:
        """Return the slot of a key."""
        return len(wire)

    def dependencies(self) -> Dependencies:
        """Return what a fetch depends on."""
        return dependencies(self.id, self.row, self.log, 1)

    def ask_all(
        self, asked: Sequence[tuple[Incarnation, Request]], timeout: float, /
    ) -> Generator[Sleep, Any, list[Answer | None]]:
        """Ask several hosts, once the test delivers that."""
        answers: list[Answer | None] = [None] * len(asked)
        missing = len(asked)

        def ask(waiter: Callable[[Any], object]) -> None:
            def take(place: int, frame: bytes | None) -> None:
                nonlocal missing
                answers[place] = None if frame is None else decode_answer(frame)
                missing -= 1
                if not missing:
                    waiter(None)

            def send(place: int, to: Incarnation, frame: bytes) -> None:
                if to in self.group.lost:
                    take(place, None)
                else:
                    self.group.members[to[0] - 1].owner.serve(frame, lambda answer: take(place, answer))

            for place, (to, request) in enumerate(asked):
                self.group.under_way.append(partial(send, place, to, encode(request)))

        yield Sleep(ask, timeout)
        return answers

    # --- What a test does

    def store(self, wire: bytes, payload: bytes = b"old", hashes: Sequence[int] = (ROOT,)) -> None:
        """Have a value that was loaded."""
        miss = self.shelf.look(wire, key_hash(wire), hashes, self.host.now)
        assert isinstance(miss, Miss)
        self.shelf.fill(wire, key_hash(wire), payload, miss, math.inf)

    def get(self, wire: bytes) -> bytes | None:
        """Return what readers of this host find."""
        record = self.shelf.find(wire, key_hash(wire), self.host.now)
        return None if record is None else bytes(record.payload)

    def ask(self, request: Request) -> Answer:
        """Return the answer to a request of another host."""
        answers: list[bytes] = []
        self.owner.serve(encode(request), answers.append)
        self.group.deliver()
        return decode_answer(answers[0])

    def invalidate(self, wire: bytes) -> None:
        """Do what a writer on this host does."""
        position = self.log.append(Event(KEYS, (key_hash(wire),)))
        self.board.invalidate((key_hash(wire),))
        self.log.mark_stamped(position)

    def hear(self, other: Member, wire: bytes, *, write: bool = False) -> None:
        """Apply the last event of another host."""
        for lane, number in other.log.lasts().items():
            self.row.raise_to(other.id, TOLD + lane, number)
            self.board.invalidate((key_hash(wire) ^ WRITES if write else key_hash(wire),))
            self.row.raise_to(other.id, APPLIED + lane, number)


@pytest.fixture
def group() -> Group:
    """Three hosts, each of which takes the first for the owner of all keys."""
    return Group(3)


def offer(member: Member) -> list[tuple[Incarnation, Offer]]:
    """Return what a host offers now."""
    return member.offers.take(member.host.now)


# --- Offers


def test_what_was_set_is_offered_to_the_next_host_which_then_has_it(group: Group) -> None:
    one, two, three = group.members
    assert one.ask(Put(Key(b"k", (ROOT,)), b"v", math.inf, False)) == Done(
        "STORED", None, False, one.log.lasts(), one.id
    )
    [(to, offered)] = offer(one)
    assert (to, offered.keys) == (two.id, (Key(b"k", (ROOT,)),))
    two.hear(one, b"k", write=True)
    assert two.ask(offered) == Done("STORED")
    assert (two.get(b"k"), three.get(b"k"), two.copies.pulled) == (b"v", None, 1)


def test_a_value_is_offered_once(group: Group) -> None:
    one = group.members[0]
    one.store(b"k")
    one.offers.note(b"k")
    one.offers.note(b"k")
    assert len(offer(one)[0][1].keys) == 1
    one.offers.note(b"k")
    assert offer(one) == []


def test_a_quick_load_is_offered_once_another_host_has_fetched_it(group: Group) -> None:
    one = group.members[0]
    one.store(b"k")
    one.offers.loaded(b"k", 0.009)
    assert one.offers.due == math.inf
    assert isinstance(one.ask(Get(Key(b"k", (ROOT,)), {}, False, 0.0)), Found)
    assert one.offers.due == 0.0
    assert len(offer(one)) == 1


def test_a_slow_load_is_offered_and_all_are_if_that_is_wanted(group: Group) -> None:
    one = group.members[0]
    one.store(b"k")
    one.offers.loaded(b"k", 0.01)
    assert len(offer(one)) == 1
    every = Offers(one.id, 2, one.shelf, one.log, one, one._rouse, all=True)
    every.loaded(b"k", 0.0)
    assert len(every.take(0.0)) == 1


def test_only_the_owner_offers_and_only_what_it_still_has(group: Group) -> None:
    one, two, _ = group.members
    for member in (one, two):
        member.store(b"k")
        member.offers.note(b"k")
    two.store(b"void")
    one.offers.note(b"void")
    assert offer(two) == []
    one.invalidate(b"k")
    assert offer(one) == []


def test_with_one_copy_of_each_nothing_is_noted(group: Group) -> None:
    one = group.members[0]
    alone = Offers(one.id, 1, one.shelf, one.log, one, one._rouse)
    alone.note(b"k")
    assert (alone.due, one.roused) == (math.inf, 0)


def test_offers_are_bounded_and_the_rest_comes_later(group: Group) -> None:
    one = group.members[0]
    for number in range(MAX_OFFERED + 1):
        one.store(b"k%d" % number, b"v")
        one.offers.note(b"k%d" % number)
    assert [len(each.keys) for _, each in offer(one)] == [MAX_OFFERED]
    assert one.offers.due == one.host.now + 0.05
    assert [len(each.keys) for _, each in offer(one)] == [1]
    assert one.shelf.max_value <= MOST_BYTES


# --- Pulled copies are never stale


def test_an_event_before_the_pull_that_the_copy_host_has_heard(group: Group) -> None:
    """C has stamped the event. So it names it, and O, which has not applied it, answers nothing."""
    one, two, three = group.members
    one.store(b"k")
    one.offers.note(b"k")
    [(_, offered)] = offer(one)
    three.invalidate(b"k")
    two.hear(three, b"k")
    two.owner.serve(encode(offered), lambda answer: None)
    group.deliver()
    one.host.now += 1.0  # O gives up waiting for the event
    group.deliver()
    assert two.get(b"k") is None
    one.hear(three, b"k")
    two.ask(offered)
    assert (one.get(b"k"), two.get(b"k")) == (None, None)


def test_an_event_between_the_question_and_the_answer(group: Group) -> None:
    """With stamps that are read after the answer, the old value would stand at C for good."""
    one, two, three = group.members
    one.store(b"k")
    one.offers.note(b"k")
    [(_, offered)] = offer(one)
    two.owner.serve(encode(offered), lambda answer: None)
    [ask] = group.under_way
    group.under_way.clear()
    ask()  # O has answered the old value, and C has not taken it
    three.invalidate(b"k")
    one.hear(three, b"k")
    two.hear(three, b"k")
    group.deliver()
    assert two.copies.pulled == 1
    assert two.get(b"k") is None


def test_a_tag_that_the_offer_does_not_name_is_invalidated_between_them(group: Group) -> None:
    """Its stamps are read with the answer, when they may be those after the event."""
    one, two, _ = group.members
    tag = tag_hash("t")
    one.store(b"k", hashes=(ROOT, tag))
    asked = two.taker.look(b"k", (ROOT,), two.host.now)
    assert isinstance(asked, Asked)
    answer = one.ask(Get(asked.key, {}, False, 0.0))
    assert isinstance(answer, Found)
    assert answer.hashes == (tag,)
    two.board.invalidate((ANY_TAG, tag))
    assert two.taker.keep(asked, answer).version == 0
    assert two.get(b"k") is None


def test_stamps_come_before_what_is_told(group: Group) -> None:
    """An event that is told and stamped between the two must be named, and not only be in the stamps."""
    _, two, three = group.members
    three.invalidate(b"k")
    looked = two.taker.look

    def look(wire: bytes, hashes: Sequence[int], now: float) -> Asked | Record:
        asked = looked(wire, hashes, now)
        two.hear(three, b"k")
        return asked

    two.taker.look = look  # type: ignore[method-assign]
    flow = two.copies.pull(group.members[0].id, [Key(b"k", (ROOT,))])
    step = next(flow)
    assert isinstance(step, Sleep)
    requests: list[bytes] = []
    group.members[0].owner.serve = lambda frame, reply: requests.append(frame)  # type: ignore[method-assign]
    step.register(lambda woken: None)
    group.deliver()
    asked = decode_request(requests[0])
    assert asked.depends[three.id] == three.log.lasts()  # type: ignore[union-attr]


def test_what_is_taken_is_as_old_as_where_it_comes_from_and_a_bit(group: Group) -> None:
    """A host that is behind serves what is young. If what it takes was new, it would serve it for one lease more."""
    one, two, _ = group.members
    one.store(b"k")
    one.host.now += 2.0
    one.offers.note(b"k")
    [(_, offered)] = offer(one)
    two.ask(offered)
    record = two.shelf.find(b"k", key_hash(b"k"), two.host.now)
    assert record is not None
    assert record.loaded == pytest.approx(two.host.now - 2.0 * SLOWER_CLOCK)


def test_an_offer_waits_for_the_write_that_it_is_about(group: Group) -> None:
    """C has an older copy, which stands until it hears of the write. It must not take that for what is offered."""
    one, two, _ = group.members
    two.store(b"k", b"older")
    one.ask(Put(Key(b"k", (ROOT,)), b"new", math.inf, False))
    [(_, offered)] = offer(one)
    answers: list[bytes] = []
    two.owner.serve(encode(offered), answers.append)
    group.deliver()
    assert answers == []
    two.hear(one, b"k", write=True)
    two.host.now += 0.01
    group.deliver()
    assert (two.get(b"k"), len(answers)) == (b"new", 1)


def test_a_host_that_is_behind_pulls_nothing(group: Group) -> None:
    one, two, _ = group.members
    one.store(b"k")

    class Behind:
        known = -math.inf

        def until(self, now: float) -> float:
            return now

        def loaded_after(self, now: float) -> float:
            return now - 3.0

    copies = Copies(two.id, two.taker, two.shelf, two.log, Behind(), two, lambda: two.host.now)
    with pytest.raises(StopIteration) as end:
        next(copies.pull(one.id, [Key(b"k", (ROOT,))]))
    assert end.value.value == 0


# --- A host that has just joined


def test_who_owns_a_key_and_misses_it_asks_the_next_host_before_it_grants(group: Group) -> None:
    one, two, _ = group.members
    two.store(b"k")
    one.warm_until = one.host.now + WARM
    one.owner._harvests = True
    answer = one.ask(Get(Key(b"k", (ROOT,)), {}, True, 1.0))
    assert isinstance(answer, Found)
    assert (answer.payload, one.get(b"k")) == (b"old", b"old")


def test_it_grants_if_the_next_host_has_nothing_or_is_lost_and_the_next_host_grants_nothing(group: Group) -> None:
    one, two, _ = group.members
    one.warm_until = one.host.now + WARM
    one.owner._harvests = True
    served: list[Request] = []
    serve = two.owner.serve

    def watch(frame: bytes, reply: Callable[[bytes], object]) -> None:
        served.append(decode_request(frame))
        serve(frame, reply)

    two.owner.serve = watch  # type: ignore[method-assign]
    assert isinstance(one.ask(Get(Key(b"a", (ROOT,)), {}, True, 1.0)), Granted)
    (peek,) = served
    assert isinstance(peek, Get)
    assert not peek.leads
    group.lost.add(two.id)
    assert isinstance(one.ask(Get(Key(b"b", (ROOT,)), {}, True, 1.0)), Granted)


def test_later_it_asks_nobody(group: Group) -> None:
    one, two, _ = group.members
    two.store(b"k")
    one.warm_until = one.host.now
    assert isinstance(one.ask(Get(Key(b"k", (ROOT,)), {}, True, 1.0)), Granted)


def test_a_copy_host_says_what_it_has_and_never_grants(group: Group) -> None:
    _, two, _ = group.members
    assert isinstance(two.ask(Get(Key(b"k", (ROOT,)), {}, False, 0.0)), Missing)
    assert two.owner._grants == {}


def test_a_peek_that_an_event_overtakes_is_not_kept(group: Group) -> None:
    one, two, three = group.members
    two.store(b"k")
    one.warm_until = one.host.now + WARM
    one.owner._harvests = True
    one.owner.serve(encode(Get(Key(b"k", (ROOT,)), {}, False, 0.0)), lambda answer: None)
    [peek] = group.under_way
    group.under_way.clear()
    peek()
    three.invalidate(b"k")
    one.hear(three, b"k")
    group.deliver()
    assert one.get(b"k") is None


def test_a_peek_names_what_is_told(group: Group) -> None:
    """C, which is peeked at, has not heard of an event that this host has stamped."""
    one, two, three = group.members
    two.store(b"k")
    three.invalidate(b"k")
    one.hear(three, b"k")
    one.warm_until = one.host.now + WARM
    one.owner._harvests = True
    answers: list[bytes] = []
    one.owner.serve(encode(Get(Key(b"k", (ROOT,)), {}, False, 0.0)), answers.append)
    group.deliver()
    two.host.now += 1.0  # C gives up waiting for the event
    group.deliver()
    assert isinstance(decode_answer(answers[0]), Missing)
    assert one.get(b"k") is None


def test_the_harvest_pulls_what_others_have_used_values_first(group: Group) -> None:
    one, two, three = group.members
    for number in range(100):
        two.store(b"two %d" % number)
        three.store(b"three %d" % number)
    for _ in range(2):
        two.get(b"two 7")
    asked: list[Key] = []
    looked = one.taker.look

    def look(wire: bytes, hashes: Sequence[int], now: float) -> Asked | Record:
        asked.append(Key(wire, tuple(hashes)))
        return looked(wire, hashes, now)

    one.copies._taker.look = look  # type: ignore[method-assign]
    one.warm_until = one.host.now + WARM
    for _ in range(1000):
        group.deliver()
        for member in group.members:
            member.host.now += 0.005
        if one.copies.pulled == 200:
            break
    assert one.get(b"two 99") == one.get(b"three 99") == b"old"
    assert asked[0].wire == b"two 7"


def test_a_harvest_names_only_the_slots_that_are_asked_for(group: Group) -> None:
    two = group.members[1]
    two.store(b"abc")
    two.store(b"abcd")
    slots = bytearray(SLOT_BYTES)
    slots[0] = 1 << 4  # the slot of a key is its length here
    answers: list[bytes] = []
    two.owner.serve(encode(Harvest(bytes(slots), 0, False)), answers.append)
    for _ in range(1000):
        two.host.now += 0.005
        group.deliver()
        if answers:
            break
    assert decode_answer(answers[0]) == Held((Key(b"abcd", (ROOT,)),), 0)


# --- A host that leaves


def test_a_host_that_leaves_hands_over_what_it_owns_to_the_next(group: Group) -> None:
    one, two, three = group.members
    for number in range(300):  # more than one offer has
        one.store(b"mine %d" % number)
    one.store(b"other's")
    own = one.order
    one.order = lambda wire: own(wire) if wire.startswith(b"mine") else [two.id, one.id]
    one.owner.hand_over(one.host.now + 1.0)
    assert one.owner.is_handing_over
    group.deliver()
    assert not one.owner.is_handing_over
    assert one.copies.handed_over == 300
    assert all(two.get(b"mine %d" % number) == b"old" for number in range(300))
    assert two.get(b"other's") is None
    assert three.copies.pulled == 0


def test_a_host_that_leaves_waits_for_nobody_for_ever(group: Group) -> None:
    one = group.members[0]
    one.store(b"k")
    one.owner.hand_over(one.host.now)
    group.deliver()
    assert not one.owner.is_handing_over


def test_a_host_that_is_over_is_no_reason_to_refuse(group: Group) -> None:
    """Its end was applied, as its events were."""
    one, two, three = group.members
    one.store(b"k")
    one.row.end(three.id, None, 1)
    assert isinstance(one.ask(Get(Key(b"k", (ROOT,)), {three.id: OVER}, False, 0.0)), Found)
    assert isinstance(two.ask(Offer(one.id, (), {one.id: {}})), Done | Refused)
