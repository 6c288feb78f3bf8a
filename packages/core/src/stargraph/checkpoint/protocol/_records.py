"""The parts of a checkpoint: the types of its fields, and the small models in them."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)

from stargraph.checkpoint.values import JsonValue, format_time
from stargraph.checkpoint.values._json import is_text, own_json
from stargraph.checkpoint.values._times import datetime_class
from stargraph.errors import CheckpointError

Event: TypeAlias = Literal[
    "started",
    "queued",
    "completed",
    "called",
    "asked",
    "answered",
    "resumed",
    "cancel_requested",
    "pause_requested",
    "paused",
    "cancelled",
    "failed",
    "migrated",
    "moved",
]
"""What a checkpoint records."""

Status: TypeAlias = Literal["queued", "running", "awaiting_input", "paused", "done", "failed", "cancelled", "moved"]
"""The status of a run after an event."""

Origin: TypeAlias = Literal["fork", "subgraph"]
"""Why a run has a parent."""


ENDED: Final[frozenset[Status]] = frozenset({"done", "cancelled", "moved"})
"""A run with one of these statuses takes no further checkpoint."""

RUN_ID_PATTERN: Final = "[A-Za-z0-9][A-Za-z0-9._:-]{0,199}"
"""What a run id is, as a regular expression."""

_RUN_ID: Final = re.compile(RUN_ID_PATTERN)

_QUEUE_NAME: Final = re.compile("[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")

MAX_PRIORITY: Final = 2**31 - 1
"""The highest priority of a queued run; the lowest one is its negative. Any store has integers of that size."""

MAX_KEY_BYTES: Final = 255
"""How long the key of a step may be: an index entry, and a name on any store, has to hold it."""


PRUNED_BY_DEFAULT: Final[tuple[Status, ...]] = ("done",)
"""The statuses that a prune looks at by default."""


def is_run_id(text: object) -> bool:
    """Return whether a text can be a run id: 1-200 of `[A-Za-z0-9._:-]`, the first one a letter or digit."""
    return isinstance(text, str) and _RUN_ID.fullmatch(text) is not None


def check_run_id(text: str) -> str:
    """Return a run id.

    Raises:
        CheckpointError: it cannot be one (`reason="invalid-run-id"`).
    """
    if not is_run_id(text):
        raise CheckpointError(
            f"{text!r:.220} cannot be a run id",
            reason="invalid-run-id",
            hint="A run id is text of 1-200 characters of A-Z a-z 0-9 . _ : - and begins with a letter or digit.",
        )
    return text


def as_utc(moment: datetime) -> datetime:
    """Return an aware datetime in UTC, which is of no subclass: one of pendulum or freezegun has its own text and sums.

    Args:
        moment: an aware datetime.

    Raises:
        ValueError: in UTC it is before the year 1 or after the year 9999.
    """
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is outside the years 1 to 9999 in UTC") from None
    if type(utc).__module__ == "datetime":
        return utc
    kind = datetime_class(type(utc))
    return kind(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, UTC)


def _own_json(value: JsonValue, field: ValidationInfo) -> JsonValue:
    # A later change of the caller's object must not show in a checkpoint that has its digest.
    return own_json(value, field.field_name or "value")


def _checked_text(text: str) -> str:
    if not is_text(text):
        raise ValueError("a lone surrogate is not text that can be stored")
    return text


def _storable_text(text: object) -> object:
    # Exceptions quote file names, which may hold bytes that are not text; the failure must be recorded nevertheless.
    if isinstance(text, str) and not is_text(text):
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def is_key(text: object) -> bool:
    """Return whether a text can be the key of a step: 1 to 255 bytes in UTF-8."""
    return isinstance(text, str) and is_text(text) and 0 < len(text.encode()) <= MAX_KEY_BYTES


def _checked_key(key: str) -> str:
    if not is_key(key):
        raise ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes of UTF-8")
    return key


def is_queue_name(text: object) -> bool:
    """Return whether a text can name a queue: 1-100 of `[A-Za-z0-9._:-]`, the first one a letter or digit."""
    return isinstance(text, str) and _QUEUE_NAME.fullmatch(text) is not None


def _checked_queue_name(name: str) -> str:
    if not is_queue_name(name):
        raise ValueError(
            "the name of a queue is 1-100 characters of A-Z a-z 0-9 . _ : - and begins with a letter or digit"
        )
    return name


def complaint_of(error: ValidationError) -> str:
    """Return what is wrong with the first malformed field, without its value, which may be a secret."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    complaint = first["msg"].removeprefix("Value error, ")
    return f"{where}: {complaint}" if where else complaint


