"""What the commands show of eight gunicorn workers is what the load generator has counted, whoever is killed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.cli.conftest import asked
from tests.conftest import Until

WORKERS = 8
REQUESTS = 400  # in each of two rounds
THREADS = 8

#: Each request tells what the cache has done for it, so that its sender can count.
APPLICATION = """\
import json
import colocache

cache = colocache.Cache("shop")


def application(environ, start_response):
    number, loaded = int(environ["PATH_INFO"][1:]), []
    value = cache.get_or_load(("item", number % 50), lambda: loaded.append(1) or number)
    price = cache.namespace("prices").get_or_load(str(number % 20), lambda: loaded.append(2) or number)
    if number % 40 == 7:
        cache.invalidate(("item", number % 50))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"items": loaded.count(1), "prices": loaded.count(2), "invalidated": number % 40 == 7}).encode()]
"""


@pytest.fixture
def server(run_dir: str, tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(APPLICATION)
    socket = f"{run_dir}/web"
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--bind", f"unix:{socket}", "app:application"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield socket
    process.terminate()
    process.wait(60)


class Connection(http.client.HTTPConnection):
    """A connection to a socket of the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        import socket

        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


def ask(path: str, number: int) -> dict[str, Any]:
    connection = Connection(path)
    try:
        connection.request("GET", f"/{number}")
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


def load(path: str, counted: Counter[str]) -> None:
    """Send the requests, and add what their answers say."""
    answers: list[dict[str, Any]] = []

    def send(first: int) -> None:
        answers.extend([ask(path, number) for number in range(first, REQUESTS, THREADS)])

    threads = [threading.Thread(target=send, args=(first,)) for first in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == REQUESTS
    counted["requests"] += REQUESTS
    for answer in answers:
        for name in ("items", "prices", "invalidated"):
            counted[name] += answer[name]


def shown() -> dict[str, float]:
    """Return what the commands say of it, and that they agree with each other."""
    rows = {row["namespace"]: row for row in asked("stats", "--by", "namespace")["rows"]}
    if not {"", "prices"} <= rows.keys():  # nobody has shown them yet
        return {}
    items, prices = rows[""], rows["prices"]
    return {
        "requests": items["reads"], "items": items["loads"], "prices": prices["loads"],
        "invalidated": items["invalidations"],
    }  # fmt: skip


def test_figures_are_what_the_load_generator_has_counted(server: str, until: Until) -> None:
    counted: Counter[str] = Counter()
    until(lambda: os.path.exists(server))
    load(server, counted)
    until(lambda: shown() == counted, failing=f"{counted}")
    assert counted["items"] >= 50
    assert counted["prices"] == 20
    processes = asked("stats", "--by", "process")["rows"]
    assert sum(row["reads"] for row in processes) == 2 * REQUESTS
    assert asked("stats")["rows"][0]["reads"] == 2 * REQUESTS
    keys = asked("stats")["hosts"][0]
    assert keys["processes"] == len(asked("members")["processes"])
    # The killed one has shown all that it has counted, and another one takes its seat.
    killed = processes[0]["pid"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in [row["pid"] for row in asked("members")["processes"]])
    assert shown() == counted
    load(server, counted)
    until(lambda: shown() == counted, failing=f"{counted}")
