"""What is kept near: the rule, its text in generated functions, what leaves, and exceptions in the middle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from colocache.core.entry import DEAD, Entry, Home, SampledEntry
from colocache.core.host.board import PAGE, Board
from colocache.core.host.hashes import ROOT, key_hash
from colocache.core.host.memory import HostLease
from colocache.core.host.numbers import Numbers
from colocache.core.hosts.lease import FOREVER
from colocache.core.near import SERVE, SERVE_AT_ONCE, SERVE_UNLESS_DRAWN, NearStore
from colocache.core.policy import POLICIES
from tests.core.leases import WordLease
from tests.interrupts import at_every_point

every_policy = pytest.mark.parametrize("policy", POLICIES)

NOW = 100.0
A, B, C, D, E = (key_hash(name.encode()) for name in "abcde")


class NoFences:
    """One thread: all is in order."""

    def order(self) -> None:
        """Do nothing."""

    def full(self) -> None:
        """Do nothing."""


def a_board() -> Board:
    words = memoryview(bytearray(8 * (2 + PAGE))).cast("Q")
    return Board(words[:1], words[1:], PAGE, Numbers(1), NoFences())


class Near:
    """A store over a board of its own, and a home in which its entries are found."""

    def __init__(self, budget: int = 100, policy: str = "lru", fences: Any = None, lease: HostLease = FOREVER) -> None:
        self.board = a_board()
        self.store = NearStore(budget, policy, self.board, fences or NoFences(), lease)
        self.home = Home(self.store)

    def entry(self, hash: int, size: int = 10, expires: float = math.inf, value: object = "value") -> Entry:
        return Entry(self.home, f"{hash:x}", value, hash, self.board.label((ROOT, hash)), 0, expires, size)

    def keep(self, *entries: Entry) -> list[Entry]:
        """Publish and keep entries; return what had to go."""
        for entry in entries:
            entry.publish()
            self.store.put(entry)
        return self.gone()

    def gone(self) -> list[Entry]:
        """Withdraw what has left, and return it."""
        gone = list(self.store.gone)
        while self.store.gone:
            self.store.withdraw(self.store.gone.popleft())
        return gone

    def kept(self) -> set[int]:
        return {entry.hash for entry in self.store._entries.entries()}

    def found(self) -> set[int]:
        return {entry.hash for entry in self.home.entries.values()}


# --- The rule, and its text

EXPIRES = [DEAD, NOW - 1, NOW, NOW + 1, math.inf]


class Keyspace:
    """What the text reads: one entry, and the bell."""

    def __init__(self, near: Near, entry: Entry) -> None:
        self.near = {"key": entry}, near.store.bell


def served_at_once(keyspace: Keyspace, key: Any, serve: str = SERVE) -> Any:
    """Run the text, at the instant `NOW`."""
    names: dict[str, Any] = {"_cc_monotonic": lambda: NOW, "_cc_MISSES": (KeyError, TypeError)}
    exec("def call(keyspace, key):\n" + SERVE_AT_ONCE.format(keyspace="keyspace", key="key", serve=serve), names)
    return names["call"](keyspace, key)


def at_this_bell(near: Near, entry: Entry) -> None:
    assert near.store.lets(entry, -math.inf)


def at_an_older_bell(near: Near, entry: Entry) -> None:
    at_this_bell(near, entry)
    near.board.invalidate((B,))


def invalidated(near: Near, entry: Entry) -> None:
    at_this_bell(near, entry)
    near.board.invalidate((A,))


def all_invalidated(near: Near, entry: Entry) -> None:
    at_this_bell(near, entry)
    near.board.invalidate((ROOT,))


def invalidated_before_it_was_compared(near: Near, entry: Entry) -> None:
    near.board.invalidate((A,))


def never_compared(near: Near, entry: Entry) -> None:
    assert entry.bell is None


#: What has happened to an entry, and whether it is current after that.
HISTORIES: dict[Callable[[Near, Entry], None], bool] = {
    at_this_bell: True, at_an_older_bell: True, never_compared: True, invalidated: False, all_invalidated: False,
    invalidated_before_it_was_compared: False,
}  # fmt: skip


@pytest.mark.parametrize("value", ["value", False, "", None, 0])
def test_the_text_serves_what_the_rule_lets_through_and_nothing_else(value: Any) -> None:
    served = 0
    for expires, history in itertools.product(EXPIRES, HISTORIES):
        near = Near()
        entry = near.entry(A, value=value)
        history(near, entry)
        entry.expires, entry.until = expires, min(expires, entry.until)
        found = served_at_once(Keyspace(near, entry), "key")
        lets = near.store.lets(entry, NOW)
        assert lets == (HISTORIES[history] and expires > NOW)
        assert (found, entry.hits) == ((value, 1) if lets else (None, 0))
        served += lets
    assert served == 6


def sampled(near: Near, draw_at: float) -> SampledEntry:
    return SampledEntry(draw_at, 0.0, near.home, "key", "value", A, near.board.label((ROOT, A)), 0, math.inf, 10)


@pytest.mark.parametrize("history", [at_this_bell, at_an_older_bell, never_compared])
@pytest.mark.parametrize("draw_at", [0, 1, 3])
def test_a_hit_that_is_drawn_is_left_to_whoever_audits_it(history: Any, draw_at: int) -> None:
    near = Near()
    entry = sampled(near, draw_at)
    history(near, entry)
    keyspace = Keyspace(near, entry)
    assert [served_at_once(keyspace, "key", SERVE_UNLESS_DRAWN) for _ in range(5)] == (
        ["value"] * draw_at + [None] * 5
    )[:5]
    assert entry.hits == draw_at
    assert served_at_once(keyspace, "key") == "value", "for readers that audit nothing"


def test_hits_of_an_entry_that_nobody_draws_from_are_served() -> None:
    """Others may write what the readers of a decorated function find."""
    near = Near()
    keyspace = Keyspace(near, near.entry(A))
    assert [served_at_once(keyspace, "key", SERVE_UNLESS_DRAWN) for _ in range(5)] == ["value"] * 5


@pytest.mark.parametrize("key", ["another key", [], {}])
def test_the_text_serves_nothing_for_what_is_not_there_or_cannot_be_hashed(key: Any) -> None:
    near = Near()
    entry = near.entry(A)
    at_this_bell(near, entry)
    assert served_at_once(Keyspace(near, entry), key) is None


def test_what_is_out_of_date_is_dead_for_good() -> None:
    near = Near()
    entry = near.entry(A)
    near.board.invalidate((A,))
    assert not near.store.lets(entry, NOW)
    assert entry.expires == DEAD
    assert entry.bell is None


def test_what_has_expired_is_not_compared() -> None:
    """It may be that only this reader's clock says so."""
    near = Near()
    entry = near.entry(A, expires=NOW)
    assert not near.store.lets(entry, NOW)
    assert entry.expires == NOW
    assert near.store.lets(entry, NOW - 1)


