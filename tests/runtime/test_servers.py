"""What servers do to a process: they switch threads off, and fork past Python's hooks."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

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


def test_uwsgi_without_threads_has_the_cache_without_a_bus(
    uwsgi: SimpleNamespace, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    uwsgi.has_threads = 0
    cache.start()
    assert cache.get_or_load("key", lambda: "loaded") == cache.get("key") == "loaded"
    assert cache.invalidate("key").complete
    assert cache.get("key") is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("colocache")]
    [warning] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "hears nothing of other processes" in warning.getMessage()
    assert "--enable-threads" in warning.getMessage()


def test_eventlet_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch, cache: Cache) -> None:
    patched = {"thread": True}
    patcher = SimpleNamespace(is_monkey_patched=patched.get)
    monkeypatch.setitem(sys.modules, "eventlet.patcher", patcher)  # type: ignore[misc]
    with pytest.raises(ConfigError, match="use gevent or threads"):
        cache.start()
    assert cache.get_or_load("key", lambda: "loaded") == "loaded"
    assert cache.get("key") is None
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

def files():
    return sum(os.readlink(f"/proc/self/fd/{number}").endswith("/locks") for number in
               os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{number}"))

cache = colocache.Cache("forked")
assert cache.get_or_load("key", lambda: "the parent's") == cache.get("key")
if sys.platform == "linux":
    assert files() == 1
sys.setswitchinterval(1000)  # a fork must not come when the bus's thread has asked for the interpreter
child = ctypes.PyDLL(None).fork()  # as uWSGI does: no hook of Python runs
if not child:
    uwsgi.post_fork_hook()
    if sys.platform == "linux":
        assert files() == 0
    os._exit(cache._keyspace.hit("key") is not colocache.MISSING)
assert os.waitpid(child, 0)[1] == 0
uwsgi.post_fork_hook()  # is for children: here it does nothing
assert cache._keyspace.hit("key") == "the parent's"
assert cache.set("key", "new") and cache.get("key") == "new"
cache.close()
"""


def test_a_child_of_uwsgi_serves_nothing_that_it_inherited_and_holds_nothing_open(run_dir: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLOCACHE_DIR": run_dir}
    command = [sys.executable, "-W", "error", "-c", INHERITED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