RunId = Annotated[str, AfterValidator(check_run_id)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ExecutorId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Text = Annotated[str, AfterValidator(_checked_text)]
# For what the system names: the text of an exception, a host.
ErrorText = Annotated[Text, BeforeValidator(_storable_text)]
Key = Annotated[Text, AfterValidator(_checked_key)]
QueueName = Annotated[str, AfterValidator(_checked_queue_name)]
ProcessId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Step = Count
Instant = Annotated[
    AwareDatetime,
    AfterValidator(as_utc),
    PlainSerializer(format_time, return_type=str, when_used="json"),
]
Json = Annotated[Any, AfterValidator(_own_json)]
Members = Annotated[
    dict[str, Any],
    # Checked as a whole by encode_members: pydantic would turn some keys into text.
    PlainValidator(lambda members: members, json_schema_input_type=dict[str, Any]),
]


class FrozenModel(BaseModel):
    """The base of all models here."""

    # Schemas are built at first use: importing the engine must stay quick.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, defer_build=True)


class StepRange(FrozenModel):
    """Consecutive steps, both ends included.

    Attributes:
        first: the first step.
        last: the last step.
    """

    first: Step
    last: Step


def add_step(ranges: tuple[StepRange, ...], step: int) -> tuple[StepRange, ...]:
    """Return ascending ranges with a later step added; a step that follows the last one widens its range."""
    if ranges and ranges[-1].last == step - 1:
        return (*ranges[:-1], StepRange.model_construct(first=ranges[-1].first, last=step))
    return (*ranges, StepRange.model_construct(first=step, last=step))


class Task(FrozenModel):
    """A node that is running or comes next.

    Attributes:
        kind: always `task`.
        id: unique in the run, and the same in every resume of it.
        node: the id of the node in the graph.
        since_step: the step whose state the node gets.
        index: the position of the branch in its fan-out; None outside one.
        rule: the rule whose question this task asks after its node completed; None if the node itself runs.
        calls: the steps at which calls of this task were recorded.
    """

    kind: Literal["task"] = "task"
    id: Text
    node: Text
    since_step: Step
    index: Count | None = None
    rule: Text | None = None
    calls: tuple[StepRange, ...] = ()


class FanOut(FrozenModel):
    """Branches that run side by side and join at one node.

    Attributes:
        kind: always `fan_out`.
        mode: `parallel`, one branch for each target, or `map`, one for each item.
        rule: the id of the rule that fans out; it names the targets and the items.
        task_id: the task after which it fans out.
        join: the id of the node at which the branches join.
        since_step: the step whose state every branch gets.
        width: the number of branches.
        next_index: the number of branches that have been started.
        completed_steps: the steps at which branches completed.
    """

    kind: Literal["fan_out"] = "fan_out"
    mode: Literal["parallel", "map"]
    rule: Text
    task_id: Text
    join: Text
    since_step: Step
    width: Count
    next_index: Count
    completed_steps: tuple[StepRange, ...] = ()


FrontierItem: TypeAlias = Annotated[Task | FanOut, Field(discriminator="kind")]


class Interrupt(FrozenModel):
    """What a task waits for: the answer to a question, or a time.

    Attributes:
        id: durable; the answer names it.
        task_id: the task that is blocked by it.
        node: the node that asks.
        prompt: the question, for a person.
        payload: what the person needs to answer.
        into: the field of the state that takes the answer, or None.
        child_run_id: the run of the subgraph that asks; None if the node itself asks.
        asked_at: when it was asked.
        due_at: when the wait is over; None if the task waits for an answer.
    """

    id: Text
    task_id: Text
    node: Text
    prompt: Text
    payload: Json = None
    into: Text | None = None
    child_run_id: RunId | None = None
    asked_at: Instant
    due_at: Instant | None = None


class ErrorInfo(FrozenModel):
    """What went wrong.

    Attributes:
        type: the class of the exception, with its module unless it is builtin.
        message: its text.
        reason: a stable kebab-case word, or None if Stargraph has none for it.
        node: the node that failed, or None.
        traceback: the text of the traceback.
    """

    type: ErrorText
    message: ErrorText
    reason: ErrorText | None = None
    node: ErrorText | None = None
    traceback: ErrorText | None = None


class RecordedCall(FrozenModel):
    """A call, an answer or a reading of the clock of a node, and its outcome.

    Attributes:
        kind: `call` from `ctx.call`, `answer` from a person or from the clock that a task waited for, `now` from the
            clock, `attempt` for an attempt of the node that failed and was followed by another one.
        task_id: the task.
        name: the name of the call.
        key: distinguishes concurrent calls of one name.
        occurrence: counts the calls of the same task and key (or name), from 0.
        result: what it returned.
        error: what it raised instead.
        started_at: when it began.
    """

    kind: Literal["call", "answer", "now", "attempt"]
    task_id: Text
    name: Text
    key: Text | None = None
    occurrence: Count = 0
    result: Json = None
    error: ErrorInfo | None = None
    started_at: Instant


class ProcessInfo(FrozenModel):
    """The process that started or resumed a run last.

    Attributes:
        host: the name of the machine.
        pid: the process id on that machine.
        version: the version of stargraph-core that it runs.
        worker: the name of the worker, from `STARGRAPH_WORKER`; None if that is not set.
        id: 16 hex digits, random for each process; its executor ids begin with them. Without one, it cannot `beat`.
    """

    host: ErrorText
    pid: Count
    version: Text
    worker: ErrorText | None = None
    id: ProcessId | None = None

    @classmethod
    def current(cls) -> ProcessInfo:
        """Return this process, as `started` and `resumed` record it."""
        return _process(os.getpid(), os.environ.get("STARGRAPH_WORKER") or None)


@lru_cache(maxsize=4)
def _process(pid: int, worker: str | None) -> ProcessInfo:
    # Imported by the first run only: listing and reading must stay quick.
    import socket
    from importlib.metadata import version

    return ProcessInfo(
        host=socket.gethostname(),
        pid=pid,
        version=version("stargraph-core"),
        worker=worker,
        id=_process_id(pid),
    )


@lru_cache(maxsize=1)
def _process_id(pid: int) -> str:
    """Return the random id of this process: another one after a fork, whose child has another pid."""
    return secrets.token_hex(8)


class QueueEntry(FrozenModel):
    """How a run waits for a worker; every step of the run carries it, as it carries the tags.

    Attributes:
        name: the queue; workers name the queues that they serve.
        priority: runs with a higher priority begin first.
        concurrency_key: runs of the queue with the same one share the queue's limit per key; None for no key.
        not_before: the earliest time at which a `queued` run may begin; None for at once.
    """

    name: QueueName = "default"
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    concurrency_key: Key | None = None
    not_before: Instant | None = None


def due_at_of(status: Status, interrupts: Iterable[Interrupt], queue: QueueEntry | None) -> datetime | None:
    """Return when a run that waits can go on without an answer; None if it waits for no time."""
    if status == "queued":
        return None if queue is None else queue.not_before
    if status != "awaiting_input":
        return None
    return min((each.due_at for each in interrupts if each.due_at is not None), default=None)


class Seal(FrozenModel):
    """Proof that the holder of a key wrote a checkpoint.

    Attributes:
        key_id: names the key.
        mac: HMAC-SHA256 of the digest, in hex.
    """

    key_id: Text
    mac: Hash
