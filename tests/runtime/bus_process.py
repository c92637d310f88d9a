"""A process on the bus, for test_bus.py, which says what it is to do. Nothing but the bus is used of the package.

    python -m tests.runtime.bus_process DIRECTORY SEAT [gevent]

Each line of the standard input is a Python expression, and each line of the output the JSON of its value. All processes
map the file "town" in the directory: its word 0 is the version, and word 1 + n the name of the process on seat n.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.argv[3:] == ["gevent"]:
    import gevent.monkey

    gevent.monkey.patch_all()

import contextlib
import json
import mmap
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable

from colocache.runtime.bus import Bus, Message
from colocache.runtime.frames import EVERYTHING, KEYS, LOADED, NAMESPACES, TAGS  # noqa: F401
from colocache.runtime.logs import Log
from colocache.runtime.waiting.answers import Answer
from colocache.runtime.waiting.greenlets import HubErrands
from colocache.runtime.waiting.threads import ThreadErrands, hand_over, is_patched, on_driver_thread

SEATS = 500

files: list[int] = []


class Town:
    """Who is on which seat."""

    def __init__(self, directory: str) -> None:
        with open(f"{directory}/town", "r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 8 * (SEATS + 1))).cast("Q")

    def version(self) -> int:
        return self._words[0]

    def living(self) -> Iterable[tuple[int, int]]:
        return [(seat, name) for seat, name in enumerate(self._words[1:]) if name and name != end.name]

    def change(self, seat: int, name: int) -> None:
        """Have somebody come or go. Only one process at a time does this."""
        self._words[1 + seat] = name
        self._words[0] += 1


class End:
    """This process's end of the bus."""

    def __init__(self, town: Town, directory: str, seat: int) -> None:
        self.name = time.time_ns()
        self.heard: list[Message] = []
        self.answer = Answer()
        self.deaths: list[bool] = []  # whether finalizers ran in the bus's thread
        self.path = f"{directory}/{seat}.bus"
        errands = HubErrands() if is_patched() else ThreadErrands()
        self.bus = Bus(directory, seat, self.name, town, self.hear, Log("test"), errands)

    def hear(self, message: Message) -> None:
        self.heard.append(message)
        self.answer.give(message)
        dying = [Loud()]
        hand_over(dying.clear)

    def hashes(self, kind: int) -> list[int]:
        return sorted({hash for message in self.heard if message.kind == kind for hash in message.hashes})

    def kinds(self) -> list[int]:
        return sorted({message.kind for message in self.heard})


class Loud:
    """Something whose finalizer tells where it runs."""

    def __del__(self) -> None:
        end.deaths.append(on_driver_thread())


def until(condition: Callable[[], object]) -> bool:
    """Wait for a condition."""
    ends = time.monotonic() + 30
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.001)
    return True


def begin(seat: int) -> bool:
    """Start the bus, and return once it hears."""
    started = end.bus.start()
    return started and until(lambda: end.bus._ear is not None) and town.change(seat, end.name) is None


def compute() -> None:
    """From now on, have a thread keep the interpreter busy."""

    def work() -> None:
        while True:
            pass

    threading.Thread(target=work, daemon=True).start()


def waiting_greenlets_let_others_run() -> bool:
    """Have a greenlet wait for what is heard next, and return whether another one ran meanwhile."""
    end.answer = Answer()
    waiter = gevent.spawn(end.answer.result, 30)
    gevent.sleep(0.01)
    assert not waiter.ready()
    print(json.dumps("waits"), flush=True)
    waiter.join()
    return waiter.value == end.heard[-1]


def fork(seat: int) -> int:
    """Have a child that joins on another seat and says 7. Return how it ended."""
    global end
    child = os.fork()
    if not child:
        signal.alarm(30)
        end.bus.forget_after_fork()
        end = End(town, sys.argv[1], seat)
        done = begin(seat) and until(lambda: end.bus.wake(7) or len(reached()) == 2)
        end.bus.wake(7)
        os._exit(0 if done and end.bus.close(30) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def leave_descriptors(count: int) -> None:
    """Have this process have about so many descriptors left."""
    files.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[-1] + 1 + count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def use_up_descriptors() -> None:
    """Open files until no more can be opened."""
    with contextlib.suppress(OSError):
        while True:
            files.append(os.dup(0))


def reached() -> set[int]:
    """Return the names of those who hear what this process says."""
    mouth = end.bus._mouth
    return set() if mouth is None else mouth.reached & {name for _, name in town.living()}


def memory() -> int:
    """Return how many bytes this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


if __name__ == "__main__":
    town = Town(sys.argv[1])
    end = End(town, sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        print(json.dumps(eval(line)), flush=True)
