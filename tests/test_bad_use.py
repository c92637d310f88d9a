"""Use that goes wrong: odd arguments, bad places, full disks, forks, garbage. It ends in a clear error, or harmless."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import colocache.member
import colocache.runtime.files
import colocache.runtime.region_files
from colocache import MISSING, Cache, ClosedError, ConfigError, InvalidationIncomplete, Stats
from colocache.core.entry import Entry
from colocache.core.host.shelf import Shelf
from colocache.host import Host
from colocache.member import Member
from colocache.runtime import frames
from colocache.runtime.bus import Bus
from colocache.runtime.holds import Hold, Holds
from colocache.runtime.places import why_unusable
from colocache.scope import Scope
from tests import ROOT
from tests.conftest import waiting
from tests.interrupts import at_every_point
from tests.loaders import counted, elsewhere, never

if TYPE_CHECKING:
    from tests.conftest import Call, Crew, NewCache, Until

GONE = object()


# --- Keys that cannot be used


class Hostile(str):
    """Raises whenever it is looked up."""

    __slots__ = ()

    def __hash__(self) -> int:
        raise LookupError("hostile")

    def __eq__(self, other: object) -> bool:
        raise LookupError("hostile")


deep: Any = "a"
for _ in range(50):
    deep = (deep,)

NOT_KEYS: dict[str, tuple[Any, str]] = {
    "list": (["a"], "a key is a str or a tuple, not list"),
    "dict": ({"a": 1}, "a key is a str or a tuple, not dict"),
    "None": (None, "a key is a str or a tuple, not NoneType"),
    "int": (1, r"a key is a str or a tuple, not int: 1; write \(1,\)"),
    "float": (1.5, "a key is a str or a tuple, not float"),
    "bytes": (b"a", "a key is a str or a tuple, not bytes"),
    "object": (object(), "a key is a str or a tuple, not object"),
    "with an object": (("a", object()), "a key cannot hold .* of the type object, which has no form .* Convert it"),
    "with a subclass of dict": (("a", OrderedDict()), r"which is a subclass of dict .* convert it by dict\(...\)"),
    "too deep": (deep, "of the type tuple, which nests deeper than 16"),
}


@pytest.mark.parametrize(("key", "text"), NOT_KEYS.values(), ids=NOT_KEYS.keys())
def test_what_is_no_key_is_refused_by_name(call: Call, cache: Cache, key: Any, text: str) -> None:
    uses: list[tuple[str, Any]] = [
        ("get", (key,)), ("get_or_load", (key, never)), ("get_many", ([key],)), ("set", (key, 1)),
        ("invalidate", ("fine", key)), ("delete", (key,)),
    ]  # fmt: skip
    for method, arguments in uses:
        with pytest.raises(TypeError, match=text):
            call(cache, method, *arguments)
    assert cache.members() == [], "it is found before anything is started"


def test_a_key_that_raises_when_it_is_looked_up_hurts_its_user_only(call: Call, cache: Cache) -> None:
    cache.set("a", 1)
    assert cache.get("a") == 1
    me = cache.members()
    for method, arguments in (("get", ()), ("get_or_load", (never,))):
        with pytest.raises(LookupError, match="hostile"):
            call(cache, method, Hostile("a"), *arguments)
    call(cache, "set", Hostile("a"), 2)
    assert cache.get("a") == 2
    assert cache.members() == me


ODD: dict[str, tuple[Any, ...]] = {
    "surrogate in a key": ("set", "\udcff", 1),
    "surrogate in a tuple": ("set", ("\udcff",), 1),
    "long key": ("set", "x" * 10_000, 1),
    "large int in a key": ("set", (2**100_000,), 1),
    "tiny ttl": ("set", "k", 1, {"ttl": 1e-9}),
    "smallest ttl": ("set", "k", 1, {"ttl": 5e-324}),
    "longest ttl": ("set", "k", 1, {"ttl": 36500 * 86400}),
    "one tag 500 times": ("get_or_load", "k", dict, {"tags": ["x" * 250] * 500}),
    "tiny ttl of a load": ("get_or_load", "k", dict, {"ttl": 1e-9}),
    "tiny wait": ("invalidate", "k", {"wait": 1e-300}),
    "long wait": ("invalidate", "k", {"wait": 1e300}),
    "longest int to wait": ("clear", {"wait": 10**300}),
    "2000 tags": ("invalidate_tags", *("x" * 240 + str(n) for n in range(2000))),
    "5000 keys": ("get_many", [("k", n) for n in range(5000)]),
}


@pytest.mark.parametrize("arguments", ODD.values(), ids=ODD.keys())
def test_odd_but_allowed_arguments_do_not_hurt_the_cache(call: Call, pair: list[Cache], arguments: Any) -> None:
    one, other = pair
    me, region = one.members(), one._member.own_host()
    method, *rest = arguments
    options = rest.pop() if isinstance(rest[-1], dict) else {}
    call(one, method, *rest, **options)
    assert one.set("after", 1, wait="all")
    assert other.get("after") == 1
    assert (one.members(), one._member.own_host()) == (me, region)
    assert one.namespace("\udcff").set("k", 1)
    assert other.namespace("\udcff").get("k") == 1
    assert other.namespace("\udcff").clear().complete
    assert one.namespace("\udcff").get("k") is None


# --- Loaders with side effects


def test_a_loader_may_close_the_cache(call: Call, cache: Cache) -> None:
    def load() -> str:
        elsewhere(cache.close)
        return "loaded"

    assert call(cache, "get_or_load", "k", load) == "loaded"
    with pytest.raises(ClosedError):
        call(cache, "get", "k")


def test_a_loader_may_write_and_invalidate_its_own_key(cache: Cache) -> None:
    def write() -> str:
        cache.set("k", "written")
        return "loaded"

    assert cache.get_or_load("k", write) == "loaded"
    assert cache.get("k") == "written"

    def invalidate() -> str:
        cache.invalidate("l")
        return "loaded"

    assert cache.get_or_load("l", invalidate) == "loaded"
    assert cache.get("l") is None


def test_a_loader_may_give_missing_no_more_than_anything_else_that_cannot_be_carried(cache: Cache) -> None:
    with pytest.raises(TypeError, match="the value of the key 'k' cannot be carried"):
        cache.get_or_load("k", lambda: MISSING)


class Interrupted(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("kind", [Interrupted, TimeoutError, OSError, RuntimeError])
@pytest.mark.parametrize("role", ["waiter", "leader"])
def test_a_signal_may_interrupt_a_call(
    cache: Cache, crew: Crew, until: Until, role: str, kind: type[BaseException]
) -> None:
    """As Ctrl-C does, or the alarm by which a server ends a request that takes too long."""

    def interrupt(*_: object) -> None:
        raise kind("interrupted")

    loading, go_on, main = threading.Event(), threading.Event(), threading.main_thread().ident
    assert main is not None

    def slow() -> str:
        loading.set()
        go_on.wait(30)
        return "slow"

    def send() -> None:
        until(lambda: waiting(cache) == 1)
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    gc.disable()  # Hypothesis is called by the garbage collector, and what is raised there is lost
    try:
        if role == "waiter":
            crew.start(lambda: cache.get_or_load("k", slow))
            loading.wait(30)
            crew.start(send)
            with pytest.raises(kind, match="interrupted"):
                cache.get_or_load("k", never)
            go_on.set()
            assert sorted(crew.join(), key=str) == [None, "slow"]
        else:
            crew.start(lambda: loading.wait(30) and cache.get_or_load("k", lambda: "next"))
            crew.start(send)
            with pytest.raises(kind, match="interrupted"):
                cache.get_or_load("k", slow)
            assert sorted(crew.join(), key=str) == [None, "next"]
    finally:
        go_on.set()
        gc.enable()
        signal.signal(signal.SIGUSR1, before)


# --- When its host is lost under it


def test_a_cache_whose_files_are_deleted_joins_anew(
    call: Call, cache: Cache, run_dir: str, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    assert call(cache, "set", "k", 1)
    until(Path(run_dir, "test", "0.bus").exists)  # the last file that is made
    assert call(cache, "get", "k") == 1
    first = cache._member.own_host()
    shutil.rmtree(Path(run_dir, "test"))
    assert call(cache, "invalidate", "k", strict=True).complete
    assert "leaves the group, because its files in" in caplog.text
    assert call(cache, "get_or_load", "k", lambda: 2) == call(cache, "get", "k") == 2
    second = cache._member.own_host()
    assert first is not None
    assert second is not None
    assert not first.alive
    assert second.region_id != first.region_id
    assert Path(run_dir, "test", "board").exists()


def rejoin(cache: Cache) -> None:
    cache.leave()
    cache.start()


def test_an_entry_of_the_host_before_is_found_by_no_reader_that_begins_later(cache: Cache) -> None:
    """1. A reader finds an entry; 2. the cache leaves, and joins a new region; 3. the reader goes on."""
    cache.set("k", "old")
    assert cache.get("k") == "old"

    class Interrupted(dict[Any, Entry]):
        def get(self, key: Any, default: Any = None) -> Any:
            entry = super().get(key, default)
            rejoin(cache)
            return entry

    keyspace = cache._keyspace
    keyspace.near = Interrupted(keyspace.near[0]), keyspace.near[1]
    assert keyspace.hit("k") in ("old", MISSING)
    assert keyspace.near[0] == {}
    assert keyspace.hit("k") is MISSING
    assert cache.get("k") is None


@pytest.mark.parametrize("how", ["get", "get_or_load", "get_many", "loader"])
def test_what_the_host_before_answered_is_not_kept_near_on_the_new_one(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its label is of other stamps, which nobody changes any more."""
    if how == "loader":

        def load() -> str:
            rejoin(cache)
            return "old"

        assert cache.get_or_load("k", load) == "old"
    else:
        cache.set("k", "old")
        with monkeypatch.context() as patched:
            for method, genuine in (("find", Shelf.find), ("look", Shelf.look)):

                def interrupted(self: Shelf, *args: Any, genuine: Any = genuine) -> Any:
                    found = genuine(self, *args)
                    patched.undo()
                    rejoin(cache)
                    return found

                patched.setattr(Shelf, method, interrupted)
            if how == "get":
                assert cache.get("k") in ("old", None)
            elif how == "get_many":
                assert cache.get_many(["k"]) in ({"k": "old"}, {})
            else:
                assert cache.get_or_load("k", lambda: "new") in ("old", "new")
    assert cache._keyspace.near[0] == {}
    assert cache.get_or_load("k", lambda: "new") == cache.get("k") == "new"


