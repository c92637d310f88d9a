"""Who keeps near copies: threads, signal handlers and finalizers at any point, and users' `__eq__`."""

from __future__ import annotations

import gc
import itertools
import math
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from colocache import Cache
from colocache.core.entry import DEAD, Entry, Home
from colocache.core.host.hashes import ROOT
from colocache.core.hosts.lease import FOREVER
from colocache.core.keys import Key
from colocache.core.near import NearStore
from colocache.core.policy import POLICIES
from colocache.near_cache import LARGE, MAX_MODES, NO_BELL, WAITING, Keeper, NearCache, NearCaches
from colocache.runtime.waiting import threads
from colocache.stats import Ledger
from tests.conftest import PATIENCE, Crew, NewCache, Until
from tests.core.test_near import NoFences, a_board
from tests.interrupts import SWALLOWED, at_every_point, handled

every_policy = pytest.mark.parametrize("policy", POLICIES)


class Value:
    """What is cached. It can be referred to weakly."""


class Near:
    """A keeper over a board of its own."""

    def __init__(self, budget: int = 35, policy: str = "s3fifo") -> None:
        self.board = a_board()
        self.keeper = Keeper(NearStore(budget, policy, self.board, NoFences(), FOREVER))
        self.home = Home(self.keeper.store)

    def entry(
        self, name: Key, size: int = 10, expires: float = math.inf, value: object = None, number: int = 0
    ) -> Entry:  # fmt: skip
        number = number or hash(name) & (1 << 63) - 1 | 1
        return Entry(self.home, name, value, number, self.board.label((ROOT, number)), 0, expires, size)

    def keep(self, *names: Key) -> list[Entry]:
        entries = [self.entry(name) for name in names]
        for entry in entries:
            self.keeper.keep(entry)
        return entries

    def kept(self) -> set[Key]:
        return {entry.key for entry in self.keeper.store._entries.entries()}

    def found(self) -> set[Key]:
        return {*self.home.entries}

    def check(self, unfound: int = 0) -> None:
        """Check that what is found is accounted for, and the other way round, and that nobody works or has the lock.

        So many entries may be accounted for that are not found.
        """
        keeper, policy = self.keeper, self.keeper.store._entries
        left = keeper._coming, keeper._leaving, keeper._sweeps, keeper._counts, keeper.store.gone
        assert not any(left)
        assert not keeper._working.held
        entries = policy.entries()
        assert policy.currsize == sum(entry.size for entry in entries) <= policy.maxsize
        queues = [vars(policy).get(name, ()) for name in ("_queue", "_small", "_passed")]
        assert sorted(itertools.chain(*queues)) == sorted(entry.hash for entry in entries)
        assert self.kept() >= self.found()
        assert len(self.kept()) <= len(self.found()) + unfound


# --- What is carried out


@every_policy
def test_what_is_kept_is_found_until_there_is_no_room(policy: str) -> None:
    near = Near(35, policy)
    entries = near.keep("a", "b", "c", "d")
    near.keeper.settle()
    near.check()
    assert near.found() == {"b", "c", "d"}
    assert entries[0].expires == DEAD
    near.keeper.forget_all()
    near.check()
    assert near.found() == set()


def test_what_has_changed_or_expired_is_dropped() -> None:
    near = Near()
    near.keep("a", "b")
    near.keeper.keep(near.entry("c", expires=0.0))
    near.board.invalidate((near.home.entries["a"].hash,))
    near.keeper.drop([near.home.entries[name].hash for name in ("a", "b")])
    assert near.found() == {"b", "c"}
    near.keeper.sweep()
    assert near.found() == {"b"}
    near.check()


def test_a_key_that_nothing_is_kept_of_is_dropped_without_more_ado(monkeypatch: pytest.MonkeyPatch) -> None:
    near = Near()
    monkeypatch.setattr(near.keeper, "_work", lambda: pytest.fail("worked"))
    near.keeper.drop([1, 2, 3])


# --- What waits for the policy


@every_policy
def test_what_waits_for_the_policy_is_found_at_once_and_counted_once_it_is_settled(policy: str) -> None:
    near = Near(1000, policy)
    near.keep("a", "b")
    assert (near.found(), near.kept(), near.keeper.store.size()) == ({"a", "b"}, set(), (0, 0))
    near.keeper.settle()
    near.check()
    assert (near.kept(), near.keeper.store.size()) == ({"a", "b"}, (2, 20))
    near.keeper.settle()
    assert near.keeper.store.size() == (2, 20)


