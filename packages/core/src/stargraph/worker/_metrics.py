"""What a worker has done and does now: counted for its endpoint, for OpenTelemetry and for its report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from stargraph.checkpoint.protocol import QueueCounts, RefusedVersion

_STATES = ("ready", "scheduled", "running", "awaiting_input", "paused", "failed")


class Sample(NamedTuple):
    """One number.

    Attributes:
        name: of the metric, without a prefix.
        labels: what distinguishes it from others of that name.
        value: the number.
    """

    name: str
    labels: dict[str, str]
    value: float


@dataclass
class WorkerMetrics:
    """The numbers of one worker since it started.

    Attributes:
        claims: how many runs it took.
        executions: how many executions ended, by the status of their runs; `lost` if another executor had the run, or
            it was deleted.
        retries: how many failed runs it scheduled for another attempt.
        takeovers: how many runs it took from a process that was gone.
        isolated: how many executions were alone in a process.
        poisoned: how many runs it failed since they had ended too many processes.
        store_errors: how often the store could not be reached.
        running: how many runs it executes now.
        concurrency: how many it executes at most.
        stranded: how many runs it has seen that could go on, but fit none of its graphs.
        damaged: how many runs and queues it leaves aside, since the store cannot read what it holds of them.
        refused: some of the versions of these, and why no graph of this worker can go on with them.
        queues: how the runs of its queues stand, when it looked last.
        queue_ages: of each of these, for how many seconds the run that waits longest could have gone on by then.
        is_draining: whether it takes no more runs.
        heartbeat: when the store last took that it lives, by `time.monotonic()`.
        outage_since: since when the store cannot be reached, by the same clock; None if it can.
    """

    claims: int = 0
    executions: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    takeovers: int = 0
    isolated: int = 0
    poisoned: int = 0
    store_errors: int = 0
    running: int = 0
    concurrency: int = 0
    stranded: int = 0
    damaged: int = 0
    refused: tuple[RefusedVersion, ...] = ()
    queues: tuple[QueueCounts, ...] = ()
    queue_ages: dict[str, float] = field(default_factory=dict)
    is_draining: bool = False
    heartbeat: float = field(default_factory=time.monotonic)
    outage_since: float | None = None

    def counters(self) -> Iterator[Sample]:
        """Yield what only grows."""
        yield Sample("claims", {}, self.claims)
        for status, number in sorted(self.executions.items()):
            yield Sample("executions", {"status": status}, number)
        yield Sample("retries", {}, self.retries)
        yield Sample("takeovers", {}, self.takeovers)
        yield Sample("isolated", {}, self.isolated)
        yield Sample("poisoned", {}, self.poisoned)
        yield Sample("store_errors", {}, self.store_errors)

    def gauges(self) -> Iterator[Sample]:
        """Yield what stands now."""
        now = time.monotonic()
        yield Sample("running", {}, self.running)
        yield Sample("concurrency", {}, self.concurrency)
        yield Sample("stranded", {}, self.stranded)
        yield Sample("damaged", {}, self.damaged)
        yield Sample("draining", {}, float(self.is_draining))
        yield Sample("heartbeat_age_seconds", {}, now - self.heartbeat)
        yield Sample("store_outage_seconds", {}, 0.0 if self.outage_since is None else now - self.outage_since)
        for counts in self.queues:
            for state in _STATES:
                yield Sample("queue_runs", {"queue": counts.queue, "state": state}, getattr(counts, state))
        for queue, seconds in self.queue_ages.items():
            yield Sample("queue_age_seconds", {"queue": queue}, seconds)


COUNTERS: Final = {
    "claims": "Runs that this worker took from its queues.",
    "executions": "Executions of runs that ended, by the status of the run.",
    "retries": "Failed runs that were scheduled for another attempt.",
    "takeovers": "Runs that were taken from a process that was gone.",
    "isolated": "Executions that were alone in a process.",
    "poisoned": "Runs that failed since they had ended too many processes.",
    "store_errors": "Requests for which the store could not be reached.",
}
"""What each number that only grows counts."""

GAUGES: Final = {
    "running": "Runs that are executed now.",
    "concurrency": "Runs that are executed at once at most.",
    "stranded": "Runs that could go on, but fit no graph of this worker.",
    "damaged": "Runs and queues that are left aside, since the store cannot read what it holds of them.",
    "draining": "1 if this worker takes no more runs.",
    "heartbeat_age_seconds": "Time since the store last took that this worker lives.",
    "store_outage_seconds": "For how long the store cannot be reached; 0 if it can.",
    "queue_runs": "Runs of the queues of this worker that have not ended, by what they wait for.",
    "queue_age_seconds": "For how long the run of a queue that waits longest could have gone on; 0 if none is ready.",
}
"""What each number says that stands now."""


def prometheus_text(metrics: WorkerMetrics) -> str:
    """Return the numbers in the text format of Prometheus, version 0.0.4.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    lines = [*_lines(metrics.counters(), COUNTERS, "counter", "_total"), *_lines(metrics.gauges(), GAUGES, "gauge", "")]
    return "\n".join(lines) + "\n"


def _lines(samples: Iterable[Sample], texts: Mapping[str, str], kind: str, suffix: str) -> Iterator[str]:
    before = None
    for sample in samples:
        name = f"stargraph_worker_{sample.name}{suffix}"
        if sample.name != before:
            yield f"# HELP {name} {texts[sample.name]}"
            yield f"# TYPE {name} {kind}"
            before = sample.name
        # The names of queues and statuses hold nothing that would have to be escaped.
        labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items())
        yield f"{name}{{{labels}}} {sample.value:g}" if labels else f"{name} {sample.value:g}"
