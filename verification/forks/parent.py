"""The process of `forks.py` that forks, and its children.

Other threads of it use the cache all the while. A fork past Python has limits that are not the cache's: the child hangs
if another thread waits for the interpreter just then. So before such a fork the others pause. If they cannot, because
they wait for what the operation has, there is no fork; and a child that hangs is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import faulthandler
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, NamedTuple

import colocache
from verification.forks.operations import OPERATIONS
from verification.forks.truth import CHILDS, COUNTED, HUSH, HUSHED, KEYS, OTHERS, PARENTS, POINT, Truth

HANGS = 60.0  # s, then a child hangs
TRIES = 3  # at one point, before a child that hangs is taken for one that hangs by the cache
STUCK = 0.2  # s, then a thread does not come to its next turn, because it waits for what the operation has
FRESH = 20.0  # s in which the other process writes once more
CANARIES = 8

_OURS = str(Path(colocache.__file__).parent) + os.sep


class Plan(NamedTuple):
    """What one process does."""

    operation: str
    past_python: bool
    joins: bool  # the operation is the first use of a cache
    goes_on: bool  # the child first goes on with the operation; otherwise it looks around where it is
    first: int  # points: lines of the package that the operation runs
    step: int
    most: int


class Canaries:
    """Descriptors of the application that nobody else may close."""

    def __init__(self, directory: Path, count: int) -> None:
        path = directory / "canary"
        path.touch()
        self._numbers = [os.open(path, os.O_RDONLY) for _ in range(count)]
        self._identity = os.stat(path)

    def lost(self) -> list[int]:
        """The descriptors that are closed, or something else's."""
        return [number for number in self._numbers if not self._is_there(number)]

    def _is_there(self, number: int) -> bool:
        try:
            return os.path.samestat(os.fstat(number), self._identity)
        except OSError:
            return False


