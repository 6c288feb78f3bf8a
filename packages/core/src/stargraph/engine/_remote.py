"""Sync nodes in other processes: what crosses over is the definition, the state as JSON and the context."""

from __future__ import annotations

import asyncio
import inspect
import os
import platform
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

from stargraph.engine._context import Context
from stargraph.engine._failures import classes_of, error_info, explained, members_of
from stargraph.engine._fingerprint import fingerprint
from stargraph.engine._imports import Modules
from stargraph.engine._nodes import Node, build_node
from stargraph.engine._state import StateSpec
from stargraph.errors import NodeError
from stargraph.ir import IRDocument


class RemoteGraph(NamedTuple):
    """What another process needs to know of a graph.

    Attributes:
        document: its definition as JSON.
        modules: where its code is.
        code: the fingerprints of the code that runs, by what names it.
    """

    document: str
    modules: Modules
    code: tuple[tuple[str, str], ...]


def run_in_worker(graph: RemoteGraph, node_id: str, state: bytes, context: Context) -> dict[str, Any]:
    """Run a node in the process that this is called in, and return what it ends with by value.

    An exception is recorded here and does not cross over: many cannot be pickled, or not be rebuilt from it.

    Args:
        state: the JSON text of the state.
        context: the context of the node.

    Returns:
        `update`, its update as JSON values; `time`, the time that it read, if it looked; `error`, what it raised,
        as it is recorded, or None; `classes`, the names of the exception's classes; `members`, those of each exception
        in it if it is a group.
    """
    outcome: dict[str, Any] = {"update": None, "time": None, "error": None, "classes": (), "members": ()}
    try:
        outcome["update"] = _update(graph, node_id, state, context)
    except BaseException as raised:  # noqa: BLE001  # whatever a node raises is recorded
        error = explained(raised, node_id) or raised
        outcome["error"] = error_info(error, node=node_id).model_dump()
        outcome["classes"] = classes_of(error)
        outcome["members"] = tuple(classes_of(each) for each in members_of(error))
    outcome["time"] = context._now
    return outcome


def _update(graph: RemoteGraph, node_id: str, state: bytes, context: Context) -> dict[str, Any]:
    spec, node_of = _loaded(graph.document, graph.modules)
    node = node_of(node_id)
    _check_code({f"node {node_id!r}": node.code, **spec.code()}, graph, node_id)
    given = spec.given(spec.parse(state, "state"))
    returned = node.call(given.state, context)()
    if inspect.isawaitable(returned):
        # No loop runs in this thread.
        returned = asyncio.run(_awaited(returned))
    update = spec.update_of(returned, node_id)
    spec.refuse_given(returned, update, given, node_id)
    return {name: encoded.value for name, encoded in spec.record(update, state).items()}


async def _awaited(work: Awaitable[object]) -> object:
    return await work


def _check_code(code: Mapping[str, object], graph: RemoteGraph, node_id: str) -> None:
    """Refuse to run other code than that of the process that sent the node here."""
    for name, wanted in graph.code:
        if fingerprint(code.get(name), name) != wanted:
            raise NodeError(
                f"the code of {name} differs in the process that was to run it"
                f" (process {os.getpid()} on {platform.node()})",
                reason="other-code",
                hint="Restart the processes of the pool, with the code that the graph was loaded with.",
                node=node_id,
            )


@lru_cache(maxsize=16)
def _loaded(document: str, modules: Modules) -> tuple[StateSpec, Callable[[str], Node]]:
    definition = IRDocument.model_validate_json(document, by_alias=True, by_name=False)
    specs = {spec.id: spec for spec in definition.nodes}

    @cache
    def node_of(node_id: str) -> Node:
        return build_node(specs[node_id], modules)

    return StateSpec(definition, modules), node_of
