"""The node of the graphs that engines run: it returns what the prepared run says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from stargraph_bench._runs import Run, State

RUNS: dict[str, Run] = {}
"""The prepared runs by their ids."""

CALLED: dict[str, list[float]] = {}
"""When the node of each run was called, in seconds."""


def next_update(run_id: str, number: int) -> State:
    """Return the update of a step, and note when it was asked for."""
    CALLED.setdefault(run_id, []).append(time.perf_counter())
    return RUNS[run_id].steps[number].update


def step_seconds(runs: Sequence[Run]) -> list[float]:
    """Return how long each step took: from one call of the node to the next; the first and the last take the mean."""
    took: list[float] = []
    for run in runs:
        called = CALLED[run.run_id]
        between = [after - before for before, after in pairwise(called)]
        mean = sum(between) / len(between) if between else 0.0
        took += [*between, *[mean] * (len(run.steps) - len(between))]
    return took


async def work(state: Any, ctx: Any) -> State:
    """Return the update of the next step."""
    return next_update(ctx.run_id, state.n + 1)


async def double(state: Any, ctx: Any) -> State:
    """Work on one item of a map."""
    return {"doubled": [ctx.item * 2]}


async def nothing(state: Any, ctx: Any) -> State:
    """Change nothing."""
    return {}