class Parent:
    """Forks at one point of an operation after another."""

    def __init__(self, directory: Path, plan: Plan, settings: dict[str, Any]) -> None:
        self._directory = directory
        self._plan = plan
        self._truth = Truth(directory)
        self._cache = colocache.Cache("forks", **settings)
        # A process joins a group once for all its caches: so that the operation is what joins, the others use another.
        self._beside = colocache.Cache("beside", **settings) if plan.joins else self._cache
        self._canaries = Canaries(directory, CANARIES)
        self._pid = os.getpid()
        self._enough = False
        self._turns: list[threading.Lock] = []
        self._hangs, self._status = False, 0
        self.forks = self.stillborn = self.noisy = self.points = 0
        _complain_of_double_closes(self._truth)

    def run(self) -> None:
        """Fork at all points of the plan."""
        if not self._plan.joins:
            self._cache.start()
        bodies = (self._load,) if self._plan.joins else (self._read, self._write, self._load)
        threads = [self._thread(body) for body in bodies]
        if self._plan.past_python:
            sys.setswitchinterval(1000)  # nobody asks for the interpreter
            time.sleep(0.05)  # who has asked gets it
        point, hangs = self._plan.first, 0
        while self.forks < self._plan.most and self._fork_at(point):
            hangs = hangs + 1 if self._hangs else 0
            if 0 < hangs < TRIES and self._plan.past_python:
                self.stillborn += 1
                continue
            if hangs:
                self._truth.complain("a child that hangs, or was killed", status=self._status)
            self.points, point, hangs = point, point + self._plan.step, 0
        self._enough = True
        for thread in threads:
            thread.join()
        self._cache.close()

    # --- Other threads

    def _thread(self, body: Callable[[Random], object]) -> threading.Thread:
        dice, turn = Random(body.__name__), threading.Lock()
        self._turns.append(turn)

        def work() -> None:
            while not self._enough:
                with turn:
                    try:
                        body(dice)
                    except Exception:
                        self._truth.complain("a thread of the parent", error=traceback.format_exc())
                    time.sleep(0.002)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def _read(self, _: Random) -> None:
        for key in KEYS:
            wrong = self._truth.read(key, self._beside.get_or_load)
            if wrong:
                self._truth.complain("a thread of the parent", wrong=wrong)

    def _write(self, _: Random) -> None:
        self._truth.write(PARENTS, self._beside.invalidate)

    def _load(self, dice: Random) -> None:
        self._beside.namespace("side", ttl=5).get_or_load((dice.randrange(20),), lambda: time.sleep(0.01))
        self._beside.namespace(f"n{dice.randrange(100)}").set("x", dice.random())

    # --- Forking

    def _fork_at(self, point: int) -> bool:
        """Do the operation, and fork at a point of it. Return whether it has that point."""
        self._truth.words[POINT] = point
        if self._plan.joins:
            self._cache._member.leave()
        source, sink = os.pipe()
        pids: list[int] = []

        def fork() -> None:
            pids.append(self._fork())
            if not pids[0]:
                faulthandler.dump_traceback_later(HANGS, exit=True)
                os.write(sink, b"!")
                if not self._plan.goes_on:
                    self._be_a_child(sink)

        error = ""
        try:
            with _at_line(point, fork):
                OPERATIONS[self._plan.operation](self._cache, f"{self._plan.operation}{point}")
        except Exception:
            error = traceback.format_exc()
        if os.getpid() != self._pid:  # what comes of half an operation is nobody's concern
            self._be_a_child(sink)
        os.close(sink)
        if error:
            self._truth.complain("the operation in the parent", error=error)
        self._hangs = False
        if pids and pids[0] < 0:
            self.noisy += 1
        elif pids:
            self.forks += 1
            self._await(pids[0], source)
        os.close(source)
        self._look_after_oneself()
        return bool(pids)

    def _fork(self) -> int:
        """Fork, and return the child's pid; -1 if the others do not pause: they wait for what the operation has."""
        if not self._plan.past_python:
            return os.fork()
        words, pid = self._truth.words, -1
        held = [turn for turn in self._turns if turn.acquire(timeout=STUCK)]
        words[HUSH] += 1  # so that the bus has nothing to do either
        ends = time.monotonic() + STUCK
        while words[HUSHED] != words[HUSH] and time.monotonic() < ends:
            time.sleep(0.001)
        time.sleep(0.03)
        if len(held) == len(self._turns) and words[HUSHED] == words[HUSH]:
            pid = ctypes.PyDLL(None).fork()
        if not pid:
            sys.setswitchinterval(0.005)
        else:
            words[HUSH] += 1
        for turn in held:
            turn.release()
        return pid

    def _await(self, pid: int, source: int) -> None:
        """Wait for a child, and note what it has found wrong."""
        said, ends = b"", time.monotonic() + HANGS + 5
        while time.monotonic() < ends:
            ready, _, _ = select.select([source], [], [], max(0.0, ends - time.monotonic()))
            part = os.read(source, 65536) if ready else b""
            if not part:
                break
            said += part
        if not said.endswith(b"\n"):
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._hangs, self._status = not said.endswith(b"\n"), status
        for wrong in [] if self._hangs else json.loads(said[1:]):
            self._truth.complain("a child", wrong=wrong)

    def _look_after_oneself(self) -> None:
        wrong = [f"descriptors {lost} are lost" for lost in [self._canaries.lost()] if lost]
        wrong += filter(None, [self._truth.read(key, self._cache.get_or_load) for key in KEYS])
        if not self._truth.write(CHILDS, self._cache.invalidate).complete:
            wrong.append("an invalidation is not complete")
        for each in wrong:
            self._truth.complain("the parent", wrong=each)

    # --- The child

    def _be_a_child(self, sink: int) -> None:
        """Use the cache, say what is wrong, and end."""
        try:
            asyncio._set_running_loop(None)  # it is the parent's; Python forgets it only where it hears of the fork
            wrong = [*self._look_around()]
        except BaseException:
            wrong = [traceback.format_exc()]
        os.write(sink, json.dumps(wrong).encode() + b"\n")
        os._exit(0)

    def _look_around(self) -> Iterator[str]:
        cache, truth = self._cache, self._truth
        yield from filter(None, [self._served_at_once(key) for key in KEYS])
        if lost := self._canaries.lost():
            yield f"descriptors {lost} of the parent are lost"
        yield from filter(None, [truth.read(key, cache.get_or_load) for key in KEYS])
        later = Canaries(self._directory, 4 * CANARIES)
        cache.start()
        if os.getpid() not in [member.pid for member in cache.members() if member.me]:
            yield f"it is not on the host: {cache.members()}"
        if not truth.write(CHILDS, cache.invalidate).complete:
            yield "an invalidation is not complete"
        yield from filter(None, [truth.read(key, cache.get_or_load) for key in KEYS])
        if cache.incr("counter", initial=0) is not None:
            truth.words[COUNTED] += 1
        floor, ends = truth.floor(OTHERS), time.monotonic() + FRESH
        while truth.floor(OTHERS) == floor and time.monotonic() < ends:
            time.sleep(0.001)
        yield from filter(None, [self._served_at_once(key) for key in KEYS])
        yield from filter(None, [truth.read(key, cache.get_or_load) for key in KEYS])
        cache.close()
        if lost := [*later.lost(), *self._canaries.lost()]:
            yield f"descriptors {lost} of the child are lost"

    def _served_at_once(self, key: str) -> str:
        """Read what is near, without a look at the pid."""
        floor = self._truth.floor(key)
        version: Any = self._cache._keyspace.hit(key)
        if version is colocache.MISSING or version >= floor:
            return ""
        return f"{key} is {version} near, and {floor} was acknowledged before the hit"


@contextlib.contextmanager
def _at_line(number: int, do: Callable[[], None]) -> Iterator[None]:
    """Do something before a line of the package, the first, second, … that runs."""
    left = number

    def at_line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if event == "line" and left > 0:
            left -= 1
            if left == 0:
                sys.settrace(None)
                do()
        return at_line if left > 0 else None

    def at_call(frame: FrameType, event: str, _: object) -> Any:
        return at_line if left > 0 and frame.f_code.co_filename.startswith(_OURS) else None

    sys.settrace(at_call)
    try:
        yield
    finally:
        sys.settrace(None)


def _complain_of_double_closes(truth: Truth) -> None:
    genuine = os.close

    def close(number: int) -> None:
        try:
            genuine(number)
        except OSError as error:
            if error.errno == errno.EBADF:
                truth.complain("a descriptor that is closed twice", where=traceback.format_stack(limit=6)[:-1])
            raise

    os.close = close


def main(directory: str, plan: str, settings: str) -> None:
    faulthandler.enable()
    parent = Parent(Path(directory), Plan(*json.loads(plan)), json.loads(settings))
    parent.run()
    print(
        json.dumps(
            {"points": parent.points, "forks": parent.forks, "stillborn": parent.stillborn, "noisy": parent.noisy}
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
