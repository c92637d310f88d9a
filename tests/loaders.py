"""Loaders of values, and where they run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def never() -> Any:
    """Fail, because the value must be there: a loader that must not be called."""
    raise AssertionError("loaded")


def counted(value: Any) -> tuple[Callable[[], Any], list[Any]]:
    """Return a loader of a value, and the list to which it adds at each call."""
    calls: list[Any] = []

    def loader() -> Any:
        calls.append(value)
        return value

    return loader, calls


def elsewhere(work: Callable[[], object]) -> None:
    """Do something in another thread, and wait for it: the thread of an event loop cannot wait for itself."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
