"""The files of a store, if its location is a path, and their times."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_SECOND: Final = 1_000_000_000


def files_of(store: Path) -> Iterator[Path]:
    """Yield the file or the folder of a store, what is in it, and what lies beside it under a longer name."""
    for path in sorted(store.parent.glob(f"{store.name}*")):
        yield path
        if path.is_dir():
            yield from sorted(path.rglob("*"))


def looks_of(location: str) -> dict[Path, tuple[int, int, int]]:
    """Return what tells each file of a store from what it was before; nothing if the location is no path."""
    looks: dict[Path, tuple[int, int, int]] = {}
    for file in files_of(Path(location)) if Path(location).is_absolute() else ():
        with contextlib.suppress(OSError):  # gone meanwhile
            facts = file.stat()
            if not stat.S_ISDIR(facts.st_mode):
                looks[file] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return looks


class StandingFileTimes:
    """Lets the times of a store's files stand still, as if all that is written came within one tick of their clock.

    A tick is two seconds on FAT, one on older network file systems, and some milliseconds on Linux before 6.13. A
    store that is no path has no such files.

    Args:
        location: of the store.
    """

    def __init__(self, location: str) -> None:
        self._store = Path(location)
        self._tick = time.time_ns() // _SECOND * _SECOND

    def put_back(self) -> None:
        """Give every file and folder of the store the time of the tick."""
        if self._store.is_absolute():
            for file in files_of(self._store):
                with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                    os.utime(file, ns=(self._tick, self._tick))
