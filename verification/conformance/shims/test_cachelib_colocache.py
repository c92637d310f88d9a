"""cachelib's tests of the interface that its caches have in common, with colocache's backend for Flask-Caching.

Those of ``SimpleCache`` are run as well, because some of them are of the interface, too. The list of what is expected
to differ says which are not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from delete_many_with_prefix import DeleteManyWithPrefixTests
from test_simple_cache import TestSimpleCache

from colocache import Cache
from colocache.flask import Backend

_group = Cache("cachelib", fetch_timeout=20)
_prefixes = map(str, itertools.count())


def backend(
    default_timeout: int = 300, key_prefix: str | None = None, ignore_delete_many_errors: bool = True, **_: Any
) -> Backend:
    """Return an empty backend."""
    return Backend(_group, f"{key_prefix or ''}{next(_prefixes)}", default_timeout, ignore_delete_many_errors)


@pytest.fixture(autouse=True)
def cache_factory(request: pytest.FixtureRequest) -> None:
    """Make colocache's, whatever the module says whose tests are run."""
    factory: Callable[..., Backend] = lambda self, *args, **kwargs: backend(*args, **kwargs)  # noqa: E731
    request.cls.cache_factory = factory


class TestColocache(TestSimpleCache, DeleteManyWithPrefixTests):  # type: ignore[misc]
    """What cachelib tests of its ``SimpleCache``, and of prefixes."""


del TestSimpleCache
