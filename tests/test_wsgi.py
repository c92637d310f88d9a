"""The WSGI middleware, with real caches and a server that records what it gets, in order."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

import colocache
from colocache import Cache
from colocache.scope import Scope
from colocache.wsgi import CacheMiddleware
from tests.conftest import PATIENCE

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Exchange:
    """One request and its response, as a server sees them. ``events`` records what happened, in order."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []
        self.body: Any = None

    def __call__(self, application: Application, **environ: Any) -> Exchange:
        """Do it."""
        setup_testing_defaults(environ)
        self.body = application(environ, self.start_response)
        try:
            for chunk in self.body:
                assert self.status, "the application gave a chunk before it called start_response"
                self.write(chunk)
        except BaseException:
            self.events.append("raised")
            raise
        finally:
            if hasattr(self.body, "close"):
                self.body.close()
                self.events.append("closed")
        assert self.status, "the application has not called start_response"
        return self

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Be the server's part of the interface."""
        if exc_info and self.chunks:
            raise exc_info[1].with_traceback(exc_info[2])
        assert exc_info or not self.status, "start_response was called twice"
        self.events.append("headers")
        self.status, self.headers = status, headers
        return self.write

    def write(self, chunk: bytes) -> None:
        """Send a part of the response."""
        self.events.append(f"sent {chunk.decode()}")
        self.chunks.append(chunk)

    def header(self, name: str) -> str | None:
        """Return the value of a header. The name is in small letters."""
        return next((value for key, value in self.headers if key.lower() == name), None)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of what happens: waits for receipts in any scope, and the events of an exchange."""
    happened: list[str] = []
    settle = Scope.settle

    def noted(self: Scope) -> Any:
        receipt = settle(self)
        if receipt is not None:
            assert receipt.complete
            happened.append("settled")
        return receipt

    monkeypatch.setattr(Scope, "settle", noted)
    return happened


@pytest.fixture
def pair(new_group: Any) -> list[Cache]:
    """Return two members that hear each other. They wait long enough for a busy machine."""
    return new_group(2)  # type: ignore[no-any-return]


@pytest.fixture
def exchange(events: list[str]) -> Exchange:
    """Return an exchange."""
    return Exchange(events)


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with a short text."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


# --- When it starts


def test_making_one_starts_nothing_and_the_first_request_joins_the_group(cache: Cache, exchange: Exchange) -> None:
    application = CacheMiddleware(hello, cache)
    assert cache.members() == []
    assert exchange(application).chunks == [b"hello"]
    assert [member.me for member in cache.members()] == [True]


def test_the_application_finds_the_cache_in_the_environ(cache: Cache, exchange: Exchange) -> None:
    found: list[Any] = []

    def look(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        found.append(environ["colocache"])
        return hello(environ, start_response)

    exchange(CacheMiddleware(look, cache))
    assert found == [cache]


FORKS = """\
import os
import colocache
from colocache.wsgi import CacheMiddleware
cache = colocache.Cache("forked")
application = CacheMiddleware(lambda environ, start_response: [], cache)
application({}, None)
parent = cache.members()[0].seat
child = os.fork()
if child == 0:
    assert not cache.members()
    application({}, None)
    os._exit(0 if any(each.me and each.seat != parent for each in cache.members()) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_worker_joins_with_its_own_first_request(run_dir: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_a_cache_that_cannot_join_fails_no_request(
    new_cache: Any, exchange: Exchange, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "file"
    place.write_text("not a directory")
    assert exchange(CacheMiddleware(hello, new_cache(directory=str(place)))).chunks == [b"hello"]
    assert "cannot start, and requests go on without it" in caplog.text
    assert str(place) in caplog.text


def test_a_closed_cache_is_logged_and_requests_go_on(
    cache: Cache, events: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cache.close()
    application = CacheMiddleware(hello, cache)
    for _ in range(2):
        assert Exchange(events)(application).chunks == [b"hello"]
    assert caplog.text.count("is closed; make a new one") == 1


def test_a_disabled_cache_is_in_the_environ_and_nothing_else_happens(new_cache: Any, exchange: Exchange) -> None:
    cache = new_cache(disabled=True)

    def write(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["colocache"].invalidate("key", wait="response")
        return hello(environ, start_response)

    application = CacheMiddleware(write, cache, debug_header=True, barrier=True)
    assert exchange(application).headers == [("Content-Type", "text/plain")]
    assert exchange.chunks == [b"hello"]
    assert cache.members() == []


# --- Waiting before the first byte


def writer(body: Callable[[Cache, Any], Any]) -> Application:
    """Return an application that calls a function with the cache and start_response."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        return body(environ["colocache"], start_response)

    return application


def test_what_was_invalidated_is_waited_for_once_before_the_headers(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        for key in ("a", "b", "c"):
            cache.invalidate(key, wait="response")
        exchange.events.append("returned")
        return [b"1", b"2"]

    exchange(CacheMiddleware(writer(body), ready))
    assert exchange.events == ["returned", "settled", "headers", "sent 1", "sent 2"]


def test_no_worker_has_the_old_value_when_the_headers_are_sent(pair: list[Cache], events: list[str]) -> None:
    mine, other = pair

    def body(cache: Cache, start_response: Any) -> list[bytes]:
        cache.invalidate("key", wait="response")
        start_response("200 OK", [])
        return [b""]

    class Looking(Exchange):
        def start_response(self, *arguments: Any) -> Any:
            self.events.append(f"the other one has {other.get('key')!r}")
            return super().start_response(*arguments)

    for number in range(20):
        mine.set("key", number, wait="all")
        assert other.get("key") == number
        Looking(events)(CacheMiddleware(writer(body), mine))
    assert [event for event in events if event.startswith("the other")] == ["the other one has None"] * 20


def test_a_generator_that_invalidates_before_its_first_chunk_is_waited_for(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> Iterator[bytes]:
        cache.invalidate("key", wait="response")
        start_response("200 OK", [])
        yield b"1"
        yield b"2"

    exchange(CacheMiddleware(writer(body), ready))
    assert exchange.events == ["settled", "headers", "sent 1", "sent 2", "closed"]


def test_a_generator_without_a_chunk_is_waited_for_too(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> Iterator[bytes]:
        start_response("204 No Content", [])
        cache.invalidate("key", wait="response")
        yield from ()

    exchange(CacheMiddleware(writer(body), ready))
    assert exchange.events == ["settled", "headers", "closed"]


def test_what_a_stream_invalidates_is_waited_for_before_its_next_byte(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])

        def stream() -> Iterator[bytes]:
            yield b"1"
            cache.invalidate("key", wait="response")
            yield b"2"
            cache.invalidate("key", wait="response")

        return stream()

    exchange(CacheMiddleware(writer(body), ready))
    assert exchange.events == ["headers", "sent 1", "settled", "sent 2", "settled", "closed"]


def test_a_stream_is_not_buffered(ready: Cache, exchange: Exchange) -> None:
    made: list[int] = []

    def body(cache: Cache, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return (made.append(n) or str(n).encode() for n in range(3))  # type: ignore[func-returns-value]

    application = CacheMiddleware(writer(body), ready)
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    chunks = iter(application(environ, exchange.start_response))
    assert made == []
    assert [next(chunks), made.copy(), next(chunks), made.copy()] == [b"0", [0], b"1", [0, 1]]


def test_what_is_written_by_write_is_waited_for(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        cache.invalidate("key", wait="response")
        write(b"1")
        cache.invalidate("key", wait="response")
        write(b"2")
        return []

    exchange(CacheMiddleware(writer(body), ready))
    assert exchange.events == ["settled", "headers", "sent 1", "settled", "sent 2"]


def test_what_is_invalidated_while_closing_is_waited_for(ready: Cache, exchange: Exchange) -> None:
    class Body(list[bytes]):
        def close(self) -> None:
            ready.invalidate("key", wait="response")

    def body(cache: Cache, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body([b"1"])

    exchange(CacheMiddleware(writer(body), ready))
    assert exchange.events == ["headers", "sent 1", "settled", "closed"]


def test_a_request_that_invalidates_nothing_does_not_wait(ready: Cache, exchange: Exchange) -> None:
    exchange(CacheMiddleware(hello, ready))
    assert exchange.events == ["headers", "sent hello"]


# --- Applications that raise


def test_an_application_that_raises_has_settled_and_the_exception_goes_on(ready: Cache, exchange: Exchange) -> None:
    broken = KeyError("the application's own")

    def body(cache: Cache, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        cache.invalidate("key", wait="response")
        raise broken

    with pytest.raises(KeyError) as caught:
        exchange(CacheMiddleware(writer(body), ready))
    assert caught.value is broken
    assert exchange.events == ["settled"]


def test_a_stream_that_raises_has_settled_and_the_exception_goes_on(ready: Cache, exchange: Exchange) -> None:
    broken, closed = KeyError("the application's own"), []

    def body(cache: Cache, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"1"
            cache.invalidate("key", wait="response")
            raise broken
        finally:
            closed.append(True)

    with pytest.raises(KeyError) as caught:
        exchange(CacheMiddleware(writer(body), ready))
    assert caught.value is broken
    assert exchange.events == ["headers", "sent 1", "settled", "raised", "closed"]
    assert closed == [True]


def test_an_error_of_the_server_at_the_end_of_a_stream_is_shown_alone(ready: Cache) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("204 No Content", [])
        yield from ()

    def refuse(status: str, headers: Any, *exc_info: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        list(CacheMiddleware(application, ready)({}, refuse))
    assert caught.value.__context__ is None


def test_an_application_may_replace_its_headers_after_an_error(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        try:
            raise ValueError
        except ValueError as error:
            start_response("500 Oops", [], (type(error), error, error.__traceback__))
        return [b"sorry"]

    exchange(CacheMiddleware(writer(body), ready))
    assert (exchange.status, exchange.events) == ("500 Oops", ["headers", "sent sorry"])


def test_the_server_raises_an_error_after_the_first_byte(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"1"
        try:
            raise ValueError("in the middle")
        except ValueError as error:
            start_response("500 Oops", [], (type(error), error, error.__traceback__))

    with pytest.raises(ValueError, match="in the middle"):
        exchange(CacheMiddleware(writer(body), ready))


def test_the_server_refuses_a_second_call_of_start_response(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        start_response("201 Created", [])
        return []

    with pytest.raises(AssertionError, match="twice"):
        exchange(CacheMiddleware(writer(body), ready))


# --- What it must not change


def test_a_body_is_closed_once(ready: Cache, exchange: Exchange) -> None:
    closed: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"1"])

        def close(self) -> None:
            closed.append("closed")

    def body(cache: Cache, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body()

    exchange(CacheMiddleware(writer(body), ready))
    assert (closed, exchange.chunks) == (["closed"], [b"1"])


@pytest.mark.parametrize("kind", [FileWrapper, io.BytesIO, list], ids=["file_wrapper", "file", "list"])
def test_lists_and_files_come_to_the_server_as_they_are(ready: Cache, exchange: Exchange, kind: Any) -> None:
    made: list[Any] = []

    def send(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        made.append([b"1"] if kind is list else kind(io.BytesIO(b"1")) if kind is FileWrapper else kind(b"1"))
        return made[0]

    exchange(CacheMiddleware(send, ready), **{"wsgi.file_wrapper": FileWrapper})
    assert exchange.body is made[0]
    assert exchange.chunks == [b"1"]


def test_a_file_wrapper_that_is_a_function_as_in_some_servers_does_no_harm(ready: Cache, exchange: Exchange) -> None:
    def send(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"1"))

    exchange(CacheMiddleware(send, ready), **{"wsgi.file_wrapper": lambda file: file})
    assert exchange.chunks == [b"1"]


@pytest.mark.parametrize("lazy", [False, True], ids=["list", "generator"])
def test_it_passes_the_validator_of_wsgi(ready: Cache, exchange: Exchange, lazy: bool) -> None:
    def generator(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield from hello(environ, start_response)

    # Not around the inner one, because the validator wants texts for names without a dot in the environ.
    outer = validator(CacheMiddleware(generator if lazy else hello, ready, debug_header=True, barrier=True))
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    body = outer(environ, exchange.start_response)
    assert list(body) == [b"hello"]
    body.close()  # type: ignore[attr-defined]


# --- Twice


def test_the_inner_one_of_two_does_nothing(ready: Cache, exchange: Exchange) -> None:
    twice = CacheMiddleware(CacheMiddleware(hello, ready, debug_header=True), ready, debug_header=True)
    assert [name for name, _ in exchange(twice).headers].count("Server-Timing") == 1


def test_two_caches_of_two_groups_are_both_served(new_cache: Any, exchange: Exchange, until: Any) -> None:
    inner, outer = new_cache("inner"), new_cache("outer")
    for each in (inner, outer):
        each.start()

    def body(cache: Cache, start_response: Any) -> list[bytes]:
        assert cache is inner
        start_response("200 OK", [])
        inner.invalidate("key", wait="response")
        outer.invalidate("key", wait="response")
        return [b"1"]

    exchange(CacheMiddleware(CacheMiddleware(writer(body), inner), outer))
    assert exchange.events == ["settled", "settled", "headers", "sent 1"]


def test_two_caches_of_one_group_in_a_process_are_logged(
    new_cache: Any, events: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = new_cache("twice"), new_cache("twice")
    Exchange(events)(CacheMiddleware(hello, first))
    assert "two caches" not in caplog.text
    Exchange(events)(CacheMiddleware(hello, second))
    assert " twice: this process has two caches of this group" in caplog.text


def test_a_cache_in_the_place_of_a_closed_one_is_not_a_second_one(
    new_cache: Any, events: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        cache = new_cache("again")
        Exchange(events)(CacheMiddleware(hello, cache))
        cache.close()
    assert "two caches" not in caplog.text


# --- The debug header


def test_the_debug_header_says_what_the_request_did(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> list[bytes]:
        cache.get_or_load("key", lambda: 1)
        cache.invalidate("key", wait="response")
        start_response("200 OK", [])
        return []

    shown = exchange(CacheMiddleware(writer(body), ready, debug_header=True)).header("server-timing")
    assert shown is not None
    assert re.fullmatch(r'colocache;desc="[a-z0-9= ]*";dur=\d+\.\d', shown)
    assert "loads=1" in shown
    assert "invalidations=1" in shown


# --- The barrier


def announcing(**options: Any) -> Application:
    """Return an application that announces something, with these options, at a POST."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            environ["colocache"].invalidate("key", **options)
        return hello(environ, start_response)

    return application


@pytest.mark.parametrize("wait", [False, True, "response"])
def test_a_client_that_wrote_gets_a_cookie_with_the_position(ready: Cache, events: list[str], wait: Any) -> None:
    application = CacheMiddleware(announcing(wait=wait), ready, barrier=True)
    assert Exchange(events)(application).header("set-cookie") is None
    cookie = Exchange(events)(application, REQUEST_METHOD="POST").header("set-cookie")
    assert cookie is not None
    assert re.fullmatch(r"colocache=[0-9a-f.-]+; Max-Age=5; Path=/; HttpOnly; SameSite=Lax", cookie)


def test_the_cookie_of_a_safe_site_is_secure_and_may_have_another_name(ready: Cache, exchange: Exchange) -> None:
    application = CacheMiddleware(announcing(wait=False), ready, barrier="cookie", barrier_name="seen")
    cookie = exchange(application, REQUEST_METHOD="POST", **{"wsgi.url_scheme": "https"}).header("set-cookie")
    assert cookie is not None
    assert cookie.startswith("seen=")
    assert cookie.endswith("; Secure")


@pytest.mark.parametrize("carrier", ["cookie", "header"])
def test_a_client_reads_its_write_to_another_worker_although_the_write_did_not_wait(
    pair: list[Cache], events: list[str], carrier: Any
) -> None:
    def read(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [repr(environ["colocache"].get("key")).encode()]

    one = CacheMiddleware(announcing(wait=False), pair[0], barrier=carrier)
    other = CacheMiddleware(read, pair[1], barrier=carrier, barrier_timeout=10)
    for number in range(30):
        pair[0].set("key", number, wait="all")
        assert pair[1].get("key") == number
        written = Exchange(events)(one, REQUEST_METHOD="POST")
        if carrier == "cookie":
            brought = {"HTTP_COOKIE": f"a=b; {written.header('set-cookie').split(';')[0]}; c=d"}  # type: ignore[union-attr]
        else:
            brought = {"HTTP_COLOCACHE_POSITION": written.header("colocache-position")}
        assert Exchange(events)(other, **brought).chunks == [b"None"]
    assert other.barriers_missed == 0


def test_a_client_reads_its_write_although_another_worker_has_left(
    pair: list[Cache], events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[tuple[str, bool]] = []
    catch_up = Cache.catch_up

    def noted(self: Cache, position: str, timeout: float | None = None) -> bool:
        waits.append((position, catch_up(self, position, timeout)))
        return waits[-1][1]

    monkeypatch.setattr(Cache, "catch_up", noted)
    one = CacheMiddleware(announcing(wait=False), pair[0], barrier="header")
    other = CacheMiddleware(hello, pair[1], barrier="header", barrier_timeout=10)
    position = Exchange(events)(one, REQUEST_METHOD="POST").header("colocache-position")
    left = f"{'ab' * 16}.5"
    Exchange(events)(other, HTTP_COLOCACHE_POSITION=f"{left}-{position}")
    assert waits == [(left, False), (position, True)]


@pytest.mark.parametrize(
    "text",
    ["", "=", "x", "-", ".", "0" * 32 + ".1", "g" * 32 + ".1", "0" * 32 + ".-1", "\x00", "é" * 40, "٣" * 32 + ".1",
     "-".join(["0" * 32 + ".1"] * 1000), "a" * 100_000, "0" * 32 + "." + "f" * 1000],
)  # fmt: skip
@pytest.mark.parametrize("carrier", ["cookie", "header"])
def test_nonsense_from_a_client_harms_nobody(ready: Cache, events: list[str], carrier: Any, text: str) -> None:
    application = CacheMiddleware(announcing(wait=False), ready, barrier=carrier, barrier_timeout=0.01)
    brought = {"HTTP_COOKIE": f"colocache={text}"} if carrier == "cookie" else {"HTTP_COLOCACHE_POSITION": text}
    answer = Exchange(events)(application, REQUEST_METHOD="POST", **brought)
    assert answer.chunks == [b"hello"]
    assert all(len(value) < 1000 and value.isascii() for _, value in answer.headers)


def test_requests_under_a_closed_cache_go_on_with_a_barrier_too(ready: Cache, events: list[str]) -> None:
    application = CacheMiddleware(announcing(wait=False), ready, barrier="header")
    position = Exchange(events)(application, REQUEST_METHOD="POST").header("colocache-position")
    ready.close()
    assert Exchange(events)(application, HTTP_COLOCACHE_POSITION=position).chunks == [b"hello"]


# --- Bad use


def test_a_wsgi_application_on_the_thread_of_an_event_loop_learns_what_to_do(ready: Cache, exchange: Exchange) -> None:
    def body(cache: Cache, start_response: Any) -> list[bytes]:
        with pytest.raises(colocache.EventLoopError, match="await its twin"):
            cache.get_or_load("key", lambda: 1)
        return hello({}, start_response)

    async def misuse() -> None:
        exchange(CacheMiddleware(writer(body), ready))

    asyncio.run(misuse())
    assert exchange.chunks == [b"hello"]


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("not an application", None), {}, "app is the application to wrap"),
        ((hello, "shop"), {}, "cache is a colocache.Cache, not str: 'shop'"),
        ((hello, None), {"barrier": "token"}, "barrier is False, True, 'cookie' or 'header', not 'token'"),
        ((hello, None), {"barrier": True, "barrier_name": "a b"}, "barrier_name='a b'"),
        ((hello, None), {"barrier": True, "barrier_timeout": -1}, "barrier_timeout=-1"),
        ((hello, None), {"barrier": True, "barrier_timeout": float("nan")}, "barrier_timeout=nan"),
        ((hello, None), {"barrier": True, "barrier_timeout": "soon"}, "barrier_timeout='soon' cannot be used"),
    ],
)
def test_an_unusable_argument_is_named(cache: Cache, arguments: Any, options: Any, text: str) -> None:
    app, other = arguments
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        CacheMiddleware(app, other or cache, **options)


def test_it_says_nothing_when_nothing_is_wrong(
    ready: Cache, events: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    application = CacheMiddleware(announcing(wait="response"), ready, barrier=True, debug_header=True)
    for _ in range(3):
        Exchange(events)(application, REQUEST_METHOD="POST")
    assert caplog.records == []
