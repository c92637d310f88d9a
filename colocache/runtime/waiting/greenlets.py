"""Greenlets of gevent: how they wait, and what they do for a driver's thread.

A greenlet that waits for a driver's thread waits on its own hub. The driver's thread wakes the hub by the one kind of
watcher that is made for other threads. Meanwhile the hub runs its other greenlets.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from ...interruptions import raise_if_from_handler
from .threads import Register, here, is_patched, on_driver_thread


class HubWaker:
    """Has a hub call something, from any thread. There is one for each hub, made in the hub's own thread.

    It does not use `run_callback_threadsafe`. That counts up how many reasons the loop has to go on, while the loop,
    which does not hold the interpreter lock meanwhile, counts down. A step is lost. Some time later the loop ends
    although greenlets wait: LoopExit (gevent 26.9, after some 30,000 calls).
    """

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._watcher = loop.async_(ref=False)
        self._watcher.start(self._on_wake)

    def call(self, work: Callable[[], object]) -> None:
        """Have something called in the hub. If the hub is gone, its greenlets are, too, and nobody misses the call."""
        self._calls.append(work)
        try:
            self._watcher.send()
        except Exception as error:
            raise_if_from_handler(error)
            self._calls.clear()

    def _on_wake(self) -> None:
        while self._calls:
            self._calls.popleft()()


class HubErrands:
    """Errands that greenlets do, of the hub that the driver's thread was started from.

    gevent has patched the locks of the log handlers. A driver's thread must not wait for them: while greenlets take a
    lock by turns, a thread that wants it may never get it, and its process hears nothing any more.
    """

    def __init__(self) -> None:
        self._waker = _hub_waker(sys.modules["gevent"].get_hub())

    def run(self, errand: Callable[[], object]) -> None:
        """Have something done soon."""
        self._waker.call(lambda: sys.modules["gevent"].spawn(errand))

    def write(self, line: Callable[[], object]) -> None:
        """Have a line of the log written soon."""
        self.run(line)

    def finish(self, patience: float) -> None:
        """Return at once: the hub does what is left when this greenlet lets it run."""


def on_hub() -> bool:
    """Tell whether this is a callback of gevent's hub. It must not wait, because the hub wakes those that wait."""
    return is_patched() and not on_driver_thread() and _is_current(sys.modules["gevent"].get_hub())


def hub_to_wait_on() -> Any:
    """Return the hub of gevent on which the caller is to wait, or None if it is to wait in the kernel."""
    if not is_patched() or on_driver_thread():
        return None
    hub = sys.modules["gevent"].get_hub()
    return None if _is_current(hub) else hub


def wait(register: Register, timeout: float) -> None:
    """Wait in this greenlet until the waker is called, for ``timeout`` seconds at most."""
    hub = sys.modules["gevent"].get_hub()
    waiter = sys.modules["gevent.hub"].Waiter(hub)
    waker = _hub_waker(hub)
    register(lambda: waker.call(lambda: waiter.switch(None)))
    with sys.modules["gevent"].Timeout(timeout, False):
        waiter.get()


def _hub_waker(hub: Any) -> HubWaker:
    """Return the waker of this thread's hub."""
    waker: HubWaker | None = getattr(here, "hub_waker", None)
    if waker is None or waker.loop is not hub.loop:
        waker = here.hub_waker = HubWaker(hub.loop)
    return waker


def _is_current(hub: Any) -> bool:
    return sys.modules["gevent"].getcurrent() is hub
