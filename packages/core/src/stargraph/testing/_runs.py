"""Runs of whole graphs in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Final

from typing_extensions import TypeVar

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpointer, JsonValue, RecordedCall
from stargraph.engine import check_middleware
from stargraph.graph import Graph, Middleware, RunResult
from stargraph.runtime import dispatch
from stargraph.runtime._given import check_checkpointer, check_type
from stargraph.testing._clock import run_in_skipping_loop
from stargraph.testing._fakes import EMIT, FakeCalls, InTurn, answer_for, by_name

S = TypeVar("S", default=Any)

_WATCH_SECONDS: Final = 3600.0
"""Between two looks at the log. Skipped time holds all its looks: at the default, a month would hold a million."""


def run_graph(
    graph: Graph[S],
    *,
    inputs: Mapping[str, JsonValue] | None = None,
    answers: Mapping[str, Any] | None = None,
    calls: Mapping[str, Any] | None = None,
    checkpointer: Checkpointer | None = None,
    run_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    middleware: Sequence[Middleware] = (),
) -> RunResult[S]:
    """Run a graph until it ends, fails, or asks what has no answer ahead.

    The time skips: where nothing but time is waited for, as between two attempts of a node, at its timeout or in
    `ctx.sleep`, none passes. Sync nodes take the time that they take.

    Args:
        inputs: the values that the state begins with.
        answers: to questions, by their text or by the node that asks: a value, or a function of the payload.
        calls: what stands in for calls, by their names: a value, an exception to raise, a function to call instead, or
            several of these `InTurn`. A call without one fails its node; if None, the functions themselves are called.
        checkpointer: the store; a new one in memory if None. One of the drivers is for the loop of the test alone.
        run_id: its name. A run of this id that the store holds is resumed.
        metadata: tags.
        middleware: stands around the run, inside of what stands in for calls.

    Returns:
        Where the run stands then.
    """
    check_type(graph, "graph", Graph, "a Graph, as in Graph(builder)")
    for name, given in (("answers", answers), ("calls", calls)):
        check_type(given, name, (Mapping, NoneType), "a dict, or None")
    check_middleware(middleware)
    store = MemoryCheckpointer() if checkpointer is None else checkpointer
    check_checkpointer(store)
    inside = [*middleware] if calls is None else [FakeCalls(calls), *middleware]

    async def main() -> RunResult[S]:
        await store.bootstrap()
        if run_id is None:
            run = await graph.start(
                checkpointer=store, inputs=inputs, metadata=metadata, middleware=inside, watch=_WATCH_SECONDS
            )
        else:
            run = await graph.start_or_resume(
                checkpointer=store,
                run_id=run_id,
                inputs=inputs,
                metadata=metadata,
                middleware=inside,
                watch=_WATCH_SECONDS,
            )
        result = await run.start(wait=True)
        while result.status == "awaiting_input":
            answered = False
            for question in result.questions:
                answer = answer_for(answers or {}, question.prompt, question.node, question.payload)
                if answer is not None:
                    await run.answer(question, answer[0])
                    answered = True
            if not answered:
                break
            result = await run.resume(wait=True)
        return result

    return run_in_skipping_loop(main)


def recorded_calls(checkpointer: Checkpointer, run_id: str, *, node: str | None = None) -> dict[str, InTurn]:
    """Return what stands in for calls as a run has recorded them: for `calls` of `run_graph` or `FakeContext`.

    Args:
        checkpointer: the store that holds the run.
        node: only the calls of this node; those of all nodes if None.

    Raises:
        CheckpointNotFoundError: the store holds no such run.
    """
    check_checkpointer(checkpointer)

    async def main() -> dict[str, InTurn]:
        await checkpointer.bootstrap()
        latest = await dispatch.read_run(checkpointer, run_id)
        calls: list[RecordedCall] = []
        async for record in dispatch.history(checkpointer, run_id, to_step=latest.step):
            if node is None or record.last_node == node:
                calls += [call for call in record.calls if call.kind == "call" and call.name != EMIT]
        return by_name(calls)

    return run_in_skipping_loop(main)
