"""Figures for Prometheus: whom they count, what they are called, and who is told them."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from colocache import Cache
from colocache.stats import FIGURES, LOAD_TIMES, RESULTS
from colocache.testing.group import OtherProcess
from tests import ROOT
from tests.conftest import NewCache, Until

pytest.importorskip("prometheus_client")
yaml = pytest.importorskip("yaml")

from prometheus_client import CollectorRegistry, Gauge, generate_latest, multiprocess, values  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from colocache import prometheus  # noqa: E402

RULES = ROOT / "deploy" / "prometheus" / "colocache.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "colocache.json"

#: The package prometheus of Debian brings it.
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(*caches: Cache) -> Samples:
    """Return what a scrape of this process shows. Each sample has a name and labels of its own."""
    registry = CollectorRegistry()
    prometheus.register(*caches, registry=registry)
    return samples(generate_latest(registry).decode())


def samples(text: str) -> Samples:
    found = [each for family in text_string_to_metric_families(text) for each in family.samples]
    by_name = {(each.name, frozenset(each.labels.items())): each.value for each in found}
    assert len(by_name) == len(found), "two samples have the same labels"
    return by_name


def value(of: Samples, name: str, **labels: str) -> float:
    return of[name, frozenset({"group": "test", **labels}.items())]


def reads(of: Samples, namespace: str) -> dict[str, float]:
    return {result: value(of, "colocache_reads_total", namespace=namespace, result=result) for result in RESULTS}


# --- In the other process

_other: list[Cache] = []


def read_there(directory: str, namespace: str, keys: int) -> None:
    """Load some keys, and read each once more."""
    if not _other:
        _other.append(Cache("test", directory=directory))
    space = _other[0].namespace(namespace)
    for key in 2 * [*map(str, range(keys))]:
        space.get_or_load(key, lambda: "value")


def scraped_there() -> Samples:
    return scraped(*_other)


def leave_there() -> None:
    _other[0].leave()


@pytest.fixture
def other(run_dir: str) -> Iterator[OtherProcess]:
    process = OtherProcess(run_dir)
    yield process
    process.stop()


# --- Whom the figures count


def test_any_process_answers_for_all_of_the_host(
    new_cache: NewCache, other: OtherProcess, run_dir: str, until: Until
) -> None:
    cache = new_cache()
    here = cache.namespace("here")
    other.call(read_there, run_dir, "there", 3)
    for _ in range(2):
        here.get_or_load("key", lambda: "value")
    wanted = {"hit": 3, "load": 3, "fetch": 0, "wait": 0, "miss": 0}
    until(lambda: ("colocache_up", frozenset({("group", "test")})) in scraped(cache))
    until(lambda: "there" in str(scraped(cache)) and reads(scraped(cache), "there") == wanted)
    until(lambda: "here" in str(other.call(scraped_there)))
    until(lambda: other.call(scraped_there) == scraped(cache))
    assert reads(scraped(cache), "here") == {"hit": 1, "load": 1, "fetch": 0, "wait": 0, "miss": 0}
    assert value(scraped(cache), "colocache_processes", role="peer") == 2
    assert value(scraped(cache), "colocache_near_entries") == 4


def test_what_a_process_has_counted_stays_when_it_leaves_or_is_killed(
    new_cache: NewCache, other: OtherProcess, run_dir: str, until: Until
) -> None:
    cache = new_cache()
    cache.start()
    other.call(read_there, run_dir, "there", 3)
    other.call(leave_there)
    wanted = {"hit": 3, "load": 3, "fetch": 0, "wait": 0, "miss": 0}
    assert reads(scraped(cache), "there") == wanted
    other.call(read_there, run_dir, "there", 5)  # three of these are on the shelf
    until(lambda: reads(scraped(cache), "there")["load"] == 5)
    until(lambda: sum(reads(scraped(cache), "there").values()) == 16)
    before = scraped(cache)
    other._process.kill()
    other._process.wait()
    until(lambda: value(scraped(cache), "colocache_processes", role="peer") == 1)
    assert reads(scraped(cache), "there") == reads(before, "there")
    assert value(scraped(cache), "colocache_near_entries") == 0


def test_a_scrape_lets_a_process_join_that_has_not_used_the_cache(cache: Cache) -> None:
    assert cache.members() == []
    assert value(scraped(cache), "colocache_up") == 1
    assert len(cache.members()) == 1


@pytest.mark.parametrize("why", ["closed", "disabled", "cannot join"])
def test_where_the_process_is_on_no_host_it_says_only_that(why: str, new_cache: NewCache, tmp_path: Path) -> None:
    settings: Mapping[str, dict[str, Any]] = {"disabled": {"disabled": True}, "cannot join": {"directory": "/dev/null"}}
    cache = new_cache(**settings.get(why, {}))
    if why == "closed":
        cache.close()
    assert scraped(cache) == {("colocache_up", frozenset({("group", "test")})): 0}


def test_figures_that_cannot_be_read_are_not_taken_for_zeros(
    ready: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = ready._member.own_host()
    assert host is not None

    def fail() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(host.region, "all_scores", fail)
    assert scraped(ready) == {("colocache_up", frozenset({("group", "test")})): 0}
    assert "cannot be read: too many open files" in caplog.text


def test_each_read_is_counted_once(cache: Cache) -> None:
    space = cache.namespace("n")
    space.get("nobody has it")
    for _ in range(4):
        space.get_or_load("key", lambda: "value")
    assert reads(scraped(cache), "n") == {"hit": 3, "load": 1, "fetch": 0, "wait": 0, "miss": 1}


def test_loads_are_a_histogram(cache: Cache) -> None:
    def fail() -> str:
        raise ValueError

    space = cache.namespace("n")
    space.get_or_load("a", lambda: "value")
    with pytest.raises(ValueError):  # noqa: PT011
        space.get_or_load("b", fail)
    shown = scraped(cache)
    buckets = [
        value(shown, "colocache_load_seconds_bucket", namespace="n", le=le) for le in [*map(str, LOAD_TIMES), "+Inf"]
    ]
    assert all(before <= after for before, after in pairwise(buckets))
    assert buckets[-1] == value(shown, "colocache_load_seconds_count", namespace="n") == 2
    assert 0 < value(shown, "colocache_load_seconds_sum", namespace="n") < LOAD_TIMES[-1]
    assert value(shown, "colocache_failed_loads_total", namespace="n") == 1


def test_how_many_processes_there_are_to_be_is_shown_where_somebody_has_said_so(new_cache: NewCache) -> None:
    assert not [name for name, _ in scraped(new_cache()) if name == "colocache_expected_processes"]
    assert value(scraped(new_cache(expect=1)), "colocache_expected_processes") == 1


def test_the_hosts_of_a_group_of_one_host_are_not_shown(ready: Cache) -> None:
    assert not [name for name, _ in scraped(ready) if name == "colocache_hosts"]


# --- What they are called


def test_every_figure_is_shown(ready: Cache) -> None:
    ready.get("key")
    names = {name for name, _ in scraped(ready)}
    counters = {figure.name for figure in FIGURES if figure.kind == "counter"}
    elsewhere = {"load_seconds", *RESULTS.values()}
    assert {f"colocache_{name}_total" for name in counters - elsewhere} <= names
    assert {"colocache_reads_total", "colocache_load_seconds_sum"} <= names
    assert {f"colocache_{gauge.name}" for gauge in prometheus._GAUGES} <= names
    assert not [name for name in names if "_total" in name and not name.endswith("_total")]


def test_no_label_names_a_process_or_a_key(cache: Cache) -> None:
    cache.namespace("n").get_or_load("a key that nobody may see", lambda: "value")
    shown = scraped(cache)
    labels = {name for _, labels in shown for name, _ in labels}
    assert labels == {"group", "namespace", "result", "role", "le", "version", "host"}
    assert "a key that nobody may see" not in str(shown)


@pytest.mark.parametrize("name", ["(none)", "(others)", 'a"b\\c\nd', "ü" * 90, "\ud800"])
def test_a_namespace_may_have_any_name(name: str, cache: Cache) -> None:
    cache.namespace(name).get("key")
    cache.get("key")
    shown = scraped(cache)  # no two samples have the same labels
    assert sum(each for (sample, _), each in shown.items() if sample == "colocache_reads_total") == 2


def test_namespaces_without_end_do_not_become_labels_without_end(cache: Cache) -> None:
    for number in range(300):
        cache.namespace(f"n{number}").get("key")
    shown = scraped(cache)
    labels = {dict(labels).get("namespace") for _, labels in shown}
    assert len(labels) < 250
    assert sum(each for (sample, _), each in shown.items() if sample == "colocache_reads_total") == 300
    assert reads(shown, "(others)")["miss"] > 50


def test_caches_of_several_groups_are_told_apart(new_cache: NewCache) -> None:
    caches = [new_cache(), new_cache("second")]
    caches[1].get("key")
    shown = scraped(*caches)
    assert {dict(labels)["group"] for _, labels in shown} == {"test", "second"}
    assert shown["colocache_processes", frozenset({("group", "second"), ("role", "peer")})] == 1


def test_two_caches_of_one_group_would_count_everything_twice(new_cache: NewCache) -> None:
    with pytest.raises(ValueError, match="2 caches are of the group 'test'"):
        prometheus.Collector(new_cache(), new_cache())
    registry = CollectorRegistry()
    prometheus.register(new_cache(), registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        prometheus.register(new_cache(), registry=registry)


@pytest.mark.parametrize("arguments", [(), ("shop",), (None,)])
def test_what_is_no_cache_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="cache"):
        prometheus.Collector(*arguments)


def test_registering_starts_nothing_and_can_be_taken_back(cache: Cache) -> None:
    registry = CollectorRegistry(auto_describe=True)
    collector = prometheus.register(cache, registry=registry)
    assert cache.members() == []
    registry.unregister(collector)
    assert generate_latest(registry) == b""


def test_a_part_of_the_metrics_can_be_asked_for(cache: Cache) -> None:
    registry = CollectorRegistry()
    prometheus.register(cache, registry=registry)
    text = generate_latest(registry.restricted_registry(["colocache_up"])).decode()
    assert {name for name, _ in samples(text)} == {"colocache_up"}


def test_it_works_beside_the_multiprocess_mode(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There each scrape has a registry of its own, which reads the files that all workers write."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue(lambda: 1))
    monkeypatch.setattr("prometheus_client.metrics.values", values)
    own = CollectorRegistry()
    Gauge("of_the_application", "A figure.", registry=own, multiprocess_mode="sum").set(7)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    prometheus.register(cache, registry=registry)
    cache.get("key")
    shown = samples(generate_latest(registry).decode())
    assert shown["of_the_application", frozenset()] == 7
    assert reads(shown, "(none)")["miss"] == 1


# --- Who is told them

Answer = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Answer]


def ask_wsgi(caches: list[Cache], method: str = "GET", token: str | None = None, **headers: str) -> Answer:
    app = prometheus.make_wsgi_app(*caches, token=token)
    started: list[Any] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": "/metrics", "wsgi.input": io.BytesIO()}
    environ |= {f"HTTP_{name.upper()}": text for name, text in headers.items()}
    body = b"".join(app(environ, lambda status, headers, *_: started.extend((status, headers)) or bytes))  # type: ignore
    return int(started[0][:3]), dict(started[1]), body


def ask_asgi(caches: list[Cache], method: str = "GET", token: str | None = None, **headers: str) -> Answer:
    app = prometheus.make_asgi_app(*caches, token=token)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.replace("_", "-").encode(), text.encode("latin-1")) for name, text in headers.items()]
    asyncio.run(app({"type": "http", "method": method, "path": "/metrics", "headers": raw}, receive, send))
    start, body = sent
    names = {name.decode().title(): text.decode() for name, text in start["headers"]}
    return start["status"], names, body["body"]


@pytest.fixture(params=[ask_wsgi, ask_asgi], ids=["wsgi", "asgi"])
def ask(request: pytest.FixtureRequest) -> Ask:
    ask: Ask = request.param
    return ask


def test_the_application_answers_a_scrape(ask: Ask, cache: Cache) -> None:
    cache.get("key")
    status, headers, body = ask([cache])
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert headers["Content-Length"] == str(len(body))
    assert headers["Cache-Control"] == "no-store"
    assert reads(samples(body.decode()), "(none)")["miss"] == 1
    assert not [name for name, _ in samples(body.decode()) if not name.startswith("colocache_")]


def test_the_application_speaks_openmetrics(ask: Ask, cache: Cache) -> None:
    _, headers, body = ask([cache], accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize(("accepted", "is_small"), [("gzip, br", True), ("br, gzip;q=0", False), ("gzip;q=0.5", True)])
def test_the_application_compresses(ask: Ask, cache: Cache, accepted: str, is_small: bool) -> None:
    _, headers, body = ask([cache], accept_encoding=accepted)
    assert (headers.get("Content-Encoding") == "gzip") is is_small
    text = (gzip.decompress(body) if is_small else body).decode()
    assert value(samples(text), "colocache_up") == 1


def test_the_head_of_an_answer_has_no_body(ask: Ask, cache: Cache) -> None:
    status, headers, body = ask([cache], "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


def test_nothing_but_a_scrape_is_answered(ask: Ask, cache: Cache) -> None:
    status, headers, _ = ask([cache], "POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer secre"}, {"authorization": "Basic secret"},
                                   {"authorization": "Bearer \xe9"}, {"authorization": "secret"}])  # fmt: skip
def test_who_has_not_the_token_is_told_nothing(ask: Ask, cache: Cache, given: dict[str, str]) -> None:
    status, headers, body = ask([cache], token="secret", **given)
    assert (status, headers["Www-Authenticate" if ask is ask_asgi else "WWW-Authenticate"]) == (401, "Bearer")
    assert b"colocache" not in body
    assert cache.members() == []


def test_who_has_the_token_is_answered(ask: Ask, cache: Cache) -> None:
    assert ask([cache], token="secret", authorization="Bearer secret")[0] == 200


@pytest.mark.parametrize("token", ["", " x", "a\nb", "\xe9"])
@pytest.mark.parametrize("make", [prometheus.make_wsgi_app, prometheus.make_asgi_app])
def test_a_token_that_no_header_can_carry_is_refused(make: Any, token: str, cache: Cache) -> None:
    with pytest.raises(ValueError, match="token"):
        make(cache, token=token)


def test_only_http_is_answered(cache: Cache) -> None:
    async def never() -> Any:
        raise AssertionError

    with pytest.raises(RuntimeError, match="'websocket'"):
        asyncio.run(prometheus.make_asgi_app(cache)({"type": "websocket"}, never, lambda message: never()))


# --- Alerts and dashboard


def exposed() -> set[str]:
    """Return the names of all samples that a scrape can show."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"], "gauge": [""]}
    metrics = prometheus._Families().all()
    return {metric.name + suffix for metric in metrics for suffix in suffixes[metric.type]}


