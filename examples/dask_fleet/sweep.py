"""Which settings forecast a shop's visits best? Each pair of settings is a run, on Dask, stored in PostgreSQL.

The method is double exponential smoothing (C. C. Holt, 1957), judged on the last days of several windows of the series.
"""

from __future__ import annotations

import math
import os
import random
import time
from typing import Annotated, Any

from stargraph.graph import Context, Graph, GraphBuilder, append

WINDOWS, HELD_OUT = 6, 14


def visits(days: int = 365) -> list[float]:
    """Return a year of visits a day: a trend, the days of the week, and noise; always the same ones."""
    noise = random.Random(7)
    return [500 + 0.8 * day + 60 * math.sin(2 * math.pi * day / 7) + noise.gauss(0, 20) for day in range(days)]


builder = GraphBuilder("sweep")
builder.state(
    level=float, trend=float, windows=(list[int], []), errors=Annotated[list[float], append], score=(float, 0.0)
)


@builder.node
def split(state: Any) -> dict[str, Any]:
    return {"windows": [120 + 40 * number for number in range(WINDOWS)]}


@builder.node
def backtest(state: Any, ctx: Context) -> dict[str, Any]:
    """Forecast the days after one window; return the mean absolute error."""
    time.sleep(float(os.environ.get("SWEEP_PACE", "0")))
    series = visits()[: ctx.item + HELD_OUT]
    level, trend = series[0], series[1] - series[0]
    for value in series[1 : ctx.item]:
        before, level = level, state.level * value + (1 - state.level) * (level + trend)
        trend = state.trend * (level - before) + (1 - state.trend) * trend
    errors = [abs(level + (ahead + 1) * trend - series[ctx.item + ahead]) for ahead in range(HELD_OUT)]
    return {"errors": [sum(errors) / HELD_OUT]}


@builder.node
def score(state: Any) -> dict[str, Any]:
    return {"score": sum(state.errors) / len(state.errors)}


builder.after(split).map("state.windows", backtest, join=score, max_concurrency=2)
builder.after(score).halt("scored")
graph = Graph(builder)
