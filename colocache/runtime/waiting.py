"""How the bus thread is started, and how threads, tasks and greenlets wait for what it answers.

Where gevent has patched `threading`, its threads are greenlets, and its locks greenlets' locks. There the bus thread is
started past the patch: as a greenlet it would wait in the kernel, and every other one with it. And a greenlet that
waits for it waits on its own hub, which the bus thread wakes by the one kind of watcher that is made for other threads,
so that the hub goes on with its other greenlets.

Nothing here takes a lock that another thread, or greenlet, could be holding while it waits: an answer is a list to
which the outcome is appended, and a deque of those to be woken.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

PAUSE = 0.001  # s between two looks at a lock that somebody has

#: What a wait gives that took too long. Not an exception: a signal handler of the application may raise TimeoutError
#: in whoever waits, and that is the application's.
TOO_LATE: Final = object()


def _genuine(name: str) -> Any:
    """Return something of Python's own `_thread`, also where gevent has put a double in its place."""
    monkey = sys.modules.get("gevent.monkey")
    return getattr(_thread, name) if monkey is None else monkey.get_original("_thread", name)


# Taken here, they stay genuine when gevent patches later.
_allocate_lock, _start_new_thread, _here = _genuine("allocate_lock"), _genuine("start_new_thread"), _genuine("_local")()

thread_id: Callable[[], int] = _genuine("get_ident")

#: A lock that its thread may take again. It is written in C, so ``with`` takes and keeps it in one step: no signal
#: handler comes in between.
RLock = _genuine("RLock")


class Answer:
    """What the bus thread will say, once; any number of threads, tasks and greenlets may wait for it."""

    __slots__ = ("_given", "_wakers")

    def __init__(self) -> None:
        self._given: list[Any] = []  # the first one counts
        self._wakers: deque[Callable[[], object]] = deque()

    def give(self, outcome: Any) -> None:
        """Answer, and wake those who wait. From any thread, signal handler or finalizer; a second one is ignored."""
        self._given.append(outcome)
        self._wake()

    def result(self, timeout: float) -> Any:
        """Wait in this thread, or greenlet, and return the outcome; `TOO_LATE` after so many seconds."""
        if not self._given:
            hub = _hub()
            if hub is None:
                self._wait_in_thread(timeout)
            else:
                self._wait_on(hub, timeout)
        return self._given[0] if self._given else TOO_LATE

    async def awaited(self, timeout: float) -> Any:
        """Wait in this task, and return the outcome; `TOO_LATE` after so many seconds."""
        if not self._given:
            import asyncio  # here, so that sync programs do not pay for its import

            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._call(partial(_end, loop, future))
            # Not wait_for: until Python 3.12 it swallows a cancellation that comes together with the answer.
            too_late = loop.call_later(timeout, _wake, future)
            try:
                await future
            finally:
                too_late.cancel()
        return self._given[0] if self._given else TOO_LATE

    def _call(self, waker: Callable[[], object]) -> None:
        """Have it called when the answer is there. Both sides do their own first, then look at the other's."""
        self._wakers.append(waker)
        if self._given:
            self._wake()

    def _wake(self) -> None:
        for waker in drained(self._wakers):
            waker()

    def _wait_in_thread(self, timeout: float) -> None:
        lock = _allocate_lock()
        lock.acquire()
        self._call(lock.release)
        lock.acquire(True, min(timeout, _thread.TIMEOUT_MAX))

    def _wait_on(self, hub: Any, timeout: float) -> None:
        waiter = sys.modules["gevent.hub"].Waiter(hub)
        bell = _bell(hub)
        self._call(lambda: bell.ring(lambda: waiter.switch(None)))
        with sys.modules["gevent"].Timeout(timeout, False):
            waiter.get()


class Asked(Answer):
    """The answer to one call, for one waiter."""

    __slots__ = ("ticket",)

    def __init__(self) -> None:
        super().__init__()
        self.ticket = 0  # given when the call is taken up


