"""Calls on a thread of the cache, where Python may run a finalizer of the application: nobody waits there."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from colocache import Cache, ClosedError
from colocache.runtime.waiting.answers import Answer
from colocache.runtime.waiting.threads import ThreadErrands, on_driver_thread, start_driver
from tests.conftest import PATIENCE, Crew, NewCache, Until, waiting
from tests.loaders import never


def on_a_driver(work: Callable[[], Any]) -> Any:
    """Do something where the bus, or the network, does its work."""
    done = Answer()
    start_driver(lambda: done.give(work()), "driver", ThreadErrands(), done.give)
    return done.result(PATIENCE)


def test_a_load_of_another_thread_is_not_waited_for(
    new_cache: NewCache, crew: Crew, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    cache, go_on, begun = new_cache(), threading.Event(), threading.Event()
    cache.start()
    crew.start(lambda: cache.get_or_load("slow", lambda: begun.set() or (go_on.wait() and "its")))
    until(begun.is_set)
    assert on_a_driver(lambda: cache.get_or_load("slow", lambda: "mine")) == "mine"
    assert waiting(cache) == 0
    assert cache.stats().fallbacks == 1
    go_on.set()
    crew.join()
    assert cache.get_or_load("slow", never) in ("its", "mine")
    until(lambda: [record for record in caplog.records if "on a thread of the cache" in record.message])
    assert on_a_driver(lambda: cache.get_or_load("another", lambda: 1)) == 1
    assert len([record for record in caplog.records if "on a thread of the cache" in record.message]) == 1


def test_what_needs_no_waiting_is_done(new_cache: NewCache) -> None:
    cache = new_cache()
    cache.set("k", 1)

    def work() -> list[Any]:
        return [
            cache.get("k"), cache.get_or_load("other", lambda: 2), cache.set("k", 3), cache.get("k"),
            cache.incr("k"), cache.invalidate("k").complete, cache.get("k"),
        ]  # fmt: skip

    assert on_a_driver(work) == [1, 2, True, 3, 4, True, None]


def test_a_cache_that_is_closed_there_leaves_elsewhere(
    new_cache: NewCache, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """To leave takes long if another process that joins or leaves is stopped, and is told to log handlers."""
    caplog.set_level(logging.INFO, "colocache")
    cache, threads = new_cache(), list[bool]()
    cache.start()
    region: Any = cache._member.own_host()
    genuine = region.region.release
    region.region.release = lambda: threads.append(on_driver_thread()) or genuine()
    on_a_driver(cache.close)
    until(lambda: threads)
    assert threads == [False]
    until(lambda: any("left seat" in record.message for record in caplog.records))


def test_a_cache_that_is_closed_there_while_another_thread_joins_waits_for_nobody(
    new_cache: NewCache, crew: Crew, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, go_on, begun = new_cache(), threading.Event(), threading.Event()
    genuine = cache._member._try_to_join
    monkeypatch.setattr(cache._member, "_try_to_join", lambda: begun.set() or (go_on.wait() and genuine()))

    def join() -> None:
        with pytest.raises(ClosedError):
            cache.start()

    crew.start(join)
    until(begun.is_set)
    is_closed = on_a_driver(lambda: cache.close() or not go_on.is_set())
    go_on.set()
    crew.join()
    assert is_closed is True
    assert cache.members() == []


def test_a_finalizer_that_the_collector_runs_on_the_bus_does_not_hold_it_up(
    new_cache: NewCache, crew: Crew, until: Until
) -> None:
    """The collector runs in whichever thread allocates, and so on the bus, too."""
    cache, go_on, begun, ran = new_cache(), threading.Event(), threading.Event(), list[bool]()
    cache.start()
    host: Any = cache._member.own_host()
    bus = host._shared.bus
    crew.start(lambda: cache.get_or_load("slow", lambda: begun.set() or (go_on.wait() and 1)))
    until(begun.is_set)

    def hasten() -> None:
        bus._tick_at = 0  # again and again: a thread that begins sets it, too

    class Resource:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            cache.get_or_load("slow", lambda: 2)
            ran.append(on_driver_thread())

    gc.disable()
    try:
        Resource()
        bus._on_tick = lambda: ran or gc.collect()
        until(lambda: hasten() or (bus.answers(PATIENCE) and ran))
    finally:
        gc.enable()
        go_on.set()
    assert ran == [True]
    crew.join()


def test_a_cache_may_be_dropped_there(new_cache: NewCache, until: Until) -> None:
    caches: list[Cache] = [Cache("dropped", directory=new_cache().config.directory, shelf="8MiB")]
    caches[0].start()
    host: Any = caches[0]._member.own_host()
    on_a_driver(caches.clear)
    gc.collect()
    until(lambda: host.region._left)
