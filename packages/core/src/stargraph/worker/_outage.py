"""A store that cannot be reached: counted each time, logged once when that begins and once when it ends."""

from __future__ import annotations

import time

from stargraph.errors import StoreUnavailableError
from stargraph.worker._execution import LOGGER
from stargraph.worker._metrics import WorkerMetrics


def note_outage(metrics: WorkerMetrics, error: StoreUnavailableError) -> None:
    """Note that the store could not be reached.

    Args:
        metrics: those of the worker.
        error: what the store raised.
    """
    metrics.store_errors += 1
    if metrics.outage_since is None:
        metrics.outage_since = time.monotonic()
        LOGGER.warning("the store cannot be reached (%s); the worker waits for it", error.reason)


def note_end_of_outage(metrics: WorkerMetrics) -> None:
    """Note that the store could be reached; nothing happens if there was no outage."""
    if metrics.outage_since is not None:
        seconds = time.monotonic() - metrics.outage_since
        metrics.outage_since = None
        LOGGER.warning("the store can be reached again, after %.1f s", seconds)
