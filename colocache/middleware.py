"""What the WSGI and the ASGI middleware have in common: starting the member, the barrier, what a request waits for."""

from __future__ import annotations

import math
import os
import re
import weakref
from collections.abc import Iterator
from time import monotonic
from typing import Any, Final, Literal

from . import Cache, ColocacheError
from .config import Duration, parse_duration
from .operations.positions import MAX_POSITIONS, Positions, read_positions, write_positions
from .runtime.logs import Log
from .scope import Scope

KEY: Final = "colocache"
"""Where the cache stands in a WSGI environ, and in the state of an ASGI scope."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,60}")  # names of cookies and headers, by RFC 9110


class Middleware:
    """The part of a middleware that does not depend on how it is called. Safe to use from any thread."""

    def __init__(
        self,
        app: Any,
        cache: Cache,
        *,
        debug_header: bool = False,
        barrier: bool | Literal["cookie", "header"] = False,
        barrier_name: str | None = None,
        barrier_timeout: Duration | None = None,
    ) -> None:
        """Wrap an application; starts nothing.

        ``debug_header`` adds a ``Server-Timing`` header to every response. ``barrier`` has clients carry the position
        of what they announced, in a cookie (``True`` is ``"cookie"``) or a header, called ``barrier_name``, and has
        their later requests wait until this process has applied it: no longer than ``barrier_timeout``, a duration,
        by default the cache's fetch timeout. Raises TypeError and ValueError for what cannot be used.
        """
        if not callable(app):
            raise TypeError(f"app is the application to wrap, a callable, not {type(app).__name__}: {app!r:.60}")
        if not isinstance(cache, Cache):
            raise TypeError(f"cache is a colocache.Cache, not {type(cache).__name__}: {cache!r:.60}")
        self.app = app
        self.cache = cache
        self.debug_header = debug_header
        self.barrier = None if barrier is False else Barrier(cache, barrier, barrier_name, barrier_timeout)
        self.barriers_missed = 0  # requests that went on without having seen all that their client had announced
        self._started_in = 0  # the process in which `start` was called
        self.log = Log(cache.config.group)

    @property
    def is_started(self) -> bool:
        """Whether `start` was called in this process."""
        return self._started_in == os.getpid()

    def start(self) -> None:
        """Have the cache join its group. What keeps it from that is logged, and never raised."""
        try:
            self.cache.start()
            self._tell_if_another_serves()
        except ColocacheError as error:  # it is closed, or its place or this server cannot be used
            self.log.error("the cache cannot start, and requests go on without it: %s", error)
        except (OSError, ImportError) as error:  # the cache has logged it, and tries again at every use
            if isinstance(error, OSError) and error.errno is None:
                raise  # a signal handler's, as that of a time limit: those of the system have a number
        self._started_in = os.getpid()  # last: who comes meanwhile waits for the same start

    def leave(self) -> None:
        """Have the cache leave its group; what still uses it, or a second life of the application, joins anew."""
        self._started_in = 0
        self.cache.leave()

    def missed(self) -> None:
        """A request's client is ahead of this process, which could not catch up in time."""
        self.barriers_missed += 1
        self.log.warning(
            "a request went on before this process had heard all that its client had announced; %d so far",
            self.barriers_missed,
        )

    def refused(self, error: ColocacheError) -> None:
        """The cache would not wait for what a request announced or brought."""
        self.log.error("a request went on without waiting for its invalidations: %s", error)

    def _tell_if_another_serves(self) -> None:
        config = self.cache.config
        other = _serving.setdefault((config.group, config.directory), self.cache)
        if other is not self.cache and other.members():
            self.log.warning(
                "this process has two caches of this group, each with a memory and a thread of its own: make one, in a "
                "module of its own, and import it where it is used"
            )
        if not other.members():
            _serving[config.group, config.directory] = self.cache


_serving: weakref.WeakValueDictionary[tuple[str, str | None], Cache] = weakref.WeakValueDictionary()


