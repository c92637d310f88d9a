"""What the tests of Django share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest


@pytest.fixture
def site(run_dir: str, until: Callable[..., None]) -> Iterator[Callable[..., Any]]:
    """Configures CACHES, and returns the backend of the default alias.

    Aliases whose OPTIONS differ are members of their own, as if they were in other processes; these know each other.
    """
    from django.core.cache import caches

    from tests.django.project import configured

    def meet(members: set[Any]) -> None:
        for each in members:
            each.start()
        # Members first, because a member that has just met another one is behind. `current` must be read after that.
        until(lambda: all(each.stats().members == len(members) for each in members))
        until(lambda: all(each.stats().current for each in members))

    with ExitStack() as sites:

        def configure(**aliases: dict[str, Any]) -> Any:
            aliases = {"default": {}, **aliases}
            sites.enter_context(configured(run_dir, aliases))
            ours = [each.group.cache for each in (caches[alias] for alias in aliases) if hasattr(each, "group")]
            groups: dict[str, set[Any]] = {}
            for each in ours:
                groups.setdefault(each.config.group, set()).add(each)
            for members in groups.values():
                if len(members) > 1:
                    meet(members)
            return caches["default"]

        yield configure
