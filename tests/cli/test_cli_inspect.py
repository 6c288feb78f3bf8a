"""`stargraph inspect` with differences, and on runs that are still executed by another process."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.cli import Folder
from support.records import first, following

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.cli import _inspect
from stargraph.cli._store import StoreRef
from stargraph.errors import CheckpointNotFoundError

SLOW = """\
import pathlib, time
def wait_for(state, ctx):
    while not pathlib.Path(f"go-{ctx.task_id.split('-')[0]}").exists():
        time.sleep(0.02)
    return {"count": state.count + 1}
def fails(state):
    raise ValueError("boom")
"""
SLOW_GRAPH = """\
id: slow
state_schema: {count: int}
nodes:
  - {id: one, kind: "slow:wait_for"}
  - {id: two, kind: "slow:wait_for"}
"""


@pytest.fixture
def slow(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A run that waits for files, and the end of every process of the test."""
    folder.write("slow.py", SLOW)
    folder.write("slow.yaml", SLOW_GRAPH)
    spawned: list[subprocess.Popen[str]] = []
    spawn = folder.spawn

    def remembered(*words: str) -> subprocess.Popen[str]:
        spawned.append(spawn(*words))
        return spawned[-1]

    monkeypatch.setattr(folder, "spawn", remembered)
    yield folder
    for process in spawned:
        process.kill()
        process.communicate()


def start(folder: Folder, graph: str = "slow.yaml") -> subprocess.Popen[str]:
    process = folder.spawn("run", graph, "-i", "count=0", "--run-id", "r1", "-q")
    deadline = time.monotonic() + 60
    while not (Path(".stargraph/run.sqlite").exists() and folder.call("inspect", "r1").code == 0):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.05)
    return process


def line_with(process: subprocess.Popen[str], *words: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if all(word in line for word in words):
            return line
    raise AssertionError(f"no line with {words}")


def test_a_live_run_is_followed_from_another_process_until_it_ends(slow: Folder) -> None:
    run = start(slow)
    watching = slow.spawn("inspect", "r1", "--follow")
    line_with(watching, "0", "started", "count=0")
    slow.write("go-one", "")
    line_with(watching, "1", "completed", "one", "count=1")
    assert run.poll() is None, "the second node has not been let go"
    slow.write("go-two", "")
    line_with(watching, "2", "completed", "two", "count=2")
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, out, err) == (0, "", "")


def test_steps_are_json_lines_and_the_code_is_that_of_the_run(slow: Folder) -> None:
    slow.write("slow.yaml", SLOW_GRAPH.replace('two, kind: "slow:wait_for"', 'two, kind: "slow:fails"'))
    start(slow)
    watching = slow.spawn("inspect", "r1", "--follow", "--json")
    slow.write("go-one", "")
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (1, "")
    steps = [json.loads(line) for line in out.splitlines()]
    assert [(step["step"], step["event"], step["node"]) for step in steps] == [
        (0, "started", None),
        (1, "completed", "one"),
        (2, "failed", "two"),
    ]
    assert steps[2]["error"]["message"] == "boom"


def test_ctrl_c_ends_the_watching_and_not_the_run(slow: Folder) -> None:
    run = start(slow)
    watching = slow.spawn("inspect", "r1", "--follow")
    line_with(watching, "0", "started", "count=0")
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, out, err) == (130, "", "interrupted\n")
    slow.write("go-one", "")
    slow.write("go-two", "")
    assert run.wait(60) == 0


def test_a_run_that_has_ended_is_shown_and_not_waited_for(folder: Folder) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1", "-q").code == 0
    answer = folder.call("inspect", "r1", "--follow")
    assert answer.code == 0
    rows = answer.out.partition("\n\n")[2].splitlines()
    assert [row.split()[0] for row in rows] == ["STEP", "0", "1", "2", "3"]
    assert folder.call("inspect", "r9", "--follow").code == 2


def test_a_run_that_was_moved_is_not_waited_for(folder: Folder) -> None:
    folder.write("ask.yaml", "id: ask\nnodes: [{id: q, kind: interrupt, prompt: 'Well?', into: ok}]\n")
    assert folder.call("run", "ask.yaml", "--run-id", "r1", "-q").code == 3
    assert folder.call("move", ".stargraph/run.sqlite", "other.sqlite", "r1").code == 0
    followed = folder.spawn("inspect", "r1", "--follow")
    try:
        out, err = followed.communicate(timeout=60)
    finally:
        followed.kill()
    assert (followed.returncode, err) == (1, "")
    assert out.splitlines()[-1].split()[1] == "moved"


