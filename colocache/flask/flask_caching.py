"""The backend for Flask-Caching: ``CACHE_TYPE = "colocache.flask.Backend"``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, Literal, NamedTuple

from flask import Flask, Response, current_app
from flask_caching.backends.base import BaseCache
from werkzeug.exceptions import HTTPException, default_exceptions

from .. import MISSING, Cache, MsgpackCodec
from ..naming import shortened
from .extension import NAME, cache_of

LONGEST_KEY: Final = 200  # bytes; a longer key, such as the address of a page, ends in a hash

Timeout = int | timedelta | None


class StoredResponse(NamedTuple):
    """A response in the form in which it is stored."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes


class StoredError(NamedTuple):
    """An error that ended a view, such as ``abort(404)``, in the form in which it is stored."""

    code: int
    description: str | None


class Backend(BaseCache):
    """Flask-Caching's interface to a cache. Any thread may use it.

    The cache is that of `colocache.flask.FlaskCache`, if the application has this extension by then. Otherwise it is
    the cache that the ``COLOCACHE_*`` settings describe.

    Timeouts mean what they mean in Flask-Caching: None is ``CACHE_DEFAULT_TIMEOUT``, and 0 is for ever. A value is
    anything that the cache's codec carries, or a response. A reader gets a copy, and may change it.
    ``CACHE_KEY_PREFIX`` separates applications that share a group. `clear` deletes what is under the prefix.

    A value that was computed before its key was deleted is not stored afterwards.
    """

    def __init__(
        self, cache: Cache, prefix: str = "", default_timeout: int = 300, ignore_delete_many_errors: bool = False
    ) -> None:
        """Use a part of a cache."""
        super().__init__(default_timeout)
        self.ignore_delete_many_errors = ignore_delete_many_errors  # Flask-Caching wants it; there are no such errors
        if isinstance(cache.codec, MsgpackCodec):
            for stored in (StoredResponse, StoredError):
                cache.register(stored, name=f"colocache.flask:{stored.__name__}")
        name = "/".join(["flask-caching", *filter(None, prefix.split("/"))])
        self._plain = cache.namespace(name, copy=True)
        self._fenced = cache.namespace(name, copy=True, fence=True)
        self._log = cache._member.log

    @classmethod
    def factory(cls, app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]) -> Backend:
        """Make a backend. Flask-Caching calls this."""
        cache = app.extensions.get(NAME) or cache_of(config)
        return cls(cache, config["CACHE_KEY_PREFIX"] or "", *args, **kwargs)

    def get(self, key: str) -> Any:
        """Return the value, or None."""
        return _restored(self._fenced.get(_short(key)))

    def get_many(self, *keys: str) -> list[Any]:
        """Return the values, with None for each key without one."""
        found = self._fenced.get_many({_short(key) for key in keys})
        return [_restored(found.get(_short(key))) for key in keys]

    def has(self, key: str) -> bool:
        """Tell whether there is a value. It may be None."""
        return self._plain.get(_short(key), MISSING) is not MISSING

    def set(self, key: str, value: Any, timeout: Timeout = None) -> bool:
        """Store a value. Return False if its key was deleted since this request missed it."""
        # `delete_memoized` gives a function a new version, which all workers must see when it returns.
        wait: Literal["all", "stored"] = "all" if key.endswith("_memver") else "stored"
        with self._telling(key, value):
            return self._fenced.set(_short(key), _stored(value), ttl=self._ttl(timeout), wait=wait)

    def set_many(self, mapping: dict[str, Any], timeout: Timeout = None) -> list[str]:
        """Store values. Return the keys of the stored ones."""
        return [key for key, value in mapping.items() if self.set(key, value, timeout)]

    def add(self, key: str, value: Any, timeout: Timeout = None) -> bool:
        """Store a value if there is none. Tell whether it is stored."""
        with self._telling(key, value):
            return self._plain.add(_short(key), _stored(value), ttl=self._ttl(timeout))

    def delete(self, key: str) -> bool:
        """Delete a value in all workers before this returns. Tell whether there was one."""
        there = self.has(key)
        self._fenced.delete(_short(key))  # fenced, so that a request which deletes a key may set it
        return there

    def delete_many(self, *keys: str) -> list[str]:
        """Delete values. Return all keys, because none has a value now."""
        self._fenced.invalidate(*(_short(key) for key in keys))
        return list(keys)

    def clear(self) -> bool:
        """Delete everything under this application's prefix, in all workers."""
        return self._fenced.clear().complete

    def inc(self, key: str, delta: int = 1) -> int | None:
        """Add to a number, atomically in the whole group. A missing number counts as 0."""
        return self._plain.incr(_short(key), delta, initial=0, ttl=self._ttl(None))

    def dec(self, key: str, delta: int = 1) -> int | None:
        """Subtract from a number."""
        return self.inc(key, -delta)

    @contextmanager
    def _telling(self, key: str, value: Any) -> Iterator[None]:
        """Log a value that cannot be carried, because Flask-Caching catches the error, and is silent for fragments."""
        try:
            yield
        except TypeError as error:
            self._log.error(
                "Flask-Caching cannot cache what it is given for %s: %s",
                key,
                error,
                about=type(value).__name__,
                event="not_carried",
            )
            raise

    def _ttl(self, timeout: Timeout) -> float | None:
        seconds = self._normalize_timeout(timeout)
        return None if seconds == 0 else max(0, seconds)


def _short(key: str) -> str:
    return shortened(key, LONGEST_KEY)


def _stored(value: Any) -> Any:
    if isinstance(value, Response):
        if not value.is_sequence:
            raise TypeError("a streamed response cannot be cached: give it its whole body, or exclude its view")
        return StoredResponse(value.status, value.headers.to_wsgi_list(), value.get_data())
    if isinstance(value, HTTPException):
        more = [name for name, what in vars(value).items() if what is not None and name != "description"]
        if value.code is not None and type(value) is default_exceptions.get(value.code) and not more:
            return StoredError(value.code, value.description)
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, StoredResponse):
        return current_app.response_class(value.body, value.status, value.headers)
    if isinstance(value, StoredError):
        return default_exceptions[value.code](value.description)
    return value
