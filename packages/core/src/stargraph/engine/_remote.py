"""Sync nodes in other processes: what crosses over is the definition, the state as JSON and the context."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import cache, lru_cache
from typing import Any

from stargraph.engine._context import NodeContext
from stargraph.engine._failures import classes_of, error_info
from stargraph.engine._nodes import Node, build_node
from stargraph.engine._state import StateSpec
from stargraph.ir import IRDocument


def run_in_worker(document: str, node_id: str, state: bytes, context: NodeContext) -> dict[str, Any]:
    """Run a node in the process that this is called in, and return what it ends with by value.

    An exception is told here and does not cross over: many cannot be pickled, or not be made again from it.

    Args:
        document: the graph's definition as JSON.
        node_id: the node.
        state: the JSON text of the state.
        context: what the node is told.

    Returns:
        `update`, its update as JSON values; `told`, the time that it was told, if it asked; `error`, what it raised,
        as it is recorded, or None; `classes`, the names of the exception's classes.
    """
    outcome: dict[str, Any] = {"update": None, "told": None, "error": None, "classes": ()}
    try:
        outcome["update"] = _update(document, node_id, state, context)
    except BaseException as error:  # noqa: BLE001  # whatever a node raises is recorded
        outcome["error"] = error_info(error, node=node_id).model_dump()
        outcome["classes"] = classes_of(error)
    outcome["told"] = context.seen()
    return outcome


def _update(document: str, node_id: str, state: bytes, context: NodeContext) -> dict[str, Any]:
    spec, node_of = _loaded(document)
    returned = node_of(node_id).call(spec.parse(state, "state"), context)()
    if inspect.isawaitable(returned):
        # No loop runs in this thread.
        returned = asyncio.run(_awaited(returned))
    update = spec.record(spec.update_of(returned, node_id), state)
    return {name: fragment.value for name, fragment in update.items()}


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
