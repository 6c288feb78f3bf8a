"""The process is lost at every step boundary and in every node; a resume ends as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from support import calling_nodes, nodes
from support.graphs import calling, everything
from support.memory import Killed, MemoryCheckpointer

from stargraph.checkpoint.protocol import Checkpoint, JsonValue, RunSummary
from stargraph.graph import Context, Graph

pytestmark = pytest.mark.thorough

ANSWERS = {"approve": "yes", "ask": "Ada", "confirm": "yes"}


async def to_the_end(
    graph: Graph, store: MemoryCheckpointer, *, resume: bool
) -> tuple[RunSummary, dict[str, JsonValue]]:
    """Execute run `r` and answer its questions, until it is done."""
    run = await graph.start(checkpointer=store, run_id="r")
    summary = await (run.resume("r") if resume else run.start())
    while summary.status == "awaiting_input":
        for interrupt in store.runs["r"][-1].interrupts:
            node = interrupt.id.split("/")[-2].rpartition("-")[0]
            await run.answer(interrupt.id, ANSWERS[node])
        summary = await run.resume("r")
    assert run.state is not None
    return summary, run.state


async def undisturbed(graph: Graph) -> tuple[dict[str, JsonValue], Counter[str], int]:
    store = MemoryCheckpointer()
    await store.bootstrap()
    nodes.LEDGER.clear()
    summary, state = await to_the_end(graph, store, resume=False)
    assert summary.status == "done"
    return state, Counter(nodes.LEDGER), len(store.records)


async def killing(when: str, position: int) -> MemoryCheckpointer:
    """Return a store that kills its process `before` or `after` one write, counted from 0."""
    store, positions = MemoryCheckpointer(), count()

    def kill(checkpoint: Checkpoint) -> None:
        if next(positions) == position:
            raise Killed

    setattr(store, f"{when}_write", kill)
    await store.bootstrap()
    return store


async def killed(graph: Graph, store: MemoryCheckpointer) -> bool:
    """Execute until done or killed; tell whether it was killed."""
    try:
        await to_the_end(graph, store, resume=False)
    except Killed:
        return True
    return False


async def test_killed_at_every_write(tmp_path: Path) -> None:
    graph = everything(tmp_path)
    state, executions, writes = await undisturbed(graph)
    assert state["squares"] == [1, 4, 9, 16, 25, 1, 16, 81, 256, 625]
    assert state["who"] == "Ada"
    for when in ("before", "after"):
        for position in range(writes):
            store = await killing(when, position)
            nodes.LEDGER.clear()
            assert await killed(graph, store)
            summary, after = await to_the_end(graph, store, resume="r" in store.runs)
            assert summary.status == "done"
            assert after == state, (when, position)
            # Before the write: what had just run, and its sibling in flight. After it: its sibling alone.
            repeated = Counter(nodes.LEDGER) - executions
            assert sum(repeated.values()) <= (2 if when == "before" else 1), (when, position, repeated)


async def test_killed_in_every_node(tmp_path: Path) -> None:
    graph = everything(tmp_path)
    state, executions, _ = await undisturbed(graph)
    for position in range(sum(executions.values())):
        store = MemoryCheckpointer()
        await store.bootstrap()
        nodes.LEDGER.clear()
        victim = ""

        def kill(context: Context, at: int = position) -> None:
            nonlocal victim
            if len(nodes.LEDGER) == at + 1 and not victim:
                victim = nodes.LEDGER[-1]
                raise Killed

        nodes.before = kill
        assert await killed(graph, store)
        summary, after = await to_the_end(graph, store, resume=True)
        assert summary.status == "done"
        assert after == state
        repeated = Counter(nodes.LEDGER) - executions
        assert repeated[victim] == 1, (position, victim, repeated)
        assert sum(repeated.values()) <= 2, (position, victim, repeated)


def recorded_effects(store: MemoryCheckpointer) -> set[str]:
    """The effects whose calls succeeded and are in a log."""
    return {
        effect
        for log in store.runs.values()
        for record in log
        for call in record.calls
        if call.kind == "call" and call.error is None
        for effect in calling_nodes.EFFECTS
        if effect.startswith(f"{call.name} ") and effect.split()[1].split(":")[0] == call.task_id
    }


async def test_killed_at_every_write_no_recorded_call_is_made_again(tmp_path: Path) -> None:
    graph = calling(tmp_path)
    store = MemoryCheckpointer()
    await store.bootstrap()
    calling_nodes.reset()
    summary, state = await to_the_end(graph, store, resume=False)
    assert summary.status == "done"
    expected = Counter(calling_nodes.EFFECTS)
    assert sum(expected.values()) == 19
    assert max(expected.values()) == 2, "the call that fails first"
    writes = len(store.records)
    for when in ("before", "after"):
        for position in range(writes):
            store = await killing(when, position)
            calling_nodes.reset()
            assert await killed(graph, store)
            recorded = recorded_effects(store)
            made = Counter(calling_nodes.EFFECTS)
            summary, after = await to_the_end(graph, store, resume="r" in store.runs)
            assert summary.status == "done"
            assert len(after["bills"]) == len(state["bills"])
            again = Counter(calling_nodes.EFFECTS) - made
            assert not set(again) & recorded, (when, position)
            # What was under way: one call of each of the two branches at most.
            assert sum((Counter(calling_nodes.EFFECTS) - expected).values()) <= 2, (when, position)
            before = (dict(store.records), list(calling_nodes.EFFECTS))
            report = await (await graph.start(checkpointer=store)).replay("r")
            assert report.differences == (), (when, position)
            assert (store.records, calling_nodes.EFFECTS) == before
