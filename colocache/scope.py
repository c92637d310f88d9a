"""One request: what it has invalidated, so that its response waits for all of that once, at the end.

A scope belongs to a context (`contextvars`). Tasks that start inside see it, and so do threads that run in a copy of
the context, as those of `asyncio.to_thread` do. The middlewares open a scope for each request.
"""

from __future__ import annotations

import contextlib
from contextvars import Token
from types import TracebackType

from .cache import Cache
from .core.group.outcomes import Receipt
from .operations import fenced
from .operations.drive import arun, run
from .operations.positions import last_receipt
from .operations.tally import Tally, current_tally, tallies


class Scope(Tally):
    """What one request invalidates by one cache.

    ``with scope:`` makes it the current one. Within, ``cache.invalidate(…, wait="response")`` announces at once, and
    leaves the waiting to `settle`. A scope can be left and entered again, once for each part of a streamed response.
    Any thread may call its methods.
    """

    def __init__(self, cache: Cache) -> None:
        super().__init__(cache._member)
        self._missed: fenced.Missed | None = None  # between two entries; see `colocache.operations.fenced`
        self._tokens: tuple[Token[tuple[Tally, ...]], Token[fenced.Missed | None]] | None = None

    def __enter__(self) -> Scope:
        self._tokens = tallies.set((*tallies.get(), self)), fenced.missed.set(self._missed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tokens is not None
        opened, missed = self._tokens
        self._missed = fenced.missed.get()
        with contextlib.suppress(ValueError):  # an abandoned coroutine may be closed in another context than its own
            tallies.reset(opened)
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


def current(cache: Cache) -> Scope | None:
    """Return the innermost scope of a cache in this context that is not closed."""
    tally = current_tally(cache._member)
    return tally if isinstance(tally, Scope) else None
