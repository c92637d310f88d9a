"""Django's tests of caches with colocache. It is put beside them, as ``cache.tests_colocache``.

`ColocacheTests` is what Django has for each of its backends: the tests that are common to all. Every other class of
tests whose settings name the local memory cache is run again with colocache in its place.
"""

from __future__ import annotations

from typing import Any

from django import test
from django.conf import settings
from django.core.cache import cache
from django.test import override_settings

from . import tests
from .tests import BaseCacheTests, caches_setting_for_tests

LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
OURS = settings.CACHES["default"]


@override_settings(CACHES=caches_setting_for_tests(**OURS))
class ColocacheTests(BaseCacheTests, test.TestCase):
    """The tests that are common to all backends."""

    def tearDown(self) -> None:
        super().tearDown()
        cache.clear()


def ours(caches: dict[str, Any]) -> dict[str, Any]:
    """Return settings of caches with colocache in the place of the local memory cache."""
    made = {}
    for alias, config in caches.items():
        is_local = config.get("BACKEND") == LOCMEM
        made[alias] = {**config, **OURS, "LOCATION": config.get("LOCATION", alias)} if is_local else config
    return made


def derived() -> dict[str, type[test.SimpleTestCase]]:
    """Return Django's other classes that test with the local memory cache, with colocache."""
    made = {}
    for name, each in vars(tests).items():
        if isinstance(each, type) and issubclass(each, test.SimpleTestCase) and each is not tests.LocMemCacheTests:
            caches = (each._overridden_settings or {}).get("CACHES", {})
            if any(config.get("BACKEND") == LOCMEM for config in caches.values()):
                made[name] = override_settings(CACHES=ours(caches))(type(name, (each,), {"__module__": __name__}))
    return made


globals().update(derived())
