"""Several hosts on loopback, as real processes, some of which are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Hosts, until


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    group = Hosts(tmp_path, 3)
    yield group
    group.close()


@pytest.mark.parametrize("is_gateway", [False, True])
def test_others_do_not_wait_for_a_load_whose_process_was_killed(hosts: Hosts, is_gateway: bool) -> None:
    """Host 1 loads what host 0 owns, and host 2 waits for it."""
    _, first, waits = hosts.start_all(load_timeout="1h")
    second = hosts.start(1, load_timeout="1h")
    until(lambda: second("is_current") and second("hosts") == 3)
    loads = first if is_gateway else second
    key = hosts.owned_by(0)[0]
    assert loads("begin_to_load", key)
    waits.tell("load", [key])
    loads.kill()
    assert waits.answer() == 1
