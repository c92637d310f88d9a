"""The application of the matrix with its metrics, as an operator has them: for Prometheus, and for OpenTelemetry.

What OpenTelemetry exports stands in a file of each process, ``exported-PID``: the values of all counters by their
names and attributes, as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
    Sum,
)

from colocache.opentelemetry import instrument
from colocache.prometheus import make_wsgi_app
from verification.servers.served import HERE, cache
from verification.servers.served import application as served

EXPORT_EVERY = 500  # ms


class ToFile(MetricExporter):
    """Writes what is exported to this process's file."""

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Write it, as a whole."""
        points = [
            [metric.name, dict(point.attributes or {}), point.value]
            for resource in metrics_data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if isinstance(metric.data, Sum)
            for point in metric.data.data_points
        ]
        fresh = HERE / f"exporting-{os.getpid()}"
        fresh.write_text(json.dumps(points))
        fresh.rename(HERE / f"exported-{os.getpid()}")
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """There is nothing to flush."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """There is nothing to close."""


metrics = make_wsgi_app(cache)
instrument(cache, meter_provider=MeterProvider([PeriodicExportingMetricReader(ToFile(), EXPORT_EVERY)]))


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The metrics, whose answer names the process in a header; or any other route."""
    if environ["PATH_INFO"] != "/metrics":
        return served(environ, start_response)
    return metrics(environ, lambda status, headers: start_response(status, [*headers, ("X-Pid", str(os.getpid()))]))
