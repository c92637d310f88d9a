"""The middleware for ASGI applications; users import it as `colocache.asgi.CacheMiddleware`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .middleware import KEY, Middleware, Request

__all__ = ["CacheMiddleware"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class CacheMiddleware(Middleware):
    """An ASGI application around another one: ``application = CacheMiddleware(application, cache)``.

    The cache joins its group at the lifespan's startup, or else with the first request, and leaves it at the lifespan's
    shutdown; that works in front of applications that take no part in the lifespan, too. Every request finds it as
    ``scope["state"]["colocache"]``, and what it invalidates with ``wait="response"`` is waited for once, before the
    response begins. `Middleware` says what the other arguments do. Nothing is buffered; websockets pass.

    Trouble with the cache never fails a request. A second one around the same application does nothing, and none does
    if the cache is disabled. For asyncio, with any event loop of it.
    """

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or carry a lifespan or a websocket."""
        if scope.get(KEY) is self.cache:  # not in the state: servers hand the lifespan's on to every request
            await self.app(scope, receive, send)
            return
        scope[KEY] = self.cache
        if "state" in scope or scope["type"] != "lifespan":
            scope.setdefault("state", {})[KEY] = self.cache
        if self.cache.config.disabled:
            await self.app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _Lifespan(self, receive, send).run(scope)
        else:
            if not self.is_started:
                await asyncio.to_thread(self.start)  # it opens files and sockets
            await (self._answer if scope["type"] == "http" else self.app)(scope, receive, send)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        request = Request(self, self._brought(scope), scope.get("scheme") == "https")
        await request.acatch_up()

        async def send_settled(message: Message) -> None:
            await request.asettle()
            if message["type"] == "http.response.start" and (more := request.headers()):
                raw = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in more]
                message = {**message, "headers": [*message.get("headers", ()), *raw]}
            await send(message)

        with request.scope:
            try:
                await self.app(scope, receive, send_settled)
            except Exception:
                await request.asettle()
                raise
            else:
                await request.asettle()  # what it announced after the response, as in a background task
            finally:
                request.scope.close()

    def _brought(self, scope: MutableMapping[str, Any]) -> str:
        if self.barrier is None:
            return ""
        wanted = b"cookie" if self.barrier.in_cookie else self.barrier.name.lower().encode("ascii")
        values = [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
        # HTTP/2 sends each cookie in a header of its own.
        return "; ".join(values) if self.barrier.in_cookie else "".join(values[:1])


class _Lifespan:
    """One lifespan: the cache starts before the application, and leaves after it; or without it, where it has none."""

    def __init__(self, middleware: CacheMiddleware, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._receive = receive
        self._send = send
        self._startup = self._started = self._shutdown = self._ended = False  # how far it is
        self._misunderstood = False  # the application took it for a request

    async def run(self, scope: MutableMapping[str, Any]) -> None:
        """Carry it out."""
        try:
            await self._middleware.app(scope, self.receive, self.send)
        except Exception as error:
            if self._started or (self._startup and not self._misunderstood):  # it takes part, and has failed
                if self._shutdown:
                    await self._leave()
                raise
            self._middleware.log.info(
                "the application takes no part in the lifespan, and the cache does without: %r", error
            )
        if not self._ended:
            await self._go_on_alone()

    async def receive(self) -> Message:
        """What the application gets as receive."""
        message = await self._receive()
        if message["type"] == "lifespan.startup":
            self._startup = True
            await asyncio.to_thread(self._middleware.start)
        elif message["type"] == "lifespan.shutdown":
            self._shutdown = True
        return message

    async def send(self, message: Message) -> None:
        """What the application gets as send."""
        kind = message["type"]
        if not kind.startswith("lifespan."):
            self._misunderstood = True
            raise RuntimeError(f"the application answered the lifespan with {kind!r}: look at scope['type']")
        self._started = True
        if kind != "lifespan.startup.complete":
            self._ended = True
            await self._leave()
        await self._send(message)

    async def _go_on_alone(self) -> None:
        while not self._startup:
            await self.receive()
        if not self._started:
            await self.send({"type": "lifespan.startup.complete"})
        while not self._shutdown:
            await self.receive()
        await self.send({"type": "lifespan.shutdown.complete"})

    async def _leave(self) -> None:
        await asyncio.to_thread(self._middleware.leave)  # it may wait for what others have not acknowledged yet
