"""What a store must do: the `Checkpointer` protocol, and the capabilities that a driver may add."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias, TypedDict, Unpack, runtime_checkable

from stargraph.checkpoint.protocol._checkpoint import Checkpoint
from stargraph.checkpoint.protocol._records import PRUNED_BY_DEFAULT, Status
from stargraph.checkpoint.protocol._summaries import PruneReport, RunPage, RunSummary, StepKey
from stargraph.checkpoint.protocol._timeline import StepSummary


@runtime_checkable
class Checkpointer(Protocol):
    """A store of runs. docs/contract.md defines what each method promises."""

    async def bootstrap(self) -> None:
        """Create or migrate the store.

        Idempotent, atomic, and safe when many processes call it at once. Every other method raises
        `CheckpointError(reason="not-bootstrapped")` before it.

        Raises:
            StoreVersionError: the store has a newer format; nothing was changed.
            StoreUnavailableError: the store cannot be reached or created.
        """

    async def write(self, checkpoint: Checkpoint) -> None:
        """Append one checkpoint: atomically, and durably once this has returned.

        Args:
            checkpoint: the next step of its run. Writing a stored one again does nothing, so a retry after
                an unknown outcome is always safe.

        Raises:
            CheckpointConflictError: another executor wrote this step, or the step before it.
            CheckpointError: `reason` is `invalid-checkpoint`, `step-gap`, `pruned`, `run-ended`,
                `run-deleted` or `not-bootstrapped`.
            StoreUnavailableError: the outcome is unknown; writing again settles it.
        """

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        """Return the checkpoint with the highest step of a run, or None if there is no such run."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        """Return one step of a run, or None if it is absent.

        Raises:
            ValueError: `step` is not an integer.
        """

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        """Return runs, the newest `started_at` first, ties by `run_id` ascending.

        Args:
            since: only runs that started then or later; an aware datetime.
            limit: at most this many runs; 0 returns none.

        Raises:
            ValueError: `since` is naive, or `limit` is negative or not an integer.
        """


@runtime_checkable
class RunHistory(Protocol):
    """Capability: read the steps of a run in order."""

    def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        """Yield the checkpoints of a run in the order of their steps; none if the run is unknown.

        Args:
            from_step: the lowest step, included; None for the first.
            to_step: the highest step, included; None for the latest.
            newest_first: yield the highest step first.

        Raises:
            ValueError: a step is not an integer.
        """


@runtime_checkable
class RunTimeline(Protocol):
    """Capability: read what happened in the steps of a run, without their states."""

    async def timeline(
        self, run_id: str, *, from_step: int = 0, to_step: int | None = None, limit: int = 1000
    ) -> list[StepSummary]:
        """Return rows for the steps of a run, in order; none if the run is unknown.

        A row costs no more for a large state: no value of a state or an update is decoded. It is what was recorded, or
        the call raises. A damaged state does not show in it: `read_at_step` proves that, and an audit the whole run.

        Args:
            from_step: the lowest step, included.
            to_step: the highest step, included; None for the latest.
            limit: at most this many rows. The next page begins after the last one.

        Raises:
            ValueError: a step is not an integer, or `limit` is negative or not an integer.
            CheckpointCorruptedError: what tells an event is damaged, or a step is lost.
        """


@runtime_checkable
class RunWatch(Protocol):
    """Capability: yield the steps of a run as they are stored, whoever writes them."""

    def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        """Yield the latest step of a run each time that it has grown, from whatever process.

        It looks at once, and then again and again, ever less often while nothing happens, and at least every two
        seconds. It never ends on its own: not with the run, which may be resumed, and not while the run is unknown,
        since it may be started. Of several steps that are stored between two looks, it yields the last.

        Args:
            after_step: only steps above it; -1 for all.

        Raises:
            ValueError: `after_step` is not an integer.
            StoreUnavailableError: the store did not answer. Another call with the step that was yielded last misses
                nothing.
        """


@runtime_checkable
class KeyedSteps(Protocol):
    """Capability: find the steps of a run by the keys that the program gave them."""

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        """Return the highest step of a run that has a key, or None if there is none."""

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        """Return the keys of a run, the highest first, each with the highest step that has it.

        Keys are compared by their code points, and so by their bytes in UTF-8.

        Args:
            run_id: the run; an unknown one has no keys.
            below: only lower keys; None for all.
            limit: at most this many.

        Raises:
            ValueError: `limit` is negative or not an integer.
        """


RunOrder: TypeAlias = Literal["started", "updated"]
"""Which runs a search returns first: those that started last, or those whose last step was recorded last."""


class RunFilters(TypedDict, total=False):
    """The filters of a search: a run matches if every filter fits. None, like a missing filter, fits every run.

    Attributes:
        status: its status, or several statuses, one of which it must have.
        graph_id: the id of its graph.
        graph_hash: the fingerprint of its graph.
        runtime_hash: the fingerprint of the code of its nodes.
        error_reason: the `reason` of the error that its summary shows.
        metadata: tags that it has, with their values; at most 1,000.
        since: it started then or later; an aware datetime, like the next three.
        updated_since: its last step was recorded then or later.
        updated_before: its last step was recorded before.
        due_before: its `due_at` is before: by then, a run that waits for a time can go on, and a queued one begin.
        parent_run_id: the run that it came from.
        roots_only: True leaves out child runs, those with the origin `subgraph`.
        run_id_prefix: its id begins with this.
    """

    status: Status | Sequence[Status] | None
    graph_id: str | None
    graph_hash: str | None
    runtime_hash: str | None
    error_reason: str | None
    metadata: Mapping[str, str] | None
    since: datetime | None
    updated_since: datetime | None
    updated_before: datetime | None
    due_before: datetime | None
    parent_run_id: str | None
    roots_only: bool
    run_id_prefix: str | None


@runtime_checkable
class RunSearch(Protocol):
    """Capability: find and count runs by their summaries."""

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        """Return one page of the runs that match, the newest first, ties by `run_id` ascending.

        Args:
            limit: at most this many runs.
            cursor: `next_cursor` of the page before; None for the first page.
            order: newest by `started_at` or by `updated_at`. A run that is updated meanwhile moves in that order,
                and may then be seen twice or not at all.
            filters: what to look for.

        Raises:
            ValueError: `limit` is negative, `cursor` is not one of this store and order, or a filter is malformed.
        """

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        """Return how many runs match, by their status; a status without runs is left out.

        Args:
            filters: what to look for.

        Raises:
            ValueError: a filter is malformed.
        """


@runtime_checkable
class RunTree(Protocol):
    """Capability: find the runs that a run has started as subgraphs."""

    async def children(self, run_id: str) -> list[RunSummary]:
        """Return the direct child runs of a run (`origin` is `subgraph`), in the order of `list_runs`."""


@runtime_checkable
class RunDeletion(Protocol):
    """Capability: remove runs, or the older part of them."""

    async def delete_run(self, run_id: str) -> bool:
        """Delete a run for good: it then reads as unknown, and takes no further checkpoint (`run-deleted`).

        Returns:
            Whether there was such a run.
        """

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Sequence[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove all but the last checkpoints of idle runs.

        A checkpoint that a run needs to be resumed is kept, whatever `keep_last` is.

        Args:
            older_than: only runs whose last step was recorded before; an aware datetime.
            statuses: only runs with one of these statuses.
            keep_last: how many checkpoints of each run to keep; 0 deletes the run, unless it is a child run whose
                parent is stored and has not ended: the parent may still have to read how it ended.
            run_id: only this run; None for all.
            dry_run: count, and remove nothing; a read-only handle does that too.

        Raises:
            ValueError: an argument is malformed, such as a naive `older_than` or a negative `keep_last`.
        """


