"""The digest of a checkpoint, as docs/digest.md specifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from stargraph.checkpoint.values import EncodedValue, canonical, format_time

DIGEST_FORM: Final = 2
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
    "executor_id",
    "parent_run_id",
    "parent_step",
    "origin",
    "metadata",
    "previous_digest",
)


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
    envelope = {name: fields[name] for name in _PLAIN}
    envelope["form"] = DIGEST_FORM
    envelope["state"] = {key: fragment.digest for key, fragment in state.items()}
    envelope["update"] = None if update is None else {key: fragment.digest for key, fragment in update.items()}
    for name in ("started_at", "timestamp", "task_started_at", "process", "frontier", "interrupts", "calls", "error"):
        envelope[name] = fields[name]
    return hashlib.sha256(canonical(envelope, plain=_plain)).hexdigest()


def _plain(value: Any) -> Any:
    """A model as the object that JSON shows, every field named, also the empty ones; an instant as its text."""
    return format_time(value) if isinstance(value, datetime) else value.__dict__
