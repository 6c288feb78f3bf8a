"""What a worker leaves aside since the store cannot read it: logged when that begins and when it ends."""

from __future__ import annotations

from collections.abc import Mapping

from stargraph.worker._execution import LOGGER
from stargraph.worker._metrics import WorkerMetrics


class DamageLog:
    """Logs what is damaged, each thing once, however often the worker meets it.

    Args:
        metrics: takes how many there are.
    """

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._known: dict[str, str] = {}

    def note(self, damaged: Mapping[str, str]) -> None:
        """Note what is damaged now.

        Args:
            damaged: how each run or queue is called, and what the store says of it.
        """
        for name, error in damaged.items():
            if self._known.get(name) != error:
                LOGGER.error("%s is left aside until it can be read again: %s", name, error)
        for name in self._known.keys() - damaged.keys():
            LOGGER.warning("%s is not left aside any more: it can be read again, or it is gone", name)
        self._known = dict(damaged)
        self._metrics.damaged = len(damaged)
