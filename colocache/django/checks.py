"""System checks: likely mistakes in CACHES and MIDDLEWARE. `manage.py check` and `runserver` show them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from django.conf import settings
from django.core import checks

from colocache import Config, ConfigError
from colocache.runtime.places import why_unusable

from ..interruptions import raise_if_from_handler
from .groups import BACKEND, CACHE_OPTIONS, MEANINGLESS

MIDDLEWARE: Final = "colocache.django.CacheMiddleware"

#: The middlewares that store pages when the response passes.
_FILLING: Final = ("django.middleware.cache.UpdateCacheMiddleware", "django.middleware.cache.CacheMiddleware")


def check_caches(app_configs: object = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Return what is wrong, or probably wrong, with our aliases and our middleware."""
    ours = {alias: config for alias, config in settings.CACHES.items() if config.get("BACKEND") == BACKEND}
    return [
        *_without_location(ours), *_meaningless(ours), *_in_two_parts(ours), *_out_of_order(), *_without_place(ours),
    ]  # fmt: skip


def _without_location(ours: dict[str, Any]) -> Iterable[checks.CheckMessage]:
    for alias, config in ours.items():
        location = config.get("LOCATION")
        if not isinstance(location, str) or not location.strip():
            yield checks.Error(
                f"CACHES[{alias!r}] has no LOCATION.",
                hint='Name the group of processes that share the cache, for example "LOCATION": "shop".',
                id="colocache.E001",
            )


def _meaningless(ours: dict[str, Any]) -> Iterable[checks.CheckMessage]:
    for alias, config in ours.items():
        for name in MEANINGLESS:
            if name in (config.get("OPTIONS") or {}) or name in config:
                yield checks.Warning(
                    f'CACHES[{alias!r}]: "{name}" means nothing to colocache, and is ignored.',
                    hint='What is kept is bounded by memory: give OPTIONS {"memory": "64MiB"}, or COLOCACHE_MEMORY.',
                    id="colocache.W002",
                )


def _in_two_parts(ours: dict[str, Any]) -> Iterable[checks.CheckMessage]:
    aliases = defaultdict(list)
    for alias, config in ours.items():
        aliases[repr(config.get("LOCATION"))].append(alias)
    for location, names in aliases.items():
        options = {repr(_shared(ours[alias].get("OPTIONS") or {})) for alias in names}
        if len(options) > 1:
            yield checks.Warning(
                f"The caches {', '.join(map(repr, names))} have the same LOCATION, {location}, and different OPTIONS.",
                hint="Each process joins the group once for each of them, with a thread and a memory of its own. Give "
                "them the same OPTIONS, or names of their own; KEY_PREFIX is enough to keep their keys apart.",
                id="colocache.W003",
            )


def _out_of_order() -> Iterable[checks.CheckMessage]:
    middleware = list(settings.MIDDLEWARE)
    before = middleware[: middleware.index(MIDDLEWARE)] if MIDDLEWARE in middleware else []
    for name in before:
        if name in _FILLING:
            yield checks.Warning(
                f"{name!r} stands before {MIDDLEWARE!r} in MIDDLEWARE.",
                hint=f"It stores pages after the request of {MIDDLEWARE!r} has ended, so it stores none: "
                "put the latter first.",
                id="colocache.W004",
            )


def _without_place(ours: dict[str, Any]) -> Iterable[checks.CheckMessage]:
    reasons = defaultdict(list)
    for alias, config in ours.items():
        options = config.get("OPTIONS") or {}
        given = {name: options[name] for name in CACHE_OPTIONS if name in options}
        try:
            settled = Config.resolve({"group": config.get("LOCATION"), **given}, os.environ)
        except (ConfigError, TypeError) as error:
            raise_if_from_handler(error)
            continue  # making the cache raises it
        if not settled.disabled and (reason := why_unusable(settled.directory)):
            reasons[reason].append(alias)
    for reason, names in reasons.items():
        yield checks.Warning(
            f"The caches {', '.join(map(repr, names))} cannot join their groups: {reason}.",
            hint="A process of this user caches nothing, and its invalidations reach no other process. Its requests "
            "do not fail because of that.",
            id="colocache.W005",
        )


def _shared(options: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted((name, value) for name, value in options.items() if name in {*CACHE_OPTIONS, "codec"})
