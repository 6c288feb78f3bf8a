"""What is known about the SQLite library in use."""

from __future__ import annotations

import sqlite3

import pytest

from stargraph.checkpoint.sqlite import sqlite_library


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("3.40.1", "WAL-reset"),
        ("3.44.5", "WAL-reset"),
        ("3.44.6", None),
        ("3.45.0", "WAL-reset"),
        ("3.50.6", "WAL-reset"),
        ("3.50.7", None),
        ("3.51.0", "WAL-reset"),
        ("3.51.2", "WAL-reset"),
        ("3.51.3", None),
        ("3.52.0", "withdrawn"),
        ("3.53.0", None),
        ("3.100.0", None),
    ],
)
def test_known_problems_are_reported(version: str, problem: str | None) -> None:
    library = sqlite_library(version)
    assert library.version == version
    assert len(library.problems) == (problem is not None)
    assert all(problem is not None and problem in shown for shown in library.problems)


def test_the_library_in_use_is_the_default() -> None:
    assert sqlite_library().version == sqlite3.sqlite_version
