"""A worker process of a test: does what it is told, each command in a thread of its own.

Commands come as lines of JSON on standard input, answers go as lines of JSON to standard output. A forked child serves
the same commands over a socket that the test listens at; see `group.py`, which is the other end of both.

The **source of truth** is a file of 64-bit versions that all processes map, one for each key ``k0``, ``k1``, …; a load
appends its key to another file, so that loads can be counted across processes.
"""

from __future__ import annotations

import json
import logging
import mmap
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic_ns
from typing import Any, BinaryIO

import colocache
from verification.chaos.board import SPACE, SPACES, Board
from verification.chaos.churn import Churn
from verification.chaos.interrupted import MainThread
from verification.chaos.register import Register
from verification.chaos.steps import Doom, Fate
from verification.chaos.troubles import Troubles
from verification.chaos.userland import answer_alarms
from verification.chaos.values import value_of, version_of
from verification.chaos.work import Work

KEYS = 64


class Source:
    """Versions by key, and a count of who has read them."""

    def __init__(self, directory: Path) -> None:
        with open(directory / "versions", "r+b") as file:
            self._versions = memoryview(mmap.mmap(file.fileno(), 8 * KEYS)).cast("Q")
        self._loads = os.open(directory / "loads", os.O_WRONLY | os.O_APPEND)

    def read(self, key: str) -> int:
        """Load: what a database would be asked for."""
        os.write(self._loads, f"{key}\n".encode())  # one write to a file that is appended to is never torn
        return self.version(key)

    def version(self, key: str) -> int:
        return self._versions[int(key[1:])]

    def write(self, key: str) -> int:
        """Commit a new version. One process at a time writes a key."""
        self._versions[int(key[1:])] += 1
        return self.version(key)


class Reader(threading.Thread):
    """Reads without end; notes when each version was last handed out, by the instant at which that read began."""

    def __init__(self, worker: Worker, keys: list[str]) -> None:
        super().__init__(daemon=True)
        self._worker = worker
        self._keys = keys
        self._enough = threading.Event()
        self.reads = 0
        self.latest: dict[str, dict[int, int]] = {key: {} for key in keys}
        self.errors: list[str] = []
        self.start()

    def run(self) -> None:
        while not self._enough.is_set():
            for key in self._keys:
                began = monotonic_ns()
                try:
                    version = self._worker.read(key)
                except Exception as error:  # the test judges it
                    self.errors.append(repr(error))
                    continue
                self.latest[key][version] = began
                self.reads += 1

    def finish(self) -> dict[str, Any]:
        self._enough.set()
        self.join()
        return {"reads": self.reads, "latest": self.latest, "errors": self.errors}


