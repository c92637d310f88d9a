"""gevent: the thread of the bus is a real one, and greenlets that wait for a load let the others run.

Each story of greenlets.py is told in a process of its own: what gevent patches stays patched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

pytest.importorskip("gevent")

HERE = Path(__file__).parent
STORIES = re.findall(
    r"^def (\w+)\(\) -> None:", (HERE / "greenlets.py").read_text("utf-8").split("# --- Stories")[1], re.MULTILINE
)


@pytest.fixture
def environment(run_dir: str) -> dict[str, str]:
    """The environment of a process that finds the package and the test's runtime directory."""
    return os.environ | {"PYTHONPATH": str(ROOT), "COLOCACHE_DIR": run_dir}


@pytest.mark.parametrize("story", STORIES)
def test_under_gevent(story: str, environment: dict[str, str], run_dir: str) -> None:
    command = [sys.executable, "-W", "error", "-X", "faulthandler", "-m", "tests.runtime.greenlets", story]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert os.listdir(run_dir) == []


def test_without_gevent_nothing_imports_it(environment: dict[str, str]) -> None:
    program = (
        "import sys, colocache\n"
        "with colocache.Cache('plain') as cache:\n"
        "    assert cache.get_or_load('key', lambda: 1) == cache.get('key') == 1\n"
        "assert 'gevent' not in sys.modules and 'greenlet' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, check=True, timeout=60)


# --- Workers of gunicorn

APPLICATION = """\
import json, os, pathlib
import colocache

cache = colocache.Cache("workers", load_timeout=60)
version, loads = pathlib.Path("version"), pathlib.Path("loads")


@cache.cached()
def page():
    with loads.open("a") as file:
        print("loaded", file=file)
    return version.read_text()


def application(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        assert page.invalidate().complete
    answer = {"pid": os.getpid(), "page": page(), "members": len(cache.members())}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
"""


class Connection(HTTPConnection):
    """A connection to a server at a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


def ask(directory: Path, method: str = "GET") -> dict[str, Any]:
    """Ask the worker that takes the connection."""
    connection = Connection(directory / "socket")
    try:
        connection.request(method, "/")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


@contextmanager
def gunicorn(directory: Path, environment: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start two gevent workers. They must end by themselves, without a complaint."""
    command = [
        sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", "2", "--bind",
        f"unix:{directory}/socket", *options, "application:application",
    ]  # fmt: skip
    (directory / "application.py").write_text(APPLICATION)
    environment = environment | {"HOME": str(directory)}  # where gunicorn keeps a socket of its own
    with open(directory / "log", "w") as log:
        server = subprocess.Popen(command, cwd=directory, env=environment, stderr=log, text=True)
    try:
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    told = (directory / "log").read_text()
    assert "Traceback" not in told, told


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preloaded"])
def test_gevent_workers_of_gunicorn_share_a_load_and_hear_each_other(
    options: tuple[str, ...], environment: dict[str, str], run_dir: str, tmp_path: Path, until: Callable[..., None]
) -> None:
    answers: dict[int, dict[str, Any]] = {}

    def both_have_said(page: str) -> bool:
        try:
            answer = ask(tmp_path)
        except (OSError, HTTPException):  # it is starting
            return False
        answers[answer["pid"]] = answer
        return [(each["page"], each["members"]) for each in answers.values()] == [(page, 2)] * 2

    (tmp_path / "version").write_text("first")
    with gunicorn(tmp_path, environment, *options):
        until(lambda: both_have_said("first"))
        (tmp_path / "version").write_text("second")
        changer = ask(tmp_path, "POST")
        assert changer["page"] == "second"
        seen = {changer["pid"]}
        while len(seen) < 2:
            answer = ask(tmp_path)
            assert answer["page"] == "second"
            seen.add(answer["pid"])
        assert (tmp_path / "loads").read_text().count("loaded") == 2
    assert os.listdir(run_dir) == []
