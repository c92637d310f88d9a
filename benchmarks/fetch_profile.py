"""Where does the time of one fetch go?

    python -m benchmarks.fetch_profile        or: python -m benchmarks.fetch --profile

There is a group of two processes. One thread of one process reads keys of 1 KiB, which the other process owns. Nothing
else happens. The program prints

1. what the kernel says of each thread of both processes (Linux only): the processor time per fetch, and how often the
   thread went to sleep and was woken, which is what a hand-over costs. The driver's thread and libzmq's I/O thread of
   each process take part, and the thread that reads;
2. what is possible: the same question and answer, not encoded, on a bare Unix socket, between two ZeroMQ sockets, and
   between two ZeroMQ sockets with a hand-over to a thread of their own on the asking side;
3. what Python does in the thread that reads and in both drivers' threads, by cProfile: microseconds of the thread's
   processor time, without its waits, and calls per fetch. The profiler makes calls look two to five times as expensive
   as they are, and small ones most of all. The figures of step 1 are right.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import shutil
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import Any

import zmq

from benchmarks.fetch import ASKER, KEYS, SIZES, record
from benchmarks.group import Group, Member, together

SIZE, COUNT = "1 KiB", 2000
LINES = 32  # of each profile
Usage = dict[str, tuple[float, int]]  # thread to seconds of processor, and times that it went to sleep


class Subject(Member):
    """A process that is measured."""

    def store(self) -> None:
        """Have the other process hold the values."""
        names = self.owned_elsewhere(KEYS[SIZE], "key")
        self.cache.set_many({key: record(number, SIZES[SIZE]) for number, key in enumerate(names)})
        self._keys = chain.from_iterable(iter(lambda: names, None))

    def fetch(self, count: int) -> float:
        """Read so many keys; return the median of what each took, in seconds."""
        get, took = self.cache.get, []
        for key in islice(self._keys, count):
            began = perf_counter()
            get(key)
            took.append(perf_counter() - began)
        return median(took)

    def usage(self) -> Usage:
        """Return what each thread has used so far."""
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        found: Usage = {}
        for task in Path("/proc/self/task").iterdir():
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            name = names.get(int(task.name), status["Name"].strip())
            run = int((task / "schedstat").read_text().split()[0])
            found[name] = run / 1e9, int(status["voluntary_ctxt_switches"])
        return found

    def watch_driver(self) -> None:
        """Begin to profile the driver's thread."""
        self._profile = cProfile.Profile(thread_time)
        self._in_driver(self._profile.enable)

    def seen_in_driver(self, count: int) -> str:
        """Return what the driver's thread did since `watch_driver`, per fetch."""
        self._in_driver(self._profile.disable)
        return _told(self._profile, count)

    def fetch_watched(self, count: int) -> str:
        """Read so many keys; return what this thread did, per fetch."""
        profile = cProfile.Profile(thread_time)
        profile.enable()
        self.fetch(count)
        profile.disable()
        return _told(profile, count)

    def _in_driver(self, do: Callable[[], None]) -> None:
        driver = self.cache._member.join()
        assert driver is not None
        done: Future[None] = Future()

        def carry_out(peer: Any, now: float) -> None:
            do()
            done.set_result(None)

        driver.tell(carry_out)
        done.result(10)


def _told(profile: cProfile.Profile, count: int) -> str:
    """Return a profile as text: the functions that take most time themselves."""
    rows: list[tuple[float, float, float, str]] = []
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, line, name), (_, calls, own, cumulative, _) in stats.items():
        where = name if file == "~" else f"{Path(file).name}:{line} {name}"
        rows.append((own / count * 1e6, cumulative / count * 1e6, calls / count, where))
    lines = [f"{own:9.2f} {cumulative:9.2f} {calls:7.2f}  {where[:80]}"
             for own, cumulative, calls, where in sorted(rows, reverse=True)[:LINES]]  # fmt: skip
    total = sum(own for own, *_ in rows)
    return "\n".join([f"{'own us':>9} {'with all':>9} {'calls':>7}  of {total:.0f} us per fetch", *lines])


# --- What is possible


