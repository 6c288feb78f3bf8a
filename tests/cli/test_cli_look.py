"""`stargraph runs`, `inspect`, `drivers` and `doctor`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime

import pytest
from support.cli import STEPS, Folder
from support.memory import MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpointer
from stargraph.cli._store import StoreRef


@pytest.fixture
def three_runs(folder: Folder) -> Folder:
    folder.write("other.yaml", "id: other\nnodes:\n  - {id: e, kind: 'steps:fails'}\n")
    folder.write("steps.py", STEPS + "def fails(state): raise OSError('disk\\x07')\n")
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1", "--tag", "team=a", "-q").code == 0
    assert folder.call("run", "other.yaml", "--run-id", "r2", "--tag", "team=b", "-q").code == 1
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r3", "--tag", "team=b", "-q").code == 0
    return folder


def ids(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[1:]]


def test_runs_are_listed_newest_first(three_runs: Folder) -> None:
    answer = three_runs.call("runs")
    assert answer.code == 0
    assert ids(answer.out) == ["r3", "r2", "r1"]
    header, third, second, _ = (line.split() for line in answer.out.splitlines())
    assert header == ["RUN", "GRAPH", "STATUS", "STEP", "STARTED", "UPDATED", "TAGS"]
    assert third[1:4] == ["demo", "done", "3"]
    assert second[1:4] == ["other", "failed", "1"]
    assert second[-1] == "team=b"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--status", "failed"], ["r2"]),
        (["--graph", "demo"], ["r3", "r1"]),
        (["--tag", "team=b"], ["r3", "r2"]),
        (["--tag", "team=b", "--status", "done"], ["r3"]),
        (["--since", "1h"], ["r3", "r2", "r1"]),
        (["--since", "2999-01-01"], []),
        (["--limit", "1"], ["r3"]),
        (["--limit", "0"], []),
    ],
    ids=" ".join,
)
def test_runs_are_filtered(three_runs: Folder, filters: list[str], expected: list[str]) -> None:
    shown = three_runs.call("runs", "--json", *filters)
    assert [run["run_id"] for run in shown.json] == expected
    assert ids(three_runs.call("runs", *filters).out) == expected


def test_more_runs_than_shown_is_said_on_stderr(three_runs: Folder) -> None:
    assert "more runs" in three_runs.call("runs", "--limit", "2").err
    assert three_runs.call("runs", "--limit", "3").err == ""


def test_since_takes_local_times_and_offsets(three_runs: Folder) -> None:
    started = datetime.fromisoformat(three_runs.call("runs", "--json").json[1]["started_at"])
    for text in (started.isoformat(), started.astimezone().replace(tzinfo=None).isoformat()):
        assert len(three_runs.call("runs", "--json", "--since", text).json) == 2


def test_a_timeline_tells_what_each_step_changed(three_runs: Folder) -> None:
    answer = three_runs.call("inspect", "r1")
    head, _, timeline = answer.out.partition("\n\n")
    assert "run      r1" in head
    assert "status   done" in head
    assert "tags     team=a" in head
    header, *rows = (line.split() for line in timeline.splitlines())
    assert header == ["STEP", "EVENT", "NODE", "TOOK", "STATE", "CHANGED"]
    assert [row[:3] for row in rows[1:]] == [
        ["1", "completed", "first"],
        ["2", "completed", "second"],
        ["3", "completed", "third"],
    ]
    assert rows[1][-1] == "count=2"
    assert timeline.splitlines()[3].endswith('notes=["count is 2"]')


def test_a_timeline_is_json_too(three_runs: Folder) -> None:
    shown = three_runs.call("inspect", "r1", "--json").json
    assert (shown["run_id"], shown["status"], shown["last_step"]) == ("r1", "done", 3)
    assert [step["changed"] for step in shown["timeline"]][1:] == [["count"], ["notes"], ["count"]]
    assert all(step["seconds"] >= 0 and step["state_bytes"] > 10 for step in shown["timeline"][1:])


def test_a_step_is_shown_whole(three_runs: Folder) -> None:
    answer = three_runs.call("inspect", "r1", "--step", "2")
    assert '"notes": [\n    "count is 2"\n  ]' in answer.out
    assert "event    completed second" in answer.out
    assert "next     third" in answer.out
    shown = three_runs.call("inspect", "r1", "--step", "2", "--json").json
    assert shown["state"]["count"] == 2
    assert shown["step"] == 2


def test_a_failed_step_has_its_traceback_and_cannot_ring_the_bell(three_runs: Folder) -> None:
    answer = three_runs.call("inspect", "r2", "--step", "1")
    assert "Traceback" in answer.out
    assert "disk\\x07" in answer.out
    assert "\x07" not in answer.out
    assert "OSError: disk\\x07" in three_runs.call("inspect", "r2").out


def test_drivers(folder: Folder) -> None:
    answer = folder.call("drivers")
    assert "sqlite://" in answer.out
    assert {"sqlite"} <= {driver["scheme"] for driver in folder.call("drivers", "--json").json}


def test_doctor_tells_what_a_driver_knows_to_be_wrong(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version", "3.52.0")
    assert "problem: SQLite 3.52.0: SQLite 3.52.0 was withdrawn" in folder.call("doctor").out
    monkeypatch.setattr("sqlite3.sqlite_version", "3.53.1")
    assert "problem" not in folder.call("doctor").out


def test_doctor(three_runs: Folder) -> None:
    answer = three_runs.call("doctor")
    assert answer.code == 0
    assert "works; newest run r3" in answer.out
    assert three_runs.call("doctor", "--json").json["store"]["state"] == "works"
    unmade = three_runs.call("doctor", "elsewhere.sqlite")
    assert unmade.code == 0
    assert "does not exist yet" in unmade.out
    assert not (three_runs.path / "elsewhere.sqlite").exists()
    bad = three_runs.call("doctor", "graph.yaml")
    assert bad.code == 7
    assert "does not work" in bad.out
    assert "not a Stargraph store" in bad.err
    assert three_runs.call("doctor", "graph.yaml", "--json").json["error"]["reason"] == "not-a-store"


def test_a_store_that_can_only_what_the_contract_demands(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryCheckpointer()

    @asynccontextmanager
    async def opened(ref: StoreRef, access: str):  # type: ignore[no-untyped-def]
        store: Checkpointer = memory
        await store.bootstrap()
        yield store

    monkeypatch.setattr(StoreRef, "opened", opened)
    for run_id in ("r1", "r2"):
        assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", run_id, "-q").code == 0
    assert ids(folder.call("runs").out) == ["r2", "r1"]
    limited = folder.call("runs", "--limit", "1")
    assert ids(limited.out) == ["r2"]
    assert "more runs" in limited.err
    refused = folder.call("runs", "--status", "done", "--tag", "a=b")
    assert refused.code == 2
    assert refused.err.startswith("error: --status, --tag: the driver MemoryCheckpointer cannot search")
    assert [step["step"] for step in folder.call("inspect", "r1", "--json").json["timeline"]] == [0, 1, 2, 3]
    folder.write("graph.yaml", "id: g\nnodes:\n  - {id: e, kind: echo}\n")
    assert folder.call("resume", "r3", "graph.yaml").code == 2
    assert "r3" not in memory.runs, "a resume that was refused has started a run"
