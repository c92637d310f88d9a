"""The store: every byte accounted, every index in step, and nothing that was dropped is ever served."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from sys import getsizeof
from typing import Any

import pytest

from colocache.core.entry import DEAD, MISSING, Home
from colocache.core.group.entry import OVERHEAD, TAG_OVERHEAD, Entry
from colocache.core.group.store import Store
from colocache.core.keys import Key, namespace_of, prefix, wire

POLICIES = ("s3fifo", "sieve", "lru", "lfu")
every_policy = pytest.mark.parametrize("policy", POLICIES)


def wire_of(key: Key, namespace: str = "") -> bytes:
    return wire(prefix(namespace), key)


def an_entry(key: Key = "a", payload: bytes = b"payload", *, namespace: str = "", expires: float = math.inf,
             tags: tuple[str, ...] = ()) -> Entry:  # fmt: skip
    return Entry(wire_of(key, namespace), payload, 0.0, expires, tags)


class ReadStore(Store):
    """A store, and a home for the readers of each namespace."""

    def __init__(self, budget: int, near_budget: int, policy: str) -> None:
        super().__init__(budget, near_budget, policy)
        self.homes = defaultdict[str, Home](lambda: Home(self))


def a_store(budget: int = 100_000, near_budget: int = 50_000, policy: str = "sieve") -> ReadStore:
    return ReadStore(budget, near_budget, policy)


def stored(store: Store, key: Key = "a", payload: bytes = b"payload", *, near: bool = False, **how: Any) -> Entry:
    entry = an_entry(key, payload, **how)
    assert store.put(entry, near=near)
    return entry


def published(
    store: ReadStore, key: Key = "a", payload: bytes = b"payload", *, near: bool = False, **how: Any
) -> Entry:
    entry = stored(store, key, payload, near=near, **how)
    store.charge_object(entry)
    entry.publish(store.homes[how.get("namespace", "")], key, payload.decode(), keep_payload=False)
    return entry


def assert_consistent(store: ReadStore) -> None:
    """Assert that all that the store knows of its entries agrees, down to its private dictionaries."""
    shard, near = list(store._shard.values()), list(store._near.values())
    live = {entry.wire: entry for entry in (*shard, *near)}
    assert len(live) == len(shard) + len(near) == len(store), "a key is both in the shard and a near copy"
    assert store.sizes() == (len(shard), sum(e.size for e in shard), len(near), sum(e.size for e in near))
    assert store._shard.currsize <= store._shard.maxsize
    assert store._near.currsize <= store._near.maxsize
    assert not any(entry.near for entry in shard)
    assert all(entry.near for entry in near)
    assert all(entry.expires != DEAD for entry in live.values())
    assert all(entry.payload is not None or entry.value is not MISSING for entry in live.values()), "nothing to serve"
    assert indexed(store._wires) == Counter((namespace_of(w), w) for w in live)
    assert indexed(store._tagged) == Counter((tag, w) for w, entry in live.items() for tag in set(entry.tags))
    for namespace, home in store.homes.items():
        for key, entry in home.entries.items():
            assert live.get(wire_of(key, namespace)) is entry, "a reader finds an entry that the store has not"
            assert (entry.key, entry.home) == (key, home)
    heap = {(when, w) for when, w in store._expiries}
    assert {(e.expires, w) for w, e in live.items() if e.expires < math.inf} <= heap, "something will never expire"


def indexed(index: dict[str, dict[bytes, None]]) -> Counter[tuple[str, bytes]]:
    assert all(index.values()), "an index keeps a name that it has nothing under"
    return Counter((name, w) for name, wires in index.items() for w in wires)


# --- A reader and an invalidation: the interleaving of the module's note, wherever the one falls into the other


class Interrupted(dict[Key, Entry]):
    """A dictionary of readers in which something happens just before, or just after, an entry is put."""

    def __init__(self, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.before, self.after = before, after

    def __setitem__(self, key: Key, entry: Entry) -> None:
        if self.before:
            self.before()
        super().__setitem__(key, entry)
        if self.after:
            self.after()


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("moment", ["before it publishes", "before it puts", "after it has put", "after it published"])
def test_what_is_dropped_while_a_reader_publishes_it_is_not_found(moment: str, near: bool) -> None:
    store = a_store()
    entry = stored(store, near=near)
    drops = {moment: lambda: store.drop(entry.wire)}
    store.homes[""].entries = Interrupted(drops.get("before it puts"), drops.get("after it has put"))
    drops.get("before it publishes", lambda: None)()
    entry.publish(store.homes[""], "a", "value", keep_payload=False)
    drops.get("after it published", lambda: None)()
    assert entry.expires == DEAD
    assert not store.homes[""].entries
    assert_consistent(store)


def test_a_late_publication_does_not_push_out_the_entry_that_came_meanwhile() -> None:
    store = a_store()
    old = stored(store, payload=b"old")
    new = published(store, payload=b"new")
    old.publish(store.homes[""], "a", "old", keep_payload=False)
    assert store.homes[""].entries["a"] is new
    assert old.value == "old", "those who were given it share it all the same"
    assert_consistent(store)


def test_an_entry_that_was_refused_is_never_found() -> None:
    store = a_store(OVERHEAD, 0)
    entry = an_entry()
    assert not store.put(entry, near=False)
    entry.publish(store.homes[""], "a", "value", keep_payload=False)
    assert not store.homes[""].entries


# --- What a reader finds


def test_a_near_copy_keeps_its_object_and_a_shard_entry_both() -> None:
    store = a_store()
    near, own = published(store, "a", near=True), published(store, "b", near=False)
    assert (near.value, near.payload) == ("payload", None)
    assert (own.value, own.payload) == ("payload", b"payload")
    assert store.homes[""].entries == {"a": near, "b": own}


def test_where_readers_copy_the_payload_stays_and_no_object_is_shared() -> None:
    store = a_store()
    entry = stored(store, near=True)
    entry.value = "just loaded"
    entry.publish(store.homes[""], "a", MISSING, keep_payload=True)
    assert (entry.value, entry.payload) == (MISSING, b"payload")


def test_none_is_a_value() -> None:
    store = a_store()
    entry = stored(store, near=True)
    entry.publish(store.homes[""], "a", None, keep_payload=False)
    assert store.homes[""].entries["a"].value is None
    assert repr(MISSING) == "MISSING"


def test_namespaces_have_dictionaries_of_their_own() -> None:
    store = a_store()
    entries = [published(store, "a", namespace=name) for name in ("", "users", "users/pages")]
    assert [store.homes[name].entries["a"] for name in ("", "users", "users/pages")] == entries
    store.drop_namespace("users")
    assert [dict(store.homes[name].entries) for name in ("", "users", "users/pages")] == [{"a": entries[0]}, {}, {}]


def test_hits_are_counted_beyond_the_life_of_their_entries() -> None:
    store = a_store()
    for near, hits in ((False, 3), (True, 4)):
        published(store, "a", near=near, namespace="users").hits += hits
        store.drop(wire_of("a", "users"))
    published(store, "a", near=True, namespace="users").hits += 10
    published(store, "a", namespace="pages").hits += 100
    assert store.hit_counts() == (103, 14)
    assert [store.homes[name].hit_count() for name in ("users", "pages", "nobody")] == [17, 100, 0]


# --- Its end


def test_an_entry_has_expired_at_the_very_instant() -> None:
    store = a_store()
    entry = published(store, expires=10.0)
    assert store.find(entry.wire, 9.999) is entry
    assert store.find(entry.wire, 10.0) is None
    assert entry.expires == DEAD
    assert_consistent(store)


def test_the_expiry_of_a_replaced_entry_does_not_take_the_new_one() -> None:
    store = a_store()
    stored(store, expires=10.0)
    new = stored(store, expires=20.0)
    store.expire(15.0)
    assert store.find(new.wire, 15.0) is new
    store.expire(20.0)
    assert len(store) == 0


def test_expiries_of_entries_long_gone_take_little_room() -> None:
    store = a_store()
    lasting = [stored(store, number, expires=3e6) for number in ("one", "two")]
    for second in range(10_000):
        stored(store, expires=1e6 + second)
        store.expire(float(second))
    assert len(store._expiries) <= 2 * len(store) + 1024 + 1
    store.expire(2e6)
    assert [store.find(entry.wire, 2e6) for entry in lasting] == lasting
    store.expire(3e6)
    assert (len(store), store._expiries) == (0, [])


def test_nothing_of_what_is_gone_stays_behind() -> None:
    store = a_store()
    for number in range(1000):
        entry = stored(store, number * ("x",), namespace=f"space {number}", tags=(f"tag {number}",))
        store.drop(entry.wire)
    assert not store._wires
    assert not store._tagged


def test_a_tag_named_twice_is_one_tag() -> None:
    store = a_store()
    twice = published(store, "a", tags=("red", "blue", "red"))
    store.drop(twice.wire)
    assert_consistent(store)
    published(store, "b", tags=("red", "red"))
    store.drop_tag("red")
    assert len(store) == 0
    assert_consistent(store)


def test_dropping_what_is_not_there_does_nothing() -> None:
    store = a_store()
    kept = stored(store, "a", tags=("red",), namespace="users")
    store.drop(wire_of("b"))
    store.drop_tag("blue")
    store.drop_namespace("user")
    store.drop_namespace("users/pages")
    store.expire(1e9)
    assert store.find(kept.wire, 0.0) is kept


# --- The budget


@every_policy
@pytest.mark.parametrize("near", [False, True])
def test_an_entry_larger_than_its_part_of_the_budget_is_refused_and_the_old_one_gone(policy: str, near: bool) -> None:
    size = an_entry(payload=bytes(1000)).cost()
    store = a_store(2 * size, size, policy)
    old = stored(store, payload=bytes(1000), near=near)  # fits exactly
    large = an_entry(payload=bytes(1001))
    assert not store.put(large, near=near)
    assert (store.refused, store.evictions, len(store)) == (1, 0, 0)
    assert old.expires == large.expires == DEAD
    assert_consistent(store)


@every_policy
def test_a_key_moves_between_the_shard_and_the_near_copies(policy: str) -> None:
    store = a_store(policy=policy)
    near = published(store, near=True)
    own = published(store, near=False)
    assert (near.expires, store.sizes()) == (DEAD, (1, own.size, 0, 0))
    again = published(store, near=True)
    assert (own.expires, store.sizes()) == (DEAD, (0, 0, 1, again.size))
    assert_consistent(store)


@every_policy
def test_the_near_copies_never_take_the_shards_room(policy: str) -> None:
    size = an_entry("s00").cost()
    store = a_store(12 * size, 2 * size, policy)
    for number in range(10):
        stored(store, f"s{number:02}")
    for number in range(50):
        stored(store, f"n{number:02}", near=True)
    assert store.sizes() == (10, 10 * size, 2, 2 * size)
    assert store.evictions == 48


@every_policy
def test_an_object_beside_its_bytes_is_charged_once_however_many_ask_for_it(policy: str) -> None:
    store = a_store(policy=policy)
    entry = stored(store, payload=bytes(1000))
    before = entry.size
    for _ in range(10):  # readers that got the entry before the first of them has published the object
        store.charge_object(entry)
    assert entry.size == store.sizes()[1] == before + 1000
    entry.publish(store.homes[""], "a", "object", keep_payload=False)
    store.charge_object(entry)
    assert entry.size == store.sizes()[1] == before + 1000


@every_policy
def test_an_object_that_needs_room_makes_others_leave(policy: str) -> None:
    size = an_entry(payload=bytes(2000)).cost()
    store = a_store(20 * size, 0, policy)
    entries = [published(store, chr(ord("a") + number), payload=b"") for number in range(8)]
    entry = stored(store, "z", payload=bytes(2000))
    while not store.evictions:  # until there is no room for another one
        stored(store, ("more", len(store)), payload=bytes(2000))
    entry.hits += 1
    evicted = store.evictions
    store.charge_object(entry)
    assert store.evictions > evicted
    assert entry.expires == math.inf
    assert entries[0].expires == DEAD
    assert_consistent(store)


@every_policy
def test_an_entry_that_was_next_to_leave_leaves_to_make_room_for_its_own_object(policy: str) -> None:
    size = an_entry(payload=bytes(1000)).cost()
    store = a_store(2 * size, 0, policy)
    entry, other = stored(store, "a", payload=bytes(1000)), stored(store, "b", payload=bytes(1000))
    other.hits += 1
    store.charge_object(entry)
    assert entry.expires == DEAD
    assert store.evictions == 1
    assert store.find(other.wire, 0.0) is other
    entry.publish(store.homes[""], "a", "object", keep_payload=False)
    assert "a" not in store.homes[""].entries
    assert_consistent(store)


@every_policy
def test_an_object_with_which_its_entry_would_exceed_the_budget_is_not_charged(policy: str) -> None:
    size = an_entry(payload=bytes(2000)).cost()
    store = a_store(size + 1999, 0, policy)
    entry = stored(store, payload=bytes(2000))
    store.charge_object(entry)
    assert (entry.size, entry.expires, store.evictions) == (size, math.inf, 0)


def test_only_living_entries_of_the_shard_are_charged() -> None:
    store = a_store()
    near = stored(store, "a", near=True)
    dead = stored(store, "b")
    store.drop(dead.wire)
    for entry in (near, dead):
        store.charge_object(entry)
    assert store.sizes() == (0, 0, 1, near.cost())
    assert_consistent(store)


def test_an_entry_costs_its_key_its_payload_and_its_tags() -> None:
    bare = an_entry(payload=b"").cost()
    assert bare == OVERHEAD + len(wire_of("a"))
    assert an_entry(payload=bytes(100)).cost() == bare + 100
    assert an_entry(payload=b"", tags=("red", "é" * 100)).cost() == bare + 2 * TAG_OVERHEAD + sum(
        map(getsizeof, ("red", "é" * 100))
    )
    assert an_entry(payload=b"", namespace="users").cost() == bare + 5


def test_an_entry_that_is_found_by_another_key_is_not_found_by_the_former_one() -> None:
    """The two are one key on the wire, as of a class before and after its module was loaded again."""
    entry, home = Entry(b"\0sa", b"payload", 0.0, math.inf, ()), Home(None)
    entry.publish(home, ("old",), "value", keep_payload=True)
    entry.publish(home, ("new",), "value", keep_payload=True)
    assert home.entries == {("new",): entry}
