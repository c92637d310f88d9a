"""A few of the forks of `make forks`."""

from __future__ import annotations

import random

import pytest

from verification.forks import forks


@pytest.mark.parametrize(
    ("operation", "way", "hosts"),
    [
        ("get_or_load", "fork", False),
        ("get_or_load", "past Python", False),
        ("aget_or_load", "fork while joining, and go on", False),
        ("set", "fork, and go on", False),
        ("many", "fork, and go on", False),
        ("come_and_go", "fork", False),
        ("invalidate", "fork", True),
        ("set", "fork, and go on", True),
    ],
)
def test_a_fork_at_any_line_harms_nobody(operation: str, way: str, hosts: bool) -> None:
    found = forks.run(operation, way, random.randrange(1, 50), 97, 6, hosts)
    assert found.forks > found.stillborn
    assert found.writes
    assert not found.complaints, "\n".join(
        [*(f"{each}\n{forks.again(operation, way, each['point'], hosts)}" for each in found.complaints), found.log]
    )
