"""A private cache belongs to this process alone, and needs nothing of the system.

That it behaves as one that is alone in its group, is shown by the tests of that: see `pytest_generate_tests` in
conftest.py.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from colocache import Cache, ConfigError, EventLoopError
from colocache.testing import private, travel
from tests import ROOT
from tests.conftest import Crew, NewCache, Until, waiting
from tests.interrupts import SWALLOWED


@pytest.fixture
def cache(new_cache: NewCache) -> Cache:
    return new_cache(private=True)


# --- This process alone

NOTHING = """\
import os, sys, threading, asyncio
before = sorted(os.listdir("/dev/fd"))
import colocache
cache = colocache.Cache("shop", private=True)
cache.set("k", 1)
assert cache.get_or_load("l", lambda: 2, tags=("t",)) == 2
assert cache.invalidate_tags("t").complete and cache.incr("k") == 2
asyncio.run(cache.aget("k"))
assert sorted(os.listdir("/dev/fd")) == before
assert threading.active_count() == 1, threading.enumerate()
assert "zmq" not in sys.modules
"""


def test_it_needs_no_file_thread_descriptor_or_zmq(tmp_path: Path) -> None:
    environment = {"COLOCACHE_DIR": str(tmp_path / "run"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", NOTHING]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_it_works_where_the_runtime_directory_cannot_be_used(new_cache: NewCache) -> None:
    cache = new_cache(private=True, directory="/proc/no such place")
    cache.start()
    assert cache.set("k", 1)
    assert cache.get("k") == 1


def test_the_environment_makes_caches_private(
    new_cache: NewCache, monkeypatch: pytest.MonkeyPatch, run_dir: str
) -> None:
    monkeypatch.setenv("COLOCACHE_PRIVATE", "true")
    one, other = new_cache(), new_cache()
    one.set("k", 1)
    assert other.get("k") is None
    assert [member.pid for member in one.members()] == [os.getpid()]
    assert os.listdir(run_dir) == []


def test_a_fresh_one_is_empty_and_shares_nothing_with_others_of_its_group(new_cache: NewCache) -> None:
    one, shared = new_cache(private=True), new_cache()
    one.set("k", "private")
    shared.set("k", "shared")
    other = new_cache(private=True)
    assert other.get("k") is None
    assert other.clear().complete
    assert (one.get("k"), shared.get("k")) == ("private", "shared")
    assert one.stats().processes == shared.stats().processes == 1


def test_after_it_has_left_it_is_empty(cache: Cache) -> None:
    cache.set("k", 1)
    cache.leave()
    assert cache.get("k") is None


@pytest.mark.parametrize("fork", [os.fork, getattr(os, "forkpty", None)], ids=["fork", "forkpty"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_begins_with_an_empty_one(cache: Cache, fork: Callable[[], Any] | None) -> None:
    if fork is None:
        pytest.skip("there is no such call here")
    cache.set("k", 1)
    assert cache.get("k") == 1
    forked = fork()
    pid = forked[0] if isinstance(forked, tuple) else forked
    if pid == 0:
        status = 1
        try:
            found, stored = cache.get("k"), cache.set("k", 2) and cache.get("k")
            status = 0 if (found, stored) == (None, 2) else 1
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert cache.get("k") == 1


def test_what_would_wait_in_a_group_is_refused_on_the_thread_of_an_event_loop(cache: Cache) -> None:
    """Otherwise tests would pass with code that fails in production. Only a load that another call has begun waits."""
    begun, go_on = threading.Event(), threading.Event()

    def load() -> str:
        begun.set()
        assert go_on.wait(30)
        return "loaded"

    async def main() -> None:
        cache.set("other", 1)
        with pytest.raises(EventLoopError):
            cache.get_or_load("k", lambda: "own")

    loading = threading.Thread(target=lambda: cache.get_or_load("k", load))
    loading.start()
    assert begun.wait(30)
    asyncio.run(main())
    go_on.set()
    loading.join()
    assert (cache.get("k"), cache.get("other")) == ("loaded", 1)


# --- Threads, handlers and finalizers


def test_one_load_for_all_threads(cache: Cache, crew: Crew, until: Until) -> None:
    begun, go_on, loads = threading.Event(), threading.Event(), []

    def load() -> str:
        loads.append(1)
        begun.set()
        assert go_on.wait(30)
        return "loaded"

    crew.start(lambda: cache.get_or_load("k", load), times=6)
    assert begun.wait(30)
    until(lambda: waiting(cache) == 5)
    go_on.set()
    assert crew.join() == ["loaded"] * 6
    assert (len(loads), cache.stats().waits) == (1, 5)


def test_a_waiter_for_a_loader_that_hangs_loads_when_its_time_is_over(new_cache: NewCache, crew: Crew) -> None:
    cache = new_cache(private=True, load_timeout=0.2)
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> str:
        begun.set()
        assert go_on.wait(30)
        return "late"

    crew.start(lambda: cache.get_or_load("k", hang))
    assert begun.wait(30)
    assert cache.get_or_load("k", lambda: "own") == "own"
    go_on.set()
    assert crew.join() == ["late"]


def test_a_signal_handler_may_use_it_at_any_moment(cache: Cache) -> None:
    """The handler's thread may be inside the cache. Then the command is carried out when the thread goes on."""
    handled, numbers = list[bool](), itertools.count()

    def handler() -> None:
        number = next(numbers)  # one handler may be interrupted by the next one
        handled.append(cache.get_or_load(("handled", number), lambda: number) == number)
        cache.invalidate(("handled", number))

    with on_timer(handler):
        count = 0
        while len(handled) < 200:
            count += 1
            assert cache.get_or_load(("k", count % 5), lambda: "v") == "v"
            assert cache.invalidate(("k", count % 5)).complete
    assert all(handled)
    assert not cache.get_many([("handled", number) for number in range(next(numbers))])