@every_policy
def test_so_many_entries_do_not_wait_any_more(policy: str) -> None:
    near, names = Near(10_000, policy), [f"k{number}" for number in range(3 * WAITING)]
    for number, name in enumerate(names, 1):
        near.keep(name)
        assert near.found() == {*names[:number]}
        assert len(near.kept()) == number - number % WAITING
    near.check()


def test_a_large_entry_does_not_wait_and_neither_do_those_before_it() -> None:
    near = Near(4 * LARGE)
    near.keep("a")
    near.keeper.keep(near.entry("b", LARGE))
    assert near.kept() == set()
    near.keeper.keep(near.entry("c", LARGE + 1))
    assert near.kept() == near.found() == {"a", "b", "c"}
    near.check()


@every_policy
def test_the_budget_is_exceeded_by_no_more_than_what_waits(policy: str) -> None:
    near, rnd, most = Near(20 * LARGE, policy), random.Random(1), 0
    for number in range(2000):
        near.keeper.keep(near.entry(f"k{rnd.randrange(300)}", rnd.choice([10, 1000, LARGE, LARGE + 1, 2 * LARGE])))
        found = [entry for entry in near.home.entries.values() if entry.expires != DEAD]
        waiting = [*near.keeper._coming]
        assert near.keeper.store.size()[1] <= 20 * LARGE
        assert len(waiting) < WAITING
        assert sum(entry.size for entry in waiting) <= (WAITING - 1) * LARGE
        size = sum(entry.size for entry in found)
        assert size <= 20 * LARGE + sum(entry.size for entry in waiting), number
        most = max(most, size)
    assert most > 20 * LARGE
    near.keeper.settle()
    near.check()


@pytest.mark.parametrize("how", ["dropped", "swept"])
def test_what_may_not_be_served_any_more_leaves_also_while_it_waits(how: str) -> None:
    near = Near(1000)
    changed, expired, good = near.entry("a"), near.entry("b", expires=0.0), near.entry("c")
    for entry in (changed, expired, good):
        near.keeper.keep(entry)
    near.board.invalidate((changed.hash,))
    if how == "dropped":
        near.keeper.drop([changed.hash, expired.hash, good.hash])
    else:
        near.keeper.sweep()
    near.check()
    assert near.kept() == near.found() == {"c"}
    assert (changed.expires, expired.expires, good.expires) == (DEAD, DEAD, math.inf)


def test_all_is_forgotten_that_waits() -> None:
    near = Near(1000)
    entries = near.keep("a", "b")
    near.keeper.forget_all()
    near.check()
    assert near.found() == set()
    assert [entry.expires for entry in entries] == [DEAD, DEAD]


@every_policy
def test_of_two_entries_of_a_key_that_wait_the_later_one_stays(policy: str) -> None:
    near = Near(1000, policy)
    old, new = near.entry("a"), near.entry("a", 20)
    near.keeper.keep(old)
    near.keeper.keep(new)
    assert near.home.entries == {"a": new}
    near.keeper.settle()
    near.check()
    assert near.home.entries == {"a": new}
    assert near.keeper.store.size() == (1, 20)
    assert old.expires == DEAD


def test_what_readers_found_while_it_waited_is_counted_once() -> None:
    near = Near(1000)
    (entry,) = near.keep("a")
    entry.hits += 2
    assert near.home.hits() == 2
    near.keeper.count_hits()
    assert near.keeper.store.size() == (1, 10), "what waits is put first"
    assert near.home.counts.hits == near.home.hits() == 2
    assert near.keeper.store.used() == [entry]
    (other,) = near.keep("b")
    other.hits += 3
    near.keeper.forget_all()
    assert near.home.counts.hits == near.home.hits() == 5


def test_the_figures_of_a_cache_know_of_all_that_waits(new_cache: NewCache) -> None:
    cache = new_cache(private=True)
    for number in range(WAITING - 1):
        cache.get_or_load(str(number), lambda: "value")
    assert cache.stats().entries == WAITING - 1
    assert cache.stats().bytes > 0


