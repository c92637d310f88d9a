"""The answers by HTTP whether a process is well, by real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from colocache.runtime import health as health_module
from colocache.runtime.health import LARGEST, Health, ask

NewHealth = Callable[..., Health]


@pytest.fixture
def new_health() -> Iterator[NewHealth]:
    """Start servers on free ports of loopback."""
    made: list[Health] = []

    def make(**checks: Callable[[], bool]) -> Health:
        health = Health(("127.0.0.1", 0), {f"/{name}": check for name, check in checks.items()})
        health.start()
        made.append(health)
        return health

    yield make
    for health in made:
        health.stop()
        assert not health._thread.is_alive()


def talk(health: Health, request: bytes) -> bytes:
    """Send a request, and return all that comes until the server closes."""
    with socket.create_connection(health.address, 30) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def test_it_says_what_the_checks_say(new_health: NewHealth) -> None:
    well = True
    health = new_health(livez=lambda: well, readyz=lambda: False)
    assert ask(health.address, "/livez") == ""
    assert ask(health.address, "/readyz") == "it answers 503 Service Unavailable"
    well = False
    assert ask(health.address, "/livez") == "it answers 503 Service Unavailable"


def test_a_response_is_whole(new_health: NewHealth) -> None:
    expected = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    health = new_health(livez=lambda: True)
    assert talk(health, get("/livez")) == expected + b"ok\n"
    assert talk(health, get("/livez", "HEAD")) == expected


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/livez?verbose"), b"200 OK"),
        (get("/"), b"404 Not Found"),
        (get("/livez/"), b"404 Not Found"),
        (get("/\xe4"), b"404 Not Found"),
        (get("http://x/livez"), b"404 Not Found"),
        (get("/livez", "POST"), b"405 Method Not Allowed"),
        (b"GET /livez\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400 Bad Request"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * LARGEST + b"\r\n\r\n", b"431 Request Header Fields Too Large"),
    ],
)
def test_other_requests(new_health: NewHealth, request_: bytes, status: bytes) -> None:
    assert talk(new_health(livez=lambda: True), request_).startswith(b"HTTP/1.1 " + status + b"\r\n")


def test_slow_clients_hold_up_nobody_and_are_dropped(new_health: NewHealth, monkeypatch: pytest.MonkeyPatch) -> None:
    health = new_health(livez=lambda: True)
    silent, slow = (socket.create_connection(health.address, 30) for _ in range(2))
    with silent, slow:
        slow.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        assert ask(health.address, "/livez") == ""
        monkeypatch.setattr(health_module, "PATIENCE", 0.01)
        with socket.create_connection(health.address, 30) as late:
            late.sendall(b"GET /livez HT")
            assert late.recv(100) == b""


def test_more_clients_than_it_serves_are_closed_at_once(
    new_health: NewHealth, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "MOST", 2)
    monkeypatch.setattr(health_module, "PATIENCE", 3600)
    health = new_health(livez=lambda: True)
    with socket.create_connection(health.address, 30), socket.create_connection(health.address, 30):
        until(lambda: health._open == 2)
        with socket.create_connection(health.address, 30) as third:
            assert third.recv(100) == b""
    until(lambda: health._open == 0)
    assert ask(health.address, "/livez") == ""


def test_a_check_that_is_under_way_is_not_begun_again(new_health: NewHealth, until: Any) -> None:
    go_on, calls = threading.Event(), []

    def check() -> bool:
        calls.append(1)
        return go_on.wait(30)

    health = new_health(livez=check, readyz=lambda: True)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(ask, health.address, "/livez") for _ in range(5)]
        until(lambda: health._open == 5)
        assert ask(health.address, "/readyz") == "", "and hinders no other one"
        go_on.set()
        assert [answer.result() for answer in answers] == [""] * 5
    assert calls == [1]


def test_an_address_that_is_taken_is_an_error_for_whoever_starts(new_health: NewHealth) -> None:
    other = Health(new_health().address, {})
    with pytest.raises(OSError, match="in use"):
        other.start()


def test_who_listens_everywhere_is_asked_on_loopback() -> None:
    health = Health(("0.0.0.0", 0), {"/livez": lambda: True})
    health.start()
    assert health.address[0] == "0.0.0.0"
    assert ask(health.address, "/livez") == ""
    health.stop()
    assert ask(health.address, "/livez").startswith("it does not answer: ")


def test_an_answer_that_is_no_http_is_told(until: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, server.getsockname(), "/livez")
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"220 mail.example ESMTP\r\n")
        assert answer.result().startswith("it does not answer: ")
