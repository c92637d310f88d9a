"""Eviction: each policy behaves as a slow model of its source, in any order of events."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core.policy import POLICIES, Lfu, Policy

every_policy = pytest.mark.parametrize("policy", POLICIES)
BUDGET = 20


@dataclass
class Item:
    """An entry, as policies see it."""

    name: str
    size: int
    hits: int = 0
    seen: int = 0


# --- The models: lists, oldest first, walked step by step


class Model:
    """What all models have in common: the names, their order, and how many hits each has."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.marks: dict[str, int] = {}

    def insert(self, name: str) -> None:
        self.order.append(name)
        self.marks[name] = 0

    def hit(self, name: str) -> None:
        self.marks[name] += 1

    def remove(self, name: str) -> None:
        self.order.remove(name)
        del self.marks[name]

    def leave(self, name: str) -> None:
        """Evict a name."""
        self.remove(name)

    def victim(self) -> str:
        raise NotImplementedError


class SecondChance(Model):
    """Corbato 1968: the oldest leaves. But if it has a hit, it loses its mark and becomes the newest."""

    def victim(self) -> str:
        while self.marks[self.order[0]]:
            self.marks[self.order[0]] = 0
            self.order.append(self.order.pop(0))
        return self.order[0]


class GeneralisedClock(Model):
    """Smith 1978: as second chance, but each hit, up to a number of them, gives one more round."""

    def victim(self) -> str:
        while credit := min(self.marks[self.order[0]], Lfu.MOST):
            self.marks[self.order[0]] = credit - 1
            self.order.append(self.order.pop(0))
        return self.order[0]


class Sieve(Model):
    """Zhang et al. 2024, algorithm 1, from the tail (the oldest) to the head (the newest)."""

    def __init__(self) -> None:
        super().__init__()
        self.hand: str | None = None

    def newer(self, name: str) -> str | None:
        place = self.order.index(name) + 1
        return self.order[place] if place < len(self.order) else None

    def victim(self) -> str:
        looked_at = self.hand or self.order[0]
        while self.marks[looked_at]:
            self.marks[looked_at] = 0
            looked_at = self.newer(looked_at) or self.order[0]
        self.hand = looked_at
        return looked_at

    def remove(self, name: str) -> None:
        if self.hand == name:
            self.hand = self.newer(name)
        super().remove(name)


class SmallAndMain(Model):
    """Yang et al. 2023: a small queue in front of the main one, and the names of those that left from it."""

    def __init__(self) -> None:
        super().__init__()
        self.small: list[str] = []  # oldest first, as `order`, which is the main queue
        self.ghosts: list[list[str]] = [[], []]  # the newer half first

    def insert(self, name: str) -> None:
        self.marks[name] = 0
        if any(name in half for half in self.ghosts):
            self.order.append(name)
        else:
            self.small.append(name)

    def victim(self) -> str:
        while True:
            if self.small and (not self.order or len(self.small) * 10 > len(self.marks)):
                name = self.small[0]
                if self.marks[name] < 2:
                    return name
                self.marks[name] = 0
                self.order.append(self.small.pop(0))
            else:
                name = self.order[0]
                credit = min(self.marks[name], 3)
                if not credit:
                    return name
                self.marks[name] = credit - 1
                self.order.append(self.order.pop(0))

    def leave(self, name: str) -> None:
        if name in self.small:
            if 2 * len(set(self.ghosts[0])) >= len(self.marks):
                self.ghosts = [[], self.ghosts[0]]
            self.ghosts[0].append(name)
        self.remove(name)

    def remove(self, name: str) -> None:
        (self.small if name in self.small else self.order).remove(name)
        del self.marks[name]


MODELS: dict[str, Callable[[], Model]] = {
    "s3fifo": SmallAndMain, "sieve": Sieve, "lru": SecondChance, "lfu": GeneralisedClock,
}  # fmt: skip


