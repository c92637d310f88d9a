"""Private caches for Django's tests: when Django's test runner, or pytest-django, has set up its test environment.

Each worker of ``test --parallel`` has its own test database, so it must have its own cache. Tests must not share one
with a development server on the same host, either.
"""

from __future__ import annotations

import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from colocache import Cache, Codec, Config
from colocache.member import Member


def is_under_test() -> bool:
    """Tell whether `django.test.utils.setup_test_environment` was called."""
    utils = sys.modules.get("django.test.utils")  # not imported, because only tests need it
    return utils is not None and hasattr(utils._TestState, "saved_data")


class AliasMember(Member):
    """The member of an alias's cache. While tests run it is private, unless the alias's OPTIONS say otherwise."""

    is_free = False  # whether the OPTIONS do not say whether it is private

    def __init__(self, config: Config, codec: Codec | None) -> None:
        self._was_under_test = is_under_test()
        super().__init__(config, codec)

    def is_private_by_default(self) -> bool:
        return self.is_free and is_under_test()

    def join(self) -> Any:
        if is_under_test() is not self._was_under_test:  # because tests must not use a group that it joined before
            self._was_under_test = is_under_test()
            if self.is_free:
                self.leave()
        return super().join()


class AliasCache(Cache):
    """The cache of an alias."""

    _member: AliasMember
    _member_type = AliasMember

    def __init__(self, group: str, *, codec: Codec, **settings: Any) -> None:
        """Make it. The arguments are those of `Cache`."""
        super().__init__(group, codec=codec, **settings)
        self._member.is_free = "private" not in settings


class StandInMember(AliasMember):
    """The member of a cache that stands in for another backend."""

    def config_to_join(self) -> Config:
        config = super().config_to_join()
        if not (config.private or is_under_test()):
            raise ImproperlyConfigured(
                f"CACHES[{self.config.group!r}] is not a cache of colocache, so cache_of({self.config.group!r}) cannot "
                'be used outside of tests: give it the BACKEND "colocache.django.ColocacheCache"'
            )
        return config


class StandIn(AliasCache):
    """The cache of an alias whose backend is another shared one. It is for tests only."""

    _member_type = StandInMember
