"""The data model: a run is an append-only log of checkpoints, each one event and the whole truth after it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from stargraph.checkpoint.protocol._digest import digest_of
from stargraph.checkpoint.protocol._records import (
    ErrorInfo,
    Event,
    Executor,
    FanOut,
    FrontierItem,
    Hash,
    Instant,
    Interrupt,
    Json,
    Members,
    Origin,
    ProcessInfo,
    Record,
    RecordedCall,
    RunId,
    Seal,
    Status,
    Step,
    Task,
    Text,
    complaint_of,
)
from stargraph.checkpoint.values._encoded import EncodedValue, check_size, encode_members, join_encoded
from stargraph.checkpoint.values._json import JsonValue
from stargraph.errors import CheckpointCorruptedError, CheckpointError


class _Keep:
    """The type of `KEEP`."""

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final[Any] = _Keep()
"""In `Checkpoint.next`: this field is as it was."""


class _Draft(Record):
    """The fields of a checkpoint before it has a digest."""

    run_id: RunId
    step: Step
    event: Event
    status: Status
    graph_id: Text
    graph_hash: Hash
    runtime_hash: Hash
    definition: Json = None
    state: Members
    last_node: Text | None = None
    task_id: Text | None = None
    task_started_at: Instant | None = None
    update: Members | None = None
    frontier: tuple[FrontierItem, ...] = ()
    interrupts: tuple[Interrupt, ...] = ()
    calls: tuple[RecordedCall, ...] = ()
    error: ErrorInfo | None = None
    started_at: Instant
    timestamp: Instant
    executor_id: Executor
    process: ProcessInfo | None = None
    parent_run_id: RunId | None = None
    parent_step: Step | None = None
    origin: Origin | None = None
    metadata: dict[Text, Text] = Field(default_factory=dict)
    previous_digest: Hash | None = None


class Checkpoint(_Draft):
    """One event of a run, and the whole truth after it.

    Build one with `genesis` and `next`. `model_validate` and `model_validate_json` check that the digest
    fits. The objects in `state` and `update` belong to the checkpoint: do not change them.

    Attributes:
        run_id: the run.
        step: the position in the log: 0, then one more for each event.
        event: what this records.
        status: where the run stands after it.
        graph_id: the id of the graph.
        graph_hash: the fingerprint of what shapes execution, 64 hex digits.
        runtime_hash: the fingerprint of the code of the nodes, 64 hex digits.
        definition: what the two hashes were made of, in `started` and `migrated`; in the first steps of a fork, what
            it does otherwise.
        state: the whole state.
        last_node: the node of this event.
        task_id: the task of this event.
        task_started_at: when the task began.
        update: what the node returned.
        frontier: what is running or comes next.
        interrupts: the open questions.
        calls: the calls that this event recorded.
        error: what failed.
        started_at: the time of step 0.
        timestamp: the time of this event.
        executor_id: 32 hex digits, random for each start, resume, respond and cancel.
        process: the process that started or resumed the run last; None if it was not told.
        parent_run_id: the run that this one came from.
        parent_step: the step of the parent that this one came from.
        origin: why it has a parent.
        metadata: the user's tags.
        previous_digest: the digest of the step before; None at step 0.
        digest: the digest of this one, as docs/digest.md specifies it.
        seal: proof of who wrote it; not part of the digest.
    """

    digest: Hash
    seal: Seal | None = None

    _encoded_state: dict[str, EncodedValue] = PrivateAttr(default_factory=dict)
    _encoded_update: dict[str, EncodedValue] | None = PrivateAttr(default=None)
    _made_of: tuple[tuple[object, ...], dict[str, str]] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _adopt(self) -> Self:
        # Keeps the values that the digest covers, so that no later change of the caller's objects shows.
        self._encoded_state = encode_members(self.state, "state")
        self._encoded_update = None if self.update is None else encode_members(self.update, "update")
        self.__dict__["state"] = _values(self._encoded_state)
        if self._encoded_update is not None:
            self.__dict__["update"] = _values(self._encoded_update)
        _check_shape(self)
        self._verify()
        return self

    def _verify(self) -> None:
        if self.digest != digest_of(self.__dict__, self._encoded_state, self._encoded_update):
            raise CheckpointCorruptedError(
                f"run {self.run_id!r}, step {self.step}: the digest does not fit the content",
                reason="digest-mismatch",
                hint="The record was altered, or built by hand: build checkpoints with genesis() and next().",
                run_id=self.run_id,
                step=self.step,
            )

    @classmethod
    def genesis(
        cls,
        *,
        run_id: str,
        graph_id: str,
        graph_hash: str,
        runtime_hash: str,
        state: Mapping[str, JsonValue],
        executor_id: str,
        timestamp: datetime,
        process: ProcessInfo | None = None,
        status: Status = "running",
        definition: JsonValue = None,
        update: Mapping[str, JsonValue] | None = None,
        frontier: tuple[Task | FanOut, ...] = (),
        interrupts: tuple[Interrupt, ...] = (),
        parent_run_id: str | None = None,
        parent_step: int | None = None,
        origin: Origin | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Checkpoint:
        """Return step 0 of a run.

        Args:
            run_id: the run.
            graph_id: the id of the graph.
            graph_hash: the fingerprint of what shapes execution.
            runtime_hash: the fingerprint of the code of the nodes.
            state: the state that the run begins with.
            executor_id: 32 hex digits, random for each start.
            timestamp: now, with its offset.
            process: the process that starts the run.
            status: where the run stands.
            definition: what the two hashes were made of.
            update: the inputs that were given.
            frontier: what comes next.
            interrupts: open questions, where a fork begins with some.
            parent_run_id: the run that this one comes from.
            parent_step: the step of it.
            origin: why it has a parent.
            metadata: tags.

        Raises:
            StateError: the state or the update is not JSON.
            CheckpointError: a field does not fit (`reason="invalid-checkpoint"`, `"invalid-run-id"`).
        """
        fields = {
            "run_id": run_id,
            "step": 0,
            "event": "started",
            "status": status,
            "graph_id": graph_id,
            "graph_hash": graph_hash,
            "runtime_hash": runtime_hash,
            "definition": definition,
            "frontier": frontier,
            "interrupts": interrupts,
            "started_at": timestamp,
            "timestamp": timestamp,
            "executor_id": executor_id,
            "process": process,
            "parent_run_id": parent_run_id,
            "parent_step": parent_step,
            "origin": origin,
            "metadata": dict(metadata or {}),
        }
        return cls._built(
            fields,
            encode_members(dict(state), "state"),
            None if update is None else encode_members(dict(update), "update"),
        )

    def next(
        self,
        *,
        event: Event,
        executor_id: str,
        timestamp: datetime,
        status: Status = KEEP,
        changes: Mapping[str, JsonValue | EncodedValue] | None = None,
        state: Mapping[str, JsonValue] | None = None,
        update: Mapping[str, JsonValue | EncodedValue] | None = None,
        last_node: str | None = None,
        task_id: str | None = None,
        task_started_at: datetime | None = None,
        frontier: tuple[Task | FanOut, ...] = KEEP,
        interrupts: tuple[Interrupt, ...] = KEEP,
        calls: tuple[RecordedCall, ...] = (),
        error: ErrorInfo | None = None,
        graph_hash: str = KEEP,
        runtime_hash: str = KEEP,
        definition: JsonValue = None,
        process: ProcessInfo | None = KEEP,
    ) -> Checkpoint:
        """Return the checkpoint of the next step; whatever is not given is as it was.

        Args:
            event: what happened.
            executor_id: 32 hex digits, random for each start, resume, respond and cancel.
            timestamp: now, with its offset.
            status: where the run stands after it.
            changes: the fields of the state that are new or different. The cost of a step follows these.
            state: the whole state instead, where fields went away.
            update: what the node returned.
            last_node: the node of this event.
            task_id: the task of this event.
            task_started_at: when the task began.
            frontier: what is running or comes next.
            interrupts: the open questions.
            calls: the calls that this event records.
            error: what failed.
            graph_hash: of the new graph, in `migrated`, or where a mismatch was accepted.
            runtime_hash: of the new code, likewise.
            definition: what new hashes are made of.
            process: the process that resumes the run, in `resumed`.

        Raises:
            StateError: a value is not JSON, or the state is too large.
            CheckpointError: a field does not fit (`reason="invalid-checkpoint"`).
            ValueError: both `changes` and `state` were given.
        """
        if state is not None:
            if changes is not None:
                raise ValueError("give either changes or the whole state, not both")
            encoded_state = encode_members(dict(state), "state")
        elif changes:
            encoded_state = self._encoded_state | _fragments(changes, "state")
            check_size(encoded_state, "state")
        else:
            encoded_state = self._encoded_state
        encoded_update = None if update is None else _fragments(update, "update")
        fields = {
            **{name: self.__dict__[name] for name in _DRAFT_FIELDS},
            "step": self.step + 1,
            "event": event,
            "status": self.status if status is KEEP else status,
            "graph_hash": self.graph_hash if graph_hash is KEEP else graph_hash,
            "runtime_hash": self.runtime_hash if runtime_hash is KEEP else runtime_hash,
            "definition": definition,
            "last_node": last_node,
            "task_id": task_id,
            "task_started_at": task_started_at,
            "frontier": self.frontier if frontier is KEEP else frontier,
            "interrupts": self.interrupts if interrupts is KEEP else interrupts,
            "calls": calls,
            "error": error,
            "timestamp": timestamp,
            "executor_id": executor_id,
            "process": self.process if process is KEEP else process,
            "previous_digest": self.digest,
        }
        return Checkpoint._built(fields, encoded_state, encoded_update)

    @classmethod
    def from_stored(
        cls, fields: dict[str, Any], state: dict[str, EncodedValue], update: dict[str, EncodedValue] | None
    ) -> Checkpoint:
        """Return the checkpoint that a codec has read, verified by its digest instead of a walk over the state.

        Args:
            fields: every other field by its name, as parsed from JSON.
            state: the members of the state; taken over, not copied.
            update: the members of the update, or None; likewise.

        Raises:
            CheckpointCorruptedError: the digest does not fit.
            ValueError: a field is missing, unknown or malformed.
        """
        try:
            checkpoint = _Stored.model_validate({**fields, "state": {}, "update": None})
        except ValidationError as error:
            raise ValueError(complaint_of(error)) from None
        values = dict(checkpoint.__dict__)
        values["state"] = _values(state)
        values["update"] = None if update is None else _values(update)
        stored = cls._assembled(values, state, update)
        stored._verify()
        return stored

    @classmethod
    def _built(
        cls,
        fields: dict[str, Any],
        encoded_state: dict[str, EncodedValue],
        encoded_update: dict[str, EncodedValue] | None,
    ) -> Checkpoint:
        """Assemble a new checkpoint, with a digest made here: no walk over the state, which the fragments vouch for."""
        try:
            draft = _Draft.model_validate({**fields, "state": {}, "update": None})
        except ValidationError as error:
            raise _invalid(fields["run_id"], fields["step"], complaint_of(error)) from None
        values = dict(draft.__dict__)
        values["state"] = _values(encoded_state)
        values["update"] = None if encoded_update is None else _values(encoded_update)
        values["digest"] = digest_of(values, encoded_state, encoded_update)
        values["seal"] = None
        return cls._assembled(values, encoded_state, encoded_update)

    @classmethod
    def _assembled(
        cls,
        values: dict[str, Any],
        encoded_state: dict[str, EncodedValue],
        encoded_update: dict[str, EncodedValue] | None,
    ) -> Checkpoint:
        # model_construct walks every field and costs five times as much.
        checkpoint = cls.__new__(cls)
        assign = object.__setattr__
        assign(checkpoint, "__dict__", values)
        assign(checkpoint, "__pydantic_fields_set__", set(values))
        assign(checkpoint, "__pydantic_extra__", None)
        assign(
            checkpoint,
            "__pydantic_private__",
            {
                "_encoded_state": encoded_state,
                "_encoded_update": encoded_update,
                "_made_of": (tuple(values.values()), dict(values["metadata"])),
            },
        )
        _check_shape(checkpoint)
        return checkpoint

    def __eq__(self, other: object) -> bool:
        # The digest covers every value and its type, where == takes 1, 1.0 and True for the same.
        return isinstance(other, Checkpoint) and self.digest == other.digest and self.seal == other.seal

    def __hash__(self) -> int:
        return hash(self.digest)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        # Pickle makes two of a number that the state and its fragment share; ensure_valid tells a change by identity.
        self.__dict__["state"] = _values(self._encoded_state)
        self.__dict__["update"] = None if self._encoded_update is None else _values(self._encoded_update)

    def sealed(self, seal: Seal | None) -> Checkpoint:
        """Return this checkpoint with another seal; the digest stays.

        Args:
            seal: the seal.

        Raises:
            CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
        """
        self.ensure_valid()
        return Checkpoint._assembled({**self.__dict__, "seal": seal}, self._encoded_state, self._encoded_update)

    def encoded_state(self) -> Mapping[str, EncodedValue]:
        """Return the fields of the state with their JSON text and digests."""
        fragments: dict[str, EncodedValue] = self._private("_encoded_state")
        return fragments

    def encoded_update(self) -> Mapping[str, EncodedValue] | None:
        """Return the members of the update with their JSON text and digests, or None."""
        fragments: dict[str, EncodedValue] | None = self._private("_encoded_update")
        return fragments

    def _private(self, name: str) -> Any:
        # pydantic's own way to a private attribute takes as long as what is done with it.
        private = self.__pydantic_private__
        assert private is not None
        return private[name]

    def fresh_state(self) -> dict[str, JsonValue]:
        """Return a copy of the state that its receiver may change."""
        return {key: fragment.fresh() for key, fragment in self._encoded_state.items()}

    def state_json(self) -> bytes:
        """Return the JSON text of the state."""
        return join_encoded(self._encoded_state)

    def ensure_valid(self) -> None:
        """Refuse an object that its digest does not cover: copied with changes, or made without validation.

        Raises:
            CheckpointError: `reason="invalid-checkpoint"`.
        """
        private = getattr(self, "__pydantic_private__", None)
        fields = self.__dict__
        fragments: dict[str, EncodedValue] | None = None if private is None else private.get("_encoded_state")
        whole = fragments is not None and len(fields) == _FIELD_COUNT
        if whole and fragments is not None and private is not None:
            state, update, seal = fields["state"], fields["update"], fields["seal"]
            encoded_update = private.get("_encoded_update")
            whole = (
                _same(state, fragments)
                and (_same(update, encoded_update) if update is not None else encoded_update is None)
                and (
                    _is_as_made(fields, private.get("_made_of"))
                    or fields["digest"] == _digest_or_none(fields, fragments, encoded_update)
                )
                and (seal is None or isinstance(seal, Seal))
            )
        if not whole:
            raise _invalid(
                fields.get("run_id"),
                fields.get("step"),
                "this checkpoint is not what its digest covers",
                hint="Build checkpoints with Checkpoint.genesis() and checkpoint.next(); do not change them after.",
            )


_FIELD_COUNT: Final = len(Checkpoint.model_fields)
_DRAFT_FIELDS: Final = tuple(_Draft.model_fields)


def _is_as_made(fields: dict[str, Any], made_of: tuple[tuple[object, ...], dict[str, str]] | None) -> bool:
    """Tell, without its digest, that nothing of a checkpoint was changed; False where only the digest can tell."""
    if made_of is None or fields["definition"] is not None or fields["calls"] or fields["interrupts"]:
        return False  # these may hold lists and objects, which can be changed inside
    values, metadata = made_of
    return (
        len(fields) == len(values)
        and all(map(operator.is_, fields.values(), values))
        and fields["metadata"] == metadata
    )


def _digest_or_none(
    fields: dict[str, Any], state: dict[str, EncodedValue], update: dict[str, EncodedValue] | None
) -> str | None:
    try:
        return digest_of(fields, state, update)
    except (TypeError, ValueError, AttributeError):  # a field of another type, which nothing has validated
        return None


def _same(members: object, fragments: dict[str, EncodedValue] | None) -> bool:
    if not isinstance(members, dict) or fragments is None or len(members) != len(fragments):
        return False
    for key, fragment in fragments.items():  # noqa: SIM110  # all() of a generator takes twice as long
        if members.get(key, fragments) is not fragment.value:
            return False
    return True


def _values(fragments: Mapping[str, EncodedValue]) -> dict[str, JsonValue]:
    return {key: fragment.value for key, fragment in fragments.items()}


def _fragments(members: Mapping[str, JsonValue | EncodedValue], path: str) -> dict[str, EncodedValue]:
    # None stands for what is a fragment already, so that its key is checked too.
    made = encode_members(
        {key: None if isinstance(value, EncodedValue) else value for key, value in members.items()}, path
    )
    return {key: value if isinstance(value, EncodedValue) else made[key] for key, value in members.items()}


def _check_shape(checkpoint: Checkpoint) -> None:
    """The rules of one record that no single field can state."""
    complaint = None
    if (checkpoint.step == 0) != (checkpoint.event == "started"):
        complaint = "step 0, and only step 0, is the event 'started'"
    elif (checkpoint.step == 0) != (checkpoint.previous_digest is None):
        complaint = "every step but step 0 names the digest of the step before it"
    elif (checkpoint.origin is None) != (checkpoint.parent_run_id is None):
        complaint = "origin and parent_run_id belong together"
    elif checkpoint.parent_step is not None and checkpoint.parent_run_id is None:
        complaint = "parent_step needs a parent_run_id"
    if complaint is not None:
        raise _invalid(checkpoint.run_id, checkpoint.step, complaint)


def _invalid(run_id: object, step: object, complaint: str, hint: str | None = None) -> CheckpointError:
    return CheckpointError(
        f"run {run_id!r}, step {step}: {complaint}",
        reason="invalid-checkpoint",
        hint=hint,
        run_id=run_id if isinstance(run_id, str) else None,
        step=step if isinstance(step, int) else None,
    )


class _Stored(_Draft):
    digest: Hash
    seal: Seal | None = None