def test_the_bell_is_read_before_the_label_is_compared() -> None:
    """1. A reader compares the label; 2. the key is invalidated; 3. the reader notes the new bell in the old entry."""

    class Fences(NoFences):
        def order(self) -> None:
            near.board.invalidate((B,))  # between the two steps

    near = Near(fences=Fences())
    entry = near.entry(A)
    before = near.store.bell[0]
    assert near.store.lets(entry, NOW)
    assert entry.bell == before != near.store.bell[0]


def test_a_comparison_tells_nothing_of_events_after_the_bell_was_read() -> None:
    class Fences(NoFences):
        def order(self) -> None:
            near.board.invalidate((A,))

    near = Near(fences=Fences())
    assert not near.store.lets(near.entry(A), NOW)


# --- The lease


def test_an_entry_says_until_when_readers_need_not_ask() -> None:
    lease = WordLease(NOW + 2)
    near = Near(lease=lease)
    entry, soon = near.entry(A), near.entry(B, expires=NOW + 1)
    assert (entry.until, soon.until) == (DEAD, DEAD), "the first reader asks"
    for each, until in ((entry, NOW + 2), (soon, NOW + 1)):
        assert near.store.lets(each, NOW)
        assert each.until == until
    lease.publish(NOW + 3)
    assert near.store.lets(entry, NOW + 2)
    assert entry.until == NOW + 3


