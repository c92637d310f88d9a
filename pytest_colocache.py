"""colocache's plugin for pytest: private caches for a test, and real groups of two processes.

It is not a module of the package, because pytest loads it in every run in which colocache is installed. It imports
nothing of the package until a test needs it.
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
    "colocache_group": "the caches of colocache belong to real groups, in a directory for this test",
}

_whole_run = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting that makes the caches of every test private."""
    meaning = "make all caches of colocache private for the whole run, and empty at the start of every test"
    parser.addini("colocache_private", type="bool", default=False, help=meaning)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks. Make the caches private for the whole run, if the setting says so."""
    for mark, meaning in _MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")
    if config.getini("colocache_private"):
        from colocache.testing import private

        config.stash[_whole_run] = stack = ExitStack()
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("COLOCACHE_PRIVATE", "true")  # for the processes that tests start
        stack.enter_context(private())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let the caches continue as before."""
    if _whole_run in config.stash:
        config.stash[_whole_run].close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give a marked test the fixture of its mark, before all its other fixtures."""
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
    """The private caches of this process."""

    def travel(self, duration: Any) -> None:
        """Move the clock of the caches forward: see `colocache.testing.travel`."""
        from colocache.testing import travel

        travel(duration)


@pytest.fixture
def colocache_private() -> Iterator[Private]:
    """Make all caches of this process private and empty. ``colocache_private.travel("1h")`` moves their clock."""
    from colocache.testing import private

    with private():
        yield Private()


@pytest.fixture
def colocache_group() -> Iterator[Group]:
    """Make this process and ``colocache_group.other`` members of real groups, in a directory for this test."""
    from colocache.testing import group

    with group() as both:
        yield both
