"""The node of the graphs that engines run: it returns what the prepared run says."""

from __future__ import annotations

from typing import Any

from stargraph_bench._runs import Run, State

RUNS: dict[str, Run] = {}
"""The prepared runs by their ids."""


async def work(state: Any, ctx: Any) -> State:
    """Return the update of the next step."""
    number: int = state.n + 1
    return RUNS[ctx.run_id].steps[number].update


async def double(state: Any, ctx: Any) -> State:
    """Work on one item of a map."""
    return {"doubled": [ctx.item * 2]}


async def nothing(state: Any, ctx: Any) -> State:
    """Change nothing."""
    return {}
