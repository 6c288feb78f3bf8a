"""A run in a process of its own: if it ends the process that executes it, it ends no other run."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpointer, Presence, ProcessInfo, RunSummary
from stargraph.engine import Durability
from stargraph.errors import StargraphError, StoreUnavailableError
from stargraph.runtime import dispatch
from stargraph.worker._execution import LOGGER, LostRunError, RefusedRunError
from stargraph.worker._isolation_log import log_receiver
from stargraph.worker._source import StoreSource

REFUSED_CODE: Final = 3
"""The exit code of a process that could not execute its run as it is stored."""


class IsolatedExecution:
    """A run in a process of its own.

    Args:
        target: names its graph, as `Graph.load` takes it.
        source: opens the store there.
        store: this process's own handle.
        claimed: where the run stood when it was taken.
        durability: when a step is durable.
        accept: the changes that are accepted.
    """

    def __init__(
        self,
        target: str,
        source: StoreSource,
        store: Checkpointer,
        claimed: RunSummary,
        *,
        durability: Durability,
        accept: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._claimed = claimed
        self._process: asyncio.subprocess.Process | None = None
        self._job: dict[str, Any] = {
            "store": source.url,
            "encryption_keys": source.encryption_keys,
            "encryption_keys_from": source.encryption_keys_from,
            "graph": target,
            "run_id": claimed.run_id,
            "step": claimed.last_step,
            "due_at": None if claimed.due_at is None else claimed.due_at.isoformat(),
            "durability": durability,
            "accept": list(accept),
            "path": [entry for entry in sys.path if entry],
            "log_level": LOGGER.getEffectiveLevel(),
        }
        self._grace: float | None = None

    def pause(self, grace: float) -> None:
        """Leave the run to other workers, once its running nodes have ended or the grace is over.

        Args:
            grace: seconds.
        """
        self._grace = grace
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError, RuntimeError):
                self._process.stdin.write(f"{grace}\n".encode())
                self._process.stdin.close()

    async def carry(self) -> int | None:
        """Execute the run until it rests, or until it has ended its process.

        Returns:
            The id of the process that it has ended, to `bury`; None if the run rests.

        Raises:
            LostRunError: somebody else has it.
            RefusedRunError: it cannot be executed as it is stored.
        """
        if self._grace is not None:
            raise LostRunError("the worker stops")
        async with log_receiver() as log:
            code, pid = await self._executed(log)
        if code == 0:
            return None
        if code == REFUSED_CODE:
            raise RefusedRunError(
                StargraphError(
                    f"run {self._claimed.run_id!r} could not be executed in a process of its own; its log says why",
                    reason="refused",
                )
            )
        LOGGER.error(
            "run %s: its process ended by %s",
            self._claimed.run_id,
            signal.Signals(-code).name if code < 0 else f"exit code {code}",
        )
        return pid

    async def _executed(self, log: int | None) -> tuple[int, int]:
        """Return the exit code and the id of the process, once it has ended.

        Args:
            log: where it sends its log, or None if it has none of its own.
        """
        # What the process needs goes by its stdin, which nobody else can read; its end says that this process is gone.
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stargraph.worker._alone",
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
            pass_fds=() if log is None else (log,),
        )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({**self._job, "log": log}).encode() + b"\n")
            with suppress(ConnectionError):
                await process.stdin.drain()
            if self._grace is not None:  # it was paused while its process began
                self.pause(self._grace)
            return await process.wait(), process.pid
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        finally:
            self._process = None

    async def bury(self, pid: int) -> None:
        """Say that the process is gone, so that nobody waits for its silence: anybody may take the run from then on.

        Args:
            pid: its id.
        """
        with suppress(StoreUnavailableError):
            tail = await dispatch.read_latest(self._store, self._claimed.run_id)
            owner = None if tail is None else tail.process
            ours = ProcessInfo.current()
            if owner is not None and owner.id is not None and (owner.host, owner.pid) == (ours.host, pid):
                assert isinstance(self._store, Presence)
                await self._store.leave(owner.id)