def test_on_a_host_that_is_alone_readers_need_not_ask_before_the_entry_expires() -> None:
    near = Near()
    for expires in (NOW + 1, math.inf):
        entry = near.entry(A, expires=expires)
        assert near.store.lets(entry, NOW)
        assert entry.until == expires


@pytest.mark.parametrize("until", [0.0, NOW - 30, NOW - 1, NOW])
def test_while_the_host_is_behind_nothing_is_served_and_nothing_dropped(until: float) -> None:
    lease = WordLease(NOW)
    near = Near(lease=lease)
    entry, compared = near.entry(A), near.entry(B)
    near.keep(entry, compared)
    assert near.store.lets(compared, NOW - 1)
    lease.publish(until)
    assert served_at_once(Keyspace(near, compared), "key") is None, "though it has the present bell"
    near.board.invalidate((C,))
    for each in (entry, compared):
        assert not near.store.lets(each, NOW)
        assert served_at_once(Keyspace(near, each), "key") is None
        assert each.expires == math.inf
    near.store.sweep(NOW)
    near.store.drop((A, B), NOW)
    assert near.gone() == []
    assert near.found() == near.kept() == {A, B}
    lease.publish(NOW + 1)
    for each in (entry, compared):
        assert served_at_once(Keyspace(near, each), "key") == "value"


def test_what_is_void_or_has_expired_is_dropped_while_the_host_is_behind_too() -> None:
    near = Near(lease=WordLease(NOW - 1))
    near.keep(near.entry(A), near.entry(B, expires=NOW), near.entry(C), near.entry(D))
    near.board.invalidate((A, D))
    near.store.drop((D,), NOW)
    near.store.sweep(NOW)
    assert {entry.hash for entry in near.gone()} == {A, B, D}
    assert near.found() == {C}


def test_the_lease_is_asked_before_bell_and_label() -> None:
    """1. A reader finds that the label stands. 2. Its host catches up with an event, and is current. 3. It asks."""

    class Late(WordLease):
        def until(self, now: float) -> float:
            if not happened:
                happened.append(True)
                near.board.invalidate((A,))
                self.publish(NOW + 1)
            return super().until(now)

    happened: list[bool] = []
    near = Near(lease=Late(NOW))
    entry = near.entry(A)
    entry.bell = near.store.bell[0]
    assert not near.store.lets(entry, NOW)
    assert entry.expires == entry.until == DEAD


def test_an_instant_is_noted_once_the_label_was_compared_under_it() -> None:
    """Otherwise: 1. R finds the bell unchanged. 2. An event comes, and then a later lease, which L notes in the entry.
    3. R looks at the entry's instant, and serves what L is about to find void."""

    class Fences(NoFences):
        def order(self) -> None:
            noted.append(entry.until)

    noted: list[float] = []
    near = Near(fences=Fences(), lease=WordLease(NOW + 1))
    entry = near.entry(A)
    entry.until = NOW
    near.board.invalidate((A,))
    noted.clear()
    assert not near.store.lets(entry, NOW)
    assert noted == [NOW]


class Overtaken(Entry):
    """An entry that somebody drops just before, or just after, its ``until`` is stored for the first time."""

    __slots__ = ("_until", "drop", "is_before", "served")

    @property
    def until(self) -> float:  # type: ignore[override]
        """What is stored."""
        return self._until

    @until.setter
    def until(self, until: float) -> None:
        drop, self.drop = getattr(self, "drop", None), None
        if drop is not None and self.is_before:
            drop()
        self._until = until
        if drop is not None:
            if not self.is_before:
                drop()
            self.served = served_at_once(drop.keyspace, "key")