class Pair:
    """A policy and its model, to which the same things happen."""

    def __init__(self, policy: str) -> None:
        self.evicted: list[str] = []
        self.policy: Policy[Item] = POLICIES[policy](BUDGET, lambda entry: self.evicted.append(entry.name))
        self.model = MODELS[policy]()
        self.sizes: dict[str, int] = {}

    def put(self, name: str, size: int) -> None:
        there, used = name in self.sizes, self.used()
        self.policy[name] = Item(name, size)
        evicted = self.follow()
        if not there:
            assert not evicted or used - sum(evicted[:-1]) + size > BUDGET, "one less would have made room enough"
        if name in self.sizes:
            self.model.marks[name] = 0  # replaced in its place
        else:
            self.model.insert(name)
        self.sizes[name] = size

    def hit(self, name: str, times: int) -> None:
        self.policy[name].hits += times
        for _ in range(times):
            self.model.hit(name)

    def drop(self, name: str) -> None:
        self.policy.pop(name)
        self.model.remove(name)
        del self.sizes[name]

    def evict(self) -> None:
        key, entry = self.policy.popitem()
        assert self.evicted == [key] == [entry.name]
        self.follow()

    def follow(self) -> list[int]:
        """Let the model evict as many as the policy has evicted; return their sizes."""
        sizes = []
        for name in self.evicted:
            assert self.model.victim() == name
            self.model.leave(name)
            sizes.append(self.sizes.pop(name))
        self.evicted.clear()
        return sizes

    def used(self) -> int:
        return sum(self.sizes.values())

    def check(self) -> None:
        assert {key: entry.size for key, entry in self.policy.items()} == self.sizes
        assert {entry.name: entry.size for entry in self.policy.entries()} == self.sizes
        assert self.policy.currsize == self.used() <= BUDGET
        assert len(self.policy) == len(self.sizes)


# --- Against the models


@every_policy
@pytest.mark.parametrize("sizes", [(2,), (1, 2, 3, 7, BUDGET)], ids=["of equal size", "of many sizes"])
def test_what_leaves_is_what_the_model_says(policy: str, sizes: tuple[int, ...]) -> None:
    names = st.sampled_from("abcdefghijklmn")
    size = st.sampled_from(sizes)
    kinds = ("read",) * 7 + ("favour", "replace", "drop", "evict")

    @given(st.lists(st.tuples(st.sampled_from(kinds), names, size), min_size=40, max_size=120))
    @settings(derandomize=True, deadline=None, max_examples=30)
    def follows(steps: list[tuple[str, str, int]]) -> None:
        pair = Pair(policy)
        for kind, name, size in steps:
            there = name in pair.sizes
            if kind == "evict" and pair.sizes:
                pair.evict()
            elif not there or kind == "replace":
                pair.put(name, size)
            elif kind in ("read", "favour"):
                pair.hit(name, 1 if kind == "read" else 9)
            elif kind == "drop":
                pair.drop(name)
            pair.check()
        while pair.sizes:
            pair.evict()
        pair.check()

    follows()


@every_policy
def test_a_long_trace_with_a_few_favourites_leaves_what_the_model_says(policy: str) -> None:
    rng, pair = random.Random(1), Pair(policy)
    for _ in range(3000):
        name = str(min(int(rng.paretovariate(0.5)), 40))
        if name in pair.sizes:
            pair.hit(name, 1)
        else:
            pair.put(name, rng.choice((1, 1, 2, 5)))
        pair.check()


# --- In words


def keys(policy: Policy[Item]) -> str:
    return "".join(sorted(str(key) for key in policy))


def filled(policy: str, names: str) -> Policy[Item]:
    full = POLICIES[policy](len(names), lambda entry: None)
    for name in names:
        full[name] = Item(name, 1)
    return full


@every_policy
def test_an_empty_mapping_has_nothing_to_evict(policy: str) -> None:
    empty = filled(policy, "")
    with pytest.raises(KeyError):
        empty.popitem()
    once = filled(policy, "abc")
    once["b"].hits += 1
    for _ in range(3):
        once.popitem()
    with pytest.raises(KeyError):
        once.popitem()


