"""A checkpoint as texts: one for each field and for each member of its state and update.

Records are made of these, and differences are told between these. A field that is a digest is its 32 bytes and not
JSON: it is noise to every compressor, and half as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from stargraph.checkpoint.protocol import Checkpoint, Fragment, format_time

_HEX: Final = frozenset({"graph_hash", "runtime_hash", "executor", "previous_digest", "digest"})
FIELDS: Final = tuple(name for name in Checkpoint.model_fields if name not in ("state", "update"))
"""The fields that are one text each, in order."""

NULL: Final = b"null"
"""The text of a field that is None; such a field may be left out."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What a checkpoint is made of.

    Attributes:
        fields: the text of every field, but `state` and `update`.
        state: the members of the state, in order.
        update: the members of the update, in order, or None.
    """

    fields: dict[str, bytes]
    state: dict[str, bytes]
    update: dict[str, bytes] | None

    @property
    def size(self) -> int:
        """The length of the texts that are not the update's, in bytes."""
        return sum(map(len, self.fields.values())) + sum(map(len, self.state.values()))


def values_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the values of the fields that are one text each.

    Args:
        checkpoint: the checkpoint.
    """
    values = checkpoint.__dict__
    return {name: values[name] for name in FIELDS}


def texts_of(checkpoint: Checkpoint, before: Mapping[str, Any] | None = None, known: Texts | None = None) -> Texts:
    """Return the texts of a checkpoint.

    Args:
        checkpoint: valid.
        before: what `values_of` returned for another checkpoint of the run, and
        known: its texts, of which those that are the same are taken over.
    """
    values = checkpoint.__dict__
    if before is None or known is None:
        fields = {name: _text(name, values[name]) for name in FIELDS}
    else:
        fields = {}
        for name, text in known.fields.items():
            value, old_value = values[name], before[name]
            same = value is old_value or (type(value) is str and value == old_value)
            fields[name] = text if same else _text(name, value)
    update = checkpoint.update_fragments()
    return Texts(fields, _encoded(checkpoint.state_fragments()), None if update is None else _encoded(update))


def checkpoint_from(texts: Texts) -> Checkpoint:
    """Return the checkpoint that texts make, verified by its digest.

    Args:
        texts: what was stored.

    Raises:
        CheckpointCorruptedError: the digest does not fit.
        ValueError: a text is missing, unknown or malformed.
    """
    fields = {
        name: text.hex() if name in _HEX and text != NULL else orjson.loads(text) for name, text in texts.fields.items()
    }
    update = None if texts.update is None else _fragments(texts.update)
    return Checkpoint.from_stored(fields, _fragments(texts.state), update)


def _text(name: str, value: Any) -> bytes:
    if value is None:
        return NULL
    if name in _HEX:
        return bytes.fromhex(value)
    if type(value) is datetime:
        return b'"%b"' % format_time(value).encode()
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _plain(value: object) -> object:
    model_fields = getattr(value, "__dict__", None)
    if model_fields is not None:
        return model_fields
    return format_time(value)  # type: ignore[arg-type]  # only models and datetimes get here


def _encoded(fragments: Mapping[str, Fragment]) -> dict[str, bytes]:
    return {key: fragment.encoded for key, fragment in fragments.items()}


def _fragments(texts: Mapping[str, bytes]) -> dict[str, Fragment]:
    return {key: Fragment(orjson.loads(text), text) for key, text in texts.items()}
