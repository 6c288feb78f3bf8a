"""The clock of the store: the `Date` of its answers, and what a monotonic clock has counted since the last one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

RESOLUTION: Final = timedelta(seconds=1)
"""How far the store's clock may be ahead of `StoreClock.now`: the headers of its answers leave out part of a second."""


class StoreClock:
    """Tells the time of the store, up to `RESOLUTION` late and never early, without asking for it."""

    def __init__(self) -> None:
        self._heard: tuple[datetime, float] | None = None

    def hear(self, headers: Mapping[str, str]) -> None:
        """Take the time from the headers of an answer, whose names are in lower case."""
        try:
            date = parsedate_to_datetime(headers["date"])
        except (KeyError, TypeError, ValueError):
            return  # a store that tells no time, or something between that has taken it away
        self._heard = (date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC), time.monotonic())

    def now(self) -> datetime:
        """Return the time of the store; that of this machine if the store tells none."""
        if self._heard is None:
            return datetime.now(UTC)
        date, at = self._heard
        return date + timedelta(seconds=time.monotonic() - at)
