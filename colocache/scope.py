"""One request: what it has invalidated, so that its response waits for all of that once, at the end.

A scope belongs to a context (`contextvars`). Tasks that start inside see it, and so do threads that run in a copy of
the context, as those of `asyncio.to_thread` do. The middlewares open a scope for each request.
"""

from __future__ import annotations

import contextlib
import os
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from .core.group.outcomes import Receipt
from .operations import fenced
from .operations.flow import arun, run
from .operations.positions import MAX_POSITIONS, Positions, last_receipt, write_positions
from .runtime.waiting.threads import RLock

if TYPE_CHECKING:
    from .cache import Cache
    from .member import Member

Counted = Literal["loads", "fetches", "misses", "sets", "invalidations"]


class Scope:
    """What one request invalidates by one cache.

    ``with scope:`` makes it the current one. Within, ``cache.invalidate(…, wait="response")`` announces at once, and
    leaves the waiting to `settle`. A scope can be left and entered again, once for each part of a streamed response.
    Any thread may call its methods.
    """

    def __init__(self, cache: Cache) -> None:
        self.member = cache._member
        self._counting = RLock()
        self._counts: dict[Counted, int] = {}
        self._positions: Positions = {}
        self._pending = False
        self.is_closed = False
        self._missed: fenced.Missed | None = None  # between two entries; see `colocache.operations.fenced`
        self._tokens: tuple[Token[tuple[Scope, ...]], Token[fenced.Missed | None]] | None = None

    def __enter__(self) -> Scope:
        self._tokens = scopes.set((*scopes.get(), self)), fenced.missed.set(self._missed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tokens is not None
        opened, missed = self._tokens
        self._missed = fenced.missed.get()
        with contextlib.suppress(ValueError):  # an abandoned coroutine may be closed in another context than its own
            scopes.reset(opened)
            fenced.missed.reset(missed)

    def settle(self) -> Receipt | None:
        """Wait until what was collected is acknowledged, or waited out; return None if nothing was collected.

        A receipt that is not complete is logged and counted, not raised. Raise EventLoopError on the thread of a
        running event loop.
        """
        return run(last_receipt(self.member)) if self._take() else None

    async def asettle(self) -> Receipt | None:
        """The twin of `settle`."""
        return await arun(last_receipt(self.member)) if self._take() else None

    def close(self) -> None:
        """Note that the response is sent. A task that still invalidates inside then waits for its own receipt."""
        self.is_closed = True

    def position(self) -> str | None:
        """Return the position of all that was announced inside, for `Cache.catch_up`; None if nothing was.

        The position is a short ASCII text. It covers every method, whether it has waited or not.
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
        """Note that an event was announced."""
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


#: The scopes of this context, the innermost last. A caller that finds none need not call `tell`.
scopes: ContextVar[tuple[Scope, ...]] = ContextVar("colocachescopes", default=())


def _leave_to_parent() -> None:
    """Forget all scopes, in a forked child: the parent answers the request, and nobody here would wait at its end."""
    scopes.set(())


os.register_at_fork(after_in_child=_leave_to_parent)


def current(cache: Cache) -> Scope | None:
    """Return the innermost scope of a cache in this context that is not closed."""
    return current_of(cache._member)


def current_of(member: Member) -> Scope | None:
    """Return the innermost scope of a cache, which is given by its member."""
    for scope in reversed(scopes.get()):
        if scope.member is member and not scope.is_closed:
            return scope
    return None


def tell(member: Member, what: Counted, by: int = 1, position: tuple[bytes, int] | None = None) -> None:
    """Count something for the current request, and note the position of an event that it has announced."""
    scope = current_of(member)
    if scope is not None:
        if by:
            scope.count(what, by)
        if position is not None:
            scope.note(*position)
