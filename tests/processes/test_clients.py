"""Client hosts in real processes: two servers, and three hosts that own nothing, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.conftest import Until
from tests.runtime.network.hosts import free_port
from verification.chaos.group import await_stop

#: What a process of a client host does. The source of a key is a word of a file: its version. Each key is changed by
#: one process alone, which notes the version in a second word once the receipt of the invalidation is complete.
WORKER = """
import json, mmap, random, sys, time
from colocache import Cache

number, clients, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
KEYS = 12
with open(path, "r+b") as file:
    words = memoryview(mmap.mmap(file.fileno(), 16 * KEYS)).cast("Q")
cache = Cache()
cache.start()
host = cache._member.own_host()
mine = [key for key in range(KEYS) if key % clients == number]
counts = dict.fromkeys(("reads", "loads", "stale", "complete", "incomplete"), 0)

def load(key):
    counts["loads"] += 1
    return words[key]

def read(key):
    floor = words[KEYS + key]
    counts["reads"] += 1
    value = cache.get_or_load(f"k{key}", lambda: load(key))
    counts["stale"] += value < floor
    return value

def change(key, wait=True):
    words[key] += 1
    version = words[key]
    receipt = cache.invalidate(f"k{key}", wait=wait)
    if receipt.complete:
        words[KEYS + key] = version
    counts["complete" if receipt.complete else "incomplete"] += 1
    return receipt

def run(seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if random.random() < 0.04:
            key = random.choice(mine)
            change(key)
            if read(key) != words[key]:
                counts["stale"] += 1
        elif random.random() < 0.02:
            key = random.choice(mine)
            change(key, wait=False)
            counts["stale"] += read(key) != words[key]  # this host serves nothing older even then
        read(random.randrange(KEYS))
    return counts

for line in sys.stdin:
    name, *arguments = json.loads(line)
    if name == "run":
        answer = run(*arguments)
    elif name == "change":
        answer = change(*arguments)._asdict()
    elif name == "current":
        answer = host.is_current()
    elif name == "do":
        answer = getattr(cache, arguments[0])(*arguments[1:])
    elif name == "count":
        answer = cache.incr("count", initial=0)
    elif name == "members":
        answer = [info.role for info in cache.members()]
    print(json.dumps(answer), flush=True)
cache.close()
"""


class Worker:
    """A process of a client host."""

    def __init__(self, number: int, clients: int, path: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(number), str(clients), str(path)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, *what: object) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Wait for what came of it."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def do(self, *what: object) -> Any:
        """Do both."""
        self.ask(*what)
        return self.answer()


class Hosts:
    """Two servers, and clients."""

    def __init__(self, path: Path, clients: int) -> None:
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        self._path = path
        self._environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_GROUP": "shop", "COLOCACHE_SHELF": "64MiB",
            "COLOCACHE_PEERS": ",".join(self.addresses), "COLOCACHE_SECRET": "s" * 43,
        }  # fmt: skip
        self.processes: list[subprocess.Popen[str]] = []
        self.servers = [self._serve(number, address) for number, address in enumerate(self.addresses)]
        (path / "register").write_bytes(bytes(16 * 12))
        self.clients = [self._client(number, clients) for number in range(clients)]

    def _variables(self, name: str, **variables: str) -> dict[str, str]:
        directory = self._path / name
        directory.mkdir(mode=0o700)
        return {**self._environment, "COLOCACHE_DIR": str(directory), "COLOCACHE_HOST": name, **variables}

    def _serve(self, number: int, address: str) -> subprocess.Popen[str]:
        environment = self._variables(f"server{number}", COLOCACHE_LISTEN=address)
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "colocache", "serve"], env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        assert self.processes[-1].stdout is not None
        assert self.processes[-1].stdout.readline().startswith("colocache serve: ready: ")
        return self.processes[-1]

    def _client(self, number: int, clients: int) -> Worker:
        environment = self._variables(f"client{number}", COLOCACHE_ROLE="client")
        worker = Worker(number, clients, self._path / "register", environment)
        self.processes.append(worker.process)
        return worker

    def close(self) -> None:
        """Kill all that is left."""
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def hosts(tmp_path: Path, until: Until) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path, 3)
    try:
        for client in hosts.clients:
            until(lambda client=client: client.do("current"))  # type: ignore[misc]
        yield hosts
    finally:
        hosts.close()


def run(hosts: Hosts, seconds: float) -> list[dict[str, int]]:
    """Have all clients read and change for a while, and return what they have counted."""
    for client in hosts.clients:
        client.ask("run", seconds)
    return [client.answer() for client in hosts.clients]


def test_no_client_is_given_what_an_invalidation_has_made_void(hosts: Hosts) -> None:
    for counts in run(hosts, 4.0):
        assert counts["stale"] == 0
        assert counts["complete"] > 0
        assert counts["loads"] < counts["reads"], "most is found"
    assert hosts.clients[0].do("members") == ["client"]


def test_writes_of_clients_happen_at_the_servers(hosts: Hosts, until: Until) -> None:
    first, second, _ = hosts.clients
    assert first.do("do", "set", "name", "Ada")
    assert second.do("do", "get", "name") == "Ada"
    totals: list[int] = []

    def counts(client: Worker) -> bool:
        """Count; a server that has just begun refuses it until it has heard of all others."""
        total = client.do("count")
        totals.extend([] if total is None else [total])
        return total is not None

    for client in hosts.clients:
        until(partial(counts, client))
    assert totals == [1, 2, 3], "what is refused is not counted"
    assert not second.do("do", "add", "name", "Bob")


def test_a_client_that_is_stopped_is_waited_for_once(hosts: Hosts, until: Until) -> None:
    first, _, stopped = hosts.clients
    until(lambda: "client2" in first.do("change", 0)["acknowledged"])
    stopped.process.send_signal(signal.SIGSTOP)
    await_stop(stopped.process.pid)  # otherwise its threads may go on, and acknowledge
    receipt = first.do("change", 0)
    assert receipt["complete"]
    assert receipt["waited_out"] == ["client2"]
    again = first.do("change", 3)
    assert again["complete"]
    assert again["waited_out"] == []
    stopped.process.send_signal(signal.SIGCONT)
    until(lambda: "client2" in first.do("change", 0)["acknowledged"])
    assert [counts["stale"] for counts in run(hosts, 1.0)] == [0, 0, 0]


def test_clients_go_on_when_a_server_is_killed(hosts: Hosts) -> None:
    for client in hosts.clients:
        client.ask("run", 5.0)
    hosts.servers[0].kill()
    for client in hosts.clients:
        counts = client.answer()
        assert counts["stale"] == 0
        assert counts["reads"] > counts["complete"] > 0, "with the server that is left"


def test_a_host_is_a_client_with_all_its_processes(hosts: Hosts, tmp_path: Path) -> None:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "COLOCACHE_DIR": str(tmp_path / "client0"),
        "COLOCACHE_LISTEN": f"127.0.0.1:{free_port()}",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "colocache", "serve", "--group", "shop"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "are clients, and this one has COLOCACHE_ROLE=server" in done.stderr
