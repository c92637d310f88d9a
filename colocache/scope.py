"""One request: what it has invalidated and missed. In a group of several hosts its end waits for all of that once.

A scope belongs to a context (`contextvars`). Tasks that start inside see it, and so do threads that run in a copy of
the context, as those of `asyncio.to_thread` do. The middlewares open a scope for each request.
"""

from __future__ import annotations

from contextvars import Token
from types import TracebackType

from .cache import Cache
from .core.receipt import Receipt
from .interruptions import pass_over
from .operations import fenced
from .operations.drive import arun, finish
from .operations.invalidate import settled
from .operations.tally import Tally, current_tally, tallies


class Scope(Tally):
    """What one request invalidates by one cache.

    ``with scope:`` makes it the current one. The fences of keys that are missed within belong to it. Within,
    ``cache.invalidate(…, wait="response")`` leaves the waiting, where there is any, to `settle`. A scope can be left
    and entered again, once for each part of a streamed response. Any thread may call its methods.
    """

    def __init__(self, cache: Cache) -> None:
        super().__init__(cache._member)
        self._missed: fenced.Fences | None = None  # between two entries; see `colocache.operations.fenced`
        self._tokens: tuple[Token[tuple[Tally, ...]], Token[fenced.Fences | None]] | None = None

    def __enter__(self) -> Scope:
        around, missed = tallies.get(), fenced.missed.get()
        try:
            self._tokens = tallies.set((*around, self)), fenced.missed.set(self._missed)
            return self
        except BaseException:  # of a signal handler: there is no block that could be left
            tallies.set(around)
            fenced.missed.set(missed)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tokens is not None
        opened, missed = self._tokens
        self._missed = fenced.missed.get()
        with pass_over(ValueError):  # an abandoned coroutine may be closed in another context than its own
            tallies.reset(opened)
            fenced.missed.reset(missed)

    def settle(self) -> Receipt | None:
        """Return the receipt of all that was invalidated with ``wait="response"``; None if nothing was.

        In a group of one host nobody waits, because an invalidation is complete when its call returns.
        """
        pending, since = self._take()
        return finish(settled(self.member, pending, since), self.member.may_wait) if pending else None

    async def asettle(self) -> Receipt | None:
        """The twin of `settle`."""
        pending, since = self._take()
        return await arun(settled(self.member, pending, since)) if pending else None


def current(cache: Cache) -> Scope | None:
    """Return the innermost scope of a cache in this context that is not closed."""
    tally = current_tally(cache._member)
    return tally if isinstance(tally, Scope) else None
