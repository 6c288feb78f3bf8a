"""The docs review killed by SIGKILL at several points and resumed, as processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.review_folder import COMMAND, GRAPH

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

pytestmark = pytest.mark.thorough

FILES = 10
AT_ONCE = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(FILES):
        (docs / f"{number}.md").write_text(f"# Part {number}\n\nText, and a [link]({(number + 1) % FILES}.md).\n")
    return tmp_path


def _stargraph(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [str(COMMAND), *words, "--checkpoint", "run.sqlite"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _start(folder: Path) -> subprocess.Popen[str]:
    inputs = ("folder=docs", "pace=0.15", "ledger=ledger", "report=report.md")
    return _stargraph(folder, "run", str(GRAPH), "--run-id", "r", *(part for each in inputs for part in ("-i", each)))


def _log(folder: Path) -> list[Checkpoint]:
    async def read() -> list[Checkpoint]:
        async with SQLiteCheckpointer(folder / "run.sqlite") as store:
            return [checkpoint async for checkpoint in store.history("r")]

    return asyncio.run(read())


def _ledger(folder: Path) -> list[tuple[int, str]]:
    try:
        lines = (folder / "ledger").read_text().splitlines()
    except FileNotFoundError:
        return []
    entries = [json.loads(line) for line in lines]
    return [(entry["process"], entry["file"] or entry["node"]) for entry in entries]


def _finished(log: list[Checkpoint]) -> list[str]:
    return [
        record.update["reviews"][0]["path"] if record.last_node == "review" and record.update else str(record.last_node)
        for record in log
        if record.event == "completed"
    ]


def _wait(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    while True:
        has_ended = process.poll() is not None  # asked first: it may get there and end while the other is found out
        if reached():
            return
        assert not has_ended, process.communicate()
        time.sleep(0.005)


def _begun(count: int) -> Callable[[Path], bool]:
    return lambda folder: len(_ledger(folder)) >= count


def _stored(count: int) -> Callable[[Path], bool]:
    return lambda folder: (folder / "run.sqlite").exists() and len(_log(folder)) >= count


POINTS = {
    "as the first node begins": _begun(1),
    "as the first files begin": _begun(2),
    "after a file was stored": _stored(3),
    "as the last files begin": _begun(1 + FILES),
    "as the report is written": _begun(1 + FILES + 2),
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
def test_what_was_finished_never_runs_again(folder: Path, point: Callable[[Path], bool]) -> None:
    first = _start(folder)
    _wait(first, lambda: point(folder))
    first.kill()
    first.communicate()
    before, begun = _log(folder), _ledger(folder)
    in_flight = {name for _, name in begun} - set(_finished(before))
    assert len(in_flight) <= AT_ONCE

    second = _stargraph(folder, "resume", "r", str(GRAPH))
    _, errors = second.communicate(timeout=60)
    assert (second.returncode, errors) == (0, "")
    after = _log(folder)
    # The kill may come after the last step is stored; then there is nothing left to do.
    events = [] if before[-1].status == "done" else ["resumed"]
    assert [each.event for each in after if each.event != "completed"] == ["started", *events]
    assert after[: len(before)] == before
    assert after[-1].status == "done"
    times = Counter(name for _, name in _ledger(folder))
    assert sorted(_finished(after)) == sorted(times)
    assert {name for name, count in times.items() if count > 1} == in_flight
    assert set(times.values()) <= {1, 2}
    assert "10 files with" in (folder / "report.md").read_text()
    assert not list(folder.glob(".*.part"))


def test_it_resumes_from_another_directory(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = _start(folder)
    _wait(first, lambda: _stored(3)(folder))
    first.kill()
    first.communicate()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = [str(COMMAND), "resume", "r", str(GRAPH), "--checkpoint", str(folder / "run.sqlite")]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "report.md").exists()
    assert os.listdir(elsewhere) == []
