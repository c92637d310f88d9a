"""For OpenTelemetry: what this process counts, as metrics, and spans of what takes time::

    colocache.opentelemetry.instrument(cache)

See `instrument` and `uninstrument`.

**Each process tells its own figures.** An SDK runs in every process, with a resource that names the process, and a
backend adds up over the resources. If each process told the figures of its whole host, a sum over them would count
everything once for each process. What is the host's, such as the size of the shelf, cannot be divided. So it is a
gauge, which backends do not add up, and each process tells the same.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import Token
from typing import Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from . import Cache, __version__
from .core.host.scores import OTHERS
from .core.keys import Key
from .interruptions import raise_if_from_handler
from .middleware import checked_cache
from .naming import shown
from .runtime.logs import Log
from .stats import ALL_OTHERS, COUNTED, FIGURES, LOAD_TIMES, OF_HOSTS, RESULTS, Counters, Stats
from .tracing import Span, Work

__all__ = ["instrument", "uninstrument"]

_NAME: Final = "colocache"

#: What the counters count; the others count values.
_UNITS: Final = {
    "fallbacks": "{load}", "failed_loads": "{load}", "hedged": "{request}", "hedges_won": "{request}",
    "invalidations": "{call}", "incomplete": "{receipt}",
}  # fmt: skip

#: Of this process, so that they are added up; and of its host.
_OWN: Final = {"entries": ("near.entries", "{value}"), "bytes": ("near.size", "By")}
_OF_HOST: Final = {
    "processes": ("processes", "{process}"), "shelf_entries": ("shelf.entries", "{value}"),
    "shelf_bytes": ("shelf.size", "By"), "expected": ("processes.expected", "{process}"),
}  # fmt: skip

Attributes = dict[str, AttributeValue]


def instrument(
    *caches: Cache,
    keys: bool = False,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Make metrics of what caches count in this process, and spans of their loads, waits, fetches and invalidations.

    Call it once where the application starts, before or after its providers are set; the default are the global ones. A
    forked child goes on with the caches, and, as far as the SDK can do that, with the providers. It starts nothing, and
    no cache joins its group because of it. To call it again for a cache replaces what was said before.

    A hit has no span, and costs what it costs without this. Keys and tags can be personal data, and so can the texts of
    exceptions. With ``keys=True`` spans have them, otherwise only how many they are, and the exceptions' types.

    Trouble with OpenTelemetry is logged, and harms no call. Raise TypeError for what is no cache.
    """
    if not caches:
        raise TypeError("give the cache, or several, of which metrics and spans are wanted")
    for cache in caches:
        checked_cache(cache)
    uninstrument(*caches)
    instruments = _made.get(meter_provider)
    if instruments is None:
        instruments = _made[meter_provider] = _Instruments(get_meter(_NAME, __version__, meter_provider))
    tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
    for cache in caches:
        instruments.caches.add(cache)
        cache._member.tracer = _Tracer(cache.group, tracer, instruments.load_duration, keys, cache._member.log)


def uninstrument(*caches: Cache) -> None:
    """Make no more of them, for these caches."""
    for cache in caches:
        cache._member.tracer = None
        for instruments in [*_made.values()]:
            instruments.caches.discard(cache)


# --- Metrics


