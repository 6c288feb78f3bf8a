"""A checkpoint as texts.

One holds what repeats in every step of a run, one what the step tells, one the digests, and one each member of the
state and of the update. Records are made of these, and differences are told between these. Digests are raw bytes and
not JSON: they are noise to every compressor, and half as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

import orjson

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.values import EncodedValue

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
)
_EVENT_FIELDS: Final = (
    "step",
    "event",
    "status",
    "definition",
    "last_node",
    "task_id",
    "task_started_at",
    "frontier",
    "interrupts",
    "calls",
    "error",
    "timestamp",
    "seal",
)
DIGEST_BYTES: Final = 32
BASE_CHECK_BYTES: Final = 4
"""How much of a digest tells a step from others that a record could be decoded from by mistake."""

_run_values: Final = itemgetter(*_RUN_FIELDS)
_event_values: Final = itemgetter(*_EVENT_FIELDS)


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
    def mark(self) -> bytes:
        """The beginning of the digest; empty where there is none."""
        return self.fields.get(DIGESTS, b"")[:BASE_CHECK_BYTES]

    @property
    def size(self) -> int:
        """The length of the texts that are not the update's, in bytes."""
        return sum(map(len, self.fields.values())) + sum(map(len, self.state.values()))


def run_values_of(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Return the values that the text `run` is made of; equal ones make the same text.

    Args:
        checkpoint: the checkpoint.
    """
    values = checkpoint.__dict__
    # A copy: that dictionary could be changed, and would then still be equal to itself.
    return (*_run_values(values), dict(values["metadata"]))


def fields_of(checkpoint: Checkpoint, *, run_text: bytes | None = None) -> EncodedFields:
    """Return the texts of a checkpoint.

    Args:
        checkpoint: valid.
        run_text: the text `run`, where it is known.
    """
    values = checkpoint.__dict__
    previous_digest = values["previous_digest"]
    fields = {
        RUN: _text((*_RUN_FIELDS, "metadata"), run_values_of(checkpoint)) if run_text is None else run_text,
        EVENT: _text(_EVENT_FIELDS, _event_values(values)),
        DIGESTS: bytes.fromhex(values["digest"] + (previous_digest or "")),
    }
    update = checkpoint.encoded_update()
    return EncodedFields(fields, _encoded(checkpoint.encoded_state()), None if update is None else _encoded(update))


def grown_lists(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the former texts of the lists that `EncodedValue.extended` has made, and forget them.

    Args:
        checkpoint: the checkpoint.
    """
    grown = {}
    for key, fragment in checkpoint.encoded_state().items():
        if fragment.grown_from is not None:
            grown[key] = fragment.grown_from
            fragment.grown_from = None  # so that the text before does not stay in memory
    return grown


def checkpoint_of(texts: EncodedFields) -> Checkpoint:
    """Return the checkpoint that texts make, verified by its digest.

    Args:
        texts: what was stored.

    Raises:
        CheckpointCorruptedError: the digest does not fit.
        ValueError: a text is missing, unknown or malformed.
    """
    if texts.fields.keys() != _NAMES:
        raise ValueError("it is not made of run, event and digests")
    digests = texts.fields[DIGESTS]
    if len(digests) not in (DIGEST_BYTES, 2 * DIGEST_BYTES):
        raise ValueError(f"its digests take {len(digests)} bytes")
    fields = _members(texts.fields[RUN]) | _members(texts.fields[EVENT])
    fields["digest"] = digests[:DIGEST_BYTES].hex()
    fields["previous_digest"] = digests[DIGEST_BYTES:].hex() or None
    update = None if texts.update is None else _fragments(texts.update)
    return Checkpoint.from_stored(fields, _fragments(texts.state), update)


def _text(names: tuple[str, ...], values: tuple[Any, ...]) -> bytes:
    # What is left out reads as None, or as empty.
    members = {name: value for name, value in zip(names, values, strict=True) if value is not None and value != ()}
    return orjson.dumps(members, default=vars, option=orjson.OPT_UTC_Z)


def _members(text: bytes) -> dict[str, Any]:
    members = orjson.loads(text)
    if type(members) is not dict:
        raise ValueError("what a step tells is not an object")
    return members


def _encoded(fragments: Mapping[str, EncodedValue]) -> dict[str, bytes]:
    return {key: fragment.encoded for key, fragment in fragments.items()}


def _fragments(texts: Mapping[str, bytes]) -> dict[str, EncodedValue]:
    return {key: EncodedValue(orjson.loads(text), text) for key, text in texts.items()}
