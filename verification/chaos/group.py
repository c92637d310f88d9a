"""Real processes, each with a cache of one group, that do what a test tells them; `worker.py` is their side."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from verification import ROOT

T = TypeVar("T")

PATIENCE = 60.0  # s; far beyond what anything here takes, so that a slow machine is not a failure
KEYS = 64
SHELF = "8MiB"  # small ones are made quickly

#: What no process may ever have logged.
ALARMS = ("Traceback", "has failed", "Assertion failed", "ResourceWarning")
INTENDED = ": Unlucky: "  # but for this: loaders fail with it on purpose, now and then after their caller has gone


class Died(Exception):
    """A worker ended before it answered."""


def until(condition: Callable[[], T], what: str = "") -> T:
    """Return what the condition gives, as soon as that is true."""
    ends = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"it did not come to pass in {PATIENCE} s: {what or condition}")
        time.sleep(0.002)
    return found


def _state(task: Path) -> str:
    """What a thread does. That of a thread which has ended meanwhile counts as stopped."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"


def await_stop(pid: int) -> None:
    """Return when none of the threads of a process that was sent SIGSTOP runs: they go on for an instant."""
    tasks = Path(f"/proc/{pid}/task")
    until(lambda: {_state(task) for task in tasks.iterdir()} == {"T"})


class Worker:
    """A process of the group, as the test holds it. Calls may come from any thread."""

    def __init__(self, pid: int, answers: BinaryIO, commands: BinaryIO) -> None:
        self.pid = pid
        self.dead = threading.Event()
        self._commands = commands
        self._answers = answers
        self._waiting: dict[int, Future[Any]] = {}
        self._ids = 0
        self._lock = threading.Lock()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def send(self, do: str, **arguments: Any) -> Future[Any]:
        """Begin a command; its answer comes with the future."""
        future: Future[Any] = Future()
        with self._lock:
            self._ids += 1
            self._waiting[self._ids] = future
            line = json.dumps({"id": self._ids, "do": do, **arguments}).encode() + b"\n"
            with suppress(
                OSError, ValueError
            ):  # it has ended, or its pipe is closed: who listens says so to the future
                self._commands.write(line)
                self._commands.flush()
        if self.dead.is_set():
            self._fail_calls()
        return future

    def call(self, do: str, **arguments: Any) -> Any:
        """Carry out a command, and return its answer. Raises Died, or AssertionError with the worker's own error."""
        return self.send(do, **arguments).result(PATIENCE)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; not to the dead, whose number may be another process's by now."""
        if not self.dead.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self) -> None:
        """Stop the process; when this returns, none of its threads runs."""
        self.signal(signal.SIGSTOP)
        self.await_stop()

    def await_stop(self) -> None:
        """Return when the process is stopped, be it by itself, and none of its threads runs."""
        await_stop(self.pid)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """As the kernel does it: no cleaning up."""
        self.signal(signal.SIGKILL)
        self._listener.join(PATIENCE)

    def quit(self) -> None:
        """Have the process end as a program does that has done its work."""
        with suppress(Died):
            self.call("quit")

    def close(self) -> None:
        """Let go of the dead process."""
        self.kill()
        for stream in (self._commands, self._answers):
            with suppress(OSError):
                stream.close()

    def _listen(self) -> None:
        with suppress(OSError):
            for line in iter(self._answers.readline, b""):
                answer = json.loads(line)
                future = self._waiting.pop(answer["id"])
                if "error" in answer:
                    future.set_exception(AssertionError(answer["error"]))
                else:
                    future.set_result(answer["result"])
        self._reap()
        self.dead.set()
        self._fail_calls()

    def _reap(self) -> None:
        """Wait for the end of the process, where that is for this one to do."""

    def _fail_calls(self) -> None:
        while self._waiting:
            with suppress(KeyError):
                self._waiting.popitem()[1].set_exception(Died(self.pid))


