"""For Django: a cache backend, a middleware, and invalidation after commit::

    CACHES = {"default": {"BACKEND": "colocache.django.ColocacheCache", "LOCATION": "shop"}}
    MIDDLEWARE = ["colocache.django.CacheMiddleware", ...]
    INSTALLED_APPS = ["colocache.django", ...]

See `ColocacheCache`, `CacheMiddleware`, `invalidate_on_commit`, `invalidates`, `invalidate_with` and `cache_of`.
"""

from __future__ import annotations

from .backend import ColocacheCache
from .codec import DjangoCodec, register_response
from .commits import ainvalidate_on_commit, invalidate_on_commit, invalidates
from .groups import cache_of
from .middleware import CacheMiddleware
from .signals import invalidate_with

__all__ = [
    "CacheMiddleware",
    "ColocacheCache",
    "DjangoCodec",
    "ainvalidate_on_commit",
    "cache_of",
    "invalidate_on_commit",
    "invalidate_with",
    "invalidates",
    "register_response",
]