class _Instruments:
    """The instruments of one provider, which cannot be taken back. So they look at the caches that there are."""

    def __init__(self, meter: Meter) -> None:
        self.caches = weakref.WeakSet[Cache]()
        #: Not observed, but told by the spans: OpenTelemetry has no histogram that is observed.
        self.load_duration = meter.create_histogram(
            "colocache.load.duration", "s", "Time that loaders of this process took, however they ended.",
            explicit_bucket_boundaries_advisory=LOAD_TIMES,
        )  # fmt: skip
        meter.create_observable_counter(
            "colocache.reads", [self._reads], "{key}",
            "Keys that this process was asked for: found near, or on the shelf; given by another call's load; loaded; "
            "or missed.",
        )  # fmt: skip
        help = {figure.name: figure.help.replace("`", "") for figure in FIGURES}
        for name in (*COUNTED, *OF_HOSTS):
            if name not in RESULTS.values() and name != "load_seconds":
                callback = self._state(name, max) if name in OF_HOSTS else self._counted(name)
                meter.create_observable_counter(
                    f"colocache.{name}", [callback], _UNITS.get(name, "{value}"), help[name]
                )
        for name, (instrument, unit) in _OWN.items():
            meter.create_observable_up_down_counter(
                f"colocache.{instrument}", [self._state(name, sum)], unit, help[name]
            )
        for name, (instrument, unit) in _OF_HOST.items():
            meter.create_observable_gauge(f"colocache.{instrument}", [self._state(name, max)], unit, help[name])
        meter.create_observable_gauge(
            "colocache.hosts", [self._hosts], "{host}",
            "Hosts of the group by their state, as this one sees them; none in a group of one host.",
        )  # fmt: skip

    def _reads(self, options: CallbackOptions) -> Iterable[Observation]:
        for labels, result, count in self._sums(RESULTS):
            yield Observation(count, {**labels, "colocache.result": result})

    def _counted(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for labels, _, count in self._sums({name: name}):
                yield Observation(count, labels)

        return observe

    def _sums(self, names: dict[str, str]) -> Iterator[tuple[Attributes, str, float]]:
        """Yield the sums of counters over all caches of a group, by namespace."""
        found = defaultdict[tuple[str, str], list[Counters]](list)
        for cache in [*self.caches]:
            for path, counters in cache._member.counted().items():
                found[cache.group, path].append(counters)
        for (group, path), several in found.items():
            for shown_as, name in names.items():
                yield _labels(group, path), shown_as, sum([getattr(each, name) for each in several])

    def _state(
        self, name: str, join: Callable[[list[float]], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for group, several in self._stats().items():
                yield Observation(join([getattr(each, name) for each in several]), {"colocache.group": group})

        return observe

    def _stats(self) -> dict[str, list[Stats]]:
        """Return the figures of the caches that have joined, by group."""
        found = defaultdict[str, list[Stats]](list)
        for cache in [*self.caches]:
            stats = cache.stats()
            if stats.processes:
                found[cache.group].append(stats)
        return found

    def _hosts(self, options: CallbackOptions) -> Iterable[Observation]:
        for group, hosts in {cache.group: cache.hosts() for cache in [*self.caches]}.items():
            for state, count in Counter([each.state for each in hosts]).items():
                yield Observation(count, {"colocache.group": group, "colocache.state": state})


#: By their provider; None is the global one.
_made: dict[MeterProvider | None, _Instruments] = {}


def _labels(group: str, path: str) -> Attributes:
    labels: Attributes = {"colocache.group": group}
    if path:
        labels["colocache.namespace"] = path if path != OTHERS else ALL_OTHERS
    return labels


# --- Spans


class _Tracer:
    """Makes spans of what a member tells."""

    def __init__(self, group: str, tracer: trace.Tracer, load_duration: Histogram, keys: bool, log: Log) -> None:
        self.group = group
        self.tracer = tracer
        self.load_duration = load_duration
        self.keys = keys
        self._log = log

    def begin(self, work: Work, path: str, names: Sequence[Key]) -> Span:
        """Begin a span. A load's is the parent of all that is begun until it ends, in this thread or task."""
        span = _Span(self, _labels(self.group, path))
        try:
            span.begin(work, path, names)
        except Exception as error:
            raise_if_from_handler(error)
            self.tell(error)
        return span

    def tell(self, error: Exception) -> None:
        """Log what OpenTelemetry, or a part of the application that extends it, has raised."""
        self._log.warning(
            "OpenTelemetry has failed, and the cache goes on: %s: %s", type(error).__name__, error,
            event="telemetry_failed",
        )  # fmt: skip


class _Span:
    """A span, or nothing, if it could not be begun."""

    __slots__ = ("_is_over", "_labels", "_span", "_token", "_tracer")

    def __init__(self, tracer: _Tracer, labels: Attributes) -> None:
        self._tracer = tracer
        self._labels = labels
        self._span: trace.Span | None = None
        self._token: Token[Context] | None = None
        self._is_over = False

    def begin(self, work: Work, path: str, names: Sequence[Key]) -> None:
        """Begin it."""
        attributes: Attributes = {**self._labels, "colocache.count": len(names)}
        if self._tracer.keys and names:
            attributes["cache.key" if work != "invalidate_tags" else "colocache.tags"] = [*map(_text, names)]
        kind = SpanKind.CLIENT if work == "fetch" else SpanKind.INTERNAL
        name = f"colocache {work} {path}".rstrip()
        self._span = self._tracer.tracer.start_span(name, kind=kind, attributes=attributes)
        if work == "load":
            self._token = context.attach(trace.set_span_in_context(self._span))

    def end(
        self, outcome: str, *, hosts: Sequence[str] = (), seconds: float | None = None,
        error: BaseException | None = None,
    ) -> None:  # fmt: skip
        """End it. See `colocache.tracing.Span`."""
        if self._is_over:
            return
        self._is_over = True
        try:
            try:
                self._end(outcome, hosts, seconds, error)
            finally:
                self._leave()
        except Exception as trouble:
            raise_if_from_handler(trouble)
            self._tracer.tell(trouble)

    def _leave(self) -> None:
        """Be the parent of no more spans.

        A task that was dropped with its loop is closed anywhere, and there something else is the present span.
        """
        if self._token is not None and trace.get_current_span() is self._span:
            context.detach(self._token)

    def _end(self, outcome: str, hosts: Sequence[str], seconds: float | None, error: BaseException | None) -> None:
        if seconds is not None:
            labels = self._labels if error is None else {**self._labels, "error.type": _type_of(error)}
            self._tracer.load_duration.record(seconds, labels)
        span = self._span
        if span is None:
            return
        span.set_attribute("colocache.outcome", outcome)
        if hosts:
            span.set_attribute("colocache.hosts", [*hosts])
        if seconds is not None:
            span.set_attribute("colocache.seconds", seconds)
        if error is not None:
            span.set_attribute("error.type", _type_of(error))
            span.set_status(Status(StatusCode.ERROR))
            if self._tracer.keys:
                span.record_exception(error)
        span.end()


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(name: Key) -> str:
    return name if isinstance(name, str) and len(name) <= 100 else shown(name)
