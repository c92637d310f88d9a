"""The caches behind Django's aliases. A process has one for each group with its options.

Django makes a backend object for each thread, and for each request of an asynchronous server. These objects are
handles on the caches here. Nothing here starts anything, because a cache joins its group at its first use.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.encoding import force_bytes
from django.utils.module_loading import import_string

from colocache import Cache, Codec, ConfigError, PickleCodec, Space
from colocache.config import SETTINGS
from colocache.operations.drive import why_not_to_wait

from ..interruptions import raise_if_from_handler
from .codec import DjangoCodec
from .under_test import AliasCache, StandIn

BACKEND: Final = "colocache.django.ColocacheCache"
NAMESPACE: Final = "django"  # for the keys of Django. The application may use all others

#: What OPTIONS may contain besides the arguments of `colocache.Cache`.
OWN_OPTIONS: Final = ("codec", "fence", "wait")
CACHE_OPTIONS: Final = tuple(name for name in SETTINGS if name != "group")

#: Options of other backends that have no meaning here.
MEANINGLESS: Final = ("MAX_ENTRIES", "CULL_FREQUENCY")


class Group(NamedTuple):
    """A cache, and its views for Django's keys."""

    cache: Cache
    values: Space
    fenced: Space  # the same keys. A set after a miss is refused if an event named the key in between
    fence: bool  # whether all keys are fenced
    wait: bool  # whether writes return when no process serves the old value any more


def find(location: object, options: Mapping[str, Any]) -> Group:
    """Return the group of a backend's LOCATION and OPTIONS. Raise ImproperlyConfigured if they cannot be used."""
    known = (repr(location), *((name, repr(options[name])) for name in sorted(options)))
    group = _groups.get(known)
    # If two threads make it at the same time, both get the first one. The other one has started nothing.
    return group if group is not None else _groups.setdefault(known, _group(location, options))


#: By LOCATION and OPTIONS. For ever, because the content of a cache outlives its backend objects.
_groups: dict[tuple[Any, ...], Group] = {}

#: By LOCATION and the options of the cache itself. Aliases that differ only in other options share a cache.
_caches: dict[tuple[Any, ...], Cache] = {}

#: By alias, the caches that `cache_of` has returned. Decorated functions keep them when a test changes the backend.
_of_aliases: dict[str, Cache] = {}


def cache_of(alias: str = "default") -> Cache:
    """Return the `colocache.Cache` behind an alias of CACHES. It can do more than Django's interface.

    An example is ``@cache_of().cached(ttl=60, tags=...)``, whose hits are live objects. Its keys are separate from
    Django's. A module may call this when it is imported, because it starts nothing.

    The settings, for example those of tests, may give the alias another backend. Then the cache does what that backend
    does: it is private beside LocMemCache, and keeps nothing beside DummyCache. Beside any other backend it is private
    while tests run. Otherwise its first use raises ImproperlyConfigured.
    """
    backend = caches[alias]
    group = getattr(backend, "group", None)
    if isinstance(group, Group):
        _of_aliases[alias] = group.cache
        return group.cache
    if alias not in _of_aliases:
        _of_aliases.setdefault(alias, _audited(_stand_in(alias, backend)))
    return _of_aliases[alias]


def invalidate_tags_beside(backend: BaseCache, tags: Iterable[str]) -> None:
    """Invalidate tags in the caches that `cache_of` has returned for the aliases of a backend without tags."""
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
                f'{where}: OPTIONS["{name}"] means nothing here, and is ignored. The limit is the memory, '
                'for example OPTIONS={"memory": "64MiB"}',
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
        made = _caches.get(known) or _audited(AliasCache(location, codec=_codec(codec, where), **settings_of))
    except (ConfigError, TypeError) as error:
        raise_if_from_handler(error)
        raise ImproperlyConfigured(f"{where}: {error}") from error
    return _caches.setdefault(known, made)


def _audited(cache: Cache) -> Cache:
    cache.audit_within(closing_connections)
    return cache


@contextmanager
def closing_connections() -> Iterator[None]:
    """Close the connections of this thread at the end: Django gives each thread its own, and an audit's thread ends.

    On the thread of an event loop Django opens none.
    """
    try:
        yield
    finally:
        if not why_not_to_wait():
            connections.close_all()


def _codec(codec: object, where: str) -> Codec:
    if codec == "django":
        return DjangoCodec()
    if codec == "pickle":
        return PickleCodec(key=_signing_key())
    if isinstance(codec, str):
        try:
            codec = import_string(codec)
        except ImportError as error:
            raise_if_from_handler(error)
            raise ImproperlyConfigured(
                f'{where}: OPTIONS["codec"] is "django", "pickle", a codec or the dotted name of one, not {codec!r}: '
                f"{error}"
            ) from error
    if isinstance(codec, type):
        codec = codec()
    if not all(hasattr(codec, name) for name in ("name", "encode", "decode")):
        raise ImproperlyConfigured(f'{where}: OPTIONS["codec"] needs a name, encode() and decode(): {codec!r}')
    return codec  # type: ignore[return-value]


def _signing_key() -> bytes:
    """Return the key that signs pickles. It is a hash of SECRET_KEY, so it does not reveal that."""
    return blake2b(force_bytes(settings.SECRET_KEY), digest_size=32, person=b"colocache-django").digest()
