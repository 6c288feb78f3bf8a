"""A run crosses a change of its graph, or is refused before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import nodes
from support.graphs import graph
from support.memory import MemoryCheckpointer

from stargraph.errors import GraphError, HashMismatchError, StargraphError, StateError
from stargraph.graph import Graph, GraphBuilder

OLD = """
state_schema: {n: {type: int, default: 0}, yes: {type: "bool | None", default: null}}
nodes: [{id: a, kind: "support.nodes:count"}, {id: ask, kind: interrupt, prompt: "Sure?", into: yes}]
"""

NEW = """
state_schema: {n: {type: int, default: 0}, total: int, yes: {type: "bool | None", default: null}}
nodes:
  - {id: a, kind: "support.nodes:count"}
  - {id: confirm, kind: interrupt, prompt: "Really sure?", into: yes}
  - {id: last, kind: "support.nodes:count"}
migrate:
  - {from: FROM, state: ["support.nodes:TRANSFORM"], rename: {ask: confirm}}
"""


async def waiting(store: MemoryCheckpointer) -> Graph:
    old = graph(OLD)
    run = await old.start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "awaiting_input"
    return old


def new_graph(old: Graph, transform: str = "add_total", rename: str = "{ask: confirm}") -> Graph:
    text = NEW.replace("FROM", f'"{old.graph_hash[:16]}"').replace("TRANSFORM", transform)
    return graph(text.replace("{ask: confirm}", rename))


async def test_a_run_crosses_and_the_log_says_so(store: MemoryCheckpointer) -> None:
    old = await waiting(store)
    new = new_graph(old)
    run = await new.start(checkpointer=store)
    assert (await run.check("r")).status == "awaiting_input"
    assert store.events("r") == ["started", "completed a", "asked ask"]
    assert (await run.resume("r")).status == "awaiting_input"
    assert store.events("r")[3:] == ["migrated", "resumed", "asked confirm"]
    record = store.runs["r"][3]
    assert record.state == {"n": 1, "total": 100, "yes": None}
    assert record.graph_hash == new.graph_hash
    assert record.definition is not None
    (question,) = store.runs["r"][-1].interrupts
    assert question.prompt == "Really sure?", "an answer to what the older graph asked is none to this"
    await run.answer(question.id, True)
    assert (await run.resume()).status == "done"
    assert run.state == {"n": 2, "total": 100, "yes": True}


def built(old: Graph, *transforms: Any, **rename: str) -> GraphBuilder:
    """The newer graph, written in Python."""
    builder = GraphBuilder("g")
    builder.state(n=(int, 0), total=int, yes=(bool | None, None))
    builder.node(id="a")(nodes.count)
    builder.add_node("confirm", "interrupt", prompt="Really sure?", into="yes")
    builder.node(id="last")(nodes.count)
    return builder.migrate(old.graph_hash[:16], *transforms, rename=rename)


@pytest.mark.parametrize("transform", [nodes.add_total, "support.nodes:add_total"])
async def test_a_graph_in_python_carries_runs_over(store: MemoryCheckpointer, transform: Any) -> None:
    old = await waiting(store)
    new = Graph(built(old, transform, ask="confirm"))
    assert new.ir.migrate == new_graph(old).ir.migrate
    run = await new.start(checkpointer=store)
    await run.resume("r")
    assert store.events("r")[3:] == ["migrated", "resumed", "asked confirm"]
    assert run.state == {"n": 1, "total": 100, "yes": None}


async def test_the_second_migration_from_a_version_counts(store: MemoryCheckpointer) -> None:
    old = await waiting(store)
    builder = built(old, nodes.fail_transform)
    builder.migrate(old.graph_hash[:16], nodes.add_total, rename={"ask": "confirm"})
    assert Graph(builder).ir.migrate == new_graph(old).ir.migrate


def test_a_node_is_renamed_to_its_function() -> None:
    builder = GraphBuilder("g")
    builder.node(id="new")(nodes.count)
    assert builder.migrate("f" * 12, rename={"old": nodes.count}).build().migrate[0].rename == {"old": "new"}
    with pytest.raises(GraphError, match="is not a node of the graph"):
        builder.migrate("f" * 12, rename={"old": nodes.add_total})


def test_a_migration_is_checked_at_the_line_that_says_it() -> None:
    builder = GraphBuilder("g").add_node("a", "echo")
    builder.migrate("f" * 12, "no name", rename={"old": "b"}).migrate("of yesterday")
    with pytest.raises(GraphError) as caught:
        builder.build()
    assert "migrate[1].from: 'of yesterday' is not a graph_hash" in str(caught.value)
    with pytest.raises(GraphError) as caught:
        GraphBuilder("g").add_node("a", "echo").migrate("f" * 12, "no name", rename={"old": "b"}).build()
    assert "migrate[0].state[0]: 'no name' does not name a function" in str(caught.value)
    assert "migrate[0].rename.old: there is no node 'b'" in str(caught.value)
    assert Path(__file__).name in str(caught.value)
    with pytest.raises(GraphError, match="a lambda has no name"):
        builder.migrate("f" * 12, lambda state: state)


async def test_the_migrate_block_does_not_count_for_the_hash(store: MemoryCheckpointer) -> None:
    old = await waiting(store)
    without = graph(NEW.partition("migrate:")[0])
    assert new_graph(old).graph_hash == without.graph_hash


@pytest.mark.parametrize(
    ("transform", "rename", "error", "reason"),
    [
        ("fail_transform", "{ask: confirm}", StateError, "transform-failed"),
        ("list_transform", "{ask: confirm}", StateError, "transform-failed"),
        ("same_state", "{ask: confirm}", StateError, "wrong-type"),
        ("nan_total", "{ask: confirm}", StateError, "not-json"),
        ("no_such_transform", "{ask: confirm}", GraphError, "name-not-found"),
        ("add_total", "{}", GraphError, "migration-without-node"),
    ],
)
async def test_a_migration_that_fails_writes_nothing(
    store: MemoryCheckpointer, transform: str, rename: str, error: type[StargraphError], reason: str
) -> None:
    old = await waiting(store)
    run = await new_graph(old, transform, rename).start(checkpointer=store)
    for attempt in (run.check, run.resume):
        with pytest.raises(error) as caught:
            await attempt("r")
        assert caught.value.reason == reason
    assert store.events("r") == ["started", "completed a", "asked ask"]


async def test_a_graph_that_no_entry_names_is_refused(store: MemoryCheckpointer) -> None:
    await waiting(store)
    other = graph(NEW.replace("FROM", '"000000000000"').replace("TRANSFORM", "add_total"))
    with pytest.raises(HashMismatchError, match="migrate block"):
        await (await other.start(checkpointer=store)).check("r")


async def test_all_that_has_to_be_accepted_is_named_at_once(store: MemoryCheckpointer) -> None:
    await waiting(store)
    more = OLD.replace("into: yes}]", 'into: yes}, {id: b, kind: "support.nodes:count"}]')
    run = await graph(more).start(checkpointer=store)
    with pytest.raises(HashMismatchError) as caught:
        await run.resume("r")
    assert caught.value.reason == "graph-hash"
    assert caught.value.changes == ("node 'b' was added", "the code of node 'b' is new")
    assert "--accept graph --accept runtime" in str(caught.value.hint)
    assert (await run.resume("r", accept=("graph", "runtime"))).status == "awaiting_input"


async def test_a_graph_under_a_new_id_names_all_that_has_to_be_accepted(store: MemoryCheckpointer) -> None:
    await waiting(store)
    more = OLD.replace("into: yes}]", 'into: yes}, {id: b, kind: "support.nodes:count"}]')
    run = await graph(f"id: renamed\n{more}").start(checkpointer=store)
    with pytest.raises(HashMismatchError, match="belongs to graph") as caught:
        await run.resume("r")
    assert caught.value.changes[1:] == ("node 'b' was added", "the code of node 'b' is new")
    assert "--accept graph --accept runtime" in str(caught.value.hint)
    assert (await run.resume("r", accept=("graph", "runtime"))).status == "awaiting_input"


async def test_a_state_that_an_accepted_change_cannot_take_is_refused(store: MemoryCheckpointer) -> None:
    await waiting(store)
    run = await graph(OLD.replace("n: {", "more: int, n: {")).start(checkpointer=store)
    with pytest.raises(StateError, match=r"step 2 of run 'r' does not fit this graph: state\.more") as caught:
        await run.resume("r", accept=("graph",))
    assert (caught.value.reason, caught.value.path) == ("wrong-type", "state.more")
    assert "Give a new field a default" in str(caught.value.hint)
    assert store.events("r")[3:] == []


async def test_an_accepted_change_must_still_know_the_next_node(store: MemoryCheckpointer) -> None:
    await waiting(store)
    run = await graph(OLD.replace("id: ask", "id: other")).start(checkpointer=store)
    with pytest.raises(GraphError) as caught:
        await run.resume("r", accept=("graph", "runtime"))
    assert caught.value.reason == "unknown-node"


async def test_branches_must_meet_before_a_migration(store: MemoryCheckpointer) -> None:
    forked = """
