"""The SQLite library that Python is linked with, and what is known to be wrong with it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

_WAL_RESET: Final = (
    "The WAL-reset bug (https://sqlite.org/wal.html#walresetbug): when one connection commits at the very moment"
    " another begins a second checkpoint of the write-ahead log, part of the log can be skipped, which loses commits"
    " or damages the file. It is rare. Checkpoints that this driver makes hold the write lock, which excludes it,"
    " unless somebody else keeps that lock for a quarter of a second; those of other programs on the same file may"
    " not. Fixed in SQLite 3.51.3, 3.50.7 and 3.44.6."
)

_WITHDRAWN: Final = "SQLite 3.52.0 was withdrawn by its authors because of its faults. Use 3.51.3, or 3.53.0 or later."


@dataclass(frozen=True, slots=True)
class SQLiteLibrary:
    """The SQLite library in use.

    Attributes:
        version: its version, as in `3.53.1`.
        problems: what is known to be wrong with it and matters for checkpoints; one paragraph each.
    """

    version: str
    problems: tuple[str, ...]


def sqlite_library(version: str | None = None) -> SQLiteLibrary:
    """Return the version of the SQLite library in use, and its known problems.

    Args:
        version: another version to tell about, instead of the one in use.
    """
    text = version or sqlite3.sqlite_version
    number = tuple(map(int, text.split(".")))
    problems = []
    if (3, 7, 0) <= number < (3, 51, 3) and not _has_backport(number):
        problems.append(_WAL_RESET)
    if number == (3, 52, 0):
        problems.append(_WITHDRAWN)
    return SQLiteLibrary(version=text, problems=tuple(problems))


def _has_backport(number: tuple[int, ...]) -> bool:
    return (3, 44, 6) <= number < (3, 45, 0) or (3, 50, 7) <= number < (3, 51, 0)
