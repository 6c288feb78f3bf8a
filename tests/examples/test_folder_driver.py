"""The driver to copy: it is the guide's, at level core."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import blocks_of
from support.workspace import ROOT

EXAMPLE = ROOT / "examples/folder_driver"


@pytest.mark.parametrize("name", ["folder_driver.py", "folder_target.py", "test_folder_driver.py"])
def test_the_guide_shows_the_files_of_the_example(name: str) -> None:
    guide = (ROOT / "docs/write-a-driver.md").read_text(encoding="utf-8")
    (block,) = (block for block in blocks_of(guide) if block.name == name)
    assert block.text == (EXAMPLE / name).read_text(encoding="utf-8")


@pytest.mark.thorough
@pytest.mark.timeout(400)
def test_the_kit_certifies_it_and_makes_its_badge(tmp_path: Path) -> None:
    kit = Path(sys.executable).with_name("stargraph-conformance")
    command = [str(kit), "run", "folder_target:target", "--json", f"{tmp_path}/report.json"]
    command += ["--badge", f"{tmp_path}/badge.svg"]
    done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, check=False, timeout=380)
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["level"] == "core"
    assert "core" in (tmp_path / "badge.svg").read_text()