@runtime_checkable
class BatchAppend(Protocol):
    """Capability: append several steps of one run together."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Append consecutive steps of one run; whatever happens, a prefix of them is stored.

        Args:
            checkpoints: the steps, in order.

        Raises:
            CheckpointError: as `write` raises, for the first step that is refused.
        """


@runtime_checkable
class PrunedStart(Protocol):
    """Capability: begin a run whose first steps were pruned in the store that it comes from."""

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Begin a run with the steps that a prune has left of it, durably and as a whole.

        The last of the steps becomes the latest one and the floor of the run: below it, a step that is not among them
        reads as pruned and can never be written. `write` continues the run from there. Calling it again with the same
        steps does nothing, so a retry after an unknown outcome is always safe.

        Args:
            checkpoints: steps of one run, in order. Some may be missing between them; the one before the last is.

        Raises:
            CheckpointConflictError: the store has other steps of that run (`reason="run-exists"`).
            CheckpointError: `reason` is `invalid-batch`, `invalid-checkpoint`, `run-ended`, `run-deleted` or
                `read-only`.
            StoreUnavailableError: the outcome is unknown; calling again settles it.
        """


@runtime_checkable
class Closing(Protocol):
    """Capability: release connections and threads; `async with` bootstraps on entry and closes on exit."""

    async def close(self) -> None:
        """Release what the handle holds; idempotent."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class ClosingCheckpointer(Checkpointer, Closing, Protocol):
    """A checkpointer for `async with`, as `open_checkpointer` returns it."""
