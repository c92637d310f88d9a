"""For tests of code that uses the cache: private caches, a clock that can be moved, and a group of two processes.

    def test_a_price_is_kept_for_an_hour():
        with colocache.testing.private():
            assert price("tea") == 3
            colocache.testing.travel("1h")
            ...

pytest has fixtures and marks for this: see the page "Testing" of the documentation. `simulator` is for tests of
colocache itself.
"""

from __future__ import annotations

from .group import Group, OtherProcess, group
from .life import private, travel

__all__ = ["Group", "OtherProcess", "group", "private", "travel"]
