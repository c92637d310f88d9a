"""A process that is interrupted, or that looks on from beside: it is told by lines of JSON what to do.

A process that is to join for the first time at each point is a nursery: it has imported the package, and forks a child
for each point, which takes over its lines until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final

from colocache import Cache, near_cache
from colocache.core.keys import prefix, wire
from colocache.host import Host
from colocache.operations.under_way import active
from colocache.runtime import region as regions
from verification.interruptions import operations
from verification.interruptions.broken import GUARDIANS, VARIABLE
from verification.interruptions.kinds import CANCEL, LATE, RAISING, handle_signals, interrupt, use
from verification.interruptions.operations import OPERATIONS, Operation
from verification.interruptions.points import Points

PATIENCE: Final = "INTERRUPTIONS_PATIENCE"  # the variable that gives another one, for machines that are busy
SLOW: Final = float(os.environ.get(PATIENCE, "1"))  # s that anything may take afterwards, and that a key may be stuck
HANGS_AFTER: Final = max(40.0, 8 * SLOW)  # s; then the process says where it hangs, and ends
AWAITED: Final = 0.02  # s in which those that wait for a load have said so, if they are on this host
SOON: Final = min(20.0, 20 * SLOW)  # s in which threads and descriptors of a join that has failed must have gone


class Process:
    """What one process does when it is told so."""

    def __init__(self) -> None:
        self.cache = Cache()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reported: list[BaseException | None] = []  # what had nowhere else to go
        self._waits: dict[str, tuple[threading.Thread, list[float]]] = {}
        self._before = _open_now()
        self._now = time.monotonic
        sys.unraisablehook = lambda raised: self._reported.append(raised.exc_value)
        handle_signals()
        near_cache.WAITING = 1  # each call that keeps something near does all there is to it

    # --- From beside

    def start(self) -> None:
        """Join."""
        self.cache.start()

    def hosts(self) -> int:
        """Return how many hosts can be asked, this one among them; 0 while this one is not current."""
        host = self._host()
        if host is None or not host.is_current():
            return 0
        return 1 if host.hosts is None else 1 + len(host.hosts.everybody())

    def put(self, key: str) -> None:
        """Set a key."""
        self.cache.set(key, 1, tags=("t",))

    def lead(self, key: str) -> None:
        """Begin to load a key, which takes a moment, and return once that is begun."""
        begun = threading.Event()

        def load() -> str:
            begun.set()
            time.sleep(0.02)
            return "value"

        threading.Thread(target=lambda: self.cache.get_or_load(key, load), daemon=True).start()
        begun.wait(SLOW)

    def wait(self, key: str) -> None:
        """Begin to get or load a key."""
        ended: list[float] = []

        def get() -> None:
            self.cache.get_or_load(key, lambda: "the other's")
            ended.append(self._now())

        thread = threading.Thread(target=get, daemon=True)
        thread.start()
        self._waits[key] = thread, ended

    def waited(self, key: str, since: float) -> float | None:
        """Return how long after an instant that wait has ended, in seconds; None if it has not, a second later."""
        thread, ended = self._waits.pop(key)
        thread.join(max(0.0, since + SLOW - self._now()))
        return ended[0] - since if ended else None

    def look(self, keys: list[str]) -> float | None:
        """Get or load some keys, and return how long that took in seconds; None if it takes more than a second."""
        since = self._now()
        for key in keys:
            self.wait(key)
        took = [self.waited(key, since) for key in keys]
        return None if None in took else max(took, default=0.0)

    # --- Interrupted

    def attempt(self, name: str, kind: str, unit: str, at: int, key: str) -> dict[str, Any]:
        """Make a call, and have something come at a point; return what came of it."""
        operation, found = OPERATIONS[name], list[str]()
        task: list[asyncio.Task[Any]] = []

        def come() -> None:
            faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)  # anew: from here
            os.ftruncate(2, 0)
            os.write(2, f"{points.where}\n".encode())  # in case that it hangs
            if kind in RAISING:
                interrupt(kind)
            elif kind == CANCEL:
                task[0].cancel()
            else:
                began = self._now()
                wrong = use(kind, self.cache, key)
                took = self._now() - began
                if wrong:
                    found.append(wrong)
                if took > SLOW:
                    found.append(f"{LATE}the handler's call took {took:.1f} s")

        points = Points(at, unit, come)
        operations.on_load[:] = [self._have_others_wait] if operation.awaited else []
        self._reported.clear()
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        raised: BaseException | None = None
        try:
            if operation.is_async:
                self._in_task(operation, key, points, task)
            else:
                points.trace(lambda: copy_context().run(operation.call, self.cache, key))
        except BaseException as error:
            raised = error
        ended = self._now()
        faulthandler.cancel_dump_traceback_later()
        found += self._judged(operation, kind, points, raised)
        raised = None
        task.clear()
        gc.collect(0)
        self._reported.clear()  # their traces keep the frames around the call, and so what it has used
        if points.came:
            found += self._left_behind_for_long()
        return {"came": points.came, "where": points.where, "passed": points.passed, "ended": ended, "found": found}

    def _have_others_wait(self) -> None:
        """In a loader: have others wait for it, and go on when they do."""
        _say({"event": "loading"})
        _unbuffered()
        host, ends = self._host(), self._now() + AWAITED
        while host is not None and self._now() < ends:
            if all(host.claims.is_awaited(load) for load in [*host.claims._loads.values()]):
                return
            time.sleep(0.001)

    def _in_task(self, operation: Operation, key: str, points: Points, task: list[asyncio.Task[Any]]) -> None:
        loop = self._loop_of_calls()

        async def call() -> None:
            task.append(asyncio.current_task())  # type: ignore[arg-type]
            await operation.call(self.cache, key)

        async def settle() -> None:
            for _ in range(3):
                await asyncio.sleep(0)

        try:
            points.trace(lambda: loop.run_until_complete(call()))
        finally:
            loop.run_until_complete(settle())

    def _loop_of_calls(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(lambda _, context: self._reported.append(context.get("exception")))
        return self._loop

    def _judged(self, operation: Operation, kind: str, points: Points, raised: BaseException | None) -> list[str]:
        """Return what is wrong with what a call has raised."""
        wanted: tuple[type[BaseException], ...] = ()
        if points.came and kind == CANCEL:
            wanted = (asyncio.CancelledError,)
        elif points.came and kind in RAISING:
            wanted = (RAISING[kind],)
        if wanted and not isinstance(raised, wanted) and not any(isinstance(each, wanted) for each in self._reported):
            return [f"{wanted[0].__name__} has not reached the caller, but {raised!r}"]
        if not wanted and raised is not None and not isinstance(raised, operation.may_raise):
            return [f"the call raised {raised!r}"]
        return []

    def _left_behind_for_long(self) -> list[str]:
        ends = self._now() + SOON
        while (left := self._left_behind()) and self._now() < ends:  # other threads of the cache may be at work
            time.sleep(0.001)
        return left

    def _left_behind(self) -> list[str]:
        """Return what this process has not given back, as far as it knows itself."""
        found, host, member = [], self._host(), self.cache._member
        if active():
            found.append("a load is still under way")
        if any(not each.is_over for each in [*member._joining.values()]):
            found.append("it is still joining")
        if regions._process._holds.is_stuck():
            found.append("the lock of joining is held")
        if host is None:
            return found
        claims, region = host.claims, host.region
        held = {
            "loads": claims._loads, "sleepers": claims._sleepers, "claims": region.claims._mine,
            "rings": region.rings._holds.held,
            "lanes": None if region.hosts is None else region.hosts.lanes._holds.held,
        }  # fmt: skip
        found += [f"{name} are held: {what}" for name, what in held.items() if what]
        if host.keeper._working.is_stuck():
            found.append("the keeper is working")
        return found

    def works(self, key: str) -> list[str]:
        """Use the cache until all is right, and return what is wrong a second later.

        Where there is another host, that may not have answered in time, if the machine is busy.
        """
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        ends = self._now() + SLOW
        found = self._used(key)
        while found and self.cache.hosts() and self._now() < ends:
            found = self._used(key)
        if self.cache.hosts():
            found = [f"{LATE}{each}" for each in found]
        if not found and self._now() > ends:
            found.append(f"{LATE}afterwards it takes more than {SLOW:.0f} s until the cache works")
        faulthandler.cancel_dump_traceback_later()
        return found

    def _used(self, key: str) -> list[str]:
        cache, found = self.cache, list[str]()

        def check(what: str, got: object, wanted: object) -> None:
            if got != wanted:
                found.append(f"afterwards {what} gives {got!r}, not {wanted!r}")

        check("set", cache.set(key, "set"), True)
        check("get", cache.get(key), "set")
        check("complete", cache.invalidate(key).complete, True)
        check("get", cache.get(key), None)
        check("get_or_load", cache.get_or_load(key, lambda: "loaded"), "loaded")
        check("get_or_load", cache.get_or_load(key, lambda: "once more"), "loaded")
        check("complete", cache.invalidate(key).complete, True)
        check("incr", cache.incr(key, initial=41), 42)
        check("complete", cache.invalidate(key).complete, True)
        return found

    def key(self, number: int, far: bool) -> str:
        """Return a key that another host owns, or this one, if there are several."""
        host = self._host()
        if host is None or host.hosts is None:
            return f"key {number}"
        hosts = host.hosts
        return next(
            key for key in (f"key {number}.{more}" for more in range(1000))
            if (hosts.owner(wire(prefix(""), key)) is not None) is far
        )  # fmt: skip

    # --- Joining

    def measure(self) -> None:
        """Note what this process has open, an event loop for its calls among that."""
        self._loop_of_calls()
        self._before = _open_now()

    def remains(self, is_over: bool) -> list[str]:
        """Return what there is more than when it was measured, unless the process has joined, and it is not over."""
        ends, member = self._now() + SOON, self.cache._member
        while member._joining and self._now() < ends:  # by a thread of its own
            time.sleep(0.001)
        if not is_over and self._host() is not None:
            return []
        while (left := _open_now() - self._before) and self._now() < ends:
            time.sleep(0.005)
            gc.collect()  # what is mapped is kept as long as anything refers to it, and a thread may still leave
        found = [f"{what} is left" for what in sorted(left)]
        with open("/proc/locks") as lines:
            locks = [line for line in lines if f" {os.getpid()} " in line]
        return found + ([f"{len(locks)} locks of files are left"] if locks else [])

    def close(self) -> None:
        """Leave."""
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        self.cache.close()
        if self._loop is not None:
            self._loop.close()
        faulthandler.cancel_dump_traceback_later()

    def members(self, wanted: int) -> int:
        """Return how many processes there are on this host, once these are so many, or `SOON`."""
        ends = self._now() + SOON
        while len(self.cache.members()) != wanted and self._now() < ends:
            time.sleep(0.005)
        return len(self.cache.members())

    def _host(self) -> Host | None:
        host = self.cache._member.own_host()
        return host if host is not None and host.alive else None


def _open_now() -> set[str]:
    """Return the descriptors and threads of this process, as far as they can be told."""
    found = set[str]()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that with which the directory was read
            found.add(f"descriptor {number}, {os.readlink(f'/proc/self/fd/{number}')},")
    for number in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{number}/comm") as name:
            found.add(f"thread {number}, {name.read().strip()},")
    return found


def serve(lines: Callable[[], str]) -> None:
    """Carry out one order after another: a name and arguments; answer each with a line."""
    process = Process()
    while line := lines():
        name, *arguments = json.loads(line)
        if name == "fork":
            child = os.fork()
            if child == 0:
                process = Process()
                process.measure()
                _say("born")
                continue
            _say({"ended": os.waitpid(child, 0)[1]})
        elif name == "end":
            _say(None)
            os._exit(0)
        else:
            _say(getattr(process, name)(*arguments))


def _say(answer: object) -> None:
    os.write(1, json.dumps(answer, default=repr).encode() + b"\n")


def _unbuffered() -> str:
    """Read a line, and nothing behind it: that is for another process."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1)
        if not more:
            return ""
        line += more
    return line.decode()


if __name__ == "__main__":
    if "COLOCACHE_LISTEN" in os.environ:
        importlib.import_module("colocache.network")  # as applications import it once, before they fork
    if VARIABLE in os.environ:
        GUARDIANS[os.environ[VARIABLE]][0]()
    serve(_unbuffered)
