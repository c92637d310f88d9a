"""What the tests of Django share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest


@pytest.fixture
def site(run_dir: str, until: Callable[..., None]) -> Iterator[Callable[..., Any]]:
    """Configures CACHES, and returns the backend of the default alias.

    Aliases whose OPTIONS differ have caches of their own.
    """
    from django.core.cache import caches

    from tests.django.project import configured

    with ExitStack() as sites:

        def configure(**aliases: dict[str, Any]) -> Any:
            aliases = {"default": {}, **aliases}
            sites.enter_context(configured(run_dir, aliases))
            return caches["default"]

        yield configure
