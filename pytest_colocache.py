"""colocache's plugin for pytest: private caches for a test, and real groups of two processes.

Not a module of the package, because pytest loads it in every run where colocache is installed: it imports nothing of
the package before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from colocache.testing import Group

_MARKS = {
    "colocache_private": "all caches of colocache are private in this test, and empty at its start",
    "colocache_group": "the caches of colocache are members of real groups, in a directory of this test's own",
}

_whole_run = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the setting that makes every test's caches private."""
    parser.addini(
        "colocache_private", type="bool", default=False,
        help="make all caches of colocache private, for the whole run, and begin every test with empty ones",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, and make the whole run private if it is to be."""
    for mark, meaning in _MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")
    if config.getini("colocache_private"):
        from colocache.testing import private

        config.stash[_whole_run] = stack = ExitStack()
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("COLOCACHE_PRIVATE", "true")  # for the processes that tests start
        stack.enter_context(private())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Go on as before."""
    if _whole_run in config.stash:
        config.stash[_whole_run].close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give a test that is marked what its mark says, before all its other fixtures."""
    always = config.getini("colocache_private")
    for item in items:
        names: list[str] | None = getattr(item, "fixturenames", None)
        if names is None:
            continue
        wanted = [mark for mark in _MARKS if item.get_closest_marker(mark) is not None]
        if always and "colocache_group" not in [*wanted, *names]:
            wanted.append("colocache_private")
        for name in wanted:
            if name not in names:
                names.insert(0, name)


class Private:
    """The caches of this process, while they are private."""

    def travel(self, duration: Any) -> None:
        """Be as if so much time had passed: see `colocache.testing.travel`."""
        from colocache.testing import travel

        travel(duration)


@pytest.fixture
def colocache_private() -> Iterator[Private]:
    """All caches of this process are private and empty for this test; ``colocache_private.travel("1h")`` ages them."""
    from colocache.testing import private

    with private():
        yield Private()


@pytest.fixture
def colocache_group() -> Iterator[Group]:
    """This process and ``colocache_group.other`` are members of real groups, in a directory of their own."""
    from colocache.testing import group

    with group() as both:
        yield both
