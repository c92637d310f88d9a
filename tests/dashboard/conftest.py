"""Processes of a group, the command `colocache dashboard` beside them, and a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.browser import Browser, executable
from tests import ROOT

PROGRAM = """\
import sys, colocache
cache = colocache.Cache()
cache.start()
@cache.cached(ttl=300, name="shop.prices:price", tags=lambda sku: (f"product:{sku}",))
def price(sku):
    return {"sku": sku, "secret": "never shown"}
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except SyntaxError:
        exec(line)
        print(None, flush=True)
"""

ENVIRON = {"PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": "shop"}


class Worker:
    """A process of the group "shop", in whose expressions ``cache`` is its cache."""

    def __init__(self) -> None:
        self.process: Any = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM],
            env={**os.environ, **ENVIRON}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def __call__(self, expression: str) -> Any:
        """Return what an expression gives there, which is something that Python can write."""
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()
        return eval(self.process.stdout.readline())

    def kill(self) -> None:
        """End it by SIGKILL. Callable twice."""
        self.process.kill()
        with self.process:
            pass


@pytest.fixture
def worker(run_dir: str) -> Iterator[Callable[[], Worker]]:
    """Make processes, which have joined when they are there."""
    made: list[Worker] = []

    def make() -> Worker:
        made.append(Worker())
        assert made[-1]("cache.start()") is None
        return made[-1]

    yield make
    for each in made:
        each.kill()


class Served:
    """The command, which serves."""

    def __init__(self, *arguments: str) -> None:
        self.process: Any = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "colocache", "dashboard", "--listen", "127.0.0.1:0", *arguments],
            env={**os.environ, **ENVIRON}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line.startswith("colocache dashboard: http://127.0.0.1:"), line + self.process.stderr.read()
        self.address = line.split()[-1]

    def stop(self) -> str:
        """Ask it to end, and return what it has said to stderr."""
        self.process.terminate()
        with self.process:
            said: str = self.process.stderr.read()
        return said


@pytest.fixture
def serve(run_dir: str) -> Iterator[Callable[..., Served]]:
    """Serve the dashboard of the group "shop". It must not have complained of anything."""
    made: list[Served] = []

    def make(*arguments: str) -> Served:
        made.append(Served(*arguments))
        return made[-1]

    yield make
    for each in made:
        assert each.stop() == ""
        assert each.process.returncode == 0


TOKEN = "a token of this test alone"


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    """Return the path of a file with `TOKEN`."""
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN + "\n")
    return str(path)


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Return a browser."""
    if executable() is None:
        pytest.skip("needs Chromium")
    with Browser() as found:
        yield found
