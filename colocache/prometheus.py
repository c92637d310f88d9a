"""For Prometheus: what the processes of a host have counted, and an application that answers a scrape::

    colocache.prometheus.register(cache)

See `register`, `Collector`, `make_wsgi_app` and `make_asgi_app`.

Any one process answers for all of its host, because it reads the memory that they share. So the server may have any
number of workers, and prometheus_client's multiprocess mode is not needed. Figures of other hosts are not among them:
Prometheus scrapes each host, and adds up itself. Otherwise every event would be counted once for each host that is
scraped, and a host that does not answer would look like one that has lost what it had counted.
"""

from __future__ import annotations

import asyncio
import gzip
import hmac
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from . import Cache, ClosedError, __version__
from .core.host.scores import OTHERS
from .group_stats import HostStats, SpaceStats, together
from .middleware import checked_cache
from .stats import ALL_OTHERS, FIGURES, LOAD_TIMES, OF_HOSTS, RESULTS

__all__ = ["Collector", "make_asgi_app", "make_wsgi_app", "register"]

Message = MutableMapping[str, Any]
ASGIApplication = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

#: What is counted of no namespace.
OF_NONE: Final = ("incomplete", *OF_HOSTS)

#: The value of the label ``namespace`` where there is none: to Prometheus an empty label is no label.
NO_NAMESPACE: Final = "(none)"

ROLES: Final = ("peer", "server", "client")
STATES: Final = ("joining", "current", "behind", "live", "silent", "forgotten")

_BOUNDS: Final = [*map(floatToGoString, LOAD_TIMES), "+Inf"]


class _Gauge(NamedTuple):
    """A figure of a host's present state."""

    name: str
    help: str
    of: Callable[[HostStats], float]


_GAUGES: Final = (
    _Gauge("near_entries", "Near copies of all processes of this host.",
           lambda host: sum([each.entries for each in host.alive])),
    _Gauge("near_bytes", "Size of the near copies.", lambda host: sum([each.bytes for each in host.alive])),
    _Gauge("near_capacity_bytes", "Size that the near copies may reach.",
           lambda host: sum([each.memory for each in host.alive])),
    _Gauge("shelf_entries", "Values on the shelf of this host, about.", lambda host: host.shelf_entries),
    _Gauge("shelf_bytes", "Size of what is on the shelf.", lambda host: host.shelf_bytes),
    _Gauge("shelf_capacity_bytes", "Size that it may reach.", lambda host: host.shelf_capacity),
)  # fmt: skip


def _counters() -> dict[str, str]:
    """Return the counters that have a metric of their own, with what they say of all processes of a host."""
    elsewhere = {*RESULTS.values(), "load_seconds"}
    return {
        figure.name: figure.help.replace("this process", "a process of this host").replace("`", "")
        for figure in FIGURES
        if figure.kind == "counter" and figure.name not in elsewhere
    }


