"""dogpile.cache: real regions on the backend, which a group shares."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests import ROOT

pytest.importorskip("dogpile.cache")

from dogpile.cache import CacheRegion, make_region, register_backend
from dogpile.cache.api import NO_VALUE, CachedValue

from colocache import Cache, ConfigError, dogpile
from colocache.dogpile import Backend, GroupInvalidation
from verification.interruptions.kinds import RAISING, handle_signals, interrupt


@pytest.fixture(autouse=True)
def backend_is_known() -> None:
    """Register the backend. An installed package does so by its entry point."""
    register_backend("colocache", "colocache.dogpile", "Backend")


@pytest.fixture(autouse=True)
def made_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Any, Cache]]:
    """Return the caches that backends make. They are closed after the test."""
    made: dict[Any, Cache] = {}
    monkeypatch.setattr(dogpile, "_caches", made)
    yield made
    for cache in made.values():
        cache.close()


def region(cache: Cache, *, expires: float | None = None, invalidator: Any = None, **arguments: Any) -> CacheRegion:
    """Return a region of one process."""
    made = make_region()
    more = {"region_invalidator": invalidator(made)} if invalidator else {}
    return made.configure("colocache", expires, arguments={"cache": cache, **arguments}, **more)  # type: ignore[arg-type]


@pytest.fixture
def pair(new_group: Callable[..., list[Cache]]) -> list[Cache]:
    """Return two members with enough time for a slow machine."""
    return new_group(2)


@pytest.fixture
def regions(pair: list[Cache]) -> list[CacheRegion]:
    """Return the same region in two processes."""
    return [region(cache) for cache in pair]


class Creator:
    """Creates 1, 2, 3, …"""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


def never() -> None:
    raise AssertionError("it is there")


# --- The interface


def test_the_entry_point_names_the_backend() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["dogpile.cache"] == {"colocache": "colocache.dogpile:Backend"}


@pytest.mark.parametrize("value", ["text", None, 0, False, {"a": [1, (2, 3)]}, b"bytes", {1, 2}])
def test_what_one_process_sets_the_other_one_gets(regions: list[CacheRegion], value: object) -> None:
    here, there = regions
    here.set("key", value)
    assert there.get("key") == here.get("key") == value
    metadata = there.get_value_metadata("key")
    assert isinstance(metadata, CachedValue)
    assert 0 <= metadata.age < 60
    there.delete("key")
    assert here.get("key") is there.get("key") is NO_VALUE
    here.delete("key")


def test_many_at_once(regions: list[CacheRegion]) -> None:
    here, there = regions
    here.set_multi({f"key {number}": number for number in range(20)})
    keys = [f"key {number}" for number in range(22)]
    assert there.get_multi(keys) == [*range(20), NO_VALUE, NO_VALUE]
    there.delete_multi(keys[:10])
    assert here.get_multi(keys) == [NO_VALUE] * 10 + [*range(10, 20), NO_VALUE, NO_VALUE]
    here.set_multi({})
    assert here.get_multi([]) == []


def test_long_and_odd_keys_are_distinct(regions: list[CacheRegion]) -> None:
    here, there = regions
    keys = ["k" * 5000, "k" * 5001, "ü" * 300, "with spaces and \n", "\ud800"]
    here.set_multi({key: number for number, key in enumerate(keys)})
    assert there.get_multi(keys) == [0, 1, 2, 3, 4]


def test_a_region_with_a_serializer_carries_any_value(pair: list[Cache]) -> None:
    made = []
    for cache in pair:
        serialising = make_region(serializer=pickle.dumps, deserializer=pickle.loads)
        made.append(serialising.configure("colocache", arguments={"cache": cache}))
    here, there = made
    here.set("key", ConfigError)
    here.set_multi({"other": Path})
    assert there.get("key") is ConfigError
    assert there.get_multi(["other", "third"]) == [Path, NO_VALUE]
    assert there.get_or_create("key", never) is ConfigError


def test_what_cannot_be_carried_is_refused_with_its_name(regions: list[CacheRegion]) -> None:
    with pytest.raises(TypeError, match="'key' of dogpile/default cannot be carried"):
        regions[0].set("key", object())


def test_regions_share_keys_if_they_have_the_same_namespace(cache: Cache) -> None:
    one, same, other = region(cache, namespace="a"), region(cache, namespace="a"), region(cache, namespace="b")
    one.set("key", 1)
    assert (same.get("key"), other.get("key")) == (1, NO_VALUE)


def test_values_do_not_expire_before_the_region_says_so_unless_there_is_a_ttl(
    new_cache: Any, until: Callable[..., None]
) -> None:
    cache = new_cache(ttl=0.001)
    lasting, fleeting = region(cache, namespace="a"), region(cache, namespace="b", ttl="1ms")
    lasting.set("key", 1)
    fleeting.set("key", 1)
    until(lambda: fleeting.get("key") is NO_VALUE)
    assert lasting.get("key") == 1


def test_copies_are_made_on_request(cache: Cache) -> None:
    shared, copied = region(cache, namespace="a"), region(cache, namespace="b", copy=True)
    for each in (shared, copied):
        each.set("key", [1])
        each.get("key")
    assert shared.get("key") is shared.get("key")
    assert copied.get("key") is not copied.get("key")
    assert copied.get("key") == [1]


# --- Arguments


def test_regions_of_one_group_share_a_member(run_dir: str, made_here: dict[Any, Cache]) -> None:
    arguments = {"group": "test", "load_timeout": "2s"}
    one = make_region().configure("colocache", arguments={**arguments, "namespace": "a", "ttl": 60})
    two = make_region().configure("colocache", arguments={**arguments, "namespace": "b", "copy": True})
    assert one.actual_backend.cache is two.actual_backend.cache
    assert one.actual_backend.cache.config.group == "test"
    assert one.actual_backend.cache.config.load_timeout == 2
    assert len(made_here) == 1


def test_a_region_is_configured_from_texts(run_dir: str, made_here: dict[Any, Cache]) -> None:
    settings = {
        "cache.backend": "colocache", "cache.expiration_time": "60", "cache.arguments.group": "test",
        "cache.arguments.memory": "8MiB", "cache.arguments.distributed_lock": "false",
    }  # fmt: skip
    made = make_region().configure_from_config(settings, "cache.")
    assert made.get_or_create("key", lambda: "value") == made.get("key") == "value"
    assert made.actual_backend.cache.config.memory == 8 << 20
    assert made.actual_backend.get_mutex("key") is None


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({}, ConfigError, "group"),
        ({"group": "g", "memory": "much"}, ConfigError, "memory"),
        ({"cache": "shop"}, TypeError, "is a colocache.Cache"),
        ({"group": "g", "ttl": "soon"}, ValueError, "soon"),
    ],
)
def test_bad_arguments_are_named(run_dir: str, arguments: dict[str, Any], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        make_region().configure("colocache", arguments=arguments)


@pytest.mark.parametrize("own", [True, False])
def test_arguments_of_other_backends_are_ignored_and_named_in_the_log(
    cache: Cache, run_dir: str, own: bool, made_here: dict[Any, Cache], caplog: pytest.LogCaptureFixture
) -> None:
    """Because one set of arguments may serve several backends. Those of dogpile.cache ignore arguments, too."""
    known = {"cache": cache} if own else {"group": "test", "load_timeout": "2s"}
    arguments = {**known, "redis_expiration_time": 60, "url": "x", "ttl": 60}
    made = make_region().configure("colocache", arguments=arguments)
    made.set("key", 1)
    assert made.get("key") == 1
    assert caplog.messages[0].endswith("are not known and ignored: ['redis_expiration_time', 'url']")


def test_a_cache_with_settings_beside_it_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="memory"):
        Backend({"cache": cache, "memory": "1MiB"})


# --- Creating


def test_what_one_process_has_created_the_other_one_uses(regions: list[CacheRegion]) -> None:
    here, there = regions
    create = Creator()
    assert here.get_or_create("key", create) == there.get_or_create("key", create) == 1
    assert here.get_or_create_multi(["key", "b"], lambda *keys: [create() for _ in keys]) == [1, 2]
    assert there.get_or_create_multi(["key", "b"], lambda *keys: never()) == [1, 2]


def test_a_decorated_function_is_cached_in_the_group(regions: list[CacheRegion]) -> None:
    create, made = Creator(), []
    for each in regions:

        def function(number: int) -> int:
            return number + create()

        made.append(each.cache_on_arguments(namespace="n")(function))
    here, there = made
    assert here(10) == there(10) == 11
    there.invalidate(10)
    assert here(10) == there(10) == 12
    here.set(5, 10)
    assert there(10) == 5
    assert here.refresh(10) == there(10) == 13


def test_many_threads_of_two_processes_create_a_value_once(regions: list[CacheRegion], crew: Any) -> None:
    create, started, go_on = Creator(), threading.Event(), threading.Event()

    def slowly() -> int:
        started.set()
        assert go_on.wait(30)
        return create()

    for each in regions:
        crew.start(lambda each=each: each.get_or_create("key", slowly), times=8)
    assert started.wait(30)
    assert any(each.actual_backend.get_mutex("key").locked() for each in regions)
    go_on.set()
    assert crew.join() == [1] * 16
    assert not any(each.actual_backend.get_mutex("key").locked() for each in regions)


def test_an_expired_value_is_served_while_another_process_creates_the_next_one(
    pair: list[Cache], crew: Any, until: Callable[..., None]
) -> None:
    here, there = (region(cache, expires=0.05) for cache in pair)
    create, started, go_on = Creator(), threading.Event(), threading.Event()
    assert here.get_or_create("key", create) == 1
    until(lambda: here.get("key") is NO_VALUE)

    def slowly() -> int:
        started.set()
        assert go_on.wait(30)
        return create()

    crew.start(lambda: here.get_or_create("key", slowly))
    assert started.wait(30)
    assert there.get_or_create("key", never) == 1
    go_on.set()
    assert crew.join() == [2]


def test_after_a_creator_that_fails_the_next_one_creates(regions: list[CacheRegion]) -> None:
    def fail() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        regions[0].get_or_create("key", fail)
    assert regions[1].get_or_create("key", lambda: 1) == 1


def test_a_value_whose_key_was_deleted_while_it_was_created_is_not_stored(regions: list[CacheRegion]) -> None:
    here, there = regions

    def create() -> str:
        there.delete("key")
        return "read before the delete"

    assert here.get_or_create("key", create) == "read before the delete"
    assert here.get("key") is there.get("key") is NO_VALUE


def test_a_lock_lapses_with_its_process(pair: list[Cache]) -> None:
    here, there = (
        region(cache, lock_timeout=seconds).actual_backend.get_mutex("key")
        for cache, seconds in zip(pair, (0.05, 30), strict=True)
    )
    assert here.acquire()
    assert there.acquire()
    here.release()  # it has lapsed, and is the other one's now
    assert here.locked()
    there.release()
    assert not here.locked()


def test_a_taken_lock_is_refused_at_once_without_waiting(regions: list[CacheRegion]) -> None:
    here, there = (each.actual_backend.get_mutex("key") for each in regions)
    assert here.acquire(False)
    assert not here.acquire(False)
    assert not there.acquire(False)
    here.release()
    assert there.acquire()
    there.release()


def test_a_lock_that_is_never_released_blocks_others_for_its_timeout_only(cache: Cache, crew: Any) -> None:
    mutex = region(cache, lock_timeout=0.2).actual_backend.get_mutex("key")
    assert mutex.acquire()
    assert not mutex.acquire(wait=False)
    began = time.monotonic()
    crew.start(mutex.acquire)
    assert crew.join() == [True]
    assert 0.2 <= time.monotonic() - began < 10
    mutex.release()
    assert not mutex.locked()
    mutex.release()  # by another thread that has not waited either


def test_a_creator_that_asks_for_its_own_value_does_not_wait_for_itself(regions: list[CacheRegion]) -> None:
    """And neither does a signal handler that has interrupted a creator: it runs on its thread, too."""
    here, there = regions
    assert here.get_or_create("key", lambda: here.get_or_create("key", lambda: 1) + 1) == 2
    assert there.get_or_create("key", never) == 2
    mutex = here.actual_backend.get_mutex("key")
    assert mutex.acquire()
    assert mutex.acquire()
    mutex.release()
    assert mutex.locked()
    mutex.release()
    assert not mutex.locked()


@pytest.mark.parametrize("kind", ["exception", "base", "in-band"])
def test_nothing_stays_locked_wherever_a_signal_handler_raises(regions: list[CacheRegion], kind: str) -> None:
    """Python lets handlers run at the beginning of a function, and after a call into C."""
    here, there = (each.actual_backend for each in regions)
    before = signal.getsignal(signal.SIGUSR1)
    handle_signals()
    try:
        for at in itertools.count(1):
            mutex, places = here.get_mutex("key"), list[str]()

            def come(frame: FrameType, event: str, _: Any, at: int = at, places: list[str] = places) -> None:
                code = frame.f_code
                if event not in ("call", "c_return") or code.co_filename != dogpile.__file__:
                    return
                if event != "call" or code is not dogpile._Mutex.release.__code__:  # there it has not even begun
                    places.append(f"line {frame.f_lineno}")
                    if len(places) == at:
                        sys.setprofile(None)
                        interrupt(kind)

            sys.setprofile(come)
            try:
                mutex.acquire()
                try:
                    assert mutex.locked()
                finally:
                    mutex.release()
            except RAISING[kind]:
                pass
            finally:
                sys.setprofile(None)
            if len(places) < at:
                break
            assert not mutex.locked(), places[-1]
            other = there.get_mutex("key")
            assert other.acquire(wait=False)
            other.release()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert at > 10


def test_a_process_that_cannot_join_locks_for_itself(new_cache: Callable[..., Cache]) -> None:
    mutex = region(new_cache(directory="/dev/null/no/directory")).actual_backend.get_mutex("key")
    assert mutex.acquire()
    assert not mutex.acquire(False)
    mutex.release()
    assert mutex.acquire(False)
    mutex.release()


# --- Invalidating a region


def test_a_region_with_the_groups_invalidation_forgets_everywhere(pair: list[Cache]) -> None:
    here, there = (region(cache, invalidator=GroupInvalidation) for cache in pair)
    other = region(pair[0], namespace="other")
    other.set("key", 0)
    for hard in (True, False):
        here.set("key", hard)
        assert there.get("key") is hard
        there.invalidate(hard=hard)
        assert here.get("key") is there.get("key") is NO_VALUE
    assert other.get("key") == 0


def test_the_groups_invalidation_is_for_this_backend_only() -> None:
    made = make_region()
    made.configure("dogpile.cache.memory", region_invalidator=GroupInvalidation(made))
    with pytest.raises(TypeError, match="with the backend colocache"):
        made.invalidate()


def test_dogpiles_own_invalidation_is_for_one_process(regions: list[CacheRegion]) -> None:
    here, there = regions
    here.set("key", 1)
    here.invalidate()
    assert (here.get("key"), there.get("key")) == (NO_VALUE, 1)


# --- Processes

OTHER = """\
import sys
from dogpile.cache import make_region, register_backend
register_backend("colocache", "colocache.dogpile", "Backend")
region = make_region().configure("colocache", arguments={"group": "processes"})

@region.cache_on_arguments()
def square(number):
    print("created", flush=True)
    return number * number

for line in sys.stdin:
    print(eval(line), flush=True)
region.actual_backend.cache.close()
"""


def test_two_processes(run_dir: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLOCACHE_DIR": run_dir}
    command = [sys.executable, "-W", "error", "-c", OTHER]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]

    def call(number: int, expression: str) -> str:
        worker: Any = workers[number]
        worker.stdin.write(expression + "\n")
        worker.stdin.flush()
        return worker.stdout.readline().strip()  # type: ignore[no-any-return]

    try:
        for number in (0, 1):  # so that both have joined, and keep copies
            call(number, "region.actual_backend.cache.start()")
        assert call(0, "square(3)") == "created"
        assert workers[0].stdout.readline().strip() == "9"  # type: ignore[union-attr]
        assert call(1, "square(3)") == "9"
        assert call(1, "square.invalidate(3)") == "None"
        assert call(0, "square(3)") == "created"
        assert workers[0].stdout.readline().strip() == "9"  # type: ignore[union-attr]
        assert call(1, "square(3)") == "9"
    finally:
        for worker in workers:
            worker.communicate()
    assert [worker.returncode for worker in workers] == [0, 0]
