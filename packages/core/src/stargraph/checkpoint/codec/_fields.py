"""A checkpoint as encoded fields: what records are made of, and what deltas tell the difference of.

One text holds what repeats in every step of a run, one the event of the step, one the digests, and one each member of
the state and of the update. Digests are raw bytes and not JSON: they are noise to every compressor, and half as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, TypeAlias

import orjson
from pydantic import ValidationError

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.protocol._digest import StepTexts
from stargraph.checkpoint.protocol._draft import StoredFields
from stargraph.checkpoint.protocol._records import complaint_of
from stargraph.checkpoint.values import EncodedValue, trimmed

RUN: Final = "run"
EVENT: Final = "event"
DIGESTS: Final = "digests"
_NAMES: Final = {RUN, EVENT, DIGESTS}

_RUN_FIELDS: Final = (
    "run_id",
    "graph_id",
    "graph_hash",
    "runtime_hash",
    "started_at",
    "executor_id",
    "process",
    "parent_run_id",
    "parent_step",
    "origin",
    "queue",
)
_EVENT_PREFIXES: Final = tuple(f'"{name}":'.encode() for name in StepTexts._fields)
_ABSENT: Final = tuple(b"[]" if name in ("calls", "frontier", "interrupts") else b"null" for name in StepTexts._fields)
DIGEST_BYTES: Final = 32
BASE_CHECK_BYTES: Final = 4
"""How much of a digest distinguishes the base of a record from other steps in its place."""

_run_values: Final = itemgetter(*_RUN_FIELDS)


@dataclass(slots=True)
class EncodedFields:
    """What a checkpoint is made of; not to be changed.

    Attributes:
        fields: `run`, `event` and `digests`.
        state: the members of the state, in order.
        update: the members of the update, in order, or None.
    """

    fields: dict[str, bytes]
    state: dict[str, bytes]
    update: dict[str, bytes] | None

    @property
    def base_check(self) -> bytes:
        """The beginning of the digest; empty if there is none."""
        return self.fields.get(DIGESTS, b"")[:BASE_CHECK_BYTES]

    @property
    def size(self) -> int:
        """The length of all texts but those of the update, in bytes."""
        return sum(map(len, self.fields.values())) + sum(map(len, self.state.values()))


def run_values_of(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Return the values that the text `run` is made of; equal ones make the same text."""
    values = checkpoint.__dict__
    # A copy: that dictionary could be changed, and would then still be equal to itself.
    return (*_run_values(values), dict(values["metadata"]))


def fields_of(checkpoint: Checkpoint, *, run_text: bytes | None = None) -> EncodedFields:
    """Return the encoded fields of a checkpoint.

    Args:
        checkpoint: valid.
        run_text: the text `run`, if it is known.
    """
    values = checkpoint.__dict__
    fields = {
        RUN: _run_text(checkpoint) if run_text is None else run_text,
        EVENT: _event_text(checkpoint),
        DIGESTS: bytes.fromhex(values["digest"] + (values["previous_digest"] or "")),
    }
    update = checkpoint.encoded_update()
    return EncodedFields(fields, _texts(checkpoint.encoded_state()), None if update is None else _texts(update))


