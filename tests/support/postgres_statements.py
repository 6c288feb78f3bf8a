"""The statements of the PostgreSQL driver by the names of their templates, for tests of plans."""

from __future__ import annotations

from stargraph.checkpoint.postgres import _append, _prune, _read
from stargraph.checkpoint.postgres._schema import Schema

_PARTS = {
    "open": _append._OPEN,
    "if_locked": "",
    "order": "ASC",
    "step": "run.last_step",
    "is_known": "false",
    "keyed": "",
    "queued": "",
}


_FRAGMENTS = {"_KEYED", "_KEYED_BATCH", "_PUT", "_STEP_OF_KEY", "_IS_LATEST"}
"""Parts of statements, which are none alone."""


def templates() -> dict[str, str]:
    """Return every template that names the schema."""
    return {
        name: value
        for module in (_append, _read, _prune)
        for name, value in vars(module).items()
        if isinstance(value, str) and name.isupper() and "{schema}" in value and name not in _FRAGMENTS
    }


def statement(name: str, schema: str, **parts: str) -> str:
    """Return a statement for a schema."""
    return Schema(schema).sql(templates()[name], **{**_PARTS, **parts})


def is_latest(schema: str) -> str:
    """Return the condition of a read that the latest step is known, for the part `is_known`."""
    return Schema(schema).sql(_read._IS_LATEST)
