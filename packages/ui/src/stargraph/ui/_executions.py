"""The runs that this process executes because somebody pressed a button."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from stargraph.errors import StargraphError
from stargraph.runtime import dispatch
from stargraph.ui._store import Store

if TYPE_CHECKING:
    from stargraph.graph import Run


class Executions:
    """Runs that execute here, until they stop.

    Args:
        store: where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks: dict[str, tuple[Run, asyncio.Task[Any]]] = {}
        self._errors: dict[str, str] = {}

    def begin(self, run: Run, act: Callable[[], Awaitable[Any]]) -> None:
        """Execute a run in the background.

        Args:
            act: its `start` or `resume`.
        """
        self._errors.pop(run.run_id, None)

        async def execute() -> None:
            try:
                await act()
            except StargraphError as error:
                hint = getattr(error, "hint", None)
                self._errors[run.run_id] = self._store.hide_secrets(f"{error} {hint or ''}".strip())
            finally:
                self._tasks.pop(run.run_id, None)

        self._tasks[run.run_id] = (run, asyncio.create_task(execute()))

    def run_of(self, run_id: str) -> Run | None:
        """Return a run that executes here, or None."""
        found = self._tasks.get(run_id)
        return None if found is None else found[0]

    def error_of(self, run_id: str) -> str | None:
        """Return what ended the last execution of a run before it began, or None."""
        return self._errors.get(run_id)

    async def stored(self, run: Run) -> None:
        """Wait until the store holds a run that was begun, or its execution has ended.

        Raises:
            StargraphError: it ended before its first step was stored.
        """
        store = await self._store.opened()
        while await dispatch.read_latest(store, run.run_id) is None:
            if run.run_id not in self._tasks:
                raise StargraphError(
                    f"the fork did not begin: {self._errors.get(run.run_id, 'it was stopped')}", reason="not-begun"
                )
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Pause what still executes, and wait for it."""
        running = list(self._tasks.values())
        for run, _ in running:
            run.pause(grace=8.0)
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
