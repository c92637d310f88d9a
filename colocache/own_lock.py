"""A lock that a forked child does not find locked."""

from __future__ import annotations

import os
from threading import RLock
from typing import Any


class OwnLock:
    """A lock that may be taken again by its thread, and that each process has for itself: ``with own.lock: …``."""

    def __init__(self) -> None:
        self._locks: dict[tuple[int, int], Any] = {}

    @property
    def lock(self) -> Any:
        """The lock of this process."""
        process = os.getpid(), len(_forks)  # because a grandchild can get the pid of its dead grandparent
        lock = self._locks.get(process)
        return lock if lock is not None else self._locks.setdefault(process, RLock())


_forks: list[int] = []  # by which this process has come, as far as Python knows


def _after_fork() -> None:
    _forks.append(os.getpid())


os.register_at_fork(after_in_child=_after_fork)
