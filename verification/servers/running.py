"""A server that runs, as the test sees it from outside: its processes, its answers, its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar

from verification import ROOT
from verification.servers.modes import Mode

T = TypeVar("T")

PATIENCE = 60.0  # s; far beyond what anything here takes, so that a slow machine is not a failure

#: What no server may have logged: also no warning of the cache.
ALARMS = ("Traceback", "Assertion failed", "ResourceWarning", "colocache[")


class Broken(AssertionError):
    """A request was not answered, or not well."""


def until(condition: Callable[[], T], what: str | Callable[[], str]) -> T:
    """Return what the condition gives, as soon as that is true. AssertionError, which says what it was, if not."""
    ends = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > ends:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"it did not come to pass in {PATIENCE:.0f} s: {text}")
        time.sleep(0.002)
    return found


def free_port() -> int:
    """A TCP port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def place() -> Iterator[Path]:
    """A directory for a server and its group, with the files that `served.py` speaks of."""
    directory = Path(tempfile.mkdtemp(prefix="cs"))  # short, for sockets
    try:
        (directory / "version").write_text("1")
        (directory / "reloaded.py").write_text("")
        for name in ("asked", "loads"):
            (directory / name).touch()
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Running:
    """A server in a session of its own; a context manager, which leaves no process of it behind."""

    def __init__(self, mode: Mode, directory: Path, **settings: str) -> None:
        self.mode = mode
        self.directory = directory
        self.log = directory / "log"
        self.port = free_port()
        self._crowd = ThreadPoolExecutor(64)
        fill = {"port": self.port, "workers": mode.workers, "pidfile": directory / "pid", "aside": mode.place}
        self._command = [part.format(**fill) for part in mode.command]
        here = [mode.place] if mode.aside else []
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("COLOCACHE_")} | {
            "COLOCACHE_DIR": str(directory / "c"),
            "SERVERS_DIR": str(directory),
            "PYTHONPATH": os.pathsep.join(map(str, [*here, ROOT, directory])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            **settings,
        }  # fmt: skip

    def __enter__(self) -> Running:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.directory, env=self._environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        return self

    def __exit__(self, *exc_info: object) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._crowd.shutdown()

    # --- Its processes

    def processes(self) -> list[int]:
        """All that live, by pid: the session's. A process that has ended and was not waited for lives no more."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid and fields[0] not in "ZX":
                    found.append(int(path.parent.name))
        return found

    def parent(self, pid: int) -> int:
        """Who has started a process."""
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    def holds_a_member(self, pid: int) -> bool:
        """Whether a process has a file of the group open."""
        descriptors = []
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                descriptors.append(os.readlink(path))
        ours = str(self.directory / "c")
        return any(each.startswith(ours) for each in descriptors)

    def has_ended(self) -> bool:
        """Whether no process of it is left."""
        return self.process.poll() is not None and not self.processes()

    def stop(self) -> None:
        """Stop it as its operator does, and return when no process of it is left."""
        if self.mode.interrupted:
            os.killpg(self.process.pid, signal.SIGINT)
        else:
            os.kill(self.first(), signal.SIGTERM)
        until(self.has_ended, lambda: f"{self.mode} ends: {self.last_words()}")

    def first(self) -> int:
        """The process that started the workers: not always the one that the test started."""
        return self.process.pid if self.process.poll() is None else min(self.processes())

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(["", *self.log.read_text(errors="replace").splitlines()[-30:]])

    def alarms(self) -> list[str]:
        """The lines of its log that should not be there."""
        lines = self.log.read_text(errors="replace").splitlines()
        expected = self.mode.warning
        found = [line for line in lines if any(alarm in line for alarm in ALARMS)]
        return [line for line in found if not expected or expected not in line]

    # --- Its answers

    def ask(self, path: str) -> dict[str, Any]:
        """The answer to one request, on a connection of its own. Raises Broken."""
        return self._ask_celery(path) if self.mode.by_celery else self._ask_http(path)

    def _ask_celery(self, path: str) -> dict[str, Any]:
        from verification.servers.celery_queue import queue  # here: only where celery is asked it has to be installed

        try:
            answer: dict[str, Any] = queue(self.directory).send_task("answer", [path]).get(10.0, interval=0.01)
        except Exception as error:  # the task's own, or those of celery, which has many
            raise Broken(f"{path} was not answered: {error!r}{self.last_words()}") from error
        return answer

    def _ask_http(self, path: str) -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise Broken(f"{path} was not answered: {error!r}{self.last_words()}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise Broken(f"{path} was answered with {response.status}: {body[:200]!r}{self.last_words()}")
        answer: dict[str, Any] = json.loads(body)
        return answer

    def ask_at_once(self, path: str, times: int) -> list[Future[dict[str, Any]]]:
        """Send so many requests at the same moment."""
        return [self._crowd.submit(self.ask, path) for _ in range(times)]

    def burst(self, path: str) -> list[dict[str, Any]]:
        """The answers to a few requests for each worker, sent at once."""
        return [future.result(PATIENCE) for future in self.ask_at_once(path, 2 * self.mode.workers)]

    def reach(self, path: str, pids: Callable[[], set[int]]) -> list[dict[str, Any]]:
        """The answers to as many requests as it takes until all of the processes, as they are then, have answered."""
        answers: list[dict[str, Any]] = []

        def all_have() -> bool:
            answers.extend(self.burst(path))
            return pids() <= {answer["pid"] for answer in answers}

        until(all_have, lambda: f"{pids()} answer {path}; did: {sorted({answer['pid'] for answer in answers})}")
        return answers
