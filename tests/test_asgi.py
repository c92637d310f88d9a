"""The ASGI middleware, with real caches and a server that records what it gets, in order."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import colocache
from colocache import Cache
from colocache.asgi import CacheMiddleware
from colocache.scope import Scope
from tests.conftest import PATIENCE

Message = dict[str, Any]
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Exchange:
    """One request and its response, as a server sees them. ``events`` records what happened, in order."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.scope: Message = {}

    async def __call__(self, application: Application, method: str = "GET", **headers: str) -> Exchange:
        """Do it."""
        raw = [(name.replace("_", "-").encode(), value.encode("utf-8")) for name, value in headers.items()]
        self.scope = {"type": "http", "method": method, "path": "/", "headers": raw, "scheme": "http", "state": {}}
        await application(self.scope, self.receive, self.send)
        return self

    async def receive(self) -> Message:
        """Be the server's part of the interface."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.events.append("headers")
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        else:
            self.events.append(f"sent {message['body'].decode()}")
            self.chunks.append(message["body"])

    def header(self, name: bytes) -> str | None:
        """Return the value of a header."""
        return next((value.decode() for key, value in self.headers if key == name), None)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of what happens: waits for receipts in any scope, and the events of an exchange."""
    happened: list[str] = []
    asettle = Scope.asettle

    async def noted(self: Scope) -> Any:
        receipt = await asettle(self)
        if receipt is not None:
            assert receipt.complete
            happened.append("settled")
        return receipt

    monkeypatch.setattr(Scope, "asettle", noted)
    return happened


@pytest.fixture
def pair(new_group: Any) -> list[Cache]:
    """Return two members that hear each other. They wait long enough for a busy machine."""
    return new_group(2)  # type: ignore[no-any-return]


@pytest.fixture
def exchange(events: list[str]) -> Exchange:
    """Return an exchange."""
    return Exchange(events)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a short text."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def begin(send: Any) -> None:
    """Send headers."""
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def go_on(send: Any, chunk: bytes, more: bool = False) -> None:
    """Send a part of a body."""
    await send({"type": "http.response.body", "body": chunk, "more_body": more})


# --- When it starts: requests


def test_making_one_starts_nothing_and_the_first_request_joins_the_group(cache: Cache, exchange: Exchange) -> None:
    application = CacheMiddleware(hello, cache)
    assert cache.members() == []
    asyncio.run(exchange(application))
    assert exchange.chunks == [b"hello"]
    assert [member.me for member in cache.members()] == [True]


def test_joining_does_not_stop_the_event_loop(
    cache: Cache, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, start = threading.Event(), Cache.start

    def start_when_told(self: Cache) -> None:
        assert go_on.wait(PATIENCE)
        start(self)

    monkeypatch.setattr(Cache, "start", start_when_told)

    async def main() -> None:
        request = asyncio.create_task(exchange(CacheMiddleware(hello, cache)))
        for _ in range(3):
            await asyncio.sleep(0)  # so that the loop runs once
        assert not request.done()
        go_on.set()
        await request

    asyncio.run(main())
    assert exchange.chunks == [b"hello"]


def test_the_application_finds_the_cache_in_the_state(cache: Cache, exchange: Exchange) -> None:
    found: list[Any] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope["state"]["colocache"])
        await hello(scope, receive, send)

    asyncio.run(exchange(CacheMiddleware(look, cache)))
    assert found == [cache]


def test_websockets_pass_with_the_cache_in_their_state(cache: Cache) -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await scope["state"]["colocache"].aset("key", (await receive())["text"])
        # Because a websocket has no response to hold back.
        receipt = await scope["state"]["colocache"].ainvalidate("key", wait="response")
        await send({"type": "websocket.send", "text": str(receipt.complete)})

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.receive", "text": "hello"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(CacheMiddleware(echo, cache, barrier=True, debug_header=True)({"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.send", "text": "True"}]


