"""One load of a missing key on a host. The flows are driven by hand, in several processes, with times of the test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator
from typing import Any

import pytest

from colocache.core.host import hashes
from colocache.core.host.claims import (
    AGAIN,
    FIRST_PAUSE,
    HINT_WORDS,
    HINTS,
    LAST_PAUSE,
    MOST_FAILURES,
    PAUSE_FOR_EACH,
    Claims,
    Lead,
    Load,
    Sleep,
    Value,
    _place,
)
from colocache.core.host.memory import HostLease
from colocache.core.host.record import Miss, Outcome, Record
from colocache.core.hosts.lease import FOREVER
from tests.core.leases import LEASE, WordLease
from tests.interrupts import interrupted

from . import shelves

KEY = b"key"
HASH = hashes.key_hash(KEY)
ROOT = (hashes.ROOT,)
TAG = hashes.tag_hash("t")
PATIENCE = 10.0


class Kernel:
    """Who has which byte. It frees those of the dead."""

    def __init__(self) -> None:
        self.bytes: dict[int, Process] = {}
        self.before: Callable[[], object] = lambda: None  # something that happens before the next byte is taken
        self.after: Callable[[], object] = lambda: None  # after the next one is freed

    def free_all(self, process: Process) -> None:
        """Free the bytes of a process that dies."""
        for place in [place for place, holder in self.bytes.items() if holder is process]:
            del self.bytes[place]


class Process:
    """One process of the host, with its claims. ``told`` are the hashes that it has had woken everywhere."""

    def __init__(self, host: Host) -> None:
        self.host = host
        process = host.shelves.process()
        self.shelf, self.board = process.shelf, process.board
        self.told: list[int] = []
        self.claims = Claims(process.shelf, self, host.hints, process.numbers, process.fences, self.told.append)

    def take(self, place: int) -> bool:
        """Take a byte."""
        before, self.host.kernel.before = self.host.kernel.before, lambda: None
        before()
        assert 0 < place < 1 << 63
        return self.host.kernel.bytes.setdefault(place, self) is self

    def free(self, place: int) -> None:
        """Free a byte. That may be done again."""
        assert self.host.kernel.bytes.pop(place, self) is self
        after, self.host.kernel.after = self.host.kernel.after, lambda: None
        after()

    def is_taken(self, place: int) -> bool:
        """Tell whether anybody has a byte."""
        return place in self.host.kernel.bytes

    def call(self, patience: float = PATIENCE, things: tuple[int, ...] = ROOT) -> Call:
        """Begin to look for the key."""
        return Call(self, patience, things)

    def dies(self) -> None:
        """Do nothing any more."""
        self.host.kernel.free_all(self)

    def is_idle(self) -> bool:
        """Tell whether nothing is left of any call."""
        return not self.claims._loads and not self.claims._sleepers


class Host:
    """The memory of a host, its time, and its kernel."""

    def __init__(self, lease: HostLease = FOREVER) -> None:
        self.shelves = shelves.Host(1 << 20, lease=lease)
        self.hints = memoryview(bytearray(8 * HINTS * HINT_WORDS)).cast("Q")
        self.kernel = Kernel()

    @property
    def now(self) -> float:
        """The time."""
        return self.shelves.now

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.shelves.now += seconds

    def event(self, *things: int) -> None:
        """Invalidate something."""
        self.shelves.board.invalidate(things or (HASH,))


class Call:
    """A call of a thread, until its flow ends. ``step`` is what it waits for, and ``outcome`` what has come of it."""

    def __init__(self, process: Process, patience: float, things: tuple[int, ...]) -> None:
        self.process = process
        self.load: Load | None = None
        self.step: Sleep | None = None
        self.outcome: Any = None
        self.woken_by: list[Any] = []
        now = process.host.now
        self.flow: Generator[Sleep, Any, Any] = process.claims.find_or_lead(self, KEY, HASH, things, now, patience)
        self._advance(lambda: next(self.flow))

    def _advance(self, step: Callable[[], Sleep]) -> None:
        self.woken_by = []
        try:
            self.step = step()
        except StopIteration as end:
            self.step, self.outcome = None, end.value
        else:
            assert self.step.seconds >= 0
            self.on_sleep()

    def on_sleep(self) -> None:
        """Begin to wait."""
        assert self.step is not None
        self.step.register(self.woken_by.append)

    @property
    def waits(self) -> bool:
        """Whether it waits, and nobody has woken it."""
        return self.step is not None and not self.woken_by

    @property
    def leads(self) -> bool:
        """Whether it has the duty to load."""
        return isinstance(self.outcome, Lead)

    def go_on(self) -> None:
        """Let it go on: it was woken, or its time is over."""
        woken = self.woken_by[0] if self.woken_by else None
        self._advance(lambda: self.flow.send((self.process.host.now, woken)))

    def sleep(self) -> None:
        """Let the time pass for which it wants to wait, and let it go on."""
        assert self.waits
        assert self.step is not None
        self.process.host.passes(self.step.seconds)
        self.go_on()

    def end(self, value: str | None) -> Outcome | None:
        """End the load: with a value, which is stored, or without any. Return what came of it on the shelf."""
        lead, outcome = self.outcome, None
        assert isinstance(lead, Lead)
        if value is None:
            self.process.claims.end(lead.load, AGAIN)
        else:
            shelf = self.process.shelf
            outcome, _ = shelf.fill(KEY, HASH, value.encode(), lead.load.miss, math.inf)
            self.process.claims.end(lead.load, Value(value))
        return outcome

    def give_back(self) -> None:
        """Do what every call does at its end."""
        if self.load is not None:
            self.process.claims.end(self.load, AGAIN)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def one(host: Host) -> Process:
    return Process(host)


@pytest.fixture
def two(host: Host) -> Process:
    return Process(host)


# --- C1: in one process, threads join one load


def test_c1_threads_of_one_process_join_one_load(host: Host, one: Process) -> None:
    first, *others = (one.call() for _ in range(3))
    assert first.leads
    assert [other.waits for other in others] == [True, True]
    assert len(host.kernel.bytes) == 1
    first.end("value")
    for other in others:
        other.go_on()
        assert other.outcome == Value("value")
    assert one.is_idle()
    assert not host.kernel.bytes


@pytest.mark.parametrize("event", [(HASH,), ROOT, (HASH ^ hashes.WRITES,)])
def test_c1_nobody_joins_a_load_that_began_before_an_event(host: Host, one: Process, event: tuple[int, ...]) -> None:
    first = one.call()
    host.event(*event)
    second = one.call()
    assert first.leads
    assert second.leads
    first.end("old")
    third = one.call()
    assert third.waits, "what was loaded before the event is nothing to whom it came later"
    second.end("new")
    third.go_on()
    assert third.outcome == Value("new")


def test_c1_nobody_joins_a_load_that_depends_on_something_else(one: Process) -> None:
    assert one.call().leads
    assert one.call(things=(hashes.ROOT, TAG)).leads


def test_c1_two_processes_do_not_join(one: Process, two: Process) -> None:
    assert one.call().leads
    waiter = two.call()
    assert waiter.waits
    assert waiter.step is not None
    assert waiter.step.seconds == FIRST_PAUSE


# --- C2: what is on the shelf is served


def test_c2_what_is_on_the_shelf_is_served_and_nothing_claimed(host: Host, one: Process) -> None:
    one.shelf.set(KEY, HASH, b"set", ROOT, math.inf)
    taken: list[None] = []
    host.kernel.before = lambda: taken.append(None)
    call = one.call()
    assert isinstance(call.outcome, Record)
    assert call.outcome.payload == b"set"
    assert call.load is None
    assert not taken
    assert one.is_idle()


def test_c2_the_label_of_a_load_was_read_before_it_looked(host: Host, one: Process, two: Process) -> None:
    for at in itertools.count():
        host.event()
        steps = one.shelf._board.marks._steps  # type: ignore[attr-defined]
        steps.steps_left = at
        steps.others = lambda: two.shelf.set(KEY, HASH, b"set", ROOT, math.inf)
        call = one.call()
        happened, steps.steps_left = steps.steps_left is None, None
        if not happened:
            break
        if call.leads:
            call.end("older")
            record = two.shelf.find(KEY, HASH, host.now)
            assert record is not None
            assert record.payload == b"set"
    assert at > 20


# --- C3: whoever has the byte looks again


def test_c3_whoever_has_the_byte_looks_again_before_it_loads(host: Host, one: Process, two: Process) -> None:
    first = one.call()
    host.kernel.before = lambda: first.end("value")
    second = two.call()
    assert isinstance(second.outcome, Record)
    assert second.outcome.payload == b"value"
    assert not host.kernel.bytes
    assert one.is_idle()
    assert two.is_idle()


def test_c3_an_event_while_the_byte_is_taken_makes_the_load_void_and_no_other_one(
    host: Host, one: Process, two: Process
) -> None:
    host.kernel.before = host.event
    first = one.call()
    assert first.leads
    assert not one.board.stands(first.outcome.load.miss.label)
    second = two.call()
    assert second.leads
    assert second.end("new") is Outcome.STORED
    assert first.end("old") is Outcome.REFUSED
    assert one.is_idle()
    record = two.shelf.find(KEY, HASH, host.now)
    assert record is not None
    assert record.payload == b"new"


# --- C4: a load is stored only if nothing current is there


def test_c4_of_two_loads_at_once_the_first_one_stays(host: Host, one: Process, two: Process) -> None:
    first = one.call()
    late = two.call(patience=0.0)
    assert late.outcome == Lead(late.load, late=True)  # type: ignore[arg-type]
    assert late.end("late") is Outcome.STORED
    assert first.end("first") is Outcome.REFUSED


# --- C5: the end


def test_c5_at_the_end_the_byte_is_free_and_all_who_wait_are_told(host: Host, one: Process) -> None:
    first, second = one.call(), one.call()
    free_when_told: list[bool] = []
    assert second.step is not None
    second.step.register(lambda outcome: free_when_told.append(not host.kernel.bytes and not one.claims._loads))
    first.end("value")
    assert free_when_told == [True]


class SlowCall(Call):
    """A call whose thread has not begun to wait yet."""

    def on_sleep(self) -> None:
        """Do it later."""


def test_c5_who_begins_to_wait_at_the_very_end_is_told_at_once(one: Process) -> None:
    first, second = one.call(), SlowCall(one, PATIENCE, ROOT)
    first.end("value")
    first.give_back()
    assert second.step is not None
    second.step.register(second.woken_by.append)
    assert second.woken_by == [Value("value")]


def test_c5_to_end_a_load_twice_does_nothing(host: Host, one: Process, two: Process) -> None:
    first, second = one.call(), one.call()
    first.end("value")
    host.event()
    later = two.call()
    assert later.leads
    first.give_back()
    assert {*second.woken_by} == {Value("value")}, "the first outcome counts"
    assert len(host.kernel.bytes) == 1


class Meanwhile:
    """Words of which one is loaded or stored a moment later: something else happens before."""

    def __init__(self, words: memoryview, step: int, event: Callable[[], object]) -> None:
        self.words, self.left, self.event = words, step, event

    def _step(self) -> None:
        self.left -= 1
        if self.left == -1:
            self.event()

    def __getitem__(self, place: int) -> int:
        self._step()
        return self.words[place]

    def __setitem__(self, place: int, value: int) -> None:
        self._step()
        self.words[place] = value


def test_c5_two_may_end_a_load_at_once_as_an_orphan_and_who_loads_beside_it_do(host: Host, one: Process) -> None:
    """Found by chaos with real processes: an AssertionError came out of a call."""
    for step in itertools.count():
        call = one.call()
        load = call.load
        assert load is not None
        words = Meanwhile(host.hints, step, lambda load=load: one.claims.end(load, Value("orphan's", math.inf)))  # type: ignore[misc]
        one.claims._hints = words
        one.claims.end(load, Value("beside", math.inf))
        one.claims._hints = host.hints
        assert one.is_idle()
        assert host.kernel.bytes == {}
        assert load.outcome in (Value("orphan's", math.inf), Value("beside", math.inf))
        if words.left >= 0:  # there is no such step
            assert step > 2
            break


def test_c5_who_was_not_woken_because_of_an_exception_is_woken_when_the_load_is_ended_again(
    host: Host, one: Process
) -> None:
    """A signal handler raises in the middle of waking; then the load is ended once more."""
    for number in itertools.count(1):
        first, others = one.call(), [one.call() for _ in range(3)]
        came = interrupted(number, lambda first=first: first.end("value"), ("core/host/claims.py",))  # type: ignore[misc]
        first.give_back()
        for other in others:
            assert {*other.woken_by} in ({Value("value")}, {AGAIN})
            other.flow.close()
        assert one.is_idle
        host.event()
        if not came:
            break
    assert number > 10


def test_c5_a_call_that_was_closed_leaves_nothing_behind(host: Host, one: Process, two: Process) -> None:
    first = one.call()
    joined, waiting = one.call(), two.call()
    behind = two.call()
    for call in (joined, waiting):
        assert call.waits
        call.flow.close()
    assert not first.outcome.load.waiters
    assert behind.woken_by == [AGAIN], "it waited for the thread that waited"
    behind.go_on()
    assert behind.waits
    first.end(None)
    behind.sleep()
    assert behind.leads
    behind.end("value")
    assert one.is_idle()
    assert two.is_idle()
    assert not host.kernel.bytes


# --- C6 and C10: a load that gave nothing


def test_c10_after_a_failure_exactly_one_of_those_who_wait_loads(host: Host, one: Process, two: Process) -> None:
    first = one.call()
    joined, waiting = [one.call() for _ in range(3)], two.call()
    first.end(None)
    assert [call.woken_by for call in joined] == [[AGAIN]] * 3
    for call in joined:
        call.go_on()
    waiting.sleep()
    assert [call.leads for call in (*joined, waiting)] == [True, False, False, False]
    joined[0].end("value")
    for call in joined[1:]:
        call.go_on()
        assert call.outcome == Value("value")
    waiting.sleep()
    assert isinstance(waiting.outcome, Record)
    assert one.is_idle()
    assert two.is_idle()


# --- C7: who waits for another process


def test_c7_a_waiter_looks_again_at_growing_intervals(one: Process, two: Process) -> None:
    one.call()
    waiter, pauses = two.call(), []
    for _ in range(12):
        assert waiter.step is not None
        pauses.append(waiter.step.seconds)
        waiter.sleep()
    assert pauses[0] == FIRST_PAUSE
    assert all(later == min(2 * pause, LAST_PAUSE) for pause, later in itertools.pairwise(pauses))
    assert pauses[-1] == LAST_PAUSE


def test_c7_who_waits_for_many_keys_looks_at_each_more_seldom(one: Process, two: Process) -> None:
    class Asker:
        load: Load | None = None

    keys = [b"%d" % number for number in range(5000)]
    flows = [
        [process.claims.find_or_lead(Asker(), key, hashes.key_hash(key), ROOT, one.host.now, PATIENCE) for key in keys]
        for process in (one, two)
    ]
    for flow in flows[0]:
        with pytest.raises(StopIteration):
            next(flow)
    assert [next(flow).seconds for flow in flows[1]] == [FIRST_PAUSE + n * PAUSE_FOR_EACH for n in range(5000)]
    assert flows[1][-1].send((one.host.now, None)).seconds == 2 * FIRST_PAUSE + 4999 * PAUSE_FOR_EACH
    for flow in flows[1][1:]:
        flow.close()
    assert flows[1][0].send((one.host.now, None)).seconds == 2 * FIRST_PAUSE, "those that were cancelled do not count"
    flows[1][0].close()
    assert two.is_idle()


def test_c7_a_waiter_finds_what_was_stored_without_being_told(one: Process, two: Process) -> None:
    first, waiter = one.call(), two.call()
    first.end("value")
    assert waiter.waits
    waiter.sleep()
    assert isinstance(waiter.outcome, Record)
    assert two.is_idle()


def test_c7_a_waiter_takes_the_byte_of_a_holder_who_died(host: Host, one: Process, two: Process) -> None:
    one.call()
    waiter = two.call()
    waiter.sleep()
    assert waiter.waits
    one.dies()
    waiter.sleep()
    assert waiter.leads
    assert not waiter.outcome.late


def test_c7_an_event_makes_a_waiter_load(host: Host, one: Process, two: Process) -> None:
    first, waiter, behind = one.call(), two.call(), two.call()
    host.event()
    waiter.sleep()
    assert waiter.leads
    assert behind.woken_by == [AGAIN]
    behind.go_on()
    assert behind.waits, "it joins the new load"
    waiter.end("new")
    behind.go_on()
    assert behind.outcome == Value("new")
    first.end("old")
    assert len(host.kernel.bytes) == 0


def test_c7_the_end_of_a_load_wakes_other_processes_if_somebody_waits(one: Process, two: Process) -> None:
    first = one.call()
    assert not one.claims.is_awaited(first.outcome.load)
    waiter = two.call()
    assert one.claims.is_awaited(first.outcome.load)
    first.end("value")
    assert one.told == [HASH]
    two.claims.wake(HASH)
    assert waiter.woken_by == [AGAIN]
    waiter.go_on()
    assert isinstance(waiter.outcome, Record)
    two.claims.wake(HASH)


def test_c7_the_end_of_a_load_that_nobody_waits_for_tells_nobody(host: Host, one: Process, two: Process) -> None:
    one.call().end(None)
    waiter = two.call()
    assert waiter.leads
    waiter.end("value")
    assert (one.told, two.told) == ([], [])


def test_c7_word_is_left_for_the_present_holder_alone(host: Host, one: Process, two: Process) -> None:
    """A hint may belong to another claim: of another key, or of a holder who has died."""
    three = Process(host)
    one.call()
    waiter = two.call()
    one.dies()
    heir = three.call()
    assert heir.leads
    heir.end(None)
    assert three.told == []
    heir = three.call()
    waiter.sleep()
    heir.end("value")
    assert three.told == [HASH]


def test_c7_two_claims_may_share_a_hint(host: Host, one: Process, two: Process) -> None:
    first = one.call()
    load = first.outcome.load
    words = (load.place & HINTS - 1) * HINT_WORDS
    host.hints[words] = 12345  # another claim came to the same hint
    host.hints[words + 1] = host.shelves.numbers.next()
    before = host.hints.tolist()
    waiter = two.call()
    assert host.hints.tolist() == before
    host.hints[words + 2] = before[words + 2] = host.hints[words + 1]  # somebody waits for that one
    assert not one.claims.is_awaited(load)
    first.end("value")
    assert host.hints.tolist() == before
    assert one.told == []
    waiter.sleep()
    assert isinstance(waiter.outcome, Record)


# --- C8: patience


def test_c8_a_waiter_loads_beside_others_when_its_own_patience_is_over(host: Host, one: Process, two: Process) -> None:
    one.call()
    began, waiter = host.now, two.call(patience=1.0)
    while waiter.waits:
        waiter.sleep()
    assert host.now - began == pytest.approx(1.0)
    assert waiter.leads
    assert waiter.outcome.late
    assert len(host.kernel.bytes) == 2


def test_c8_of_those_who_are_late_the_second_one_goes_on_without_a_byte(host: Host, one: Process, two: Process) -> None:
    one.call()
    three = Process(host)
    late, later = two.call(patience=0.0), three.call(patience=0.0)
    assert late.leads
    assert later.leads
    assert late.outcome.load.place is not None
    assert later.outcome.load.place is None
    assert later.end("later") is Outcome.STORED
    late.end("late")
    assert three.is_idle()


def test_c8_a_waiter_does_not_wait_longer_because_another_one_holds_the_byte(
    host: Host, one: Process, two: Process
) -> None:
    first = one.call()
    began, waiter = host.now, two.call(patience=1.0)
    while host.now < began + 0.9:
        waiter.sleep()
    first.end(None)
    assert Process(host).call().leads
    while waiter.waits:
        waiter.sleep()
    assert waiter.outcome.late
    assert host.now - began == pytest.approx(1.0)


def test_c8_who_has_joined_a_load_in_its_own_process_waits_no_longer_than_its_patience(
    host: Host, one: Process
) -> None:
    first = one.call()
    waiter = one.call(patience=1.0)
    host.passes(0.5)
    first.end(None)
    second = one.call()
    assert second.leads
    waiter.go_on()
    assert waiter.waits
    assert waiter.step is not None
    assert waiter.step.seconds == pytest.approx(0.5)
    waiter.sleep()
    assert waiter.leads
    assert waiter.outcome.late
    assert waiter.outcome.load is not second.outcome.load
    waiter.end(None)
    assert one.call().waits, "the other load goes on"
    second.end("value")


def test_c8_no_patience_is_no_wait(host: Host, one: Process, two: Process) -> None:
    assert one.call(patience=0.0).outcome.late is False
    assert two.call(patience=0.0).outcome.late is True
    assert one.call(patience=0.0).outcome.late is True


# --- C9: whose answers count


def test_c9_a_waiter_takes_what_was_loaded_under_its_own_label_though_an_event_has_come(
    host: Host, one: Process, two: Process
) -> None:
    """It has read the label itself, so the load read the source later than any event that it has to see."""
    first, waiter = one.call(), two.call()
    host.event()
    assert first.end("old") is Outcome.STORED
    waiter.sleep()
    assert isinstance(waiter.outcome, Record)
    assert waiter.outcome.payload == b"old"
    assert two.shelf.find(KEY, HASH, host.now) is None


def test_c9_nobody_who_came_after_an_event_takes_what_was_loaded_before(host: Host, one: Process, two: Process) -> None:
    first, waiter = one.call(), two.call()
    host.event()
    later = Process(host).call()
    assert later.leads
    newest = two.call()
    assert newest.waits
    first.end("old")
    later_waiter = Process(host).call()
    for call in (newest, later_waiter):
        call.sleep()
        assert call.waits
    later.end("new")
    for call in (newest, later_waiter):
        call.sleep()
        assert call.outcome.payload == b"new"
    waiter.flow.close()


def test_c9_a_thread_is_given_the_value_of_its_own_label(host: Host, one: Process) -> None:
    first, joined = one.call(), one.call()
    host.event()
    first.end("old")
    joined.go_on()
    assert joined.outcome == Value("old")


@pytest.mark.parametrize("handed", ["a value", "a record"])
def test_c9_who_begins_after_a_value_has_expired_is_not_given_it_by_its_loader(
    host: Host, one: Process, handed: str
) -> None:
    """The loader may be stopped between the fill and the end of its claim."""
    first, before = one.call(), one.call()
    assert first.load is not None
    expires = host.now + 1
    _, record = one.shelf.fill(KEY, HASH, b"old", first.load.miss, expires)
    outcome = record if handed == "a record" else Value("old", expires)
    host.passes(1)
    after = one.call()
    assert after.waits
    one.claims.end(first.load, outcome)
    before.go_on()
    after.go_on()
    assert before.outcome == outcome
    assert after.leads


# --- C11: nobody ends another one's claim


def test_c11_an_event_frees_no_byte_and_the_next_one_takes_another(host: Host, one: Process, two: Process) -> None:
    first = one.call()
    for number in range(2, 6):
        host.event()
        assert Process(host).call().leads
        assert len(host.kernel.bytes) == number
    first.end("old")
    assert len(host.kernel.bytes) == 4


def test_c11_bytes_are_told_apart_by_key_label_and_generation(host: Host, one: Process) -> None:
    def miss() -> Miss:
        looked = one.shelf.look(KEY, HASH, ROOT, host.now)
        assert isinstance(looked, Miss)
        return looked

    first = miss()
    other = one.shelf.look(b"other", hashes.key_hash(b"other"), ROOT, host.now)
    assert isinstance(other, Miss)
    places = [_place(first, 0), _place(first, 1), _place(other, 0)]
    host.event()
    places.append(_place(miss(), 0))
    assert len(set(places)) == 4
    assert _place(first, 0) == places[0]
    assert all(0 < place < 1 << 63 for place in places)


# --- C12: another life


def test_c12_a_child_has_none_of_its_parents_loads(host: Host, one: Process) -> None:
    first = one.call()
    child = Process(host).call()
    assert child.waits
    one.dies()
    child.sleep()
    assert child.leads
    assert first.leads


# --- Loads that give nothing


def test_after_some_loads_that_gave_nothing_a_thread_loads_beside_others(one: Process) -> None:
    first = one.call()
    waiter, others = one.call(), [one.call() for _ in range(MOST_FAILURES)]
    for other in others:
        first.end(None)
        other.go_on()
        assert other.leads
        waiter.go_on()
        first = other
    assert waiter.leads
    assert not waiter.outcome.late
    first.end("value")
    waiter.end("beside")
    assert one.is_idle()


def test_after_some_loads_that_gave_nothing_a_process_loads_beside_others(
    host: Host, one: Process, two: Process
) -> None:
    first, waiter = one.call(), two.call()
    for _ in range(MOST_FAILURES):
        assert waiter.waits
        first.end(None)
        first = Process(host).call()
        assert first.leads
        waiter.sleep()
    waiter.sleep()
    assert waiter.leads
    assert not waiter.outcome.late
    assert len(host.kernel.bytes) == 2


def test_threads_that_only_waited_are_no_failed_loads(one: Process, two: Process) -> None:
    one.call()
    waiting, joined = two.call(), two.call()
    for _ in range(MOST_FAILURES + 1):
        waiting.flow.close()
        waiting = two.call()
        joined.go_on()
        assert joined.waits


def test_of_those_who_wait_for_a_failed_load_the_newest_goes_on_first(one: Process) -> None:
    first, told = one.call(), list[int]()
    for number in range(3):
        step = one.call().step
        assert step is not None
        step.register(lambda _, number=number: told.append(number))
    first.end(None)
    assert told == [2, 1, 0]


def test_beside_an_orphan_exactly_one_of_those_who_wait_loads_and_the_first_value_serves_all(one: Process) -> None:
    orphan, waiters = one.call(), [one.call() for _ in range(3)]
    one.claims.orphan(orphan.outcome.load)
    woken = [waiter for waiter in waiters if waiter.woken_by]
    assert woken == [waiters[-1]]
    woken[0].go_on()
    assert woken[0].leads
    later = one.call()
    assert later.waits
    woken[0].end("value")
    for waiter in (*waiters[:-1], later):
        waiter.go_on()
        assert waiter.outcome == Value("value")
    orphan.end("late")
    assert one.is_idle()


def test_who_comes_after_a_load_was_orphaned_loads_beside_it_if_nobody_does(one: Process) -> None:
    orphan = one.call()
    one.claims.orphan(orphan.outcome.load)
    later = one.call()
    assert later.leads
    assert one.call().waits


# --- While the host is behind: what was begun long ago is waited for, and not taken


@pytest.fixture
def behind() -> Host:
    """A host that has been behind for a moment."""
    host = Host(WordLease(999.0))
    assert host.now == 1000.0
    return host


def test_while_the_host_is_current_a_load_is_joined_however_old_it_is() -> None:
    host = Host(WordLease(1100.0))
    process = Process(host)
    first = process.call(patience=99.0)
    host.passes(LEASE)
    second = process.call(patience=99.0)
    first.end("value")
    second.go_on()
    assert second.outcome == Value("value")


@pytest.mark.parametrize("age", [0.0, 1.0, math.nextafter(1000 + LEASE, 0) - 1000])
def test_what_a_young_load_gives_is_taken_however_long_it_takes(behind: Host, age: float) -> None:
    one, two = Process(behind), Process(behind)
    first = one.call(patience=99.0)
    behind.passes(age)
    here, elsewhere = one.call(patience=99.0), two.call(patience=99.0)
    behind.passes(2 * LEASE)
    first.end("value")
    here.go_on()
    assert here.outcome == Value("value")
    elsewhere.go_on()
    assert elsewhere.outcome.payload == b"value"
    assert isinstance(one.call().outcome, Lead), "who comes now may not have it"


def test_what_an_old_load_gives_is_not_taken_and_one_loads_for_all_that_have_waited(behind: Host) -> None:
    one, two = Process(behind), Process(behind)
    first = one.call(patience=99.0)
    behind.passes(LEASE)
    here = [one.call(patience=99.0) for _ in range(3)]
    elsewhere = [two.call(patience=99.0) for _ in range(3)]
    assert all(call.waits for call in here + elsewhere)
    behind.passes(1.0)
    assert first.end("old") is Outcome.STORED
    for call in elsewhere:
        if not call.waits or call.load is not None:
            call.go_on()
    leading = [call for call in elsewhere if call.leads]
    assert len(leading) == 1
    for call in here:
        call.go_on()
    assert not any(call.leads for call in here), "somebody else has the byte"
    behind.passes(2 * LEASE)
    assert leading[0].end("new") is Outcome.STORED
    waiting = [call for call in here + elsewhere if not call.leads]
    while waiting:
        for call in waiting:
            call.go_on()
        waiting = [call for call in waiting if call.outcome is None]
    for call in here + elsewhere:
        if call.outcome is not leading[0].outcome:
            value = call.outcome
            assert (value.value if isinstance(value, Value) else value.payload) in ("new", b"new")


def test_where_nothing_may_be_served_a_load_serves_who_came_before_it(behind: Host) -> None:
    """On a host that is not established, each call takes only what was loaded for it."""
    lease = behind.shelves.lease
    assert isinstance(lease, WordLease)
    lease.publish(0.0)
    one = Process(behind)
    first = one.call()
    behind.passes(1.0)
    second = one.call()
    behind.passes(1.0)
    third = one.call()
    behind.passes(1.0)
    assert first.end("first") is Outcome.STORED
    second.go_on()
    third.go_on()
    assert (second.leads, third.waits) == (True, True)
    assert second.end("second") is Outcome.STORED
    third.go_on()
    assert third.outcome == Value("second")


def test_who_gets_the_byte_loads_for_all_that_have_waited_until_then(behind: Host) -> None:
    """What is loaded is as young as the beginning of the load, and not as the call that has got the duty."""
    lease = behind.shelves.lease
    assert isinstance(lease, WordLease)
    lease.publish(0.0)
    first, second, third = (Process(behind) for _ in range(3))
    holder = first.call()
    behind.passes(1.0)
    early = second.call()
    behind.passes(1.0)
    late = third.call()
    behind.passes(1.0)
    holder.end("old")
    early.go_on()
    assert early.leads
    late.go_on()
    assert late.waits
    assert early.end("new") is Outcome.STORED
    late.go_on()
    assert late.outcome.payload == b"new"


@pytest.mark.parametrize("event", [(), ROOT])
def test_what_a_call_may_take_is_settled_when_it_begins(behind: Host, event: tuple[int, ...]) -> None:
    """Also where nobody else may have it any more, because it is void by now."""
    one, two = Process(behind), Process(behind)
    first, waiter = one.call(patience=99.0), two.call(patience=99.0)
    for thing in event:
        behind.event(thing)
    behind.passes(2 * LEASE)
    first.end("value")
    waiter.go_on()
    assert waiter.outcome.payload == b"value"


def test_what_a_call_may_take_is_settled_when_it_begins_where_the_byte_is_freed_just_now(behind: Host) -> None:
    one, two = Process(behind), Process(behind)
    first, waiter = one.call(patience=99.0), two.call(patience=99.0)
    behind.passes(2 * LEASE)
    behind.kernel.before = lambda: first.end("value")
    waiter.go_on()
    assert waiter.outcome.payload == b"value"


def test_the_lease_is_asked_before_the_first_label() -> None:
    class Late(WordLease):
        """A host that hears of an event, and is current, as soon as it is asked."""

        __slots__ = ()

        def until(self, now: float) -> float:
            if self.known < now:
                host.event()
                self.publish(now + 1)
            return super().until(now)

    host = Host(Late(0.0))
    process = Process(host)
    process.shelf.set(KEY, HASH, b"old", ROOT, math.inf)
    call = process.call()
    assert call.leads
    assert process.board.stands(call.outcome.load.miss.label)


# --- C9: loads that another host has granted

OWNER = bytes(range(16))


def granted(process: Process, token: int = 7) -> Call:
    """Return a call that loads, as another host has granted."""
    call = process.call()
    process.claims.note_grant(call.outcome.load, OWNER, token)
    return call


def test_c9_a_granted_load_is_abandoned_once_its_holder_is_dead(host: Host, one: Process, two: Process) -> None:
    granted(one)
    assert two.claims.abandoned() == one.claims.abandoned() == []
    one.dies()
    assert two.claims.abandoned() == [(OWNER, 7)]
    assert two.claims.abandoned() == []


def test_c9_a_load_that_nobody_has_granted_is_never_abandoned(host: Host, one: Process, two: Process) -> None:
    one.call()
    one.dies()
    assert two.claims.abandoned() == []


@pytest.mark.parametrize("value", ["value", None])
def test_c9_a_granted_load_that_ends_in_order_is_not_abandoned(
    host: Host, one: Process, two: Process, value: str | None
) -> None:
    call = granted(one)
    found: list[object] = []
    host.kernel.after = lambda: found.extend(two.claims.abandoned())
    call.end(value)
    assert host.kernel.bytes == {}
    assert [*found, *two.claims.abandoned()] == []


def test_c9_a_load_that_ends_while_somebody_looks_is_not_abandoned(
    host: Host, one: Process, two: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = granted(one)

    def end_just_now(place: int) -> bool:
        call.end("value")
        return Process.is_taken(two, place)

    monkeypatch.setattr(two, "is_taken", end_just_now)
    assert two.claims.abandoned() == []


def test_c9_whoever_loads_next_takes_the_hint_over(host: Host, one: Process, two: Process) -> None:
    """He asks the other host himself, and is granted the load in place of the dead."""
    granted(one)
    one.dies()
    heir = two.call()
    assert heir.leads
    assert two.claims.abandoned() == []
    two.dies()
    assert one.claims.abandoned() == [], "nothing was granted to him yet"


def test_c9_a_grant_that_two_have_written_counts_for_nothing(host: Host, one: Process, two: Process) -> None:
    """Their claims share a hint, and the number of one, which lives, stands beside the claim of the other."""
    call = granted(one)
    at = (call.outcome.load.place & HINTS - 1) * HINT_WORDS
    host.hints[at + 5] = 8
    one.dies()
    assert two.claims.abandoned() == []


def test_c9_who_has_lost_its_hint_to_another_claim_notes_nothing(host: Host, one: Process, two: Process) -> None:
    call = one.call()
    at = (call.outcome.load.place & HINTS - 1) * HINT_WORDS
    host.hints[at + 1] = host.shelves.numbers.next()
    before = host.hints.tolist()
    one.claims.note_grant(call.outcome.load, OWNER, 7)
    assert host.hints.tolist() == before
