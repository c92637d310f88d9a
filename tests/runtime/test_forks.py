"""Forks at bad moments: what they are held off from, and what a child does not find locked."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from colocache import Cache
from colocache.member import Member
from colocache.runtime import forks
from colocache.runtime.files import Held
from colocache.runtime.forks import do_all
from tests.conftest import Crew, NewCache, Until


def in_child(check: Callable[[], bool]) -> bool:
    """Fork, and return whether a check holds in the child."""
    pid = os.fork()
    if not pid:
        code = 2
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def is_open(path: Path) -> bool:
    """Tell whether this process has something open."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.path.samestat(os.fstat(int(number)), path.stat()):
                return True
    return False


class Asked:
    """A lock that says when somebody asks for it."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.by_others = threading.Event()
        self._mine = threading.get_ident()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def acquire(self, *arguments: Any) -> bool:
        self.by_others.set()
        return bool(self.lock.acquire(*arguments))

    def release(self) -> None:
        self.lock.release()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the kernel does not show what is open")
def test_a_fork_waits_until_it_is_known_what_a_child_has_to_close(
    crew: Crew, until: Until, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(forks.opening.lock)
    monkeypatch.setattr(forks.opening, "lock", asked)
    is_closed: list[bool] = []

    def opens() -> int:
        number = os.open(tmp_path, os.O_RDONLY)
        crew.start(lambda: is_closed.append(in_child(lambda: not is_open(tmp_path))))
        until(lambda: asked.by_others.is_set() or is_closed)
        return number

    held = Held.opened(opens)
    crew.join()
    assert is_closed == [True]
    assert is_open(tmp_path)
    held.close()
    assert not is_open(tmp_path)


def test_a_thread_may_fork_during_what_is_not_to_be_divided() -> None:
    with forks.opening.lock:
        assert in_child(lambda: True)
    assert in_child(lambda: bool(forks.opening.lock.acquire(False)))


def test_forks_of_several_threads_give_back_what_they_hold(crew: Crew) -> None:
    for _ in range(4):
        crew.start(lambda: [in_child(lambda: True) for _ in range(5)])
    crew.join()
    assert forks.opening.lock.acquire(False)
    forks.opening.lock.release()


def test_all_steps_are_taken_and_the_first_exception_is_raised() -> None:
    taken: list[int] = []

    def fail() -> None:
        taken.append(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_all([lambda: taken.append(1), fail, lambda: taken.append(3)])
    assert taken == [1, 2, 3]


def test_an_exception_in_one_cache_does_not_keep_a_child_from_forgetting_the_others(
    new_cache: NewCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = [new_cache(group) for group in ("one", "two", "three")]
    for cache in caches:
        cache.set("k", 1)
    members = [cache._member for cache in caches]  # those of other tests may be there, too
    genuine, calls = Member._be_new, list[Member]()

    def fail_once(member: Member) -> None:
        if member in members:
            calls.append(member)
            if len(calls) == 1:
                raise KeyboardInterrupt  # of a signal handler
        genuine(member)

    def forgotten() -> bool:
        hosts = [cache._member.life.host for cache in caches]
        return hosts.count(None) == 2 and [cache.get("k") for cache in caches] == [1, 1, 1]

    monkeypatch.setattr(Member, "_be_new", fail_once)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    assert in_child(forgotten)


def test_what_a_child_inherits_of_the_hosts_memory_is_empty_and_its_own(new_cache: NewCache) -> None:
    cache: Cache = new_cache()
    cache.set("k", 1)
    assert cache.get("k") == 1
    host = cache._member.own_host()
    assert host is not None
    words, shelf = host.region.marks, host.region.shelf

    def is_empty() -> bool:
        never = (1 << 64) - 1  # so that no label stands by the rest
        found = any(words[1:]) or words[0] != never or host.region.bell[0] != never
        words[7] = 77
        return not found and words[7] == 77

    before = words[7]
    assert in_child(is_empty)
    assert words[7] == before
    assert shelf is host.region.shelf
    assert cache.get("k") == 1
