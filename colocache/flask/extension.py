"""The extension for Flask: `colocache.flask.FlaskCache`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

from flask import Flask, current_app
from werkzeug.local import LocalProxy

from .. import Cache
from ..config import SETTINGS, Duration
from ..interruptions import raise_if_from_handler
from ..middleware import checked_cache
from ..wsgi import CacheMiddleware

NAME: Final = "colocache"
"""The key of the cache in ``app.extensions``."""


class FlaskCache:
    """Puts a cache into Flask applications: ``FlaskCache(app, cache)``, or ``init_app`` in an application factory.

    The cache joins its group at the first request of each worker process. Requests run inside
    `colocache.wsgi.CacheMiddleware`. `current_cache` is the cache of the current application.

    Without the argument ``cache`` the extension makes a cache for each application, from
    ``app.config["COLOCACHE_GROUP"]`` and the other ``COLOCACHE_*`` names in ``app.config``. These have the names of the
    environment variables, and win over them.
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
        """Make the extension, and call `init_app` if an application is given. The rest is for `CacheMiddleware`."""
        if app is not None and not isinstance(app, Flask):
            raise TypeError(f"app is a Flask application, not {type(app).__name__}: {app!r:.60}; name the others")
        self._cache = None if cache is None else checked_cache(cache)
        self._options: dict[str, Any] = {
            "debug_header": debug_header,
            "barrier": barrier,
            "barrier_name": barrier_name,
            "barrier_timeout": barrier_timeout,
        }
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the cache into an application. This starts nothing. A second call with the same cache does nothing.

        Audits call functions in a context of the application: see `Cache.audit_within`.

        Raise ConfigError for a setting that cannot be used, and RuntimeError if the application has another cache.
        """
        cache = self._cache or cache_of(app.config)
        if self._cache is not None and (ignored := sorted(settings_in(app.config))):
            warnings.warn(f"ignored in app.config, because the extension was given a cache: {ignored}", stacklevel=2)
        other = app.extensions.get(NAME)
        if other is cache:
            return
        if other is not None:
            raise RuntimeError(f"the application {app.name!r} has {other!r} already, and cannot have {cache!r}, too")
        app.extensions[NAME] = cache
        cache.audit_within(app.app_context)
        app.wsgi_app = CacheMiddleware(app.wsgi_app, cache, **self._options)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<colocache.flask.FlaskCache of {self._cache or 'the caches in app.config'!r}>"


def _current() -> Cache:
    try:
        return cast(Cache, current_app.extensions[NAME])
    except KeyError as error:
        raise_if_from_handler(error)
        raise RuntimeError(
            f"the application {current_app.name!r} has no cache: call FlaskCache(app, cache) when it is made"
        ) from None


current_cache = cast(Cache, LocalProxy(_current))
"""The cache of the current application. Its use raises RuntimeError if there is no application, or no cache."""


def settings_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a Flask configuration, as arguments of `Cache`. Warn of unknown names."""
    names = {setting.variable: name for name, setting in SETTINGS.items()}
    given = {key: value for key, value in config.items() if key.startswith("COLOCACHE_")}
    if unknown := sorted(given.keys() - names.keys()):
        warnings.warn(f"in app.config, but no settings of colocache: {unknown}; there are {[*names]}", stacklevel=4)
    return {names[key]: value for key, value in given.items() if key in names}


def cache_of(config: Mapping[str, Any]) -> Cache:
    """Return the cache that a Flask configuration describes. Applications with equal settings share it.

    Otherwise each application would be a member of the group, with a memory and a thread of its own.
    """
    settings = settings_in(config)
    described = repr(sorted(settings.items()))
    # If two threads make it at the same time, both get the first one. The other one has started nothing.
    return _made.get(described) or _made.setdefault(described, Cache(**settings))


_made: dict[str, Cache] = {}  # for the life of the process
