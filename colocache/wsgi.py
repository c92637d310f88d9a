"""The middleware for WSGI applications: `colocache.wsgi.CacheMiddleware`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast
from wsgiref.types import StartResponse, WSGIEnvironment

from .middleware import KEY, Middleware, Request

__all__ = ["CacheMiddleware"]

_END: Final = object()


class CacheMiddleware(Middleware):
    """A WSGI application around another one: ``application = CacheMiddleware(application, cache)``.

    The cache joins its group at the first request of each worker process. A request finds it as
    ``environ["colocache"]``. Fences belong to the request. Nothing is buffered. `Middleware` describes the other
    arguments.

    Trouble with the cache never fails a request. A second middleware around the same application does nothing, and a
    middleware of a disabled cache does nothing.
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ.get(KEY) is self.cache:
            return self._pass(environ, start_response)
        environ[KEY] = self.cache
        if self.cache.config.disabled:
            return self._pass(environ, start_response)
        request = Request(self, self._brought(environ), environ.get("wsgi.url_scheme") == "https")
        request.begin()
        response = _Response(request, start_response)
        with request.scope:
            try:
                body = self._pass(environ, response.start)
            except Exception:
                request.settle()
                request.scope.close()
                raise
            response.hand_on()
            if not _runs_no_code(body, environ):
                return _Body(body, request, response)
            request.scope.close()
            return body

    def _pass(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return cast(Iterable[bytes], self.app(environ, start_response))

    def _brought(self, environ: WSGIEnvironment) -> str:
        if self.barrier is None:
            return ""
        name = "COOKIE" if self.barrier.in_cookie else self.barrier.name.upper().replace("-", "_")
        return str(environ.get(f"HTTP_{name}", ""))


class _Response:
    """The start of a response, held back until the application returns, writes, or gives its first chunk."""

    def __init__(self, request: Request, start_response: StartResponse) -> None:
        self._request = request
        self._start_response = start_response
        self._held: tuple[str, list[tuple[str, str]], tuple[Any, ...]] | None = None
        self._write: Callable[[bytes], object] | None = None

    def start(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        """Be the ``start_response`` of the application."""
        if self._held is not None and not any(exc_info):
            self.hand_on()  # so that the server complains about the second call
        if self._write is not None:
            return self._start_response(status, headers, *exc_info)
        self._held = (status, headers, exc_info)
        return self._write_settled

    def hand_on(self) -> None:
        """Wait for what the application announced. Then give the server the headers, unless it has them."""
        self._request.settle()
        if self._held is not None:
            (status, headers, exc_info), self._held = self._held, None
            self._write = self._start_response(status, [*headers, *self._request.headers()], *exc_info)

    def _write_settled(self, data: bytes) -> None:
        self.hand_on()
        assert self._write is not None
        self._write(data)


class _Body:
    """A response whose chunks are made while they are sent.

    Each is made inside the request's scope, and sent after everything that the application announced before.
    """

    def __init__(self, body: Iterable[bytes], request: Request, response: _Response) -> None:
        self._body = body
        self._chunks = iter(body)
        self._request = request
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self._request.scope:
            try:
                chunk: object = next(self._chunks, _END)
            except Exception:
                self._request.settle()
                raise
            self._response.hand_on()
            if chunk is _END:
                raise StopIteration
            return cast(bytes, chunk)

    def close(self) -> None:
        """Close the application's own response, because the server has closed this one."""
        with self._request.scope:
            try:
                if hasattr(self._body, "close"):
                    self._body.close()
            finally:
                self._request.settle()
                self._request.scope.close()


def _runs_no_code(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Tell whether a response is a list or a file, so that to send it runs no code of the application.

    A server may know how to send a file faster than by reading it. It looks at the type, so it must get that file.
    """
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type) and isinstance(body, wrapper):
        return True
    return type(body) in (list, tuple) or hasattr(body, "read")