def _echo_bare(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        connection, _ = listener.accept()
        with connection:
            while connection.recv(4096):
                connection.sendall(ANSWER)


def _echo_zmq(path: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(f"ipc://{path}")
        while (frames := router.recv_multipart())[-1]:
            router.send_multipart((frames[0], ANSWER))


QUESTION, ANSWER = b"q" * 80, b"a" * 1100


def bare(path: str, count: int) -> list[float]:
    """Ask over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        _patiently(lambda: connection.connect(path))

        def ask() -> None:
            connection.sendall(QUESTION)
            connection.recv(4096)

        return _times(ask, count)


def zeromq(path: str, count: int) -> list[float]:
    """Ask from one ZeroMQ socket to another, each in its process's only thread."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"ipc://{path}")

        def ask() -> None:
            dealer.send(QUESTION)
            dealer.recv()

        times = _times(ask, count)
        dealer.send(b"")
        return times


def handed_over(path: str, count: int) -> list[float]:
    """The same, but one thread asks, by a queue and a pipe, and another one has the socket, and polls both."""
    source, sink = os.pipe()
    asked: deque[Future[bytes] | None] = deque()

    def serve() -> None:
        waiting: Future[bytes] | None = None
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.connect(f"ipc://{path}")
            poller = zmq.Poller()
            poller.register(source, zmq.POLLIN)
            poller.register(dealer, zmq.POLLIN)
            while True:
                ready = dict(poller.poll())
                if source in ready:
                    os.read(source, 4096)
                    waiting = asked.popleft()
                    dealer.send(QUESTION if waiting else b"")
                    if waiting is None:
                        return
                if dealer in ready and waiting is not None:
                    waiting.set_result(dealer.recv())

    def ask(wanted: bool = True) -> None:
        future: Future[bytes] = Future()
        asked.append(future if wanted else None)
        os.write(sink, b"!")
        if wanted:
            future.result(10)

    thread = threading.Thread(target=serve)
    thread.start()
    times = _times(ask, count)
    ask(wanted=False)
    thread.join()
    return times


FLOORS = {
    "a bare Unix socket": (_echo_bare, bare),
    "ZeroMQ, no hand-over": (_echo_zmq, zeromq),
    "ZeroMQ, handed over to a driver's thread by a pipe, and back by a Future": (_echo_zmq, handed_over),
}


def floors(count: int) -> None:
    """Measure what is possible, and print it."""
    directory = Path(tempfile.mkdtemp(prefix="bench"))
    for number, (name, (echo, ask)) in enumerate(FLOORS.items()):
        path = str(directory / str(number))
        answering = get_context("spawn").Process(target=echo, args=(path,), daemon=True)
        answering.start()
        print(f"{median(ask(path, count)) * 1e6:8.1f} us  {name}")
        answering.join(10)
    shutil.rmtree(directory)


def _times(ask: Callable[[], None], count: int) -> list[float]:
    took = []
    for _ in range(count):
        began = perf_counter()
        ask()
        took.append(perf_counter() - began)
    return took[count // 10 :]


def _patiently(connect: Callable[[], None]) -> None:
    ends = perf_counter() + 10
    while True:
        try:
            return connect()
        except OSError:
            if perf_counter() > ends:
                raise


# --- All of it


def usages(before: Usage, after: Usage) -> None:
    """Print what each thread of a process used per fetch."""
    for name, (run, sleeps) in sorted(after.items()):
        ran, slept = before.get(name, (0.0, 0))
        if sleeps - slept > COUNT / 100:
            used = f"{(run - ran) / COUNT * 1e6:7.1f} us of processor"
            print(f"    {name[:30]:30} {used}, {(sleeps - slept) / COUNT:5.2f} sleeps")


def profile() -> None:
    """Measure all of it, and print it."""
    with Group() as group:
        [asker] = group.start(Subject, memory=ASKER)
        [owner] = group.start(Subject)
        asker.call("store")
        asker.call("fetch", COUNT)
        before = together((asker, owner), "usage")
        took = asker.call("fetch", COUNT)
        after = together((asker, owner), "usage")
        print(f"one fetch of {SIZE}: {took * 1e6:.1f} us, median of {COUNT}")
        for name, old, new in zip(("the process that asks", "the owner"), before, after, strict=True):
            print(f"  {name}, per fetch:")
            usages(old, new)
        print("what is possible, not encoded:")
        floors(COUNT)
        together((asker, owner), "watch_driver")
        print(f"\nthe asking thread\n{asker.call('fetch_watched', COUNT)}")
        for name, seen in zip(("asker", "owner"), together((asker, owner), "seen_in_driver", COUNT), strict=True):
            print(f"\nthe driver's thread of the {name}\n{seen}")


if __name__ == "__main__":
    profile()
