"""``colocache serve``, in real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from colocache import Cache
from colocache.config import Config
from colocache.runtime.health import ask
from colocache.serve import Server
from tests import ROOT
from tests.conftest import NewCache, Until

COMMAND = [sys.executable, "-W", "error", "-m", "colocache"]


class Process:
    """A process of the command, and what it prints."""

    def __init__(self, *options: str, **variables: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        self.process = subprocess.Popen(
            [*COMMAND, "serve", *options],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._output, self._errors = self.process.stdout, self.process.stderr
        self.log: list[str] = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self._errors))
        self._reader.start()

    def ready(self) -> str:
        """Wait for the line that says that it is ready, and return it."""
        line = self._output.readline()
        assert line.startswith("colocache serve: ready: "), (line, self.log)
        return line

    def health(self) -> tuple[str, int]:
        """Wait until it is ready, and return the address of its health server."""
        found = re.search(r", health at (\S+), port (\d+)\n", self.ready())
        assert found
        return found[1], int(found[2])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Have it end, and return its status. It has printed nothing else."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(60)
        self._reader.join(60)
        assert self._output.read() == ""
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(60)
        self._output.close()
        self._errors.close()


NewServer = Callable[..., Process]


@pytest.fixture
def serve(run_dir: str) -> Iterator[NewServer]:
    made: list[Process] = []

    def make(*options: str, **variables: str) -> Process:
        made.append(Process("--group", "test", *options, **variables))
        return made[-1]

    yield make
    for server in made:
        server.close()


def worker(program: str) -> str:
    """Run a worker from its beginning to its end, and return what it prints."""
    program = f"import colocache\ncache = colocache.Cache('test')\n{program}"
    done = subprocess.run([*COMMAND[:-2], "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_leaves_in_order_when_it_is_told(
    serve: NewServer, run_dir: str, number: int
) -> None:
    server = serve()
    assert server.ready() == f"colocache serve: ready: group test, seat 0, {run_dir}/test\n"
    assert server.end(number) == 0
    assert [line.split(" INFO ")[1] for line in server.log] == [
        f"colocache[{server.process.pid}] test: {what}\n"
        for what in (f"joined on seat 0 in {run_dir}/test", "left seat 0")
    ]
    assert os.listdir(run_dir) == []


def test_the_memory_survives_the_restart_of_all_workers(serve: NewServer) -> None:
    server = serve()
    server.ready()
    assert worker("print(cache.set('k', 'v', ttl=600), cache.add('n', 1, ttl=600))") == "True True"
    assert worker("print(cache.get('k'), cache.incr('n'))") == "v 2"
    server.end()
    assert worker("print(cache.get('k'))") == "None", "nobody kept it"


def test_it_makes_the_memory_that_it_is_told_and_workers_use_that(serve: NewServer, new_cache: NewCache) -> None:
    serve("--memory", "3MiB").ready()
    cache = new_cache(shelf="8MiB")
    cache.start()
    host = cache._member.own_host()
    assert host is not None
    assert host.region.geometry.capacity == 3 << 20


def test_options_win_over_their_variables(serve: NewServer, run_dir: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    server = serve("--dir", str(tmp_path / "other"), COLOCACHE_GROUP="shop", COLOCACHE_SHELF="2MiB")
    assert f"group test, seat 0, {tmp_path}/other/test" in server.ready()
    assert server.end() == 0


def test_others_see_its_role(serve: NewServer, new_cache: NewCache) -> None:
    server = serve()
    server.ready()
    cache = new_cache()
    cache.start()
    rows = [(row.seat, row.pid, row.role, row.me) for row in cache.members()]
    assert rows == [(1, os.getpid(), "peer", True), (0, server.process.pid, "server", False)]
    assert worker("print([row.role for row in (cache.start(), cache.members())[1]])") == "['peer', 'server', 'peer']"


def delete_all(run_dir: str, processes: int, until: Until) -> None:
    """Delete the group's files, once no process is about to make its socket among them."""
    until(lambda: all(os.path.exists(f"{run_dir}/test/{seat}.bus") for seat in range(processes)))
    shutil.rmtree(f"{run_dir}/test")


def test_it_is_ready_as_long_as_newcomers_find_it(run_dir: str, until: Until) -> None:
    with closing(Server(Config.resolve({"group": "test"}, os.environ), None)) as server:
        assert not server.is_ready()
        server.begin()
        assert server.is_ready()
        delete_all(run_dir, 1, until)
        assert not server.is_ready()
        assert server.lives()
        server.look()
        assert server.is_ready()


def test_it_joins_again_when_its_files_are_deleted(serve: NewServer, run_dir: str, until: Until) -> None:
    server = serve("--health", "0")
    address = server.health()
    delete_all(run_dir, 1, until)
    until(lambda: os.path.exists(f"{run_dir}/test/board"))
    until(lambda: ask(address, "/readyz") == "")
    assert worker("print(cache.set('k', 1, ttl=600), len(cache.members()))") == "True 2"
    assert worker("print(cache.get('k'))") == "1"
    assert server.end() == 0
    assert any("leaves the group, because its files" in line for line in server.log)


# --- The end


def test_a_second_signal_ends_it_at_once(serve: NewServer, run_dir: str) -> None:
    server = serve()
    server.ready()
    # They come one right after the other, before it can have left.
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        server.process.send_signal(number)
    assert server.wait() in {128 + signal.SIGTERM, 128 + signal.SIGINT}
    assert os.path.exists(f"{run_dir}/test/board"), "it did not leave in order"


