"""Real servers for the examples. Each has its own database and runtime directory."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests import ROOT
from tests.conftest import PATIENCE


class Server:
    """A server in another process. Each request has a new connection, so any worker may answer."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self.port = 0

    @property
    def log(self) -> str:
        """Return what it has printed so far."""
        return self._log.read_text("utf-8", "replace")

    def listens(self) -> bool:
        """Tell whether it has printed its address, and listens there."""
        assert self.process.poll() is None, self.log
        if said := re.search(r"http://127\.0\.0\.1:([1-9]\d*)", self.log):
            self.port = int(said[1])
            # uvicorn prints the address before its workers listen.
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True
        return False

    def ask(self, method: str, path: str, **form: str) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            headers = {"Content-Type": "application/x-www-form-urlencoded"} if method == "POST" else {}
            connection.request(method, path, urlencode(form) if method == "POST" else None, headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        return response.status, json.loads(body) if "json" in response.headers["Content-Type"] else body

    def get(self, path: str) -> Any:
        """Return the JSON of an existing page."""
        status, page = self.ask("GET", path)
        assert status == 200, (status, page, self.log)
        return page

    def answers_of_both(self, until: Any, path: str = "/users/1") -> list[Any]:
        """Ask until both workers have answered; return all that they said."""
        answers: list[Any] = []

        def both_have_answered() -> bool:
            answers.append(self.get(path))
            return len({answer["answered_by"] for answer in answers}) == 2

        until(both_have_answered, failing=f"only one worker answers: {answers[:3]}")
        return answers

    def stop(self) -> int:
        """End it as an operator does. Return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def serve(run_dir: str, tmp_path: Path, until: Any) -> Iterator[Any]:
    """Starts a server in the directory of the examples: ``serve("gunicorn", "--workers", "2", "with_wsgi:app")``.

    The arguments are those of ``python -m``; the address, a free port, is added.
    """
    started: list[Server] = []

    def start(module: str, *arguments: str) -> Server:
        address = ("--bind", "127.0.0.1:0") if module == "gunicorn" else ("--host", "127.0.0.1", "--port", "0")
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "USERS_DATABASE": str(tmp_path / "users.sqlite"),
            "COLOCACHE_DIR": run_dir,
        }
        log = tmp_path / f"server-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *address, *arguments],
                stdout=output, stderr=output, cwd=ROOT / "examples", env=environment, start_new_session=True,
            )  # fmt: skip
        started.append(Server(process, log))
        until(started[-1].listens, failing=f"{module} does not listen: {log}")
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()
