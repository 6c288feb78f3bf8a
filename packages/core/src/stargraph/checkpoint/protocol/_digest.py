"""The digest of a checkpoint, as docs/digest.md specifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from stargraph.checkpoint.protocol._json import Fragment, canonical

DIGEST_FORM: Final = 1
"""The number of the form; it is part of what is hashed."""

_PLAIN: Final = (
    "run_id",
    "step",
    "event",
    "status",
    "graph_id",
    "graph_hash",
    "runtime_hash",
    "definition",
    "last_node",
    "task_id",
    "executor",
    "parent_run_id",
    "parent_step",
    "origin",
    "metadata",
    "previous_digest",
)


def format_time(moment: datetime) -> str:
    """Write an instant as the digest and the stored forms do: UTC, six decimals, `Z`.

    Args:
        moment: an aware datetime.
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def digest_of(
    fields: Mapping[str, Any],
    state: Mapping[str, Fragment],
    update: Mapping[str, Fragment] | None,
) -> str:
    """Return the digest of a checkpoint's fields, in hex.

    Args:
        fields: every field by its name; `digest`, `seal`, `state` and `update` are not looked at.
        state: the members of the state.
        update: the members of the update, or None.
    """
    envelope = {name: fields[name] for name in _PLAIN}
    envelope["form"] = DIGEST_FORM
    envelope["state"] = {key: fragment.digest for key, fragment in state.items()}
    envelope["update"] = None if update is None else {key: fragment.digest for key, fragment in update.items()}
    envelope["started_at"] = format_time(fields["started_at"])
    envelope["timestamp"] = format_time(fields["timestamp"])
    task_started_at = fields["task_started_at"]
    envelope["task_started_at"] = None if task_started_at is None else format_time(task_started_at)
    envelope["frontier"] = [_plain(item) for item in fields["frontier"]]
    envelope["interrupts"] = [_plain(item) for item in fields["interrupts"]]
    envelope["calls"] = [_plain(item) for item in fields["calls"]]
    error = fields["error"]
    envelope["error"] = None if error is None else _plain(error)
    return hashlib.sha256(canonical(envelope)).hexdigest()


def _plain(value: Any) -> Any:
    """A model as the object that JSON shows, every field named, also the empty ones."""
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    fields = getattr(type(value), "model_fields", None)
    if fields is not None:
        return {name: _plain(getattr(value, name)) for name in fields}
    return value