def drained(queue: deque[T]) -> Iterator[T]:
    """Take the members of a queue out, one by one, until it is empty; other threads may do the same meanwhile."""
    while queue:
        try:
            first = queue.popleft()
        except IndexError:  # another thread was faster
            return
        yield first


class _Bell:
    """Has a hub do something, from any thread. One for each hub; made, and heard, in the thread of that.

    Not `run_callback_threadsafe`: it counts up how many reasons the loop has to go on, while the loop, which does not
    hold the interpreter lock meanwhile, counts down. A step gets lost, and some time later the loop ends though
    greenlets wait: LoopExit (gevent 26.9, after some 30,000 calls).
    """

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._watcher = loop.async_(ref=False)
        self._watcher.start(self._hear)

    def ring(self, call: Callable[[], object]) -> bool:
        """Have it called in the hub; False if that is gone, with all its greenlets."""
        self._calls.append(call)
        try:
            self._watcher.send()
        except Exception:
            return False
        return True

    def _hear(self) -> None:
        while self._calls:
            self._calls.popleft()()


class Lock:
    """For what takes a moment, as joining does: ``with lock.when_free():``.

    What the statement enters is Python's own lock, whose methods no signal handler can interrupt. Between a lock that a
    method in Python has taken and the statement that is to give it back, a handler could raise, and nobody would.

    A greenlet that finds it taken lets the others run meanwhile:

    1. a greenlet has the lock, and has to let others run, for the sake of a log handler; 2. another one wants it, and
    waits in the kernel; 3. the first one never runs again.
    """

    def __init__(self) -> None:
        self._lock: _thread.LockType = _allocate_lock()

    def when_free(self) -> _thread.LockType:
        """Return what is to be entered. No other greenlet of this thread has it, or can take it before."""
        if self._lock.locked() and _hub() is not None:
            while self._lock.locked():
                sys.modules["gevent"].sleep(PAUSE)
        return self._lock


def let_others_run_while(condition: Callable[[], bool]) -> None:
    """In a greenlet, let the others run until something is over that one of them is at; in a thread, do nothing."""
    while condition() and _hub() is not None:
        sys.modules["gevent"].sleep(PAUSE)


def start_thread(work: Callable[[], None], name: str) -> None:
    """Start a thread of the system's. Raises OSError if the system has none left."""
    bell = _bell(sys.modules["gevent"].get_hub()) if is_patched() else None

    def run() -> None:
        _here.starter = bell
        work()

    try:
        if bell is None:
            threading.Thread(target=run, name=name, daemon=True).start()
        else:
            _start_new_thread(run, ())
    except RuntimeError as error:  # what Python makes of it
        raise OSError(errno.EAGAIN, f"the thread {name!r} cannot be started: {error}") from error


def hand_over(work: Callable[[], object]) -> bool:
    """Have a greenlet of the hub that started this thread do something; False where there is none, or no more."""
    bell = getattr(_here, "starter", None)
    return bell is not None and bell.ring(lambda: sys.modules["gevent"].spawn(work))


def is_patched() -> bool:
    """Whether gevent has made the threads of this process greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def on_hub() -> bool:
    """Whether this is a callback of gevent's hub, which must not wait, for it is the one that wakes who waits."""
    return is_patched() and not _is_ours() and _is_current(sys.modules["gevent"].get_hub())


def _hub() -> Any:
    """Return the hub of gevent on which the caller is to wait; None if it is to wait in the kernel."""
    if not is_patched() or _is_ours():
        return None
    hub = sys.modules["gevent"].get_hub()
    return None if _is_current(hub) else hub


def _bell(hub: Any) -> _Bell:
    """Return the bell of this thread's hub."""
    bell: _Bell | None = getattr(_here, "bell", None)
    if bell is None or bell.loop is not hub.loop:
        bell = _here.bell = _Bell(hub.loop)
    return bell


def _is_ours() -> bool:
    return hasattr(_here, "starter")


def _is_current(hub: Any) -> bool:
    return sys.modules["gevent"].getcurrent() is hub


def _end(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
        loop.call_soon_threadsafe(_wake, future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():  # cancelled, or out of time
        future.set_result(None)
