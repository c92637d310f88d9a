"""The application of the matrix, used as one should not: ``SERVERS_MISUSE`` says how. With gunicorn's settings."""

from __future__ import annotations

import os
from typing import Any

import colocache
from colocache.wsgi import CacheMiddleware
from verification.servers import served

MISUSE = os.environ["SERVERS_MISUSE"]

control_socket_disable = True  # for gunicorn, as in gunicorn.conf.py

if MISUSE == "used before the fork":
    served.cache.set("early", {"version": 1, "mark": "set by the master"})

if MISUSE == "two caches":
    second = colocache.Cache("servers")

    def read_twice(key: str) -> dict[str, Any]:
        """What the one and the other have to say of a key."""
        return {"first": served.read(key), "second": second.get_or_load(key, lambda: served.load(key))}

    served.ROUTES["twice"] = read_twice

application = CacheMiddleware(CacheMiddleware(served.wsgi, served.cache), served.cache)


def nworkers_changed(server: Any, _new: int, old: int | None) -> None:
    """Gunicorn's hook, called in the master: when it is told to run one worker more it makes a cache, and uses it."""
    if MISUSE == "made in the parent" and old:
        server.cache = colocache.Cache("servers")
        server.cache.start()
