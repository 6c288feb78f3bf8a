"""Runs every kind of state, or does the stored runs again and forks them, in a process with a hash seed of its own.

The arguments are `run` or `replay`, and the file of the store. It prints a line for each fault.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Graph
from stargraph.ir import parse_graph
from support import reduced_states, state_kinds

STEPS = 'nodes: [{id: put, kind: "support.state_kinds:put"}, {id: back, kind: "support.state_kinds:back"}]\n'
RULES = 'rules: [{id: r, when: {node: put, if: "has(state.value)"}, then: [{kind: goto, target: back}]}]\n'
TAGS = (
    'id: g\nstate_class: "support.reduced_states:State"\n'
    'nodes: [{id: a, kind: "support.reduced_states:step"}, {id: b, kind: "support.reduced_states:step"}]\n'
)


def cases() -> dict[str, tuple[Any, Any]]:
    """Return the kinds of values that come back, and those that a class makes lower-case."""
    lowered = {name: (kind, "URGENT") for name, kind in state_kinds.LOWERING.items()}
    return {**state_kinds.HOLD, **lowered}


async def one(store: SQLiteCheckpointer, mode: str, number: int, case: str) -> None:
    kind, value = cases()[case]
    state_kinds.State = kind
    state_kinds.PUT["value"] = value
    graph = Graph(parse_graph(f'id: g\nstate_class: "support.state_kinds:State"\n{STEPS}{RULES}'))
    await checked(graph, store, mode, f"r{number}", case, {"value": value})


async def checked(
    graph: Graph, store: SQLiteCheckpointer, mode: str, run_id: str, case: str, inputs: dict[str, Any]
) -> None:
    run = await graph.start(checkpointer=store, run_id=run_id, inputs=inputs)
    if mode == "run":
        summary = await run.start()
        if summary.status != "done":
            print(f"{case}: {summary.error}")
        return
    report = await run.replay(run_id)
    if report.differences:
        print(f"{case}: {report.lines()}")
    stored = await store.read_latest(run_id)
    ended = await (await run.fork(1)).start()
    if stored is None or ended.stored_state != stored.state:
        print(f"{case}: the fork ended with {ended.stored_state}")


async def main(mode: str, file: str) -> None:
    async with SQLiteCheckpointer(file) as store:
        await store.bootstrap()
        for number, case in enumerate(cases()):
            await one(store, mode, number, case)
        reduced_states.State = reduced_states.ModelState
        updates = [{"tags": {"b", "a", "d"}}, {"tags": {"c", "e"}}]
        reduced_states.UPDATES[:] = updates if mode == "run" else [*updates, *updates[1:]]
        await checked(Graph(parse_graph(TAGS)), store, mode, "tags", "tags", {})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
