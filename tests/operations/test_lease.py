"""A host of several, by real caches: what operations do while it is behind, and once it is current again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

import colocache.host
from colocache import Cache
from tests.conftest import Call, NewCache
from tests.core.leases import LEASE, WordLease
from tests.loaders import never


class Switch(WordLease):
    """A lease that begins and ends when the test wants it to."""

    __slots__ = ()

    def begin(self) -> None:
        """Be current for long."""
        self._be(time.monotonic() + 1e6)

    def be_behind(self) -> None:
        """Be behind, and serve what is young."""
        self._be(time.monotonic())

    def end(self) -> None:
        """Serve nothing."""
        self._be(0.0)

    def _be(self, until: float) -> None:
        self.publish(until)
        self.known = -math.inf


@pytest.fixture
def lease(monkeypatch: pytest.MonkeyPatch) -> Switch:
    """The lease of all hosts that are joined from now on."""
    lease = Switch(0.0)
    lease.begin()
    monkeypatch.setattr(colocache.host, "FOREVER", lease)
    return lease


@pytest.fixture
def cache(lease: Switch, new_cache: NewCache) -> Cache:
    """A cache on such a host, which has a value near, one on the shelf, and a number."""
    cache = new_cache(private=True)
    for key, value in (("near", "n"), ("shelf", "s"), ("number", 1)):
        assert cache.set(key, value)
    for _ in range(3):  # the third one finds it near, and compares it
        assert cache.get("near") == "n"
    assert kept(cache) == {"near"}
    return cache


def kept(cache: Cache) -> set[Any]:
    """Return what is near."""
    return {*cache._keyspace.near[0]}


def test_a_current_host_serves_what_it_has(call: Call, cache: Cache) -> None:
    before = cache.stats().hits
    assert [call(cache, "get", key) for key in ("near", "shelf", "number")] == ["n", "s", 1]
    assert cache.stats().hits == before + 1


def test_while_the_host_is_behind_what_is_young_comes_from_the_shelf(call: Call, cache: Cache, lease: Switch) -> None:
    lease.be_behind()
    cache._keyspace.near[0]["near"].until = -math.inf  # what it was told when the host was current is over
    before = cache.stats()
    assert [call(cache, "get", key) for key in ("near", "shelf")] == ["n", "s"]
    assert cache.get_many(["near", "shelf"]) == {"near": "n", "shelf": "s"}
    assert call(cache, "get_or_load", "near", never) == "n"
    after = cache.stats()
    assert (after.hits - before.hits, after.fetches - before.fetches) == (0, 5)
    lease.begin()
    assert cache.get("near") == "n"
    assert cache.stats().hits == after.hits + 1, "it was kept near"


READS: dict[str, Callable[[Cache, Call], object]] = {
    "near": lambda cache, call: call(cache, "get", "near", "missed"),
    "get": lambda cache, call: call(cache, "get", "shelf", "missed"),
    "get_many": lambda cache, call: cache.get_many(["near", "shelf"]) or "missed",
    "gets": lambda cache, call: call(cache, "gets", "shelf") or "missed",
    "get_or_load": lambda cache, call: call(cache, "get_or_load", "shelf", lambda: "missed"),
}


def forget(cache: Cache) -> None:
    """Have readers ask again: what the near copy was told while the host was current is over."""
    cache._keyspace.near[0]["near"].until = -math.inf


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_where_nothing_may_be_served_reads_miss_and_what_is_near_stays(
    call: Call, cache: Cache, lease: Switch, read: Callable[[Cache, Call], object]
) -> None:
    lease.end()
    forget(cache)
    assert read(cache, call) == "missed"
    lease.begin()
    before = cache.stats().hits
    assert cache.get("near") == "n"
    assert cache.stats().hits == before + 1
    assert cache.get("shelf") == ("missed" if read is READS["get_or_load"] else "s")


def test_what_is_loaded_where_nothing_may_be_served_is_kept_for_later(call: Call, cache: Cache, lease: Switch) -> None:
    lease.end()
    forget(cache)
    loads: list[int] = []
    for _ in range(3):
        call(cache, "get_or_load", "new", lambda: loads.append(1) or len(loads))
    assert len(loads) == 3
    lease.begin()
    assert call(cache, "get_or_load", "new", never) == 3


def test_what_a_loader_makes_of_cached_values_is_as_old_as_they_are(call: Call, cache: Cache, lease: Switch) -> None:
    """Otherwise it would be served, on a host that is behind, longer than they are."""
    host = cache._member.own_host()
    assert host is not None
    lease.be_behind()
    forget(cache)
    host.age(LEASE - 1)
    assert call(cache, "get_or_load", "page", lambda: cache.get("shelf")) == "s"
    assert call(cache, "get_or_load", "page", never) == "s", "both are young"
    host.age(1.5)
    assert call(cache, "get", "shelf", "missed") == "missed"
    assert call(cache, "get_or_load", "page", lambda: "new") == "new"


def test_what_a_loader_makes_while_the_host_becomes_current_is_not_young_afterwards(
    call: Call, cache: Cache, lease: Switch
) -> None:
    """What it reads near, while the host is current, may be older than the loader's beginning."""

    def load() -> object:
        lease.publish(time.monotonic() + 0.01)  # it knows all events up to a lease before
        lease.known = -math.inf
        try:
            return cache.get("near")
        finally:
            lease.be_behind()

    lease.be_behind()
    forget(cache)
    assert call(cache, "get_or_load", "page", load) == "n"
    assert call(cache, "get_or_load", "page", lambda: "new") == "new"
    assert call(cache, "get_or_load", "page", never) == "new"


def test_a_set_under_a_fence_takes_the_place_of_what_may_not_be_served(call: Call, cache: Cache, lease: Switch) -> None:
    pages = cache.namespace("pages", fence=True)
    pages.set("k", "old")
    lease.end()
    assert pages.get("k") is None
    assert pages.set("k", "computed") is True
    lease.begin()
    assert pages.get("k") == "computed"


def test_values_are_set_and_invalidated_whether_the_host_is_current_or_not(
    call: Call, cache: Cache, lease: Switch
) -> None:
    lease.end()
    assert call(cache, "set", "near", "set") is True
    call(cache, "invalidate", "shelf")
    lease.begin()
    assert (cache.get("near"), cache.get("shelf")) == ("set", None)


@pytest.mark.parametrize("stop", [Switch.be_behind, Switch.end], ids=["behind", "not established"])
def test_nothing_is_derived_while_the_host_is_not_current(
    call: Call, cache: Cache, lease: Switch, stop: Callable[[Switch], None]
) -> None:
    found = cache.gets("number")
    assert found is not None
    stop(lease)
    before = cache.stats().sets_refused
    assert call(cache, "add", "new", 1) is False
    assert call(cache, "cas", "number", 5, found[1]) is False
    assert call(cache, "incr", "number") is None
    assert call(cache, "decr", "absent", initial=5) is None
    assert call(cache, "touch", "number", 60) is False
    assert cache.stats().sets_refused == before + 5
    lease.begin()
    assert cache.get_many(["new", "number", "absent"]) == {"number": 1}
    assert call(cache, "incr", "number") == 2
    assert call(cache, "add", "new", 1) is True
