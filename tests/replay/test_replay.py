"""A replay does a run again from its log, writes nothing, calls nothing, and finds what differs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import calling_nodes, nodes
from support.calling_nodes import EFFECTS, do, fail
from support.graphs import PATH, SEQUENCE, calling, everything, graph
from support.memory import MemoryCheckpointer, PrunedCheckpointer

from stargraph.checkpoint.protocol import Checkpoint, FanOut, JsonValue
from stargraph.engine import steps_of
from stargraph.errors import (
    CheckpointCorruptedError,
    CheckpointNotFoundError,
    HashMismatchError,
    StoreUnavailableError,
)
from stargraph.graph import Context, Graph, requeue
from stargraph.replay import ReplayReport
from stargraph.replay._report import difference_of
from stargraph.transfer import move_runs

PLAY = """
state_schema: {x: {type: any, default: null}}
nodes:
  - {id: a, kind: "support.calling_nodes:play", retry: {attempts: 2, initial_delay: 30, on: [ConnectionError]}}
  - {id: b, kind: echo}
"""

ASKING = """
state_schema: {ok: {type: "bool | None", default: null}}
nodes: [{id: begin, kind: echo}, {id: ask, kind: interrupt, prompt: "ok?", into: ok}]
"""

ANSWERS: dict[str, JsonValue] = {"approve": "yes", "ask": "Ada", "confirm": "yes"}


async def done(loaded: Graph, store: MemoryCheckpointer, **options: Any) -> None:
    """Take run `r` to its end."""
    run = await loaded.start(checkpointer=store, run_id="r", **options)
    summary = await run.start()
    while summary.status == "awaiting_input":
        for interrupt in store.runs["r"][-1].interrupts:
            await run.answer(interrupt.id, ANSWERS[interrupt.id.split("/")[-2].rpartition("-")[0]])
        summary = await run.resume("r")
    assert summary.status in ("done", "failed")


async def replayed(loaded: Graph, store: MemoryCheckpointer, **options: Any) -> ReplayReport:
    """Replay run `r`; nothing may be written and nothing called."""
    before = (dict(store.records), list(EFFECTS))
    report = await (await loaded.start(checkpointer=store)).replay("r", **options)
    assert (store.records, EFFECTS) == before
    return report


async def compared(loaded: Graph, store: MemoryCheckpointer, **options: Any) -> int:
    """Replay run `r` without a difference; return how many steps were compared."""
    report = await replayed(loaded, store, **options)
    assert report.differences == ()
    return report.compared


def lines_of(report: ReplayReport) -> list[tuple[int, str]]:
    """The first change of each step that differs."""
    return [(difference.step, difference.diff.lines()[0]) for difference in report.differences]


def slot(name: str) -> str:
    return f'{{"name": "{name}", "key": null, "occurrence": 0}}'


async def test_everything_comes_out_as_it_is_recorded(store: MemoryCheckpointer, tmp_path: Path) -> None:
    loaded = everything(tmp_path)
    await done(loaded, store)
    executed = len(nodes.LEDGER)
    report = await replayed(loaded, store)
    assert report
    assert report.lines()[0] == f"run r: {report.compared} steps match the record"
    assert len(nodes.LEDGER) == 2 * executed, "each node runs again"
    # All but the question of the child run, which the child's own log answers for.
    assert report.compared == len(store.records) - 1


async def test_calls_are_told_and_not_made(store: MemoryCheckpointer, tmp_path: Path) -> None:
    loaded = calling(tmp_path)
    await done(loaded, store)
    report = await replayed(loaded, store)
    assert report
    assert report.compared == len(store.records)


async def test_chance_is_found_and_named(store: MemoryCheckpointer) -> None:
    values = itertools.count()

    async def script(state: Any, context: Context) -> Any:
        return {"x": {"first": 1, "second": [0, next(values)]}}

    calling_nodes.script = script
    await done(graph(PLAY), store)
    report = await replayed(graph(PLAY), store)
    assert not report
    (difference,) = report.differences
    assert (difference.run_id, difference.step, difference.node) == ("r", 1, "a")
    assert difference.diff.lines() == ["~ update.x.second[1]: 0 → 1", "~ state.x.second[1]: 0 → 1"]
    assert report.lines() == [
        "run r, step 1 (completed a): update.x.second[1] is recorded as 0, and the replay gives 1",
    ]


async def test_a_difference_does_not_hide_or_cause_another(store: MemoryCheckpointer) -> None:
    """Each step is done again from the recorded one before it, so that each node answers for itself alone."""
    values = itertools.count()
    nodes.before = lambda context: {"x": next(values) if context.node != "b" else 7}
    text = "nodes:\n" + "".join(f'  - {{id: {name}, kind: "support.nodes:returns_x"}}\n' for name in "abc")
    await done(graph(text), store)
    assert lines_of(await replayed(graph(text), store)) == [(1, "~ update.x: 0 → 2"), (3, "~ update.x: 1 → 3")]


async def test_other_calls_are_found(store: MemoryCheckpointer) -> None:
    wanted = ["one", "two"]

    async def script(state: Any, context: Context) -> Any:
        for name in wanted:
            try:
                await context.call(name, do, name)
            except Exception as error:  # a replay must not be fooled by it
                EFFECTS.append(repr(error))

    calling_nodes.script = script
    await done(graph(PLAY), store)
    wanted[:] = ["one", "three"]
    ((step, line),) = lines_of(await replayed(graph(PLAY), store))
    assert step == 2
    assert line == f"~ calls: {slot('two')} → {slot('three')}"
    wanted[:] = ["one", "two", "three"]
    assert lines_of(await replayed(graph(PLAY), store)) == [(3, f"+ calls: {slot('three')}")]
    wanted[:] = ["one"]
    assert lines_of(await replayed(graph(PLAY), store)) == [
        (2, '- calls: {"name": "two", "key": null, "occurrence": 0}')
    ]


async def test_failures_and_retries_are_reported_without_waiting(store: MemoryCheckpointer) -> None:
    tries = itertools.count(1)

    async def script(state: Any, context: Context) -> Any:
        number = await context.call("number", do, "number", next(tries))
        if EFFECTS.count("bad") < 1:
            await context.call("bad", fail, "bad", ConnectionError("no"))
        return {"x": [number, await context.call("bad", do, "bad", "good")]}

    calling_nodes.script = script
    text = PLAY.replace("initial_delay: 30", "initial_delay: 0")
    await done(graph(text), store)
    assert store.events("r") == ["started", *["called a"] * 3, "completed a", "completed b"]

    async def again(state: Any, context: Context) -> Any:
        number = await context.call("number", do, "number")
        return {"x": [number, await context.call("bad", do, "bad")]}

    calling_nodes.script = again
    # The delay is 30 s in this text; retries are not part of what a graph is known by.
    report = await asyncio.wait_for(replayed(graph(PLAY), store), 60)
    assert report


async def test_a_failed_run_and_its_resume(store: MemoryCheckpointer) -> None:
    luck: list[bool] = []

    async def script(state: Any, context: Context) -> Any:
        return {"x": await context.call("f", *((do, "f", 1) if luck else (fail, "f", ValueError("no"))))}

    calling_nodes.script = script
    text = PLAY.replace("ConnectionError", "TimeoutError")
    await done(graph(text), store)
    assert store.runs["r"][-1].status == "failed"
    assert await replayed(graph(text), store)
    luck.append(True)
    assert (await (await graph(text).start(checkpointer=store)).resume("r")).status == "done"
    assert store.events("r") == [
        "started",
        "called a",
        "failed a",
        "resumed",
        "called a",
        "completed a",
        "completed b",
    ]
    assert await compared(graph(text), store) == 7


async def test_another_error_or_none_is_found(store: MemoryCheckpointer) -> None:
    await done(graph(f'{PATH}nodes: [{{id: a, kind: "support.nodes:fail"}}]'), store)
    text = f'{PATH}nodes: [{{id: a, kind: "support.nodes:returns_x"}}]'
    nodes.before = lambda context: {"path": ["fine"]}
    report = await replayed(graph(text), store, accept=("graph",))
    lines = report.differences[0].diff.lines()
    assert lines[:3] == [
        '~ event: "failed" → "completed"',
        '~ status: "failed" → "done"',
        '~ update: null → {"path": ["fine"]}',
    ]

    def otherwise(context: Context) -> None:
        raise RuntimeError("other luck")

    nodes.before = otherwise
    report = await replayed(graph(f'{PATH}nodes: [{{id: a, kind: "support.nodes:fail"}}]'), store)
    assert lines_of(report) == [(1, '~ error.message: "no luck" → "other luck"')]


async def test_the_time_is_the_recorded_one(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        moment = context.now.isoformat()
        answer = context.interrupt(f"At {moment}?")
        return {"x": [answer, moment, context.random.random(), str(context.uuid())]}

    calling_nodes.script = script
    run = await graph(PLAY).start(checkpointer=store, run_id="r")
    await run.start()
    (interrupt,) = store.runs["r"][-1].interrupts
    await run.answer(interrupt.id, "yes")
    assert (await run.resume()).status == "done"
    report = await replayed(graph(PLAY), store)
    assert report.differences == ()
    assert report.compared == len(store.runs["r"])

    async def without(state: Any, context: Context) -> Any:
        recorded = store.runs["r"][-1].state["x"]
        return {"x": [context.interrupt(store.runs["r"][1].interrupts[0].prompt), *recorded[1:]]}

    calling_nodes.script = without
    (first, second) = (await replayed(graph(PLAY), store)).differences
    assert first.diff.lines()[0].startswith("- calls[0]:")
    assert (first.step, second.step) == (1, 4)


async def test_paused_cancelled_and_open_runs(store: MemoryCheckpointer) -> None:
    loaded = graph(SEQUENCE)
    run = await loaded.start(checkpointer=store, run_id="r")
    work = asyncio.ensure_future(run.start())
    async for event in run.stream():
        if (event.type, event.node) == ("node_started", "b"):
            run.pause()
    assert (await work).status == "paused"
    assert await compared(loaded, store) == len(store.runs["r"])
    await run.cancel()
    assert store.events("r")[-1] == "cancelled"
    assert await compared(loaded, store) == len(store.runs["r"])


async def test_a_run_of_a_queue_and_one_that_was_moved(store: MemoryCheckpointer) -> None:
    loaded = graph(PLAY)
    await loaded.enqueue(store, {"x": 1}, run_id="r", queue="q", priority=3)
    assert await compared(loaded, store) == 1

    async def script(state: JsonValue, context: Context) -> JsonValue:
        raise ValueError("no")

    calling_nodes.script = script
    run = await loaded.start(checkpointer=store)
    assert (await run.resume("r")).status == "failed"
    await requeue(store, "r", queue="other", priority=5)
    assert await compared(loaded, store) == len(store.runs["r"])
    calling_nodes.reset()
    assert (await run.resume("r")).status == "done"
    report = await replayed(loaded, store)
    assert {difference.node for difference in report.differences} == {"a"}  # it fails no more
    asking = graph(ASKING)
    assert (await (await asking.start(checkpointer=store, run_id="s")).start()).status == "awaiting_input"
    await requeue(store, "s")
    assert (await (await asking.start(checkpointer=store)).replay("s")).differences == ()
    elsewhere = MemoryCheckpointer()
    await elsewhere.bootstrap()
    assert (await move_runs(store, elsewhere, ["s"])).refused == ()
    assert store.events("s")[-2:] == ["queued", "moved"]
    assert (await (await asking.start(checkpointer=store)).replay("s")).differences == ()


async def test_a_difference_of_what_only_the_digest_compares_is_told(store: MemoryCheckpointer) -> None:
    loaded = graph(SEQUENCE)
    await done(loaded, store)
    record = store.runs["r"][1]
    found = difference_of(record, record.model_copy(update={"key": "other", "digest": "0" * 64}))
    assert found is not None
    assert "digest is recorded as" in found.headline()


async def test_a_live_run_is_replayed_as_far_as_it_is(store: MemoryCheckpointer) -> None:
    loaded = graph(SEQUENCE)
    run = await loaded.start(checkpointer=store, run_id="r")
    async for event in run.stream():
        if (event.type, event.node) == ("completed", "b"):
            report = await (await loaded.start(checkpointer=store)).replay("r")
            assert report
            assert report.compared == report.last_step + 1 == event.step + 1


async def test_a_migrated_run(store: MemoryCheckpointer) -> None:
    old = graph(
        'state_schema: {n: {type: int, default: 3}}\nnodes: [{id: a, kind: echo}, {id: b, kind: "support.nodes:fail"}]'
    )
    await done(old, store)
    new = graph(
        "state_schema: {n: {type: int, default: 3}, total: {type: int, default: 0}}\n"
        'nodes: [{id: a, kind: echo}, {id: c, kind: "support.nodes:count"}]\n'
        f"migrate: [{{from: {old.graph_hash}, rename: {{b: c}}, state: ['support.nodes:add_total']}}]"
    )
    assert (await (await new.start(checkpointer=store)).resume("r")).status == "done"
    assert store.events("r") == ["started", "completed a", "failed b", "migrated", "resumed", "completed c"]
    report = await replayed(new, store)
    assert report
    assert report.compared == 3
    assert report.notes == ("steps 0 to 2: made by another version of the graph, not done again",)
    earlier = await replayed(old, store)
    assert earlier
    assert earlier.compared == 3
    assert earlier.notes == ("steps 3 to 5: made by another version of the graph, not done again",)


async def test_another_graph_is_refused_or_accepted(store: MemoryCheckpointer) -> None:
    await done(graph(SEQUENCE), store)
    other = graph(SEQUENCE.replace('{id: c, kind: "support.nodes:step"}', '{id: c, kind: "support.nodes:sync_step"}'))
    with pytest.raises(HashMismatchError, match="node 'c'"):
        await replayed(other, store)
    report = await replayed(other, store, accept=("graph",))
    assert lines_of(report) == [(3, '~ update.path[0]: "c" → "c in a thread"')]


async def test_changed_code_is_named(store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    await done(graph(SEQUENCE), store)
    monkeypatch.setattr(nodes, "step", nodes.sync_step)
    report = await replayed(graph(SEQUENCE), store)
    assert [difference.step for difference in report.differences] == [1, 2, 3]
    assert "the code of node 'a' changed since step 0" in report.notes


async def test_a_part_of_a_run(store: MemoryCheckpointer, tmp_path: Path) -> None:
    loaded = calling(tmp_path)
    await done(loaded, store)
    child = len(store.records) - len(store.runs["r"])
    for step in range(len(store.runs["r"])):
        report = await replayed(loaded, store, from_step=step)
        assert report, step
        own = report.compared - child if any("sub" in e for e in store.events("r")[step + 1 :]) else report.compared
        assert own == len(store.runs["r"]) - max(step, 0) - (1 if step else 0)


async def test_a_pruned_run() -> None:
    store = PrunedCheckpointer()
    await store.bootstrap()
    await done(graph(SEQUENCE), store)
    for step in (0, 1):
        store.prune_step("r", step)
    report = await replayed(graph(SEQUENCE), store)
    assert report
    assert report.compared == 1
    assert report.notes == ("steps 0 to 1: pruned, so step 2 is taken as recorded",)


@pytest.mark.parametrize("build", [everything, calling])
async def test_what_is_left_of_a_pruned_run_shows_no_difference(tmp_path: Path, build: Any) -> None:
    loaded = build(tmp_path)
    store = PrunedCheckpointer()
    await store.bootstrap()
    await done(loaded, store)
    log = store.runs["r"]
    for floor in range(1, len(log)):
        store.prune_step("r", floor - 1)
        report = await replayed(loaded, store)
        assert report.differences == (), floor
        assert any("pruned" in note for note in report.notes)
        # Two holes: a prune keeps what the latest step needs, and that may lie apart.
        if floor + 2 < len(log):
            hole = store.prune_step("r", floor + 1)
            assert (await replayed(loaded, store)).differences == (), floor
            store.damage("r", floor + 1, hole)


async def test_a_deleted_child_run(store: MemoryCheckpointer, tmp_path: Path) -> None:
    loaded = calling(tmp_path)
    await done(loaded, store)
    (child,) = (run_id for run_id in store.runs if run_id != "r")
    store.wipe(child)
    report = await replayed(loaded, store)
    assert report
    assert any("is not in the store" in note for note in report.notes)


async def test_a_child_run_that_came_out_otherwise(store: MemoryCheckpointer, tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(
        "id: child\nstate_schema: {x: {type: any, default: null}}\n"
        'nodes: [{id: inner, kind: "support.calling_nodes:play"}]'
    )
    loaded = graph(
        "state_schema: {x: {type: any, default: null}}\n"
        'nodes: [{id: sub, kind: subgraph, graph: child.yaml, outputs: {x: "state.x"}}]',
        tmp_path,
    )
    values = itertools.count()

    async def script(state: Any, context: Context) -> Any:
        return {"x": next(values)}

    calling_nodes.script = script
    await done(loaded, store)
    (difference,) = (await replayed(loaded, store)).differences
    assert difference.run_id != "r"
    assert (difference.step, difference.node) == (1, "inner")


async def test_a_broken_chain_is_refused(store: MemoryCheckpointer) -> None:
    await done(graph(SEQUENCE), store)
    other = MemoryCheckpointer()
    await other.bootstrap()
    await done(graph(SEQUENCE), other)
    store.damage("r", 2, other.records["r", 2])
    with pytest.raises(CheckpointCorruptedError) as raised:
        await replayed(graph(SEQUENCE), store)
    assert raised.value.reason == "broken-chain"


async def test_a_node_that_cancels_itself(store: MemoryCheckpointer) -> None:
    async def script(state: Any, context: Context) -> Any:
        raise asyncio.CancelledError

    calling_nodes.script = script
    await done(graph(PLAY), store)
    assert store.runs["r"][-1].status == "failed"
    assert await compared(graph(PLAY), store) == 2


async def test_calls_in_a_group_of_tasks(store: MemoryCheckpointer) -> None:
    names = ["a", "b"]

    async def script(state: Any, context: Context) -> Any:
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(context.call("f", do, name, name, key=name)) for name in names]
        return {"x": [task.result() for task in made]}

    calling_nodes.script = script
    await done(graph(PLAY), store)
    assert await replayed(graph(PLAY), store)
    names[1] = "c"
    ((step, line),) = lines_of(await replayed(graph(PLAY), store))
    assert (step, line) == (2, f"~ calls: {keyed('b')} → {keyed('c')}")


def keyed(key: str) -> str:
    return slot("f").replace("null", f'"{key}"')


async def test_an_unknown_run(store: MemoryCheckpointer) -> None:
    with pytest.raises(CheckpointNotFoundError):
        await replayed(graph(SEQUENCE), store)


async def test_a_fault_of_the_store_is_no_difference(store: MemoryCheckpointer) -> None:
    await done(graph(SEQUENCE), store)

    async def unavailable(run_id: str, step: int) -> Checkpoint | None:
        raise StoreUnavailableError("gone", reason="unavailable")

    store.read_at_step = unavailable  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await (await graph(SEQUENCE).start(checkpointer=store)).replay("r")


class WithHistory(MemoryCheckpointer):
    """A store that reads a log in one go; `lost` cannot be read by whoever asks for it before `until`."""

    lost = until = -1

    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        for record in self.runs[run_id][from_step or 0 : None if to_step is None else to_step + 1]:
            if record.step == self.lost and to_step is not None and to_step < self.until:
                raise StoreUnavailableError("gone", reason="unavailable")
            yield record


@pytest.mark.parametrize("needed", ["the items of the map", "a finished branch"])
async def test_a_fault_of_the_store_while_a_node_is_prepared_is_no_difference(tmp_path: Path, needed: str) -> None:
    store = WithHistory()
    await store.bootstrap()
    loaded = everything(tmp_path)
    await done(loaded, store)
    middle, fork = next(
        (record.step, item)
        for record in store.runs["r"]
        for item in record.frontier
        if isinstance(item, FanOut) and item.mode == "map" and sum(1 for _ in steps_of(item.completed_steps)) == 2
    )
    assert await replayed(loaded, store, from_step=middle)
    lost = fork.since_step if needed == "the items of the map" else fork.completed_steps[0].first
    read = store.read_at_step

    async def unavailable(run_id: str, step: int) -> Checkpoint | None:
        if (run_id, step) == ("r", lost) and step < middle:
            raise StoreUnavailableError("gone", reason="unavailable")
        return await read(run_id, step)

    middle += needed == "a finished branch"
    store.lost, store.until = lost, middle
    store.read_at_step = unavailable  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await (await loaded.start(checkpointer=store)).replay("r", from_step=middle)


async def test_a_report_for_programs(store: MemoryCheckpointer) -> None:
    values = itertools.count()
    nodes.before = lambda context: {"x": next(values)}
    text = 'nodes: [{id: a, kind: "support.nodes:returns_x"}]'
    await done(graph(text), store)
    assert (await replayed(graph(text), store)).as_json() == {
        "run_id": "r",
        "same": False,
        "last_step": 1,
        "compared": 2,
        "notes": [],
        "differences": [
            {
                "run_id": "r",
                "step": 1,
                "event": "completed",
                "node": "a",
                "task_id": store.runs["r"][1].task_id,
                "total": 2,
                "changes": [
                    {"path": "update.x", "kind": "changed", "before": "0", "after": "1"},
                    {"path": "state.x", "kind": "changed", "before": "0", "after": "1"},
                ],
            }
        ],
    }


async def test_a_cancelled_replay_waits_for_its_node(
    store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()
    ended: list[str] = []

    async def at_once(state: Any, context: Context) -> dict[str, JsonValue]:
        return {"x": 1}

    async def without_end(state: Any, context: Context) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append(context.node)

    monkeypatch.setattr("stargraph.replay._replay.CANCEL_SECONDS", 60)  # it is not given up before it ends
    monkeypatch.setattr(calling_nodes, "script", at_once)
    loaded = graph(PLAY)
    await done(loaded, store)
    monkeypatch.setattr(calling_nodes, "script", without_end)
    replaying = asyncio.create_task((await loaded.start(checkpointer=store)).replay("r"))
    await begun.wait()
    replaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replaying
    assert ended == ["a"]