state_schema: {path: {type: "list[str]", reduce: append, default: []}}
nodes: [{id: a, kind: echo}, {id: b, kind: "support.nodes:confirm"}, {id: c, kind: echo}]
rules: [{id: each, when: {node: a}, then: [{kind: map, over: "[1, 2]", target: b, join: c}]}]
"""
    old = graph(forked)
    await (await old.start(checkpointer=store, run_id="r")).start()
    changed = forked.replace("[1, 2]", "[1, 2, 3]") + f'migrate: [{{from: "{old.graph_hash}"}}]'
    with pytest.raises(GraphError) as caught:
        await (await graph(changed).start(checkpointer=store)).resume("r")
    assert caught.value.reason == "migration-in-fork"


PARENT = """
id: parent
state_schema: {n: {type: int, default: 0}}
nodes:
  - {id: sub, kind: subgraph, graph: child.yaml, outputs: {n: "state.n"}}
  - {id: last, kind: "support.nodes:count"}
"""
OLD_CHILD = f"id: child\n{OLD}"
NEW_CHILD = f"id: child\n{NEW}"


def family(folder: Path, child: str) -> Graph:
    folder.mkdir()
    (folder / "child.yaml").write_text(f'ir_version: "1.0.0"\n{child}')
    (folder / "parent.yaml").write_text(f'ir_version: "1.0.0"\n{PARENT}')
    return Graph.from_file(folder / "parent.yaml")


async def waiting_child(store: MemoryCheckpointer, folder: Path) -> str:
    """Start the parent; its child waits. Return the hash of the child's graph."""
    run = await family(folder, OLD_CHILD).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "awaiting_input"
    (child,) = (run_id for run_id in store.runs if run_id != "r")
    return store.runs[child][0].graph_hash


