"""A plugin of pytest for Flask-Caching's own tests: colocache's backend in the place of its ``SimpleCache``.

The tests move a clock that cachelib reads. Here `advance` waits instead, and a test that would wait for longer than
ten seconds is skipped.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import flask_caching
import pytest
from flask import Flask
from flask_caching import backends
from flask_caching.backends import simplecache

from colocache import Cache
from colocache.flask import Backend

MOST = 10  # s

_group = Cache("flask-caching", fetch_timeout=20)
_prefixes = map(str, itertools.count())  # so that no test finds what another one has left


class ColocacheSimpleCache(Backend):
    """The backend, which can be made as ``SimpleCache`` is made, too."""

    def __init__(self, *args: Any, default_timeout: int = 300, ignore_delete_many_errors: bool = True) -> None:
        cache, prefix = args or (_group, next(_prefixes))
        super().__init__(cache, prefix, default_timeout, ignore_delete_many_errors)

    @classmethod
    def factory(cls, app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]) -> Backend:
        """Make one for an application, by colocache's own factory, and with a prefix of its own."""
        app.extensions.setdefault("colocache", _group)
        return super().factory(app, {**config, "CACHE_KEY_PREFIX": next(_prefixes)}, args, kwargs)


for _module in (flask_caching, backends, simplecache):
    _module.SimpleCache = ColocacheSimpleCache  # type: ignore[attr-defined]


def _advance(self: Any, seconds: float) -> None:
    if seconds > MOST:
        pytest.skip(f"waits for {seconds} s")
    time.sleep(seconds)


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """The tests' own conftest is there: have its clock wait."""
    for plugin in config.pluginmanager.get_plugins():
        if clock := getattr(plugin, "_Clock", None):
            clock.advance = _advance
