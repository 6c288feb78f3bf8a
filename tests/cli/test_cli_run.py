"""`stargraph run` and `stargraph resume`: what they print, what they store, how they end."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.cli import GRAPH, STEPS, Folder

from stargraph.cli import _terminal_display
from stargraph.engine import RunEvent

DEFAULT = Path(".stargraph/run.sqlite")
FAILING = STEPS.replace("return {'notes'", "raise ValueError('no \\x1b[31m')\n    return {'notes'")


def test_a_run_ends_done_in_the_default_store(folder: Folder) -> None:
    answer = folder.call("run", "graph.yaml", "-i", "count=3", "--run-id", "r1")
    assert answer.code == 0
    assert answer.err == ""
    assert DEFAULT.exists()
    lines = answer.out.splitlines()
    assert lines[0] == "run          run=r1 graph=demo checkpoint=./.stargraph/run.sqlite"
    words = [(line.split()[0], line.split("node=")[-1].split()[0] if "node=" in line else None) for line in lines[1:-1]]
    assert words == [
        ("started", None),
        ("node_started", "first"),
        ("completed", "first"),
        ("node_started", "second"),
        ("completed", "second"),
        ("node_started", "third"),
        ("completed", "third"),
    ]
    assert lines[-1].startswith("outcome      status=done run=r1 step=3 seconds=")


def test_the_store_is_where_checkpoint_says(folder: Folder) -> None:
    place = folder.path / "deep" / "er" / "run.sqlite"
    assert folder.call("run", "graph.yaml", "-i", "count=3", "--checkpoint", str(place)).code == 0
    assert place.exists()
    assert not DEFAULT.exists()
    url = f"sqlite:///{folder.path}/other.sqlite"
    assert folder.call("run", "graph.yaml", "-i", "count=3", env={"STARGRAPH_CHECKPOINT": url}).code == 0
    assert (folder.path / "other.sqlite").exists()
    assert not DEFAULT.exists()


def test_quiet_prints_the_outcome_alone(folder: Folder) -> None:
    answer = folder.call("run", "graph.yaml", "-i", "count=3", "--quiet")
    assert len(answer.out.splitlines()) == 1
    assert answer.out.startswith("outcome      status=done ")
    assert answer.err == ""


def test_json_is_one_object_with_the_state(folder: Folder) -> None:
    answer = folder.call("run", "graph.yaml", "-i", "count=3", "--json", "--tag", "team=a", "--run-id", "r1")
    shown = answer.json
    assert shown["status"] == "done"
    assert shown["exit_code"] == answer.code == 0
    assert shown["state"]["count"] == 5
    assert shown["state"]["notes"] == ["count is 4"]
    assert shown["metadata"] == {"team": "a"}
    assert (shown["run_id"], shown["graph_id"], shown["last_step"]) == ("r1", "demo", 3)
    assert shown["checkpoint"] == "./.stargraph/run.sqlite"
    assert "completed" in answer.err
    quiet = folder.call("run", "graph.yaml", "-i", "count=3", "--json", "--quiet")
    assert quiet.json["status"] == "done"
    assert quiet.err == ""


def test_events_are_json_lines_that_end_in_the_outcome(folder: Folder) -> None:
    answer = folder.call("run", "graph.yaml", "-i", "count=3", "--events")
    shown = [json.loads(line) for line in answer.out.splitlines()]
    assert [each["type"] for each in shown[:4]] == ["run", "started", "node_started", "completed"]
    assert shown[-1]["type"] == "outcome"
    assert shown[-1]["status"] == "done"
    assert answer.err == ""


def test_what_a_node_prints_does_not_get_into_the_json(folder: Folder) -> None:
    folder.write("steps.py", "print('loaded')\n" + STEPS.replace("return {'count'", "print('hello'); return {'count'"))
    answer = folder.call("run", "graph.yaml", "-i", "count=3", "--json")
    assert answer.json["status"] == "done"
    assert "hello" in answer.err
    plain = folder.call("run", "graph.yaml", "-i", "count=3")
    assert "hello" in plain.out


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("name=42", "name", "42"),
        ("name=null", "name", "null"),
        ('name="x"', "name", '"x"'),
        ("name=a=b", "name", "a=b"),
        ("name=NaN", "name", "NaN"),
        ("ratio=3", "ratio", 3.0),
        ("level=high", "level", "high"),
        ('level="high"', "level", "high"),
        ("maybe=null", "maybe", None),
        ("maybe=42", "maybe", "42"),
        ("maybe=text", "maybe", "text"),
        ('notes=["a", "b"]', "notes", ["a", "b", "count is 2"]),
    ],
)
def test_the_state_schema_types_an_input(folder: Folder, text: str, field: str, value: object) -> None:
    answer = folder.call("run", "graph.yaml", "-i", "count=1", "-i", text, "--json", "-q")
    assert answer.code == 0, answer.err
    found = answer.json["state"][field]
    assert found == value
    assert type(found) is type(value)


def test_a_state_class_types_an_input(folder: Folder) -> None:
    folder.write(
        "steps.py",
        "from datetime import date\nfrom pydantic import BaseModel\n"
        "class State(BaseModel):\n    code: str\n    day: date\n    count: int = 0\n"
        "def look(state): return {'count': state.day.year}\n",
    )
    folder.write("graph.yaml", "id: g\nstate_class: steps:State\nnodes:\n  - {id: look, kind: 'steps:look'}\n")
    answer = folder.call("run", "graph.yaml", "-i", "code=007", "-i", "day=2026-01-31", "--json", "-q")
    assert answer.json["state"] == {"code": "007", "day": "2026-01-31", "count": 2026}


def test_without_a_schema_an_input_is_json_or_text(folder: Folder) -> None:
    folder.write("graph.yaml", "id: g\nnodes:\n  - {id: e, kind: echo}\n")
    answer = folder.call("run", "graph.yaml", "-i", "a=1", "-i", "b=one", "-i", 'c={"d": [true]}', "--json", "-q")
    assert answer.json["state"] == {"a": 1, "b": "one", "c": {"d": [True]}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.yaml", "count: 7\nname: on\nmaybe: null\n"),
        ("in.json", '{"count": 7, "name": "on", "maybe": null}'),
        ("-", "count: 7\nname: on\n"),
    ],
)
def test_inputs_from_a_file_and_pairs_that_win(folder: Folder, name: str, text: str) -> None:
    if name != "-":
        folder.write(name, text)
    answer = folder.call("run", "graph.yaml", "--inputs", name, "-i", "count=8", "--json", "-q", stdin=text)
    assert answer.json["state"]["count"] == 10
    assert answer.json["state"]["name"] == "on"


def fail_then(folder: Folder) -> None:
    """A run r1 that failed in its second node."""
    folder.write("steps.py", FAILING)
    answer = folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1", "-q")
    assert answer.code == 1


def test_a_failed_run_says_where_and_how_to_go_on(folder: Folder) -> None:
    folder.write("steps.py", FAILING)
    answer = folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1")
    assert answer.code == 1
    assert answer.out.splitlines()[-1].startswith("outcome      status=failed run=r1 step=2")
    assert answer.err == (
        f"error: node 'second' failed: ValueError: no \\x1b[31m ({folder.path}/steps.py:5)\n"
        "hint: resume with: stargraph resume r1 graph.yaml\n"
        "      after a change of the code, with: stargraph resume r1 graph.yaml --accept runtime\n"
        "      see the traceback with: stargraph inspect r1 --step 2\n"
    )


def test_a_failed_run_goes_on_after_a_mend_that_is_accepted(folder: Folder) -> None:
    fail_then(folder)
    folder.write("steps.py", STEPS)
    refused = folder.call("resume", "r1", "graph.yaml")
    assert refused.code == 2
    assert "node 'second'" in refused.err
    assert "--accept runtime" in refused.err
    answer = folder.call("resume", "r1", "graph.yaml", "--accept", "runtime", "--json")
    assert answer.code == 0
    assert answer.json["state"]["count"] == 3
    assert "node=first" not in answer.err
    again = folder.call("resume", "r1", "graph.yaml")
    assert again.code == 0
    assert again.out.startswith("outcome      status=done run=r1 step=5")


def test_a_changed_rule_is_named(folder: Folder) -> None:
    fail_then(folder)
    rule = "rules:\n  - {id: short, when: {node: second}, then: [{kind: halt}]}\n"
    folder.write("graph.yaml", GRAPH + rule)
    answer = folder.call("resume", "r1", "graph.yaml")
    assert answer.code == 2
    assert "short" in answer.err.partition("graph_hash")[0]


def test_a_changed_schema_is_named(folder: Folder) -> None:
    fail_then(folder)
    folder.write("graph.yaml", GRAPH.replace("count: int", "count: float"))
    answer = folder.call("resume", "r1", "graph.yaml")
    assert answer.code == 2
    assert "count" in answer.err.partition("graph_hash")[0]


def test_a_comment_and_another_order_of_keys_change_nothing(folder: Folder) -> None:
    fail_then(folder)
    folder.write("graph.yaml", "# remark\n" + GRAPH.replace('{type: str, default: ""}', '{default: "", type: str}'))
    assert folder.call("resume", "r1", "graph.yaml", "-q").code == 1


def test_a_run_that_was_just_active_is_left_alone_when_asked(folder: Folder) -> None:
    fail_then(folder)
    answer = folder.call("resume", "r1", "graph.yaml", "--only-if-idle", "3600")
    assert answer.code == 6
    assert "last event" in answer.err


def test_a_crash_loop_ends_failed(folder: Folder) -> None:
    fail_then(folder)
    codes = [folder.call("resume", "r1", "graph.yaml", "--max-resumes", "1", "-q").code for _ in range(2)]
    assert codes == [1, 1]


def test_a_run_that_asks_waits_with_its_question(folder: Folder) -> None:
    folder.write(
        "graph.yaml",
        "id: ask\nstate_schema: {ok: {type: 'bool | None', default: null}}\n"
        "nodes:\n  - {id: ask, kind: interrupt, prompt: 'Go on?', into: ok}\n",
    )
    answer = folder.call("run", "graph.yaml", "--run-id", "r1", "--json")
    assert answer.code == 3
    assert "Go on?" in answer.err
    assert answer.json["status"] == "awaiting_input"
    assert answer.json["interrupts"][0]["prompt"] == "Go on?"
    assert answer.json["resume"] == "stargraph resume r1 graph.yaml"


def test_a_damaged_record_is_exit_code_7(folder: Folder) -> None:
    fail_then(folder)
    with sqlite3.connect(DEFAULT) as connection:
        connection.execute("UPDATE checkpoints SET record = x'00'")
    connection.close()
    answer = folder.call("resume", "r1", "graph.yaml")
    assert answer.code == 7
    assert "error:" in answer.err
    assert "Traceback" not in answer.err


def test_a_sealed_run_needs_its_key(folder: Folder) -> None:
    sealed = {"STARGRAPH_INTEGRITY_KEY": "main:a-secret-of-enough-length"}
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1", "-q", env=sealed).code == 0
    assert folder.call("inspect", "r1", env=sealed).code == 0
    wrong = folder.call("inspect", "r1", env={"STARGRAPH_INTEGRITY_KEY": "main:another-secret-just-as-long"})
    assert wrong.code == 7
    assert "secret" not in wrong.err


def test_the_events_of_a_subgraph_name_its_run(folder: Folder) -> None:
    folder.write("child.yaml", "id: child\nnodes:\n  - {id: inner, kind: echo}\n")
    folder.write("graph.yaml", "id: g\nnodes:\n  - {id: sub, kind: subgraph, graph: ./child.yaml}\n")
    lines = folder.call("run", "graph.yaml", "--run-id", "r1").out.splitlines()
    inner = [line for line in lines if line.startswith("completed") and "node=inner" in line]
    assert len(inner) == 1
    assert " run=r1:sub-" in inner[0]
    assert [line for line in lines if line.startswith("completed") and "run=" not in line and "node=sub" in line]


@pytest.mark.parametrize(
    ("run_id", "task_id", "name"),
    [
        ("r1", "work-0123456789ab", "work"),
        ("r1", "work-0123456789ab.7", "work[7]"),
        ("r1:sub-0123456789ab.2", "inner-ba9876543210", "sub[2]/inner"),
        ("r1:sub-0123456789ab:deep-0123456789ab", "inner-ba9876543210.0", "sub/deep/inner[0]"),
        ("r1", None, "resumed"),
    ],
)
def test_the_live_display_names_branches_and_subgraphs(run_id: str, task_id: str | None, name: str) -> None:
    event = RunEvent(
        type="resumed" if task_id is None else "completed",
        run_id=run_id,
        step=1,
        task_id=task_id,
        node=None if task_id is None else task_id.partition("-")[0],
        timestamp=datetime.now(UTC),
        durable=True,
    )
    assert _terminal_display._name(event, "r1") == name
