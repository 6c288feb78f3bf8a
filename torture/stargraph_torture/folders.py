"""Folders for stores that are lost on purpose."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder of its own; in memory, if possible: no power is cut that a disk would have to survive."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="stargraph-torture-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
