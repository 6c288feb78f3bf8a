"""The numbers of a worker as metrics of OpenTelemetry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from stargraph.worker import Worker, WorkerMetrics
from stargraph.worker._metrics import Sample


def observe_worker(worker: Worker, *, meter_provider: MeterProvider | None = None) -> None:
    """Measure a worker: what it has taken and executed, how its queues stand, and whether the store can be reached.

    The metrics are those of its endpoint, as `stargraph.worker.claims` and `stargraph.worker.queue_runs`.

    Args:
        worker: the worker; its numbers are read whenever the metrics are collected.
        meter_provider: makes the meter; the global one if None.
    """
    meter = get_meter("stargraph", version("stargraph-core"), meter_provider)
    metrics = worker.metrics
    for name in _COUNTERS:
        meter.create_observable_counter(f"stargraph.worker.{name}", [_reading(metrics, WorkerMetrics.counters, name)])
    for name in _GAUGES:
        meter.create_observable_gauge(f"stargraph.worker.{name}", [_reading(metrics, WorkerMetrics.gauges, name)])


def _reading(
    metrics: WorkerMetrics, samples: Callable[[WorkerMetrics], Iterator[Sample]], name: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        found: defaultdict[str, list[Observation]] = defaultdict(list)
        for sample in samples(metrics):
            labels = {f"stargraph.{key}": value for key, value in sample.labels.items()}
            found[sample.name].append(Observation(sample.value, labels))
        return found[name]

    return read


_COUNTERS = ("claims", "executions", "retries", "takeovers", "isolated", "poisoned", "store_errors")
_GAUGES = (
    "running",
    "concurrency",
    "stranded",
    "draining",
    "heartbeat_age_seconds",
    "store_outage_seconds",
    "queue_runs",
)
