"""Where work begins and ends that takes time: what a member tells its tracer, if it has one.

The operations ask for a tracer where they are about to load, to wait, to ask another host or to invalidate, and never
at a hit. `colocache.opentelemetry` has a tracer that makes spans of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from .core.keys import Key

#: A loader runs; a call waits for another call's load; another host is asked for values; something is invalidated, by
#: one of three methods.
Work = Literal["load", "wait", "fetch", "invalidate", "invalidate_tags", "clear"]


class Span(Protocol):
    """A piece of work that has begun."""

    def end(
        self, outcome: str, *, hosts: Sequence[str] = (), seconds: float | None = None,
        error: BaseException | None = None,
    ) -> None:  # fmt: skip
        """Note how it has ended, and raise nothing. Only the first call counts.

        ``hosts`` are those that were asked, or told. ``seconds`` is how long the loader took, if that was called.
        """


class Tracer(Protocol):
    """Who is told. Any thread may call it."""

    def begin(self, work: Work, path: str, names: Sequence[Key]) -> Span:
        """Note that work begins in a namespace, and raise nothing. ``names`` are the keys or tags that it is about.

        What the caller then calls, in this thread or task, is a part of a load until that ends.
        """