class Collector:
    """A collector for prometheus_client: the figures of the host of some caches, each of another group.

    A scrape reads the memory of the host, joins the group if need be, and waits for nobody. Counters never fall while
    any process of the group lives, whoever is killed or replaced. When all have ended they begin at 0, which Prometheus
    knows how to handle. Where this process is on no host there is only ``colocache_up``, which is 0.

    All processes of a host say the same. So of each group and host only one process, or one server of many, is to be
    scraped; otherwise each event is counted several times. Any thread may call all methods.
    """

    def __init__(self, *caches: Cache) -> None:
        """Start nothing. Raise TypeError for what is no cache, and ValueError for two caches of one group."""
        if not caches:
            raise TypeError("give the cache, or several, of which the figures are wanted")
        groups = Counter([checked_cache(cache).group for cache in caches])
        for group, count in groups.items():
            if count > 1:
                raise ValueError(f"{count} caches are of the group {group!r}: one of them answers for all processes")
        self._caches = caches

    def describe(self) -> Iterable[Metric]:
        """Return all metrics without figures: `CollectorRegistry.register` looks at the names."""
        return _Families().all()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics."""
        families = _Families()
        for cache in self._caches:
            families.add(cache)
        return families.all()


class _Families:
    """The metrics of one scrape."""

    def __init__(self) -> None:
        group, each = ("group",), ("group", "namespace")
        self._up = GaugeMetricFamily(
            "colocache_up", "Whether the process that was asked is in the group, and could read the rest.", labels=group
        )
        self._info = InfoMetricFamily(
            "colocache", "The version of the process that was asked, and the name of this host in its group.",
            labels=group,
        )  # fmt: skip
        self._processes = GaugeMetricFamily(
            "colocache_processes", "Processes of the group on this host.", labels=("group", "role")
        )
        self._expected = GaugeMetricFamily(
            "colocache_expected_processes", "Processes that there are to be, if COLOCACHE_EXPECT says so.", labels=group
        )
        self._hosts = GaugeMetricFamily(
            "colocache_hosts",
            "Hosts of the group by their state. This one is joining, current or behind; none in a group of one host.",
            labels=("group", "state"),
        )
        self._gauges = {
            gauge: GaugeMetricFamily(f"colocache_{gauge.name}", gauge.help, labels=group) for gauge in _GAUGES
        }
        self._reads = CounterMetricFamily(
            "colocache_reads",
            "Keys that were asked for: found near, or on the shelf; given by another call's load; loaded; or missed.",
            labels=(*each, "result"),
        )
        self._counters = {
            name: CounterMetricFamily(f"colocache_{name}", help, labels=group if name in OF_NONE else each)
            for name, help in _counters().items()
        }
        self._loads = HistogramMetricFamily(
            "colocache_load_seconds", "Time that loaders took, however they ended.", labels=each
        )

    def all(self) -> list[Metric]:
        """Return all of them."""
        gauges, counters = self._gauges.values(), self._counters.values()
        state = [self._up, self._info, self._processes, self._expected, self._hosts, *gauges]
        return [*state, self._reads, *counters, self._loads]

    def add(self, cache: Cache) -> None:
        """Add the figures of a cache's group on this host."""
        group, host = cache.group, _host_stats(cache)
        self._up.add_metric((group,), host is not None)
        if host is None:
            return
        self._info.add_metric((group,), {"version": __version__, "host": host.name})
        roles = Counter(each.role for each in host.alive)
        for role in sorted({*ROLES, *roles}):
            self._processes.add_metric((group, role), roles[role])
        if expected := cache.stats().expected:
            self._expected.add_metric((group,), expected)
        states = Counter(each.state for each in cache.hosts())
        for state in STATES if states else ():
            self._hosts.add_metric((group, state), states[state])
        for gauge, family in self._gauges.items():
            family.add_metric((group,), gauge.of(host))
        total = host.total
        for name in OF_NONE:
            self._counters[name].add_metric((group,), total.counters[name])
        for namespace, stats in _by_label(host.spaces).items():
            self._add_namespace((group, namespace), stats)

    def _add_namespace(self, labels: tuple[str, str], stats: SpaceStats) -> None:
        for result, name in RESULTS.items():
            self._reads.add_metric((*labels, result), stats.counters[name])
        for name, family in self._counters.items():
            if name not in OF_NONE:
                family.add_metric(labels, stats.counters[name])
        buckets = [*zip(_BOUNDS, accumulate(stats.load_times), strict=True)]
        self._loads.add_metric(labels, buckets, stats.counters["load_seconds"])


def _host_stats(cache: Cache) -> HostStats | None:
    try:
        return cache._member.host_stats()
    except ClosedError:
        return None


def _by_label(spaces: Mapping[str, SpaceStats]) -> dict[str, SpaceStats]:
    """Return the figures of namespaces by what the label says. A namespace may have the name of one of ours."""
    found: dict[str, list[SpaceStats]] = {}
    for path, stats in spaces.items():
        found.setdefault({"": NO_NAMESPACE, OTHERS: ALL_OTHERS}.get(path, path), []).append(stats)
    return {label: several[0] if len(several) == 1 else together(several) for label, several in found.items()}