def grown_lists(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the former texts of the lists that `EncodedValue.extended` has made, and forget them."""
    grown = {}
    for key, value in checkpoint.encoded_state().items():
        if value.grown_from is not None:
            grown[key] = value.grown_from
            value.grown_from = None  # so that the text before does not stay in memory
    return grown


def changed_bytes(before: EncodedFields, checkpoint: Checkpoint) -> int:
    """Return how many bytes of state and update are compared or stored when a checkpoint is encoded; rather too many.

    Args:
        before: the encoded fields of the step before it.
        checkpoint: not encoded yet.
    """
    state = checkpoint.encoded_state()
    size = 0
    for key, value in state.items():
        text = before.state.get(key, b"")
        if value.encoded is text:
            continue
        # Of a list that has more items appended, only those are looked at.
        size += len(value.encoded) - len(text) if value.grown_from is text else max(len(value.encoded), len(text))
    for key, value in (checkpoint.encoded_update() or {}).items():
        text = state[key].encoded if key in state else b""
        if value.encoded is text:
            continue
        # What was appended is found at the end at once, and anything else is searched for.
        size += len(value.encoded) if text.endswith(value.encoded[1:]) else max(len(value.encoded), len(text))
    return size


Known: TypeAlias = Mapping[str, tuple[bytes, EncodedValue]]
"""Members of a state that were parsed and digested, with their texts."""


def known_values(encoded: EncodedFields, checkpoint: Checkpoint) -> Known:
    """Return the members of a state that was read, for the next step that is read."""
    values = checkpoint.encoded_state()
    return {key: (text, values[key]) for key, text in encoded.state.items()}


def checkpoint_of(encoded: EncodedFields, known: Known | None = None) -> Checkpoint:
    """Return the checkpoint that encoded fields make, verified by its digest.

    Args:
        encoded: what was stored.
        known: of another step of the run: the checkpoint shares the values whose texts are the same, and the items of
            lists that have more of them appended.

    Raises:
        CheckpointCorruptedError: the digest does not fit.
        ValueError: a text is missing, unknown or malformed.
    """
    fields = _parsed(encoded.fields)
    state = {key: _value(text, known.get(key) if known else None) for key, text in encoded.state.items()}
    update = None if encoded.update is None else _update(encoded.update, encoded.state, state)
    return Checkpoint.from_stored(fields, state, update)


def stored_fields_of(texts: Mapping[str, bytes]) -> StoredFields:
    """Return what the fields of a record hold, validated, with an empty state; their digest is not checked.

    Args:
        texts: `run`, `event` and `digests`.

    Raises:
        ValueError: a text is missing, unknown or malformed.
    """
    try:
        return StoredFields.model_validate({**_parsed(texts), "state": {}})
    except ValidationError as error:
        raise ValueError(complaint_of(error)) from None


def _parsed(texts: Mapping[str, bytes]) -> dict[str, Any]:
    if texts.keys() != _NAMES:
        raise ValueError("it is not made of run, event and digests")
    digests = texts[DIGESTS]
    if len(digests) not in (DIGEST_BYTES, 2 * DIGEST_BYTES):
        raise ValueError(f"its digests take {len(digests)} bytes")
    fields = _members(texts[RUN]) | _members(texts[EVENT])
    fields["digest"] = digests[:DIGEST_BYTES].hex()
    fields["previous_digest"] = digests[DIGEST_BYTES:].hex() or None
    return fields


def _value(text: bytes, before: tuple[bytes, EncodedValue] | None) -> EncodedValue:
    if before is not None:
        if before[0] == text:
            return before[1]
        # A list mostly has more items appended in the next step: only those are parsed and digested.
        if (grown := before[1].grown_to(text)) is not None:
            return grown
    return EncodedValue.of_stored(text)


def _update(
    texts: Mapping[str, bytes], state_texts: Mapping[str, bytes], state: Mapping[str, EncodedValue]
) -> dict[str, EncodedValue]:
    # What a node returned is mostly in the state now, and is then parsed and digested once.
    return {
        key: state[key] if text == state_texts.get(key) else EncodedValue.of_stored(text) for key, text in texts.items()
    }


def _run_text(checkpoint: Checkpoint) -> bytes:
    # What is left out reads as None, or as empty.
    members = {
        name: value
        for name, value in zip(_RUN_FIELDS, _run_values(checkpoint.__dict__), strict=True)
        if value is not None
    }
    if checkpoint.metadata:
        members["metadata"] = checkpoint.metadata
    return trimmed(_json(members))


def _event_text(checkpoint: Checkpoint) -> bytes:
    texts = checkpoint.step_texts()
    if checkpoint.definition is not None or checkpoint.calls or checkpoint.interrupts:
        # They hold user-defined values, whose members come back in their own order, which the digest does not know.
        texts = texts._replace(
            definition=_json(checkpoint.definition),
            calls=_json(checkpoint.calls),
            interrupts=_json(checkpoint.interrupts),
        )
    members = [
        prefix + text for prefix, text, absent in zip(_EVENT_PREFIXES, texts, _ABSENT, strict=True) if text != absent
    ]
    if checkpoint.seal is not None:
        members.append(b'"seal":' + _json(checkpoint.seal))
    return b"{%b}" % b",".join(members)


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=vars, option=orjson.OPT_UTC_Z)


def _members(text: bytes) -> dict[str, Any]:
    members = orjson.loads(text)
    if type(members) is not dict:
        raise ValueError("its run or event is not an object")
    return members


def _texts(members: Mapping[str, EncodedValue]) -> dict[str, bytes]:
    return {key: value.encoded for key, value in members.items()}
