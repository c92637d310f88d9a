"""Hosts of several real processes: one of them speaks for its host, and when it is killed another one does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from colocache.core.hosts.rows import ACKED, ENDED_AT, LIVE
from tests import ROOT

from .driven import PATIENCE, Cast, HostMemory, until

Worker = subprocess.Popen[str]


@pytest.fixture
def worker(stage: Cast) -> Iterator[Callable[..., Worker]]:
    """Start processes of hosts, and kill them in the end."""
    made: list[Worker] = []

    def start(name: str, *peers: str) -> Worker:
        addresses = ",".join(map(stage.address, peers))
        command = [sys.executable, "-m", "tests.runtime.network.host_process"]
        command += [str(stage.path / name), name, stage.address(name), addresses]
        made.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        assert heard(made[-1]) == "runs"
        return made[-1]

    yield start
    for each in made:
        each.kill()
        each.communicate()


def heard(process: Worker) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def tell(process: Worker, line: str) -> None:
    """Write a line to a process."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def test_when_a_gateway_is_killed_another_process_speaks_for_its_host(
    stage: Cast, worker: Callable[..., Worker]
) -> None:
    first = worker("a", "b")
    assert heard(first) == "gateway"
    b = stage.host("b", "a")
    memory = HostMemory(stage.path / "a")
    until(lambda: b.memory.rows.state(memory.id) == LIVE and b.is_current())
    second = worker("a", "b")
    tell(first, "1")
    assert heard(first) == "told"
    first.kill()
    assert heard(second) == "gateway"
    tell(second, "2")
    assert heard(second) == "told"
    assert [event.hashes for event in b.applied] == [(1,), (2,)]
    lane, number = b.append(3)
    until(lambda: b.memory.rows.has_reached(memory.id, {lane: number}, ACKED))
    assert b.memory.rows.state(memory.id) == LIVE
    until(b.is_current)


def test_a_host_that_was_stopped_is_named_and_heard_again(stage: Cast, worker: Callable[..., Worker]) -> None:
    a = worker("a", "b")
    assert heard(a) == "gateway"
    b = stage.host("b", "a")
    memory = HostMemory(stage.path / "a")
    until(lambda: b.memory.rows.state(memory.id) == LIVE and b.is_current())
    a.send_signal(signal.SIGSTOP)
    until(lambda: not b.is_current())
    until(lambda: any("accepts the connection and does not answer" in line.trouble for line in b.network.status()))
    position = b.append(1)
    a.send_signal(signal.SIGCONT)
    until(lambda: b.memory.rows.has_reached(memory.id, {position.lane: position.number}, ACKED))
    until(b.is_current)
    until(lambda: not any(line.trouble for line in b.network.status()))


def test_the_last_process_of_a_host_says_goodbye(stage: Cast, worker: Callable[..., Worker]) -> None:
    first = worker("a", "b")
    assert heard(first) == "gateway"
    b = stage.host("b", "a")
    memory = HostMemory(stage.path / "a")
    until(lambda: b.memory.rows.state(memory.id) == LIVE)
    tell(first, "goodbye")
    assert first.wait(PATIENCE) == 0
    until(lambda: b.memory.rows.state(memory.id) == ENDED_AT)
