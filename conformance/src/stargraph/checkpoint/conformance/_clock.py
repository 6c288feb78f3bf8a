"""A wall clock that is off, for a whole process: what a machine has after its battery failed, or before NTP set it."""

from __future__ import annotations

import datetime as dt
import time
from datetime import timedelta
from typing import Any

from pydantic_core import core_schema


def shift_clock(seconds: float) -> None:
    """Set the wall clock of this process ahead; call it before the driver is imported.

    `time.time`, `time.time_ns` and the `now`, `today` and `utcnow` of datetime follow it; monotonic clocks go on as
    they were, as they do on a machine whose clock is set.

    Args:
        seconds: how far ahead; negative sets it back.
    """
    if not seconds:
        return
    real_time, real_time_ns, real = time.time, time.time_ns, dt.datetime

    class AnyDatetime(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

    def now(cls: Any, tz: dt.tzinfo | None = None) -> Any:
        return cls.fromtimestamp(time.time(), tz)

    def utcnow(cls: Any) -> Any:
        return cls.fromtimestamp(time.time(), dt.UTC).replace(tzinfo=None)

    def schema(cls: Any, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.datetime_schema()

    methods = {
        "now": classmethod(now),
        "today": classmethod(now),
        "utcnow": classmethod(utcnow),
        "__get_pydantic_core_schema__": classmethod(schema),
    }
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + int(seconds * 1e9)
    dt.datetime = AnyDatetime("datetime", (real,), methods)  # type: ignore[assignment, misc]


def describe(shift: timedelta) -> str:
    """A shift in words."""
    off = abs(shift)
    how_far = f"{off.days} days" if off.days else f"{off // timedelta(minutes=1)} minutes"
    return f"{how_far} {'behind' if shift < timedelta() else 'ahead'}"