class Drop:
    """Drops an entry, whose readers go on to look for it."""

    def __init__(self, near: Near, entry: Entry) -> None:
        self.keyspace, self._store, self._entry = Keyspace(near, entry), near.store, entry

    def __call__(self) -> None:
        self._store._leave(self._entry)


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("is_compared", [True, False])
def test_an_entry_that_is_dropped_while_it_is_let_stays_dead(is_before: bool, is_compared: bool) -> None:
    """As in the comment of `NearStore.lets`; then its last sentence."""
    near = Near(lease=WordLease(NOW + 1))
    entry = Overtaken(near.home, "key", "value", A, near.board.label((ROOT, A)), 0, math.inf, 10)
    if is_compared:
        entry.bell = near.store.bell[0]
    entry.is_before, entry.drop = is_before, Drop(near, entry)
    assert not near.store.lets(entry, NOW)
    assert entry.expires == entry.until == DEAD
    assert entry.served is None
    assert served_at_once(Keyspace(near, entry), "key") is None
    assert not near.store.lets(entry, NOW)


# --- What is kept


@every_policy
def test_an_entry_is_kept_and_makes_others_leave_that_there_is_no_room_for(policy: str) -> None:
    near = Near(30, policy)
    assert near.keep(*(near.entry(hash) for hash in (A, B, C))) == []
    assert near.store.size() == (3, 30)
    (gone,) = near.keep(near.entry(D))
    assert (gone.hash, gone.expires) == (A, DEAD)
    assert near.kept() == near.found() == {B, C, D}
    assert near.home.counts.evictions == 1


def test_a_new_entry_takes_the_place_of_its_keys_old_one() -> None:
    near = Near()
    old, new = near.entry(A), near.entry(A, 20)
    near.keep(old)
    assert near.keep(new) == [old]
    assert near.home.entries == {new.key: new}
    assert near.store.size() == (1, 20)
    assert near.home.counts.evictions == 0


def test_an_entry_that_is_put_twice_is_kept_once() -> None:
    near = Near()
    entry = near.entry(A)
    assert near.keep(entry, entry) == []
    assert near.store.size() == (1, 10)
    assert near.store.lets(entry, NOW)


def test_what_is_larger_than_the_budget_leaves_at_once_and_so_does_its_keys_old_entry() -> None:
    near = Near(100)
    old, large = near.entry(A), near.entry(A, 101)
    near.keep(old)
    assert near.keep(large) == [old, large]
    assert (near.found(), near.store.size()) == (set(), (0, 0))


def test_what_has_died_before_it_is_put_leaves() -> None:
    """A reader has found it out of date before it was accounted for. Otherwise its home would keep it for good."""
    near = Near()
    entry = near.entry(A)
    entry.publish()
    near.board.invalidate((A,))
    assert not near.store.lets(entry, NOW)
    near.store.put(entry)
    assert near.gone() == [entry]
    assert (near.found(), near.store.size()) == (set(), (0, 0))


def test_a_key_that_has_changed_is_dropped_and_a_fresh_entry_of_it_is_not() -> None:
    near = Near()
    near.keep(near.entry(A), near.entry(B), near.entry(C, expires=NOW))
    near.board.invalidate((A,))
    fresh = near.entry(D)
    near.board.invalidate((D,))
    near.keep(near.entry(D))
    near.store.drop((A, B, C, D, E), NOW)
    assert {entry.hash for entry in near.gone()} == {A, C}
    assert near.kept() == near.found() == {B, D}
    assert not near.store.lets(fresh, NOW)


def test_a_sweep_drops_what_may_not_be_served_any_more() -> None:
    near = Near()
    near.keep(near.entry(A), near.entry(B), near.entry(C, expires=NOW), near.entry(D, expires=NOW + 1))
    near.board.invalidate((A,))
    near.store.sweep(NOW)
    assert {entry.hash for entry in near.gone()} == {A, C}
    assert near.found() == {B, D}
    near.store.sweep(math.inf)
    assert {entry.hash for entry in near.gone()} == {B, D}
    assert (near.found(), near.store.size()) == (set(), (0, 0))


