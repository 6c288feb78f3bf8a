"""The data model: a run is an append-only log of checkpoints, each one event and the whole state after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, Self

from pydantic import PrivateAttr, ValidationError, model_validator

from stargraph.checkpoint.protocol._digest import (
    RunTexts,
    StepTexts,
    assembled_digest,
    digest_of,
    digests_text,
    run_texts_of,
    step_texts_of,
)
from stargraph.checkpoint.protocol._draft import CheckpointDraft, StoredFields
from stargraph.checkpoint.protocol._integrity import (
    check_shape,
    digest_mismatch_error,
    digest_or_none,
    holds_values,
    invalid_error,
    is_immutable,
    is_original,
)
from stargraph.checkpoint.protocol._plain import is_plain_run, is_plain_step, read_plain
from stargraph.checkpoint.protocol._pydantic import assemble, private_attributes
from stargraph.checkpoint.protocol._records import (
    ENDED,
    ErrorInfo,
    Event,
    FanOut,
    Hash,
    Interrupt,
    Origin,
    ProcessInfo,
    QueueEntry,
    RecordedCall,
    Seal,
    Status,
    Task,
    complaint_of,
    due_at_of,
)
from stargraph.checkpoint.values._encoded import EncodedValue, check_size, encode_members, join_encoded
from stargraph.checkpoint.values._json import JsonValue


class _Keep:
    """The type of `KEEP`."""

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final[Any] = _Keep()
"""In `Checkpoint.next`: this field stays as it is."""


class _Texts(NamedTuple):
    """What the digest of a checkpoint was made from; the next step shares what is the same."""

    run: RunTexts
    step: StepTexts
    state_digests: bytes


class Checkpoint(CheckpointDraft):
    """One event of a run, and the whole state after it.

    Build one with `genesis` and `next`. `model_validate` and `model_validate_json` check that the digest
    fits. The objects in `state` and `update` belong to the checkpoint: do not change them.

    Attributes:
        run_id: the run.
        step: the position in the log: 0, then one more for each event.
        event: what this records.
        status: the status of the run after it.
        graph_id: the id of the graph.
        graph_hash: the fingerprint of what shapes execution, 64 hex digits.
        runtime_hash: the fingerprint of the code of the nodes, 64 hex digits.
        definition: what the two hashes were made of, in `started` and `migrated`; in the first steps of a fork also
            its overrides.
        state: the whole state.
        last_node: the node of this event.
        task_id: the task of this event.
        task_started_at: when the task began.
        key: a name that the program gave this step, to find it by, or None. Several steps may have the same.
        update: what the node returned.
        frontier: what is running or comes next.
        interrupts: the open questions.
        calls: the calls that this event recorded.
        error: what failed.
        started_at: the time of step 0.
        timestamp: the time of this event.
        executor_id: 32 hex digits, random for each start, resume, respond and cancel.
        process: the process that started or resumed the run last; None if the program did not record it, or if no
            process has the run: it is queued, or the answer that it waited for has come.
        queue: how the run waits for a worker; None if it was not enqueued.
        parent_run_id: the run that this one came from.
        parent_step: the step of the parent that this one came from.
        origin: why it has a parent.
        metadata: the tags that the run was started with.
        previous_digest: the digest of the step before; None at step 0.
        digest: the digest of this one, as docs/digest.md specifies it.
        seal: proof of the writer's key; not part of the digest.
    """

    digest: Hash
    seal: Seal | None = None

    _encoded_state: dict[str, EncodedValue] = PrivateAttr(default_factory=dict)
    _encoded_update: dict[str, EncodedValue] | None = PrivateAttr(default=None)
    # The fields when the digest was made, by which a later change is seen, and the texts that it was made from.
    _original: tuple[tuple[object, ...], dict[str, str]] | None = PrivateAttr(default=None)
    _texts: _Texts | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _own_values(self) -> Self:
        # Keeps the values that the digest covers, so that no later change of the caller's objects shows.
        self._encoded_state = encode_members(self.state, "state")
        self._encoded_update = None if self.update is None else encode_members(self.update, "update")
        self.__dict__["state"] = _values(self._encoded_state)
        if self._encoded_update is not None:
            self.__dict__["update"] = _values(self._encoded_update)
        check_shape(self)
        if self.digest != digest_of(self.__dict__, self._encoded_state, self._encoded_update):
            raise digest_mismatch_error(self.run_id, self.step)
        return self

    @classmethod
    def genesis(
        cls,
        *,
        run_id: str,
        graph_id: str,
        graph_hash: str,
        runtime_hash: str,
        state: Mapping[str, JsonValue | EncodedValue],
        executor_id: str,
        timestamp: datetime,
        process: ProcessInfo | None = None,
        queue: QueueEntry | None = None,
        status: Status = "running",
        definition: JsonValue = None,
        key: str | None = None,
        update: Mapping[str, JsonValue | EncodedValue] | None = None,
        frontier: tuple[Task | FanOut, ...] = (),
        interrupts: tuple[Interrupt, ...] = (),
        parent_run_id: str | None = None,
        parent_step: int | None = None,
        origin: Origin | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Checkpoint:
        """Return step 0 of a run.

        Args:
            graph_id: the id of the graph.
            graph_hash: the fingerprint of what shapes execution.
            runtime_hash: the fingerprint of the code of the nodes.
            state: the state that the run begins with.
            executor_id: 32 hex digits, random for each start.
            timestamp: now, with its offset.
            process: the process that starts the run; None if a worker will.
            queue: how the run waits for a worker.
            status: the status of the run.
            definition: what the two hashes were made of.
            key: a name to find this step by.
            update: the inputs that were given.
            frontier: what comes next.
            interrupts: open questions, if a fork begins with some.
            parent_run_id: the run that this one comes from.
            parent_step: the step of it.
            origin: why it has a parent.
            metadata: tags.

        Raises:
            StateError: the state or the update is not JSON.
            CheckpointError: a field does not fit (`reason="invalid-checkpoint"`, `"invalid-run-id"`).
        """
        fields = {
            **_NOTHING_YET,
            "run_id": run_id,
            "status": status,
            "graph_id": graph_id,
            "graph_hash": graph_hash,
            "runtime_hash": runtime_hash,
            "definition": definition,
            "key": key,
            "frontier": frontier,
            "interrupts": interrupts,
            "started_at": timestamp,
            "timestamp": timestamp,
            "executor_id": executor_id,
            "process": process,
            "queue": queue,
            "parent_run_id": parent_run_id,
            "parent_step": parent_step,
            "origin": origin,
            "metadata": dict(metadata or {}),
        }
        encoded_state = _encode_changes(dict(state), "state")
        check_size(encoded_state, "state")
        return cls._made(
            fields,
            encoded_state,
            None if update is None else _encode_changes(dict(update), "update"),
            is_plain=is_plain_step(fields) and is_plain_run(fields),
        )

    def next(
        self,
        *,
        event: Event,
        executor_id: str,
        timestamp: datetime,
        status: Status = KEEP,
        changes: Mapping[str, JsonValue | EncodedValue] | None = None,
        removed: Collection[str] = (),
        state: Mapping[str, JsonValue | EncodedValue] | None = None,
        update: Mapping[str, JsonValue | EncodedValue] | None = None,
        last_node: str | None = None,
        task_id: str | None = None,
        task_started_at: datetime | None = None,
        key: str | None = None,
        frontier: tuple[Task | FanOut, ...] = KEEP,
        interrupts: tuple[Interrupt, ...] = KEEP,
        calls: tuple[RecordedCall, ...] = (),
        error: ErrorInfo | None = None,
        graph_hash: str = KEEP,
        runtime_hash: str = KEEP,
        definition: JsonValue = None,
        process: ProcessInfo | None = KEEP,
        queue: QueueEntry | None = KEEP,
    ) -> Checkpoint:
        """Return the checkpoint of the next step; fields that are not given stay as they are.

        Args:
            event: what happened.
            executor_id: 32 hex digits, random for each start, resume, respond and cancel.
            timestamp: now, with its offset.
            status: the status of the run after it.
            changes: the fields of the state that are new or different. The cost of a step follows these.
            removed: the fields to remove from the state; unknown names are ignored.
            state: the whole state instead.
            update: what the node returned.
            last_node: the node of this event.
            task_id: the task of this event.
            task_started_at: when the task began.
            key: a name to find this step by.
            frontier: what is running or comes next.
            interrupts: the open questions.
            calls: the calls that this event records.
            error: what failed.
            graph_hash: of the new graph, in `migrated` or after a mismatch was accepted.
            runtime_hash: of the new code, likewise.
            definition: what new hashes are made of.
            process: the process that resumes the run, in `resumed`; None if it is left to the workers.
            queue: how it waits for a worker, in `queued`.

        Raises:
            StateError: a value is not JSON, or the state is too large.
            CheckpointError: a field does not fit (`reason="invalid-checkpoint"`).
            ValueError: `state` was given with `changes` or `removed`, or a field was both changed and removed.
        """
        private = private_attributes(self)
        before: dict[str, EncodedValue] = private["_encoded_state"]
        if state is not None:
            if changes is not None or removed:
                raise ValueError("give either the whole state, or changes and what is removed")
            encoded_state = _encode_changes(dict(state), "state")
            check_size(encoded_state, "state")
        elif changes or removed:
            encoded_state = before | _encode_changes(changes or {}, "state")
            for name in removed:
                if changes and name in changes:
                    raise ValueError(f"the field {name!r} is both changed and removed")
                encoded_state.pop(name, None)
            check_size(encoded_state, "state")
        else:
            encoded_state = before
        encoded_update = None if update is None else _encode_changes(update, "update")
        fields = self.__dict__.copy()
        fields.update(
            step=self.step + 1,
            event=event,
            definition=definition,
            last_node=last_node,
            task_id=task_id,
            task_started_at=task_started_at,
            key=key,
            calls=calls,
            error=error,
            timestamp=timestamp,
            executor_id=executor_id,
            metadata=self.metadata.copy(),
            previous_digest=self.digest,
        )
        if status is not KEEP:
            fields["status"] = status
        if frontier is not KEEP:
            fields["frontier"] = frontier
        if interrupts is not KEEP:
            fields["interrupts"] = interrupts
        is_same_run = (graph_hash, runtime_hash, process, queue).count(KEEP) == 4
        if not is_same_run:
            fields["graph_hash"] = self.graph_hash if graph_hash is KEEP else graph_hash
            fields["runtime_hash"] = self.runtime_hash if runtime_hash is KEEP else runtime_hash
            fields["process"] = self.process if process is KEEP else process
            fields["queue"] = self.queue if queue is KEEP else queue
        # What this checkpoint hands on was checked when it was made, and is what it was then.
        is_sound = is_original(self.__dict__, private.get("_original"))
        return Checkpoint._made(
            fields,
            encoded_state,
            encoded_update,
            is_plain=is_sound and is_plain_step(fields) and (is_same_run or is_plain_run(fields)),
            before=private.get("_texts") if is_sound and is_same_run else None,
            same_state=encoded_state is before,
        )

    @classmethod
    def from_stored(
        cls, fields: dict[str, Any], state: dict[str, EncodedValue], update: dict[str, EncodedValue] | None
    ) -> Checkpoint:
        """Return the checkpoint that a codec has read, verified by its digest instead of a walk over the state.

        Args:
            fields: every other field by its name, as parsed from JSON; those left out are None or empty.
            state: the members of the state; taken over, not copied.
            update: the members of the update, or None; likewise.

        Raises:
            CheckpointCorruptedError: the digest does not fit.
            ValueError: a field is missing, unknown or malformed.
        """
        whole = {**_NOTHING_STORED, **fields}
        plain_frontier = fields.get("frontier")
        if len(whole) != _FIELD_COUNT or not fields.keys() >= _REQUIRED or not read_plain(whole):
            try:
                whole = dict(StoredFields.model_validate({**fields, "state": {}, "update": None}).__dict__)
            except ValidationError as error:
                raise ValueError(complaint_of(error)) from None
            plain_frontier = None
        whole["state"] = _values(state)
        whole["update"] = None if update is None else _values(update)
        texts = _Texts(run_texts_of(whole), step_texts_of(whole, plain_frontier=plain_frontier), digests_text(state))
        digest = assembled_digest(whole, texts.run, texts.step, texts.state_digests, digests_text(update))
        if digest != whole["digest"]:
            raise digest_mismatch_error(whole["run_id"], whole["step"])
        return cls._assembled(whole, state, update, texts)

    @classmethod
    def _made(
        cls,
        fields: dict[str, Any],
        encoded_state: dict[str, EncodedValue],
        encoded_update: dict[str, EncodedValue] | None,
        *,
        is_plain: bool,
        before: _Texts | None = None,
        same_state: bool = False,
    ) -> Checkpoint:
        """Assemble a new checkpoint, with a digest made here: no walk over the state, whose values are checked.

        Args:
            fields: every field by its name, in the order of the class. `state`, `update`, `digest` and `seal` are set
                here.
            is_plain: nothing else is left to validate.
            before: the texts of the step before, if the fields that repeat in a run are the same.
            same_state: the state is that of the step before.
        """
        if not is_plain:
            try:
                draft = {name: fields[name] for name in _DRAFT_FIELDS} | {"state": {}, "update": None}
                fields = {**fields, **CheckpointDraft.model_validate(draft).__dict__}
            except ValidationError as error:
                raise invalid_error(fields["run_id"], fields["step"], complaint_of(error)) from None
        fields["state"] = _values(encoded_state)
        fields["update"] = None if encoded_update is None else _values(encoded_update)
        texts = _Texts(
            run_texts_of(fields) if before is None else before.run,
            step_texts_of(fields),
            before.state_digests if before is not None and same_state else digests_text(encoded_state),
        )
        fields["digest"] = assembled_digest(
            fields, texts.run, texts.step, texts.state_digests, digests_text(encoded_update)
        )
        fields["seal"] = None
        return cls._assembled(fields, encoded_state, encoded_update, texts)

    @classmethod
    def _assembled(
        cls,
        fields: dict[str, Any],
        encoded_state: dict[str, EncodedValue],
        encoded_update: dict[str, EncodedValue] | None,
        texts: _Texts | None,
    ) -> Checkpoint:
        """Return the checkpoint of fields and values that are checked and have their digest."""
        checkpoint = assemble(
            cls,
            fields,
            {
                "_encoded_state": encoded_state,
                "_encoded_update": encoded_update,
                "_original": (tuple(fields.values()), fields["metadata"].copy()),
                "_texts": texts,
            },
        )
        check_shape(checkpoint)
        return checkpoint

    def __eq__(self, other: object) -> bool:
        # The digest covers every value and its type; == takes 1, 1.0 and True for the same.
        return isinstance(other, Checkpoint) and self.digest == other.digest and self.seal == other.seal

    def __hash__(self) -> int:
        return hash(self.digest)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        # Pickle makes two of a number that the state and its encoded value share; ensure_valid compares by identity.
        self.__dict__["state"] = _values(self._encoded_state)
        self.__dict__["update"] = None if self._encoded_update is None else _values(self._encoded_update)

    def sealed(self, seal: Seal | None) -> Checkpoint:
        """Return this checkpoint with another seal; the digest stays.

        Raises:
            CheckpointError: it is not what its digest covers (`reason="invalid-checkpoint"`).
        """
        self.ensure_valid()
        private = private_attributes(self)
        return Checkpoint._assembled(
            {**self.__dict__, "seal": seal}, private["_encoded_state"], private["_encoded_update"], private["_texts"]
        )

    @property
    def due_at(self) -> datetime | None:
        """When a run that waits can go on without an answer; None if it waits for no time.

        The earliest time that a task waits for, or that a queued run may begin at.
        """
        return due_at_of(self.status, self.interrupts, self.queue)

    @property
    def questions(self) -> tuple[Interrupt, ...]:
        """The open questions, which wait for an answer and not for a time; none once the run has ended."""
        return tuple(each for each in self.open_interrupts if each.due_at is None)

    @property
    def open_interrupts(self) -> tuple[Interrupt, ...]:
        """What the run waits for, answers and times; none once it has ended, though its last step holds them."""
        return () if self.status in ENDED else self.interrupts

    def encoded_state(self) -> Mapping[str, EncodedValue]:
        """Return the fields of the state with their JSON text and digests."""
        encoded: dict[str, EncodedValue] = private_attributes(self)["_encoded_state"]
        return encoded

    def encoded_update(self) -> Mapping[str, EncodedValue] | None:
        """Return the members of the update with their JSON text and digests, or None."""
        encoded: dict[str, EncodedValue] | None = private_attributes(self)["_encoded_update"]
        return encoded

    def step_texts(self) -> StepTexts:
        """Return the JSON text of each field that changes with each step, as the digest is made from it."""
        texts: _Texts | None = private_attributes(self)["_texts"]
        return step_texts_of(self.__dict__) if texts is None else texts.step

    def fresh_state(self) -> dict[str, JsonValue]:
        """Return a copy of the state that its receiver may change."""
        return {key: encoded.fresh() for key, encoded in self.encoded_state().items()}

    def state_json(self) -> bytes:
        """Return the JSON text of the state."""
        return join_encoded(self.encoded_state())

    def ensure_valid(self) -> None:
        """Refuse an object that its digest does not cover: copied with changes, or made without validation.

        Raises:
            CheckpointError: `reason="invalid-checkpoint"`.
        """
        private = private_attributes(self)
        fields = self.__dict__
        encoded_state: dict[str, EncodedValue] | None = private.get("_encoded_state")
        whole = encoded_state is not None and len(fields) == _FIELD_COUNT
        if whole and encoded_state is not None:
            state, update, seal = fields["state"], fields["update"], fields["seal"]
            encoded_update = private.get("_encoded_update")
            whole = (
                holds_values(state, encoded_state)
                and (holds_values(update, encoded_update) if update is not None else encoded_update is None)
                and (
                    (is_immutable(fields) and is_original(fields, private.get("_original")))
                    or fields["digest"] == digest_or_none(fields, encoded_state, encoded_update)
                )
                and (seal is None or isinstance(seal, Seal))
            )
        if not whole:
            raise invalid_error(
                fields.get("run_id"),
                fields.get("step"),
                "this checkpoint is not what its digest covers",
                hint="Build checkpoints with Checkpoint.genesis() and checkpoint.next(); do not change them after.",
            )


_FIELD_COUNT: Final = len(Checkpoint.model_fields)
_DRAFT_FIELDS: Final = tuple(CheckpointDraft.model_fields)
_REQUIRED: Final = {name for name, field in Checkpoint.model_fields.items() if field.is_required()} - {"state"}

_NOTHING_STORED: Final[dict[str, Any]] = {
    name: {} if name == "metadata" else None if field.is_required() else field.default
    for name, field in Checkpoint.model_fields.items()
}
"""Every field in the order of the class: what a record leaves out."""

_NOTHING_YET: Final[dict[str, Any]] = {**_NOTHING_STORED, "step": 0, "event": "started"}
"""Step 0 before its fields are set."""


def _values(encoded: Mapping[str, EncodedValue]) -> dict[str, JsonValue]:
    """Return the values as they are, shared with their encoded form."""
    return {key: value.value for key, value in encoded.items()}


def _encode_changes(members: Mapping[str, JsonValue | EncodedValue], path: str) -> dict[str, EncodedValue]:
    """Encode the members that are not encoded yet; errors name them below `path`."""
    if all(type(value) is EncodedValue and type(key) is str and key.isascii() for key, value in members.items()):
        return dict(members)
    # None stands for what is encoded already, so that its key is checked too.
    made = encode_members(
        {key: None if isinstance(value, EncodedValue) else value for key, value in members.items()}, path
    )
    return {key: value if isinstance(value, EncodedValue) else made[key] for key, value in members.items()}
