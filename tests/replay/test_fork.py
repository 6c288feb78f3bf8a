"""A fork begins at any step of another run, differs as its overlay says, and never needs the other run again."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import calling_nodes, nodes
from support.calling_nodes import EFFECTS, do
from support.graphs import PATH, calling, everything, graph
from support.memory import Killed, MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint, JsonValue, RunSummary
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    HashMismatchError,
    StargraphError,
    StateError,
)
from stargraph.graph import Context, Graph, Run
from stargraph.replay import Overlay

ANSWERS: dict[str, JsonValue] = {"approve": "yes", "ask": "Ada", "confirm": "yes", "sure": "yes"}

ORDER = """
state_schema:
  n: {type: int, default: 0}
  user: {type: any, default: {name: Ada, scores: [1, 2, 3]}}
  path: {type: "list[str]", reduce: append, default: []}
  yes: {type: "str | None", default: null}
nodes:
  - {id: a, kind: "support.nodes:step"}
  - {id: b, kind: "support.nodes:count"}
  - {id: sure, kind: interrupt, prompt: "Sure of {n}?", into: yes}
  - {id: c, kind: "support.nodes:step"}
  - {id: d, kind: "support.nodes:step"}
rules:
  - {id: many, when: {node: b, if: "state.n > 5"}, then: [{kind: goto, target: d}]}
  - {id: refused, when: {node: sure, if: "state.yes == 'no'"}, then: [{kind: halt, reason: refused}]}
