"""A heartbeat in a thread of its own: nodes that block the event loop cannot stop it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from stargraph.checkpoint.protocol import ClosingCheckpointer, Presence, ProcessInfo
from stargraph.graph._presence import Heartbeat
from stargraph.worker._execution import reason_of
from stargraph.worker._metrics import WorkerMetrics

_LOGGER = logging.getLogger("stargraph.worker")

_STOP_SECONDS = 10.0


class LoopHeartbeat(Heartbeat):
    """Says that this process lives, on the event loop of the worker, by the worker's handle of the store.

    A node that blocks the loop stops it, and other workers may then take the runs of this one.

    Args:
        store: takes it.
        describe: returns this process, as it describes itself now.
        seconds: the period.
        metrics: notes when the store took it last.
    """

    def __init__(
        self, store: Presence, describe: Callable[[], ProcessInfo], seconds: float, metrics: WorkerMetrics
    ) -> None:
        super().__init__(store, describe, seconds)
        self._metrics = metrics

    async def beat(self) -> None:
        await super().beat()
        self._metrics.heartbeat = time.monotonic()


class ThreadHeartbeat:
    """Says that this process lives, from a thread with an event loop and a handle of the store of its own.

    Args:
        open_store: makes the handle.
        describe: returns this process, as it describes itself now.
        seconds: the period.
        metrics: notes when the store took it last.
    """

    def __init__(
        self,
        open_store: Callable[[], ClosingCheckpointer],
        describe: Callable[[], ProcessInfo],
        seconds: float,
        metrics: WorkerMetrics,
    ) -> None:
        self._open_store = open_store
        self._describe = describe
        self._seconds = seconds
        self._metrics = metrics
        self._begun: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._stop: Callable[[], None] = lambda: None
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="stargraph-heartbeat", daemon=True)

    async def start(self) -> None:
        """Say it for the first time, and from then on.

        Raises:
            CheckpointError: as the store raises.
        """
        self._thread.start()
        await asyncio.wrap_future(self._begun)

    async def stop(self) -> None:
        """Say that this process executes nothing more."""
        if self._thread.ident is None:
            return
        self._is_stopped = True
        with suppress(RuntimeError):  # its loop has ended already
            self._stop()
        # A store that does not answer keeps nobody here.
        await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=_STOP_SECONDS)

    def _run(self) -> None:
        try:
            # Whoever is cancelled while it waits for the first beat does not cancel the future.
            if self._begun.set_running_or_notify_cancel():
                asyncio.run(self._beat())
        except BaseException as error:  # noqa: BLE001  # whoever waits for the first beat gets it
            if self._begun.done():
                _LOGGER.critical("the heartbeat of this process has ended by %s", reason_of(error))
            else:
                self._begun.set_exception(error)
        finally:
            self._ended.set_result(None)

    async def _beat(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(stop.set)

        self._stop = tell
        if self._is_stopped:
            return
        store = self._open_store()
        try:
            await store.bootstrap()
            assert isinstance(store, Presence)
            heartbeat = LoopHeartbeat(store, self._describe, self._seconds, self._metrics)
            await heartbeat.start()
            self._begun.set_result(None)
            await stop.wait()
            await heartbeat.stop()
        finally:
            await store.close()
