"""The blocks of docs/graphs.md run, one after the other, in one folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from stargraph.ir import load_graph

PAGE = Path(__file__).parents[2] / "docs" / "graphs.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.(?:yaml|py))\n")


def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    graphs = runs = 0
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if named := FILE.match(text):
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
        if language == "yaml":
            assert named is not None
            load_graph(named[1])
            graphs += 1
        else:
            exec(compile(text, str(PAGE), "exec"), {"__name__": "my_nodes"} if named else names)
            runs += 1
    assert (graphs, runs) == (2, 7)
    assert capsys.readouterr().out.startswith("flowchart TD\n")
