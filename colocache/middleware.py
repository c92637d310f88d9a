"""What the middlewares for WSGI, ASGI and Django share: start of the cache, barrier, and what a request waits for."""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, Literal

from . import Cache, ColocacheError
from .config import Duration, parse_duration
from .interruptions import raise_if_from_handler
from .operations.positions import MAX_POSITIONS, Positions, read_positions, write_positions
from .scope import Scope

KEY: Final = "colocache"
"""The key of the cache in a WSGI environ, and in the state of an ASGI scope."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,60}")  # names of cookies and headers, by RFC 9110


def checked_cache(cache: object) -> Cache:
    """Return what is a cache. Raise TypeError otherwise."""
    if not isinstance(cache, Cache):
        raise TypeError(f"cache is a colocache.Cache, not {type(cache).__name__}: {cache!r:.60}")
    return cache


BARRIER_TIMEOUT = 0.25  # s that a request waits for what its client has changed, unless the caller says otherwise
BARRIER_AGE = 5  # s that a client carries a position


class Middleware:
    """The part of a middleware that does not depend on its interface. Any thread may use it."""

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
        """Wrap an application. This starts nothing.

        ``debug_header`` adds a ``Server-Timing`` header to every response.

        ``barrier`` makes clients carry the position of the invalidations that their requests announced: in a cookie
        (``"cookie"``, or ``True``) or in a header (``"header"``) with the name ``barrier_name``. A later request of the
        client waits until this process has applied them, but no longer than ``barrier_timeout``. This is a duration;
        the default is 250 ms. On one host nobody has to wait, and no barrier is needed.

        Raise TypeError or ValueError for an argument that cannot be used.
        """
        if not callable(app):
            raise TypeError(f"app is the application to wrap, a callable, not {type(app).__name__}: {app!r:.60}")
        self.app = app
        self.cache = checked_cache(cache)
        self.debug_header = debug_header
        self.barrier = None if barrier is False else Barrier(cache, barrier, barrier_name, barrier_timeout)
        self.barriers_missed = 0  # requests that went on before this process had applied what their client announced
        self._started_in = 0  # the id of the process that called `start` last
        self.log = self.cache._member.log

    def start(self) -> None:
        """Let the cache join its group, once in each process. Log a failure, and never raise it."""
        if self._started_in == os.getpid():
            return
        try:
            self.cache.start()
            self._warn_of_a_second_cache()
        except ColocacheError as error:  # the cache is closed, or its directory or this server cannot be used
            raise_if_from_handler(error)
            self.log.error("the cache cannot start, and requests go on without it: %s", error, event="cannot_start")
        except (OSError, ImportError) as error:  # the cache has logged it, and tries again at every use
            raise_if_from_handler(error)
            if isinstance(error, OSError) and error.errno is None:
                raise  # by another thread, for example at a time limit. An error of the system has a number
        self._started_in = os.getpid()  # last, so that concurrent requests wait for the same start

    async def astart(self) -> None:
        """The twin of `start`."""
        if self._started_in != os.getpid():
            await asyncio.to_thread(self.start)  # because it opens files and sockets

    def leave(self) -> None:
        """Let the cache leave its group. It joins again at its next use."""
        self._started_in = 0
        self.cache.leave()

    def missed(self) -> None:
        """Count and log a request that did not wait long enough for what its client had announced."""
        self.barriers_missed += 1
        self.log.warning(
            "a request went on before this process had heard all that its client had announced; %d so far",
            self.barriers_missed,
            event="barrier_missed",
        )

    def refused(self, error: ColocacheError) -> None:
        """Log that a request could not wait for what it, or its client, had announced."""
        self.log.error("a request went on without waiting for its invalidations: %s", error, event="not_waited")

    def _warn_of_a_second_cache(self) -> None:
        config = self.cache.config
        other = _serving.setdefault((config.group, config.directory), self.cache)
        if other is not self.cache and other.members():
            self.log.warning(
                "this process has two caches of this group, each with a near cache of its own: make one, in a module "
                "of its own, and import it where it is used",
                event="two_caches",
            )
        if not other.members():
            _serving[config.group, config.directory] = self.cache


# By group and directory: the cache that serves it in this process.
_serving: weakref.WeakValueDictionary[tuple[str, str | None], Cache] = weakref.WeakValueDictionary()


class Barrier:
    """Lets clients read their own writes although the write does not wait.

    A client carries the positions of what it announced, and its next request waits until they are applied. What a
    client sends is not trusted: its size is limited, nonsense is ignored, and the wait has a time limit.
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
        self.timeout = BARRIER_TIMEOUT if timeout is None else parse_duration(timeout, "barrier_timeout")
        # After this time every process has applied it, or has stopped to serve. One second more for slow networks.
        self.max_age = BARRIER_AGE

    def brought(self, text: str) -> Positions:
        """Return the positions in the text of a request's header or cookies. Return none if the text is nonsense."""
        if self.in_cookie:
            pairs = (pair.strip().partition("=") for pair in text.split(";"))
            text = next((value for name, _, value in pairs if name == self.name), "")
        return (text and read_positions(text)) or {}

    def header(self, positions: Positions, secure: bool) -> tuple[str, str]:
        """Return the header that tells the client to carry positions. If there are too many, keep the newest."""
        text = write_positions(dict([*positions.items()][-MAX_POSITIONS:]))
        if not self.in_cookie:
            return self.name, text
        attributes = f"Max-Age={self.max_age}; Path=/; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"
        return "Set-Cookie", f"{self.name}={text}; {attributes}"


class Request:
    """One request: what it announces, what its client announced before, and how long it waited for both."""

    def __init__(self, middleware: Middleware, brought: str = "", secure: bool = False) -> None:
        """Begin one. ``brought`` is the text of the barrier's header or of the cookies."""
        self.scope = Scope(middleware.cache)
        self._middleware = middleware
        self._barrier = middleware.barrier
        self._brought = self._barrier.brought(brought) if self._barrier is not None else {}
        self._secure = secure
        self._waited = 0.0  # s

    def begin(self) -> None:
        """Start the cache, and wait until this process has applied what the client had announced."""
        self._middleware.start()
        with self._waiting():
            self._judge([self._middleware.cache.catch_up(*each) for each in self._ahead()])

    async def abegin(self) -> None:
        """The twin of `begin`."""
        await self._middleware.astart()
        with self._waiting():
            self._judge([await self._middleware.cache.acatch_up(*each) for each in self._ahead()])

    def settle(self) -> None:
        """Wait for what was announced by ``wait="response"`` since the last time."""
        with self._waiting():
            self.scope.settle()

    async def asettle(self) -> None:
        """The twin of `settle`."""
        with self._waiting():
            await self.scope.asettle()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Measure the time, and log what the cache raises."""
        began = monotonic()
        try:
            yield
        except ColocacheError as error:
            raise_if_from_handler(error)
            self._middleware.refused(error)
        self._waited += monotonic() - began

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers to add to the response: those of the barrier and of ``debug_header``, if these are on."""
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
        """Yield each position that the client brought, and for how many more seconds the request may wait.

        One position at a time, because a worker that has left cannot be waited for, and the others can.
        """
        began = monotonic()
        for stream, number in self._brought.items():
            assert self._barrier is not None
            yield write_positions({stream: number}), max(0.0, began + self._barrier.timeout - monotonic())

    def _judge(self, reached: list[bool]) -> None:
        if not all(reached):
            self._middleware.missed()