"""


async def to_the_end(run: Run, store: MemoryCheckpointer, summary: RunSummary) -> RunSummary:
    while summary.status == "awaiting_input":
        for interrupt in store.runs[run.run_id][-1].interrupts:
            await run.answer(interrupt.id, ANSWERS[interrupt.id.split("/")[-2].rpartition("-")[0]])
        summary = await run.resume()
    return summary


async def parent(loaded: Graph, store: MemoryCheckpointer) -> Run:
    run = await loaded.start(checkpointer=store, run_id="r", metadata={"team": "post"})
    assert (await to_the_end(run, store, await run.start())).status == "done"
    nodes.LEDGER.clear()
    return run


async def forked(
    run: Run, store: MemoryCheckpointer, step: int | None, overlay: Overlay | None = None, **options: Any
) -> Run:
    """Fork run `r` into run `f`, and take that to its end or as far as it goes; the parent stays byte for byte."""
    before = {key: record for key, record in store.records.items() if key[0] == "r"}
    fork = await run.fork(step, overlay, run_id="f", **options)
    assert "f" not in store.runs, "nothing is written before the start"
    await fork.start()
    assert {key: record for key, record in store.records.items() if key[0] == "r"} == before
    return fork


def state(store: MemoryCheckpointer, run_id: str = "f") -> dict[str, JsonValue]:
    return store.runs[run_id][-1].state


@pytest.mark.parametrize("build", [everything, calling])
async def test_from_every_step_without_the_parent(tmp_path: Path, build: Any) -> None:
    """The fork ends as the parent did, although the parent is gone, and does again only what was not done."""
    loaded = build(tmp_path)
    store = MemoryCheckpointer()
    await store.bootstrap()
    calling_nodes.reset()
    run = await parent(loaded, store)
    log = store.runs["r"]
    expected = state(store, "r")
    saved = dict(store.runs)
    done = Counter(EFFECTS)
    for step in range(log[-1].step):
        store.wipe()
        for checkpoint in itertools.chain.from_iterable(saved.values()):
            store.append_unseen(checkpoint)
        EFFECTS[:] = list(done.elements())
        nodes.LEDGER.clear()
        fork = await run.fork(step, run_id="f")
        # The child begins again: nothing leads to that of the parent.
        assert not any(call.task_id.startswith("sub-") for record in fork._opening for call in record.calls)
        assert not any(each.child_run_id for record in fork._opening for each in record.interrupts)
        store.wipe("r")
        summary = await to_the_end(fork, store, await fork.start())
        assert summary.status == "done", step
        assert (summary.origin, summary.parent_run_id, store.runs["f"][0].parent_step) == ("fork", "r", step)
        assert summary.metadata == {"team": "post"}
        if build is everything:
            assert state(store) == expected, step
            after = [record for record in log[step + 1 :] if record.event == "completed"]
            assert Counter(nodes.LEDGER)["last"] == 1
            completed = {record.task_id for record in after}
            again = {
                record.task_id for record in store.runs["f"] if record.event == "completed" and not record.definition
            }
            assert again == completed, step
        else:
            recorded = {
                call.name + call.task_id for record in log[: step + 1] for call in record.calls if call.error is None
            }
            made = Counter(EFFECTS) - done
            for effect in made:
                name, task = effect.split()
                in_child = task.startswith(("begin-", "end-"))
                assert in_child or name + task.split(":")[0] not in recorded, (step, effect)
        report = await fork.replay()
        assert report.differences == (), step


async def test_a_changed_state(store: MemoryCheckpointer) -> None:
    run = await parent(graph(ORDER), store)
    overlay = Overlay(state={"n": 5, "state.user.scores[1]": 20, 'user["full name"]': "Ada L."})
    fork = await forked(run, store, 1, overlay)
    assert nodes.LEDGER == ["b", "d"]
    assert state(store)["user"] == {"name": "Ada", "scores": [1, 20, 3], "full name": "Ada L."}
    assert state(store)["n"] == 6
    first = store.runs["f"][0]
    assert first.update == {"n": 5, "user": state(store)["user"]}
    assert first.definition["fork"]["state"] == dict(overlay.state)
    assert (await fork.replay()).differences == ()


async def test_without_a_step_a_changed_state_is_that_of_the_beginning(store: MemoryCheckpointer) -> None:
    run = await parent(graph(ORDER), store)
    await forked(run, store, None, Overlay(state={"n": 9}))
    assert store.runs["f"][0].parent_step == 0
    assert nodes.LEDGER == ["a", "b", "d"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n": "five"}, "wrong-type"),
        ({"m": 1}, "unknown-field"),
        ({"user.scores[3]": 1}, "no-such-path"),
        ({"user.nobody.name": 1}, "no-such-path"),
        ({"user[0]": 1}, "no-such-path"),
        ({"n.x": 1}, "no-such-path"),
        ({"": 1}, "bad-path"),
        ({"[0]": 1}, "bad-path"),
        ({".n": 1}, "bad-path"),
        ({"user..name": 1}, "bad-path"),
        ({"user[x]": 1}, "bad-path"),
        ({"user[": 1}, "bad-path"),
        ({"user scores": 1}, "bad-path"),
        ({"n": float("nan")}, "not-json"),
    ],
)
async def test_a_change_that_cannot_be(store: MemoryCheckpointer, changes: dict[str, Any], reason: str) -> None:
    run = await parent(graph(ORDER), store)
    with pytest.raises(StateError) as raised:
        await run.fork(1, Overlay(state=changes))
    assert raised.value.reason == reason


async def test_a_replaced_output(store: MemoryCheckpointer) -> None:
    run = await parent(graph(ORDER), store)
    fork = await forked(run, store, None, Overlay(outputs={"b": {"n": 7}}))
    assert store.runs["f"][0].parent_step == 1
    assert nodes.LEDGER == ["d"], "b is not run, and its rule decides by what was given"
    assert (state(store)["n"], state(store)["path"]) == (7, ["a", "d"])
    assert (await fork.replay()).differences == ()
    with pytest.raises(StateError):
        await run.fork(None, Overlay(outputs={"b": {"n": "seven"}}))


async def test_an_output_further_on_is_replaced_when_it_comes(store: MemoryCheckpointer) -> None:
    run = await parent(graph(ORDER), store)
    await forked(run, store, 0, Overlay(state={"n": 9}, outputs={"d": {"path": ["instead"]}}))
    assert nodes.LEDGER == ["a", "b"]
    assert state(store)["path"] == ["a", "instead"]


async def test_one_execution_of_a_node_is_named_by_its_task(store: MemoryCheckpointer) -> None:
    text = """
