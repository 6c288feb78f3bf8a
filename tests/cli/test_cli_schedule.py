"""`stargraph schedule`: add, list, remove."""

from __future__ import annotations

import pytest
from support.cli import Folder

GRAPH = """\
id: demo
state_schema:
  count: int
nodes:
  - {id: first, kind: "steps:increase"}
"""


@pytest.fixture(autouse=True)
def _graph(folder: Folder) -> None:
    folder.write("graph.yaml", GRAPH)
    folder.write("steps.py", "def increase(state):\n    return {'count': state.count + 1}\n")


def test_a_schedule_is_added_listed_replaced_and_removed(folder: Folder) -> None:
    words = ("schedule", "add", "0 7 * * 1-5", "graph.yaml", "-i", "count=1", "--timezone", "Europe/Berlin")
    added = folder.call(*words, "--queue", "mail", "--tag", "a=b", "--json")
    assert added.code == 0, added
    assert (added.json["id"], added.json["inputs"], added.json["queue"]["name"]) == ("demo", {"count": 1}, "mail")
    assert added.json["next"] > added.json["since"]
    again = folder.call(*words, "--id", "demo", "--priority", "3")
    assert again.out.startswith("schedule demo: the next run is due ")
    (listed,) = folder.call("schedule", "list", "--json").json
    assert (listed["cron"], listed["queue"]["priority"], listed["metadata"]) == ("0 7 * * 1-5", 3, {})
    assert "demo" in folder.call("schedule", "list").out
    assert folder.call("schedule", "remove", "demo").out == "schedule demo removed\n"
    assert folder.call("schedule", "list").out == "no schedules\n"
    gone = folder.call("schedule", "remove", "demo", "--json")
    assert gone.json["error"]["reason"] == "no-such-schedule"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("0 7 * *", "graph.yaml", "-i", "count=1"), "invalid-schedule"),
        (("0 7 30 2 *", "graph.yaml", "-i", "count=1"), "invalid-schedule"),
        (("0 7 * * *", "graph.yaml", "-i", "count=1", "--timezone", "Mars/Olympus"), "invalid-schedule"),
        (("0 7 * * *", "graph.yaml", "-i", "count=1", "--id", "a b"), "invalid-schedule"),
        (("0 7 * * *", "graph.yaml", "-i", "count=1", "--queue", "a b"), "invalid-schedule"),
        (("0 7 * * *", "graph.yaml", "-i", "count=1.5"), "wrong-type"),
    ],
)
def test_what_could_never_run_is_refused_when_it_is_added(folder: Folder, words: tuple[str, ...], reason: str) -> None:
    refused = folder.call("schedule", "add", *words, "--json")
    assert refused.code != 0
    assert refused.json["error"]["reason"] == reason
    assert "pattern" not in refused.json["error"]["message"]
    if "a b" in words:
        assert "'a b'" in refused.json["error"]["message"]
    assert folder.call("schedule", "list", "--json").code != 0 or folder.call("schedule", "list", "--json").json == []
