"""Real processes of a group, and the real command beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import ROOT

COMMAND = [sys.executable, "-W", "error", "-m", "colocache"]

PROGRAM = """\
import sys, os, colocache
cache = colocache.Cache()
cache.start()
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except SyntaxError:
        exec(line)
        print(None, flush=True)
"""


def group() -> str:
    """Return the group of the processes of a test."""
    return os.environ.get("COLOCACHE_GROUP", "shop")


class Worker:
    """A process of a group, "shop" if nothing else is said, in whose expressions ``cache`` is its cache."""

    def __init__(self, *before: str, program: str = PROGRAM, arguments: tuple[str, ...] = (), **variables: str) -> None:
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": group(), **variables}
        self.process: Any = subprocess.Popen(
            [*before, sys.executable, "-c", program, *arguments],
            env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def __call__(self, expression: str) -> Any:
        """Return what an expression gives there, which is something that Python can write."""
        self.tell(expression)
        return eval(self.process.stdout.readline())

    def tell(self, expression: str) -> None:
        """Have it begin something."""
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it by SIGKILL, also if it is stopped. Callable twice."""
        self.process.kill()
        with self.process:
            pass


NewWorker = Callable[..., Worker]


@pytest.fixture
def worker(run_dir: str) -> Iterator[NewWorker]:
    """Make processes, which have joined when they are there."""
    made: list[Worker] = []

    def make(*before: str, **settings: Any) -> Worker:
        made.append(Worker(*before, **settings))
        assert made[-1]("cache.start()") is None
        return made[-1]

    yield make
    for each in made:
        each.kill()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, for the group "shop" if nothing else is said."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": group(), **variables}
    done = subprocess.run(
        [*COMMAND, *arguments], env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def printed(*arguments: str, status: int = 0, **variables: str) -> str:
    """Run the command, which is to exit with a status, and return what it has printed."""
    done = run(*arguments, **variables)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def asked(*arguments: str, status: int = 0, **variables: str) -> Any:
    """Run the command with ``--json``, and return the object that it has printed."""
    return json.loads(printed(*arguments, "--json", status=status, **variables))
