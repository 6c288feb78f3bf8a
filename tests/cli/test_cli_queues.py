"""Queues on the command line: enqueue, worker, queues, workers, requeue, and the runs that nobody takes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from support.cli import Folder

from stargraph.checkpoint.protocol import Checkpoint, GraphVersion, ProcessInfo, WorkerInfo
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.cli._options import DEFAULT_CHECKPOINT
from stargraph.errors import StoreUnavailableError

GRAPH = """\
id: demo
state_schema:
  count: int
  fail: {type: bool, default: false}
nodes:
  - {id: first, kind: "steps:increase"}
"""

STEPS = """\
def increase(state):
    if state.fail:
        raise ValueError("no")
    return {'count': state.count + 1}
"""


@pytest.fixture(autouse=True)
def _graph(folder: Folder) -> None:
    folder.write("graph.yaml", GRAPH)
    folder.write("steps.py", STEPS)


def work(folder: Folder, *words: str, code: int = 0) -> dict[str, object]:
    answer = folder.call("worker", "graph.yaml", "--until-idle", "--json", "--log-level", "off", *words)
    assert answer.code == code, answer
    found: dict[str, object] = answer.json
    return found


def test_a_damaged_run_is_named_and_holds_up_no_other(folder: Folder) -> None:
    for run_id in ("spoilt", "sound"):
        assert folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", run_id).code == 0
    with closing(sqlite3.connect(folder.path / DEFAULT_CHECKPOINT)) as database, database:
        database.execute("UPDATE runs SET summary = 'x' WHERE run_id = 'spoilt'")
    assert work(folder, code=7)["executions"] == {"done": 1}
    answer = folder.call("queues", "--json")
    assert (answer.code, [counts["ready"] for counts in answer.json]) == (0, [1])
    assert "workers leave run spoilt aside: run 'spoilt': the stored summary does not belong to this run" in answer.err


def test_a_worker_that_leaves_a_queue_aside_does_not_end_as_if_all_was_done(folder: Folder) -> None:
    assert folder.call("enqueue", "graph.yaml", "-i", "count=1", "--queue", "limited").code == 0
    assert folder.call("enqueue", "graph.yaml", "-i", "count=1").code == 0
    assert folder.call("queues", "--limit", "limited", "--concurrency", "1").code == 0
    with closing(sqlite3.connect(folder.path / DEFAULT_CHECKPOINT)) as database, database:
        database.execute("UPDATE limits SET limits = 'x'")
    words = ("worker", "graph.yaml", "--until-idle", "--queue", "default", "--queue", "limited", "--log-level", "off")
    answer = folder.call(*words)
    assert answer.code == 7
    assert "the worker left 1 run or queue aside" in answer.err
    assert folder.call("queues", "--unlimited", "limited").code == 0
    assert work(folder, "--queue", "limited")["executions"] == {"done": 1}


def test_from_enqueue_to_done(folder: Folder) -> None:
    first = folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", "r1", "--tag", "a=b")
    assert (first.code, first.out) == (0, "run r1 is queued in default\n")
    again = folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", "r1", "--json")
    assert again.json == {"run_id": "r1", "is_new": False, "queue": "default"}
    other = folder.call("enqueue", "graph.yaml", "-i", "count=2", "--run-id", "r1", "--json")
    assert (other.code, other.json["error"]["reason"]) == (2, "run-exists")
    assert folder.call("runs", "--status", "queued", "--json").json[0]["queue"]["name"] == "default"
    (counts,) = folder.call("queues", "--json").json
    assert (counts["queue"], counts["ready"], counts["limits"]) == ("default", 1, None)
    found = work(folder)
    assert (found["claims"], found["executions"]) == (1, {"done": 1})
    assert folder.call("runs", "--json").json[0]["metadata"] == {"a": "b"}
    assert folder.call("workers").out == "no workers\n"


def test_options_are_stored(folder: Folder) -> None:
    words = ("--queue", "mail", "--priority", "7", "--not-before", "12h", "--key", "k")
    assert folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", "r1", *words).code == 0
    (run,) = folder.call("runs", "--queue", "mail", "--json").json
    assert (run["queue"]["priority"], run["queue"]["concurrency_key"]) == (7, "k")
    due = datetime.fromisoformat(run["due_at"])
    assert timedelta(hours=11) < due - datetime.now(UTC) < timedelta(hours=13)
    assert folder.call("runs", "--queue", "default").out == "no runs\n"
    assert work(folder, "--queue", "mail")["claims"] == 0
    wrong = folder.call("enqueue", "graph.yaml", "-i", "count=1", "--not-before", "soon")
    assert (wrong.code, "--not-before 'soon' is not a time" in wrong.err) == (2, True)


def test_a_run_that_does_not_fit_is_refused_before_a_store_is_made(folder: Folder) -> None:
    answer = folder.call("enqueue", "graph.yaml", "-i", "count=x")
    assert answer.code == 2
    assert "count" in answer.err
    assert folder.call("enqueue", "graph.yaml", "-i", "count=1", "--queue", "a b").code == 2
    assert not (folder.path / ".stargraph").exists()


def test_lines_from_stdin(folder: Folder) -> None:
    later = "2126-01-31T12:00:00+00:00"
    lines = [
        {"inputs": {"count": 1}, "run_id": "r1"},
        {"inputs": {"count": 2}, "run_id": "r2", "queue": "mail", "priority": -1, "metadata": {"a": "b"}},
        {"inputs": {"count": 3}, "not_before": later, "concurrency_key": "k"},
    ]
    text = "\n\n".join(map(json.dumps, lines)) + "\n"
    answer = folder.call("enqueue", "graph.yaml", "--lines", "-", "--priority", "4", stdin=text)
    assert (answer.code, answer.out) == (0, "3 runs enqueued\n")
    runs = {run["run_id"]: run for run in folder.call("runs", "--json").json}
    assert (runs["r1"]["queue"]["priority"], runs["r2"]["queue"]["priority"]) == (4, -1)
    assert (runs["r2"]["queue"]["name"], runs["r2"]["metadata"]) == ("mail", {"a": "b"})
    (third,) = [run for run in runs.values() if run["run_id"] not in ("r1", "r2")]
    assert datetime.fromisoformat(third["due_at"]) == datetime.fromisoformat(later)
    folder.write("lines.jsonl", "\n".join(map(json.dumps, lines[:2])))
    again = folder.call("enqueue", "graph.yaml", "--lines", "lines.jsonl")
    assert again.out == "0 runs enqueued; 2 runs had been enqueued before\n"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"inputs": {"count": "x"}}', "count"),
        ('{"inputs": {"count": NaN}}', "NaN is not JSON"),
        ('{"inputs": {"count": 1, "count": 2}}', "a key twice"),
        ('{"inputs": {}}', "'count' is missing"),
        ('{"inputs": {"count": 1}, "runid": "r"}', "there is no member 'runid'"),
        ('{"inputs": {"count": 1}, "run_id": "a b"}', "'a b' cannot be a run id"),
        ('{"inputs": {"count": 1}, "priority": true}', "priority is True, not an integer"),
        ('{"inputs": {"count": 1}, "priority": 1e30}', "priority is 1e+30, not an integer"),
        ('{"inputs": {"count": 1}, "queue": "a b"}', "queue"),
        ('{"inputs": {"count": 1}, "not_before": "2026-01-01T00:00:00"}', "not a time with its offset"),
        ('{"inputs": {"count": 1}, "metadata": {"a": 1}}', "metadata"),
        ('{"inputs": 3}', "inputs is 3, not an object"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_enqueued(folder: Folder, line: str, complaint: str) -> None:
    good = json.dumps({"inputs": {"count": 1}})
    answer = folder.call("enqueue", "graph.yaml", "--lines", "-", stdin=f"{good}\n{line}\n{good}\n")
    assert answer.code == 2
    assert answer.err.startswith("error: stdin, line 2: "), answer.err
    assert complaint in answer.err
    assert "No run was enqueued" in answer.err
    assert not (folder.path / ".stargraph").exists()


def test_a_line_whose_run_id_is_taken_is_named(folder: Folder) -> None:
    folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", "taken")
    lines = [{"run_id": run_id, "inputs": {"count": 2}} for run_id in ("a", "taken", "b")]
    stdin = "\n".join(map(json.dumps, lines))
    answer = folder.call("enqueue", "graph.yaml", "--lines", "-", "--json", stdin=stdin)
    assert (answer.code, answer.json["error"]["reason"]) == (2, "run-exists")
    assert answer.json["error"]["message"].startswith("stdin, line 2: run 'taken' exists already")
    assert answer.json["error"]["hint"].startswith("No run was enqueued.")
    assert [run["run_id"] for run in folder.call("runs", "--json").json] == ["taken"]


def test_lines_that_a_store_does_not_take_may_be_enqueued_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(self: SQLiteCheckpointer, checkpoint: Checkpoint) -> None:
        raise StoreUnavailableError("the disk is full", reason="disk-full", hint="Make room.")

    monkeypatch.setattr(SQLiteCheckpointer, "write", write)
    line = json.dumps({"run_id": "a", "inputs": {"count": 2}})
    answer = folder.call("enqueue", "graph.yaml", "--lines", "-", stdin=f"{line}\n")
    assert (answer.code, "hint: Make room. Some lines may be enqueued: enqueue the whole file again" in answer.err) == (
        7,
        True,
    )


def test_no_line_may_be_enqueued_in_a_store_that_does_not_open(folder: Folder) -> None:
    folder.write("no.sqlite", "this is not a store, and long enough to be read as one")
    line = json.dumps({"inputs": {"count": 2}})
    answer = folder.call("enqueue", "graph.yaml", "--lines", "-", "--checkpoint", "no.sqlite", stdin=f"{line}\n")
    assert (answer.code, "Some lines" in answer.err) == (7, False)


def test_an_empty_run_id_is_refused_and_not_made_up(folder: Folder) -> None:
    assert folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", "").code == 2
    answer = folder.call("enqueue", "graph.yaml", "--lines", "-", stdin='{"inputs": {"count": 2}, "run_id": ""}\n')
    assert (answer.code, "line 1: '' cannot be a run id" in answer.err) == (2, True)


def test_lines_and_inputs_exclude_each_other(folder: Folder) -> None:
    for words in (("-i", "count=1"), ("--run-id", "r")):
        assert folder.call("enqueue", "graph.yaml", "--lines", "-", *words, stdin="").code == 2


def test_one_taken_id_stores_none(folder: Folder) -> None:
    folder.call("enqueue", "graph.yaml", "-i", "count=9", "--run-id", "r2")
    lines = "\n".join(json.dumps({"inputs": {"count": n}, "run_id": f"r{n}"}) for n in range(4))
    answer = folder.call("enqueue", "graph.yaml", "--lines", "-", "--json", stdin=lines)
    assert (answer.code, answer.json["error"]["reason"]) == (2, "run-exists")
    assert [run["run_id"] for run in folder.call("runs", "--json").json] == ["r2"]


def test_dead_letters_are_found_and_requeued(folder: Folder) -> None:
    for number, queue in enumerate(("default", "mail")):
        words = ("-i", f"count={number}", "-i", "fail=true", "--run-id", f"r{number}", "--queue", queue)
        folder.call("enqueue", "graph.yaml", *words)
    assert work(folder, "--queue", "default", "--queue", "mail")["executions"] == {"failed": 2}
    assert [run["run_id"] for run in folder.call("runs", "--status", "failed", "--queue", "mail", "--json").json] == [
        "r1"
    ]
    named = folder.call("requeue", "r0", "--priority", "3", "--json")
    assert named.json == [{"run_id": "r0", "step": 3, "status": "queued", "queue": "default"}]
    rest = folder.call("requeue", "--status", "failed", "--queue", "mail")
    assert rest.out == "1 run requeued\n"
    assert folder.call("requeue", "--status", "failed").out == "0 runs requeued\n"
    assert {run["status"] for run in folder.call("runs", "--json").json} == {"queued"}
    for wrong in ((), ("r0", "--status", "failed"), ("--status", "running"), ("r0", "--error-reason", "x")):
        assert folder.call("requeue", *wrong).code == 2
    folder.call("cancel", "r0")
    refused = folder.call("requeue", "r0", "--json")
    assert (refused.code, refused.json["error"]["reason"]) == (2, "run-ended")


def test_a_run_that_was_not_enqueued_gets_a_queue(folder: Folder) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1", "-i", "fail=true", "--run-id", "r1").code == 1
    assert folder.call("requeue", "r1", "--queue", "mail").code == 0
    assert folder.call("runs", "--queue", "mail", "--json").json[0]["status"] == "queued"


def test_limits_are_set_shown_and_removed(folder: Folder) -> None:
    folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", "r1")
    shown = folder.call("queues", "--limit", "default", "--concurrency", "0", "--rate", "5", "--period", "60")
    said, _, row = shown.out.splitlines()
    assert said == "queue default is limited: stopped, 5 in 60 s"
    assert row.endswith("stopped, 5 in 60 s")
    assert work(folder)["claims"] == 0
    (counts,) = folder.call("queues", "--unlimited", "default", "--json").json
    assert counts["limits"] is None
    for name in ("default", "no-such-queue"):
        assert folder.call("queues", "--unlimited", name).out.splitlines()[0] == f"queue {name} has no limits"
    assert work(folder)["claims"] == 1
    for wrong in (("--concurrency", "1"), ("--limit", "default"), ("--limit", "a b", "--rate", "1")):
        assert folder.call("queues", *wrong).code == 2


def test_workers_are_shown_with_what_they_serve(folder: Folder) -> None:
    folder.call("enqueue", "graph.yaml", "-i", "count=1")
    versions = [GraphVersion("order", digit * 64, digit * 64) for digit in "ab"]
    worker = WorkerInfo(host="h", pid=7, version="1", id="0" * 16, queues=("default", "mail"), serves=versions)

    async def beat() -> None:
        async with SQLiteCheckpointer(folder.path / DEFAULT_CHECKPOINT) as store:
            await store.beat(worker)
            await store.beat(ProcessInfo(host="h", pid=8, version="1", id="1" * 16))

    asyncio.run(beat())
    header, *rows = folder.call("workers").out.splitlines()
    assert "QUEUES" in header
    # Which was seen first is up to the clock, which may be set back by a moment.
    assert [("default, mail  order ×2" in row, "order" in row) for row in sorted(rows, key=len, reverse=True)] == [
        (True, True),
        (False, False),
    ]
    shown = {each["process"]["pid"]: each["process"].get("queues") for each in folder.call("workers", "--json").json}
    assert shown == {7: ["default", "mail"], 8: None}


def test_the_doctor_goes_on_beside_a_damaged_run(folder: Folder) -> None:
    for run_id in ("lost", "spoilt"):
        assert folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", run_id).code == 0
    with closing(sqlite3.connect(folder.path / DEFAULT_CHECKPOINT)) as database, database:
        database.execute("UPDATE runs SET summary = 'x' WHERE run_id = 'spoilt'")
        database.execute("DELETE FROM queued WHERE run_id = 'lost'")
    answer = folder.call("doctor")
    assert answer.code == 7
    assert "works, but holds damage" in answer.out
    assert "repaired: run 'lost' was missing in the index of queues" in answer.out
    assert "damaged: run 'spoilt': the stored summary does not belong to this run" in answer.out
    assert work(folder, code=7)["executions"] == {"done": 1}


def test_the_doctor_repairs_a_lost_queue_row(folder: Folder) -> None:
    folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", "r1")
    with closing(sqlite3.connect(folder.path / DEFAULT_CHECKPOINT)) as database, database:
        database.execute("DELETE FROM queued")
    assert work(folder)["claims"] == 0
    assert "repaired: run 'r1' was missing in the index of queues" in folder.call("doctor").out
    assert folder.call("doctor", "--json").json["store"]["repaired"] == []
    assert work(folder)["executions"] == {"done": 1}


def test_runs_that_nobody_takes(folder: Folder) -> None:
    folder.call("enqueue", "graph.yaml", "-i", "count=1", "--run-id", "r1")
    assert folder.call("runs", "--stranded").out == "no runs\n"  # it has not waited for a minute
    assert folder.call("runs", "--orphaned", "--json").json == []
    assert folder.call("runs", "--orphaned", "--stranded").code == 2
    assert folder.call("runs", "--queue", "default", "--counts").code == 2


def test_a_worker_refuses_what_it_cannot_serve(folder: Folder) -> None:
    folder.call("enqueue", "graph.yaml", "-i", "count=1")
    for words in (
        ("nowhere.yaml",),
        ("graph.yaml", "--poison-after", "2"),
        ("graph.yaml", "--listen", "here"),
        ("graph.yaml", "--checkpoint", "nowhere.sqlite"),
    ):
        answer = folder.call("worker", *words, "--until-idle", "--log-level", "off")
        assert answer.code == 2, answer
        assert answer.err.startswith("error: ")
