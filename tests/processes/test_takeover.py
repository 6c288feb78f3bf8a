"""Executors are killed, stopped and raced as whole processes, on a SQLite file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support import executor_process

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Graph

pytestmark = pytest.mark.thorough

GRAPH = """
id: abc
state_schema: {path: {type: "list[str]", reduce: append, default: []}}
nodes:
  - {id: a, kind: "support.process_nodes:step"}
  - {id: b, kind: "support.process_nodes:step"}
  - {id: c, kind: "support.process_nodes:step"}
"""


class Scene:
    """A graph, a store, a ledger of what was executed, and gates that hold nodes."""

    def __init__(self, folder: Path) -> None:
        self.graph = folder / "abc.yaml"
        self.graph.write_text(GRAPH)
        self.store = folder / "runs.sqlite"
        self.ledger = folder / "ledger"
        self.gates = folder / "gates"
        self.gates.mkdir()

    def hold(self, node: str) -> None:
        (self.gates / node).touch()

    def release(self, node: str) -> None:
        (self.gates / node).unlink()

    def spawn(self, how: str, death: str = "", durability: str = "sync") -> subprocess.Popen[str]:
        tests = str(Path(executor_process.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": tests, "LEDGER": str(self.ledger), "GATES": str(self.gates)}
        command = [sys.executable, executor_process.__file__, how, str(self.graph), str(self.store)]
        return subprocess.Popen(
            [*command, death, durability],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def executed(self) -> list[str]:
        return [line.split()[0] for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []

    def wait_for(self, *nodes: str) -> None:
        deadline = time.monotonic() + 60
        while self.executed() != list(nodes):
            assert time.monotonic() < deadline, self.executed()
            time.sleep(0.005)

    async def log(self) -> list[Checkpoint]:
        async with SQLiteCheckpointer(self.store) as checkpointer:
            return [checkpoint async for checkpoint in checkpointer.history("r")]

    async def events(self) -> list[str]:
        return [f"{each.event} {each.last_node}" if each.last_node else each.event for each in await self.log()]


def outcome(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=60)
    assert err == ""
    shown: dict[str, object] = json.loads(out)
    return shown


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_killed_in_a_node_and_resumed_elsewhere(scene: Scene) -> None:
    scene.hold("c")
    first = scene.spawn("start")
    scene.wait_for("a", "b", "c")
    first.kill()
    first.communicate()
    scene.release("c")
    assert outcome(scene.spawn("resume")) == {"status": "done", "last_step": 4}
    assert scene.executed() == ["a", "b", "c", "c"]
    assert await scene.events() == ["started", "completed a", "completed b", "resumed", "completed c"]


@pytest.mark.parametrize(("moment", "repeated"), [("before-write", ["b"]), ("after-write", [])])
async def test_killed_around_a_write(scene: Scene, moment: str, repeated: list[str]) -> None:
    first = scene.spawn("start", f"{moment}:2")
    first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL
    assert outcome(scene.spawn("resume"))["status"] == "done"
    assert Counter(scene.executed()) == Counter(["a", "b", "c", *repeated])
    assert (await scene.log())[-1].state == {"path": ["a", "b", "c"]}


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("moment", ["before-write", "after-write"])
async def test_killed_around_a_call_and_resumed_elsewhere(scene: Scene, moment: str, step: int) -> None:
    """Steps 1 to 3 record calls, step 4 the completion: only a call that is not recorded is made again."""
    scene.graph.write_text(GRAPH.partition("nodes:")[0] + 'nodes: [{id: a, kind: "support.process_nodes:calls"}]\n')
    first = scene.spawn("start", f"{moment}:{step}")
    first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL
    resumed = outcome(scene.spawn("resume"))
    assert resumed["status"] == "done"
    lost = moment == "before-write" and step < 4
    lines = scene.ledger.read_text().splitlines()
    made = min(step, 3)
    assert [int(line.split()[1]) for line in lines] == [*range(made), *range(made - lost, 3)]
    assert (await scene.log())[-1].state == {"path": ["call 0", "call 1", "call 2"]}
    async with SQLiteCheckpointer(scene.store) as checkpointer:
        report = await (await Graph.from_file(scene.graph).start(checkpointer=checkpointer)).replay("r")
    assert report.differences == ()
    assert scene.ledger.read_text().splitlines() == lines


async def test_two_processes_resume_one_run(scene: Scene) -> None:
    first = scene.spawn("start", "after-write:1")
    first.communicate(timeout=60)
    scene.hold("b")
    rivals = [scene.spawn("resume") for _ in range(2)]
    # Each rival has either taken the run over or been refused.
    while (await scene.events()).count("resumed") + sum(rival.poll() is not None for rival in rivals) < len(rivals):
        await asyncio.sleep(0.02)
    scene.release("b")
    shown = [outcome(rival) for rival in rivals]
    won = [each for each in shown if "status" in each]
    lost = [each for each in shown if "error" in each]
    assert [each["status"] for each in won] == ["done"]
    assert [each["error"] for each in lost] == ["CheckpointConflictError"]
    assert scene.executed().count("a") == 1
    assert scene.executed().count("c") == 1
    log = await scene.log()
    assert [checkpoint.step for checkpoint in log] == list(range(len(log)))
    assert log[-1].state == {"path": ["a", "b", "c"]}


async def test_a_stopped_executor_that_wakes_up_after_a_takeover_changes_nothing(scene: Scene) -> None:
    scene.hold("b")
    old = scene.spawn("start")
    scene.wait_for("a", "b")
    old.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(old.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    scene.release("b")
    assert outcome(scene.spawn("resume"))["status"] == "done"
    before = await scene.log()
    old.send_signal(signal.SIGCONT)
    assert outcome(old) == {"error": "CheckpointConflictError", "reason": "step-taken"}
    assert await scene.log() == before
    assert Counter(scene.executed()) == {"a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize(
    ("durability", "promised"),
    [
        ("sync", ["started", "completed a", "completed b"]),
        ("async", ["started", "completed a"]),
        ("exit", ["started"]),
    ],
)
async def test_what_each_durability_keeps_of_a_killed_process(
    scene: Scene, durability: str, promised: list[str]
) -> None:
    scene.hold("c")
    first = scene.spawn("start", durability=durability)
    scene.wait_for("a", "b", "c")
    first.kill()
    first.communicate()
    scene.release("c")
    kept = await scene.events()
    everything = ["started", "completed a", "completed b"]
    assert kept == everything[: len(kept)]
    assert len(kept) >= len(promised)
    if durability == "exit":
        assert kept == promised
    assert outcome(scene.spawn("resume", durability=durability))["status"] == "done"
    assert (await scene.log())[-1].state == {"path": ["a", "b", "c"]}
    lost = everything[len(kept) :]
    repeated = [event.split()[1] for event in lost] + ["c"]
    assert Counter(scene.executed()) == Counter(["a", "b", "c", *repeated])
