"""Finding runs: filters, order, counts, pages, 80 columns, and ids that are not written in full."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.cli import STEPS, Folder
from support.records import first, following

from stargraph.checkpoint.protocol import Interrupt
from stargraph.checkpoint.sqlite import SQLiteCheckpointer

PARENT = """\
id: parent
nodes:
  - {id: sub, kind: subgraph, graph: child.yaml}
"""


@pytest.fixture
def four_runs(folder: Folder) -> Folder:
    folder.write("other.yaml", "id: other\nnodes:\n  - {id: e, kind: 'steps:fails'}\n")
    folder.write("child.yaml", "id: child\nnodes:\n  - {id: e, kind: echo}\n")
    folder.write("parent.yaml", PARENT)
    folder.write("steps.py", STEPS + "def fails(state): return {'a': {1, 2}}\n")
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "alpha-1", "--tag", "team=a", "-q").code == 0
    assert folder.call("run", "other.yaml", "--run-id", "beta", "-q").code == 1
    assert folder.call("run", "parent.yaml", "--run-id", "gamma", "-q").code == 0
    assert folder.call("run", "graph.yaml", "-i", "count=2", "--run-id", "alpha-2", "-q").code == 0
    return folder


def found(folder: Folder, *options: str) -> list[str]:
    answer = folder.call("runs", "--json", *options)
    assert answer.code == 0, answer.err
    return [run["run_id"].partition(":")[0] + ":child" * (":" in run["run_id"]) for run in answer.json]


ALL = ["alpha-2", "gamma:child", "gamma", "beta", "alpha-1"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ALL),
        (("--status", "failed"), ["beta"]),
        (("--status", "failed", "--status", "cancelled"), ["beta"]),
        (("--status", "failed", "--status", "done"), ALL),
        (("--roots",), ["alpha-2", "gamma", "beta", "alpha-1"]),
        (("--roots", "--status", "done", "--graph", "demo"), ["alpha-2", "alpha-1"]),
        (("--error-reason", "not-json"), ["beta"]),
        (("--error-reason", "timeout"), []),
        (("--graph-hash", "0" * 64), []),
        (("--updated-since", "1h"), ALL),
        (("--updated-since", "2999-01-01"), []),
        (("--updated-before", "2999-01-01"), ALL),
        (("--updated-before", "1h"), []),
        (("--idle-for", "1h"), []),
        (("--idle-for", "0s"), ALL),
        (("--order", "updated", "--limit", "1"), ["alpha-2"]),
    ],
)
def test_runs_are_filtered(four_runs: Folder, options: tuple[str, ...], expected: list[str]) -> None:
    assert found(four_runs, *options) == expected


def test_runs_of_one_version_of_their_graph_and_code(four_runs: Folder) -> None:
    run = four_runs.call("runs", "--json", "--graph", "demo").json[0]
    for option, name in (("--graph-hash", "graph_hash"), ("--runtime-hash", "runtime_hash")):
        assert found(four_runs, option, run[name]) == ["alpha-2", "alpha-1"]


def test_runs_say_which_process_executed_them(four_runs: Folder) -> None:
    process = four_runs.call("runs", "--json").json[0]["process"]
    assert process["pid"] > 0
    assert process["host"]
    assert f"process  {process['host']}, pid {process['pid']}, stargraph " in four_runs.call("inspect", "alpha-2").out


def test_runs_are_counted(four_runs: Folder) -> None:
    assert four_runs.call("runs", "--counts", "--json").json == {"done": 4, "failed": 1}
    assert four_runs.call("runs", "--counts", "--roots", "--graph", "demo", "--json").json == {"done": 2}
    lines = [line.split() for line in four_runs.call("runs", "--counts").out.splitlines()]
    assert lines == [["STATUS", "RUNS"], ["done", "4"], ["failed", "1"], ["total", "5"]]


@pytest.mark.parametrize("order", ["started", "updated"])
def test_pages_are_walked_by_the_cursor_that_is_printed(four_runs: Folder, order: str) -> None:
    walked: list[str] = []
    cursor: list[str] = []
    while True:
        answer = four_runs.call("runs", "--limit", "2", "--order", order, *cursor)
        walked += [line.split()[0] for line in answer.out.splitlines()[1:]]
        if "--cursor " not in answer.err:
            break
        cursor = ["--cursor", answer.err.rpartition("--cursor ")[2].strip()]
    assert walked == [run["run_id"] for run in four_runs.call("runs", "--json", "--order", order).json]
    assert len(walked) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cursor", "nonsense"), ["cursor"]),
        (("--idle-for", "1h", "--updated-before", "2h"), ["--updated-before and --idle-for"]),
        (("--updated-before", "soon"), ["--updated-before 'soon' is not a time"]),
        (("--idle-for", "long"), ["--idle-for 'long' is not a time"]),
        (("--order", "size"), ["--order", "'size'"]),
    ],
)
def test_wrong_filters_are_one_message(four_runs: Folder, options: tuple[str, ...], words: list[str]) -> None:
    answer = four_runs.call("runs", *options)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert all(word in answer.err for word in words), answer.err


def test_the_list_fits_80_columns(folder: Folder) -> None:
    name = "g" * 60
    folder.write("wide.yaml", f"id: {name}\nnodes:\n  - {{id: ask, kind: interrupt, prompt: 'Why?', into: why}}\n")
    tags = [word for number in range(6) for word in ("--tag", f"key{number}=value-{number}")]
    assert folder.call("run", "wide.yaml", "-q", *tags).code == 3
    wide = folder.call("runs", env={"COLUMNS": "250"}).out
    assert "key5=value-5" in wide
    assert name in wide
    for width in (80, 100, 120):
        lines = folder.call("runs", env={"COLUMNS": str(width)}).out.splitlines()
        assert max(map(len, lines)) <= width
        assert "awaiting_input" in lines[1]
        assert len(lines[1].split()[0]) == 36, "the id stays whole"
    assert max(map(len, folder.call("runs").out.splitlines())) <= 80


COMMANDS = {
    "inspect": (("inspect", "ID"), 0),
    "one step": (("inspect", "ID", "--step", "1"), 0),
    "verify": (("verify", "ID"), 0),
    "replay": (("replay", "ID", "graph.yaml"), 0),
    "fork": (("replay", "ID", "graph.yaml", "--set", "count=7", "-q"), 0),
    "resume": (("resume", "ID", "graph.yaml"), 0),
    "check": (("resume", "ID", "graph.yaml", "--check"), 0),
    "export": (("export", "x.jsonl", "ID"), 0),
    "copy": (("copy", ".stargraph/run.sqlite", "b.sqlite", "ID"), 0),
    "delete": (("delete", "ID", "--yes"), 0),
}


@pytest.mark.parametrize("text", ["latest", "alpha-2", "alpha-2"[:-1] + "2", "alph"])
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_run_is_named_by_a_prefix_or_as_the_latest(four_runs: Folder, command: str, text: str) -> None:
    words, code = COMMANDS[command]
    if text == "alph":
        assert four_runs.call("delete", "alpha-1").code == 0
    answer = four_runs.call(*(text if word == "ID" else word for word in words))
    assert answer.code == code, answer
    if command == "delete":
        assert answer.out == "run alpha-2 is deleted\n"
        assert "alpha-2" not in found(four_runs)


def test_a_question_and_a_cancel_by_a_prefix(folder: Folder) -> None:
    folder.write("asks.yaml", "id: asks\nnodes:\n  - {id: ask, kind: interrupt, prompt: 'Why?', into: why}\n")
    assert folder.call("run", "asks.yaml", "--run-id", "omega-1", "-q").code == 3
    assert folder.call("respond", "om", "--value", "because", "--json").json["run_id"] == "omega-1"
    assert folder.call("cancel", "latest", "--grace", "0", "--json").json["run_id"] == "omega-1"


def test_a_prefix_of_several_runs_lists_them(four_runs: Folder) -> None:
    for words in (("inspect", "alpha"), ("delete", "alpha", "--yes"), ("export", "x.jsonl", "alpha-")):
        answer = four_runs.call(*words)
        assert answer.code == 2
        assert "2 runs have an id that begins with 'alpha" in answer.err
        assert "  alpha-2\n  alpha-1\n" in answer.err
        assert "hint: Give more characters of the id." in answer.err
    assert four_runs.call("inspect", "alpha", "--json").json["error"]["reason"] == "ambiguous-run-id"
    assert not Path("x.jsonl").exists()


def test_the_run_of_exactly_that_id_comes_first(four_runs: Folder) -> None:
    for run_id in ("alpha", "latest"):
        assert four_runs.call("run", "child.yaml", "--run-id", run_id, "-q").code == 0
    assert four_runs.call("run", "child.yaml", "--run-id", "zeta", "-q").code == 0
    assert four_runs.call("inspect", "alpha", "--json").json["run_id"] == "alpha"
    assert four_runs.call("inspect", "latest", "--json").json["run_id"] == "latest"


def test_child_runs_are_found_by_a_prefix_with_a_colon_and_never_the_latest(four_runs: Folder) -> None:
    assert four_runs.call("inspect", "gam", "--json").json["run_id"] == "gamma"
    assert four_runs.call("inspect", "gamma:", "--json").json["run_id"].startswith("gamma:sub")
    assert four_runs.call("delete", "alpha-2").code == 0
    assert four_runs.call("inspect", "latest", "--json").json["run_id"] == "gamma"


def test_a_deletion_by_a_prefix_is_confirmed(four_runs: Folder) -> None:
    answer = four_runs.call("delete", "bet")
    assert answer.code == 2
    assert "'bet' stands for run 'beta'" in answer.err
    assert "beta" in found(four_runs)
    # A script that deletes a run twice must not take another one.
    assert four_runs.call("delete", "alpha-2").code == 0
    assert four_runs.call("run", "graph.yaml", "-i", "count=1", "--run-id", "alpha-22", "-q").code == 0
    assert four_runs.call("delete", "alpha-2").code == 2
    assert "alpha-22" in found(four_runs)


def test_no_run_of_that_id(four_runs: Folder) -> None:
    for text in ("delta", "lpha", "alpha-11", "01a21e42"):
        answer = four_runs.call("inspect", text)
        assert answer.code == 2
        assert f"the store holds no run {text!r}" in answer.err


def test_runs_whose_time_has_come_are_due_and_no_others(folder: Folder) -> None:
    now = datetime.now(UTC)

    async def store_waiting_runs() -> None:
        async with SQLiteCheckpointer(folder.path / ".stargraph/run.sqlite") as store:
            for run_id, due_at in (("over", now), ("later", now + timedelta(days=1)), ("asks", None)):
                begun = first(run_id)
                wait = Interrupt(id="w", task_id="t", node="n", prompt="wait", asked_at=now, due_at=due_at)
                await store.write(begun)
                await store.write(following(begun, status="awaiting_input", interrupts=(wait,)))

    asyncio.run(store_waiting_runs())
    assert found(folder, "--due") == ["over"]
    assert found(folder, "--due", "--graph", "other") == []
    assert folder.call("runs", "--due", "--counts", "--json").json == {"awaiting_input": 1}