class TimeIsUp(BaseException):
    pass


@pytest.mark.filterwarnings(SWALLOWED)
def test_what_a_signal_handler_raises_in_the_middle_leaves_a_cache_that_works(cache: Cache, crew: Crew) -> None:
    """The locks are free, and what was invalidated stays so."""

    armed, interrupted = False, 0

    def handler() -> None:
        nonlocal armed
        if armed:
            armed = False
            raise TimeIsUp

    with on_timer(handler):
        for _ in range(300):
            try:
                armed = True
                while armed:  # Python swallows exceptions in places where nobody can catch them, such as finalizers
                    cache.set("old", 1)
                    cache.invalidate("old")
                    assert cache.get("old") is None
                    cache.incr("n", initial=0, tags=("t",))
                    cache.invalidate_tags("t")
            except TimeIsUp:
                interrupted += 1
    assert interrupted > 200
    cache.clear()
    crew.start(lambda: [cache.get_or_load("k", lambda: 2), cache.set("l", 3), cache.get("l")], times=2)
    assert crew.join() == [[2, True, 3]] * 2


def test_a_finalizer_may_use_it_while_an_entry_is_dropped(cache: Cache) -> None:
    """If the cache has the last reference to a value, the value is finalized inside the cache."""
    seen: list[Any] = []

    @cache.register
    @dataclass
    class Value:
        number: int

        def __del__(self) -> None:
            cache.invalidate("also")
            seen.append(cache.get_or_load("other", lambda: "loaded"))

    seen.clear()  # to be registered, the class was tried out
    cache.clear()
    cache.set("also", 1)
    cache.get_or_load("k", lambda: Value(1))  # which readers of this process find as it is
    assert seen == []
    cache.invalidate("k")
    gc.collect()
    assert seen == ["loaded"]
    assert cache.get("also") is None
    assert cache.get_or_load("other", lambda: "again") == "loaded"
    del Value.__del__


@contextmanager
def on_timer(handler: Callable[..., None]) -> Iterator[None]:
    """Have a handler called again and again, while this process computes."""
    active = True
    before = signal.signal(signal.SIGVTALRM, lambda *_: handler() if active else None)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0007)
    try:
        yield
    finally:
        active = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# --- Time