class Worker(Troubles):
    """The commands. Every public method is one."""

    def __init__(self, directory: str, settings: dict[str, Any], cache: colocache.Cache | None = None) -> None:
        self._directory = Path(directory)
        self._settings = settings
        self._source = Source(self._directory)
        self._may_load = threading.Event()
        self._reader: Reader | None = None
        self._work: Work | None = None
        self._churn: Churn | None = None
        self._fate: Fate | None = None
        self._children: dict[int, multiprocessing.process.BaseProcess] = {}
        self.main: MainThread | None = None  # a forked child has none to spare
        self.cache = cache or colocache.Cache(**{"group": "shop", "directory": str(self._directory / "c"), **settings})

    # --- Calls of the cache

    def start(self) -> None:
        self.cache.start()

    def read(
        self, key: str, *, hold: bool = False, fail: bool = False, tags: tuple[str, ...] = (), space: str = ""
    ) -> Any:
        """Read through the cache; ``hold``: a load that it leads to ends only after `release`; ``fail``: it fails."""

        def load() -> int:
            version = self._source.read(key)
            if hold:
                self._may_load.wait()
            if fail:
                raise LookupError(key)
            return version

        return self._space(space).get_or_load(key, load, tags=tags)

    def release(self) -> None:
        """Have all loads end that are held, or will be."""
        self._may_load.set()

    def read_in_threads(self, key: str, threads: int) -> list[int]:
        """Read one key in many threads at once."""
        versions: list[int] = []
        gate = threading.Barrier(threads)

        def run() -> None:
            gate.wait()
            versions.append(self.read(key))

        _all([run] * threads)
        return versions

    def read_all(self, keys: list[str]) -> list[int]:
        return [self.read(key) for key in keys]

    def get(self, key: str) -> Any:
        return self.cache.get(key)

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        return self.cache.get_many(keys)  # type: ignore[return-value]

    def set(self, key: str, value: Any, tags: tuple[str, ...] = ()) -> bool:
        return self.cache.set(key, value, tags=tags)

    def set_bytes(self, key: str, size: int) -> bool:
        return self.cache.set(key, bytes(size))

    def set_each(self, keys: list[str], value: Any) -> int:
        """Set every key by a call of its own; return how many calls have stored the value."""
        return sum(self.cache.set(key, value) for key in keys)

    def add(self, key: str, value: Any) -> bool:
        return self.cache.add(key, value)

    def incr(self, key: str) -> int | None:
        return self.cache.incr(key, initial=0)

    def count(self, key: str, times: int) -> int:
        """Count so often; return how many calls have counted: others may keep the lock for too long."""
        return sum(self.cache.incr(key, initial=0) is not None for _ in range(times))

    def write(self, key: str, wait: bool | float = True) -> dict[str, Any]:
        """Commit a new version to the source, and invalidate."""
        version = self._source.write(key)
        receipt = self.cache.invalidate(key, wait=wait)
        return {"version": version, "returned": monotonic_ns(), **receipt._asdict()}

    def write_each(self, keys: list[str], times: int) -> dict[str, Any]:
        """Write every key so often, a thread for each."""
        complete: list[bool] = []
        errors: list[str] = []

        def run(key: str) -> None:
            try:
                complete.extend(self.write(key)["complete"] for _ in range(times))
            except Exception as error:  # the test judges it
                errors.append(repr(error))

        _all([lambda key=key: run(key) for key in keys])  # type: ignore[misc]
        return {"complete": sum(complete), "incomplete": len(complete) - sum(complete), "errors": errors}

    def invalidate_tags(self, tag: str) -> dict[str, Any]:
        return self.cache.invalidate_tags(tag)._asdict()

    def clear(self, space: str = "") -> dict[str, Any]:
        return self._space(space).clear()._asdict()

    def stats(self) -> dict[str, Any]:
        return asdict(self.cache.stats())

    def members(self) -> dict[str, int]:
        """Seat to pid."""
        return {str(member.seat): member.pid for member in sorted(self.cache.members(), key=lambda each: each.seat)}

    def seat(self) -> int:
        return next(member.seat for member in self.cache.members() if member.me)

    def region(self) -> str:
        """What tells the region from all others."""
        return self.cache._member.join().region_id.hex()  # type: ignore[union-attr]

    def close(self) -> None:
        self.cache.close()

    # --- Working, for `chaos.py` and `soak.py`

    def begin_work(self, slot: int, slots: int, seed: float, doom: list[Any] | None) -> None:
        if doom is not None:
            self._fate = Fate(Doom(*doom), Board(self._directory, slots).note)
        self._work = Work(self.cache, self._directory, slot, slots, seed, hard=True, writes=True, main=self.main)

    def be_spared(self) -> None:
        if self._fate is not None:
            self._fate.spare()

    def begin_soaking(self, slot: int, slots: int, seed: float, writes: bool) -> None:
        self._work = Work(self.cache, self._directory, slot, slots, seed, hard=False, writes=writes)
        self._churn = Churn(self.cache, str(seed), pause=0.02, writes=writes)

    def end_work(self) -> None:
        for work in (self._work, self._churn):
            if work is not None:
                work.finish()

    def look_back(self) -> None:
        assert self._work is not None
        self._work.look_back()

    def read_register(self, keys: list[str]) -> dict[str, int]:
        register = Register(self._directory)
        spaces = {path: self.cache.namespace(path) if path else self.cache for path in SPACES}
        versions = {}
        for key in keys:
            value = spaces[SPACE[key]].get_or_load(key, lambda key=key: value_of(key, register.read(key)))  # type: ignore[misc]
            versions[key] = version_of(key, value)
        register.close()
        return versions

    def counts(self) -> dict[str, int | None]:
        assert self._work is not None
        return self._work.counts()

    def ring_resets(self) -> int:
        """How often a ring of the host was garbage."""
        host: Any = self.cache._member.join()
        return int(host.shelf.resets())

    # --- Reading all the while

    def begin_reading(self, keys: list[str]) -> None:
        self._reader = Reader(self, keys)

    def reads_so_far(self) -> int:
        assert self._reader is not None
        return self._reader.reads

    def end_reading(self) -> dict[str, Any]:
        assert self._reader is not None
        return self._reader.finish()

    def write_and_die(self, key: str) -> None:
        """Invalidate, and be killed before anything else can be said about it."""
        self.write(key)
        os.kill(os.getpid(), 9)

    # --- Children

    def fork(self) -> int:
        """Fork: the child serves commands of its own, with the cache that it inherited."""
        pid = os.fork()
        if not pid:
            self.be_a_child()
        return pid

    def fork_while_joining(self, times: int) -> list[int]:
        """Fork while another thread joins and leaves again and again."""
        stop = threading.Event()

        def come_and_go() -> None:
            while not stop.is_set():
                with colocache.Cache("side", directory=str(self._directory / "c"), **self._settings) as cache:
                    cache.get("k0")

        thread = threading.Thread(target=come_and_go)
        thread.start()
        pids = []
        for _ in range(times):
            pids.append(self.fork())
        stop.set()
        thread.join()
        return pids

    def fork_in_a_loader(self, key: str) -> int:
        """Fork in the middle of a load: the child's half of the call ends, too, and harms nobody."""
        forked = []

        def load() -> int:
            forked.append(os.fork())
            return self._source.read(key)

        self.cache.get_or_load(key, load)
        if not forked[0]:
            self.be_a_child()
        return forked[0]

    def fork_before_a_stamp(self, key: str) -> int:
        """Fork between the number that an invalidation draws, and what it stores.

        The child stores it in `go_on`, and is stopped there: before it finds out that its invalidation is in vain.
        """
        host: Any = self.cache._member.join()
        genuine, forked, stored = host.board.marks, list[int](), list[int]()

        class Marks:
            def __getitem__(self, place: Any) -> Any:
                return genuine[place]

            def __setitem__(_, place: int, number: int) -> None:
                if not forked:
                    forked.append(os.fork())
                    if not forked[0]:
                        threading.Thread(target=self.be_a_child, daemon=True).start()
                        _may_go_on.wait()
                genuine[place] = number
                stored.append(place)
                if not forked[0] and len(stored) == 4:
                    _has_gone_on.set()
                    threading.Event().wait()

        host.board.marks = Marks()
        self.cache.invalidate(key)
        host.board.marks = genuine
        return forked[0]

    def go_on(self) -> None:
        """Go on with the call in whose middle this child is."""
        _may_go_on.set()
        _has_gone_on.wait()

    def multiprocess(self) -> int:
        process = multiprocessing.get_context("fork").Process(target=self.be_a_child)
        process.start()
        assert process.pid
        self._children[process.pid] = process
        return process.pid

    def reap(self, pid: int) -> int:
        """Wait for a child; return its exit code, negative for the signal that killed it."""
        if pid in self._children:
            self._children[pid].join()
            return self._children[pid].exitcode or 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def streams(self) -> list[int]:
        """The descriptors by which the test talks to this process, and by which it loads."""
        return [*_streams, self._source._loads]

    def be_a_child(self) -> None:
        _close_streams()  # again, where no hook of Python has run
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(str(self._directory / "children"))
        _streams.append(channel.fileno())
        with channel.makefile("rwb", buffering=0) as stream:
            serve(Worker(str(self._directory), self._settings, self.cache), stream, stream)  # type: ignore[arg-type]
        os._exit(0)

    def _space(self, name: str) -> colocache.Space:
        return self.cache.namespace(name) if name else self.cache


