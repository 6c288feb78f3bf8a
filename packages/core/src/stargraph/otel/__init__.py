"""Traces and metrics of runs by OpenTelemetry; needs `pip install stargraph-core[otel]`."""

from stargraph.otel._middleware import TRACEPARENT, OpenTelemetryMiddleware

__all__ = ["TRACEPARENT", "OpenTelemetryMiddleware"]
