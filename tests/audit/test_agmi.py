"""The nine edits at rest of agmi (Agent Memory Integrity), from outside, and what docs/audit.md says of them."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest
from support.agmi_adapter import ROWS, attacked
from support.workspace import ROOT

# What agmi calls a tool that does not notice an edit.
UNNOTICED: dict[str, set[str]] = {
    "plain": {"forge", "snapshot_rollback"},
    "plain, careful": {"forge", "truncate", "rollback_replay", "snapshot_rollback"},
    "keyed": {"snapshot_rollback"},
    "keyed, careful": {"truncate", "rollback_replay", "snapshot_rollback"},
    "keyed, anchored, careful": set(),
}


@pytest.mark.thorough
@pytest.mark.parametrize("row", ROWS)
def test_the_nine_edits(row: str) -> None:
    results = attacked(row)
    assert len(results) == 9
    told = {result.attack: (result.status, result.guard or result.error) for result in results}
    expected = {name: ("VULNERABLE" if name in UNNOTICED[row] else "safe", None) for name in told}
    assert told == expected


def test_the_page_says_what_was_measured() -> None:
    page = (ROOT / "docs/audit.md").read_text()
    assert f"agent-memory-integrity {version('agent-memory-integrity')}" in page
    said = dict(re.findall(r"^\| ([a-z, ]+?) \| (\d) of 9 \|", page, re.MULTILINE))
    assert said == {row: str(9 - len(missed)) for row, missed in UNNOTICED.items()}
