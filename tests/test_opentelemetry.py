"""Metrics and spans for OpenTelemetry, as the SDK's exporters in memory get them."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from colocache import Cache, InvalidationIncomplete
from colocache.core.keys import Key
from colocache.stats import COUNTED, LOAD_TIMES, OF_HOSTS, RESULTS
from colocache.tracing import Span, Work
from tests.conftest import Call, Crew, NewCache, Until, waiting
from tests.processes.hosts import Hosts

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from colocache.opentelemetry import instrument, uninstrument


class Telemetry:
    """An SDK whose exporters keep everything."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.traces, self.metrics = TracerProvider(shutdown_on_exit=False), MeterProvider([self.reader])
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.traces.get_tracer("the application")

    def watch(self, *caches: Cache, keys: bool = False) -> None:
        instrument(*caches, keys=keys, tracer_provider=self.traces, meter_provider=self.metrics)

    def spans(self, work: str = "") -> list[ReadableSpan]:
        """Return what has ended, in this order; those of the cache of one kind, if it is named."""
        wanted = f"colocache {work}"
        found = self.exporter.get_finished_spans()
        return [span for span in found if not work or f"{span.name} ".startswith(f"{wanted} ")]

    def points(self) -> dict[str, dict[tuple[str, ...], Any]]:
        """Return the points of all metrics by their names, and by the values of their attributes."""
        data = self.reader.get_metrics_data()
        found: dict[str, dict[tuple[str, ...], Any]] = {}
        for of_resource in data.resource_metrics if data is not None else ():
            for metric in of_resource.scope_metrics[0].metrics:
                points = {tuple(map(str, (each.attributes or {}).values())): each for each in metric.data.data_points}
                found[metric.name] = points
        return found

    def count(self, metric: str, *attributes: str) -> float:
        value: float = self.points()[f"colocache.{metric}"][attributes].value
        return value


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.metrics.shutdown()


def of(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name if "." in name else f"colocache.{name}")


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


def loader(value: object = "value") -> Callable[[], Any]:
    return lambda: value


# --- Spans


def test_a_load_is_a_part_of_the_request_and_what_the_loader_does_a_part_of_the_load(
    call: Call, cache: Cache, telemetry: Telemetry
) -> None:
    telemetry.watch(cache)
    space = cache.namespace("users")
    requests = []

    def load() -> str:
        with telemetry.tracer.start_as_current_span("query"):
            return "value"

    for _ in range(2):
        with telemetry.tracer.start_as_current_span("request") as request:
            assert call(space, "get_or_load", "alice", load) == "value"
            assert trace.get_current_span() is request
            requests.append(request)
    query, first, *_ = telemetry.spans()
    (span,) = telemetry.spans("load")
    assert first is span
    assert span.name == "colocache load users"
    assert is_child(query, span)
    assert is_child(span, requests[0])
    assert (of(span, "group"), of(span, "namespace"), of(span, "outcome")) == ("test", "users", "stored")
    assert 0 < of(span, "seconds") < 60
    assert span.status.is_unset


def test_the_spans_of_an_awaited_loader_are_parts_of_the_load(cache: Cache, telemetry: Telemetry) -> None:
    telemetry.watch(cache)

    async def load() -> str:
        await asyncio.sleep(0)
        with telemetry.tracer.start_as_current_span("query"):
            await asyncio.sleep(0)
        return "value"

    async def main() -> None:
        with telemetry.tracer.start_as_current_span("request"):
            await asyncio.gather(*[cache.aget_or_load(str(key), load) for key in range(5)])

    asyncio.run(main())
    loads, (request,) = telemetry.spans("load"), [each for each in telemetry.spans() if each.name == "request"]
    assert len(loads) == 5
    assert all(is_child(each, request) for each in loads)
    queries = [each for each in telemetry.spans() if each.name == "query"]
    assert {each.parent.span_id for each in queries if each.parent} == {each.context.span_id for each in loads}


def test_a_hit_and_a_value_of_the_shelf_have_no_span(call: Call, new_group: Any, telemetry: Telemetry) -> None:
    first, second = new_group(2)
    first.set("key", "value")
    telemetry.watch(second)
    for _ in range(3):
        assert call(second, "get_or_load", "key", loader()) == "value"
        assert call(second, "get", "key") == "value"
    assert second.stats().hits > 0
    assert telemetry.spans() == []


