"""The how-to's command line, as a process."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.seed import PATH, RUN_COMMAND

GRAPH = """\
ir_version: "1.0.0"
id: my-graph
nodes:
  - {id: a, kind: echo}
  - {id: b, kind: halt}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my-graph.yaml").write_text(GRAPH)
    return tmp_path


def _stargraph(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    name, *words = shlex.split(line)
    # The command that installing makes, beside the interpreter, on nobody's PATH here.
    command = [str(Path(sys.executable).with_name(name)), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_run_with_a_checkpoint(folder: Path) -> None:
    store = folder / "var/run.sqlite"
    done = _stargraph(RUN_COMMAND.replace(PATH, str(store)), folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert store.is_file()
    assert not (folder / ".stargraph").exists()


def test_the_default_store_is_in_the_current_directory(folder: Path) -> None:
    done = _stargraph(RUN_COMMAND.partition(" --checkpoint")[0], folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / ".stargraph/run.sqlite").is_file()
    listed = _stargraph("stargraph runs", folder)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "my-graph" in listed.stdout