def test_what_is_cached_expires_when_the_time_is_moved(cache: Cache) -> None:
    cache.set("minute", 1, ttl="1m")
    cache.set("day", 2, ttl="1d")
    cache.set("ever", 3, ttl=None)
    assert [cache.get(key) for key in ("minute", "day", "ever")] == [1, 2, 3]
    travel("59s")
    assert cache.get("minute") == 1
    travel(timedelta(seconds=1))
    assert [cache.get(key) for key in ("minute", "day", "ever")] == [None, 2, 3]
    travel("1d")
    assert [cache.get(key) for key in ("day", "ever")] == [None, 3]
    assert cache.stats().entries == 1


def test_a_token_is_good_for_as_long_as_its_value(cache: Cache) -> None:
    cache.set("k", 1, ttl="1d")
    got = cache.gets("k")
    assert got is not None
    travel("23h")
    assert cache.cas("k", 2, got[1], ttl="1d")
    got = cache.gets("k")
    assert got is not None
    travel("1d")
    assert not cache.cas("k", 3, got[1])


def test_a_fence_lapses_when_the_time_is_moved(new_cache: NewCache) -> None:
    cache = new_cache(private=True, fence=True, load_timeout="30s")
    assert cache.get("k") is None
    travel("29s")
    assert cache.set("k", 1)
    assert cache.get("l") is None
    travel("31s")
    assert not cache.set("l", 1)
    assert cache.get("l") is None


def test_only_some_caches_travel_if_they_are_named(new_cache: NewCache) -> None:
    one, other = new_cache(private=True), new_cache(private=True)
    for cache in (one, other):
        cache.set("k", 1, ttl=60)
    travel("1h", one)
    assert (one.get("k"), other.get("k")) == (None, 1)


def test_the_time_of_a_group_cannot_be_moved(new_cache: NewCache) -> None:
    shared = new_cache()
    with pytest.raises(RuntimeError, match="no cache of this process is private"):
        travel("1h")
    with pytest.raises(ValueError, match=r"<colocache.Cache 'test'> is not private"):
        travel("1h", shared)
    with pytest.raises(ConfigError):
        travel("-1h")


# --- All caches for the length of a test


def test_all_caches_are_private_inside_and_go_on_as_before(new_cache: NewCache) -> None:
    here, there = new_cache(), new_cache()
    namespace = here.namespace("n", ttl=60)

    @here.cached(ttl=60)
    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    calls: list[int] = []
    here.set("k", "shared")
    namespace.set("k", "shared")
    assert (double(1), here.get("k"), namespace.get("k")) == (2, "shared", "shared")
    with private():
        inside = new_cache()
        assert (here.get("k"), namespace.get("k"), double(1)) == (None, None, 2)
        here.set("k", "private")
        assert inside.set("k", "also private")
        assert here.clear().complete
        assert there.get("k") is None
        travel("1h")
    assert calls == [1, 1]
    assert (here.get("k"), namespace.get("k"), double(1)) == ("shared", "shared", 2)
    assert calls == [1, 1]
    assert inside.clear().complete
    assert (here.get("k"), inside.stats().processes) == (None, 1)


def test_each_level_is_empty_and_leaves_nothing_behind(new_cache: NewCache) -> None:
    cache = new_cache()
    with private():
        cache.set("k", 1)
        with private():
            assert cache.get("k") is None
            cache.set("k", 2)
            cache.close()
        assert cache.get("k") == 1
    assert cache.get("k") is None
    assert cache.stats().misses == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_leaves_the_block_joins_by_itself(new_cache: NewCache) -> None:
    """The life that it would go on with is its parent's."""
    cache = new_cache()
    cache.start()
    host = cache._member.own_host()
    with private():
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            cache.start()
            status = 0 if [each.pid for each in cache.members() if each.me] == [os.getpid()] else 1
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert host is not None
    assert host.alive
    assert cache._member.own_host() is host


def test_what_was_missed_in_one_test_is_no_fence_for_the_next_one(new_cache: NewCache) -> None:
    cache = new_cache(fence=True)
    for _ in range(2):
        with private():
            assert cache.get("k") is None
        with private():
            assert cache.set("k", 1)


def test_it_is_a_decorator_too(new_cache: NewCache) -> None:
    cache = new_cache()

    @private()
    def test() -> Any:
        return cache.get("k"), cache.set("k", 1)

    assert [test(), test()] == [(None, True)] * 2