@dataclass
class Asked:
    """A tracer that only notes what it was asked."""

    work: list[Work]

    def begin(self, work: Work, path: str, names: Sequence[Key]) -> Span:
        self.work.append(work)
        return self

    def end(self, outcome: str, **details: Any) -> None:
        self.work.append("clear")


def test_a_hit_does_not_even_ask_the_tracer(call: Call, ready: Cache) -> None:
    space = ready.namespace("n")
    function = ready.cached(ttl=60, name="one")(lambda: 1)
    for _ in range(3):
        call(space, "get_or_load", "key", loader())
        function()
    ready._member.tracer = asked = Asked([])
    for _ in range(3):
        assert call(space, "get_or_load", "key", loader()) == "value"
        assert call(space, "get", "key") == "value"
        assert function() == 1
    assert asked.work == []
    call(space, "get_or_load", "other", loader())
    assert asked.work == ["load", "clear"]


def test_a_call_that_waits_for_another_calls_load_has_a_span(
    cache: Cache, telemetry: Telemetry, crew: Crew, until: Until
) -> None:
    telemetry.watch(cache)
    goes_on = threading.Event()
    crew.start(lambda: cache.get_or_load("key", lambda: goes_on.wait(60)), 3)
    until(lambda: waiting(cache) == 2)
    goes_on.set()
    assert crew.join() == [True, True, True]
    assert [of(each, "outcome") for each in telemetry.spans("wait")] == ["given", "given"]
    assert len(telemetry.spans("load")) == 1


def test_a_call_that_has_waited_in_vain_says_so(cache: Cache, telemetry: Telemetry, crew: Crew, until: Until) -> None:
    telemetry.watch(cache)
    goes_on = threading.Event()

    def fail() -> None:
        goes_on.wait(60)
        raise ValueError

    crew.start(lambda: cache.get_or_load("key", fail))
    until(lambda: cache.stats().loads == 1)
    crew.start(lambda: cache.get_or_load("key", loader()))
    until(lambda: waiting(cache) == 1)
    goes_on.set()
    crew.join()
    assert [of(each, "outcome") for each in telemetry.spans("wait")] == ["nothing"]
    assert [of(each, "outcome") for each in telemetry.spans("load")] == ["failed", "stored"]


def test_a_cancelled_wait_and_a_cancelled_load_end(cache: Cache, telemetry: Telemetry) -> None:
    telemetry.watch(cache)

    async def main() -> None:
        begun = asyncio.Event()

        async def load() -> None:
            begun.set()
            await asyncio.Event().wait()

        loads = asyncio.create_task(cache.aget_or_load("key", load))
        await begun.wait()
        waits = asyncio.create_task(cache.aget_or_load("key", load))
        while not waiting(cache):
            await asyncio.sleep(0)
        for task in (waits, loads):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    (wait,), (load,) = telemetry.spans("wait"), telemetry.spans("load")
    assert of(wait, "outcome") == "interrupted"
    assert (of(load, "outcome"), of(load, "error.type")) == ("failed", "asyncio.exceptions.CancelledError")


