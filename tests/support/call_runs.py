"""Runs of a graph of one node, which does what the test wants and may call what is outside."""

from __future__ import annotations

from typing import Any, Literal

from stargraph.checkpoint.protocol import RunSummary
from support import calling_nodes
from support.graphs import graph
from support.memory import MemoryCheckpointer

PLAY = """
state_schema: {x: {type: any, default: null}}
nodes:
  - {id: a, kind: "support.calling_nodes:play", retry: {attempts: 3, initial_delay: 0, on: [ConnectionError]}}
"""
PLAY_IN_A_THREAD = PLAY.replace(":play", ":play_in_a_thread")

Durability = Literal["sync", "async", "exit"]


def play(script: calling_nodes.Script) -> None:
    calling_nodes.script = script


async def start(
    store: MemoryCheckpointer, text: str = PLAY, durability: Durability = "sync", **options: Any
) -> RunSummary:
    run = await graph(text).start(checkpointer=store, run_id="r", durability=durability, **options)
    return await run.start()


async def resume(store: MemoryCheckpointer, text: str = PLAY) -> RunSummary:
    return await (await graph(text).start(checkpointer=store)).resume("r")


def calls(store: MemoryCheckpointer, kind: str = "call") -> list[tuple[Any, ...]]:
    return [
        (call.name, call.key, call.occurrence, call.error.type if call.error else call.result)
        for record in store.runs["r"]
        for call in record.calls
        if call.kind == kind
    ]
