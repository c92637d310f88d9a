"""What some servers do to a process: they give Python no threads, or fork past Python's hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..errors import ConfigError


def check_threads() -> None:
    """Raise ConfigError if the server gives a thread no chance to run. Otherwise the process would hang."""
    uwsgi = sys.modules.get("uwsgi")  # only in a uWSGI server
    if uwsgi is not None and not getattr(uwsgi, "has_threads", True):
        raise ConfigError(
            "this uWSGI runs no threads of Python, and the cache needs one: start it with --enable-threads (in an ini "
            "file: enable-threads = true), or set COLOCACHE_DISABLED=true"
        )
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        raise ConfigError(
            "eventlet has made the threads of this process greenlets, and the cache needs a real one: use gevent or "
            "threads, or set COLOCACHE_DISABLED=true"
        )


def call_after_fork(forget: Callable[[], None]) -> None:
    """Have something called in children that uWSGI forks. For all others there is `os.register_at_fork`.

    The pid tells of a fork past Python's hooks when the cache is used. But a hit does not look at the pid.
    """
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None:
        hook = getattr(uwsgi, "post_fork_hook", None)
        if not isinstance(hook, _Hook):  # at first, or after an import of uwsgidecorators, which replaces it
            uwsgi.post_fork_hook = hook = _Hook(hook)  # type: ignore[attr-defined]
        if forget not in hook.calls:
            hook.calls.append(forget)


class _Hook:
    """What uWSGI calls in a child: the calls of this package, and then the hook that was there before."""

    def __init__(self, before: Callable[[], None] | None) -> None:
        self._before = before
        self.calls: list[Callable[[], None]] = []

    def __call__(self) -> None:
        for call in self.calls:
            call()
        if self._before is not None:
            self._before()
