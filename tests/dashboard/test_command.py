"""The command `colocache dashboard`: what it refuses, where it listens, how it ends."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from colocache.dashboard.server import MOST
from tests.dashboard.conftest import ENVIRON, Served, Worker


def refused(*arguments: str, **variables: str) -> str:
    """Run the command, which is to refuse its work, and return what it says."""
    environ = {**os.environ, **ENVIRON, **variables}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "colocache", "dashboard", *arguments],
        env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.usefixtures("run_dir")
def test_other_hosts_do_not_look_without_a_token() -> None:
    for address in ("0.0.0.0:7420", "[::]:7420", "192.0.2.1:7420"):
        assert "--token-file" in refused("--listen", address)


@pytest.mark.usefixtures("run_dir")
def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    assert "COLOCACHE_GROUP" in refused(COLOCACHE_GROUP="")
    assert "--listen" in refused("--listen", "nonsense")
    path = tmp_path / "token"
    assert "cannot be read" in refused("--token-file", str(path))
    path.touch(0o644)
    assert "chmod 600" in refused("--token-file", str(path))
    path.chmod(0o600)
    path.write_text("a few")
    said = refused("--token-file", str(path))
    assert "16" in said
    assert "a few" not in said


def get(address: str, path: str = "/") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def test_it_joins_nothing(worker: Callable[[], Worker], serve: Callable[..., Served]) -> None:
    one = worker()
    served = serve()
    assert get(served.address)[0] == 200
    assert one("len(cache.members())") == 1
    assert one("cache.invalidate('x').processes") == 1


def test_it_says_that_nobody_is_there(serve: Callable[..., Served]) -> None:
    status, page = get(serve().address)
    assert status == 503
    assert b"no process of the group &#x27;shop&#x27; runs on this host" in page


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_it_is_asked_to(serve: Callable[..., Served], number: signal.Signals) -> None:
    served = serve()
    served.process.send_signal(number)
    assert served.process.wait(60) == 0


def test_who_says_nothing_holds_up_nobody(worker: Callable[[], Worker], serve: Callable[..., Served]) -> None:
    worker()
    served = serve()
    address = urlsplit(served.address)
    with contextlib.ExitStack() as owned:
        for _ in range(MOST - 2):
            owned.enter_context(socket.create_connection((address.hostname or "", address.port or 0)))
        assert get(served.address)[0] == 200


def test_a_request_that_is_too_large_is_refused(worker: Callable[[], Worker], serve: Callable[..., Served]) -> None:
    worker()
    address = urlsplit(serve().address)
    for head in (b"GET /" + b"x" * 70_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300):
        with socket.create_connection((address.hostname or "", address.port or 0), 60) as client:
            with contextlib.suppress(OSError):
                client.sendall(head + b"\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert client.recv(100).split()[1:2] in ([b"414"], [b"431"])


def test_many_look_at_once(worker: Callable[[], Worker], serve: Callable[..., Served]) -> None:
    worker()("price('tea') and None")
    served = serve()
    statuses: list[int] = []
    crew = [threading.Thread(target=lambda: statuses.append(get(served.address)[0])) for _ in range(2 * MOST)]
    for each in crew:
        each.start()
    for each in crew:
        each.join()
    assert statuses == [200] * len(crew)
