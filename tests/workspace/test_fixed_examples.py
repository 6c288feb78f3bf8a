"""The gate tries the same examples each time."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn() -> list[object]:
    values: list[object] = []

    @settings(max_examples=300)
    @given(st.text() | st.integers())
    def draw(value: object) -> None:
        values.append(value)

    draw()
    return values


@pytest.mark.skipif(not settings().derandomize, reason="`make torture` draws new examples each time")
def test_what_is_loaded_changes_no_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = drawn()
    (tmp_path / "module_with_words.py").write_text(f"WORDS = {[f'a word {number}' for number in range(500)]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("module_with_words")
    assert drawn() == before
