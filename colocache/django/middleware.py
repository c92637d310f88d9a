"""The middleware for Django. It does what those for WSGI and ASGI do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.http import HttpRequest, HttpResponseBase

from colocache import Cache
from colocache.middleware import Middleware, Request
from colocache.scope import current

from ..interruptions import raise_if_from_handler
from .backend import ColocacheCache

SETTING = "COLOCACHE_MIDDLEWARE"


class CacheMiddleware:
    """Django's middleware. Put it first in MIDDLEWARE.

    The caches of CACHES join their groups at the first request of each worker process. A request's misses are
    remembered until it ends, so that a value that was computed before an invalidation is not stored after it. The
    setting COLOCACHE_MIDDLEWARE is a dict, and may hold the arguments ``debug_header``, ``barrier``, ``barrier_name``
    and ``barrier_timeout`` of `colocache.wsgi.CacheMiddleware`.

    It leaves out a cache that is disabled, and a cache with a middleware around the whole application. Trouble with the
    cache never fails a request. It runs under WSGI and ASGI, and needs no further thread.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        """Make it. This starts nothing. Raise MiddlewareNotUsed if CACHES has no cache for it."""
        self._answer = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        enabled = [cache for cache in _own_caches() if not cache.config.disabled]
        self._parts = [_part(get_response, cache, number) for number, cache in enumerate(enabled)]
        if not self._parts:
            raise MiddlewareNotUsed("no cache of CACHES is one of colocache's, or they are disabled")

    def __call__(self, request: HttpRequest) -> Any:
        """Answer a request."""
        if self._is_async:
            return self._acall(request)
        requests = self._requests(request)
        for each in requests:
            each.begin()
        with _within(requests):
            try:
                response = self._answer(request)
            finally:
                for each in requests:
                    each.settle()
        _add_headers(response, requests)
        return response

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        requests = self._requests(request)
        for each in requests:
            await each.abegin()
        with _within(requests):
            try:
                response: HttpResponseBase = await self._answer(request)
            finally:
                for each in requests:
                    await each.asettle()
        _add_headers(response, requests)
        return response

    def _requests(self, request: HttpRequest) -> list[Request]:
        return [_request(part, request) for part in self._parts if current(part.cache) is None]


def _own_caches() -> list[Cache]:
    """Return the caches behind CACHES, each once."""
    backends = [caches[alias] for alias in settings.CACHES]
    return list(dict.fromkeys(each.group.cache for each in backends if isinstance(each, ColocacheCache)))


def _part(get_response: Callable[..., Any], cache: Cache, number: int) -> Middleware:
    given = getattr(settings, SETTING, None) or {}
    try:
        part = Middleware(get_response, cache, **given)
    except (TypeError, ValueError) as error:
        raise_if_from_handler(error)
        raise ImproperlyConfigured(f"{SETTING} = {given!r}: {error}") from error
    if part.barrier is not None and number:
        # Otherwise the second cache would overwrite the cookie of the first.
        part.barrier.name = f"{part.barrier.name}-{number + 1}"
    return part


def _request(part: Middleware, request: HttpRequest) -> Request:
    brought = ""
    if part.barrier is not None:
        brought = request.headers.get("Cookie" if part.barrier.in_cookie else part.barrier.name, "")
    return Request(part, brought, request.is_secure())


def _within(requests: Iterable[Request]) -> ExitStack:
    stack = ExitStack()
    for each in requests:
        stack.enter_context(each.scope)
    return stack


def _add_headers(response: HttpResponseBase, requests: Iterable[Request]) -> None:
    for each in requests:
        for name, value in each.headers():
            if name == "Set-Cookie":
                response.cookies.load(value)
            elif name in response.headers:
                response.headers[name] = f"{response.headers[name]}, {value}"
            else:
                response.headers[name] = value
