"""Caches to test with: real ones in this process, which find each other in a directory that only this test has.

Two `Cache` objects of one group in one process share the process's view of the host: its seat, its loads under way, its
bus. Each has a near cache of its own. What belongs to two processes is tested with `colocache.testing.group`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import pytest

from colocache import Cache
from colocache.core.entry import Entry
from tests import ROOT

PATIENCE = 30.0  # s; only a test that fails waits so long
SHELF = "8MiB"


class NewCache(Protocol):
    """A function that makes a cache of the group "test", which the test closes at its end."""

    def __call__(self, group: str = ..., **settings: Any) -> Cache:
        """Return it; settings win over the defaults of the tests."""


class Until(Protocol):
    """A function that waits for a condition."""

    def __call__(self, condition: Callable[[], object], *, failing: str = ...) -> None:
        """Return when the condition holds, and fail if that takes too long."""


class Call(Protocol):
    """A function that calls a method of a cache by its sync name: the method, or its async twin in an event loop."""

    def __call__(self, space: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns."""


@pytest.fixture
def until() -> Until:
    """Wait for a condition instead of a fixed time."""

    def wait(condition: Callable[[], object], *, failing: str = "the condition never came true") -> None:
        deadline, pause = time.monotonic() + PATIENCE, threading.Event()
        while not condition():
            assert time.monotonic() < deadline, failing
            pause.wait(0.001)

    return wait


def near_entry(space: Any, key: Any) -> Entry:
    """Return the near copy of a key that has a value. It is kept when the value is found for the second time."""
    for _ in range(2):
        space.get(key)
    entry: Entry = space._keyspace.near[0][key]
    return entry


def waiting(cache: Cache) -> int:
    """Return how many calls of this process wait for a load, of this process or of another one."""
    host = cache._member.own_host()
    if host is None:
        return 0
    queues = [*(load.waiters for load in [*host.claims._loads.values()]), *[*host.claims._sleepers.values()]]
    return sum(map(len, queues))


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a runtime directory whose path is short enough for sockets, for small shelves, which are made quickly.

    All other ``COLOCACHE_*`` variables are unset.
    """
    for variable in [name for name in os.environ if name.startswith("COLOCACHE_")]:
        monkeypatch.delenv(variable)
    path = tempfile.mkdtemp(prefix="cc", dir="/tmp")
    monkeypatch.setenv("COLOCACHE_DIR", path)
    monkeypatch.setenv("COLOCACHE_SHELF", SHELF)
    yield path
    shutil.rmtree(path, ignore_errors=True)


#: Modules whose tests of one cache also hold for a private cache; and the fixtures that need a group.
ALSO_PRIVATE = {
    "test_async", "test_atomic", "test_cache", "test_decorators", "test_scope", "test_specialised", "test_stats",
    "test_values",
}  # fmt: skip
OF_A_GROUP = {"new_group", "pair"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of one cache twice: with a cache that is alone in its group, and with a private one."""
    asks_for, module = set(metafunc.fixturenames), metafunc.module.__name__.rpartition(".")[2]
    marked = any(mark.name == "in_a_group" for mark in metafunc.definition.iter_markers())
    if module in ALSO_PRIVATE and "new_cache" in asks_for and not asks_for & OF_A_GROUP and not marked:
        metafunc.parametrize("new_cache", ["group", "private"], indirect=True)


#: Directories and modules whose tests start processes or servers, or take long.
SLOW = {
    "dashboard", "docs", "examples", "processes", "testing", "verification", "test_benchmarks", "test_celery",
    "test_commands", "test_doctor", "test_figures", "test_gevent", "test_heartbeats", "test_interrupts",
    "test_other_hosts", "test_policy", "test_private", "test_region", "test_region_storm", "test_ring",
    "test_sqlalchemy", "test_typing", "test_under_test",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out: the slow directories and modules, state machines, and property tests."""
    for item in items:
        names = {part.removesuffix(".py") for part in item.path.relative_to(ROOT / "tests").parts}
        is_property = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if SLOW & names or item.path.stem.endswith("_stateful") or is_property:
            item.add_marker("slow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes ``pytest -n auto`` starts: two for each core, because many tests wait."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what UTF-8 cannot carry, because pytest-xdist sends reports as UTF-8: logs quote odd names of files."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture
def new_cache(request: pytest.FixtureRequest, run_dir: str) -> Iterator[NewCache]:
    """Make caches that have not joined yet, or private ones."""
    made: list[Cache] = []
    private = getattr(request, "param", "group") == "private"

    def make(group: str = "test", **settings: Any) -> Cache:
        made.append(Cache(group, **({"private": True} if private else {}) | settings))
        return made[-1]

    yield make
    for cache in reversed(made):
        cache.close()


@pytest.fixture
def cache(new_cache: NewCache) -> Cache:
    """Return a cache that is alone in its group."""
    return new_cache()


@pytest.fixture
def ready(cache: Cache) -> Cache:
    """Return a cache that is alone in its group, and has joined it."""
    cache.start()
    return cache


@pytest.fixture
def new_group(new_cache: NewCache) -> Callable[..., list[Cache]]:
    """Make caches of one group, which all have joined."""

    def make(size: int, **settings: Any) -> list[Cache]:
        caches = [new_cache(**settings) for _ in range(size)]
        for each in caches:
            each.start()
        return caches

    return make


@pytest.fixture
def pair(new_group: Callable[..., list[Cache]]) -> list[Cache]:
    """Return two caches of one group, which have joined."""
    return new_group(2)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Call a method in both of its forms, one test for each."""
    if request.param == "sync":
        return lambda space, method, *args, **kwargs: getattr(space, method)(*args, **kwargs)

    async def twin(space: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(space, f"a{method}")(*args, **kwargs)

    return lambda space, method, *args, **kwargs: asyncio.run(twin(space, method, *args, **kwargs))


class Crew:
    """Threads whose results, or exceptions, are collected."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.results: list[Any] = []

    def start(self, work: Callable[[], Any], times: int = 1) -> None:
        """Do some work in as many threads."""

        def do() -> None:
            try:
                self.results.append(work())
            except BaseException as error:
                self.results.append(error)

        for _ in range(times):
            thread = threading.Thread(target=do, daemon=True)
            self.threads.append(thread)
            thread.start()

    def join(self) -> list[Any]:
        """Wait for all threads, and return their results in the order in which they end."""
        for thread in self.threads:
            thread.join(PATIENCE)
        assert len(self.results) == len(self.threads), "a thread hangs"
        return self.results


@pytest.fixture
def crew() -> Crew:
    """Return threads to do work in."""
    return Crew()
