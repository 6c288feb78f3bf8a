"""The driver to copy: it is the guide's, at level core."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.checkpoints import chain
from support.documents import blocks_of
from support.workspace import ROOT

from stargraph.checkpoint.codec import encode
from stargraph.errors import CheckpointCorruptedError

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


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("folder_driver", EXAMPLE / "folder_driver.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_a_step_that_is_written_while_it_is_read_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _example().FolderCheckpointer(str(tmp_path / "store"))
    await store.bootstrap()
    first, second, third = chain(3)
    await store.write(first)
    look = store._steps

    def written_meanwhile(run_id: str) -> Any:
        monkeypatch.setattr(store, "_steps", look)
        for checkpoint in (second, third):
            store._append(checkpoint, encode(checkpoint))
        return look(run_id)

    monkeypatch.setattr(store, "_steps", written_meanwhile)
    assert await store.read_at_step(first.run_id, 1) is None
    assert await store.read_at_step(first.run_id, 1) == second
    store._file(first.run_id, 1).unlink()
    with pytest.raises(CheckpointCorruptedError):
        await store.read_at_step(first.run_id, 1)