# --- The end


def in_a_thread(do: Callable[[], object], threads: list[threading.Thread]) -> None:
    """Have another thread do something, and wait for it a moment: it may have to wait for this one."""
    threads.append(threading.Thread(target=do))
    threads[-1].start()
    threads[-1].join(0.02)


@pytest.mark.parametrize("waiting", [0, WAITING - 1])
@pytest.mark.parametrize("by", ["a signal handler", "another thread"])
@pytest.mark.parametrize("first", ["keep", "close"])
def test_nothing_is_found_after_a_keeper_was_closed_in_the_middle(first: str, by: str, waiting: int) -> None:
    """1. One begins to keep an entry, or to close. 2. The other does all that it has to. 3. The first one goes on."""
    count, came, left = itertools.count(1), True, set[bool]()
    while came:
        near, others = Near(1000), list[threading.Thread]()
        entry, before = near.entry("k"), near.keep(*(f"w{number}" for number in range(waiting)))

        def keep(near: Near = near, entry: Entry = entry) -> None:
            near.keeper.keep(entry)

        one, other = (keep, near.keeper.close) if first == "keep" else (near.keeper.close, keep)

        def handler(
            near: Near = near, other: Callable[[], None] = other, others: list[threading.Thread] = others
        ) -> None:
            if by == "another thread":
                in_a_thread(other, others)
            else:
                other()
            left.add(bool(near.found()))

        came = handled(next(count), one, handler, ("colocache/near_cache.py", "core/entry.py", "core/near.py"))
        for thread in others:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        if not came:
            other()
        near.check()
        assert near.found() == near.kept() == set()
        assert {each.expires for each in (entry, *before)} == {DEAD}
    assert next(count) > 50
    assert True in left or not (waiting or first == "close"), "sometimes the first one has to take something away"


def test_what_is_kept_after_the_end_is_not_found() -> None:
    near = Near(1000)
    near.keeper.close()
    (entry,) = near.keep("a")
    assert near.found() == set()
    assert entry.expires == DEAD
    near.keeper.close()
    near.check()


# --- Which values are kept near


def test_a_value_is_kept_near_that_was_found_before(new_cache: NewCache) -> None:
    cache = new_cache(private=True)
    cache.set("k", ["value"])
    found = [cache.get("k") for _ in range(4)]
    assert found == [["value"]] * 4
    stats = cache.stats()
    assert (stats.fetches, stats.hits) == (2, 2)
    assert found[0] is not found[1] is found[2] is found[3]


def test_a_value_that_others_found_before_is_kept_near_at_once(new_group: Callable[..., list[Cache]]) -> None:
    one, other = new_group(2)
    one.set("k", "value")
    assert other.get("k") == one.get("k") == one.get("k") == "value"
    assert (one.stats().fetches, one.stats().hits) == (1, 1)


def test_a_value_of_readers_who_get_copies_is_never_kept_near(new_cache: NewCache) -> None:
    cache = new_cache(private=True, copy=True)
    cache.set("k", ["value"])
    found = [cache.get("k") for _ in range(4)]
    assert len({id(value) for value in found}) == 4
    assert cache.stats().entries == 0


# --- Exceptions, and uses of the cache, at any point


@every_policy
@pytest.mark.filterwarnings(SWALLOWED)
def test_an_exception_at_any_point_leaves_a_keeper_that_works(policy: str) -> None:
    """Whatever was interrupted, the next one carries out what is left, and nothing that readers find is forgotten."""

    def begin() -> None:
        nonlocal near
        near = Near(35, policy)
        for entry in near.keep("a", "b", "c"):
            entry.hits += 1
        near.board.invalidate((near.home.entries["c"].hash,))

    def work() -> None:
        near.keeper.drop([near.home.entries["c"].hash])
        near.keep("d", "e", "a")
        near.keeper.sweep()

    near, is_queued = Near(), False
    begin()
    count = 0
    for _ in at_every_point(work):
        count += 1
        assert not near.keeper._working.held
        near.keep("f")
        alive = {entry.key for entry in near.home.entries.values() if entry.expires != DEAD}
        assert not is_queued or "c" not in alive, "once it is to be dropped, it is dropped"
        is_queued = "c" not in alive
        near.keep("g", "h", "i", "k")
        dead = {entry.key for entry in near.home.entries.values() if entry.expires == DEAD}
        assert len(dead) <= 1, "one that was just being withdrawn stays until its key is kept again"
        near.keep(*dead)
        near.keeper.sweep()
        near.check(unfound=1)  # one that was just being kept is not found until its key is kept again
        begin()
    assert count > 200


