"""What the tests with real processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from verification.chaos.group import Group


@pytest.fixture
def group() -> Iterator[Callable[..., Group]]:
    """Make groups. Their processes end with the test, and must not have complained."""
    groups: list[Group] = []

    def make(**settings: Any) -> Group:
        groups.append(Group(**settings))
        return groups[-1]

    yield make
    for each in groups:
        each.close()
