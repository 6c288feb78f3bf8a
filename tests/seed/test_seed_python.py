"""The how-to's Python, run as a user would: a script that never closes its checkpointer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.seed import RESUME, WIRE_IT, program, run_program

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

STEPS = """\
import os
from pathlib import Path

def count(name):
    with Path(name).open("a") as file:
        file.write("x")

def quick(state):
    count("quick")

def deadly(state):
    count("deadly")
    if not Path("survive").exists():
        os._exit(9)
"""
ECHOES = 'IRDocument(id="seed", nodes=[{"id": "a", "kind": "echo"}, {"id": "b", "kind": "echo"}])'
STEPPING = 'IRDocument(id="seed", nodes=[{"id": "a", "kind": "steps:quick"}, {"id": "b", "kind": "steps:deadly"}])'


def _log(store: Path) -> list[Checkpoint]:
    async def read() -> list[Checkpoint]:
        async with SQLiteCheckpointer(store) as checkpointer:
            (summary,) = await checkpointer.list_runs()
            return [checkpoint async for checkpoint in checkpointer.history(summary.run_id)]

    return asyncio.run(read())


def test_wire_it_imperatively(tmp_path: Path) -> None:
    done = run_program(program(WIRE_IT, path=f"{tmp_path}/run.sqlite", ir=ECHOES), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = _log(tmp_path / "run.sqlite")
    assert [(each.event, each.last_node) for each in log] == [("started", None), ("completed", "a"), ("completed", "b")]
    assert log[-1].status == "done"


def test_the_folder_of_the_store_need_not_exist(tmp_path: Path) -> None:
    done = run_program(program(WIRE_IT, path=f"{tmp_path}/var/stargraph/run.sqlite", ir=ECHOES), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "var/stargraph/run.sqlite").is_file()


def test_bootstrap_is_idempotent(tmp_path: Path) -> None:
    wired = program(WIRE_IT, path=f"{tmp_path}/run.sqlite", ir=ECHOES)
    for _ in range(2):
        done = run_program(wired, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


def test_resume_after_the_process_has_died(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    store = tmp_path / "run.sqlite"
    died = run_program(program(WIRE_IT, path=str(store), ir=STEPPING), tmp_path)
    assert died.returncode == 9
    (tmp_path / "survive").touch()
    # The how-to's second snippet goes on from the first one's names; only what starts another run is left out.
    wiring = WIRE_IT.partition("run = await")[0]
    run_id = _log(store)[0].run_id
    done = run_program(program(wiring + RESUME, path=str(store), ir=STEPPING, run_id=f'"{run_id}"'), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert ((tmp_path / "quick").read_text(), (tmp_path / "deadly").read_text()) == ("x", "xx")
    assert [each.event for each in _log(store)] == ["started", "completed", "resumed", "completed"]


def test_a_changed_graph_raises_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    store = tmp_path / "run.sqlite"
    run_program(program(WIRE_IT, path=str(store), ir=STEPPING), tmp_path)
    wiring = "from stargraph.errors import CheckpointError\n" + WIRE_IT.partition("run = await")[0]
    caught = RESUME.replace("await run.resume", "    await run.resume").replace("\n    ", "\ntry:\n    ", 1)
    caught += 'except CheckpointError as error:\n    print("loud:", error.reason)\n'
    run_id = _log(store)[0].run_id
    done = run_program(program(wiring + caught, path=str(store), ir=ECHOES, run_id=f'"{run_id}"'), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "loud: graph-hash\n", "")
    assert len(_log(store)) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "from stargraph.graph import Graph",
        "from stargraph.ir._models import IRDocument",
        "from stargraph.checkpoint.sqlite import SQLiteCheckpointer",
        "from stargraph.checkpoint.protocol import Checkpointer",
        "from stargraph.checkpoint.protocol import Checkpoint, RunSummary",
        "from stargraph.errors import CheckpointError",
        "import stargraph.runtime.dispatch",
    ],
)
def test_every_name_of_the_how_to_can_be_imported_first(statement: str, tmp_path: Path) -> None:
    done = run_program(statement, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_checkpoint_and_run_summary_are_pydantic_models() -> None:
    from pydantic import BaseModel

    from stargraph.checkpoint.protocol import Checkpoint, RunSummary

    assert issubclass(Checkpoint, BaseModel)
    assert issubclass(RunSummary, BaseModel)
    assert Checkpoint.__module__.startswith("stargraph.checkpoint.protocol")


def test_the_store_is_in_wal_mode(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    run_program(program(WIRE_IT, path=f"{tmp_path}/run.sqlite", ir=ECHOES), tmp_path)
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