# --- Where it cannot join


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda place: place.write_text("mine"), "is something else, not a directory"),
    "a directory that others may enter": (lambda place: place.mkdir(mode=0o755), "has mode 0755, which lets other"),
    "a link": (lambda place: place.symlink_to("/tmp"), "is a symbolic link, not a directory"),
    "a directory in a file": (lambda place: place.parent.rmdir() or place.parent.write_text(""), "cannot be used"),
    "a directory in a directory that is not there": (lambda place: place.parent.rmdir(), "cannot be used"),
}
ODD_PLACES = ["/dev/null/x", "/proc/self/x", "/tmp/" + "x" * 300, "/tmp/" + "x/" * 3000, "/dev/full", "/tmp/\udcff/x"]


@pytest.mark.parametrize(("prepare", "text"), PLACES.values(), ids=PLACES.keys())
def test_a_runtime_directory_that_cannot_be_used_breaks_no_read_is_logged_once_and_raised_by_start(
    call: Call, new_cache: NewCache, run_dir: str, prepare: Callable[[Path], object], text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    place = Path(run_dir, "sub", "place")
    place.parent.mkdir(mode=0o700)
    prepare(place)
    cache = new_cache(directory=str(place))
    wrong = f"the runtime directory .* {text}.*set COLOCACHE_DIR to another path"
    for number in range(3):
        assert call(cache, "get_or_load", "k", lambda number=number: number) == number
        assert call(cache, "get", "k", GONE) is GONE
        assert call(cache, "set", "k", 1) is False
        assert call(cache, "add", "k", 1) is False
        assert call(cache, "incr", "k", initial=0) is None
        assert not call(cache, "invalidate", "k").complete
        assert not call(cache, "clear").complete
        with pytest.raises(ConfigError, match=wrong):
            cache.start()
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert re.search(f"cannot join, caches nothing, and tries again every second: ConfigError: {wrong}", caplog.text)
    assert cache.stats().fallbacks == cache.stats().loads == 3
    assert cache.members() == []
    cache.close()


@pytest.mark.parametrize("place", ODD_PLACES, ids=range(len(ODD_PLACES)))
def test_wherever_the_runtime_directory_is_no_read_fails(cache: Cache, new_cache: NewCache, place: str) -> None:
    cache = new_cache(directory=place)
    assert cache.get_or_load("k", lambda: 1) == 1
    with pytest.raises((ConfigError, OSError)):
        cache.start()
    assert why_unusable(place)


@pytest.mark.parametrize(("prepare", "text"), PLACES.values(), ids=PLACES.keys())
def test_it_can_be_told_beforehand_why_a_runtime_directory_cannot_be_used(
    run_dir: str, prepare: Callable[[Path], object], text: str
) -> None:
    place = Path(run_dir, "sub", "place")
    assert "cannot be created" in why_unusable(str(place))
    place.parent.mkdir(mode=0o700)
    assert why_unusable(str(place)) == ""
    assert os.listdir(place.parent) == [], "it creates nothing"
    prepare(place)
    assert text.replace("cannot be used", "cannot be") in why_unusable(str(place))


def test_a_runtime_directory_where_one_may_not_write_is_an_error(
    call: Call, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *_: object) -> None:  # as any user but root is refused
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "mkdir", refuse)
    assert call(cache, "get", "k", GONE) is GONE
    with pytest.raises(ConfigError, match=r"cannot be used: Permission denied.*set COLOCACHE_DIR"):
        cache.start()


