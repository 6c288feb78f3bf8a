"""Sync nodes in other processes: what crosses over is the definition, the state as JSON and the context."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from stargraph.engine._context import NodeContext
from stargraph.engine._nodes import Node, build_node
from stargraph.engine._state import StateSpec
from stargraph.ir import IRDocument


def is_remote(executor: Executor | None) -> bool:
    """Tell whether an executor may run functions in another process.

    Args:
        executor: the executor; None stands for threads.
    """
    return executor is not None and not isinstance(executor, ThreadPoolExecutor)


def run_in_worker(
    document: str, node_id: str, state: bytes, context: NodeContext
) -> tuple[dict[str, Any], datetime | None]:
    """Run a node in the process that this is called in.

    Args:
        document: the graph's definition as JSON.
        node_id: the node.
        state: the JSON text of the state.
        context: what the node is told.

    Returns:
        Its update as JSON values, and the time that it was told, if it asked.

    Raises:
        Exception: what the node raises.
    """
    spec, node_of = _loaded(document)
    returned = node_of(node_id).call(spec.parse(state, "state"), context)()
    if inspect.isawaitable(returned):
        # A sync wrapper of an async function; no loop runs in this thread.
        returned = asyncio.run(_awaited(returned))
    update = spec.record(spec.update_of(returned, node_id))
    return {name: fragment.value for name, fragment in update.items()}, context.seen()


async def _awaited(work: Awaitable[object]) -> object:
    return await work


@lru_cache(maxsize=16)
def _loaded(document: str) -> tuple[StateSpec, Callable[[str], Node]]:
    definition = IRDocument.model_validate_json(document, by_alias=True, by_name=False)
    specs = {spec.id: spec for spec in definition.nodes}

    @cache
    def node_of(node_id: str) -> Node:
        return build_node(specs[node_id])

    return StateSpec(definition), node_of
