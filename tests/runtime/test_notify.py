"""What systemd is told, by a socket in its place."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from colocache.runtime.notify import Supervisor


@pytest.fixture
def systemd() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def test_states_come_in_one_datagram(systemd: socket.socket, run_dir: str) -> None:
    with systemd:
        systemd.bind(path := f"{run_dir}/notify")
        Supervisor({"NOTIFY_SOCKET": path}).tell("READY=1", "STATUS=it works")
        assert systemd.recv(4096) == b"READY=1\nSTATUS=it works"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_a_name_in_the_abstract_namespace(systemd: socket.socket) -> None:
    with systemd:
        systemd.bind(f"\0colocache-{os.getpid()}")
        Supervisor({"NOTIFY_SOCKET": f"@colocache-{os.getpid()}"}).tell("READY=1")
        assert systemd.recv(4096) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}], ids=repr)
def test_where_nobody_supervises_nothing_is_sent(environ: dict[str, str]) -> None:
    supervisor = Supervisor({**environ, "WATCHDOG_USEC": "1000000"})
    supervisor.tell("READY=1")
    assert supervisor.watches_every is None


def test_a_socket_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")


@pytest.mark.parametrize(
    ("environ", "every"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "mine"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
    ids=repr,
)
def test_how_often_it_is_watched(environ: dict[str, str], every: float | None) -> None:
    own = {name: str(os.getpid()) if value == "mine" else value for name, value in environ.items()}
    assert Supervisor({"NOTIFY_SOCKET": "/run/notify", **own}).watches_every == every