def register(*caches: Cache, registry: CollectorRegistry = REGISTRY) -> Collector:
    """Have a registry show the figures of the host of a cache, or of several of different groups.

    The default is the registry that all metrics of prometheus_client are in, unless they say otherwise. Under
    prometheus_client's multiprocess mode, give the registry that each scrape makes. Start nothing. Return the
    collector, for ``registry.unregister``. Raise ValueError if the registry has one already, or if two caches are of
    one group.
    """
    collector = Collector(*caches)
    registry.register(collector)
    return collector


# --- The application


def make_wsgi_app(*caches: Cache, token: str | None = None) -> WSGIApplication:
    """Return a WSGI application that answers every GET with the figures of the host of a cache, and no others.

    It shows the names of namespaces and functions, and no keys. With ``token``, only who sends it as a bearer token is
    answered; give one, or let only Prometheus reach this. Raise what `Collector` does, and ValueError for a token that
    no header can carry.
    """
    page = _Page(caches, token)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = {name[5:].replace("_", "-").lower(): str(environ[name]) for name in environ if name[:5] == "HTTP_"}
        method = str(environ["REQUEST_METHOD"])
        answer = page.answer(method, headers)
        start_response(answer.status, answer.headers)
        return [] if method == "HEAD" else [answer.body]

    return application


def make_asgi_app(*caches: Cache, token: str | None = None) -> ASGIApplication:
    """Return the same as an ASGI application. The figures are read in a thread, so that the event loop goes on."""
    page = _Page(caches, token)

    async def application(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the metrics of colocache are asked for by HTTP, and not by {scope['type']!r}")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        answer = await asyncio.to_thread(page.answer, scope["method"], headers)
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": int(answer.status[:3]), "headers": raw})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    return application


class _Answer(NamedTuple):
    status: str
    headers: list[tuple[str, str]]
    body: bytes


class _Page:
    """What both applications answer. Any thread may call it."""

    def __init__(self, caches: Sequence[Cache], token: str | None) -> None:
        if token is not None and not (token.isascii() and token.isprintable() and token == token.strip() != ""):
            raise ValueError("token is a text of printable ASCII characters without spaces around it, or None")
        self._registry = CollectorRegistry()
        self._registry.register(Collector(*caches))
        self._token = None if token is None else f"Bearer {token}".encode()

    def answer(self, method: str, headers: Mapping[str, str]) -> _Answer:
        """Answer a request; the names of headers are in lower case."""
        if method not in ("GET", "HEAD"):
            return _text("405 Method Not Allowed", "only GET and HEAD are answered", ("Allow", "GET, HEAD"))
        given = headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if self._token is not None and not hmac.compare_digest(given, self._token):
            return _text("401 Unauthorized", "the token is missing, or another one", ("WWW-Authenticate", "Bearer"))
        encode, content_type = choose_encoder(headers.get("accept", ""))
        body, more = encode(self._registry), [("Content-Type", content_type)]
        if "gzip" in _names(headers.get("accept-encoding", "")):
            body = gzip.compress(body, 5)
            more.append(("Content-Encoding", "gzip"))
        more += [("Vary", "Accept, Accept-Encoding"), ("Cache-Control", "no-store")]
        return _Answer("200 OK", [*more, ("Content-Length", str(len(body)))], body)


def _names(header: str) -> Iterator[str]:
    """Yield the names of a list without their parameters, and not those that are refused: ``gzip;q=0``."""
    for part in header.split(","):
        name, *parameters = [each.strip().lower() for each in part.split(";")]
        if not any(each.startswith("q=0") and not each.strip("q=0.") for each in parameters):
            yield name


def _text(status: str, text: str, *headers: tuple[str, str]) -> _Answer:
    body = f"{text}\n".encode()
    basic = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    return _Answer(status, [*basic, *headers], body)
