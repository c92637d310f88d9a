"""Threads of the system: how they start, how they wait, and what a driver's thread leaves to others.

Where gevent has patched `threading`, its threads are greenlets, and its locks are greenlets' locks. A driver's thread
is started past the patch. As a greenlet it would wait in the kernel, and all other greenlets would wait with it.
"""

from __future__ import annotations

import _thread
import errno
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic, sleep
from typing import Any, Protocol, TypeVar

from ...interruptions import pass_over, raise_if_from_handler

T = TypeVar("T")

#: What registers a waker: a function that is called once the answer is there, and perhaps once more.
Register = Callable[[Callable[[], object]], None]

MOST_ERRANDS = 1000  # that wait; of more, the oldest are dropped
PAUSE = 0.001  # s between two looks at something that another thread or greenlet is about to finish


def genuine(name: str) -> Any:
    """Return something of Python's own `_thread`, also where gevent has put a double in its place."""
    monkey = sys.modules.get("gevent.monkey")
    return getattr(_thread, name) if monkey is None else monkey.get_original("_thread", name)


# Taken here, they stay genuine when gevent patches later.
allocate_lock, _start_new_thread, here = genuine("allocate_lock"), genuine("start_new_thread"), genuine("_local")()

thread_id: Callable[[], int] = genuine("get_ident")

#: A lock that its thread may take again. It is written in C, so ``with`` takes it in one step, and no signal handler
#: can run between taking it and being sure to give it back.
RLock = genuine("RLock")


class NoThread(OSError):
    """The system, or Python at its end, starts no more threads."""


class Errands(Protocol):
    """What a driver's thread has others do, because it runs code of users: log handlers, and finalizers."""

    def run(self, errand: Callable[[], object]) -> None:
        """Have something done soon."""

    def write(self, line: Callable[[], object]) -> None:
        """Have a line of the log written soon. A log handler that waits keeps no errand waiting."""

    def finish(self, patience: float) -> None:
        """Return when everything is done, or after ``patience`` seconds. Not for the driver's thread."""


class ThreadErrands:
    """Errands that short-lived threads do, one after another; another one writes the lines of the log."""

    def __init__(self) -> None:
        self._others, self._lines = Queue("errands of colocache"), Queue("log lines of colocache")

    def run(self, errand: Callable[[], object]) -> None:
        """Have something done soon."""
        self._others.add(errand)

    def write(self, line: Callable[[], object]) -> None:
        """Have a line of the log written soon. A log handler that waits keeps no errand waiting."""
        self._lines.add(line)

    def finish(self, patience: float) -> None:
        """Return when everything is done, or after ``patience`` seconds. Not for the driver's thread.

        At the end of the process, the thread must not be in the middle of a line: Python aborts if a thread holds the
        lock of a standard stream then.
        """
        ends = monotonic() + patience
        for queue in (self._others, self._lines):
            queue.finish(ends)


class Queue:
    """What is done by one thread at a time, one after another. Any thread, or finalizer, may add to it."""

    def __init__(self, name: str, most: int | None = MOST_ERRANDS) -> None:
        """``name`` is that of the threads. ``most`` may wait; of more, the oldest are dropped."""
        self._name = name
        self._errands: deque[Callable[[], object]] = deque(maxlen=most)
        self._duty = deque([None])  # the thread that takes it out does the errands, and puts it back

    def add(self, errand: Callable[[], object]) -> None:
        """Have something done soon."""
        self._errands.append(errand)
        self._start()

    def _start(self) -> None:
        if self._duty:
            # If that fails, the next call tries again, and `finish` does what is left.
            start_at_once(self._work, self._name, lambda _: None)

    def finish(self, ends: float) -> None:
        """Do what is left, and return when nothing is under way, or at that instant on the monotonic clock."""
        self._work()
        while not self._duty and monotonic() < ends:
            sleep(PAUSE)

    def _work(self) -> None:
        """Do the errands, unless another thread does.

        The duty is given back before the last look at the queue:

        1. this thread finds the queue empty;
        2. the driver's thread appends an errand, and finds that the duty is taken;
        3. this thread gives the duty back, and looks again.
        """
        while self._errands and list(drained(self._duty)):
            is_done = False
            try:
                for errand in drained(self._errands):
                    errand()
                is_done = True
            finally:
                self._duty.append(None)
                if self._errands and not is_done:  # one has raised: that ends this thread, and not the others' turn
                    self._start()


def genuine_poll() -> Any:
    """Return a poll object of the system, also where gevent has put a double in its place."""
    monkey = sys.modules.get("gevent.monkey")
    return select.poll() if monkey is None else monkey.get_original("select", "poll")()


