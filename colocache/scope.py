"""One request: what was invalidated while it was answered, so that its answer waits for that once, at the end.

A scope is the context's (`contextvars`): tasks that are started inside see it, and threads that run in a copy of the
context, as those of `asyncio.to_thread`. The middlewares open one for each request.
"""

from __future__ import annotations

import contextlib
import os
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Literal, Protocol

from .core.group.outcomes import Receipt
from .operations import fenced
from .operations.flows import Flow, arun, run
from .runtime.waiting.threads import RLock

#: Positions that a scope names at most; a client's next request waits for each.
MAX_POSITIONS = 16

Positions = dict[bytes, int]  # incarnation to the number of an event
Counted = Literal["loads", "fetches", "misses", "sets", "invalidations"]


class Announcing(Protocol):
    """What a scope needs of a cache."""

    def _receipts(self) -> Flow[Receipt]:
        """Wait for all that this process has announced."""


class Scope:
    """What one request invalidates by one cache.

    ``with scope:`` makes it the current one. Within, ``cache.invalidate(…, wait="response")`` announces at once, and
    leaves the waiting to `settle`. A scope may be entered again after it was left, as for each part of a response that
    is streamed, and its methods may be called from any thread.
    """

    def __init__(self, cache: Announcing) -> None:
        self.cache = cache
        self._counting = RLock()
        self._counts: dict[Counted, int] = {}
        self._positions: Positions = {}
        self._pending = False
        self._closed = False
        self._missed: fenced.Missed | None = None  # while it is left; see `colocache.operations.fenced`
        self._tokens: tuple[Token[tuple[Scope, ...]], Token[fenced.Missed | None]] | None = None

    def __enter__(self) -> Scope:
        self._tokens = _scopes.set((*_scopes.get(), self)), fenced.missed.set(self._missed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tokens is not None
        scopes, missed = self._tokens
        self._missed = fenced.missed.get()
        with contextlib.suppress(ValueError):  # an abandoned coroutine may be closed in another context than its own
            _scopes.reset(scopes)
            fenced.missed.reset(missed)

    def settle(self) -> Receipt | None:
        """Wait until what was collected is acknowledged, or waited out; None if nothing was collected.

        A receipt that is not complete is logged and counted, not raised. Raises EventLoopError on the thread of a
        running event loop.
        """
        return run(self.cache._receipts()) if self._take() else None

    async def asettle(self) -> Receipt | None:
        """The twin of `settle`."""
        return await arun(self.cache._receipts()) if self._take() else None

    def close(self) -> None:
        """The response is sent: whoever still invalidates inside, as a task that was begun there, waits for itself."""
        self._closed = True

    def position(self) -> str | None:
        """Return, as a short ASCII text for `Cache.catch_up`, how far a process must be that has all of it applied.

        All that was announced inside the scope, by whatever method, waited for or not; None if nothing was.
        """
        with self._counting:
            return write_positions(self._positions) if self._positions else None

    def counts(self) -> dict[Counted, int]:
        """Return what was done inside: loads, fetches, misses, sets, invalidations. Hits are not counted."""
        with self._counting:
            return dict(self._counts)

    # --- For the cache

    def collect(self) -> None:
        """Have `settle` wait for what was announced just now."""
        self._pending = True

    def note(self, stream: bytes, number: int) -> None:
        """An event was announced."""
        with self._counting:
            self._positions[stream] = max(number, self._positions.pop(stream, 0))
            while len(self._positions) > MAX_POSITIONS:
                del self._positions[next(iter(self._positions))]

    def count(self, what: Counted, by: int = 1) -> None:
        """Count something."""
        with self._counting:
            self._counts[what] = self._counts.get(what, 0) + by

    def _take(self) -> bool:
        pending, self._pending = self._pending, False
        return pending


_scopes: ContextVar[tuple[Scope, ...]] = ContextVar("colocache_scopes", default=())


def _leave_to_parent() -> None:
    """In a forked child: the request is the parent's to answer, and nobody here would wait at its end."""
    _scopes.set(())


os.register_at_fork(after_in_child=_leave_to_parent)


def current(cache: Announcing) -> Scope | None:
    """Return the innermost scope of a cache in this context that is not closed."""
    for scope in reversed(_scopes.get()):
        if scope.cache is cache and not scope._closed:
            return scope
    return None


def write_positions(positions: Positions) -> str:
    """Return positions as a short ASCII text: ``incarnation.number``, in hexadecimal, joined by ``-``."""
    return "-".join(f"{stream.hex()}.{number:x}" for stream, number in positions.items())


def read_positions(text: str) -> Positions | None:
    """Return the positions of a text, which anybody may have sent; None if it is not one."""
    positions: Positions = {}
    parts = text.split("-", MAX_POSITIONS) if isinstance(text, str) and len(text) <= MAX_POSITIONS * 50 else []
    for part in parts:
        stream, _, number = part.partition(".")
        if len(stream) != 32 or not 0 < len(number) <= 16 or not (stream + number).isalnum() or not part.isascii():
            return None
        try:
            positions[bytes.fromhex(stream)] = int(number, 16)
        except ValueError:
            return None
    return positions if 0 < len(parts) <= MAX_POSITIONS else None
