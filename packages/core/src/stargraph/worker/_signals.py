"""What SIGTERM and SIGINT do to a worker: the first drains it, the second ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_signals(drain: Callable[[], None]) -> Iterator[None]:
    """Call `drain` at the first SIGTERM or SIGINT, and end the process at the second; nothing outside the main thread.

    Args:
        drain: called on the event loop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if seen:
            os._exit(128 + number)
        seen.append(number)
        loop.call_soon_threadsafe(drain)

    # Not loop.add_signal_handler: a node that blocks the loop must not keep the second one from working.
    former: dict[int, Any] = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
