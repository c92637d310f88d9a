"""What does it cost a process that its cache can be watched?

    python -m benchmarks.watched [--quick] [--write]

Three processes, each in a group of its own, take turns. In one everything is "off": it has nothing but a cache. In one
everything is "on", and nobody looks: a collector for Prometheus, instruments of OpenTelemetry (its SDK, with a reader
that is not asked), the auditor for one hit in a thousand, an expected number of processes, and a mounted dashboard. In
the third, OpenTelemetry makes "spans", too, which its SDK drops at their end. The figure is the processor time of the
whole process, so that of its threads, too.

A "hit" is a read of a value that the process holds, by `get` or by a decorated function. A "load" is a `get_or_load` of
a key that nobody has, with a loader that does nothing. A real loader asks a database, which takes far longer than a
span. What a span with three attributes takes without a cache is measured, too.

The last table is what the processes take when they do nothing at all.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time, sleep
from typing import Any

import colocache
from benchmarks.measure import Contender, Report, Sampler, interleave, options, quiet, ratio

ROOT = Path(__file__).resolve().parents[1]
KEYS = [f"key {number}" for number in range(1000)]
WORKS = {"hit": 50_000, "hit of a function": 50_000, "load": 500, "set": 500, "invalidate": 500}
HOWS, SPAN = ("off", "on", "spans"), "a span by hand"
TIMES = {**WORKS, SPAN: 500}
#: An audited function looks at each hit whether it is drawn.
HIT_LIMITS, OTHER_LIMIT = {"hit": 1.05, "hit of a function": 1.3}, 1.1
IDLE = 20.0  # s
PACKAGES = ("prometheus_client", "opentelemetry-sdk")


class Watched:
    """A process that works when it is asked to."""

    def __init__(self, place: str, how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.watched", how], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "COLOCACHE_DIR": place, "COLOCACHE_GROUP": how},
        )  # fmt: skip
        self._line()

    def ask(self, name: str) -> list[float]:
        """Return what one operation takes, in seconds."""
        assert self.process.stdin is not None
        print(name, file=self.process.stdin, flush=True)
        return [float(self._line())]

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process has ended: {self.process.wait()}")
        return line

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.communicate()


def serve(how: str) -> None:
    """Be such a process: read names of operations, and answer each with seconds."""
    from opentelemetry.sdk.trace import TracerProvider

    tracers = TracerProvider()
    if how == "off":
        cache, kept = colocache.Cache(ttl=3600), None
    else:
        cache = colocache.Cache(ttl=3600, audit=0.001, expect=1)
        kept = be_watched(cache, tracers if how == "spans" else None)
    tracer = tracers.get_tracer("by hand")

    @cache.cached(ttl=3600)
    def found(key: str) -> str:
        return key

    cache.set_many(dict.fromkeys(KEYS, "value"))
    numbers, get, load, turns = itertools.count(), cache.get, cache.get_or_load, range(50)
    for key in KEYS * 2:
        get(key)
        found(key)
    works: dict[str, Callable[[], object]] = {
        "hit": lambda: [get(key) for _ in turns for key in KEYS],
        "hit of a function": lambda: [found(key) for _ in turns for key in KEYS],
        "load": lambda: [load(f"new {next(numbers)}", lambda: 1) for _ in range(TIMES["load"])],
        "set": lambda: [cache.set(f"set {next(numbers)}", 1) for _ in range(TIMES["set"])],
        SPAN: lambda: [make_span(tracer) for _ in range(TIMES[SPAN])],
        "invalidate": lambda: [cache.invalidate(f"set {next(numbers)}") for _ in range(TIMES["invalidate"])],
    }
    print("ready", flush=True)
    with quiet():
        for line in sys.stdin:
            name, began = line.strip(), process_time()
            if name == "idle":
                sleep(IDLE)
                print((process_time() - began) / IDLE, flush=True)
            else:
                works[name]()
                print((process_time() - began) / TIMES[name], flush=True)
    del kept


def make_span(tracer: Any) -> None:
    """Make a span such as those of the cache."""
    with tracer.start_as_current_span("span", attributes={"one": "text", "another": "text", "number": 1}):
        pass


def be_watched(cache: colocache.Cache, tracers: Any) -> object:
    """Switch everything on; return what must live on."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from prometheus_client import CollectorRegistry

    import colocache.dashboard
    import colocache.opentelemetry
    import colocache.prometheus

    cache.audit_within(contextlib.nullcontext)
    meters, registry = MeterProvider([InMemoryMetricReader()]), CollectorRegistry()
    colocache.opentelemetry.instrument(cache, tracer_provider=tracers, meter_provider=meters)
    colocache.prometheus.register(cache, registry=registry)
    return meters, registry, colocache.dashboard.make_wsgi_app(cache)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    report = Report("watched", "What does it cost a process that its cache can be watched?",
                    options(__doc__ or "", argv=argv), PACKAGES)  # fmt: skip
    quick = report.options.quick
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="cw"))
        processes = {how: Watched(place, how) for how in HOWS}
        for each in processes.values():
            stack.callback(each.close)

        def sampler(how: str, name: str) -> Sampler:
            return lambda: processes[how].ask(name)

        contenders = [Contender(f"{name}, {how}", sampler(how, name)) for name in WORKS for how in HOWS]
        contenders.append(Contender(SPAN, sampler("off", SPAN)))
        rounds = report.options.rounds or (3 if quick else 30)
        series = interleave(contenders, rounds, report.options.seed, "watched:")
        report.timings("everything on, and off", series, "hit, off", "us", None)
        for name in WORKS:
            for how, limit in (("on", HIT_LIMITS.get(name, OTHER_LIMIT)), ("spans", HIT_LIMITS.get(name))):
                quotient = ratio(series[f"{name}, {how}"], series[f"{name}, off"])
                if limit is None:
                    report.ratio(f"watched: {name}, {how} / off", quotient)
                else:
                    report.target(f"watched: {name}, {how} / off", quotient, limit)
        if not quick:
            idle = [(how, f"{100 * each.ask('idle')[0]:.3f} %") for how, each in processes.items()]
            report.table("a process that does nothing", ("everything", "of a core"), idle)
    return report.finish()


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in HOWS:
        serve(sys.argv[1])
    else:
        main()