async def test_following_ends_once_the_run_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_inspect, "_STILL_THERE", 0.05)
    async with SQLiteCheckpointer(tmp_path / "runs.db") as store:
        await store.write(first("r1"))
        watching = asyncio.ensure_future(_inspect._follow(StoreRef(str(tmp_path / "runs.db")), "r1", as_json=True))
        while '"step":0' not in capsys.readouterr().out.replace(" ", ""):
            assert not watching.done()
            await asyncio.sleep(0.02)
        await store.delete_run("r1")
        with pytest.raises(CheckpointNotFoundError):
            await asyncio.wait_for(watching, 60)


def test_the_difference_of_two_steps(folder: Folder) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1", "-q").code == 0
    answer = folder.call("inspect", "r1", "--diff", "0", "3")
    assert answer.code == 0
    head, _, changes = answer.out.partition("\n\n")
    assert "from     step 0, started" in head
    assert "to       step 3, completed third" in head
    assert changes.splitlines() == ["~ state.count: 1 → 3", '+ state.notes[0]: "count is 2"']
    back = folder.call("inspect", "r1", "--diff", "3", "0", "--json").json
    assert (back["from_step"], back["to_step"], back["total"]) == (3, 0, 2)
    assert {"path": "state.count", "kind": "changed", "before": "3", "after": "1"} in back["changes"]
    same = folder.call("inspect", "r1", "--diff", "2", "2")
    assert same.out.endswith("0 differences\n")


def test_a_thousand_fields_and_five_megabytes_stay_readable(folder: Folder) -> None:
    fields = {f"field_{number:04}": {"text": "x" * 5_000, "n": number} for number in range(1000)}
    run = [first("big", state=fields)]
    run.append(following(run[0], changes={"field_0500": {"text": "x" * 4_000 + "y" + "x" * 999, "n": 500}}))
    run.append(following(run[1], changes={name: {**value, "n": -1} for name, value in fields.items()}))
    run.append(following(run[2], state={"field_0000": 1}, changes=None, status="done"))

    async def fill() -> None:
        async with SQLiteCheckpointer("big.sqlite") as store:
            for checkpoint in run:
                await store.write(checkpoint)

    asyncio.run(fill())
    timeline = folder.call("inspect", "big", "--checkpoint", "big.sqlite").out
    assert max(map(len, timeline.splitlines())) < 300
    assert "and 994 more" in timeline
    assert "5.0 MB" in timeline
    one = folder.call("inspect", "big", "--checkpoint", "big.sqlite", "--diff", "0", "1").out
    assert "1 difference\n" in one
    assert "state.field_0500.text" in one
    assert "from character 4000" in one
    many = folder.call("inspect", "big", "--checkpoint", "big.sqlite", "--diff", "1", "3").out
    assert len(many) < 30_000
    assert "more" in many.splitlines()[-1]
    assert max(map(len, many.splitlines())) < 200


def test_a_clock_that_was_set_back_makes_no_time_negative(folder: Folder) -> None:
    begun = first("r")
    later = begun.timestamp + timedelta(seconds=5)

    async def fill() -> None:
        async with SQLiteCheckpointer("r.sqlite") as store:
            await store.write(begun)
            await store.write(following(begun, last_node="n", task_id="n-1", task_started_at=later))

    asyncio.run(fill())
    shown = folder.call("inspect", "r", "--checkpoint", "r.sqlite", "--json")
    assert [step["seconds"] for step in shown.json["timeline"]] == [None, 0.0]
    assert "took     0.00 s" in folder.call("inspect", "r", "--checkpoint", "r.sqlite", "--step", "1").out


def test_an_error_of_several_lines_is_shown_on_several_lines(folder: Folder) -> None:
    folder.write("fails.py", "def fail(state):\n    raise ValueError('first\\nstatus   done')\n")
    folder.write("fails.yaml", "id: fails\nnodes: [{id: fail, kind: 'fails:fail'}]\n")
    assert folder.call("run", "fails.yaml", "--run-id", "f").code == 1
    lines = folder.call("inspect", "f").out.splitlines()
    place = lines.index("error    ValueError: first")
    assert lines[place + 1] == "         status   done"
