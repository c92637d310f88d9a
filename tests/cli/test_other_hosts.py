"""The commands in a group of several hosts."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import asked, printed, run
from tests.processes.hosts import Agent, Hosts, until


def settings(hosts: Hosts, path: Path, number: int = 0) -> dict[str, str]:
    """Return the environment of a host's processes."""
    return {
        "COLOCACHE_GROUP": "hosts", "COLOCACHE_DIR": str(path / str(number)), "COLOCACHE_HOST": f"host {number}",
        "COLOCACHE_LISTEN": hosts.addresses[number], "COLOCACHE_PEERS": ",".join(hosts.addresses),
    }  # fmt: skip


@pytest.fixture
def hosts(run_dir: str, tmp_path: Path) -> Iterator[Hosts]:
    group = Hosts(tmp_path, 2)
    yield group
    group.close()


@pytest.fixture
def two(hosts: Hosts) -> list[Agent]:
    return hosts.start_all()


def far(hosts: Hosts, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a machine without workers, which knows where the hosts are."""
    return {
        "COLOCACHE_GROUP": "hosts", "COLOCACHE_DIR": str(tmp_path / "far"), "COLOCACHE_PEERS": ",".join(hosts.addresses)
    }  # fmt: skip


def test_members_shows_the_hosts_without_joining(hosts: Hosts, two: list[Agent], tmp_path: Path) -> None:
    here = {"COLOCACHE_GROUP": "hosts", "COLOCACHE_DIR": str(tmp_path / "0"), "COLOCACHE_HOST": "host 0"}
    found = asked("members", **here)
    assert [(each["name"], each["state"], each["me"]) for each in found["hosts"]] == [
        ("host 0", "current", True), ("host 1", "live", False)
    ]  # fmt: skip
    assert [(each["pid"], each["gateway"]) for each in found["processes"]] == [(two[0].process.pid, True)]
    assert "peer (gateway)" in printed("members", **here)


def test_stats_are_those_of_all_hosts_and_the_command_is_not_among_them(
    hosts: Hosts, two: list[Agent], tmp_path: Path
) -> None:
    for agent, number in zip(two, (3, 4), strict=True):
        agent("load", [f"{agent.process.pid} {each}" for each in range(number)])
    here = settings(hosts, tmp_path)
    until(lambda: asked("stats", **here)["rows"][0]["loads"] == 7)
    found = asked("stats", "--by", "host", **here)
    assert {row["host"]: row["loads"] for row in found["rows"]} == {"host 0": 3, "host 1": 4}
    assert [each["processes"] for each in found["hosts"]] == [1, 1]
    assert not found["this_host_only"]
    rows = asked("stats", "--by", "process", **here)["rows"]
    assert {row["pid"] for row in rows} == {agent.process.pid for agent in two}
    assert two[0]("is_gateway")
    assert two[1]("hosts") == 2


def test_without_the_settings_this_host_is_shown_alone_and_that_is_said(two: list[Agent], tmp_path: Path) -> None:
    done = run("stats", COLOCACHE_GROUP="hosts", COLOCACHE_DIR=str(tmp_path / "0"))
    assert done.returncode == 0
    assert "only this one is shown: set COLOCACHE_LISTEN" in done.stderr
    done = run("invalidate", "a", COLOCACHE_GROUP="hosts", COLOCACHE_DIR=str(tmp_path / "0"))
    assert done.returncode == 4
    assert "started for several hosts, and this one for one" in done.stderr


def test_a_host_that_does_not_answer_is_named(hosts: Hosts, two: list[Agent], tmp_path: Path) -> None:
    os.kill(two[1].process.pid, signal.SIGSTOP)
    done = run("stats", **settings(hosts, tmp_path))
    assert done.returncode == 4
    assert "these hosts have not answered: host 1" in done.stderr
    assert "1 process; shelf" in done.stdout


def test_an_invalidation_holds_on_all_hosts(hosts: Hosts, two: list[Agent], tmp_path: Path) -> None:
    one, other = two
    one("set", "a", 1)
    assert [other("get", "a") for _ in range(3)] == [1, 1, 1]
    found = asked("invalidate", "a", **settings(hosts, tmp_path))
    assert [found[name] for name in ("complete", "alone", "hosts", "processes")] == [True, False, 2, 1]
    assert found["acknowledged"] == ["host 1"]
    assert [agent("get", "a") for agent in two] == [None, None]


def test_from_a_machine_without_workers(hosts: Hosts, two: list[Agent], tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    for key in ("a", "b"):
        two[0]("set", key, key)
        assert two[1]("get", key) == key
    found = asked("invalidate", "a", **far(hosts, tmp_path))
    assert [found[name] for name in ("complete", "alone", "hosts", "processes")] == [True, False, 2, 0]
    assert [agent("get", "a") for agent in two] == [None, None]
    assert [row["host"] for row in asked("stats", "--by", "host", **far(hosts, tmp_path))["rows"]] == [
        "host 0",
        "host 1",
    ]
    assert printed("get", "--ask", "b", **far(hosts, tmp_path)) == "'b'\n"
    assert "2 hosts" in printed("clear", **far(hosts, tmp_path))
    assert [agent("get", "b") for agent in two] == [None, None]
    assert not os.path.exists(tmp_path / "far" / "hosts")
    left = {name for name in os.listdir("/dev/shm") if name.startswith("colocache-client-")} if before else set()
    assert left <= before


def test_get_asks_the_host_that_owns_the_key_if_it_is_told_to(hosts: Hosts, two: list[Agent], tmp_path: Path) -> None:
    key = hosts.owned_by(1)[0]
    two[1]("set", key, ["value"])
    here = settings(hosts, tmp_path)
    assert asked("get", key, status=1, **here)["found"] is False
    assert asked("get", "--ask", key, **here)["value"] == ["value"]


def test_where_no_host_answers_nothing_is_promised(run_dir: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = run("invalidate", "a", COLOCACHE_PEERS=address)
    assert done.returncode == 4
    assert "none of the hosts that COLOCACHE_PEERS lists has answered" in done.stderr
    assert done.stdout == ""
