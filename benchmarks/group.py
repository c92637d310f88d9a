"""The processes of a group, for benchmarks that need several: started, told what to do, and kept busy.

A class derived from `Member` says what a process can do. The benchmark calls its public methods by name:

    class Asker(Member):
        def fetch(self, keys: list[str]) -> list[float]: ...

    with Group() as group:
        [asker] = group.start(Asker)
        asker.call("fetch", keys)

A process carries out its commands one after another, in its main thread. All processes have one CLOCK_MONOTONIC, so
times of `time.monotonic` can be compared between them (Linux and macOS).
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import colocache

#: Where directories of groups are made: where they are by default on Linux, or else in the temp directory.
MEMORY = "/dev/shm" if os.path.ismount("/dev/shm") and os.access("/dev/shm", os.W_OK) else None

PATIENCE = 60.0  # s; much longer than anything here takes
BURST = 0.005  # s of work without pause
SHARE = {"idle": 0.0, "bursts": 0.7, "spinning": 1.0}  # of a core that a process computes, by kind of work


class Busy(threading.Thread):
    """The work of a process: a loop of pure Python, in bursts of 5 ms that take a share of the time, or without end."""

    def __init__(self, kind: str) -> None:
        super().__init__(daemon=True, name=f"busy: {kind}")
        self._share = SHARE[kind]
        self._over = False
        self.start()

    def run(self) -> None:
        """Work until `finish`."""
        while self._share and not self._over:
            ends = time.monotonic() + BURST
            while time.monotonic() < ends:
                pass
            if self._share < 1:
                time.sleep(BURST * (1 - self._share) / self._share)

    def finish(self) -> None:
        """Stop working."""
        self._over = True
        self.join()


class Member:
    """One process of the group, with its cache. Its public methods are the commands."""

    def __init__(self, directory: str, **settings: Any) -> None:
        self.cache = colocache.Cache("bench", directory=directory, **settings)
        self._busy: Busy | None = None

    def start(self) -> None:
        """Join the group."""
        self.cache.start()

    def stats(self) -> dict[str, Any]:
        """Return the cache's figures."""
        return asdict(self.cache.stats())

    def work(self, kind: str) -> None:
        """Be "idle", or busy in "bursts", or "spinning", until the next call."""
        if self._busy is not None:
            self._busy.finish()
        self._busy = Busy(kind)

    def known(self) -> int:
        """Return of how many processes this one knows, itself included."""
        return len(self.cache.members())

    def close(self) -> None:
        """Leave the group."""
        self.cache.close()


class Failed(Exception):
    """A command raised in the other process; the text is its traceback."""


class Worker:
    """A process, seen from the benchmark."""

    def __init__(self, member: Callable[..., Member], directory: str, settings: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._channel, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, member, directory, settings), daemon=True)
        self.process.start()
        theirs.close()
        self.pid = self.process.pid or 0

    def send(self, do: str, *arguments: Any) -> None:
        """Begin a command; `answer` gives its outcome."""
        self._channel.send((do, arguments))

    def answer(self, patience: float = PATIENCE) -> Any:
        """Return the outcome of the earliest command. Raise Failed, TimeoutError, or EOFError if it has died."""
        if not self._channel.poll(patience):
            raise TimeoutError(f"process {self.process.pid} has not answered in {patience} s")
        good, outcome = self._channel.recv()
        if not good:
            raise Failed(outcome)
        return outcome

    def call(self, do: str, *arguments: Any) -> Any:
        """Carry out a command, and return its outcome."""
        self.send(do, *arguments)
        return self.answer()

    @contextmanager
    def being(self, state: str) -> Iterator[None]:
        """Have the process compute, "idle", in "bursts" or "spinning", or be "stopped" by SIGSTOP, for a while."""
        if state == "stopped":
            os.kill(self.pid, signal.SIGSTOP)
        else:
            self.call("work", state)
        try:
            yield
        finally:
            if state == "stopped":
                os.kill(self.pid, signal.SIGCONT)
            else:
                self.call("work", "idle")

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Have the process end, in its own time."""
        try:
            self._channel.send(None)
            self.process.join(PATIENCE / 10)
        except OSError:
            pass  # it has ended
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._channel.close()


class Group:
    """Processes that share a cache, and the directory in which they meet. They end with the ``with`` block."""

    def __init__(self, **settings: Any) -> None:
        """``settings`` are those of every cache."""
        self._settings = settings
        self.workers: list[Worker] = []

    def __enter__(self) -> Group:
        self.directory = Path(tempfile.mkdtemp(prefix="bench", dir=MEMORY))
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self.workers:
            worker.end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, member: Callable[..., Member], count: int = 1, **settings: Any) -> list[Worker]:
        """Start processes, and wait until they and all others are one group, in which all know each other."""
        settings = {**self._settings, **settings}
        started: list[Worker] = []
        while len(started) < count:  # not all at once: dozens of interpreters that start take minutes on a busy machine
            some = [Worker(member, str(self.directory / "c"), settings) for _ in range(min(8, count - len(started)))]
            started += some
            self.workers += some
            together(some, "start")
        ends = time.monotonic() + PATIENCE
        while not self._agree():
            if time.monotonic() > ends:
                raise TimeoutError(f"{len(self.workers)} processes have not become a group in {PATIENCE} s")
            time.sleep(0.02)
        return started

    def remove(self, worker: Worker, *, kill: bool = False) -> None:
        """Have a process end, in its own time or by SIGKILL."""
        self.workers.remove(worker)
        worker.kill() if kill else worker.end()

    def _agree(self) -> bool:
        return all(known == len(self.workers) for known in together(self.workers, "known"))


def together(workers: Iterable[Worker], do: str, *arguments: Any) -> list[Any]:
    """Have all processes carry out one command at once. Return the outcomes in order."""
    asked = list(workers)
    for worker in asked:
        worker.send(do, *arguments)
    return [worker.answer() for worker in asked]


def sleep_until(instant: float) -> None:
    """Return at this time of the monotonic clock, or at once if it is past."""
    time.sleep(max(0.0, instant - time.monotonic()))


def serve(channel: Connection, member: Callable[..., Member], directory: str, settings: dict[str, Any]) -> None:
    """Be a process: do what comes by a channel, until it ends."""
    served = member(directory, **settings)
    gc.freeze()  # what stays for good; the collector itself stays on, as in an application
    while (command := _next(channel)) is not None:
        do, arguments = command
        try:
            answer = True, getattr(served, do)(*arguments)
        except Exception:
            answer = False, traceback.format_exc()
        channel.send(answer)
    served.close()


def _next(channel: Connection) -> Any:
    try:
        return channel.recv()
    except (EOFError, KeyboardInterrupt):
        return None
