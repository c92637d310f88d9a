"""Gateways to test with: see `hosts`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .hosts import Cast


@pytest.fixture
def cast() -> Iterator[Cast]:
    """Make gateways that listen and such that dial, and close them."""
    yield from Cast().closing()
