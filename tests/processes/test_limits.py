"""Processes that have no thread, or no length of a file, left: none dies of its cache."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import ROOT

SOMEBODY = 100_000 + os.getpid()  # a user who runs nothing else, so that the limit is for this process alone


def _of_several_hosts() -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    return {"COLOCACHE_HOST": "a", "COLOCACHE_LISTEN": address, "COLOCACHE_PEERS": address}


WITH_FEW_THREADS = f"""
import os, resource, sys, time
import colocache, colocache.network

directory, threads, is_enough = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "enough"
cache = colocache.Cache("few", directory=directory, shelf="8MiB")
os.setgroups([])
os.setgid({SOMEBODY})
os.setuid({SOMEBODY})
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_NPROC, (1 + threads, 1 + threads))
assert cache.get_or_load("k", lambda: 1) == 1
shared = cache._member.own_host()._shared
for thread in (shared.bus, shared.network and shared.network.network):
    ends = time.monotonic() + 30
    while thread is not None and thread._ended.result(0) is not None and time.monotonic() < ends:
        if getattr(thread, "_session", None) or getattr(thread, "_ear", None) or getattr(thread, "failures", 0):
            break
        time.sleep(0.01)
assert cache.get_or_load("other", lambda: 2) == 2
resource.setrlimit(resource.RLIMIT_NPROC, (1 + threads, 1 + threads))
lasting, ends = 5 if shared.network else 2, time.monotonic() + 60
while time.monotonic() < ends:
    running = len(os.listdir("/proc/self/task"))
    if running == lasting or (running < lasting and not is_enough):
        break
    time.sleep(0.01)  # until those have ended that have joined, and that have written a line of the log
print(running, shared.network.network.failures if shared.network else "")
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("hosts", [False, True], ids=["one host", "several hosts"])
def test_with_any_number_of_threads_that_it_may_have_a_process_lives_on(hosts: bool) -> None:
    """libzmq aborts the process if it cannot start its own: on one host it is not there, and else it is not begun."""
    environ, found = dict(os.environ), []
    if hosts:
        environ |= _of_several_hosts()
    with tempfile.TemporaryDirectory() as place:  # where other users come
        os.chmod(place, 0o755)
        most = 13 if hosts else 6  # also for threads that only join, or write a line of the log
        for threads in range(most + 1):
            directory = Path(place) / str(threads)
            directory.mkdir(mode=0o700)
            os.chown(directory, SOMEBODY, SOMEBODY)
            done = subprocess.run(
                [
                    sys.executable, "-c", WITH_FEW_THREADS, directory, str(threads),
                    "enough" if threads == most else "too few",
                ],
                cwd=ROOT, env=environ, capture_output=True, text=True, timeout=180,
            )  # fmt: skip
            assert done.returncode == 0, f"with {threads} threads: {done.returncode} {done.stderr}"
            found.append(done.stdout.split())
    assert found[0][0] == "1"
    assert found[-1][0] == ("5" if hosts else "2"), "with enough of them, all threads run"
    if hosts:
        assert any(int(failures) for _, failures in found), "it was tried, and could not be"


WITH_SHORT_FILES = """
import resource, signal, sys
import colocache

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
cache = colocache.Cache("short", directory=sys.argv[1], shelf="32MiB")
first, later = map(int, sys.argv[2:])
if first:
    resource.setrlimit(resource.RLIMIT_FSIZE, (first, resource.RLIM_INFINITY))
assert cache.get_or_load("k", lambda: 1) == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (later, resource.RLIM_INFINITY))
for number in range(100):
    cache.set(f"large {number}", bytes(500_000))
assert cache.get_or_load("other", lambda: 2) == 2
cache.invalidate("k", wait=False)
"""


@pytest.mark.parametrize("hosts", [False, True], ids=["one host", "several hosts"])
@pytest.mark.parametrize(("first", "later"), [(1000, 1000), (2 << 20, 1000), (0, 8 << 20), (0, 1000)])
def test_who_may_have_short_files_only_is_not_killed_for_a_long_one(
    tmp_path: Path, hosts: bool, first: int, later: int
) -> None:
    environ = dict(os.environ)
    if hosts:
        environ |= _of_several_hosts()
    (tmp_path / "c").mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", WITH_SHORT_FILES, tmp_path / "c", str(first), str(later)], cwd=ROOT, env=environ,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
