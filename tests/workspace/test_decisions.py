"""Every decision record has a number of its own, in its name and in its title."""

from __future__ import annotations

import re
from pathlib import Path

from support.workspace import ROOT

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def number_of(record: Path) -> int:
    title = re.match(r"# (\d+)\. ", record.read_text(encoding="utf-8"))
    assert title is not None, record.name
    return int(title[1])


def test_the_numbers_of_decisions_are_those_of_their_files_and_have_no_gap() -> None:
    assert [record.name[:4] for record in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]
    assert [number_of(record) for record in DECISIONS] == list(range(1, len(DECISIONS) + 1))
