"""The network threads of several hosts: they meet, tell events, and answer each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .driven import Cast, until


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Cast]:
    """Make hosts, and end them."""
    made = Cast(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_hosts_that_list_each_other_meet_and_are_current(stage: Cast, names: tuple[str, ...]) -> None:
    stage.hosts(*names)


def test_an_event_is_applied_by_all_others_and_acknowledged(stage: Cast) -> None:
    a, b, c = stage.hosts("a", "b", "c")
    bell = b.memory.board.bell[0]
    position = a.append(1, 2)
    until(lambda: a.is_acknowledged(position, b, c))
    assert b.has_applied(a, position)
    assert b.memory.board.bell[0] != bell
    assert (1, 2) in [event.hashes for event in b.applied]


def test_a_request_is_answered(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    assert a.request(b.id, b"what?") == b"what?"
    assert b.served == [b"what?"]