@every_policy
@pytest.mark.filterwarnings(SWALLOWED)
def test_an_exception_at_any_point_of_counting_loses_no_hit(policy: str) -> None:
    count = 0
    near = Near(35, policy)
    for _ in at_every_point(near.keeper.count_hits):
        count += 1
        for entry in near.keep("a", "b", "c", "d"):
            entry.hits += 1
        near.keeper.count_hits()
        near.keeper.forget_all()
        assert near.home.counts.hits == 4 * count
        near.check()
    assert count > 10


def test_a_signal_handler_may_keep_and_drop_at_any_point() -> None:
    """It is queued, and the frame that was interrupted carries it out."""
    count, came = itertools.count(1), True
    while came:
        near, died = Near(1000), list[bool]()
        first = near.entry("a", value=Value())
        weakref.finalize(first.value, lambda near=near, died=died: died.append(not near.keeper._working.held))
        near.keeper.keep(first)
        near.keep("b", "c")
        number = first.hash
        del first

        def handler(near: Near = near, number: int = number) -> None:
            near.keep("handler's", "a")
            near.board.invalidate((number,))
            near.keeper.drop([number])

        def work(near: Near = near) -> None:
            near.keep("d", "e", "a")
            near.keeper.sweep()

        came = handled(next(count), work, handler)
        near.check()
        assert near.found() >= {"b", "c", "d", "e"} | ({"handler's"} if came else {"a"})
        assert died == [True], "no lock is held when a value dies"
    assert next(count) > 100


# --- Users' code


class Odd:
    """A part of a key whose `__eq__` runs code of its user: all of them have one hash."""

    def __init__(self, name: str, when_compared: Callable[[], object] = lambda: None) -> None:
        self.name, self.when_compared = name, when_compared

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        self.when_compared()
        return isinstance(other, Odd) and self.name == other.name


def test_an_eq_that_uses_the_cache_harms_nobody() -> None:
    near, calls = Near(1000), list[int]()

    def use() -> None:
        if len(calls) < 3:
            calls.append(1)
            near.keep(f"kept by __eq__ {len(calls)}")
            near.keeper.sweep()
            assert not near.keeper._working.held, "nobody works while a user's code runs"

    for number in range(1, 6):
        near.keeper.keep(near.entry((Odd(str(number), use),), number=number))
    near.keeper.forget_all()
    assert calls == [1] * 3
    near.check()
    assert near.found() == set()


def test_what_an_eq_raises_is_raised_once_for_each_key_and_leaves_a_keeper_that_works() -> None:
    near, failing = Near(1000), False

    def fail() -> None:
        if failing:
            raise LookupError("of the user")

    entries = [near.entry((Odd(str(number), fail),), number=number) for number in (1, 2, 3)]
    for entry in entries:
        near.keeper.keep(entry)
    near.board.invalidate((2, 3))
    failing = True
    with pytest.raises(LookupError, match="of the user"):
        near.keeper.drop((2, 3))
    with pytest.raises(LookupError, match="of the user"):
        near.keeper.settle()
    near.keep("a", "b")
    near.keeper.settle()
    failing = False
    for entry in entries[1:]:
        assert entry.expires == DEAD, "nobody is served it, though it is found until its key is kept again"
        near.home.entries.pop(entry.key, None)
    near.check()


@pytest.mark.parametrize("why", ["evicted", "replaced", "swept", "too large", "dead already"])
def test_a_finalizer_of_a_value_runs_when_no_lock_is_held_and_may_use_the_cache(why: str) -> None:
    near, seen = Near(35), list[object]()

    def finalizer() -> None:
        assert not near.keeper._working.held
        near.keep("finalizer's")
        seen.append("finalizer's" in near.found())

    def value() -> Value:
        made = Value()
        weakref.finalize(made, finalizer)
        return made

    entry = near.entry("k", 50 if why == "too large" else 10, value=value())
    if why == "dead already":
        entry.expires = DEAD
    near.keeper.keep(entry)
    del entry
    if why == "evicted":
        near.keep("a", "b", "c", "d", "e")
    elif why == "replaced":
        near.keep("k")
    elif why == "swept":
        near.keeper.forget_all()
    near.keeper.settle()
    assert seen == [True]
    near.keeper.settle()
    near.check()


