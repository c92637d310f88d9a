"""The example on Django: under WSGI and ASGI servers, under Django's own server, and its commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

pytest.importorskip("django")

from colocache.django import DjangoCodec

EXAMPLES = ROOT / "examples"
GUNICORN = ("gunicorn", "--workers", "2", "django_app.wsgi:application")
UVICORN = ("uvicorn", "--workers", "2", "django_app.asgi:application")


@pytest.fixture
def manage(run_dir: str, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a command of the project on the servers' database, and returns its output."""

    def run(*arguments: str, program: tuple[str, ...] = ("-m", "django_app.manage")) -> str:
        environment = environment_of(run_dir, tmp_path)
        command = [sys.executable, "-W", "error", *program, *arguments]
        done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def environment_of(run_dir: str, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "USERS_DATABASE": str(tmp_path / "users.sqlite"),
        "COLOCACHE_DIR": run_dir,
    }


@pytest.mark.parametrize("command", [GUNICORN, UVICORN], ids=["gunicorn", "uvicorn"])
def test_one_write_is_seen_by_all_workers(manage: Any, serve: Any, until: Any, command: tuple[str, ...]) -> None:
    manage("migrate", "--verbosity", "0")
    server = serve(*command)
    assert {answer["name"] for answer in server.answers_of_both(until)} == {"Ada"}
    for name in ("Augusta", "Ada King", "Ada Lovelace"):
        status, written = server.ask("POST", "/users/1", name=name)
        assert (status, written["id"], written["name"]) == (200, 1, name)
        answers = server.answers_of_both(until)
        assert {answer["name"] for answer in answers} == {name}, "a worker shows what another one has overwritten"

    def is_shared() -> bool:
        page = server.get("/users/1")
        return bool(page["read_by"] != page["answered_by"])

    until(is_shared, failing="each worker reads for itself")
    assert server.ask("GET", "/users/4711")[0] == 404
    assert server.ask("POST", "/users/1")[0] == 400


def test_commands_start_nothing_and_find_nothing_wrong(manage: Any, run_dir: str) -> None:
    assert "no issues" in manage("check")
    manage("migrate", "--verbosity", "0")
    assert "No changes detected" in manage("makemigrations", "--check")
    assert os.listdir(run_dir) == []


class Runserver:
    """Return Django's development server, with its autoreloader."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", "django_app.manage", "runserver", "127.0.0.1:0"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=EXAMPLES, env=environment, start_new_session=True
            )

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(30)


@pytest.fixture
def runserver(run_dir: str, tmp_path: Path) -> Iterator[Runserver]:
    server = Runserver(environment_of(run_dir, tmp_path), tmp_path / "runserver.log")
    yield server
    server.stop()


def test_under_runserver_only_the_child_that_serves_is_a_member(
    manage: Any, runserver: Runserver, run_dir: str, until: Any, new_cache: Any
) -> None:
    manage("migrate", "--verbosity", "0")
    until(lambda: "Quit the server" in runserver.log, failing="runserver does not start")
    assert os.listdir(run_dir) == [], "something joined before the first request"
    listens = re.search(r"http://127\.0\.0\.1:([1-9]\d*)", runserver.log)
    assert listens is not None, runserver.log
    connection = HTTPConnection("127.0.0.1", int(listens[1]), timeout=30)
    connection.request("GET", "/users/1")
    child = json.loads(connection.getresponse().read())["answered_by"]
    connection.close()
    observer = new_cache("example-django", codec=DjangoCodec())
    observer.start()
    until(lambda: len(observer.members()) > 1)
    assert {member.pid for member in observer.members()} == {os.getpid(), child}
    assert child != runserver.process.pid
