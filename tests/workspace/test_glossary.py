"""docs/glossary.md has each word once, in the order of a table, and the code that it names is there."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from functools import reduce

import pytest
from support.workspace import ROOT

PAGE = (ROOT / "docs/glossary.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| word"))
]


def test_a_word_has_one_meaning() -> None:
    words = Counter(word for row in ROWS for word in row[0].split(", "))
    assert len(words) > 40
    assert [word for word, times in words.items() if times > 1] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_code_that_a_word_names_is_there(row: list[str]) -> None:
    word, meaning, code = row
    assert word
    assert meaning
    for path in re.findall(r"`(stargraph[\w.]*)`", code):
        package = next(part for part in _prefixes(path) if _is_package(part))
        names = path.removeprefix(package).strip(".")
        assert reduce(getattr, names.split(".") if names else [], importlib.import_module(package)) is not None


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _is_package(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True
