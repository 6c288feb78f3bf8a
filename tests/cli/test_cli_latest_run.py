"""Commands without a run take the latest one, and run --resume goes on with a run that is known."""

from __future__ import annotations

import pytest
from support.cli import Folder

OTHER = "id: other\nstate_schema: {yes: {type: 'bool | None', default: null}}\nnodes:\n  - {id: a, kind: echo}\n"
ASKING = OTHER.replace("{id: a, kind: echo}", "{id: a, kind: interrupt, prompt: 'Well?', into: yes}")


@pytest.fixture
def two(folder: Folder) -> Folder:
    folder.write("other.yaml", ASKING)
    assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "first", "-q").code == 0
    assert folder.call("run", "other.yaml", "--run-id", "second", "-q").code == 3
    return folder


def test_inspect_and_respond_take_the_latest_run(two: Folder) -> None:
    assert two.call("inspect", "--json").json["run_id"] == "second"
    assert two.call("inspect", "--step", "0", "--json").json["run_id"] == "second"
    assert two.call("respond", "--value", "true", "--json").json["run_id"] == "second"


def test_resume_and_replay_take_the_latest_run_of_the_graph(two: Folder) -> None:
    assert two.call("respond", "--value", "true").code == 0
    assert two.call("resume", "graph.yaml", "--json", "-q").json["run_id"] == "first"
    assert two.call("resume", "other.yaml", "--json", "-q").json["run_id"] == "second"
    assert two.call("resume", "latest", "other.yaml", "--json", "-q").json["run_id"] == "second"
    assert two.call("replay", "graph.yaml", "--json").json["run_id"] == "first"
    assert two.call("resume", "first", "graph.yaml", "--check").code == 0


def test_there_is_nothing_to_take(folder: Folder) -> None:
    assert folder.call("migrate").code == 0
    for words in (("inspect",), ("respond", "--value", "1")):
        answer = folder.call(*words)
        assert (answer.code, answer.err.splitlines()[0]) == (2, "error: the store holds no run")
    answer = folder.call("resume", "graph.yaml")
    assert answer.err.splitlines()[0] == "error: the store holds no run of the graph 'demo'"
    answer = folder.call("resume", "nothing")
    assert answer.code == 2
    assert answer.err.startswith("error: GRAPH is missing, and 'nothing' names no graph")


def test_the_help_shows_what_may_be_left_out(folder: Folder) -> None:
    assert folder.call("resume", "--help").out.splitlines()[0] == "Usage: stargraph resume [OPTIONS] [RUN_ID] [GRAPH]"
    assert folder.call("inspect", "--help").out.splitlines()[0] == "Usage: stargraph inspect [OPTIONS] [RUN_ID]"
    for command in ("resume", "replay"):
        assert folder.call(command).err.splitlines()[0] == "error: GRAPH is missing"


def test_run_starts_or_goes_on(folder: Folder) -> None:
    folder.write("other.yaml", ASKING)
    words = ("run", "other.yaml", "--run-id", "r", "--resume", "--json", "-q")
    assert folder.call(*words).json["last_step"] == 1
    assert folder.call(*words).json["last_step"] == 2
    assert folder.call("respond", "--value", "true").code == 0
    assert folder.call(*words).json["state"] == {"yes": True}
    assert folder.call("run", "other.yaml", "--run-id", "r", "-q").code == 2
    refused = folder.call("run", "other.yaml", "--resume")
    assert (refused.code, refused.err.splitlines()[0]) == (2, "error: --resume needs --run-id")


def test_a_run_that_is_resumed_needs_no_inputs(folder: Folder) -> None:
    words = ("run", "graph.yaml", "--run-id", "r", "--resume", "--json", "-q")
    assert "'count' is missing" in folder.call(*words).err
    assert folder.call(*words, "-i", "count=1").json["state"]["count"] == 3
    assert folder.call(*words).json["state"]["count"] == 3
