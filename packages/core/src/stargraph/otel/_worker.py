"""The numbers of a worker as metrics of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from stargraph.otel._middleware import check_provider
from stargraph.runtime._given import check_type
from stargraph.worker import Worker, WorkerMetrics
from stargraph.worker._metrics import COUNTERS, GAUGES, Sample


def observe_worker(worker: Worker, *, meter_provider: MeterProvider | None = None) -> None:
    """Measure a worker: what it has taken and executed, how its queues stand, and whether the store can be reached.

    The metrics are those of its endpoint, as `stargraph.worker.claims` and `stargraph.worker.queue_runs`.

    Args:
        worker: the worker; its numbers are read whenever the metrics are collected.
        meter_provider: makes the meter; the global one if None.
    """
    check_type(worker, "worker", Worker, "a Worker of stargraph.worker")
    check_provider(meter_provider, "meter_provider", "get_meter")
    meter = get_meter("stargraph", version("stargraph-core"), meter_provider)
    metrics = worker.metrics
    for name in COUNTERS:
        meter.create_observable_counter(f"stargraph.worker.{name}", [_reading(metrics, WorkerMetrics.counters, name)])
    for name in GAUGES:
        meter.create_observable_gauge(f"stargraph.worker.{name}", [_reading(metrics, WorkerMetrics.gauges, name)])


def _reading(
    metrics: WorkerMetrics, samples: Callable[[WorkerMetrics], Iterator[Sample]], name: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        for sample in samples(metrics):
            if sample.name == name:
                yield Observation(sample.value, {f"stargraph.{key}": value for key, value in sample.labels.items()})

    return read
