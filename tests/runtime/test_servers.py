"""What servers do to a process: they switch threads off, and fork past Python's hooks."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from colocache import Cache, ConfigError
from colocache.runtime.servers import call_after_fork
from tests import ROOT


@pytest.fixture
def uwsgi(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Make this look like a uWSGI server."""
    module = SimpleNamespace(has_threads=1)
    monkeypatch.setitem(sys.modules, "uwsgi", module)  # type: ignore[misc]
    return module


@pytest.mark.parametrize("use", [Cache.start, lambda cache: cache.get("key")], ids=["start", "get"])
def test_uwsgi_without_threads_is_refused_with_the_option_that_helps(
    uwsgi: SimpleNamespace, cache: Cache, run_dir: str, use: Any
) -> None:
    uwsgi.has_threads = 0
    with pytest.raises(ConfigError, match="--enable-threads"):
        use(cache)
    assert os.listdir(run_dir) == []
    uwsgi.has_threads = 1
    use(cache)


def test_uwsgi_without_threads_may_have_the_cache_switched_off(uwsgi: SimpleNamespace, new_cache: Any) -> None:
    uwsgi.has_threads = 0
    assert new_cache(disabled=True).get_or_load("key", lambda: "loaded") == "loaded"


def test_eventlet_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch, cache: Cache) -> None:
    patched = {"thread": True}
    patcher = SimpleNamespace(is_monkey_patched=patched.get)
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)  # type: ignore[misc]
    with pytest.raises(ConfigError, match="use gevent or threads"):
        cache.start()
    patched["thread"] = False
    cache.start()


def test_an_earlier_hook_is_called_too_and_ours_only_once(uwsgi: SimpleNamespace) -> None:
    called = []
    uwsgi.post_fork_hook = lambda: called.append("theirs")

    def ours() -> None:
        called.append("ours")

    call_after_fork(ours)
    call_after_fork(ours)
    uwsgi.post_fork_hook()
    assert called == ["ours", "theirs"]


def test_a_hook_that_was_replaced_is_put_in_again(uwsgi: SimpleNamespace) -> None:
    called = []

    def ours() -> None:
        called.append("ours")

    call_after_fork(ours)
    uwsgi.post_fork_hook = lambda: called.append("theirs")
    call_after_fork(ours)
    uwsgi.post_fork_hook()
    assert called == ["ours", "theirs"]


INHERITED = """\
import ctypes, os, sys, types
uwsgi = sys.modules["uwsgi"] = types.SimpleNamespace(has_threads=1)
import colocache

cache = colocache.Cache("forked", lease=20)
assert cache.get_or_load("key", lambda: "the parent's") == cache.get("key")
child = ctypes.PyDLL(None).fork()  # as uWSGI does: no hook of Python runs
if not child:
    uwsgi.post_fork_hook()
    os._exit(cache._keyspace.hit("key") is not colocache.MISSING)
assert os.waitpid(child, 0)[1] == 0
uwsgi.post_fork_hook()  # is for children: here it does nothing
assert cache._keyspace.hit("key") == "the parent's"
cache.close()
"""


def test_a_child_of_uwsgi_serves_nothing_that_it_inherited(run_dir: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLOCACHE_DIR": run_dir}
    command = [sys.executable, "-W", "error", "-c", INHERITED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
