"""`stargraph replay`: compare a run with its log, fork it with changes, and see both side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import Folder

MORE_STEPS = """

def chance(state):
    import random
    print("a node prints")
    return {"ratio": random.random()}

async def pay(state, ctx):
    receipt = await ctx.call("pay", charge, state.count, repeatable=False)
    return {"notes": [receipt]}

def charge(count):
    with open("charges.txt", "a") as file:
        file.write(f"{count}\\n")
    return f"paid {count}"
"""


@pytest.fixture
def ran(folder: Folder) -> Folder:
    """A folder in which run `r` of graph.yaml is done."""
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r", "--quiet").code == 0
    return folder


@pytest.fixture
def paid(folder: Folder) -> Folder:
    """A folder in which run `r` has made a call that must not be repeated."""
    folder.write("steps.py", (folder.path / "steps.py").read_text() + MORE_STEPS)
    folder.write("graph.yaml", (folder.path / "graph.yaml").read_text().replace("steps:note", "steps:pay"))
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r", "--quiet").code == 0
    return folder


def stored(folder: Folder, run_id: str = "r") -> str:
    return "".join(folder.call("inspect", run_id, "--step", str(step), "--json").out for step in range(4))


def test_a_run_that_comes_out_as_recorded(ran: Folder) -> None:
    answer = ran.call("replay", "r", "graph.yaml")
    assert (answer.code, answer.out) == (0, "run r: 4 steps match the record\n")
    shown = ran.call("replay", "r", "graph.yaml", "--from-step", "2", "--json")
    assert shown.code == 0
    assert (shown.json["same"], shown.json["compared"]) == (True, 1)
    assert '"run_id": "r"' in ran.call("runs", "--json").out


@pytest.mark.parametrize("step", [4, 99])
def test_a_step_that_the_run_does_not_have_proves_nothing(ran: Folder, step: int) -> None:
    answer = ran.call("replay", "r", "graph.yaml", "--from-step", str(step))
    assert (answer.code, answer.out) == (2, "")
    assert f"run 'r' has no step {step}" in answer.err
    assert "Its latest step is 3." in answer.err


def test_a_run_that_does_not(folder: Folder) -> None:
    folder.write("steps.py", (folder.path / "steps.py").read_text() + MORE_STEPS)
    folder.write("graph.yaml", (folder.path / "graph.yaml").read_text().replace("steps:note", "steps:chance"))
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r", "--quiet").code == 0
    answer = folder.call("replay", "r", "graph.yaml")
    assert answer.code == 1
    assert "run r, step 2 (completed second): update.ratio is recorded as 0." in answer.out
    shown = folder.call("replay", "r", "graph.yaml", "--json")
    assert shown.code == 1
    (difference,) = shown.json["differences"]
    assert (difference["step"], difference["node"]) == (2, "second")
    assert [change["path"] for change in difference["changes"]] == ["update.ratio", "state.ratio"]
    assert "a node prints" in shown.err
    detailed = folder.call("replay", "r", "graph.yaml", "--diff").out
    assert "    ~ update.ratio: " in detailed


def test_a_changed_state_makes_a_fork(ran: Folder) -> None:
    before = stored(ran)
    answer = ran.call(
        "replay",
        "r",
        "graph.yaml",
        "--from-step",
        "1",
        "--set",
        "count=10",
        "--set",
        "name=42",
        "--run-id",
        "f",
        "--diff",
    )
    assert answer.code == 0
    assert stored(ran) == before
    lines = answer.out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("A r"))
    assert [line.rstrip() for line in lines[start:]] == [
        "A r                 │  B f",
        "steps 0 to 1        │  the same",
        "1 fork              │  0 fork",
        "    ~ state.count: 2 → 10",
        '    ~ state.name: "" → "42"',
        "2 completed second  │  1 completed second",
        '    ~ update.notes[0]: "count is 2" → "count is 10"',
        '    ~ state.notes[0]: "count is 2" → "count is 10"',
        "3 completed third   │  2 completed third",
        "    ~ update.count: 3 → 11",
        "    ~ state.count: 3 → 11",
        "ends done           │  ends done",
        "    ~ state.count: 3 → 11",
        '    ~ state.name: "" → "42"',
        '    ~ state.notes[0]: "count is 2" → "count is 10"',
    ]
    shown = ran.call("inspect", "f", "--json").json
    assert (shown["parent_run_id"], shown["origin"], shown["status"]) == ("r", "fork", "done")
    assert ran.call("replay", "f", "graph.yaml").code == 0


def test_json_has_the_outcome_and_the_difference(ran: Folder) -> None:
    answer = ran.call("replay", "r", "graph.yaml", "--set", "count=10", "--tag", "what=if", "--diff", "--json")
    assert answer.code == 0
    assert answer.json["status"] == "done"
    assert answer.json["parent_run_id"] == "r"
    assert answer.json["metadata"] == {"what": "if"}
    assert answer.json["diff"]["end"]["changes"][0] == {
        "path": "state.count",
        "kind": "changed",
        "before": "3",
        "after": "12",
    }
    assert "diff" not in ran.call("replay", "r", "graph.yaml", "--set", "count=10", "--json").json


def test_a_call_does_not_end_its_node(paid: Folder) -> None:
    lines = paid.call("run", "graph.yaml", "-i", "count=1").out.splitlines()
    called, completed = [line for line in lines if "node=second" in line and not line.startswith("node_started")]
    assert (called.split()[0], completed.split()[0]) == ("called", "completed")
    assert "seconds=" in completed
    assert "call=pay outcome=ok" in called


@pytest.mark.parametrize("name", ["overlay.yaml", "overlay.json"])
def test_an_overlay_from_a_file(ran: Folder, name: str) -> None:
    overlay = {"state": {"count": 5}, "outputs": {"second": {"notes": ["given"]}}}
    ran.write(name, json.dumps(overlay))
    answer = ran.call("replay", "r", "graph.yaml", "--overlay", name, "--set", "name=Ada", "--json", "--quiet")
    assert answer.code == 0
    assert (answer.json["state"]["notes"], answer.json["state"]["count"]) == (["given"], 7)
    assert answer.json["state"]["name"] == "Ada"


def test_another_version_of_the_graph(ran: Folder) -> None:
    text = (ran.path / "graph.yaml").read_text()
    (ran.path / "new").mkdir()
    ran.write("new/graph.yaml", text.replace("steps:note", "steps:increase"))
    ran.write("overlay.yaml", "graph: new/graph.yaml\n")
    answer = ran.call("replay", "r", "graph.yaml", "--overlay", "overlay.yaml", "--from-step", "1", "--json", "--quiet")
    assert (answer.code, answer.json["state"]["count"]) == (0, 4)
    refused = ran.call("replay", "r", "new/graph.yaml")
    assert refused.code == 2
    assert "node 'second'" in refused.err
    accepted = ran.call("replay", "r", "new/graph.yaml", "--accept", "graph")
    assert accepted.code == 1
    assert "step 2 (completed second)" in accepted.out


def test_a_fork_that_waits_can_be_answered_and_resumed(folder: Folder) -> None:
    folder.write(
        "asking.yaml",
        "id: asking\nstate_schema: {yes: {type: 'bool | None', default: null}}\n"
        "nodes: [{id: a, kind: echo}, {id: ask, kind: interrupt, prompt: 'Sure?', into: yes}, {id: b, kind: echo}]\n",
    )
    assert folder.call("run", "asking.yaml", "--run-id", "r").code == 3
    fork = folder.call("replay", "r", "asking.yaml", "--from-step", "0", "--set", "yes=false", "--run-id", "f")
    assert fork.code == 3
    assert "stargraph respond f" in fork.err
    assert "stargraph resume f asking.yaml" in fork.err
    assert folder.call("respond", "f", "--value", "true").code == 0
    assert folder.call("resume", "f", "asking.yaml").code == 0
    folder.write("overlay.yaml", "answers: {ask: 'perhaps'}\n")
    wrong = folder.call("replay", "f", "asking.yaml", "--overlay", "overlay.yaml")
    assert wrong.code == 2
    assert "perhaps" in wrong.err


def test_effects_need_to_be_allowed(paid: Folder) -> None:
    def charges() -> list[str]:
        return Path("charges.txt").read_text().splitlines()

    assert paid.call("replay", "r", "graph.yaml").code == 0
    assert charges() == ["2"]
    refused = paid.call("replay", "r", "graph.yaml", "--set", "count=5", "--run-id", "f")
    assert refused.code == 1
    assert "must not be repeated" in refused.err
    assert charges() == ["2"]
    assert paid.call("resume", "f", "graph.yaml", "--allow-effects", "--quiet").code == 0
    assert charges() == ["2", "6"]
    assert paid.call("replay", "r", "graph.yaml", "--set", "count=7", "--allow-effects", "--quiet").code == 0
    assert charges() == ["2", "6", "8"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["replay", "nobody", "graph.yaml"], "no run 'nobody'"),
        (["replay", "r", "nothing.yaml"], "nothing.yaml"),
        (["replay", "r", "graph.yaml", "--from-step", "-1"], "--from-step"),
        (["replay", "r", "graph.yaml", "--from-step", "9", "--set", "count=1"], "no step 9"),
        (["replay", "r", "graph.yaml", "--from-step", "3", "--set", "count=1"], "nothing would run"),
        (["replay", "r", "graph.yaml", "--set", "count"], "--set"),
        (["replay", "r", "graph.yaml", "--set", "count=five"], "--set count=five"),
        (["replay", "r", "graph.yaml", "--set", "notes[0]=x"], "notes[0]"),
        (["replay", "r", "graph.yaml", "--set", "nobody=1"], "no field 'nobody'"),
        (["replay", "r", "graph.yaml", "--set", "count=1", "--run-id", "r"], "exists already"),
        (["replay", "r", "graph.yaml", "--set", "count=1", "--run-id", "not an id"], "run id"),
        (["replay", "r", "graph.yaml", "--run-id", "f"], "--run-id is for a fork"),
        (["replay", "r", "graph.yaml", "--tag", "a=b"], "--tag is for a fork"),
        (["replay", "r", "graph.yaml", "--overlay", "nothing.yaml"], "nothing.yaml"),
        (["replay", "r", "graph.yaml", "--overlay", "."], "."),
        (["replay", "r", "graph.yaml", "--overlay", "list.yaml"], "not a mapping"),
        (["replay", "r", "graph.yaml", "--overlay", "unknown.yaml"], "no key 'stat'"),
        (["replay", "r", "graph.yaml", "--overlay", "broken.yaml"], "broken.yaml:2:1"),
        (["replay", "r", "graph.yaml", "--overlay", "empty.yaml"], "changes nothing"),
        (["replay", "r", "graph.yaml", "--overlay", "node.yaml"], "no node 'nobody'"),
        (["replay", "r", "graph.yaml", "--overlay", "graph_key.yaml"], "graph is not"),
        (["replay", "r", "graph.yaml", "--checkpoint", "elsewhere.sqlite"], "no store at"),
    ],
)
def test_bad_input(ran: Folder, words: list[str], expected: str) -> None:
    ran.write("list.yaml", "[1]\n")
    ran.write("unknown.yaml", "stat: {}\n")
    ran.write("broken.yaml", "state: [\n")
    ran.write("empty.yaml", "")
    ran.write("node.yaml", "outputs: {nobody: {}}\n")
    ran.write("graph_key.yaml", "graph: 3\n")
    answer = ran.call(*words)
    assert answer.code == 2
    assert expected in answer.err
    assert "Traceback" not in answer.err
    as_json = ran.call(*words, "--json")
    assert as_json.code == 2
    assert expected in as_json.err


def test_a_fork_without_changes_does_the_rest_anew(ran: Folder) -> None:
    ran.write("nothing.yaml", "")
    answer = ran.call("replay", "r", "graph.yaml", "--overlay", "nothing.yaml", "--from-step", "1", "--json", "--quiet")
    assert (answer.code, answer.json["state"]["count"]) == (0, 3)
