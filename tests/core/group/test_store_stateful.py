"""The store against a simple model: what is dropped is gone everywhere, what is kept is accounted, and no more.

The model knows everything but which entries the policy evicts: those it learns, and demands that room was needed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from sys import getsizeof

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, invariant, precondition, rule

from colocache.core.entry import DEAD, MISSING, Home
from colocache.core.group.entry import OVERHEAD, TAG_OVERHEAD, Entry
from colocache.core.group.store import Store
from colocache.core.keys import Key, prefix, wire
from colocache.core.policy import POLICIES
from tests.core.stateful import Machine, explore, machine_test

NAMESPACES = ("", "a", "a/b", "ab")
BELOW = {"": NAMESPACES, "a": ("a", "a/b"), "a/b": ("a/b",), "ab": ("ab",), "none": ()}  # what each one holds
COPIED = "a/b"  # each reader of it decodes the payload
KEYS = ("k", ("k", 1))
TAGS = ("red", "blue")
STALE_EXPIRIES = 1024  # expiries of entries that are gone: so many may be kept, beside two for each entry

namespaces = st.sampled_from(NAMESPACES)
keys = st.sampled_from(KEYS)


class Kept:
    """What the model knows of one entry that was put."""

    def __init__(self, namespace: str, key: Key, payload: int, expires: float, tags: tuple[str, ...], near: bool):
        self.namespace, self.key, self.payload, self.expires, self.tags = namespace, key, payload, expires, tags
        self.near = near
        self.entry = Entry(wire(prefix(namespace), key), bytes(payload), 0.0, expires, tags)
        self.charged = self.published = self.counts = self.gone = False
        self.hits = 0

    @property
    def has_object(self) -> bool:
        """Whether readers share an object of it."""
        return self.published and self.namespace != COPIED

    @property
    def size(self) -> int:
        """The bytes that it takes of its part of the budget."""
        tags = sum(getsizeof(tag) + TAG_OVERHEAD for tag in self.tags)
        return OVERHEAD + len(self.entry.wire) + tags + self.payload * (1 + self.charged)


class Readers(dict[Key, Entry]):
    """A dictionary of readers in which something may happen just before, or just after, the next entry is put."""

    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None

    def __setitem__(self, key: Key, entry: Entry) -> None:
        before, after, self.before, self.after = self.before, self.after, None, None
        if before:
            before()
        super().__setitem__(key, entry)
        if after:
            after()


class StoreMachine(Machine):
    """A store, and a dictionary of what it must hold."""

    entries = Bundle("entries")

    @initialize(policy=st.sampled_from(sorted(POLICIES)), shard=st.integers(2, 8), near=st.integers(1, 4))
    def begin(self, policy: str, shard: int, near: int) -> None:
        room = OVERHEAD + 168  # for one entry with a little in it
        self.limits = {False: shard * room, True: near * room}
        self.store = Store(sum(self.limits.values()), self.limits[True], policy)
        self.readers = {namespace: Readers() for namespace in NAMESPACES}
        self.homes = {namespace: Home(self.store) for namespace in NAMESPACES}
        for namespace, home in self.homes.items():
            home.entries = self.readers[namespace]
        self.now = 12345.678
        self.kept: dict[bytes, Kept] = {}
        self.all: list[Kept] = []
        self.evicted = self.refused = 0
        self.churned = False

    # --- What the model does

    def drop(self, *wires: bytes) -> None:
        for each in wires:
            self.kept.pop(each).gone = True
            self.note("dropped")

    def used(self, near: bool) -> int:
        return sum(kept.size for kept in self.kept.values() if kept.near is near)

    def learn_evictions(self, near: bool, needed: int) -> None:
        """Take over what the store evicted to have room for ``needed`` bytes more."""
        evicted = [kept for kept in self.kept.values() if kept.entry.expires == DEAD]
        assert all(kept.near is near for kept in evicted), "room is made where it is needed"
        sizes = [kept.size for kept in evicted]
        spared = self.used(near) + needed - sum(sizes) + max(sizes, default=0)
        assert not sizes or spared > self.limits[near], "one less would have made room enough"
        for kept in evicted:
            del self.kept[kept.entry.wire]
            kept.gone = True
        self.evicted += len(evicted)
        self.note("evicted", len(evicted))

    # --- What the driver of the peer does

    @rule(target=entries, namespace=namespaces, key=keys, near=st.booleans(),
          payload=st.integers(0, 3) | st.integers(0, 3000), ttl=st.sampled_from((math.inf, math.inf, 1.0, 5.0, 0.0)),
          tags=st.lists(st.sampled_from(TAGS), max_size=3).map(tuple))  # fmt: skip
    def put(self, namespace: str, key: Key, near: bool, payload: int, ttl: float, tags: tuple[str, ...]) -> Kept:
        kept = Kept(namespace, key, payload, self.now + ttl, tags, near)
        if kept.entry.wire in self.kept:
            self.drop(kept.entry.wire)
        self.all.append(kept)
        if self.store.put(kept.entry, near=near):
            self.learn_evictions(near, kept.size)
            self.kept[kept.entry.wire] = kept
        else:
            assert kept.size > self.limits[near]
            kept.gone = True
            self.refused += 1
            self.note("refused")
        return kept

    @rule(namespace=namespaces, key=keys, hits=st.integers(0, 2))
    def find(self, namespace: str, key: Key, hits: int) -> None:
        """The peer looks for an entry, and counts a hit of a reader that came to it."""
        name = wire(prefix(namespace), key)
        kept = self.kept.get(name)
        if kept is not None and kept.expires <= self.now:
            self.drop(name)
            kept = None
        found = self.store.find(name, self.now)
        assert found is (kept.entry if kept else None)
        if found is not None and kept is not None:
            found.hits += hits
            kept.hits += hits

    @rule(kept=entries)
    def charge(self, kept: Kept) -> None:
        """A shard entry, dead or alive, is about to keep its object beside its bytes."""
        may_grow = not (kept.gone or kept.near or kept.has_object or kept.charged)
        self.store.charge_object(kept.entry)
        if may_grow and kept.size + kept.payload <= self.limits[False]:
            self.learn_evictions(False, kept.payload)
            kept.charged = not kept.gone
            self.note("charged", kept.charged)

    @rule(target=entries, namespace=namespaces, key=keys, payload=st.integers(0, 2000), ttl=st.sampled_from((1.0, 9.0)))
    def load(self, namespace: str, key: Key, payload: int, ttl: float) -> Kept:
        """A reader of this process has loaded a value, and others find it."""
        kept = self.put(namespace, key, False, payload, ttl, ())
        self.charge(kept)
        self.publish(kept, None)
        return kept

    @rule(kept=consumes(entries), times=st.integers(1, 2))
    def drop_one(self, kept: Kept, times: int) -> None:
        name = kept.entry.wire
        for _ in range(times):
            self.store.drop(name)
        if name in self.kept:
            self.drop(name)

    @rule(many=st.tuples(st.just("tag"), st.sampled_from((*TAGS, "none"))) |
          st.tuples(st.just("namespace"), st.sampled_from(tuple(BELOW))))  # fmt: skip
    def drop_many(self, many: tuple[str, str]) -> None:
        kind, name = many
        if kind == "tag":
            self.store.drop_tag(name)
            self.drop(*[each for each, kept in self.kept.items() if name in kept.tags])
        else:
            self.store.drop_namespace(name)
            self.drop(*[each for each, kept in self.kept.items() if kept.namespace in BELOW[name]])

    @rule(seconds=st.sampled_from((0.5, 1.0, 4.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.store.expire(self.now)
        expired = [name for name, kept in self.kept.items() if kept.expires <= self.now]
        self.note("expired", len(expired))
        self.drop(*expired)
        assert len(self.store._expiries) <= 2 * len(self.kept) + STALE_EXPIRIES

    @precondition(lambda self: not self.churned)
    @rule()
    def churn(self) -> None:
        """A small entry is replaced again and again, so that stale expiries pile up. Once in a history: it is slow."""
        self.churned = True
        name = wire(prefix("none"), "churned")
        for far in range(STALE_EXPIRIES):
            self.store.put(Entry(name, b"", 0.0, 1e6 + far, ()), near=True)
            self.learn_evictions(True, OVERHEAD + len(name))
        self.store.drop(name)

    # --- What readers do

    @rule(kept=entries, dropped=st.sampled_from(("before", "after", None, None)))
    def publish(self, kept: Kept, dropped: str | None) -> None:
        """A reader publishes what it got at some time before, dead by now or not; it may be dropped in the middle."""
        copies = kept.namespace == COPIED
        home = self.homes[kept.namespace]
        if dropped:
            setattr(self.readers[kept.namespace], dropped, lambda: self.store.drop(kept.entry.wire))
        was_gone = kept.gone
        kept.entry.publish(home, kept.key, MISSING if copies else object(), copies)
        kept.published = True
        kept.counts = kept.counts or not was_gone
        if dropped and not was_gone:
            self.drop(kept.entry.wire)
            self.note("dropped while being published")
        self.readers[kept.namespace].before = self.readers[kept.namespace].after = None

    @rule(kept=entries, times=st.integers(1, 9))
    def hit(self, kept: Kept, times: int) -> None:
        """A reader looks the key of an entry up, and may find a later one."""
        entry = self.homes[kept.namespace].entries.get(kept.key)
        if entry is not None:
            entry.hits += times
            self.kept[entry.wire].hits += times
            self.note("hits", times)

    # --- What must hold

    @invariant()
    def check(self) -> None:
        self.nothing_dropped_is_held_and_nothing_held_is_lost()
        self.readers_find_what_was_published_and_lives()
        self.every_byte_is_accounted()
        self.indices_name_what_is_held()
        self.no_hit_is_lost()

    def nothing_dropped_is_held_and_nothing_held_is_lost(self) -> None:
        assert all((kept.entry.expires == DEAD) is kept.gone for kept in self.all)
        held = [*self.store._shard.values(), *self.store._near.values()]
        assert {entry.wire: entry for entry in held} == {name: kept.entry for name, kept in self.kept.items()}
        assert len(held) == len(self.store) == len(self.kept), "a key is in the shard or a near copy, never both"
        assert all(e.payload is not None or e.value is not MISSING for e in held), "nothing to serve"

    def readers_find_what_was_published_and_lives(self) -> None:
        for namespace, found in self.readers.items():
            mine = [kept for kept in self.kept.values() if kept.namespace == namespace and kept.published]
            assert found == {kept.key: kept.entry for kept in mine}

    def every_byte_is_accounted(self) -> None:
        counts = Counter(kept.near for kept in self.kept.values())
        assert self.store.sizes() == (counts[False], self.used(False), counts[True], self.used(True))
        assert all(self.used(near) <= limit for near, limit in self.limits.items())
        assert (self.store.evictions, self.store.refused) == (self.evicted, self.refused)

    def indices_name_what_is_held(self) -> None:
        by_namespace: dict[str, set[bytes]] = {}
        by_tag: dict[str, set[bytes]] = {}
        for name, kept in self.kept.items():
            by_namespace.setdefault(kept.namespace, set()).add(name)
            for tag in kept.tags:
                by_tag.setdefault(tag, set()).add(name)
        assert {namespace: set(names) for namespace, names in self.store._wires.items()} == by_namespace
        assert {tag: set(names) for tag, names in self.store._tagged.items()} == by_tag
        will_expire = {(kept.expires, name) for name, kept in self.kept.items() if kept.expires < math.inf}
        assert will_expire <= set(self.store._expiries)

    def no_hit_is_lost(self) -> None:
        hits = [sum(kept.hits for kept in self.all if kept.near is near) for near in (False, True)]
        assert self.store.hit_counts() == tuple(hits)
        for namespace in NAMESPACES:
            # Hits of an entry that its reader has not published yet count as soon as it has, if that is in time.
            mine = [kept for kept in self.all if kept.namespace == namespace and kept.counts]
            assert self.homes[namespace].hit_count() == sum(kept.hits for kept in mine)


@machine_test
def test_the_store_does_what_a_simple_model_does() -> None:
    happens = ("evicted", "refused", "expired", "charged", "dropped", "dropped while being published", "hits")
    explore(StoreMachine, 120, 50, *happens)