class Barrier:
    """Read your writes, without waiting at the write: clients carry positions, and their next requests wait for them.

    What clients send is not trusted: it is bounded, nothing in it is ever raised, and waiting for it is, too.
    """

    def __init__(
        self, cache: Cache, carrier: bool | Literal["cookie", "header"], name: str | None, timeout: Duration | None
    ) -> None:
        if carrier not in (True, "cookie", "header"):
            raise ValueError(f"barrier is False, True, 'cookie' or 'header', not {carrier!r:.60}")
        self.in_cookie = carrier != "header"
        self.name = name if name is not None else "colocache" if self.in_cookie else "Colocache-Position"
        if not _TOKEN.fullmatch(self.name):
            raise ValueError(f"barrier_name={name!r:.80} cannot be the name of a cookie or header: use letters and '-'")
        self.timeout = cache.config.fetch_timeout if timeout is None else parse_duration(timeout, "barrier_timeout")
        # By then whoever still serves what is older has been behind for as long as it may; a second for slow networks.
        self.max_age = math.ceil(max(cache.config.lease * 1.01, cache.config.max_stale)) + 1

    def brought(self, text: str) -> Positions:
        """Return the positions in the header that a request brought, or in its cookies; none if it is nonsense."""
        if self.in_cookie:
            pairs = (pair.strip().partition("=") for pair in text.split(";"))
            text = next((value for name, _, value in pairs if name == self.name), "")
        return (text and read_positions(text)) or {}

    def header(self, positions: Positions, secure: bool) -> tuple[str, str]:
        """Return the header that has the client carry positions, the newest of them if they are too many."""
        text = write_positions(dict([*positions.items()][-MAX_POSITIONS:]))
        if not self.in_cookie:
            return self.name, text
        attributes = f"Max-Age={self.max_age}; Path=/; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"
        return "Set-Cookie", f"{self.name}={text}; {attributes}"


class Request:
    """One request: what it announces, what its client had announced before, and how long it waited for both."""

    def __init__(self, middleware: Middleware, brought: str = "", secure: bool = False) -> None:
        """Begin one; ``brought`` is the text of the barrier's header."""
        self.scope = Scope(middleware.cache)
        self._middleware = middleware
        self._barrier = middleware.barrier
        self._brought = self._barrier.brought(brought) if self._barrier is not None else {}
        self._secure = secure
        self._waited = 0.0  # s

    def catch_up(self) -> None:
        """Wait until this process has applied what the client had announced; no longer than the barrier lets."""
        cache = self._middleware.cache
        try:
            reached = [cache.catch_up(position, left) for position, left in self._ahead()]
        except ColocacheError as error:
            self._middleware.refused(error)
        else:
            self._judge(reached)

    async def acatch_up(self) -> None:
        """The twin of `catch_up`."""
        cache = self._middleware.cache
        try:
            reached = [await cache.acatch_up(position, left) for position, left in self._ahead()]
        except ColocacheError as error:
            self._middleware.refused(error)
        else:
            self._judge(reached)

    def settle(self) -> None:
        """Wait for what was announced by ``wait="response"`` since the last time."""
        began = monotonic()
        try:
            self.scope.settle()
        except ColocacheError as error:
            self._middleware.refused(error)
        self._waited += monotonic() - began

    async def asettle(self) -> None:
        """The twin of `settle`."""
        began = monotonic()
        try:
            await self.scope.asettle()
        except ColocacheError as error:
            self._middleware.refused(error)
        self._waited += monotonic() - began

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that the response gets beside its own: none, unless the middleware was told so."""
        headers = []
        if self._barrier is not None and (position := self.scope.position()) is not None:
            announced = read_positions(position) or {}
            older = {stream: number for stream, number in self._brought.items() if stream not in announced}
            headers.append(self._barrier.header({**older, **announced}, self._secure))
        if self._middleware.debug_header:
            counts = " ".join(f"{name}={count}" for name, count in self.scope.counts().items())
            headers.append(("Server-Timing", f'colocache;desc="{counts}";dur={self._waited * 1000:.1f}'))
        return headers

    def _ahead(self) -> Iterator[tuple[str, float]]:
        """Yield what the client brought, and for how many seconds it may be waited for, all in all.

        One by one: of a worker that has left meanwhile nothing can be had, and the others are to be waited for.
        """
        began = monotonic()
        for stream, number in self._brought.items():
            assert self._barrier is not None
            yield write_positions({stream: number}), max(0.0, began + self._barrier.timeout - monotonic())
        self._waited += monotonic() - began

    def _judge(self, reached: list[bool]) -> None:
        if not all(reached):
            self._middleware.missed()