def _all(functions: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve(worker: Worker, commands: BinaryIO, answers: BinaryIO) -> None:
    """Carry out commands until there are no more, or one says ``quit``."""
    one_at_a_time = threading.Lock()

    def carry_out(command: dict[str, Any]) -> None:
        answer = {"id": command.pop("id")}
        try:
            answer["result"] = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        with one_at_a_time:
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()

    for line in iter(commands.readline, b""):
        command = json.loads(line)
        if command["do"] == "quit":
            break
        threading.Thread(target=carry_out, args=(command,), daemon=True).start()


def main(directory: str, settings: str) -> None:
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {os.getpid()} %(levelname)s %(message)s")
    answer_alarms()
    commands, answers = _take_over_standard_streams()
    worker = Worker(directory, json.loads(settings))
    worker.main = main = MainThread()

    def serve_until_the_end() -> None:
        try:
            serve(worker, commands, answers)
        finally:
            main.end()

    threading.Thread(target=serve_until_the_end).start()
    main.run()


#: For a child in the middle of a call: see `Worker.fork_before_a_stamp`.
_may_go_on, _has_gone_on = threading.Event(), threading.Event()

#: The descriptors by which the test talks to this process.
_streams: list[int] = []


def _take_over_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Let no forked child have them: they would tell the test that this process lives, and be locked by its threads."""
    _streams[:] = commands, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nothing, standard)
    os.close(nothing)
    os.register_at_fork(after_in_child=_close_streams)
    return open(commands, "rb", closefd=False), open(answers, "wb", closefd=False)


def _close_streams() -> None:
    while _streams:
        os.close(_streams.pop())


if __name__ == "__main__":
    main(*sys.argv[1:])
