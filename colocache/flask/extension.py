"""The extension for Flask; users import it as `colocache.flask.FlaskCache`."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

from flask import Flask, current_app
from werkzeug.local import LocalProxy

from .. import Cache
from ..config import SETTINGS, Duration
from ..wsgi import CacheMiddleware

NAME: Final = "colocache"
"""Where the extension stands in ``app.extensions``."""


class FlaskCache:
    """Puts a cache into Flask applications: ``FlaskCache(app, cache)``, or ``init_app`` in an application factory.

    The cache joins its group with the first request of each worker process, requests run inside of
    `colocache.wsgi.CacheMiddleware`, and `current_cache` is the cache of the application at work. Without a cache the
    extension makes one for each application, from ``app.config["COLOCACHE_GROUP"]`` and its other ``COLOCACHE_*``
    names, which are those of the environment variables, and win over them.
    """

    def __init__(
        self,
        app: Flask | None = None,
        cache: Cache | None = None,
        *,
        debug_header: bool = False,
        barrier: bool | Literal["cookie", "header"] = False,
        barrier_name: str | None = None,
        barrier_timeout: Duration | None = None,
    ) -> None:
        """Make the extension, and `init_app` the application if one is given. The rest is `CacheMiddleware`'s."""
        if app is not None and not isinstance(app, Flask):
            raise TypeError(f"app is a Flask application, not {type(app).__name__}: {app!r:.60}; name the others")
        if cache is not None and not isinstance(cache, Cache):
            raise TypeError(f"cache is a colocache.Cache, not {type(cache).__name__}: {cache!r:.60}")
        self._cache = cache
        self._options: dict[str, Any] = {
            "debug_header": debug_header,
            "barrier": barrier,
            "barrier_name": barrier_name,
            "barrier_timeout": barrier_timeout,
        }
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the cache into an application; once more with the same cache does nothing. Starts nothing.

        Raises ConfigError for a setting that cannot be used, and RuntimeError if the application has another cache.
        """
        cache = self._cache or cache_of(app.config)
        if self._cache is not None and (ignored := sorted(settings_in(app.config))):
            warnings.warn(f"ignored in app.config, since the extension was given a cache: {ignored}", stacklevel=2)
        other = app.extensions.get(NAME)
        if other is cache:
            return
        if other is not None:
            raise RuntimeError(f"the application {app.name!r} has {other!r} already, and cannot have {cache!r}, too")
        app.extensions[NAME] = cache
        app.wsgi_app = CacheMiddleware(app.wsgi_app, cache, **self._options)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<colocache.flask.FlaskCache of {self._cache or 'the caches in app.config'!r}>"


def _current() -> Cache:
    try:
        return cast(Cache, current_app.extensions[NAME])
    except KeyError:
        raise RuntimeError(
            f"the application {current_app.name!r} has no cache: call FlaskCache(app, cache) when it is made"
        ) from None


current_cache = cast(Cache, LocalProxy(_current))
"""The cache of the application at work. RuntimeError outside of an application context, or where it has none."""


def settings_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a Flask configuration, as arguments of `Cache`; warns of names that are none."""
    names = {setting.variable: name for name, setting in SETTINGS.items()}
    given = {key: value for key, value in config.items() if key.startswith("COLOCACHE_")}
    if unknown := sorted(given.keys() - names.keys()):
        warnings.warn(f"in app.config, but no settings of colocache: {unknown}; there are {[*names]}", stacklevel=4)
    return {names[key]: value for key, value in given.items() if key in names}


def cache_of(config: Mapping[str, Any]) -> Cache:
    """Return the cache that a Flask configuration describes: one for all applications that describe it alike.

    A second cache of the same group would be a second member, with a memory and a thread of its own.
    """
    settings = settings_in(config)
    described = repr(sorted(settings.items()))
    with _making:
        cache = _made.get(described)
        if cache is None:
            cache = _made[described] = Cache(**settings)
        return cache


_made: weakref.WeakValueDictionary[str, Cache] = weakref.WeakValueDictionary()
_making = threading.Lock()