def used(expression: str) -> set[str]:
    return set(re.findall(r"\bcolocache_\w+", expression))


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return found


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", ())]


def test_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    texts = [*[rule["expr"] for rule in rules()], *expressions()]
    texts += [each["definition"] for each in dashboard_variables() if "definition" in each]
    assert len(texts) > 30
    assert {name for text in texts for name in used(text)} - exposed() == set()
    assert all(used(text) for text in texts)


def dashboard_variables() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["templating"]["list"]
    return found


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for text in expressions() for name in used(text)}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed() - shown} <= {"colocache_load_seconds"}


def test_the_panels_do_not_cover_each_other() -> None:
    places = [
        (x, y)
        for panel in panels()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert {x for x, _ in places} == {*range(24)}
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_the_dashboard_asks_for_what_the_reader_has_chosen() -> None:
    known = {"datasource", "group", "instance", "namespace"}
    assert {each["name"] for each in dashboard_variables()} == known
    for panel in panels():
        assert panel["type"] == "row" or panel["description"]
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            for selector in re.findall(r"colocache_\w+\{(.*?)\}", target["expr"]):
                assert {'group=~"$group"', 'instance=~"$instance"'} <= set(selector.split(", ")), target["expr"]


def promtool(*arguments: str, given: str | None = None, where: Path = ROOT) -> None:
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, cwd=where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "" or "SUCCESS" in done.stdout, done.stdout


@needs_promtool
def test_the_names_of_the_metrics_follow_the_conventions(cache: Cache) -> None:
    cache.namespace("n").get_or_load("key", lambda: "value")
    promtool("check", "metrics", given=ask_wsgi([cache])[2].decode())


@needs_promtool
def test_the_alerts_fire_when_they_should() -> None:
    tests = yaml.safe_load((RULES.parent / "colocache.rules.test.yml").read_text("utf-8"))["tests"]
    tried = [(each["alertname"], bool(each.get("exp_alerts"))) for test in tests for each in test["alert_rule_test"]]
    assert {(rule["alert"], fires) for rule in rules() for fires in (True, False)} == set(tried)
    promtool("test", "rules", "colocache.rules.test.yml", where=RULES.parent)
    promtool("check", "config", "prometheus.yml", where=RULES.parent)


@needs_promtool
def test_prometheus_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    records = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__\w+", "5m", text)}
        for number, text in enumerate(expressions())
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
    promtool("check", "rules", "rules.yml", where=tmp_path)