def test_a_cache_that_cannot_join_fails_no_request(
    new_cache: Any, exchange: Exchange, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "file"
    place.write_text("not a directory")
    asyncio.run(exchange(CacheMiddleware(hello, new_cache(directory=str(place)))))
    assert exchange.chunks == [b"hello"]
    assert "cannot start, and requests go on without it" in caplog.text


def test_a_disabled_cache_is_in_the_state_and_nothing_else_happens(new_cache: Any, exchange: Exchange) -> None:
    cache = new_cache(disabled=True)

    async def write(scope: Any, receive: Any, send: Any) -> None:
        await scope["state"]["colocache"].ainvalidate("key", wait="response")
        await hello(scope, receive, send)

    asyncio.run(exchange(CacheMiddleware(write, cache, debug_header=True, barrier=True)))
    assert exchange.headers == [(b"content-type", b"text/plain")]
    assert cache.members() == []


# --- When it starts: the lifespan


class Server:
    """The server of a lifespan."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.sent: list[str] = []
        self.state: dict[str, Any] = {}
        self._orders: asyncio.Queue[Message] = asyncio.Queue()
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Server:
        self.task = asyncio.create_task(
            self.application({"type": "lifespan", "state": self.state}, self._orders.get, self._send)  # type: ignore[arg-type]
        )
        await self.order("startup")
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.task.done():
            await self.order("shutdown")
        await self.task

    async def order(self, what: str) -> None:
        """Send a message. Wait for its answer, or for the end of the lifespan."""
        answer = asyncio.create_task(self._answered(what))
        await self._orders.put({"type": f"lifespan.{what}"})
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([answer, self.task], return_when=asyncio.FIRST_COMPLETED)
        answer.cancel()

    async def _answered(self, what: str) -> None:
        async with self._news:
            await self._news.wait_for(lambda: any(kind.startswith(f"lifespan.{what}.") for kind in self.sent))

    async def _send(self, message: Message) -> None:
        assert message["type"].startswith("lifespan."), message
        async with self._news:
            self.sent.append(message["type"])
            self._news.notify_all()


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def takes_part(scope: Any, receive: Any, send: Any) -> None:
    """Use the cache in the lifespan."""
    assert (await receive())["type"] == "lifespan.startup"
    await scope["state"]["colocache"].aset("started", True)
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    assert await scope["state"]["colocache"].aget("started")
    await send({"type": "lifespan.shutdown.complete"})


async def ignores(scope: Any, receive: Any, send: Any) -> None:
    """Take no part in the lifespan, and return."""


async def rejects(scope: Any, receive: Any, send: Any) -> None:
    """Take no part in the lifespan, and raise."""
    raise ValueError(f"this application can only handle HTTP, not {scope['type']}")


async def mistakes(scope: Any, receive: Any, send: Any) -> None:
    """Take everything for a request."""
    await receive()
    await begin(send)


async def leaves_early(scope: Any, receive: Any, send: Any) -> None:
    """Return after the startup."""
    await receive()
    await send({"type": "lifespan.startup.complete"})


@pytest.mark.parametrize("application", [takes_part, ignores, rejects, mistakes, leaves_early])
def test_the_cache_lives_as_long_as_the_lifespan_of_any_application(cache: Cache, application: Application) -> None:
    async def main() -> None:
        async with Server(CacheMiddleware(application, cache)) as server:
            assert server.sent == COMPLETE[:1]
            assert server.state == {"colocache": cache}
            assert [member.me for member in cache.members()] == [True]
        assert server.sent == COMPLETE

    asyncio.run(main())
    assert cache.members() == []
    asyncio.run(main())  # several times, like a test suite that starts an application for each test


def test_a_request_after_the_lifespan_has_ended_joins_anew(cache: Cache, exchange: Exchange) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await (takes_part if scope["type"] == "lifespan" else hello)(scope, receive, send)

    application = CacheMiddleware(answer, cache)

    async def live() -> None:
        async with Server(application):
            pass

    asyncio.run(live())
    assert cache.members() == []
    asyncio.run(exchange(application))
    assert len(cache.members()) == 1


def test_the_server_handles_a_startup_that_fails_and_the_cache_is_closed(cache: Cache) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def main() -> None:
        async with Server(CacheMiddleware(fails, cache)) as server:
            pass
        assert server.sent == ["lifespan.startup.failed"]

    asyncio.run(main())
    assert cache.members() == []


def test_an_application_that_takes_part_and_raises_raises(cache: Cache) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise KeyError("no database")

    async def main() -> None:
        async with Server(CacheMiddleware(fails, cache)) as server:
            assert server.sent == []

    with pytest.raises(KeyError, match="no database"):
        asyncio.run(main())


def test_an_application_whose_shutdown_raises_raises_and_the_cache_is_closed(cache: Cache) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise KeyError("no goodbye")

    async def main() -> None:
        async with Server(CacheMiddleware(fails, cache)):
            pass

    with pytest.raises(KeyError, match="no goodbye"):
        asyncio.run(main())
    assert cache.members() == []


def test_a_server_that_copies_the_state_to_requests_gets_full_service(cache: Cache, exchange: Exchange) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await takes_part(scope, receive, send)
        await cache.ainvalidate("key", wait="response")
        return await hello(scope, receive, send)

    async def main() -> None:
        application = CacheMiddleware(answer, cache)
        async with Server(application) as server:

            async def with_state(scope: Any, receive: Any, send: Any) -> None:
                await application({**scope, "state": server.state.copy()}, receive, send)

            await exchange(with_state)

    asyncio.run(main())
    assert exchange.events == ["settled", "headers", "sent hello"]


def test_a_disabled_cache_leaves_the_lifespan_to_the_application(new_cache: Any) -> None:
    async def main() -> None:
        with contextlib.suppress(ValueError):
            async with Server(CacheMiddleware(rejects, new_cache(disabled=True))) as server:
                assert server.sent == []

    asyncio.run(main())


def test_of_two_middlewares_the_outer_one_has_the_lifespan(cache: Cache) -> None:
    async def main() -> None:
        async with Server(CacheMiddleware(CacheMiddleware(takes_part, cache), cache)) as server:
            pass
        assert server.sent == COMPLETE

    asyncio.run(main())


# --- Waiting before the first byte


def test_what_was_invalidated_is_waited_for_once_before_the_headers(ready: Cache, exchange: Exchange) -> None:
    async def write(scope: Any, receive: Any, send: Any) -> None:
        for key in ("a", "b", "c"):
            await ready.ainvalidate(key, wait="response")
        exchange.events.append("ready")
        await begin(send)
        await go_on(send, b"1", more=True)
        await go_on(send, b"2")

    asyncio.run(exchange(CacheMiddleware(write, ready)))
    assert exchange.events == ["ready", "settled", "headers", "sent 1", "sent 2"]


def test_no_worker_has_the_old_value_when_the_headers_are_sent(pair: list[Cache], events: list[str]) -> None:
    mine, other = pair

    async def write(scope: Any, receive: Any, send: Any) -> None:
        await mine.ainvalidate("key", wait="response")
        await begin(send)

    class Looking(Exchange):
        async def send(self, message: Message) -> None:
            self.events.append(f"the other one has {await other.aget('key')!r}")

    async def main() -> None:
        for number in range(20):
            await mine.aset("key", number, wait="all")
            assert await other.aget("key") == number
            await Looking(events)(CacheMiddleware(write, mine))

    asyncio.run(main())
    assert [event for event in events if event.startswith("the other")] == ["the other one has None"] * 20


def test_what_a_thread_or_task_of_the_request_invalidates_is_waited_for(ready: Cache, exchange: Exchange) -> None:
    async def write(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(ready.invalidate, "a", wait="response")
        await asyncio.create_task(ready.ainvalidate("b", wait="response"))
        await begin(send)

    asyncio.run(exchange(CacheMiddleware(write, ready)))
    assert exchange.events == ["settled", "headers"]


def test_what_a_stream_invalidates_is_waited_for_before_its_next_byte(ready: Cache, exchange: Exchange) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await begin(send)
        await go_on(send, b"1", more=True)
        await ready.ainvalidate("key", wait="response")
        await go_on(send, b"2")
        await ready.ainvalidate("key", wait="response")  # like a background task

    asyncio.run(exchange(CacheMiddleware(stream, ready)))
    assert exchange.events == ["headers", "sent 1", "settled", "sent 2", "settled"]


def test_messages_pass_one_by_one_and_as_they_are(ready: Cache) -> None:
    messages: list[Message] = [
        {"type": "http.response.start", "status": 200, "headers": [], "trailers": True},
        {"type": "http.response.body", "body": b"1", "more_body": True},
        {"type": "http.response.pathsend", "path": "/file"},
        {"type": "http.response.trailers", "headers": []},
    ]
    sent: list[Message] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        for number, message in enumerate(messages, 1):
            await send(message)
            assert len(sent) == number

    async def keep(message: Message) -> None:
        sent.append(message)

    asyncio.run(CacheMiddleware(stream, ready)({"type": "http", "headers": []}, Exchange([]).receive, keep))
    assert [one is other for one, other in zip(sent, messages, strict=True)] == [True] * 4


# --- Applications that raise, and cancelled requests


@pytest.mark.parametrize("begun", [False, True], ids=["before the response", "in the middle"])
def test_an_application_that_raises_has_settled_and_the_exception_goes_on(
    ready: Cache, exchange: Exchange, begun: bool
) -> None:
    broken = KeyError("the application's own")

    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await begin(send)
        await ready.ainvalidate("key", wait="response")
        raise broken

    with pytest.raises(KeyError) as caught:
        asyncio.run(exchange(CacheMiddleware(breaks, ready)))
    assert caught.value is broken
    assert exchange.events == ["headers"] * begun + ["settled"]


def test_a_cancelled_request_ends_at_once(ready: Cache, exchange: Exchange) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def hangs(scope: Any, receive: Any, send: Any) -> None:
            await ready.ainvalidate("key", wait="response")
            begun.set()
            await asyncio.Event().wait()

        request = asyncio.create_task(exchange(CacheMiddleware(hangs, ready)))
        await begun.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(main())
    assert exchange.events == []


# --- Twice


def test_the_inner_one_of_two_does_nothing(ready: Cache, exchange: Exchange) -> None:
    twice = CacheMiddleware(CacheMiddleware(hello, ready, debug_header=True), ready, debug_header=True)
    asyncio.run(exchange(twice))
    assert [name for name, _ in exchange.headers].count(b"server-timing") == 1


# --- Headers


def test_the_debug_header_says_what_the_request_did(ready: Cache, exchange: Exchange) -> None:
    async def load(scope: Any, receive: Any, send: Any) -> None:
        await ready.aget_or_load("key", lambda: 1)
        await ready.ainvalidate("key", wait="response")
        await hello(scope, receive, send)

    asyncio.run(exchange(CacheMiddleware(load, ready, debug_header=True)))
    shown = exchange.header(b"server-timing")
    assert shown is not None
    assert re.fullmatch(r'colocache;desc="[a-z0-9= ]*";dur=\d+\.\d', shown)
    assert "loads=1" in shown


def announcing(cache: Cache) -> Application:
    """At a POST, announce something and do not wait."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            await cache.ainvalidate("key", wait=False)
        await hello(scope, receive, send)

    return application


@pytest.mark.parametrize("carrier", ["cookie", "header"])
def test_a_client_reads_its_write_to_another_worker_although_the_write_did_not_wait(
    pair: list[Cache], events: list[str], carrier: Any
) -> None:
    async def read(scope: Any, receive: Any, send: Any) -> None:
        await begin(send)
        await go_on(send, repr(await pair[1].aget("key")).encode())

    one = CacheMiddleware(announcing(pair[0]), pair[0], barrier=carrier)
    other = CacheMiddleware(read, pair[1], barrier=carrier, barrier_timeout=10)

    async def main() -> None:
        assert (await Exchange(events)(one)).header(b"set-cookie") is None
        for number in range(30):
            await pair[0].aset("key", number, wait="all")
            assert await pair[1].aget("key") == number
            written = await Exchange(events)(one, "POST")
            if carrier == "cookie":
                cookie = written.header(b"set-cookie")
                assert cookie is not None
                assert cookie.endswith("; Max-Age=5; Path=/; HttpOnly; SameSite=Lax")
                answer = await Exchange(events)(other, cookie=f"a=b; {cookie.split(';')[0]}")
            else:
                position = written.header(b"colocache-position")
                assert position is not None
                answer = await Exchange(events)(other, colocache_position=position)
            assert answer.chunks == [b"None"]

    asyncio.run(main())
    assert other.barriers_missed == 0


@pytest.mark.parametrize("text", ["", "x", "0" * 32 + ".1", "0" * 32 + ".g", "é" * 50, "a" * 100_000])
@pytest.mark.parametrize("carrier", ["cookie", "header"])
def test_nonsense_from_a_client_harms_nobody(ready: Cache, exchange: Exchange, carrier: Any, text: str) -> None:
    application = CacheMiddleware(announcing(ready), ready, barrier=carrier, barrier_timeout=0.01)
    brought = {"cookie": f"colocache={text}"} if carrier == "cookie" else {"colocache_position": text}
    asyncio.run(exchange(application, "POST", **brought))
    assert exchange.chunks == [b"hello"]


# --- Bad use


def test_sync_methods_in_async_code_do_nothing_and_say_what_to_do(ready: Cache, exchange: Exchange) -> None:
    async def mistaken(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["colocache"].get_or_load("key", lambda: 1)

    with pytest.raises(colocache.EventLoopError, match="await its twin instead"):
        asyncio.run(exchange(CacheMiddleware(mistaken, ready)))
    assert ready.stats().loads == 0