def test_values_do_not_die_on_the_thread_of_the_bus(crew: Crew) -> None:
    near, died_in = Near(1000), list[str]()
    entry = near.entry("k", value=Value())
    weakref.finalize(entry.value, lambda: died_in.append(threading.current_thread().name))
    near.keeper.keep(entry)
    del entry
    errands = threads.ThreadErrands()

    def on_the_bus() -> None:
        threads.here.errands = errands
        near.keeper.forget_all()

    crew.start(on_the_bus)
    crew.join()
    errands.finish(PATIENCE)
    assert len(died_in) == 1
    assert died_in[0] not in {thread.name for thread in crew.threads}
    near.check()


def test_values_die_later_if_nobody_could_take_them_over_from_the_thread_of_the_bus(crew: Crew) -> None:
    class Lost(threads.ThreadErrands):
        def run(self, errand: Any) -> None:
            """Forget it."""

    near, died_in = Near(1000), list[str]()
    entry = near.entry("k", value=Value())
    weakref.finalize(entry.value, lambda: died_in.append(threading.current_thread().name))
    near.keeper.keep(entry)
    del entry

    def on_the_bus() -> None:
        threads.here.errands = Lost()
        near.keeper.forget_all()

    crew.start(on_the_bus)
    crew.join()
    assert not died_in
    near.keeper.settle()
    assert died_in == [threading.current_thread().name]
    near.check()


# --- Threads


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Have threads run by turns, each for a few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@every_policy
def test_many_threads_keep_and_drop_and_all_is_accounted_for(policy: str, crew: Crew, often_switching: None) -> None:
    near, names = Near(200, policy), [f"k{number}" for number in range(40)]

    def work() -> None:
        for number in range(600):
            name = names[number * 7 % 40]
            near.keep(name)
            entry = near.home.entries.get(name)
            if entry is not None:
                near.board.invalidate((entry.hash,))
                near.keeper.drop([entry.hash])
            if number % 50 == 0:
                near.keeper.sweep()

    crew.start(work, times=4)
    assert crew.join() == [None] * 4
    near.keeper.sweep()
    near.check(unfound=40)  # of two that are kept at once, the younger one may be found first


def test_two_threads_that_begin_at_once_carry_out_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, crew: Crew
) -> None:
    near, inside, met = Near(), list[int](), list[bool]()
    first_is_in, second_is_in = threading.Event(), threading.Event()
    carry_out = near.keeper._carry_out

    def slowly() -> None:
        inside.append(1)
        if len(inside) == 1:
            first_is_in.set()
            met.append(second_is_in.wait(0.05))
        else:
            second_is_in.set()
        carry_out()

    def keep(name: str) -> None:
        near.keep(name)
        near.keeper.settle()

    monkeypatch.setattr(near.keeper, "_carry_out", slowly)
    crew.start(lambda: keep("a"))
    assert first_is_in.wait(PATIENCE)
    crew.start(lambda: keep("b"))
    crew.join()
    assert met == [False]
    near.check()
    assert near.found() == {"a", "b"}


def test_statistics_are_read_while_others_keep(crew: Crew, often_switching: None) -> None:
    near, done = Near(100_000), threading.Event()

    def read() -> None:
        store, before = near.keeper.store, 0
        while not done.is_set():
            store.used()
            assert store.size()[1] <= 100_000
            near.keeper.count_hits()
            hits = near.home.hits()
            assert hits >= before
            before = hits

    def keep() -> None:
        for number in range(3000):
            (entry,) = near.keep(f"k{number % 1500}")
            entry.hits += 1
            if number % 500 == 0:
                near.keeper.forget_all()

    crew.start(read)
    worker = Crew()
    worker.start(keep, times=2)
    assert worker.join() == [None] * 2
    done.set()
    assert crew.join() == [None]
    assert 0 < near.home.hits() <= 6000  # what is hit after it has left is not counted


