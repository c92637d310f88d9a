"""What a fork must find whole.

In a child there is one thread: the one that has forked. What another thread had begun nobody ends. So `Undivided` holds
forks off during a few steps that leave something behind if only half of them is done. Forks that go past Python's hooks
are not held off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from .waiting.threads import RLock, here

PATIENCE = 5.0  # s that a fork is held off, at most


class Undivided:
    """Steps that no fork divides, unless the thread forks that does them: ``with undivided.lock: …``."""

    def __init__(self) -> None:
        self.lock = RLock()  #: another one in a child
        _all.append(self)


def do_all(steps: Iterable[Callable[[], object]]) -> None:
    """Take all steps, also if some fail, and then raise what the first of these has raised."""
    errors: list[BaseException] = []
    for step in steps:
        try:
            step()
        except BaseException as error:  # of a signal handler, for example
            errors.append(error)
    if errors:
        raise errors[0]


_all: list[Undivided] = []


def _before_fork() -> None:
    here.held_for_fork = [lock for lock in [each.lock for each in _all] if lock.acquire(True, PATIENCE)]


def _after_fork() -> None:
    while here.held_for_fork:
        here.held_for_fork.pop().release()


def _after_fork_in_child() -> None:
    for each in _all:
        each.lock = RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)

#: The steps from opening a file until it is known that a child has to close it; see `colocache.runtime.files.Held`.
opening = Undivided()

#: The thread that joins imports zmq. A fork at that moment would leave its child an import that nobody ends, and the
#: child would wait for ever when it imports zmq itself.
importing = Undivided()
