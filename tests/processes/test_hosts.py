"""Several hosts on loopback, as real processes, some of which are killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from colocache.core.hosts.gateway import SECOND, Times
from colocache.runtime.network.discovery import FORGET_AFTER

from .hosts import Hosts, until

LEASE = Times().lease / SECOND


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


def test_a_host_goes_on_when_its_gateway_is_killed_beside_a_listed_address_where_nobody_is(hosts: Hosts) -> None:
    """Host 2 has ended, and stays listed. Whoever did not know that would miss it for as long as `FORGET_AFTER`."""
    first, other, ends = hosts.start_all()
    second = hosts.start(0)
    until(lambda: bool(second("is_current")))
    ends.close()
    until(lambda: first("hosts") == other("hosts") == 2 and first("is_current"))
    noted = time.monotonic() + LEASE
    until(lambda: first("current_until") > noted)  # the gateway has ticked since
    killed_at = time.monotonic()
    first.kill()
    until(lambda: second("current_until") > killed_at + LEASE, patience=FORGET_AFTER / 2)
    assert other("invalidate", "key")
