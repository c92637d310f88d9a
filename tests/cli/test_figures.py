"""What everything shows of eight gunicorn workers is what the load generator has counted, whoever is killed.

The commands, Prometheus, OpenTelemetry and the dashboard are asked, and figures for Prometheus never fall.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests import ROOT
from tests.cli.conftest import asked
from tests.conftest import Until

NONE = "(none)"  # what Prometheus is told of no namespace
WORKERS = 8
PATIENCE = 30.0  # s until all workers have answered
REQUESTS = 200  # in each round
THREADS = 8

#: Each request tells what the cache has done for it, so that its sender can count.
APPLICATION = """\
import json, os
import colocache, colocache.dashboard, colocache.opentelemetry, colocache.prometheus
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

cache = colocache.Cache("shop")
reader = InMemoryMetricReader()
colocache.opentelemetry.instrument(cache, meter_provider=MeterProvider([reader]))
others = {"metrics": colocache.prometheus.make_wsgi_app(cache), "dashboard": colocache.dashboard.make_wsgi_app(cache)}


def telemetry(environ, start_response):
    found = {"pid": os.getpid(), "points": []}
    scopes = [scope for each in reader.get_metrics_data().resource_metrics for scope in each.scope_metrics]
    for metric in [metric for scope in scopes for metric in scope.metrics]:
        for point in metric.data.data_points:
            found["points"].append((metric.name, dict(point.attributes), getattr(point, "value", None)))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]


others["telemetry"] = telemetry


def application(environ, start_response):
    first, _, rest = environ["PATH_INFO"][1:].partition("/")
    if first in others:
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = f"/{first}", f"/{rest}"
        return others[first](environ, start_response)
    number, loaded = int(first), []
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


def page(path: str, address: str) -> str:
    connection = Connection(path)
    try:
        connection.request("GET", address)
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text
        return text
    finally:
        connection.close()


def ask(path: str, number: int) -> dict[str, Any]:
    return dict(json.loads(page(path, f"/{number}")))


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


def by_prometheus(path: str) -> dict[str, float]:
    """Return the same as Prometheus has it."""
    found: Counter[tuple[str, str]] = Counter()
    for sample in samples(path):
        if sample.name in ("colocache_reads_total", "colocache_invalidations_total"):
            result = sample.labels.get("result", "invalidated")
            found[sample.labels["namespace"], result] += int(sample.value)
    reads = sum(count for (namespace, result), count in found.items() if namespace == NONE and result != "invalidated")
    return {
        "requests": reads, "items": found[NONE, "load"], "prices": found["prices", "load"],
        "invalidated": found[NONE, "invalidated"],
    }  # fmt: skip


def samples(path: str) -> list[Sample]:
    families = text_string_to_metric_families(page(path, "/metrics"))
    return [sample for family in families for sample in family.samples]


def by_telemetry(path: str, pids: set[int]) -> dict[str, float]:
    """Return the sum of what all processes send by OpenTelemetry: each says what it has counted itself."""
    answers: dict[int, Any] = {}
    ends = time.monotonic() + PATIENCE

    def send() -> None:
        while not pids <= answers.keys() and time.monotonic() < ends:
            answer = json.loads(page(path, "/telemetry"))
            answers[answer["pid"]] = answer["points"]

    threads = [threading.Thread(target=send) for _ in range(2 * WORKERS)]  # who is asked already does not take another
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found: Counter[tuple[str, str, str]] = Counter()
    for name, attributes, value in [point for points in answers.values() for point in points]:
        if value is not None:
            key = attributes.get("colocache.namespace", ""), attributes.get("colocache.result", "")
            found[(name, *key)] += value
    reads = sum(value for (name, space, _), value in found.items() if (name, space) == ("colocache.reads", ""))
    return {
        "requests": reads, "items": found["colocache.reads", "", "load"],
        "prices": found["colocache.reads", "prices", "load"],
        "invalidated": found["colocache.invalidations", "", ""],
    }  # fmt: skip


def by_dashboard(path: str) -> dict[str, float]:
    """Return the same as the pages of the dashboard have it."""
    found = {}
    for namespace in ("", "prices"):
        html = page(path, f"/dashboard/space?of={namespace}")
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html[html.index('id="counters"') :], re.DOTALL)
        cells = [
            [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows
        ]
        for name, count, *_ in cells[1:]:
            found[namespace, name] = re.sub(r"[^0-9.]", "", count)
    reads = sum(int(found.get(("", name), 0)) for name in ("hits", "fetches", "waits", "loads", "misses"))
    return {
        "requests": reads, "items": int(found["", "loads"]), "prices": int(found["prices", "loads"]),
        "invalidated": int(found["", "invalidations"]),
    }  # fmt: skip


class Scraper:
    """Scrapes all the time, and notes which figures have fallen."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._last: dict[object, float] = {}
        self._enough = threading.Event()
        self.fallen: list[str] = []
        self.scrapes = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._enough.wait(0.05):
            for sample in samples(self._path):
                if sample.name.endswith(("_total", "_count", "_sum", "_bucket")):
                    key = sample.name, *sorted(sample.labels.items())
                    if sample.value < self._last.get(key, 0):
                        self.fallen.append(f"{key}: from {self._last[key]} to {sample.value}")
                    self._last[key] = sample.value
            self.scrapes += 1

    def end(self) -> None:
        self._enough.set()
        self._thread.join()


@pytest.mark.timeout(300)
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
    assert by_prometheus(server) == counted
    until(lambda: by_dashboard(server) == counted)  # a look at the host is two seconds old at most
    assert by_telemetry(server, {row["pid"] for row in processes}) == counted
    # The killed one has shown all that it has counted, and another one takes its seat.
    scraper = Scraper(server)
    try:
        killed, recycled = processes[0]["pid"], processes[1]["pid"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in [row["pid"] for row in asked("members")["processes"]])
        assert shown() == counted
        load(server, counted)
        os.kill(recycled, signal.SIGTERM)
        until(lambda: recycled not in [row["pid"] for row in asked("members")["processes"]])
        load(server, counted)
        until(lambda: shown() == counted, failing=f"{counted}")
    finally:
        scraper.end()
    assert scraper.scrapes
    assert not scraper.fallen
    assert by_prometheus(server) == counted
    until(lambda: by_dashboard(server) == counted)
