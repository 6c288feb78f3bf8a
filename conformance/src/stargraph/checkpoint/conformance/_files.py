"""The files of a store, if its location is a path, and their times."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
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


class Backup:
    """A copy of the files of a store that no handle has open.

    Args:
        location: of the store; if it is no path, there is nothing to copy.
        folder: for the copy.
    """

    def __init__(self, location: str, folder: Path) -> None:
        self._store = Path(location)
        self._folder = folder
        for path in self._parts():
            _copy(path, folder / path.name)

    def put_back(self) -> bool:
        """Put the copy in the place of the store; return whether there is one."""
        for path in self._parts():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        copies = list(self._folder.iterdir())
        for path in copies:
            _copy(path, self._store.parent / path.name)
        return bool(copies)

    def _parts(self) -> list[Path]:
        if not self._store.is_absolute():
            return []
        # db-1-wal belongs to db-1, and db-10 is the store of another check: they may lie side by side.
        beside = self._store.parent.glob(f"{glob.escape(self._store.name)}[!0-9A-Za-z]*")
        return [*filter(os.path.lexists, [self._store]), *sorted(beside)]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


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
