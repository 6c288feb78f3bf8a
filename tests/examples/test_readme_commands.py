"""The README followed to the letter: its files, its commands, its resume."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.documents import blocks_of
from support.workspace import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for block in blocks_of(README)
    if block.language == "sh"
    for line in block.text.splitlines()
    if line.startswith("stargraph ")
]


def _stargraph(line: str, folder: Path) -> str:
    name, *words = shlex.split(line)
    command = [str(Path(sys.executable).with_name(name)), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), line
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for block in blocks_of(README):
        if block.name:
            (tmp_path / block.name).write_text(block.text)
    return tmp_path


def test_its_commands_do_what_it_says(folder: Path) -> None:
    assert [command.split()[1] for command in COMMANDS] == ["run", "runs", "inspect", "resume"]
    shown = _stargraph(COMMANDS[0], folder)
    run_id = shown.partition("run=")[2].split()[0]
    assert (folder / ".stargraph/run.sqlite").exists()
    for command in COMMANDS[1:]:
        assert run_id in _stargraph(command.replace("RUN_ID", run_id), folder)


def test_its_python_prints_what_it_says(folder: Path) -> None:
    command = [sys.executable, "-m", "support.documents", str(ROOT / "README.md")]
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (promised,) = (line.partition("#")[2].strip() for line in README.splitlines() if line.startswith("print("))
    assert done.stdout == f"{promised}\n"