def test_who_has_closed_its_output_does_not_hurt_it(run_dir: str, new_cache: NewCache, until: Until) -> None:
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "serve", "--group", "test"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: os.path.exists(f"{run_dir}/test/board"))
    cache = new_cache()
    until(lambda: cache.start() is None and len(cache.members()) == 2)
    process.terminate()
    assert process.wait(60) == 0


# --- Reasons not to start


REASONS = [
    ([], {}, "the server has no group: give --group shop, or set COLOCACHE_GROUP=shop"),
    (["--group", " x"], {}, "--group=' x' cannot be used: give 1 to 100 printable characters"),
    (["--group", "x", "--memory", "64M"], {}, "--memory='64M' cannot be used: give a size from 1MiB to 64GiB"),
    (["--group", "x", "--dir", "run"], {}, "--dir='run' cannot be used: give an absolute path"),
    (["--group", "x", "--dir", "/dev/null/x"], {}, "the runtime directory /dev/null/x cannot be used"),
    (["--group", "x", "--health", "x:y"], {}, "--health='x:y' cannot be used: give an address and a port"),
    (["--group", "x", "--health", "65536"], {}, "--health='65536' cannot be used: give an address and a port"),
    (["--group", "x", "--health", "192.0.2.1:1"], {}, "COLOCACHE_HEALTH, or --health: nobody can listen at 192.0.2.1"),
    (["--group", "x"], {"COLOCACHE_HEALTH": "x:"}, "COLOCACHE_HEALTH='x:' cannot be used"),
    (["--group", "x"], {"COLOCACHE_DISABLED": "true"}, "COLOCACHE_DISABLED is set, and such a cache needs no server"),
    (["--group", "x"], {"COLOCACHE_PRIVATE": "true"}, "COLOCACHE_PRIVATE is set, and such a cache needs no server"),
    (["--group", "x", "--ttl", "5s"], {}, "error: unrecognized arguments: --ttl"),
    (["--group", "x", "--secret", "s"], {}, "error: unrecognized arguments: --secret"),
]


@pytest.mark.parametrize(("options", "variables", "text"), REASONS, ids=[reason[2][:40] for reason in REASONS])
def test_a_reason_not_to_start_is_told_to_people(
    run_dir: str, options: list[str], variables: dict[str, str], text: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [*COMMAND, "serve", *options], env=environment, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert "tries again" not in done.stderr
    assert done.stdout == ""


# --- Health


def test_it_answers_whether_it_lives_and_is_joined_also_beside_a_slow_client(serve: NewServer) -> None:
    server = serve("--health", "127.0.0.1:0")
    address = server.health()
    with socket.create_connection(address, 60) as slow:
        slow.sendall(b"GET /livez HTTP/1.1\r\n")
        assert [ask(address, path) for path in ("/livez", "/readyz")] == ["", ""]
        assert ask(address, "/metrics") == "it answers 404 Not Found"
        assert server.end() == 0, "nor is its end held up"


def test_it_is_not_ready_while_it_cannot_join_and_lives_all_the_same(
    serve: NewServer, run_dir: str, until: Until
) -> None:
    server = serve("--health", "0")
    address = server.health()
    with closing(Cache("test")) as other:
        other.start()  # nobody can join before this process has noticed, and nobody calls anything here
        delete_all(run_dir, 2, until)
        until(lambda: any("cannot join" in line for line in server.log))
        assert ask(address, "/readyz") == "it answers 503 Service Unavailable"
        assert ask(address, "/livez") == ""
    until(lambda: ask(address, "/readyz") == "")
    assert server.end() == 0


def test_it_answers_only_if_it_is_told_to(serve: NewServer) -> None:
    server = serve()
    assert "health" not in server.ready()
    assert ping("--health", "127.0.0.1:1").returncode == 1


def ping(*options: str, **variables: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([*COMMAND, "ping", *options], env=environment, capture_output=True, text=True, timeout=60)


def test_ping_asks_where_it_is_told_and_is_told_how_it_is(serve: NewServer) -> None:
    server = serve("--health", "0")
    host, port = server.health()
    assert ping("--health", f"{host}:{port}").returncode == 0
    assert ping(COLOCACHE_HEALTH=str(port)).returncode == 0
    assert ping(COLOCACHE_HEALTH="127.0.0.1:1").returncode == 1
    bad = ping("--health", "x")
    assert (bad.returncode, bad.stderr[:40]) == (2, "colocache ping: --health='x' cannot be u")
    server.end()
    gone = ping("--health", f"{host}:{port}")
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"colocache ping: the server at {host}, port {port}: it does not answer: ")


# --- systemd


def test_systemd_is_told_that_it_is_ready_that_it_lives_and_that_it_stops(serve: NewServer, run_dir: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path := f"{run_dir}/notify")
        systemd.settimeout(60)
        server = serve(NOTIFY_SOCKET=path, WATCHDOG_USEC="10000")
        assert [systemd.recv(100) for _ in range(4)] == [b"READY=1", *[b"WATCHDOG=1"] * 3]
        server.ready()
        server.process.terminate()
        told = b"WATCHDOG=1"
        while told == b"WATCHDOG=1":
            told = systemd.recv(100)
        assert told == b"STOPPING=1"
        assert server.wait() == 0
        assert "WATCHDOG" not in "".join(server.log)


def test_systemd_that_does_not_listen_is_no_reason_to_end(serve: NewServer, run_dir: str) -> None:
    server = serve(NOTIFY_SOCKET=f"{run_dir}/gone")
    server.ready()
    assert server.end() == 0
    assert any("systemd cannot be told READY=1: " in line for line in server.log)
