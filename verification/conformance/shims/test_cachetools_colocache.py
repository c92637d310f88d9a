"""cachetools' tests of decorators, with `colocache.Cache.cached` in the place of its own.

``cachetools.func`` has the protocol of `functools.lru_cache`, which colocache's decorator has as well. Its tests are
run as they are. Those of ``cachetools.cached`` look into the mapping that the decorator is given, at its locks and at
their conditions; only those are run that ask for none of these. Those of ``cachetools.cachedmethod`` are of a mapping
that each object has, and all others are of mappings.

A function of colocache's has no size of its own. The tests compare it everywhere, so it is put into the figures here.
And what was loaded is kept a moment after the call has returned, so there is a pause before the figures are read.
"""

from __future__ import annotations

import itertools
import time
import unittest
import unittest.mock
from typing import Any

import cachetools

from colocache import Cache

from . import test_cached, test_func

PAUSE = 0.2  # s

_group = Cache("cachetools", fetch_timeout=20)
_group.start()
_names = map("function-{}".format, itertools.count())


def decorator(size: Any = None, *, typed: bool = False, **_: object) -> Any:
    """Return what a decorator of cachetools returns that is given a function; or a size, or a mapping."""

    def decorate(function: Any) -> Any:
        decorated: Any = _group.cached(name=next(_names), ttl=0 if size == 0 else 60)(function)
        info, maxsize = decorated.cache_info, 128 if callable(size) else size

        def settled() -> Any:
            time.sleep(PAUSE)
            return info()._replace(maxsize=maxsize)

        decorated.cache_info = settled
        decorated.cache_parameters = lambda: {"maxsize": maxsize, "typed": typed}
        return decorated

    return decorate(size) if callable(size) else decorate


class TestFunc(unittest.TestCase, test_func.DecoratorTestMixin):
    """The tests of ``cachetools.func``."""

    DECORATOR = staticmethod(decorator)


class TestCached(unittest.TestCase):
    """The tests of ``cachetools.cached`` that do not look into the mapping."""

    test_decorator_method = test_cached.CacheWrapperTest.test_decorator_method
    test_autospec = test_cached.CacheWrapperTest.test_autospec
    test_decorator_wrapped = test_cached.CacheWrapperTest.test_decorator_wrapped
    func = test_cached.CacheWrapperTest.func

    def cache(self, size: int) -> dict[Any, Any]:
        """Return a mapping, which is not used."""
        return {}

    def setUp(self) -> None:
        """Have the tests decorate with colocache."""
        patch = unittest.mock.patch.object(cachetools, "cached", decorator)
        patch.start()
        self.addCleanup(patch.stop)
