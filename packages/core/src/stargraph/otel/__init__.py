"""Traces and metrics of runs by OpenTelemetry; needs `pip install stargraph-core[otel]`."""

from stargraph.otel._middleware import TRACEPARENT, OpenTelemetryMiddleware
from stargraph.otel._worker import observe_worker

__all__ = ["TRACEPARENT", "OpenTelemetryMiddleware", "observe_worker"]
