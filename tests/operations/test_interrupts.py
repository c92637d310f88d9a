"""Signal handlers at any point of a call: those that raise leave a cache that works, and others may use it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from colocache import Cache, near_cache
from colocache.core.host import claims
from colocache.core.host.claims import Load
from colocache.host import Host
from colocache.operations import under_way
from colocache.operations.under_way import active
from tests.conftest import PATIENCE, Crew, NewCache, Until
from tests.interrupts import SWALLOWED, Interrupt, at_every_point, handled, interrupted, time_limit
from tests.loaders import never

pytestmark = [pytest.mark.filterwarnings(SWALLOWED), pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each call that keeps something near do all there is to it."""
    monkeypatch.setattr(near_cache, "WAITING", 1)


@pytest.fixture(params=["private", "group"])
def cache(request: pytest.FixtureRequest, new_cache: NewCache) -> Cache:
    cache = new_cache(private=request.param == "private", load_timeout=20, shelf="1MiB")
    cache.start()
    return cache


def host_of(cache: Cache) -> Host:
    host = cache._member.own_host()
    assert host is not None
    return host


def nothing_is_left_behind(cache: Cache) -> None:
    """Check that nobody loads, claims or waits, and that no lock is locked."""
    host, member = host_of(cache), cache._member
    assert under_way.active() == ()
    assert not host.claims._loads
    assert not host.claims._sleepers
    assert not host.region.claims._mine
    assert not host.region.rings._holds.held
    for holds in (host.keeper._working, member._alone.holds, member.near_caches._alone.holds):
        assert not holds.held
    assert not member._joining
    if host.region.path:
        claims = [os.stat(f"{host.region.path}/claims.{number}").st_ino for number in range(16)]
        rings, locked = os.stat(f"{host.region.path}/locks").st_ino, locked_bytes()
        assert not [(inode, byte) for inode, byte in locked if inode in claims or (inode == rings and byte in RINGS)]


RINGS = range(1 << 16, (1 << 16) + 100)


def locked_bytes() -> list[tuple[int, int]]:
    """Return what this process has locked for itself, as the kernel says: inodes and bytes."""
    if not os.path.exists("/proc/locks"):
        pytest.skip("the kernel does not show its locks here")
    with open("/proc/locks") as lines:
        words = [line.replace("-> ", "").split() for line in lines if f" {os.getpid()} " in line]
    return [(int(place.split(":")[2]), int(first)) for _, kind, _, access, _, place, first, *_ in words
            if (kind, access) == ("POSIX", "WRITE")]  # fmt: skip


def works(cache: Cache, key: str) -> None:
    """Check that a key can be written, invalidated, loaded and counted, whatever was interrupted."""
    cache.set(key, "set")
    assert cache.get(key) == "set"
    assert cache.invalidate(key).complete
    assert cache.get(key) is None
    assert cache.get_or_load(key, lambda: "loaded") == "loaded"
    assert cache.get_or_load(key, never) == "loaded"
    cache.invalidate(key)
    assert cache.incr(key, initial=41) == 42
    cache.invalidate(key)


def heal(cache: Cache) -> None:
    """Have the near cache begin anew after an interruption. If the next call did so, it would have ever more points."""
    host_of(cache).keeper.sweep()


class Failure(Exception):
    pass


def fail() -> None:
    raise Failure


def try_to_load(cache: Cache, key: str) -> None:
    with pytest.raises(Failure):
        cache.get_or_load(key, fail)


def compare_and_set(cache: Cache, key: str) -> None:
    cache.set(key, 1)
    got = cache.gets(key)
    assert got is not None
    assert cache.cas(key, 2, got[1], tags=("t",))


def get_and_set(cache: Cache, key: str) -> None:
    pages = cache.namespace("pages", fence=True)
    assert pages.get(key) is None
    assert pages.set(key, 1, tags=("t",))


def read(cache: Cache, key: str) -> None:
    near = cache.namespace("pages")
    cache.set(key, 1)
    assert (cache.get(key), near.get_many([key])) == (1, {})
    assert (cache.get(key), cache.get_many([key])) == (1, {key: 1}), "it is found again, and kept near"


