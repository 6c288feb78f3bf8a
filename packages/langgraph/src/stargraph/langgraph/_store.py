"""The store behind a saver: the capabilities that it must have, and which run is the log of a thread."""

from __future__ import annotations

import contextlib
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol, cast

from stargraph.checkpoint.protocol import (
    ENDED,
    BatchAppend,
    Checkpoint,
    Checkpointer,
    KeyedSteps,
    RunDeletion,
    RunHistory,
    RunSearch,
    RunSummary,
)
from stargraph.errors import CheckpointError
from stargraph.langgraph._cache import StepCache
from stargraph.langgraph._names import GRAPH_ID, NAMESPACE_TAG, THREAD_TAG, generation_of, run_id_of
from stargraph.runtime._given import check_checkpointer

_NEEDED: Final = (RunHistory, RunSearch, RunDeletion, BatchAppend, KeyedSteps)
_REFUSALS: Final = frozenset({"run-deleted", "step-gap", "run-ended", "step-taken", "wrong-predecessor", "pruned"})
_KNOWN: Final = 10_000
_PAGE: Final = 200


class SaverStore(Checkpointer, RunHistory, RunSearch, RunDeletion, BatchAppend, KeyedSteps, Protocol):
    """A store with all that the saver needs; those of Stargraph's own drivers are."""


class LogStore:
    """Finds the logs of threads in a store.

    Args:
        checkpointer: the store.

    Raises:
        CheckpointError: it lacks a capability (`reason="missing-capability"`).
        TypeError: it is no checkpointer.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        check_checkpointer(checkpointer)
        missing = [kind.__name__ for kind in _NEEDED if not isinstance(checkpointer, kind)]
        if missing:
            raise CheckpointError(
                f"{type(checkpointer).__name__} cannot keep LangGraph threads: it lacks {', '.join(missing)}",
                reason="missing-capability",
                hint="Use a driver that has them, such as those for SQLite, PostgreSQL and S3.",
            )
        self.checkpointer: Final = cast("SaverStore", checkpointer)
        self.cache: Final = StepCache()
        self._runs: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._generations: dict[tuple[str, str], int] = {}

    async def live_run(self, thread_id: str, namespace: str) -> str | None:
        """Return the run that is the log of a thread in a namespace, or None if there is none.

        Another process may have deleted it since; then it reads as unknown, and `forget` lets it be found again.
        """
        name = thread_id, namespace
        known = self._runs.get(name)
        if known is not None:
            with contextlib.suppress(KeyError):  # another thread has forgotten it since
                self._runs.move_to_end(name)
            return known
        first = run_id_of(*name)
        with _naming_the_saver():
            latest = await self.checkpointer.read_latest(first)
        if latest is not None and latest.status not in ENDED:
            return self._remember(name, first)
        # Unknown, or the first log was deleted or rewritten, and there may be a later one.
        tags = {THREAD_TAG: thread_id, NAMESPACE_TAG: namespace}
        found = [run.run_id async for run in self.logs(tags) if run.status not in ENDED]
        # While a log is rewritten, the lower one is right: it ends when the other is whole.
        return self._remember(name, min(found, key=generation_of)) if found else None

    async def logs(self, tags: dict[str, str] | None = None) -> AsyncIterator[RunSummary]:
        """Yield the logs of the saver that have some tags; all of them if None."""
        cursor: str | None = None
        while True:
            with _naming_the_saver():
                page = await self.checkpointer.search(limit=_PAGE, cursor=cursor, graph_id=GRAPH_ID, metadata=tags)
            for run in page.items:
                yield run
            cursor = page.next_cursor
            if cursor is None:
                return

    async def names(self, tags: dict[str, str] | None = None) -> list[tuple[str, str]]:
        """Return the threads and namespaces whose logs have some tags; all of them if None."""
        names: dict[tuple[str, str], str | None] = {}
        async for run in self.logs(tags):
            name = run.metadata[THREAD_TAG], run.metadata[NAMESPACE_TAG]
            live = [each for each in (names.get(name), run.run_id if run.status not in ENDED else None) if each]
            names[name] = min(live, key=generation_of, default=None)
        for name, run_id in names.items():
            if run_id is not None:
                self._remember(name, run_id)
        return list(names)

    def new_run(self, thread_id: str, namespace: str) -> str:
        """Return the run id for a new log: that of the lowest generation that is not known to be deleted."""
        return run_id_of(thread_id, namespace, self._generations.get((thread_id, namespace), 0))

    async def find_generation(self, thread_id: str, namespace: str) -> None:
        """Find the lowest generation that was not deleted, in as many probes as its number has digits, twice.

        A deleted run id is never used again, so that a thread whose name is used again gets a log of another id. Every
        process takes the lowest one, and so they meet in one log.
        """
        self.forget(thread_id, namespace)
        low, high = 0, 1
        while await self._is_deleted(run_id_of(thread_id, namespace, high)):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if await self._is_deleted(run_id_of(thread_id, namespace, middle)):
                low = middle
            else:
                high = middle
        is_free = low == 0 and not await self._is_deleted(run_id_of(thread_id, namespace, 0))
        self._generations[thread_id, namespace] = 0 if is_free else high

    async def is_taken(self, run_id: str) -> bool:
        """Return whether a run id names a run, or did."""
        return await self.checkpointer.read_latest(run_id) is not None or await self._is_deleted(run_id)

    def forget(self, thread_id: str, namespace: str) -> None:
        """Look for the log of a thread again."""
        self._runs.pop((thread_id, namespace), None)

    async def append(self, steps: Sequence[Checkpoint]) -> None:
        """Append steps of one log, durably; those before one that is refused are kept."""
        if len(steps) == 1:
            await self.checkpointer.write(steps[0])
        else:
            await self.checkpointer.write_many(steps)

    async def delete(self, run_id: str) -> None:
        """Delete a log."""
        await self.checkpointer.delete_run(run_id)
        for name in [name for name, known in list(self._runs.items()) if known == run_id]:
            self._runs.pop(name, None)

    def _remember(self, name: tuple[str, str], run_id: str) -> str:
        self._runs[name] = run_id
        if len(self._runs) > _KNOWN:
            self._runs.popitem(last=False)
        return run_id

    async def _is_deleted(self, run_id: str) -> bool:
        """Ask with a step 1 whose step 0 nobody has: every store refuses it, and says why."""
        first = Checkpoint.genesis(
            run_id=run_id,
            graph_id=GRAPH_ID,
            graph_hash="0" * 64,
            runtime_hash="0" * 64,
            state={},
            executor_id=secrets.token_hex(16),
            timestamp=datetime.now(UTC),
        )
        probe = first.next(event="paused", executor_id=first.executor_id, timestamp=first.timestamp)
        try:
            await self.checkpointer.write(probe)
        except CheckpointError as error:
            if error.reason not in _REFUSALS:
                raise
            return error.reason == "run-deleted"
        raise CheckpointError(f"run {run_id!r}: a step without the one before it was stored", reason="broken-driver")


@contextlib.contextmanager
def _naming_the_saver() -> Iterator[None]:
    """Say what to call on the saver if it was not entered: its users have not made the store."""
    try:
        yield
    except CheckpointError as error:
        if error.reason != "not-bootstrapped":
            raise
        raise CheckpointError(
            "the saver is not ready: nobody has entered it",
            reason=error.reason,
            hint="Use it in `with saver:` or `async with saver:`, or call `await saver.setup()` once at start-up.",
        ) from None
