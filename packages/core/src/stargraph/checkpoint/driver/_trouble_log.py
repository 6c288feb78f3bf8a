"""What a driver logs while its store fails: when that begins, now and then while it lasts, and when it ends."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final

_FIRST_GAP: Final = 10.0
_LONGEST_GAP: Final = 300.0
_WORTH_AN_END: Final = 1.0
"""Seconds after which the end of a trouble is logged; what passes sooner has one line."""


class TroubleLog:
    """Logs the trouble of a handle with its store in a few lines, however many requests fail.

    A kind of failure is logged when it comes up, then after 10 seconds, 20, 40 and so on, at most every 5 minutes. Each
    line says how many failures of its kind had none since the last one, and that of the end how many there were in all.

    Args:
        logger: takes the records, of level WARNING.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._since: float | None = None
        self._failures = 0
        self._next: dict[str, tuple[float, float]] = {}
        self._unlogged: Counter[str] = Counter()

    def failed(self, kind: str, message: str, *values: object) -> None:
        """Note that a request has failed and is made again.

        Args:
            kind: what sort of failure it is, such as the class of its error; a new sort is logged at once.
            message: what happened, as for `logging`.
            values: the values of the message.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._failures = 0
        self._failures += 1
        due, gap = self._next.get(kind, (now, _FIRST_GAP))
        if now < due:
            self._unlogged[kind] += 1
            return
        if now > due + gap:  # an old trouble that has come back
            gap = _FIRST_GAP
        self._next[kind] = (now + gap, min(2 * gap, _LONGEST_GAP))
        if unlogged := self._unlogged.pop(kind, 0):
            message, values = f"{message} (%d more since this was last logged)", (*values, unlogged)
        self._logger.warning(message, *values)

    def succeeded(self, store: object) -> None:
        """Note that the store has answered.

        Args:
            store: its name in the record; made into text only if there is one.
        """
        since = self._since  # read once: another thread may use the handle too
        if since is None:
            return
        self._since = None
        seconds = time.monotonic() - since
        if seconds >= _WORTH_AN_END:
            self._next.clear()
            self._unlogged.clear()
            times = f"{self._failures} time{'' if self._failures == 1 else 's'}"
            self._logger.warning("%s answers again, after %.1f s and failing %s", store, seconds, times)