def test_has_knows_the_keys_that_there_are_entries_of() -> None:
    near = Near()
    near.keep(near.entry(A))
    assert (near.store.has(A), near.store.has(B)) == (True, False)


# --- Hits


def test_hits_are_those_of_what_there_is_and_of_what_has_left() -> None:
    near = Near(20)
    first, second = near.entry(A), near.entry(B)
    near.keep(first, second)
    first.hits, second.hits = 1, 10
    near.store.count_hits()
    assert near.home.counts.hits == 11
    first.hits += 1
    near.store.drop((A,), math.inf)
    near.store.count_hits()
    assert near.home.counts.hits == 11, "what is just leaving counts when it has left"
    near.gone()
    assert near.home.counts.hits == 12
    second.hits += 1
    assert near.home.counts.hits == 12, "nobody has counted yet"
    near.store.count_hits()
    near.store.count_hits()
    assert near.home.counts.hits == 13


def test_each_home_counts_the_hits_and_evictions_of_its_own_entries() -> None:
    near = Near(20)
    other = Home(near.store)
    ours, theirs = near.entry(A), near.entry(B)
    theirs.home = other
    near.keep(ours, theirs)
    ours.hits, theirs.hits = 2, 3
    near.keep(near.entry(C), near.entry(D))
    assert (near.home.counts.hits, near.home.counts.evictions) == (2, 1)
    assert (other.counts.hits, other.counts.evictions) == (3, 1)


def test_the_shelf_is_told_of_what_was_used_since_it_was_told_last() -> None:
    near = Near()
    first, second, third = near.entry(A), near.entry(B), near.entry(C)
    near.keep(first, second, third)
    first.hits, second.hits = 1, 2
    assert near.store.used() == [first, second]
    assert near.store.used() == []
    second.hits += 1
    assert near.store.used() == [second]


# --- Exceptions in the middle


@every_policy
def test_an_exception_at_any_point_of_a_change_loses_no_entry_once_the_store_is_healed(policy: str) -> None:
    def change() -> None:
        store = near.store
        store.drop((C,), NOW)
        for entry in new:
            store.put(entry)
        store.sweep(NOW)

    def begin() -> None:
        nonlocal near, new
        near = Near(35, policy)
        near.keep(*(near.entry(hash) for hash in (A, B, C)))
        near.home.entries[near.entry(A).key].hits = 3
        near.board.invalidate((C,))
        new = [near.entry(D), near.entry(E, expires=NOW), near.entry(B), near.entry(A, 36)]
        for entry in new:
            entry.publish()

    near, new = Near(), list[Entry]()
    begin()
    count = 0
    for _ in at_every_point(change, ("core/near.py", "core/policy.py", "cachetools/")):
        count += 1
        near.store.heal()
        consistent(near)
        for entry in new:  # who was interrupted puts it once more
            near.store.put(entry)
        near.gone()
        consistent(near)
        assert near.kept() == near.found(), "what readers find is accounted for, and the other way round"
        near.keep(*(near.entry(key_hash(b"%d" % number), 1) for number in range(60)))
        consistent(near)
        assert near.kept() == near.found()
        near.store.sweep(math.inf)
        near.gone()
        assert (near.store.size(), near.found()) == ((0, 0), set())
        begin()
    assert count > 100


@every_policy
def test_an_exception_at_any_point_of_healing_does_no_harm(policy: str) -> None:
    near = Near(30, policy)
    near.keep(*(near.entry(hash) for hash in (A, B, C)))
    for _ in at_every_point(near.store.heal):
        consistent(near)
        assert near.kept() == {A, B, C}


def consistent(near: Near) -> None:
    """Check that the policy's parts agree with each other."""
    policy = near.store._entries
    entries = policy.entries()
    assert policy.currsize == sum(entry.size for entry in entries) <= policy.maxsize
    queues = [vars(policy).get(name, ()) for name in ("_queue", "_small", "_passed")]
    assert sorted(itertools.chain(*queues)) == sorted(entry.hash for entry in entries)
