"""The demo, as `make demo` runs it, and what makes its proof fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.review_folder import EXAMPLE

from demo import Proof, Stage, examine, read_ledger, read_log

pytestmark = pytest.mark.thorough

FILES = 6  # and one with an odd name

HELD = """\
import sys, threading, time

if "run" in sys.argv[1:2]:
    sleep, arrived, all_here = time.sleep, [], threading.Event()

    def held(seconds):
        if seconds != 1.0:
            return sleep(seconds)
        arrived.append(1)
        number = len(arrived)
        if number == 4:
            all_here.set()
        all_here.wait()
        if number > 2:
            sleep(3600)

    time.sleep = held
"""
"""Lets the reviews of two files end in the process that is killed, once four are in work: no other one ends before the
kill, however late that comes. A review takes the second that the demo gives so few files."""


def _demo(folder: Path, work: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLE / "demo.py"), str(folder), "--work", str(work)]
    site = work.with_name("site")
    site.mkdir()
    (site / "sitecustomize.py").write_text(HELD)
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("demo") / "work")


@pytest.fixture(scope="module")
def output(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the demo prints."""
    docs = tmp_path_factory.mktemp("docs")
    for number in range(FILES):
        (docs / f"{number}.md").write_text(f"# Part {number}\n\nText.\n")
    (docs / "od\td\n[bold]\x1b[31m.md").write_text("# Odd name\n\nText.\n")
    done = _demo(docs, stage.work)
    # The demo watches the store while the run begins: on a busy machine, one may keep the other waiting.
    errors = [line for line in done.stderr.splitlines() if "another connection keeps the write lock" not in line]
    assert (done.returncode, errors) == (0, [])
    return done.stdout


def test_it_tells_the_story_in_order(output: str) -> None:
    story = [
        "$ stargraph run",
        "Killed by SIGKILL",
        "exit code -9",
        "$ stargraph inspect",
        "completed  review",
        "$ stargraph resume",
        "resumed ",
        "outcome      status=done",
        "# Docs review",
        "7 files with",
        "The log: started, completed find, completed review",
        "Proved:",
    ]
    positions = [output.find(part) for part in story]
    assert -1 not in positions, story[positions.index(-1)]
    assert positions == sorted(positions)
    assert "od�d�[bold]�[31m.md" in output
    assert "\x1b" not in output


@pytest.fixture
def examined(output: str, stage: Stage) -> Callable[[dict[str, list[int]]], Proof]:
    log = asyncio.run(read_log(stage.store))
    resumed = next(record.step for record in log if record.event == "resumed")
    executions = read_ledger(stage.ledger)
    (first,), (second,) = executions["(find)"], executions["(report)"]

    def examine_with(changed: dict[str, list[int]]) -> Proof:
        ledger = {name: pids for name, pids in {**executions, **changed}.items() if pids}
        return examine(log, ledger, first=first, second=second, stopped_at=resumed - 1)

    return examine_with


def test_the_proof_holds(examined: Callable[[dict[str, list[int]]], Proof]) -> None:
    proof = examined({})
    assert proof.faults == []
    assert 2 <= len(proof.running) <= 4
    assert len(proof.executions) == FILES + 1 + 3


def test_a_finished_file_that_ran_twice_is_noticed(examined: Callable[[dict[str, list[int]]], Proof]) -> None:
    proof = examined({})
    finished = next(name for name in proof.finished if name.endswith(".md"))
    (pid,) = proof.executions[finished]
    for pids in ([pid, pid], [*proof.executions["(report)"], pid], [pid, *proof.executions["(report)"]]):
        (fault,) = examined({finished: pids}).faults
        assert fault.startswith(f"{finished} was executed by")


def test_a_file_that_nobody_ran_is_noticed(examined: Callable[[dict[str, list[int]]], Proof]) -> None:
    assert "the log and the ledger name different nodes" in examined({"5.md": []}).faults


def test_a_folder_with_nothing_to_see_is_refused(tmp_path: Path) -> None:
    done = _demo(tmp_path, tmp_path / "work")
    assert done.returncode == 1
    assert done.stderr == f"demo: {tmp_path} holds 0 Markdown files; the demo needs more than the 4 that run at once\n"
    assert not (tmp_path / "work").exists()