state_schema: {n: {type: int, default: 0}}
nodes: [{id: loop, kind: "support.nodes:count"}, {id: end, kind: echo}]
rules: [{id: again, when: {node: loop, if: "state.n < 5"}, then: [{kind: goto, target: loop}]}]
"""
    run = await parent(graph(text), store)
    third = store.runs["r"][3].task_id
    assert third is not None
    await forked(run, store, None, Overlay(outputs={third: {"n": 4}}))
    assert store.runs["f"][0].parent_step == 2
    assert [record.state["n"] for record in store.runs["f"]] == [2, 4, 5, 5]


async def test_a_replaced_answer(store: MemoryCheckpointer) -> None:
    run = await parent(graph(ORDER), store)
    await forked(run, store, None, Overlay(answers={"sure": "no"}))
    assert store.events("f") == ["started", "answered sure", "completed sure"]
    assert (store.runs["f"][-1].status, state(store)["yes"], nodes.LEDGER) == ("done", "no", [])


async def test_an_answer_further_on_is_given_when_it_is_asked(store: MemoryCheckpointer) -> None:
    run = await parent(graph(ORDER), store)
    question = next(record for record in store.runs["r"] if record.event == "asked").interrupts[0].id
    await forked(run, store, 0, Overlay(state={"path": ["other"]}, answers={question: "surely"}))
    assert state(store)["yes"] == "surely"
    store.wipe("f")
    await forked(run, store, 0, Overlay(state={"n": 2}, answers={question: "surely"}))
    assert store.runs["f"][-1].interrupts[0].prompt == "Sure of 3?", "a question that says something else is asked"
    store.wipe("f")
    assert (await forked(run, store, 0)).summary is not None
    assert store.runs["f"][-1].status == "awaiting_input", "what was answered before the fork is asked again after it"


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_the_answer_reaches_a_run_in_any_mode(store: MemoryCheckpointer, durability: Any) -> None:
    await parent(graph(ORDER), store)
    run = await graph(ORDER).start(checkpointer=store, run_id="r", durability=durability)
    await forked(run, store, 0, Overlay(answers={"sure": "yes"}))
    assert store.runs["f"][-1].status == "done"


CALLING = """
state_schema: {x: {type: any, default: null}}
nodes: [{id: a, kind: echo}, {id: play, kind: "support.calling_nodes:play"}, {id: b, kind: echo}]
"""


async def three_calls(state: Any, context: Context) -> Any:
    return {"x": [await context.call(name, do, name, len(EFFECTS)) for name in ("one", "two", "three")]}


async def test_a_dropped_call_runs_live_and_so_do_those_after_it(store: MemoryCheckpointer) -> None:
    calling_nodes.script = three_calls
    run = await parent(graph(CALLING), store)
    assert EFFECTS == ["one", "two", "three"]
    await forked(run, store, None, Overlay(drop_calls=("two",)))
    assert EFFECTS == ["one", "two", "three", "two", "three"]
    assert state(store)["x"] == [0, 3, 4]
    assert store.events("f") == [
        "started",
        "called play",
        "called play",
        "called play",
        "completed play",
        "completed b",
    ]


async def test_a_call_is_dropped_from_an_open_task(store: MemoryCheckpointer) -> None:
    calling_nodes.script = three_calls
    run = await parent(graph(CALLING), store)
    (last,) = (record.step for record in store.runs["r"] if record.calls and record.calls[0].name == "three")
    await forked(run, store, last, Overlay(drop_calls=("three",)))
    assert EFFECTS == ["one", "two", "three", "three"]
    store.wipe("f")
    await forked(run, store, last)
    assert len(EFFECTS) == 4, "all three are taken over"
    assert (await (await graph(CALLING).start(checkpointer=store)).replay("f")).differences == ()
    with pytest.raises(StargraphError) as raised:
        await run.fork(last, Overlay(drop_calls=("four",)))
    assert raised.value.reason == "bad-overlay"
    with pytest.raises(StargraphError):
        await run.fork(None, Overlay(drop_calls=("four",)))


async def test_an_effect_that_must_not_repeat_is_refused_unless_allowed(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        return {"x": await context.call("pay", do, "pay", len(EFFECTS), repeatable=False)}

    calling_nodes.script = script
    run = await parent(graph(CALLING), store)
    fork = await forked(run, store, 1)
    assert fork.summary is not None
    assert fork.summary.error is not None
    assert (fork.summary.status, fork.summary.error.reason) == ("failed", "effect-refused")
    assert EFFECTS == ["pay"]
    other = await graph(CALLING).start(checkpointer=store)
    assert (await other.resume("f")).status == "failed"
    assert EFFECTS == ["pay"]
    assert (await other.resume("f", allow_effects=True)).status == "done"
    assert EFFECTS == ["pay", "pay"]
    store.wipe("f")
    fork = await forked(run, store, 1, allow_effects=True)
    assert EFFECTS == ["pay", "pay", "pay"]
    store.wipe("f")
    await forked(run, store, 2)
    assert store.runs["f"][-1].status == "done"
    assert len(EFFECTS) == 3, "a recorded call is told, and needs no permission"


async def test_an_effect_in_a_child_of_a_fork_is_refused(store: MemoryCheckpointer, tmp_path: Path) -> None:
    async def script(state: Any, context: Context) -> Any:
        return {"x": await context.call("pay", do, "pay", repeatable=False)}

    calling_nodes.script = script
    (tmp_path / "child.yaml").write_text(f"id: child\n{CALLING}")
    loaded = graph("nodes: [{id: a, kind: echo}, {id: sub, kind: subgraph, graph: child.yaml}]", tmp_path)
    run = await parent(loaded, store)
    fork = await forked(run, store, 1)
    assert fork.summary is not None
    assert fork.summary.error is not None
    assert fork.summary.error.reason == "effect-refused"
    assert EFFECTS == ["pay"]
    fork = await forked_again(run, store)
    assert fork.summary is not None
    assert fork.summary.status == "done"


async def forked_again(run: Run, store: MemoryCheckpointer) -> Run:
    fork = await run.fork(1, run_id="f2", allow_effects=True)
    await fork.start()
    return fork


async def test_another_graph(store: MemoryCheckpointer) -> None:
    run = await parent(graph(ORDER), store)
    other = graph(ORDER.replace("state.n > 5", "state.n > 0"))
    with pytest.raises(HashMismatchError):
        await (await other.start(checkpointer=store, run_id="r")).fork(1)
    await forked(run, store, 1, Overlay(graph=other))
    assert nodes.LEDGER == ["b", "d"]
    assert store.runs["f"][0].graph_hash == other.graph_hash
    nodes.LEDGER.clear()
    store.wipe("f")
    await forked(run, store, None, Overlay(graph=other))
    assert nodes.LEDGER == ["a", "b", "d"]


async def test_a_graph_with_a_migrate_block(store: MemoryCheckpointer) -> None:
    old = graph("state_schema: {n: {type: int, default: 3}}\nnodes: [{id: a, kind: echo}, {id: b, kind: echo}]")
    run = await parent(old, store)
    new = graph(
        "state_schema: {n: {type: int, default: 3}, total: {type: int, default: 0}}\n"
        'nodes: [{id: a, kind: echo}, {id: c, kind: "support.nodes:count"}]\n'
        f"migrate: [{{from: {old.graph_hash}, rename: {{b: c}}, state: ['support.nodes:add_total']}}]"
    )
    await forked(run, store, 1, Overlay(graph=new, state={"n": 6}))
    assert state(store) == {"n": 7, "total": 300}


async def test_branches_cannot_go_on_in_another_graph(store: MemoryCheckpointer, tmp_path: Path) -> None:
    run = await parent(everything(tmp_path), store)
    step = next(record.step for record in store.runs["r"] if record.frontier[0].kind == "fan_out")
    text = (tmp_path / "child.yaml").read_text()
    (tmp_path / "child.yaml").write_text(text.replace("Who checks", "Who looks at").replace("begin", "start"))
    with pytest.raises(StargraphError) as raised:
        await run.fork(step, Overlay(graph=everything_again(tmp_path)))
    assert raised.value.reason == "migration-in-fork"


def everything_again(folder: Path) -> Graph:
    from support.graphs import EVERYTHING

    return graph(EVERYTHING, folder)


async def test_a_cancel_while_it_begins_waits_until_it_has_begun(store: MemoryCheckpointer, tmp_path: Path) -> None:
    run = await parent(everything(tmp_path), store)
    step = max(record.step for record in store.runs["r"] if record.frontier and record.frontier[0].kind == "fan_out")
    fork = await run.fork(step, run_id="f")
    write, begun = store.write, asyncio.Event()

    async def slow(checkpoint: Checkpoint) -> None:
        await write(checkpoint)
        begun.set()
        for _ in range(10):
            await asyncio.sleep(0)

    store.write = slow  # type: ignore[method-assign]
    started = asyncio.create_task(fork.start())
    await begun.wait()
    assert (await fork.cancel()).status == "cancelled"
    assert (await started).status == "cancelled"


async def test_a_crash_while_it_begins_is_seen(store: MemoryCheckpointer, tmp_path: Path) -> None:
    loaded = everything(tmp_path)
    run = await parent(loaded, store)
    log = store.runs["r"]
    step = max(record.step for record in log if record.frontier and record.frontier[0].kind == "fan_out")
    opening = len((await run.fork(step, run_id="f"))._opening)
    assert opening > 2
    for position in range(opening):
        store.wipe("f")

        def die(checkpoint: Checkpoint, at: int = position) -> None:
            if checkpoint.run_id == "f" and checkpoint.step == at:
                raise Killed

        store.after_write = die
        fork = await run.fork(step, run_id="f")
        with pytest.raises(Killed):
            await fork.start()
        store.after_write = lambda checkpoint: None
        other = await loaded.start(checkpointer=store)
        if position < opening - 1:
            for attempt in (other.check("f"), other.resume("f")):
                with pytest.raises(CheckpointError) as raised:
                    await attempt
                assert raised.value.reason == "unfinished-fork"
        else:
            summary = await to_the_end(other, store, await other.resume("f"))
            assert summary.status == "done"
            assert state(store) == state(store, "r")


async def test_a_lost_fork_goes_on_by_its_overlay(store: MemoryCheckpointer) -> None:
    run = await parent(graph(ORDER), store)
    overlay = Overlay(state={"n": 1}, outputs={"c": {"path": ["instead"]}}, answers={"sure": "yes"})
    fork = await run.fork(0, overlay, run_id="f")
    writes = 0

    def die(checkpoint: Checkpoint) -> None:
        nonlocal writes
        writes += 1
        if writes == 2:
            raise Killed

    store.after_write = die
    deaths = 0
    while store.runs.get("f", [None])[-1] is None or store.runs["f"][-1].status != "done":
        writes = 0
        other = await graph(ORDER).start(checkpointer=store)
        try:
            await (other.resume("f") if "f" in store.runs else fork.start())
        except Killed:
            deaths += 1
    assert deaths > 5
    assert state(store)["path"] == ["a", "instead", "d"]
    assert "c" not in nodes.LEDGER
    store.after_write = lambda checkpoint: None
    assert (await other.replay("f")).differences == ()


async def test_a_prune_leaves_an_open_fork_what_it_needs(tmp_path: Path) -> None:
    async with SQLiteCheckpointer(tmp_path / "runs.sqlite") as store:
        run = await graph(ORDER).start(checkpointer=store, run_id="r")
        await run.start()
        overlay = Overlay(outputs={"c": {"path": ["instead"]}})
        fork = await run.fork(0, overlay, run_id="f")
        assert (await fork.start()).status == "awaiting_input"
        await store.prune(
            older_than=datetime.now(UTC) + timedelta(days=1), statuses=("awaiting_input", "running"), keep_last=1
        )
        assert await store.delete_run("r")
        assert await store.read_at_step("f", 1) is None
        latest = await store.read_latest("f")
        assert latest is not None
        await fork.answer(latest.interrupts[0].id, "yes")
        other = await graph(ORDER).start(checkpointer=store)
        assert (await other.resume("f")).status == "done"
        assert other.state is not None
        assert other.state["path"] == ["a", "instead", "d"]


async def test_a_fork_of_a_fork(store: MemoryCheckpointer, tmp_path: Path) -> None:
    loaded = everything(tmp_path)
    run = await parent(loaded, store)
    step = max(record.step for record in store.runs["r"] if record.frontier and record.frontier[0].kind == "fan_out")
    first = await run.fork(step, run_id="f")
    await to_the_end(first, store, await first.start())
    begun = len(first._opening)
    with pytest.raises(CheckpointError) as raised:
        await first.fork(begun - 2)
    assert raised.value.reason == "unfinished-fork"
    for step in range(begun - 1, store.runs["f"][-1].step):
        second = await first.fork(step, run_id=f"f{step}")
        assert (await to_the_end(second, store, await second.start())).status == "done"
        assert state(store, f"f{step}") == state(store, "r")


async def test_what_cannot_be_forked(store: MemoryCheckpointer) -> None:
    run = await parent(graph(ORDER), store)
    last = store.runs["r"][-1].step
    for step, overlay, reason in (
        (last, None, "nothing-to-run"),
        (last + 1, None, "step-not-found"),
        (-1, None, "step-not-found"),
        (None, None, "bad-overlay"),
        (1, Overlay(outputs={"nobody": {}}), "bad-overlay"),
        (1, Overlay(answers={"nobody": 1}), "bad-overlay"),
        (None, Overlay(answers={"c": 1}), "bad-overlay"),
    ):
        with pytest.raises(StargraphError) as raised:
            await run.fork(step, overlay)
        assert raised.value.reason == reason, (step, overlay)
    with pytest.raises(CheckpointNotFoundError):
        await (await graph(ORDER).start(checkpointer=store, run_id="unknown")).fork(0)
    fork = await run.fork(1, run_id="r")
    with pytest.raises(CheckpointError) as taken:
        await fork.start()
    assert taken.value.reason == "run-exists"


@pytest.mark.parametrize(
    "fields",
    [{"state": []}, {"outputs": {"a": 1}}, {"outputs": []}, {"answers": 3}, {"drop_calls": "x"}, {"drop_calls": [1]}],
)
def test_an_overlay_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(StargraphError) as raised:
        Overlay(**fields)
    assert raised.value.reason == "bad-overlay"


async def test_a_cancelled_and_a_live_run_can_be_forked(store: MemoryCheckpointer) -> None:
    run = await graph(ORDER).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "awaiting_input"
    first = await run.fork(2, Overlay(answers={"sure": "yes"}), run_id="f1")
    assert (await first.start()).status == "done"
    await run.cancel()
    second = await run.fork(store.runs["r"][-1].step, Overlay(answers={"sure": "no"}), run_id="f2")
    assert (await second.start()).status == "done"
    assert store.runs["r"][-1].status == "cancelled"

    async def look(state: Any, context: Context) -> Any:
        if context.run_id == "live":
            fork = await (await graph(CALLING).start(checkpointer=store, run_id="live")).fork(1, run_id="f3")
            assert (await fork.start()).status == "done"

    calling_nodes.script = look
    live = await graph(CALLING).start(checkpointer=store, run_id="live")
    assert (await live.start()).status == "done"
    assert store.runs["f3"][-1].status == "done"


async def test_a_failed_run_is_forked_before_its_failure(store: MemoryCheckpointer) -> None:
    run = await graph(
        f'{PATH}nodes: [{{id: a, kind: "support.nodes:step"}}, {{id: b, kind: "support.nodes:fail"}}]'
    ).start(checkpointer=store, run_id="r")
    assert (await run.start()).status == "failed"
    for step in (1, 2):
        fork = await run.fork(step, Overlay(outputs={"b": {"path": ["mended"]}}), run_id=f"f{step}")
        assert (await fork.start()).status == "done"
        assert fork.state == {"path": ["a", "mended"]}
