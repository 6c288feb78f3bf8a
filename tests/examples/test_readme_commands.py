"""The README followed to the letter: its files, its commands, its resume."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
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


PROGRAM = next(block for block in blocks_of(README) if block.language == "python").text


def test_the_first_program_is_small() -> None:
    assert len([line for line in PROGRAM.splitlines() if line.strip()]) <= 15


@pytest.mark.thorough
def test_the_first_program_survives_a_kill(folder: Path) -> None:
    command = [sys.executable, "order.py"]
    # The program takes five seconds, in which a busy machine may not get as far as to kill it.
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(
        "import time\nsleep = time.sleep\ntime.sleep = lambda seconds: sleep(100 * seconds)\n"
    )
    slow = os.environ | {"PYTHONPATH": str(folder / "slow")}
    first = subprocess.Popen(command, cwd=folder, env=slow, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while _steps(folder) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    assert first.communicate()[0] == ""
    assert _steps(folder) == 2
    second = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert (second.stdout, second.stderr) == ("done {'prices': [60.0, 75.5], 'total': 135.5}\n", "")
    log = _stargraph("stargraph inspect order-1 --checkpoint run.sqlite --json", folder)
    events = [(entry["event"], entry["node"]) for entry in json.loads(log)["timeline"]]
    assert events == [("started", None), ("completed", "add_up"), ("resumed", None), ("completed", "charge")]
    third = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert third.stdout == second.stdout
    assert (
        len(json.loads(_stargraph("stargraph inspect order-1 --checkpoint run.sqlite --json", folder))["timeline"]) == 4
    )


def _steps(folder: Path) -> int:
    if not (folder / "run.sqlite").exists():
        return 0
    try:
        with closing(sqlite3.connect(folder / "run.sqlite")) as store:
            (count,) = store.execute("SELECT count(*) FROM checkpoints").fetchone()
    except sqlite3.OperationalError:  # the tables are not there yet
        return 0
    return int(count)


@pytest.mark.thorough
def test_the_first_program_runs_at_a_prompt(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=PROGRAM.replace("sleep(5)", "sleep(0)") + "\n",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "done {'prices': [60.0, 75.5], 'total': 135.5}" in ran.stdout
    assert "Traceback" not in ran.stderr
