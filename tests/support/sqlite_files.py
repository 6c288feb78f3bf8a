"""Helpers for tests of which files become a SQLite store and which are refused."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path

import pytest

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import CheckpointError


def fingerprint(directory: Path) -> dict[str, str]:
    """Return the digest of each file below a directory, by its path."""
    return {
        str(found.relative_to(directory)): hashlib.sha256(found.read_bytes()).hexdigest()
        for found in sorted(directory.rglob("*"))
        if found.is_file()
    }


async def refused(path: Path | str, **options: bool) -> CheckpointError:
    """Return the error of a bootstrap, which leaves no thread behind."""
    before = set(threading.enumerate())
    with pytest.raises(CheckpointError) as caught:
        await SQLiteCheckpointer(path, **options).bootstrap()  # type: ignore[arg-type]
    assert caught.value.hint
    for _ in range(6000):
        if not any(thread.name == "stargraph-sqlite" for thread in set(threading.enumerate()) - before):
            return caught.value
        await asyncio.sleep(0.01)
    raise AssertionError("a refused bootstrap left a connection open")
