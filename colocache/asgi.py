"""The middleware for ASGI applications: `colocache.asgi.CacheMiddleware`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .interruptions import raise_if_from_handler
from .middleware import KEY, Middleware, Request

__all__ = ["CacheMiddleware"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class CacheMiddleware(Middleware):
    """An ASGI application around another one: ``application = CacheMiddleware(application, cache)``.

    The cache joins its group at the startup of the lifespan, otherwise at the first request. It leaves the group at the
    shutdown. The application need not take part in the lifespan.

    A request finds the cache as ``scope["state"]["colocache"]``. Fences belong to the request. Nothing is buffered, and
    websockets pass. `Middleware` describes the other arguments.

    Trouble with the cache never fails a request. A second middleware around the same application does nothing, and a
    middleware of a disabled cache does nothing. It needs asyncio, with any event loop.
    """

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or pass a lifespan or a websocket on."""
        if scope.get(KEY) is self.cache:  # not in the state, which a server copies from the lifespan to each request
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
            await self.astart()
            await (self._answer if scope["type"] == "http" else self.app)(scope, receive, send)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        request = Request(self, self._brought(scope), scope.get("scheme") == "https")
        await request.abegin()

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
                await request.asettle()  # what was announced after the response, for example by a background task
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
    """One lifespan. The cache starts before the application, and leaves after it."""

    def __init__(self, middleware: CacheMiddleware, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._receive = receive
        self._send = send
        self._startup = self._started = self._shutdown = self._ended = False  # what has happened so far
        self._misunderstood = False  # whether the application took it for a request

    async def run(self, scope: MutableMapping[str, Any]) -> None:
        """Run it from startup to shutdown."""
        try:
            await self._middleware.app(scope, self.receive, self.send)
        except Exception as error:
            raise_if_from_handler(error)
            takes_part = self._started or (self._startup and not self._misunderstood)
            if takes_part:
                if self._shutdown:
                    await self._leave()
                raise
            self._middleware.log.info(
                "the application takes no part in the lifespan, and the cache does without: %r",
                error,
                event="no_lifespan",
            )
        if not self._ended:
            await self._go_on_alone()

    async def receive(self) -> Message:
        """Be the ``receive`` of the application."""
        message = await self._receive()
        if message["type"] == "lifespan.startup":
            self._startup = True
            await self._middleware.astart()
        elif message["type"] == "lifespan.shutdown":
            self._shutdown = True
        return message

    async def send(self, message: Message) -> None:
        """Be the ``send`` of the application."""
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
        await asyncio.to_thread(self._middleware.leave)  # because it closes files and sockets
