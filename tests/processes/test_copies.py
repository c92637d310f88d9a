"""Several hosts on loopback, as real processes: what one of them leaves behind is not loaded again."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from colocache.core.hosts.ring import ring_of, slot_of
from colocache.core.keys import prefix, wire
from tests import ROOT

PATIENCE = 60.0

#: Keys that host 0 owns, in the ring of both.
RING = ring_of({"host 0": 1, "host 1": 1})
OWN = [key for key in map(str, range(100)) if RING.owner(slot_of(wire(prefix(""), key))) == "host 0"]


class Agent:
    """A process, which is all of its host."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.host_agent"], cwd=ROOT, env={**os.environ, **environ},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *order: Any) -> Any:
        """Have it do something, and return what comes of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        with self.process:  # closes the pipes
            pass

    def close(self) -> None:
        """Have it leave, and end."""
        self("close")
        with self.process:
            pass


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Start a host of a group of two, and wait until both are current and know each other."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    agents: list[Agent] = []

    def begin(number: int, **settings: str) -> Agent:
        environ = {
            "COLOCACHE_GROUP": "copies", "COLOCACHE_DIR": str(tmp_path / str(number)),
            "COLOCACHE_HOST": f"host {number}", "COLOCACHE_LISTEN": addresses[number],
            "COLOCACHE_PEERS": ",".join(addresses), "COLOCACHE_SHELF": "8MiB", "COLOCACHE_TTL": "1h",
            **{f"COLOCACHE_{name.upper()}": value for name, value in settings.items()},
        }  # fmt: skip
        agents.append(Agent(environ))
        return agents[-1]

    yield begin
    for agent in agents:
        agent.kill()


def both(start: Callable[..., Agent], **settings: str) -> tuple[Agent, Agent]:
    """Return both hosts, which know each other."""
    one, two = start(0, **settings), start(1, **settings)
    until(lambda: all(each("is_current") and each("hosts") == 2 for each in (one, two)))
    return one, two


def test_with_two_copies_the_other_host_has_what_a_killed_one_owned(start: Callable[..., Agent]) -> None:
    one, two = both(start, replicas="2")
    assert one("load", OWN) == len(OWN)
    until(lambda: two("copied") >= len(OWN))
    one.kill()
    assert [two("get", key) for key in OWN] == [f"the value of {key}" for key in OWN]


def test_a_set_value_survives_and_an_invalidated_one_does_not(start: Callable[..., Agent]) -> None:
    one, two = both(start, replicas="2")
    assert all(one("set", key, key) for key in OWN)
    until(lambda: two("copied") >= len(OWN))
    assert one("invalidate", OWN[3])
    one.kill()
    assert [two("get", key) for key in OWN] == [None if key == OWN[3] else key for key in OWN]


def test_a_host_that_leaves_hands_over_what_it_owns(start: Callable[..., Agent]) -> None:
    one, two = both(start, handoff="30s")
    assert one("load", OWN) == len(OWN)
    one.close()
    until(lambda: two("hosts") == 1)
    assert two("load", OWN) == 0


def test_a_host_that_comes_back_has_what_others_have(start: Callable[..., Agent]) -> None:
    one, two = both(start, handoff="30s")
    assert one("load", OWN) == len(OWN)
    one.close()
    one = start(0)
    until(lambda: one("is_current") and one("hosts") == 2)
    until(lambda: one("copied") >= len(OWN))  # without being asked for any
    assert one("load", OWN) == 0
    two.kill()
