"""What the tests with real processes share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `group` and `chaos`, by those names

from group import Group


@pytest.fixture
def group() -> Iterator[Callable[..., Group]]:
    """Make groups; their processes end with the test, and must not have complained."""
    groups: list[Group] = []

    def make(**settings: Any) -> Group:
        groups.append(Group(**settings))
        return groups[-1]

    yield make
    for each in groups:
        each.close()
