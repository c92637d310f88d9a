"""Hosts of one group on loopback, as real processes that are told what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colocache.core.hosts.ring import ring_of, slot_of
from colocache.core.keys import prefix, wire
from tests import ROOT

PATIENCE = 60.0


class Agent:
    """A process of a host."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.host_agent"], cwd=ROOT, env={**os.environ, **environ},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *order: Any) -> Any:
        """Have it do something, and return what comes of it."""
        self.tell(*order)
        return self.answer()

    def tell(self, *order: Any) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Wait until that is done, and return what has come of it."""
        assert self.process.stdout is not None
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


class Hosts:
    """A group of hosts. Its processes end with `close`."""

    def __init__(self, path: Path, count: int) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        self.addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        self._path = path
        self._agents: list[Agent] = []
        self._ring = ring_of({f"host {number}": 1 for number in range(count)})

    def start(self, number: int, **settings: str) -> Agent:
        """Start a process of a host."""
        environ = {
            "COLOCACHE_GROUP": "hosts", "COLOCACHE_DIR": str(self._path / str(number)),
            "COLOCACHE_HOST": f"host {number}", "COLOCACHE_LISTEN": self.addresses[number],
            "COLOCACHE_PEERS": ",".join(self.addresses), "COLOCACHE_SHELF": "8MiB", "COLOCACHE_TTL": "1h",
            **{f"COLOCACHE_{name.upper()}": value for name, value in settings.items()},
        }  # fmt: skip
        self._agents.append(Agent(environ))
        return self._agents[-1]

    def start_all(self, **settings: str) -> list[Agent]:
        """Start a process of each host, and wait until all are current and know each other."""
        count = len(self.addresses)
        agents = [self.start(number, **settings) for number in range(count)]
        until(lambda: all(each("is_current") and each("hosts") == count for each in agents))
        return agents

    def owned_by(self, number: int) -> list[str]:
        """Return some keys that a host owns, while all are there."""
        keys = map(str, range(50 * len(self.addresses)))
        return [key for key in keys if self._ring.owner(slot_of(wire(prefix(""), key))) == f"host {number}"]

    def close(self) -> None:
        """Kill all processes."""
        for agent in self._agents:
            agent.kill()


def until(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)
