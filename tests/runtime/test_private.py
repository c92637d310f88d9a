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
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from colocache import Cache, ConfigError, EventLoopError
from colocache.config import Config
from colocache.runtime.inline import InlineDriver
from colocache.testing import private, travel
from tests import ROOT
from tests.conftest import Crew, NewCache, Until


@pytest.fixture
def cache(new_cache: NewCache) -> Cache:
    return new_cache(private=True)


@pytest.fixture
def driver() -> InlineDriver:
    return InlineDriver(Config.resolve({"group": "test", "private": True}, {}))


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


def test_the_environment_makes_caches_private(new_cache: NewCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOCACHE_PRIVATE", "true")
    one, other = new_cache(), new_cache()
    one.set("k", 1)
    assert other.get("k") is None
    assert [member.seat for member in one.members()] == ["private/0"]


def test_a_fresh_one_is_empty_and_shares_nothing_with_others_of_its_group(new_cache: NewCache) -> None:
    one, shared = new_cache(private=True), new_cache()
    one.set("k", "private")
    shared.set("k", "shared")
    other = new_cache(private=True)
    assert other.get("k") is None
    assert other.clear().complete
    assert (one.get("k"), shared.get("k")) == ("private", "shared")
    assert one.stats().members == shared.stats().members == 1


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


def test_the_hits_never_end_by_themselves(new_cache: NewCache, until: Until) -> None:
    """No other member must be heard, so there is no lease. Entries are found on the thread of an event loop, too."""
    cache = new_cache(private=True, lease="100ms", forget_after="200ms")
    cache.set("k", 1, ttl=None)
    cache.get("k")
    driver = cache._member.join()
    assert isinstance(driver, InlineDriver)
    until(lambda: driver._peer.deadline() < driver._peer._knowledge.now + 1 and not driver._peer.stats(now()).current)

    async def hit() -> Any:
        return cache.get("k")

    assert asyncio.run(hit()) == 1


def now() -> float:
    from time import monotonic

    return monotonic()


def test_what_would_wait_in_a_group_is_refused_on_the_thread_of_an_event_loop(cache: Cache) -> None:
    """Otherwise tests would pass with code that fails in production."""

    async def main() -> None:
        with pytest.raises(EventLoopError):
            cache.set("k", 1)

    asyncio.run(main())


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
    until(lambda: cache.stats().waits == 5)
    go_on.set()
    assert crew.join() == ["loaded"] * 6
    assert len(loads) == 1


def test_a_waiter_for_a_loader_that_hangs_loads_when_its_time_is_over(
    new_cache: NewCache, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waiter looks at the clock itself, because nobody else does. It does not wait for the last time limit."""
    monkeypatch.setattr("colocache.operations.drive.GRACE", 10_000)
    cache = new_cache(private=True, load_timeout=0.2, fetch_timeout=0.1)
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what Python swallows: see below
def test_a_command_that_a_signal_handler_gives_after_the_last_one_is_carried_out(
    driver: InlineDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    carry_out_all = driver._carry_out_all

    def interrupted() -> None:
        carry_out_all()
        if len(done) == 1:
            driver.tell(lambda calls, now: done.append("the handler's"))

    monkeypatch.setattr(driver, "_carry_out_all", interrupted)
    driver.tell(lambda calls, now: done.append("the thread's"))
    assert done == ["the thread's", "the handler's"]


def test_a_driver_that_has_left_refuses_what_it_is_asked(driver: InlineDriver) -> None:
    driver.leave(0.0)
    assert driver.ask(lambda calls, ticket, now: None, "otherwise").result(0) == "otherwise"


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


def test_what_is_raised_in_the_middle_of_a_step_lets_go_of_all_waiters(cache: Cache, crew: Crew, until: Until) -> None:
    """Nobody knows how far the step came. So the member ends, and the next call makes a new one."""
    begun, go_on, driver = threading.Event(), threading.Event(), cache._member.join()
    assert isinstance(driver, InlineDriver)

    def load() -> str:
        begun.set()
        assert go_on.wait(30)
        return "first"

    def interrupt(_peer: object, _now: float) -> None:
        raise TimeIsUp

    crew.start(lambda: cache.get_or_load("k", load))
    assert begun.wait(30)
    crew.start(lambda: cache.get_or_load("k", lambda: "second"))
    until(lambda: cache.stats().waits == 1)
    with pytest.raises(TimeIsUp):
        driver.tell(interrupt)
    until(lambda: crew.results == ["second"])
    go_on.set()
    assert crew.join() == ["second", "first"]
    assert cache._member.join() is not driver
    assert cache.get("k") is None


def test_a_finalizer_may_use_it_while_an_entry_is_dropped(cache: Cache) -> None:
    """If the cache has the last reference to a value, the value is finalized inside the cache."""
    seen: list[Any] = []

    class Value(dict[str, int]):
        def __del__(self) -> None:
            cache.invalidate("also")
            seen.append(cache.get_or_load("other", lambda: "loaded"))

    cache.set("also", 1)
    held = {"k": Value()}
    driver = cache._member.join()
    assert isinstance(driver, InlineDriver)
    driver.tell(lambda peer, now: held.clear())
    gc.collect()
    assert seen == ["loaded"]
    assert cache.get("also") is None
    assert cache.get_or_load("other", lambda: "again") in ("loaded", "again")


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


def test_a_token_lapses_when_the_time_is_moved(cache: Cache) -> None:
    cache.set("k", 1, ttl="1d")
    got = cache.gets("k")
    assert got is not None
    travel("1h")
    assert not cache.cas("k", 2, got[1])
    assert cache.get("k") == 1


def test_a_load_that_the_time_is_moved_under_is_not_kept(cache: Cache) -> None:
    def load() -> str:
        travel("1s")
        return "old"

    assert cache.get_or_load("k", load) == "old"
    assert cache.get_or_load("k", lambda: "new") == "new"


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
    assert (here.get("k"), inside.stats().members) == (None, 2)


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
    driver = cache._member.own_driver()
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
    assert driver is not None
    assert driver.alive
    assert cache._member.own_driver() is driver


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