def test_a_loop_that_drops_its_tasks_leaves_no_span_behind_as_the_present_one(
    cache: Cache, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry.watch(cache)
    loop, before = asyncio.new_event_loop(), trace.get_current_span()

    async def load() -> None:
        loop.stop()
        await asyncio.Event().wait()

    task = loop.create_task(cache.aget_or_load("key", load))
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for each in tasks:
        each._log_destroy_pending = False  # type: ignore[attr-defined]
        each.get_coro().close()  # type: ignore[union-attr]
    loop.close()
    del task, tasks, each
    gc.collect()
    assert trace.get_current_span() is before
    assert [of(span, "outcome") for span in telemetry.spans("load")] == ["failed"]
    assert "Failed to detach context" not in caplog.text


@pytest.mark.parametrize("keys", [False, True])
def test_a_failed_load_names_the_exception_and_its_text_only_where_keys_are_shown(
    call: Call, cache: Cache, telemetry: Telemetry, keys: bool
) -> None:
    telemetry.watch(cache, keys=keys)

    def fail() -> None:
        raise LookupError("nobody called alice")

    with pytest.raises(LookupError):
        call(cache, "get_or_load", ("user", "alice"), fail)
    (span,) = telemetry.spans("load")
    assert (of(span, "outcome"), of(span, "error.type")) == ("failed", "LookupError")
    assert span.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"] * keys
    assert of(span, "cache.key") == (("('user', 'alice')",) if keys else None)
    assert ("alice" in span.to_json()) is keys


def test_a_value_that_cannot_travel_fails_the_load_and_a_large_one_is_declined(
    call: Call, cache: Cache, telemetry: Telemetry
) -> None:
    telemetry.watch(cache)
    with pytest.raises(TypeError):
        call(cache, "get_or_load", "bad", loader(object()))
    call(cache, "get_or_load", "large", loader("x" * (3 << 20)))
    cache.set("never", 1, ttl=60)
    call(cache, "get_or_load", "unkept", loader(), ttl=0)
    assert [of(each, "outcome") for each in telemetry.spans("load")] == ["failed", "declined", "not kept"]


def test_invalidations_have_spans(call: Call, cache: Cache, telemetry: Telemetry) -> None:
    telemetry.watch(cache)
    space = cache.namespace("users")
    call(space, "invalidate", "alice", "bob")
    call(space, "invalidate_tags", "staff")
    call(space, "clear")
    assert [(each.name, of(each, "count"), of(each, "outcome")) for each in telemetry.spans()] == [
        ("colocache invalidate users", 2, "complete"),
        ("colocache invalidate_tags users", 1, "complete"),
        ("colocache clear users", 0, "complete"),
    ]
    assert "alice" not in str([span.to_json() for span in telemetry.spans()])
    telemetry.watch(cache, keys=True)
    call(space, "invalidate", "alice", "bob")
    call(space, "invalidate_tags", "staff")
    assert [of(each, "cache.key") or of(each, "tags") for each in telemetry.spans()[3:]] == [
        ("alice", "bob"),
        ("staff",),
    ]


def test_an_incomplete_invalidation_says_so(call: Call, new_cache: NewCache, telemetry: Telemetry) -> None:
    cache = new_cache(directory="/dev/null")
    telemetry.watch(cache)
    call(cache, "invalidate", "key")
    with pytest.raises(InvalidationIncomplete):
        call(cache, "invalidate", "key", strict=True)
    assert [of(each, "outcome") for each in telemetry.spans()] == ["incomplete", "failed"]
    assert of(telemetry.spans()[1], "error.type") == "colocache.errors.InvalidationIncomplete"


def test_what_another_host_is_asked_has_a_span_of_a_client(
    call: Call, tmp_path: Path, run_dir: str, telemetry: Telemetry, until: Until
) -> None:
    hosts = Hosts(tmp_path, 2)
    try:
        there = hosts.start(1)
        listen, peers = hosts.addresses[0], ",".join(hosts.addresses)
        with Cache("hosts", host="host 0", listen=listen, peers=peers, ttl="1h") as cache:
            cache.start()
            until(lambda: there("is_current") and there("hosts") == 2)
            until(lambda: [each.state for each in cache.hosts()] == ["current", "live"])
            telemetry.watch(cache)
            stored, missing, *many = hosts.owned_by(1)
            there("load", [stored, *many[:3]])
            fresh = iter(many[3:])

            def comes(outcome: str, count: int, method: str, *arguments: Any) -> bool:
                """Tell whether the call is traced so. A machine that is busy may get no answer in time."""
                call(cache, method, *arguments)
                span = telemetry.spans("fetch")[-1]
                assert (of(span, "hosts"), span.kind) == (("host 1",), trace.SpanKind.CLIENT)
                return (of(span, "outcome"), of(span, "count")) == (outcome, count)

            until(lambda: comes("nothing", 1, "get", missing))
            until(lambda: comes("granted", 1, "get_or_load", next(fresh), loader()))
            until(lambda: comes("found", 3, "get_many", many[:3]))
            until(lambda: comes("found", 1, "get", stored))
            assert telemetry.spans("fetch")[-1].name == "colocache fetch"
            assert call(cache, "invalidate", stored).complete
            assert of(telemetry.spans("invalidate")[0], "hosts") == ("host 1",)
            assert telemetry.points()["colocache.hosts"].keys() == {("hosts", "current"), ("hosts", "live")}
    finally:
        hosts.close()


# --- Metrics


def test_metrics_are_what_the_cache_counts(call: Call, cache: Cache, telemetry: Telemetry) -> None:
    telemetry.watch(cache)
    space = cache.namespace("users")
    for _ in range(4):
        call(space, "get_or_load", "alice", loader())
    call(space, "get", "nobody")
    call(cache, "set", "key", "value")
    call(cache, "invalidate", "key")
    points = telemetry.points()
    reads = {result: points["colocache.reads"]["test", "users", result].value for result in RESULTS}
    assert reads == {"hit": 3, "load": 1, "miss": 1, "fetch": 0, "wait": 0}
    assert points["colocache.sets"]["test",].value == 1
    assert points["colocache.invalidations"]["test",].value == 1
    assert points["colocache.near.entries"]["test",].value == cache.stats().entries == 1
    assert points["colocache.near.size"]["test",].value == cache.stats().bytes
    assert points["colocache.shelf.size"]["test",].value == cache.stats().shelf_bytes
    assert points["colocache.processes"]["test",].value == 1
    loads = points["colocache.load.duration"]["test", "users"]
    assert (loads.count, tuple(loads.explicit_bounds)) == (1, LOAD_TIMES)
    assert 0 < loads.sum == cache.stats().load_seconds


def test_there_is_a_metric_for_every_counter(cache: Cache, telemetry: Telemetry) -> None:
    telemetry.watch(cache)
    cache.start()
    counters = {*COUNTED, *OF_HOSTS} - {"load_seconds", *RESULTS.values()}
    assert {f"colocache.{name}" for name in counters} <= telemetry.points().keys()
    assert "colocache.hosts" not in telemetry.points()  # in a group of one host


def test_loads_that_fail_are_told_apart_in_the_histogram(call: Call, cache: Cache, telemetry: Telemetry) -> None:
    telemetry.watch(cache)

    def fail() -> None:
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            call(cache, "get_or_load", "key", fail)
    assert telemetry.points()["colocache.load.duration"]["test", "LookupError"].count == 2


def test_watching_starts_nothing_and_a_dropped_cache_is_forgotten(new_cache: NewCache, telemetry: Telemetry) -> None:
    cache = Cache("test")
    telemetry.watch(cache)
    assert cache.members() == []
    assert telemetry.count("reads", "test", "miss") == 0
    assert "colocache.processes" not in telemetry.points()
    del cache
    gc.collect()
    assert telemetry.points() == {}


def test_two_caches_of_one_group_are_added_up(pair: list[Cache], telemetry: Telemetry) -> None:
    telemetry.watch(*pair)
    for cache in pair:
        cache.get("nobody has it")
        cache.get_or_load(str(id(cache)), loader())
    assert telemetry.count("reads", "test", "miss") == 2
    assert telemetry.count("near.entries", "test") == 2
    assert telemetry.count("shelf.entries", "test") == 2  # and not four
    assert telemetry.count("processes", "test") == 1


def test_to_watch_twice_makes_nothing_twice(
    cache: Cache, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        telemetry.watch(cache)
    cache.get_or_load("key", loader())
    assert len(telemetry.spans()) == 1
    assert telemetry.count("reads", "test", "load") == 1
    assert telemetry.points()["colocache.load.duration"]["test",].count == 1
    assert caplog.text == ""


def test_it_can_be_taken_back(cache: Cache, telemetry: Telemetry) -> None:
    telemetry.watch(cache)
    uninstrument(cache)
    cache.get_or_load("key", loader())
    assert telemetry.spans() == []
    assert telemetry.points() == {}


@pytest.mark.parametrize("arguments", [(), ("shop",), (None,)])
def test_what_is_no_cache_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="cache"):
        instrument(*arguments)


# --- Trouble


class Broken(SpanProcessor):
    """An extension of the application that fails."""

    def __init__(self, at: str) -> None:
        self._at = at

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._at == "start":
            raise OSError("the exporter is broken")

    def on_end(self, span: Any) -> None:
        if self._at == "end":
            raise OSError("the exporter is broken")


@pytest.mark.parametrize("at", ["start", "end"])
def test_trouble_with_opentelemetry_harms_no_call(
    at: str, call: Call, cache: Cache, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry.traces.add_span_processor(Broken(at))
    telemetry.watch(cache)
    before = trace.get_current_span()
    for _ in range(2):
        assert call(cache, "get_or_load", "key", loader()) == "value"
        assert call(cache, "invalidate", "key").complete
    assert trace.get_current_span() is before
    assert caplog.text.count("OpenTelemetry has failed, and the cache goes on: OSError: the exporter is broken") == 1


def test_without_an_sdk_nothing_is_made(call: Call, cache: Cache) -> None:
    """The global providers of an application that has set none do nothing."""
    instrument(cache)
    try:
        assert call(cache, "get_or_load", "key", loader()) == "value"
        assert call(cache, "invalidate", "key").complete
    finally:
        uninstrument(cache)
