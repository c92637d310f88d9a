"""What some servers do to a process: they give Python no threads, or fork past Python's hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..errors import ConfigError


def why_no_threads() -> str:
    """Return why a thread of this package would get no chance to run in this server, or an empty text."""
    uwsgi = sys.modules.get("uwsgi")  # only in a uWSGI server
    if uwsgi is not None and not getattr(uwsgi, "has_threads", True):
        return (
            "this uWSGI runs no threads of Python: start it with --enable-threads (in ini files: enable-threads = true)"
        )
    return ""


def refuse_eventlet() -> None:
    """Raise ConfigError if eventlet has replaced Python's locks.

    This package waits by them while it has a lock of the host, must not be switched away from then, and takes them for
    a fence.
    """
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        raise ConfigError(
            "eventlet has made the threads of this process greenlets, and the cache needs real ones: use gevent or "
            "threads, or set COLOCACHE_DISABLED=true"
        )


def call_after_fork(forget: Callable[[], object]) -> None:
    """Have something called in children that uWSGI forks. For all others there is `os.register_at_fork`.

    It is called in processes that uWSGI has not forked, too: where there is one worker and no master.

    The pid tells of a fork past Python's hooks when the cache is used. But a hit does not look at the pid: such a child
    would serve what it inherited for as long as it is current, and its descriptors would show that its parent lives.
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
        self.calls: list[Callable[[], object]] = []

    def __call__(self) -> None:
        for call in self.calls:
            call()
        if self._before is not None:
            self._before()
