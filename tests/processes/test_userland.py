"""Several hosts on loopback, as real processes: user code on threads of the cache, and forks of the gateway."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Hosts, until


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    group = Hosts(tmp_path, 2)
    yield group
    group.close()


def test_a_call_on_a_thread_of_the_cache_waits_for_no_other_host(hosts: Hosts) -> None:
    """Those who wait wait until the lease of a host that is stopped is over, and are told that it was waited out."""
    one, two = hosts.start_all()
    (mine, *_), (others, *_) = hosts.owned_by(0), hosts.owned_by(1)
    two.process.send_signal(signal.SIGSTOP)
    acknowledged, waited_out, complete, *_ = one("on_a_driver", "receipt", mine)
    assert (acknowledged, complete) == ([], False)
    assert waited_out == ["host 1"], "as one who did not wait for it is told"
    assert one("on_a_driver", "get", others) is None
    assert one("on_a_driver", "load", [others]) == 1
    assert one("on_a_driver", "set", others, 1) is False, "its owner cannot be asked"
    assert one("on_a_driver", "set", mine, 1) is True
    assert one("get", mine) == 1
    two.process.send_signal(signal.SIGCONT)
    until(lambda: one("invalidate", mine))


def test_after_a_gateway_is_killed_another_one_takes_over_although_a_child_of_it_lives(hosts: Hosts) -> None:
    """The child has nothing open that its parent has locked."""
    one, other = hosts.start(0), hosts.start(1)
    until(lambda: one("is_gateway") and one("hosts") == 2)
    next_one = hosts.start(0)
    until(lambda: next_one("is_current"))  # it uses the same files
    child = one("fork")
    try:
        one.kill()
        until(lambda: next_one("is_gateway"))
        until(lambda: next_one("is_current") and other("is_current"))
    finally:
        os.kill(child, signal.SIGKILL)