class Started(Worker):
    """A process that the test itself has started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        self.process = process
        super().__init__(process.pid, process.stdout, process.stdin)  # type: ignore[arg-type]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)  # which knows whether it was waited for

    def _reap(self) -> None:
        self.process.wait()


class Group:
    """The processes, the directory where they meet, and their source of truth."""

    def __init__(self, *, options: Iterable[str] = ("-X", "dev"), **settings: Any) -> None:
        self.settings = {"shelf": SHELF, **settings}
        self._options = list(options)  # of the interpreter
        self.directory = Path(tempfile.mkdtemp(prefix="cc"))  # short, for sockets
        self.files = self.directory / "c" / "shop"
        self.workers: list[Worker] = []
        (self.directory / "versions").write_bytes(bytes(8 * KEYS))
        (self.directory / "loads").touch()
        self._log = os.open(self.directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._children = socket.socket(socket.AF_UNIX)
        self._children.bind(str(self.directory / "children"))
        self._children.listen(64)
        self._children.settimeout(PATIENCE)

    def start(self, count: int, *, join: bool = True, **settings: Any) -> list[Worker]:
        """Start processes, and, with ``join``, wait until they and all others are one group."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, *self._options, "-m", "verification.chaos.worker", str(self.directory)]
        started = [
            Started(
                subprocess.Popen(
                    [*command, json.dumps({**self.settings, **settings})],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment,
                )
            )
            for _ in range(count)
        ]  # fmt: skip
        self.workers += started
        if join:
            together(started, "start")
            self.settle()
        return list(started)

    def adopt(self, fork: Callable[[], int]) -> Worker:
        """Have a worker fork, and take the child in."""
        pid = fork()
        return self.adopt_all([pid])[0]

    def adopt_all(self, pids: Iterable[int]) -> list[Worker]:
        """Take forked children in, by who they are."""
        wanted, found = list(pids), {}
        while len(found) < len(wanted):
            child = self._accept()
            found[child.pid] = child
        return [found[pid] for pid in wanted]

    def adopt_any(self) -> Worker | None:
        """Take a forked child in if one has come."""
        come, _, _ = select.select([self._children], [], [], 0)
        return self._accept() if come else None

    def _accept(self) -> Worker:
        connection, _ = self._children.accept()
        pid = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)
        stream: Any = connection.makefile("rwb", buffering=0)
        connection.close()
        self.workers.append(Worker(pid, stream, stream))
        return self.workers[-1]

    def reap(self) -> None:
        """Let go of those who have ended."""
        for worker in [worker for worker in self.workers if worker.dead.is_set()]:
            worker.close()
            self.workers.remove(worker)

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.dead.is_set()]

    def settle(self, workers: Iterable[Worker] | None = None) -> None:
        """Have all join, and wait until they are all that are on the host: the dead are gone, and nobody is missing."""
        all_of_them = self.living if workers is None else list(workers)
        until(lambda: self._agree(all_of_them), f"{len(all_of_them)} processes that see each other")

    def _agree(self, workers: list[Worker]) -> bool:
        together(workers, "start")
        views = together(workers, "members")
        return all(view == views[0] and len(view) == len(workers) for view in views)

    def loads(self) -> int:
        """How often the source was read so far, by all processes."""
        return (self.directory / "loads").read_bytes().count(b"\n")

    def abort(self) -> None:
        """End every process; each logs what its threads were doing."""
        for worker in self.living:
            worker.signal(signal.SIGABRT)
            worker.dead.wait(PATIENCE)

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def names(self) -> set[str]:
        """The names of the files in the group's directory."""
        return {path.name for path in self.files.iterdir()} if self.files.exists() else set()

    def close(self) -> None:
        """End every process; complain of what they logged."""
        for worker in self.living:
            worker.signal(signal.SIGKILL)
        for worker in self.workers:
            worker.close()
        self._children.close()
        os.close(self._log)
        log = self.log()
        shutil.rmtree(self.directory)
        alarms = [line for line in log.splitlines() if any(alarm in line for alarm in ALARMS) and INTENDED not in line]
        assert not alarms, log


def together(workers: Iterable[Worker], do: str, **arguments: Any) -> list[Any]:
    """Have all carry out one command at once; return their answers in order."""
    return [future.result(PATIENCE) for future in [worker.send(do, **arguments) for worker in workers]]
