"""The caches behind Django's aliases: one for each group and its options, in this process, whoever asks.

Django makes a backend object for each thread, and for each request of an asynchronous server; these are handles, and
what they are handles of is here. Nothing here starts anything: a cache joins its group at its first use.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.encoding import force_bytes
from django.utils.module_loading import import_string

from colocache import Cache, Codec, Config, ConfigError, PickleCodec, Space

from .codec import DjangoCodec
from .under_test import AliasCache, StandIn

BACKEND: Final = "colocache.django.ColocacheCache"
NAMESPACE: Final = "django"  # of a group, where the keys of Django are; the rest is the application's own

#: What OPTIONS may hold besides the arguments of `colocache.Cache`.
OWN_OPTIONS: Final = ("codec", "fence", "wait")
CACHE_OPTIONS: Final = tuple(field.name for field in dataclasses.fields(Config) if field.name != "group")

#: What other backends take, and which has no meaning here.
MEANINGLESS: Final = ("MAX_ENTRIES", "CULL_FREQUENCY")


class Group(NamedTuple):
    """A cache, and the views of it that Django's keys are in."""

    cache: Cache
    values: Space
    fenced: Space  # the same keys; a set after a miss is refused if the key had an event in between
    fence: bool  # whether all keys are to be fenced
    wait: bool  # whether writes return when no process serves the old value any more


def find(location: object, options: Mapping[str, Any]) -> Group:
    """Return the group of a backend's LOCATION and OPTIONS. Raises ImproperlyConfigured if they make no sense."""
    known = (repr(location), *((name, repr(options[name])) for name in sorted(options)))
    group = _groups.get(known)
    # Of two threads that make it at once, one wins, and the other's cache has started nothing yet.
    return group if group is not None else _groups.setdefault(known, _group(location, options))


#: By LOCATION and OPTIONS. For ever, as what is in the cache outlives those who use it.
_groups: dict[tuple[Any, ...], Group] = {}

#: By LOCATION and those options that are the cache's own: aliases that differ in the others share it.
_caches: dict[tuple[Any, ...], Cache] = {}


#: By alias, what `cache_of` has given: decorated functions keep it, though tests give the alias another backend.
_of_aliases: dict[str, Cache] = {}


def cache_of(alias: str = "default") -> Cache:
    """Return the `colocache.Cache` behind an alias of CACHES, for what Django's interface has no words for.

    Such as ``@cache_of().cached(ttl=60, tags=...)``, whose hits are live objects. Its keys are apart from Django's. It
    may be called when modules are imported, and starts nothing.

    Where the settings, those of tests for example, give the alias another backend, it is a cache that does what that
    backend does: beside LocMemCache a private one, beside DummyCache one that keeps nothing. Beside any other backend
    it is a private one while tests run, and its first use raises ImproperlyConfigured otherwise.
    """
    backend = caches[alias]
    group = getattr(backend, "group", None)
    if isinstance(group, Group):
        _of_aliases[alias] = group.cache
        return group.cache
    if alias not in _of_aliases:
        _of_aliases.setdefault(alias, _stand_in(alias, backend))
    return _of_aliases[alias]


def invalidate_tags_beside(backend: BaseCache, tags: Iterable[str]) -> None:
    """Invalidate tags where the alias of a backend that has none has a cache by `cache_of`."""
    for alias, cache in list(_of_aliases.items()):
        if alias in caches.settings and caches[alias] is backend:
            cache.invalidate_tags(*tags, wait="response")


def _stand_in(alias: str, backend: BaseCache) -> Cache:
    codec = DjangoCodec()
    if isinstance(backend, DummyCache):
        return Cache(alias, codec=codec, disabled=True)
    if isinstance(backend, LocMemCache):
        return Cache(alias, codec=codec, private=True)
    return StandIn(alias, codec=codec)


def _group(location: object, options: Mapping[str, Any]) -> Group:
    if not isinstance(location, str) or not location.strip():
        raise ImproperlyConfigured(
            f'a cache with BACKEND "{BACKEND}" needs a LOCATION: the name of the group of processes that share it, '
            f'such as "LOCATION": "shop"; it is {location!r}'
        )
    where = f'the cache with BACKEND "{BACKEND}" and LOCATION "{location}"'
    for name in MEANINGLESS:
        if name in options:
            warnings.warn(
                f'{where}: OPTIONS["{name}"] means nothing here and is ignored; what is kept is bounded by memory, '
                'as in OPTIONS={"memory": "64MiB"}',
                RuntimeWarning,
                stacklevel=2,
            )
    known = {*OWN_OPTIONS, *CACHE_OPTIONS, *MEANINGLESS}
    if unknown := sorted(set(options) - known):
        raise ImproperlyConfigured(
            f"{where}: OPTIONS has no {', '.join(map(repr, unknown))}; there are "
            f"{', '.join(sorted({*OWN_OPTIONS, *CACHE_OPTIONS}))}"
        )
    for name in ("fence", "wait"):
        if type(options.get(name, True)) is not bool:
            raise ImproperlyConfigured(f'{where}: OPTIONS["{name}"] is True or False, not {options[name]!r}')
    cache = _cache(location, options, where)
    values = cache.namespace(NAMESPACE, copy=True)
    fenced = cache.namespace(NAMESPACE, copy=True, fence=True)
    return Group(cache, values, fenced, options.get("fence", False), options.get("wait", True))


def _cache(location: str, options: Mapping[str, Any], where: str) -> Cache:
    settings_of = {name: options[name] for name in CACHE_OPTIONS if name in options}
    codec = options.get("codec", "django")
    known = (location, repr(codec), repr(sorted(settings_of.items())))
    try:
        made = _caches.get(known) or AliasCache(location, codec=_codec(codec, where), **settings_of)
    except (ConfigError, TypeError) as error:
        raise ImproperlyConfigured(f"{where}: {error}") from error
    return _caches.setdefault(known, made)


def _codec(codec: object, where: str) -> Codec:
    if codec == "django":
        return DjangoCodec()
    if codec == "pickle":
        return PickleCodec(key=_signing_key())
    if isinstance(codec, str):
        try:
            codec = import_string(codec)
        except ImportError as error:
            raise ImproperlyConfigured(
                f'{where}: OPTIONS["codec"] is "django", "pickle", a codec or the dotted name of one, not {codec!r}: '
                f"{error}"
            ) from error
    if isinstance(codec, type):
        codec = codec()
    if not all(hasattr(codec, name) for name in ("name", "encode", "decode")):
        raise ImproperlyConfigured(
            f'{where}: OPTIONS["codec"] has to have a name, encode() and decode(), and {codec!r} has not'
        )
    return codec  # type: ignore[return-value]


def _signing_key() -> bytes:
    """Return what pickles are signed with: made of SECRET_KEY, so that one cannot be had from the other."""
    return blake2b(force_bytes(settings.SECRET_KEY), digest_size=32, person=b"colocache-django").digest()
