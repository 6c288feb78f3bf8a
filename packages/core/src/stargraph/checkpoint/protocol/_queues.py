"""What a fleet of workers needs from a store: queues, limits, who lives, and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Protocol, Self, runtime_checkable

from pydantic import Field, StringConstraints, model_validator

from stargraph.checkpoint.protocol._checkpoint import Checkpoint
from stargraph.checkpoint.protocol._records import (
    Count,
    ErrorText,
    FrozenModel,
    Instant,
    Json,
    ProcessInfo,
    QueueEntry,
    QueueName,
    Text,
)
from stargraph.checkpoint.protocol._summaries import RunSummary

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_ScheduleId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class GraphVersion(NamedTuple):
    """A graph that a worker has loaded: a run fits if it has the same three.

    Attributes:
        graph_id: the id of the graph.
        graph_hash: the fingerprint of what shapes execution, 64 hex digits.
        runtime_hash: the fingerprint of the code of the nodes, 64 hex digits.
    """

    graph_id: str
    graph_hash: str
    runtime_hash: str

    @classmethod
    def of(cls, run: RunSummary | Checkpoint) -> Self:
        """Return the version that a run was executed with last."""
        return cls(run.graph_id, run.graph_hash, run.runtime_hash)


class RefusedVersion(NamedTuple):
    """A version of which a worker has looked at a run, and why none of its graphs can go on with it.

    Attributes:
        version: that of the run.
        reason: why, in words, cut short if that is long.
    """

    version: GraphVersion
    reason: ErrorText


class WorkerInfo(ProcessInfo):
    """A process that takes runs of queues, as it describes itself with each beat.

    Attributes:
        queues: where it takes runs from.
        serves: the versions that it has loaded. It takes runs of another version if one of these can go on with them.
        refuses: some of the versions that it found in its queues lately and cannot go on with.
    """

    queues: tuple[QueueName, ...]
    serves: tuple[GraphVersion, ...]
    refuses: tuple[RefusedVersion, ...] = ()


class QueueLimits(FrozenModel):
    """What all workers together may do with a queue.

    Attributes:
        concurrency: how many of its runs may be executed at once; 0 stops the queue, None sets no limit.
        per_key: how many of the runs with the same `concurrency_key` may be executed at once; None sets no limit.
        rate: how many of its runs may be handed out in any `period`; None sets no limit.
        period: seconds.
    """

    concurrency: Count | None = None
    per_key: Annotated[int, Field(ge=1, le=2**53)] | None = None
    rate: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    period: _Seconds = 1.0


class QueueCounts(FrozenModel):
    """How many runs of a queue there are that have not ended, by what they wait for.

    Attributes:
        queue: the queue.
        ready: can go on now, and wait for a worker.
        scheduled: wait for a time.
        running: are executed or reserved, or were executed by a process that is gone.
        awaiting_input: wait for an answer.
        paused: were paused.
        failed: have failed.
        limits: the limits that were set, or None.
    """

    queue: str
    ready: Count = 0
    scheduled: Count = 0
    running: Count = 0
    awaiting_input: Count = 0
    paused: Count = 0
    failed: Count = 0
    limits: QueueLimits | None = None


class ProcessPresence(FrozenModel):
    """A process that has said that it lives, by the clock of the store.

    Attributes:
        process: the process, as it described itself last; a `WorkerInfo` if it takes runs of queues.
        first_seen: when it said so first.
        silent_seconds: how long ago it said so last.
    """

    process: WorkerInfo | ProcessInfo
    first_seen: Instant
    silent_seconds: Annotated[float, Field(ge=0)]


class Schedule(FrozenModel):
    """Runs that are enqueued again and again, at the times that a cron expression names.

    Attributes:
        id: names the schedule, and with the due time each of its runs: 1-100 of `[A-Za-z0-9._-]`.
        cron: five fields: minute, hour, day of the month, month, day of the week.
        timezone: the IANA name of the time zone that the fields are read in.
        graph_id: the graph to start; a worker that has it enqueues the runs.
        inputs: what each run is started with.
        queue: how each run waits for a worker.
        metadata: the tags of each run.
        since: due times after this one are enqueued.
    """

    id: _ScheduleId
    cron: Text
    timezone: Text = "UTC"
    graph_id: Text
    inputs: Json = Field(default_factory=dict)
    queue: QueueEntry = Field(default_factory=QueueEntry)
    metadata: dict[Text, Text] = Field(default_factory=dict)
    since: Instant

    @model_validator(mode="after")
    def _inputs_are_members(self) -> Self:
        inputs: Any = self.inputs
        if type(inputs) is not dict:
            raise ValueError("the inputs of a schedule are an object")
        return self


@runtime_checkable
class RunQueue(Protocol):
    """Capability: hand out the runs of queues to workers.

    What it says is advice: a run that two workers got is still executed by one, since the append of the other is
    refused. It may cost time if it is wrong, and never data.
    """

    async def claimable(
        self,
        process_id: str,
        queues: Sequence[str],
        *,
        limit: int = 1,
        fits: Sequence[GraphVersion] | None = None,
        silent_after: float = 30.0,
        reserve: float = 30.0,
    ) -> list[RunSummary]:
        """Reserve runs that can go on now, and return them: highest priority first, then those that are due earliest.

        A run can go on if it is `queued` and due; if it waits for times only, and one of them has come; if it is
        `running` and no process has it, since its answer came; and if it is `running` and its process is gone: it has
        left, or was never seen, or is silent for too long. Times are those of the store's own clock. A run that was
        reserved for another call is left out, and so is one that a limit of its queue holds back. One whose entry is
        damaged is left out too: it takes no place, and raises nothing.

        Args:
            process_id: who asks: `ProcessInfo.current().id`.
            queues: the queues to look at.
            limit: at most this many runs.
            fits: only runs of one of these graphs; None for all.
            silent_after: after how many seconds without a `beat` a process counts as gone.
            reserve: for how many seconds nobody else gets these runs, unless a step of theirs is appended before. 0
                reserves and writes nothing, which a read-only handle can do too.

        Raises:
            CheckpointError: the handle is read-only, and `reserve` is not 0 (`reason="read-only"`).
            ValueError: an argument is malformed.
        """

    async def queue_counts(self) -> list[QueueCounts]:
        """Return the queues that have runs or limits, in the order of their names, and how their runs stand."""

    async def set_limits(self, queue: str, limits: QueueLimits | None) -> None:
        """Set the limits of a queue for all workers, from now on.

        Args:
            queue: the queue; it need not have a run yet.
            limits: its limits; None removes them.

        Raises:
            CheckpointError: the store cannot hold limits (`reason="no-limits"`), or the handle is read-only.
            ValueError: `queue` cannot name a queue.
        """


@runtime_checkable
class Presence(Protocol):
    """Capability: know which processes live, by the store's own clock.

    A process that executes runs of queues calls `beat` before its first one, and then about every ten seconds: once
    for the whole process.
    """

    async def beat(self, process: ProcessInfo) -> None:
        """Say that a process lives: one small write.

        Args:
            process: the process; `ProcessInfo.current()`, which has an id, or the `WorkerInfo` of a worker.

        Raises:
            ValueError: it has no id.
        """

    async def processes(self) -> list[ProcessPresence]:
        """Return the processes that have not left, the one that was seen first first; ties by their ids.

        One that is silent for more than a day is forgotten.
        """

    async def leave(self, process_id: str) -> None:
        """Say that a process ends: its runs, and what is reserved for it, are free at once."""


@runtime_checkable
class Schedules(Protocol):
    """Capability: keep the schedules of a fleet."""

    async def put_schedule(self, schedule: Schedule) -> None:
        """Store a schedule, in the place of one with the same id."""

    async def schedules(self) -> list[Schedule]:
        """Return all schedules, in the order of their ids."""

    async def remove_schedule(self, schedule_id: str) -> bool:
        """Remove a schedule; the runs that it has enqueued stay.

        Returns:
            Whether there was such a schedule.
        """
