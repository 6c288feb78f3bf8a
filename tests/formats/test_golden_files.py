"""Golden files are written once: each is listed with its hash, and the list only grows."""

from __future__ import annotations

import subprocess

from support.golden import LIST, VERSION, folder_of, line_of, listed_files
from support.workspace import ROOT


def test_every_golden_file_is_listed_and_is_as_it_was_written() -> None:
    found = {line_of(path) for path in listed_files()}
    listed = set(LIST.read_text().splitlines())
    assert found - listed == set(), "a golden file was edited, or is not listed: write new ones, for a new version"
    assert listed - found == set(), "a golden file is missing or was edited: restore it"


def test_no_line_of_the_list_was_ever_removed() -> None:
    """As far as the history goes back here: an archive has none."""
    command = ["git", "log", "-p", "--format=", "--", str(LIST.relative_to(ROOT))]
    history = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    removed = {line[1:] for line in history.splitlines() if line.startswith("-") and not line.startswith("---")}
    assert removed - set(LIST.read_text().splitlines()) == set()


def test_every_version_has_every_kind_of_file() -> None:
    for version in range(1, VERSION + 1):
        assert {path.name for path in folder_of(version).iterdir()} == {
            "anchor.json",
            "anchored.jsonl",
            "export.jsonl",
            "postgres.sql",
            "records.json",
            "s3.json",
            "sqlite.db",
        }
