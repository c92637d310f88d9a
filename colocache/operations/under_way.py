"""Which loads are under way that this code is a part of, so that no load waits for itself.

The context tells the loads under way to everything that a loader starts. The caller of a load waits for it, unless the
load is detached. So it is known who waits for whom, and whether a load would wait for itself.
"""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar

#: Loads of one key that may run inside each other. There can be two where the outer one's value is void already.
MAX_NESTED = 3

LoadId = tuple[int, bytes]  # what is loaded: a cache's serial number, and a wire key


class UnderWay:
    """A load, while its loader runs."""

    def __init__(self, load_id: LoadId) -> None:
        self.load_id = load_id
        self.caller: object = runner()  # the thread, task or greenlet that waits for it; None once there is none
        # The one that loads; None before and after. If it were left here, the thread's next load of the key would be
        # taken for one inside this.
        self.runner: object = None

    def age(self, loaded: float) -> None:
        """Note that the loader was given a cached value that was loaded then."""

    def begin(self) -> None:
        """Note that the loader is about to be called here."""
        _loads.set((*active(), self))
        self.runner = runner()

    def end(self) -> None:
        """Note that the loader has ended. It may be called twice."""
        self.runner = self.caller = None
        _loads.set(tuple(load for load in _loads.get() if load is not self))


_loads: ContextVar[tuple[UnderWay, ...]] = ContextVar("colocache_loads", default=())


def active() -> tuple[UnderWay, ...]:
    """Return the loads under way that this thread or task is a part of, or was started by; the outermost first."""
    return tuple(load for load in _loads.get() if load.runner is not None)


def runner() -> object:
    """Return what tells this thread, task or greenlet from all others that run now."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return asyncio.current_task() or object()  # in a callback of the loop, which nobody waits for
    return threading.get_ident()  # under gevent a greenlet's


def is_circle(load_id: LoadId) -> bool:
    """Tell whether a load of a key would certainly wait for itself, or is nested too deep to be anything else."""
    return _waits_for_itself(load_id) or loads_above(load_id) >= MAX_NESTED


def loads_above(load_id: LoadId) -> int:
    """Return how many loads of a key are under way that have, directly or not, started this thread or task."""
    return sum(load.load_id == load_id for load in active())


def _waits_for_itself(load_id: LoadId) -> bool:
    """Tell whether a load of a key waits for this thread or task: it runs the load, or one that does, and so on."""
    waiting = runner()
    for load in reversed(active()):
        if load.runner != waiting:  # it has started this task, or one that has; whether it waits nobody knows
            return False
        if load.load_id == load_id:
            return True
        waiting = load.caller
    return False
