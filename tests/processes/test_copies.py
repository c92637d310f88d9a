"""Several hosts on loopback, as real processes: what one of them leaves behind is not loaded again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Hosts, until


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    group = Hosts(tmp_path, 2)
    yield group
    group.close()


def test_with_two_copies_the_other_host_has_what_a_killed_one_owned(hosts: Hosts) -> None:
    own = hosts.owned_by(0)
    one, two = hosts.start_all(replicas="2")
    assert one("load", own) == len(own)
    until(lambda: two("copied") >= len(own))
    one.kill()
    assert [two("get", key) for key in own] == [f"the value of {key}" for key in own]


def test_a_set_value_survives_and_an_invalidated_one_does_not(hosts: Hosts) -> None:
    own = hosts.owned_by(0)
    one, two = hosts.start_all(replicas="2")
    assert all(one("set", key, key) for key in own)
    until(lambda: two("copied") >= len(own))
    assert one("invalidate", own[3])
    one.kill()
    assert [two("get", key) for key in own] == [None if key == own[3] else key for key in own]


def test_a_host_that_leaves_hands_over_what_it_owns(hosts: Hosts) -> None:
    own = hosts.owned_by(0)
    one, two = hosts.start_all(handoff="30s")
    assert one("load", own) == len(own)
    one.close()
    until(lambda: two("hosts") == 1)
    assert two("load", own) == 0


def test_a_host_that_comes_back_has_what_others_have(hosts: Hosts) -> None:
    own = hosts.owned_by(0)
    one, two = hosts.start_all(handoff="30s")
    assert one("load", own) == len(own)
    one.close()
    one = hosts.start(0)
    until(lambda: one("is_current") and one("hosts") == 2)
    until(lambda: one("copied") >= len(own))  # without being asked for any
    assert one("load", own) == 0
    two.kill()
