"""Gateways to test with: see `hosts`. And hosts: see `driven`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .driven import Cast as Stage
from .hosts import Cast


@pytest.fixture
def cast() -> Iterator[Cast]:
    """Make gateways that listen and such that dial, and close them."""
    yield from Cast().closing()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Make hosts that speak with each other, and end them."""
    made = Stage(tmp_path)
    try:
        yield made
    finally:
        made.close()