# --- Homes


class Reader(NearCache):
    """A near cache with nothing to it."""

    __slots__ = ()


def test_readers_of_a_namespace_share_a_home_and_no_reader_keeps_it_for_ever() -> None:
    caches = NearCaches()
    one, other, third = (Reader(caches, path, copies=False, one_part=False) for path in ("a", "a", "b"))
    assert one.home is other.home is not third.home
    assert Reader(caches, "a", copies=False, one_part=True).home is not one.home, "they find entries by other keys"
    home = weakref.ref(third.home)
    del third
    gc.collect()
    assert home() is None
    del one
    gc.collect()
    assert Reader(caches, "a", copies=False, one_part=False).home is other.home


def test_a_reader_takes_entries_and_bell_of_one_store_in_one_step() -> None:
    caches, near = NearCaches(), Near()
    reader = Reader(caches, "", copies=False, one_part=False)
    assert reader.near == (reader.home.entries, NO_BELL)
    assert reader.home.owner is None
    caches.bind(near.keeper.store, Ledger())
    assert reader.near[0] is reader.home.entries
    assert reader.near[1] is near.board.bell
    assert reader.home.owner is near.keeper.store
    assert Reader(caches, "b", copies=False, one_part=False).near[1] is near.board.bell
    caches.bind(None, Ledger())
    assert reader.near == ({}, NO_BELL)


def test_no_entry_has_the_bell_of_a_process_that_is_on_no_host() -> None:
    near = Near()
    assert near.entry("a").bell is None
    near.board.ring()
    assert near.board.bell[0] != NO_BELL[0] == 0


def test_a_namespace_cannot_be_read_with_copies_and_without(until: Until) -> None:
    caches = NearCaches()
    reader = Reader(caches, "a", copies=True, one_part=False)
    for one_part in (False, True):
        with pytest.raises(ValueError, match="the namespace 'a' cannot have copy=False: it is in use with copy=True"):
            Reader(caches, "a", copies=False, one_part=one_part)
    assert caches.copies_in("a") is True
    assert caches.copies_in("b") is None
    del reader
    gc.collect()
    assert caches.copies_in("a") is True, "it may have values yet"
    for number in range(MAX_MODES):
        Reader(caches, f"other {number}", copies=False, one_part=False)
    assert caches.copies_in("a") is None


def test_an_exception_at_any_point_of_making_a_reader_does_no_harm() -> None:
    near, caches = Near(), NearCaches()
    caches.bind(near.keeper.store, Ledger())
    made: list[Reader] = []
    for number in at_every_point(
        lambda: made.append(Reader(caches, "a", copies=False, one_part=False)), ("colocache/near_cache.py",)
    ):
        assert not caches._alone.holds.held
        good = Reader(caches, "a", copies=False, one_part=False)
        assert good.home.owner is near.keeper.store, number
    assert made[0].home is good.home


def test_an_exception_at_any_point_of_binding_leaves_no_reader_with_entries_of_one_store_and_the_bell_of_another() -> (
    None
):
    old, new, caches = Near(), Near(), NearCaches()
    readers = [Reader(caches, path, copies=False, one_part=False) for path in ("a", "a", "b")]
    homes: list[Home] = []
    for _ in at_every_point(lambda: caches.bind(new.keeper.store, Ledger()), ("colocache/near_cache.py",)):
        assert not caches._alone.holds.held
        homes += [reader.home for reader in readers]
        for entries, bell in [reader.near for reader in readers]:
            (owner,) = {home.owner for home in homes if home.entries is entries}
            assert bell is (owner.bell if isinstance(owner, NearStore) else NO_BELL)
        caches.bind(old.keeper.store, Ledger())
        homes += [reader.home for reader in readers]
        assert all(reader.home.owner is old.keeper.store for reader in readers)
    assert all(reader.home.owner is new.keeper.store for reader in readers)


def test_the_label_of_a_near_copy_is_counted(new_cache: NewCache) -> None:
    cache = new_cache()
    cache.get_or_load("k", lambda: "value")
    plain = cache.stats().bytes
    cache.get_or_load("l", lambda: "value", tags=[f"tag {number}" for number in range(64)])
    assert cache.stats().bytes - plain == plain + 64 * 40