CALLS: dict[str, Callable[[Cache, str], object]] = {
    "get_or_load": lambda cache, key: cache.get_or_load(key, lambda: "value", tags=("t",)),
    "get_or_load, which fails": try_to_load,
    "get_or_load of what is too large": lambda cache, key: cache.get_or_load(key, lambda: b"x" * (1 << 20)),
    "aget_or_load": lambda cache, key: asyncio.run(cache.aget_or_load(key, lambda: "value")),
    "get": read,
    "set": lambda cache, key: cache.set(key, 1, tags=("t",)),
    "set of what is too large": lambda cache, key: cache.set(key, b"x" * (1 << 20)),
    "get and set": get_and_set,
    "add": lambda cache, key: cache.add(key, 1),
    "cas": compare_and_set,
    "incr": lambda cache, key: cache.incr(key, initial=0),
    "touch": lambda cache, key: (cache.set(key, 1), cache.touch(key, 60)),
    "invalidate": lambda cache, key: cache.invalidate(key, strict=True),
    "invalidate_tags": lambda cache, key: cache.invalidate_tags("t", strict=True),
    "clear": lambda cache, key: cache.clear(strict=True),
    "stats": lambda cache, key: (cache.stats(), cache.members()),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_exception_at_any_point_of_a_call_leaves_a_cache_that_works(cache: Cache, name: str) -> None:
    call, keys = CALLS[name], itertools.count()
    for _ in at_every_point(lambda: call(cache, f"key {next(keys)}")):
        gc.collect(0)  # a task that was interrupted ends when it is collected
        assert active() == (), "this thread's next load of the key would be taken for one inside the first"
        nothing_is_left_behind(cache)
        works(cache, f"key {next(keys)}")
        nothing_is_left_behind(cache)
    assert next(keys) > 20


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("name", ["start", "get_or_load", "leave"])
def test_an_exception_at_any_point_of_joining_or_leaving_leaves_a_cache_that_works(
    new_cache: NewCache, private: bool, name: str
) -> None:
    cache = new_cache(private=private, shelf="1MiB")
    calls: dict[str, Callable[[], object]] = {
        "start": cache.start, "get_or_load": lambda: cache.get_or_load("k", lambda: 1), "leave": cache.leave,
    }  # fmt: skip
    for number in itertools.count(1, 1 if private else 5):  # to join a group takes some milliseconds
        if name == "leave":
            cache.start()
        else:
            cache.leave()
        if not interrupted(number, calls[name]):
            break
        if name == "leave":
            cache.leave()  # perhaps it has not begun, or a thread still sees to it
        works(cache, "k")
        nothing_is_left_behind(cache)
        assert len(cache.members()) == 1
    assert number > 30


@pytest.fixture
def signal_of_time_limit() -> Iterator[None]:
    """Have `time_limit` handle a signal."""
    before = signal.signal(signal.SIGUSR1, time_limit)
    yield
    signal.signal(signal.SIGUSR1, before)


#: All but codecs: they try one way after another, and pass over whatever the first one raises.
ALL_BUT_VALUES = tuple(
    f"colocache/{part}" for part in ("core/", "host.py", "member.py", "near", "operations/", "runtime/")
)


@pytest.mark.usefixtures("signal_of_time_limit")
@pytest.mark.parametrize("name", ["get_or_load", "get", "set", "incr", "cas", "invalidate", "stats", "start"])
def test_a_time_limit_that_is_an_error_of_the_system_reaches_the_caller(new_cache: NewCache, name: str) -> None:
    """TimeoutError is an OSError. Nobody takes it for trouble with a file, and goes on, or freezes what all share."""
    cache, keys = new_cache(shelf="1MiB"), itertools.count()
    cache.start()

    def call() -> None:
        if name == "start":
            cache.start()
        else:
            CALLS[name](cache, f"key {next(keys)}")

    for number in itertools.count(1, 5 if name == "start" else 1):
        if name == "start":
            cache.leave()
        came, raised = timed_out(number, call)
        if not came:
            break
        assert raised, f"it was lost at point {number}"
        works(cache, f"key {next(keys)}")
    assert number > 30


def timed_out(number: int, work: Callable[[], object]) -> tuple[bool, bool]:
    """Do some work, and let its time be up at so many points from its start; tell whether that came, and was raised."""
    swallowed: list[object] = []
    before, sys.unraisablehook = sys.unraisablehook, swallowed.append  # of Python itself, where nobody can catch it
    try:
        came = interrupted(number, work, ALL_BUT_VALUES, handler=time_limit)
    except TimeoutError as error:
        return True, type(error) is TimeoutError and str(error) == "the time is up"
    finally:
        sys.unraisablehook = before
    return came, bool(swallowed)


# --- Those that wait


def waiters(cache: Cache) -> int:
    """Return how many calls of this process wait for a load of it."""
    return sum(len(load.waiters) for load in [*host_of(cache).claims._loads.values()])


def test_whoever_waits_for_a_load_that_is_interrupted_anywhere_loads_next(cache: Cache, until: Until) -> None:
    for number in itertools.count(1):
        key, other = f"key {number}", Crew()

        def load(key: str = key, other: Crew = other) -> str:
            other.start(lambda: cache.get_or_load(key, lambda: "other's"))
            until(lambda: waiters(cache) == 1)
            return "value"

        came = interrupted(number, lambda key=key, load=load: cache.get_or_load(key, load))
        for result in other.join():
            assert result in ("value", "other's"), number
        nothing_is_left_behind(cache)
        heal(cache)
        if not came:
            break
    assert number > 200
    assert other.results == ["value"]


def test_a_wait_that_is_interrupted_anywhere_leaves_the_load_alone(cache: Cache, until: Until) -> None:
    for number in itertools.count(1):
        key, leader, begun, go_on = f"key {number}", Crew(), threading.Event(), threading.Event()

        def load(begun: threading.Event = begun, go_on: threading.Event = go_on) -> str:
            begun.set()
            assert go_on.wait(PATIENCE)
            return "value"

        came: list[bool] = []

        def let_go(go_on: threading.Event = go_on, came: list[bool] = came) -> None:
            until(lambda: waiters(cache) == 1 or came)
            go_on.set()

        leader.start(lambda key=key, load=load: cache.get_or_load(key, load))
        assert begun.wait(PATIENCE)
        leader.start(let_go)
        came.append(interrupted(number, lambda key=key: cache.get_or_load(key, never)))
        assert "value" in leader.join()
        nothing_is_left_behind(cache)
        heal(cache)
        assert cache.get(key) == "value"
        if not came[0]:
            break
    assert number > 100


@pytest.mark.parametrize("late", [False, True])
def test_a_wait_for_another_process_that_is_interrupted_anywhere_leaves_nothing_behind(
    new_cache: NewCache, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The other process has the claim, and gives it back; or it keeps it, until this call loads beside it."""
    monkeypatch.setattr(claims, "FIRST_PAUSE", 0.0001)
    cache = new_cache(load_timeout=0.002 if late else 20, shelf="1MiB")
    cache.start()
    locks = host_of(cache).region.claims
    take, tries = locks.take, itertools.count()
    monkeypatch.setattr(locks, "take", lambda place: (not late and next(tries) >= 3) and take(place))
    for number in itertools.count(1):
        tries = itertools.count()
        came = interrupted(number, lambda number=number: cache.get_or_load(f"key {number}", lambda: "value"))
        nothing_is_left_behind(cache)
        heal(cache)
        assert cache.set("other", number)
        assert cache.get("other") == number
        if not came:
            break
    assert number > 300
    assert cache.stats().fallbacks > 0 if late else cache.stats().fallbacks == 0


def test_a_load_that_nobody_leads_is_led_by_who_waits(cache: Cache, until: Until) -> None:
    """A leader is interrupted as soon as it has its duty, before its own code runs once more."""
    key, load_init = "key", Load.__init__

    def interrupt(load: Load, *args: Any) -> None:
        load_init(load, *args)
        Load.__init__ = load_init  # type: ignore[method-assign]
        raise Interrupt

    Load.__init__ = interrupt  # type: ignore[method-assign]
    with pytest.raises(Interrupt):
        cache.get_or_load(key, never)
    nothing_is_left_behind(cache)
    assert cache.get_or_load(key, lambda: "value") == "value"


# --- Those that use the cache


USES: dict[str, Callable[[Cache, str], object]] = {
    "get_or_load": CALLS["get_or_load"], "set": CALLS["set"], "incr": CALLS["incr"], "cas": CALLS["cas"],
    "invalidate": CALLS["invalidate"],
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_a_signal_handler_or_finalizer_may_use_the_cache_at_any_instruction(new_cache: NewCache, name: str) -> None:
    """Where it has interrupted a write to the same part of the shelf, its own write is refused, and not blocked."""
    cache, call = new_cache(private=True, shelf="1MiB"), USES[name]
    cache.start()
    outcomes: list[Any] = []

    def handler() -> None:
        outcomes.append(cache.get_or_load("handler's", lambda: 1))
        stored = cache.set("stored", len(outcomes))
        assert cache.get("stored") == (len(outcomes) if stored else None)
        assert cache.invalidate("stored").complete
        assert cache.get("stored") is None
        outcomes.append(stored)

    number, keys = 1, itertools.count()
    while handled(number, lambda: call(cache, f"key {next(keys)}"), handler):
        assert outcomes[-2] == 1
        nothing_is_left_behind(cache)
        works(cache, f"key {next(keys)}")
        number += 13
    assert number > 200
    assert {*outcomes[1::2]} == ({True} if name == "invalidate" else {True, False})