@every_policy
def test_without_hits_the_oldest_leaves(policy: str) -> None:
    cache = filled(policy, "abc")
    for name in "def":
        cache[name] = Item(name, 1)
    assert keys(cache) == "def"


@every_policy
def test_hits_since_the_last_eviction_save_Item(policy: str) -> None:
    cache = filled(policy, "abc")
    for name in "defgh":
        cache["a"].hits += 2
        cache[name] = Item(name, 1)
        assert "a" in cache


@every_policy
def test_hits_of_an_entrys_earlier_life_do_not_count(policy: str) -> None:
    cache = POLICIES[policy](3, lambda entry: None)
    famous = Item("a", 1)
    famous.hits = 100
    cache["a"] = famous
    for name in "bcd":
        cache[name] = Item(name, 1)
    assert keys(cache) == "bcd"


def lives_of_a_favourite(policy: str) -> int:
    """Return how many newcomers come before an entry with many old hits leaves; 100 if it outlives them all."""
    cache = filled(policy, "abc")
    cache["a"].hits += 1000
    for newcomer in range(1, 100):
        cache[str(newcomer)] = Item(str(newcomer), 1)
        if "a" not in cache:
            return newcomer
    return 100


def test_how_long_old_fame_lasts() -> None:
    # Each round through the queue takes two newcomers here, the first one only one.
    assert lives_of_a_favourite("lru") == 1 + 2
    assert lives_of_a_favourite("lfu") == 1 + 2 * Lfu.MOST
    assert lives_of_a_favourite("s3fifo") == 100, "a scan never leaves probation"
    assert lives_of_a_favourite("sieve") == 100, "a scan never makes the hand go round"


def test_newcomers_leave_before_what_was_spared_but_under_lru_and_lfu() -> None:
    left = {}
    for policy in POLICIES:
        cache = filled(policy, "abcd")
        cache["a"].hits += 2
        for name in "efghijkl":
            cache[name] = Item(name, 1)
        left[policy] = keys(cache)
    assert left == {"s3fifo": "ajkl", "sieve": "ajkl", "lru": "ijkl", "lfu": "ijkl"}


def test_what_was_in_use_gives_way_when_the_use_changes() -> None:
    # The hand of SIEVE stops at a newcomer, the newest entry of all. If it stayed behind the newest, it would take
    # every later newcomer, too, before it could be hit, and never look at the old ones again.
    for policy in POLICIES:
        cache = filled(policy, "abcdefghi")
        for newcomer in "0123456789":
            for name in "abcdefghi":
                if name in cache:
                    cache[name].hits += 1
            cache[newcomer] = Item(newcomer, 1)
        hits = 0
        for name in "stuvw" * 20:  # from now on only these are in use, and they would fit
            if name in cache:
                cache[name].hits += 1
                hits += 1
            else:
                cache[name] = Item(name, 1)
        assert hits >= 50, policy


# --- In the middle of a change


class Interrupt(BaseException):
    """What a signal handler raises."""


@every_policy
def test_who_is_told_of_what_leaves_is_told_while_it_is_still_there(policy: str) -> None:
    """So an exception in between loses no entry."""
    there: list[bool] = []
    full: Policy[Item] = POLICIES[policy](1, lambda entry: there.append(entry.name in full))
    full["a"] = Item("a", 1)
    full["b"] = Item("b", 1)
    assert there == [True]
    assert keys(full) == "b"


@every_policy
def test_all_entries_are_given_after_an_exception_too(policy: str) -> None:
    def interrupt(entry: Item) -> None:
        raise Interrupt

    full: Policy[Item] = POLICIES[policy](2, interrupt)
    full["a"], full["b"] = Item("a", 1), Item("b", 1)
    with pytest.raises(Interrupt):
        full["c"] = Item("c", 1)
    assert {entry.name for entry in full.entries()} >= {"a", "b"}