def drained(queue: deque[T]) -> Iterator[T]:
    """Take the members of a queue out, one by one, until it is empty. Other threads may do the same meanwhile."""
    while queue:
        try:
            first = queue.popleft()
        except IndexError as error:  # another thread was faster
            raise_if_from_handler(error)
            return
        yield first


def is_patched() -> bool:
    """Tell whether gevent has made the threads of this process greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def start(work: Callable[[], None], name: str) -> None:
    """Start a thread of the system, from a thread in which no signal handlers run. Raise NoThread if that fails.

    `threading` starts a thread in several steps. If a signal handler raises between them, KeyError can come out.
    """
    with _no_thread(name):
        if is_patched():
            _start_new_thread(work, ())
        else:
            threading.Thread(target=work, name=name, daemon=True).start()


def can_start(count: int) -> bool:
    """Tell whether so many threads of the system can run beside those that do. It starts them, and they end at once.

    For what starts threads of its own, and ends the process if it cannot.
    """
    gate, ended = allocate_lock(), list[None]()
    gate.acquire()

    def pass_by() -> None:
        with gate:
            ended.append(None)

    started = 0
    try:
        for _ in range(count):
            _start_new_thread(pass_by, ())
            started += 1
    except RuntimeError as error:
        raise_if_from_handler(error)
    finally:
        gate.release()
    while len(ended) < started:
        sleep(PAUSE)
    return started == count


def start_at_once(work: Callable[[], None], name: str, failed: Callable[[NoThread], object]) -> None:
    """Start a thread in one step, which no signal handler can interrupt; ``failed`` is told if that fails.

    A finalizer may do this anywhere, also where its thread has a lock of `threading`.
    """

    def start_under_its_name() -> None:
        try:
            start(work, name)
        except NoThread as error:
            failed(error)
        except MemoryError:  # at any step: who waits for this thread must hear of it
            failed(_no_memory(name))

    try:
        with _no_thread(name):
            _start_new_thread(start_under_its_name, ())
    except NoThread as error:
        failed(error)


def start_driver(work: Callable[[], None], name: str, errands: Errands, failed: Callable[[NoThread], object]) -> None:
    """Start a driver's thread as `start_at_once` does."""

    def run() -> None:
        be_a_driver(errands)
        work()

    start_at_once(run, name, failed)


def start_helper(work: Callable[[], None], name: str) -> None:
    """Start a thread for a driver's, which calls this, and have it count as one, too. Raise NoThread if that fails."""
    errands: Errands | None = getattr(here, "errands", None)

    def run() -> None:
        if errands is not None:
            be_a_driver(errands)
        work()

    start(run, name)


def be_a_driver(errands: Errands) -> None:
    """Have this thread count as a driver's from now on: no code of users runs in it, as far as that can be helped.

    What `threading.settrace` and `threading.setprofile` have set is code of users, too. It could raise, or wait.
    """
    sys.settrace(None)
    sys.setprofile(None)
    here.errands = errands


@contextmanager
def _no_thread(name: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "can't start new thread" not in str(error) and "at interpreter shutdown" not in str(error):
            raise  # a signal handler of the application has raised it
        raise NoThread(errno.EAGAIN, f"the thread {name!r} cannot be started: {error}") from None
    except MemoryError as error:  # `threading` needs some for each thread
        raise_if_from_handler(error)
        raise _no_memory(name) from None


def _no_memory(name: str) -> NoThread:
    return NoThread(errno.ENOMEM, f"the thread {name!r} cannot be started: there is not enough memory")


def on_driver_thread() -> bool:
    """Tell whether this is a driver's thread. It must not wait: a finalizer that uses the cache can run in it."""
    return hasattr(here, "errands")


def may_not_wait() -> bool:
    """Tell whether nobody may wait here for another thread.

    On a driver's thread others would wait, too. And while the interpreter ends, and Python calls the last finalizers,
    no other thread runs any more: none would ever come.
    """
    return sys.is_finalizing() or on_driver_thread()


def hand_over(errand: Callable[[], object]) -> bool:
    """On a driver's thread, have something done elsewhere. Elsewhere return False: the caller does it itself."""
    errands: Errands | None = getattr(here, "errands", None)
    if errands is None:
        return False
    errands.run(errand)
    return True


def hand_over_line(line: Callable[[], object]) -> bool:
    """Do the same with a line of the log."""
    errands: Errands | None = getattr(here, "errands", None)
    if errands is None:
        return False
    errands.write(line)
    return True


def wait(register: Register, timeout: float) -> None:
    """Wait in this thread until the waker is called, for ``timeout`` seconds at most."""
    lock = allocate_lock()
    lock.acquire()
    register(partial(_release, lock))
    lock.acquire(True, min(timeout, _thread.TIMEOUT_MAX))


def _release(lock: _thread.LockType) -> None:
    with pass_over(RuntimeError):  # the second time
        lock.release()