def test_when_the_runtime_directory_is_mended_it_joins(
    new_cache: NewCache, run_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(run_dir, "place")
    place.write_text("in the way")
    cache = new_cache(directory=str(place))
    assert cache.get_or_load("k", lambda: 1) == 1
    place.unlink()
    monkeypatch.setattr(colocache.member, "monotonic", lambda: time.monotonic() + colocache.member.RETRY)
    assert cache.get_or_load("k", lambda: 2) == cache.get_or_load("k", never) == 2


def test_what_keeps_it_from_joining_does_not_break_a_decorated_function_or_a_scope(
    new_cache: NewCache, run_dir: str
) -> None:
    cache = new_cache(directory="/dev/null/place")

    @cache.cached(tags=("t",))
    def double(number: int) -> int:
        return 2 * number

    with Scope(cache) as scope:
        assert (double(1), double(1), double.refresh(2)) == (2, 2, 4)
        assert not cache.invalidate_tags("t", wait="response").complete
        scope.settle()
    assert cache.position() == ""
    assert cache.catch_up(f"{'0' * 32}.1") is False


def test_a_runtime_directory_is_given_by_an_absolute_path(new_cache: NewCache) -> None:
    with pytest.raises(ConfigError, match="give an absolute path"):
        new_cache(directory="here")


def test_files_of_others_in_the_runtime_directory_do_not_matter(cache: Cache, run_dir: str) -> None:
    """What looks like the memory of processes that have died, and is no such thing, is thrown away."""
    Path(run_dir, "test").mkdir(mode=0o700)
    for name in ("board", "shelf", "claims.0", "0.bus", "nothing"):
        Path(run_dir, "test", name).write_bytes(b"junk" * 1000)
        Path(run_dir, "test", name).chmod(0o600)
    assert cache.set("k", 1)
    assert cache.get("k") == 1
    assert len(cache.members()) == 1


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A disk without space for a new file, until undone."""

    def refuse(_files: object, name: str) -> int:
        raise OSError(28, "No space left on device", name)

    monkeypatch.setattr(colocache.runtime.region_files.Files, "create", refuse)
    return monkeypatch


def test_on_a_full_disk_everything_falls_through_to_the_source_and_is_counted(
    call: Call, cache: Cache, full: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load, calls = counted("v")
    assert [call(cache, "get_or_load", "k", load) for _ in range(3)] == ["v"] * 3
    assert len(calls) == 3
    assert call(cache, "get", "k", GONE) is GONE
    assert call(cache, "get_many", ["k"]) == {}
    assert call(cache, "set", "k", 1) is False
    assert call(cache, "set_many", {"k": 1}) is False
    assert call(cache, "invalidate", "k").complete is False
    assert call(cache, "invalidate", "k", wait=False).complete is False
    with pytest.raises(InvalidationIncomplete):
        call(cache, "clear", strict=True)
    stats = cache.stats()
    assert (stats.loads, stats.fallbacks, stats.misses, stats.incomplete) == (3, 3, 2, 5)
    with pytest.raises(ConfigError, match=r"there is no room in .* set COLOCACHE_DIR to another place"):
        cache.start()
    joins = [record for record in caplog.records if "cannot join" in record.message]
    assert len(joins) == 1, "one is enough, however often it is tried"
    assert "there is no room in" in joins[0].message


def test_a_thousand_calls_without_a_cache_write_each_line_once(
    new_cache: NewCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache = new_cache(directory="/dev/null/x")
    caplog.set_level(logging.DEBUG, "colocache")
    for number in range(1000):
        assert cache.get_or_load(("k", number), lambda number=number: number) == number  # type: ignore[misc]
        cache.invalidate(("k", number))
        cache.set(("k", number), 1)
    lines = [record.msg for record in caplog.records]
    assert len(lines) == len(set(lines)) == 3


def test_when_space_returns_it_joins_again(
    cache: Cache, full: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.get_or_load("k", lambda: 1) == 1
    full.undo()
    monkeypatch.setenv("COLOCACHE_DIR", cache.config.directory or "")
    assert cache.get_or_load("k", lambda: 2) == 2, "it does not try again at once"
    monkeypatch.setattr(colocache.member, "monotonic", lambda: time.monotonic() + colocache.member.RETRY)
    assert cache.get_or_load("k", lambda: 3) == 3
    monkeypatch.undo()
    assert len(cache.members()) == 1
    assert cache.get_or_load("k", never) == 3


def test_a_start_does_not_wait_for_the_next_try(cache: Cache, full: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"there is no room in .* set COLOCACHE_DIR to another place"):
        cache.start()
    full.undo()
    cache.start()
    assert len(cache.members()) == 1


def test_whether_descriptors_are_left_is_told_without_opening_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container there need not be a /dev/null."""
    monkeypatch.setattr(os, "devnull", "/nowhere/null")
    monkeypatch.setattr("builtins.open", never)
    assert not colocache.runtime.files.descriptors_are_scarce()


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many"), TimeoutError("late"), ImportError("ctypes")])
def test_whatever_keeps_it_from_joining_does_not_break_the_application(
    call: Call, cache: Cache, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Host, "join", mock.Mock(side_effect=error))
    assert call(cache, "get_or_load", "k", lambda: "v") == "v"
    assert call(cache, "set", "k", 1) is False
    assert cache.stats().fallbacks == 1
    with pytest.raises(type(error)):
        cache.start()


class Handlers:
    """Signal handlers of all kinds, which raise an exception."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def method(self, *_: object) -> None:
        raise self.kind("late")

    def __call__(self, *_: object) -> None:
        self.method()

    def all(self) -> list[Callable[..., object]]:
        def function(*_: object) -> None:
            raise self.kind("late")

        return [function, self.method, self]


@pytest.mark.parametrize(
    "kind", [LookupError, RuntimeError, OSError, TimeoutError, MemoryError, ConfigError, ImportError]
)
def test_what_a_signal_handler_raises_while_a_cache_joins_reaches_the_application(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """Time limits of task queues raise all kinds of exceptions, also those of the system."""
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Host, "join", lambda *_: signal.raise_signal(signal.SIGUSR1))
            for handler in Handlers(kind).all():
                signal.signal(signal.SIGUSR1, handler)
                for call in (lambda: cache.get_or_load("k", lambda: "v"), cache.start):
                    with pytest.raises(kind, match="late"):
                        call()
    finally:
        gc.enable()
        signal.signal(signal.SIGUSR1, before)
    assert cache.get_or_load("k", lambda: "v") == cache.get("k") == "v", "it does not wait to try again"


@pytest.mark.slow
def test_a_join_that_a_signal_handler_interrupts_at_any_point_leaves_nothing_behind(
    new_cache: NewCache, run_dir: str, until: Until
) -> None:
    """The seat and all locks are free at once, and what was opened is closed."""
    cache = new_cache(shelf="1MiB")
    rejoin(cache)
    cache.leave()
    before = open_descriptors()
    for number in at_every_point(cache.start, ("colocache/member.py", "colocache/host.py")):
        cache.start()
        assert len(cache.members()) == 1, number
        assert cache.get_or_load("k", lambda: "v") == cache.get("k") == "v"
        cache.leave()
        assert left_in(run_dir) == [], number
    cache.close()

    def are_closed() -> bool:
        gc.collect()  # what a cache has mapped goes with objects that know each other
        return open_descriptors() <= before

    until(are_closed, failing="it has left descriptors open")


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


# --- Code of users that comes at any time


def test_a_finalizer_of_a_value_may_use_the_cache(cache: Cache, new_cache: NewCache) -> None:
    """A value's last reference may be the cache's. It dies where no lock is held."""
    seen: list[Any] = []
    watched = [False]
    other = new_cache("other")

    @cache.register
    @dataclass
    class Value:
        number: int

        def __del__(self) -> None:
            if not watched[0]:
                return
            receipt = cache.invalidate("also")
            found = [each.get_or_load("k", lambda: "own") for each in (cache, other)]
            seen.append((receipt.complete, found, len(cache.members()), cache.set("l", 1)))

    cache.set("also", 1)
    cache.get_or_load("value", lambda: Value(1))
    watched[0] = True
    cache.invalidate("value")
    watched[0] = False
    assert seen == [(True, ["own", "own"], 1, True)]
    assert cache.get("also") is None
    assert cache.get_or_load("k", never) == "own"


def test_a_log_handler_may_use_the_cache_and_take_its_time(
    cache: Cache, new_cache: NewCache, crew: Crew, until: Until
) -> None:
    logged: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            entered.set()
            assert go_on.wait(30)
            logged.append(cache.get_or_load(("line", record.getMessage()), record.getMessage))

    cache.start()
    logger, handler = logging.getLogger("colocache"), Handler()
    handler.createLock = lambda: None  # type: ignore[method-assign]
    level, newcomer = logger.level, new_cache("other")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        crew.start(newcomer.start)
        assert entered.wait(30)
        assert cache.invalidate("k", strict=True).complete
        assert newcomer.set("k", 1), "it has joined by now, and only its line is to be written"
        assert newcomer.get("k") == 1
        assert not logged
        go_on.set()
        assert crew.join() == [None]
        until(lambda: any("joined" in line for line in logged))
    finally:
        go_on.set()
        logger.removeHandler(handler)
        logger.setLevel(level)


# --- Off


def test_a_cache_that_is_off_loads_every_time(
    call: Call, new_cache: NewCache, monkeypatch: pytest.MonkeyPatch, run_dir: str
) -> None:
    monkeypatch.setenv("COLOCACHE_DISABLED", "true")
    cache = new_cache()
    load, calls = counted("v")
    assert [call(cache, "get_or_load", "k", load) for _ in range(3)] == ["v"] * 3
    assert len(calls) == 3
    assert call(cache, "get", "k") is None
    assert call(cache, "set", "k", 1) is False
    assert call(cache, "get_many", ["k"]) == {}
    assert call(cache, "invalidate", "k", strict=True).complete
    assert (cache.stats().loads, cache.stats().fallbacks, cache.stats().misses) == (3, 0, 2)
    assert os.listdir(run_dir) == []
    assert not any(thread.name.startswith("colocache") for thread in threading.enumerate())
    cache.close()
    with pytest.raises(ClosedError):
        cache.get("k")


# --- Processes


def python(script: str, run_dir: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, which may import colocache."""
    root = str(ROOT)
    environment = {**os.environ, "COLOCACHE_DIR": run_dir, "PYTHONPATH": root}
    return subprocess.run(
        [sys.executable, *options, "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )


def left_in(run_dir: str) -> list[str]:
    """The files in a group's directory."""
    return sorted(os.listdir(f"{run_dir}/test")) if os.path.isdir(f"{run_dir}/test") else []


EXITS = {
    "at the end": "",
    "by sys.exit": "sys.exit(0)",
    "in a thread's presence": "threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "after the cache was dropped": "del cache",
    "while others are to be told of an event": "cache.invalidate('k', wait=False)",
    "after a close": "cache.close()",
    "with two caches": "again = colocache.Cache('test'); again.set('k', 1)",
}


@pytest.mark.parametrize("end", EXITS.values(), ids=EXITS.keys())
def test_an_interpreter_that_exits_without_a_close_leaves_nothing_behind(run_dir: str, end: str) -> None:
    script = f"""
import sys, threading, colocache
cache = colocache.Cache("test")
assert cache.set("k", 1) and cache.get("k") == 1
{end}
"""
    done = python(script, run_dir, "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert left_in(run_dir) == []


def test_what_still_asks_while_the_interpreter_exits_loads_for_itself(run_dir: str) -> None:
    """Exit handlers run last in, first out: one that was there before the cache joined runs after it has left."""
    script = """
import atexit, colocache
cache = colocache.Cache("test")
atexit.register(lambda: print(cache.get_or_load("k", lambda: "late"), cache.get("k"), cache.invalidate("k").complete))
assert cache.get_or_load("k", lambda: "early") == "early"
"""
    done = python(script, run_dir, "-W", "error")
    assert (done.returncode, done.stdout) == (0, "late None False\n"), done.stderr
    assert left_in(run_dir) == []


LAST_USES = {
    "after it has left": ("cache.start()", "1 None False"),
    "which is the first one": ("", "1 None False"),
    "after it has joined anew": ("atexit.register(join_at_last)\ncache.start()", "1 2 True"),
}


@pytest.mark.parametrize(("before", "shown"), LAST_USES.values(), ids=LAST_USES.keys())
def test_a_finalizer_at_the_end_of_the_interpreter_waits_for_no_thread(run_dir: str, before: str, shown: str) -> None:
    """No other thread runs there any more: not one that joins, nor one that loads."""
    script = f"""
import atexit, gc, os, sys, threading, colocache
cache = colocache.Cache("test", load_timeout="10m")

class Last:
    def __init__(self):
        self.itself = self

    def __del__(self):
        loaded = cache.get_or_load("k", lambda: 1)
        cache.set("other", 2)
        found = [loaded, cache.get("other"), cache.invalidate("other").complete]
        os.write(1, " ".join(map(str, found)).encode() if sys.is_finalizing() else b"too early")
        cache.close()

def join_at_last():
    global cache
    cache, begun = colocache.Cache("test", load_timeout="10m"), threading.Event()
    load = lambda: begun.set() or threading.Event().wait()
    threading.Thread(target=lambda: cache.get_or_load("k", load), daemon=True).start()
    begun.wait()

{before}
gc.disable()
sys.modules["kept to the end"] = Last()
"""
    done = python(script, run_dir)
    assert (done.returncode, done.stdout) == (0, shown), done.stderr
    assert "Traceback" not in done.stderr


FORK = """
import os, sys, colocache
cache = colocache.Cache("test")
users = cache.namespace("users")
assert users.get_or_load("k", lambda: "parent's") == "parent's"
assert users.get("k") == "parent's"
ready, tell = os.pipe()
child = os.fork()
if not child:
    assert users._keyspace.near[0] == {} and cache.members() == []
    assert cache.stats().loads == cache.stats().hits == 0
    assert users.get_or_load("k", lambda: "child's") == "parent's", "that is on the shelf of the host"
    me, parent = cache.members()
    assert (me.pid, me.seat) == (os.getpid(), 1), me
    assert (parent.pid, parent.seat) == (os.getppid(), 0), parent
    os.write(tell, b"!")
    # until the parent invalidates it
    while users.get("k") == "parent's": pass
    END
os.read(ready, 1)
me, other = cache.members()
assert me.pid == os.getpid() and other.pid == child
assert users.invalidate("k", strict=True).complete
assert os.waitpid(child, 0)[1] == 0
assert users.get_or_load("k", lambda: "new") == "new" and users.get("k") == "new"
assert len(cache.members()) == cache.stats().processes == 1
"""


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "cache.close(); sys.exit(0)"])
def test_a_forked_child_gets_a_seat_of_its_own_and_its_parent_goes_on(run_dir: str, end: str) -> None:
    done = python(FORK.replace("END", end), run_dir)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert left_in(run_dir) == []


def test_a_child_forked_while_the_parent_joins_is_free(run_dir: str) -> None:
    """The lock that the joining thread holds is not the child's: there, nobody would ever release it."""
    script = """
import os, sys, threading, colocache
from colocache.host import Host
joining, go_on, join = threading.Event(), threading.Event(), Host.join
def slow(*arguments):
    joining.set()
    go_on.wait()
    return join(*arguments)
Host.join = slow
cache = colocache.Cache("test")
thread = threading.Thread(target=cache.start)
thread.start()
joining.wait()
child = os.fork()
if not child:
    Host.join = join
    assert cache.get_or_load("k", lambda: 1) == 1 and len(cache.members()) == 1
    cache.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
go_on.set()
thread.join()
assert cache.get_or_load("k", lambda: 2) == 2
"""
    done = python(script, run_dir)
    assert done.returncode == 0, done.stderr
    assert left_in(run_dir) == []


def test_a_cache_that_left_by_itself_does_not_close_what_the_application_has_opened_since(run_dir: str) -> None:
    """1. A cache has closed its descriptors; 2. files get their numbers; 3. a child lets go of what it inherited."""
    script = """
import fcntl, os, shutil, colocache
ended, other = colocache.Cache("ended"), colocache.Cache("other")
assert other.get_or_load("k", lambda: "parent's") == "parent's"
ended.start()
before = set(os.listdir("/dev/fd"))
shutil.rmtree(os.environ["COLOCACHE_DIR"] + "/ended")
host = ended._member.own_host()
host._shared._tick()
assert not host.region.lives()
free = before - set(os.listdir("/dev/fd"))
null = os.open(os.devnull, os.O_RDONLY)
files = [int(each) for each in free if int(each) != null]
for each in files: os.dup2(null, each)
assert len(files) > 2, files
if not (child := os.fork()):
    for file in files: os.fstat(file)
    assert other._member.life.pid == os.getpid() and other._keyspace.near[0] == {} and other.members() == []
    assert ended.get_or_load("k", lambda: "child's") == "child's"
    for file in files: os.fstat(file)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert ended.get_or_load("k", lambda: "parent's") == "parent's"
for file in files: os.fstat(file)
"""
    done = python(script, run_dir)
    assert (done.returncode, done.stderr.count("Error")) == (0, 0), done.stderr


def test_a_cache_that_cannot_forget_at_the_fork_hinders_no_other_and_serves_nothing_of_its_parents(
    run_dir: str,
) -> None:
    script = """
import logging, os, colocache
from colocache.host import Host
logging.basicConfig()
caches = [colocache.Cache(name) for name in "abc"]
for cache in caches: assert cache.get_or_load("k", lambda: "parent's") == "parent's"
forget, failing = Host.forget_after_fork, ["once", "once", "once"]
def fail_once(host):
    if failing: raise RuntimeError(failing.pop())
    forget(host)
Host.forget_after_fork = fail_once
failing = failing[:ONCE]
if not (child := os.fork()):
    assert all(cache._keyspace.near[0] == {} for cache in caches)
    for cache in caches:
        cache.invalidate("k")
        assert cache.get_or_load("k", lambda: "child's") == "child's"
        assert cache._member.life.pid == os.getpid()
        assert [each.pid for each in cache.members() if each.me] == [os.getpid()]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    for failures in "13":
        done = python(script.replace("ONCE", failures), run_dir)
        assert done.returncode == 0, done.stderr
        assert "cannot forget yet" in done.stderr


@pytest.mark.in_a_group
def test_at_the_end_of_a_process_no_group_waits_for_another_one(
    new_cache: NewCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty groups used to end one after the other, a second each where their threads were slow."""
    caches, steps = [new_cache(f"group {number}") for number in range(5)], []
    for cache in caches:
        cache.start()
    began = Bus.leave

    def leave(bus: Bus) -> None:
        steps.append("begins")
        began(bus)

    def close(bus: Bus, patience: float) -> bool:
        steps.append("waits")
        return waited(bus, patience)

    waited = Bus.close
    monkeypatch.setattr(Bus, "leave", leave)
    monkeypatch.setattr(Bus, "close", close)
    colocache.member._close_all()
    assert steps[:5] == ["begins"] * 5
    assert steps.count("waits") == 5
    assert all(cache.members() == [] for cache in caches)


def test_joining_again_and_again_leaves_nothing_to_be_done_at_exit(cache: Cache) -> None:
    cache.start()
    before = atexit._ncallbacks(), len(weakref.finalize._registry)  # type: ignore[attr-defined]
    for _ in range(5):
        cache.leave()
        cache.start()
    assert (atexit._ncallbacks(), len(weakref.finalize._registry)) == before  # type: ignore[attr-defined]


class Inherited:
    """A host of the parent process, in a child that was forked past Python's hooks, as uWSGI does."""

    def __init__(self, cache: Cache) -> None:
        self.forgotten = 0
        self.cache = cache
        cache._member.life.host, cache._member.life.pid = self, 0  # type: ignore[assignment]

    @property
    def alive(self) -> bool:
        return True

    def forget_after_fork(self) -> None:
        self.forgotten += 1
        assert self.cache._member.life.pid == 0, "other threads must not take the cache for this process's before it is"


def test_a_fork_that_went_past_pythons_hooks_is_noticed(cache: Cache) -> None:
    inherited = Inherited(cache)
    assert cache.stats() == Stats()
    assert cache.members() == []
    assert cache.set("k", 1)
    assert (inherited.forgotten, len(cache.members())) == (1, 1)


def test_of_several_threads_that_notice_a_fork_one_forgets(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, crew: Crew
) -> None:
    """1. Two threads notice; 2. one forgets, and joins; 3. the other forgets what the first has joined."""
    inherited, forget = Inherited(cache), Member._be_new
    noticed, forgot = threading.Semaphore(0), []

    class Door(Holds):
        def take_soon(self, what: int, hold: Hold, patience: float) -> bool:
            noticed.release()
            return super().take_soon(what, hold, patience)

    def forget_when_both_have_noticed(self: Member) -> None:
        if not forgot:
            crew.start(cache._member.join)
            assert all(noticed.acquire(timeout=30) for _ in range(2))
        forgot.append(True)
        forget(self)

    monkeypatch.setattr(colocache.member, "_inheriting", Door())
    monkeypatch.setattr(Member, "_be_new", forget_when_both_have_noticed)
    assert [cache._member.join()] == crew.join()
    assert (len(forgot), inherited.forgotten) == (1, 1)


def test_no_thread_takes_the_parents_host_for_its_own_while_another_one_forgets_it(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What must do no harm:

    1. A thread looks which process has joined.
    2. Another thread forgets the parent's host, notes the new pid, and joins.
    3. The first thread compares the pids.
    """
    inherited, genuine = Inherited(cache), os.getpid
    forgetting = iter([cache._member.join])

    def interrupted() -> int:
        for forget in forgetting:
            elsewhere(forget)
        return genuine()

    monkeypatch.setattr("colocache.member.getpid", interrupted)
    joined = cache._member.join()
    assert joined is not None
    assert joined is not inherited
    assert (joined, inherited.forgotten) == (cache._member.own_host(), 1)


def test_closing_in_a_child_does_not_touch_the_parents_member(cache: Cache) -> None:
    Inherited(cache)  # its close() would be missed
    cache.close()


def test_two_applications_with_different_codecs_do_not_disturb_each_other(
    call: Call, new_cache: NewCache, caplog: pytest.LogCaptureFixture
) -> None:
    one = new_cache()
    other = new_cache(codec=colocache.PickleCodec(key=bytes(32)))
    with caplog.at_level(logging.WARNING, "colocache"):
        for key in ("k", "l"):
            load, calls = counted("other's")
            assert call(one, "get_or_load", key, lambda: "one's") == "one's"
            assert [call(other, "get_or_load", key, load) for _ in range(2)] == ["other's"] * 2
            assert len(calls) == 2
            assert call(one, "get_or_load", key, never) == "one's"
            assert call(other, "get", key, GONE) is GONE
            assert call(other, "get_many", [key]) == {}
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "written with another codec than 'pickle-1'" in warnings[0]
    assert "need the same codec" in warnings[0]
    stats = other.stats()
    assert (stats.loads, stats.fallbacks, stats.misses) == (4, 4, 4)


# --- Garbage


def test_garbage_for_the_bus_is_counted_and_does_no_harm(cache: Cache, run_dir: str, until: Until) -> None:
    """As it would come of a process with another version, or with broken memory; and somebody who wants to connect."""
    seed = time.time_ns()
    print(f"seed {seed}")
    noise = random.Random(seed)
    cache.set("works", "old")
    bus = cache._member.join()._shared.bus  # type: ignore[union-attr]
    assert bus is not None
    path = Path(run_dir, "test", "0.bus")
    until(path.exists)
    with socket.socket(socket.AF_UNIX) as stranger, pytest.raises(OSError, match="wrong type"):
        stranger.connect(str(path))
    event = frames.encode(frames.KEYS, 1, 1, frames.array("Q", (1, 2)))
    garbage = [noise.randbytes(noise.randrange(1, 300)) for _ in range(100)]
    garbage += [event[: noise.randrange(1, len(event) - 1)] for _ in range(10)] + [event + b"x"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect(str(path))
        for junk in garbage:
            stranger.send(junk)
        until(lambda: bus.bad_frames >= len(garbage) // 2)
    assert cache.get("works") == "old"
    assert cache.invalidate("works", strict=True).complete
    assert cache.get_or_load("works", lambda: "new") == cache.get("works") == "new"
    assert len(cache.members()) == 1
