"""The digest of a checkpoint, as docs/digest.md specifies it.

The object that is hashed is assembled as text. Its members are sorted by name, so that those which repeat in every step
of a run lie in three runs of neighbours; their text is made once. The text of the others is made once too: a codec
stores the very same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from stargraph.checkpoint.values import EncodedValue, canonical, format_time, trimmed

DIGEST_FORM: Final = 1
"""The number of the form; it is part of what is hashed."""


class RunTexts(NamedTuple):
    """The canonical text of the members that repeat in a run."""

    hashes: bytes
    origin: bytes
    run: bytes


class StepTexts(NamedTuple):
    """The canonical text of each member that is another one in each step, by its name."""

    calls: bytes
    definition: bytes
    error: bytes
    event: bytes
    frontier: bytes
    interrupts: bytes
    key: bytes
    last_node: bytes
    status: bytes
    step: bytes
    task_id: bytes
    task_started_at: bytes
    timestamp: bytes


_RUN_MEMBERS: Final = (
    ("graph_hash", "graph_id"),
    ("metadata", "origin", "parent_run_id", "parent_step"),
    ("process", "queue", "run_id", "runtime_hash", "started_at"),
)
_EMPTY: Final = b"[]"
_NULL: Final = b"null"


def run_texts_of(fields: Mapping[str, Any]) -> RunTexts:
    """Return the text of the members that repeat in a run."""
    return RunTexts(*(_members({name: fields[name] for name in names}) for names in _RUN_MEMBERS))


def step_texts_of(fields: Mapping[str, Any], *, plain_frontier: Any = None) -> StepTexts:
    """Return the text of the members that are others in each step.

    Args:
        fields: every field by its name.
        plain_frontier: the JSON value that the frontier was read from, if nothing of it was converted. That of a map
            may have hundreds of tasks, and dictionaries are written in a tenth of the time that models take.
    """
    calls, interrupts = fields["calls"], fields["interrupts"]
    frontier = fields["frontier"] if plain_frontier is None else plain_frontier
    definition, error, started, step = fields["definition"], fields["error"], fields["task_started_at"], fields["step"]
    # In the order of the class, by position: names cost half as much again. Most steps have no calls and no error.
    return StepTexts(
        _EMPTY if calls == () else _text(calls),
        _NULL if definition is None else _text(definition),
        _NULL if error is None else _text(error),
        _word(fields["event"]),
        _EMPTY if frontier == () else _text(frontier),
        _EMPTY if interrupts == () else _text(interrupts),
        _NULL if fields["key"] is None else _text(fields["key"]),
        _text(fields["last_node"]),
        _word(fields["status"]),
        b"%d" % step if type(step) is int else _text(step),
        _text(fields["task_id"]),
        _NULL if started is None else _time(started),
        _time(fields["timestamp"]),
    )


def digests_text(members: Mapping[str, EncodedValue] | None) -> bytes:
    """Return the text of `state` or `update`: the digest of each member."""
    return _NULL if members is None else trimmed(canonical({key: value.digest for key, value in members.items()}))


def assembled_digest(
    fields: Mapping[str, Any], run: RunTexts, step: StepTexts, state_digests: bytes, update_digests: bytes
) -> str:
    """Return the digest, in hex, of a checkpoint whose texts are made.

    Args:
        fields: `executor_id` and `previous_digest` are looked at.
        run: of the same fields.
        step: likewise.
        state_digests: what `digests_text` returns for the state.
        update_digests: likewise for the update.
    """
    return hashlib.sha256(
        b'{"calls":%b,"definition":%b,"error":%b,"event":%b,"executor_id":%b,"form":%d,"frontier":%b,%b,"interrupts":%b,'
        b'"key":%b,"last_node":%b,%b,"previous_digest":%b,%b,"state":%b,"status":%b,"step":%b,"task_id":%b,"task_started_at":%b,'
        b'"timestamp":%b,"update":%b}'
        % (
            step.calls,
            step.definition,
            step.error,
            step.event,
            _text(fields["executor_id"]),
            DIGEST_FORM,
            step.frontier,
            run.hashes,
            step.interrupts,
            step.key,
            step.last_node,
            run.origin,
            _text(fields["previous_digest"]),
            run.run,
            state_digests,
            step.status,
            step.step,
            step.task_id,
            step.task_started_at,
            step.timestamp,
            update_digests,
        )
    ).hexdigest()


def digest_of(
    fields: Mapping[str, Any],
    state: Mapping[str, EncodedValue],
    update: Mapping[str, EncodedValue] | None,
) -> str:
    """Return the digest of a checkpoint's fields, in hex.

    Args:
        fields: every field by its name; `digest`, `seal`, `state` and `update` are not looked at.
        state: the members of the state.
        update: the members of the update, or None.
    """
    return assembled_digest(
        fields, run_texts_of(fields), step_texts_of(fields), digests_text(state), digests_text(update)
    )


def _members(members: dict[str, Any]) -> bytes:
    return canonical(members, plain=_plain)[1:-1]


@lru_cache(maxsize=64)
def _word(word: str) -> bytes:
    """Return the text of one of a few words."""
    return _text(word)


def _time(moment: datetime) -> bytes:
    """Return the text of an instant: `format_time` in a fifth of its time."""
    text = orjson.dumps(moment if moment.tzinfo is UTC else moment.astimezone(UTC), option=orjson.OPT_UTC_Z)
    # The library leaves six zeros out.
    return trimmed(text) if moment.microsecond else text[:-2] + b'.000000Z"'


def _text(value: Any) -> bytes:
    return trimmed(canonical(value, plain=_plain))


def _plain(value: Any) -> Any:
    """A model as the object that JSON shows, every field named, also the empty ones; an instant as its text."""
    if isinstance(value, datetime):
        return format_time(value)
    fields: dict[str, Any] = value.__dict__
    return fields
