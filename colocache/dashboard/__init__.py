"""A dashboard: what the processes of a host cache, and what that saves, in a browser.

Alone, as a process that only looks, it is the command ``colocache dashboard``. In an application it is mounted::

    dashboard = colocache.dashboard.make_wsgi_app(cache)

See `make_wsgi_app` and `make_asgi_app`. Nobody has a dashboard who does not ask for it in one of these ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from wsgiref.types import WSGIApplication

from .. import Cache
from ..middleware import checked_cache
from .application import Application
from .interfaces import ASGIApplication, as_asgi, as_wsgi
from .sessions import checked_token
from .source import OfCache

__all__ = ["make_asgi_app", "make_wsgi_app"]


def make_wsgi_app(cache: Cache, *, token: str | None = None, hosts: Iterable[str] | None = None) -> WSGIApplication:
    """Return a WSGI application that shows what the host of a cache has: names of keys, tags and functions, no values.

    Without ``token``, whoever reaches it may look, and nothing can be changed; so let only those reach it who may. With
    a token of 16 to 1024 printable ASCII characters, everybody is asked for it, and who gives it may invalidate, too.
    ``hosts`` are the names, without ports, by which browsers may ask for it; None is any.

    It joins the group at the first request. It keeps samples of what was counted from then on, each time somebody asks,
    in this process; a browser adds up those of several workers. Any thread may call it.

    Raise TypeError for what is no cache, and ValueError for a token that cannot be used.
    """
    return as_wsgi(make_application(cache, token, hosts))


def make_asgi_app(cache: Cache, *, token: str | None = None, hosts: Iterable[str] | None = None) -> ASGIApplication:
    """Return the same as an ASGI application. It looks in a thread, so that the event loop goes on."""
    return as_asgi(make_application(cache, token, hosts))


def make_application(cache: Cache, token: str | None = None, hosts: Iterable[str] | None = None) -> Application:
    """Return what both are made of, for those who carry requests in another way."""
    checked = None if token is None else checked_token(token)
    return Application(OfCache(checked_cache(cache)), checked, hosts)