def new_child(old_hash: str, rename: str = "{ask: confirm}") -> str:
    return (
        NEW_CHILD.replace("FROM", f'"{old_hash[:16]}"')
        .replace("TRANSFORM", "add_total")
        .replace("{ask: confirm}", rename)
    )


async def test_a_child_run_crosses_by_the_migrate_block_of_its_own_graph(
    store: MemoryCheckpointer, tmp_path: Path
) -> None:
    old_hash = await waiting_child(store, tmp_path / "old")
    run = await family(tmp_path / "new", new_child(old_hash)).start(checkpointer=store)
    assert (await run.check("r")).status == "awaiting_input"
    assert (await run.resume("r")).status == "awaiting_input"
    (child,) = (run_id for run_id in store.runs if run_id != "r")
    assert store.events(child)[3:] == ["migrated", "resumed", "asked confirm"]
    (question,) = store.runs["r"][-1].interrupts
    await run.answer(question.id, True)
    assert (await run.resume()).status == "done"
    assert run.state == {"n": 3}


async def test_a_child_that_no_entry_carries_over_is_refused(store: MemoryCheckpointer, tmp_path: Path) -> None:
    await waiting_child(store, tmp_path / "old")
    run = await family(tmp_path / "new", new_child("0" * 64)).start(checkpointer=store)
    before = store.events("r")
    with pytest.raises(HashMismatchError):
        await run.resume("r")
    assert store.events("r") == before


async def test_an_accepted_change_does_not_leave_a_child_before_a_node_that_is_gone(
    store: MemoryCheckpointer, tmp_path: Path
) -> None:
    await waiting_child(store, tmp_path / "old")
    run = await family(tmp_path / "new", new_child("0" * 64)).start(checkpointer=store)
    with pytest.raises(GraphError) as raised:
        await run.resume("r", accept=("graph", "runtime"))
    assert raised.value.reason == "unknown-node"
