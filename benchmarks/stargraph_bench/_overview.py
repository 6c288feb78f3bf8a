"""What a user gets, in one table, and the goals that are missed: how docs/performance.md begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from stargraph_bench._figures import Figures, shown, times
from stargraph_bench._goals import Goal
from stargraph_bench._machine import Machine
from stargraph_bench._report import STORES, table


class _Row(NamedTuple):
    what: str
    workload: str
    measure: str
    contender: str = "stargraph"
    peer: str = "langgraph"


_ENGINE: Final = ("stargraph-engine", "langgraph-engine")

_ROWS: Final = (
    _Row("an engine's loop over one node, 1 KB of state", "engine-small", "rate", *_ENGINE),
    _Row("a step of it, median", "engine-small", "p50_ms", *_ENGINE),
    _Row("a step of it, 99th percentile", "engine-small", "p99_ms", *_ENGINE),
    _Row("a step of it, CPU", "engine-small", "cpu_ms", *_ENGINE),
    _Row("a step of it, to the disk", "engine-small", "device_bytes", *_ENGINE),
    _Row("64 runs at once by an engine, all steps together", "engine-fan", "rate", *_ENGINE),
    _Row("an engine's map over 1,000 items, items", "map", "rate", *_ENGINE),
    _Row("what a conversation of 200 steps that grows to 200 KB takes", "engine-chat", "run_bytes", *_ENGINE),
    _Row("a write of our driver alone, 1 KB of state", "small", "rate"),
    _Row("a write of a 20 MB state of which a number changes", "huge-edit", "p50_ms"),
    _Row("read the latest state of a conversation of 200 steps", "latest-chat", "latest_ms"),
    _Row("the same by the handle that wrote it, from memory", "known-chat", "latest_ms", "stargraph-cache"),
    _Row("open the store in a fresh process, and read", "fresh-small", "fresh_ms"),
)


def overview(figures: Figures, goals: Sequence[Goal], machine: Machine) -> str:
    """Return the table and the missed goals in Markdown; what was not measured is left out."""
    stores = [store for store in ("sqlite", "postgres") if store in {store for store, _ in figures.workloads()}]
    rows = [[row.what, *(_cell(figures, store, row) for store in stores)] for row in _ROWS]
    where = (
        f"On {machine.system} with {machine.cores} cores, where an `fdatasync` of 4 KB takes {machine.sync_us:,.0f} µs"
    )
    parts = [f"{where}, at commit {machine.commit}:"]
    parts.append(table(["", *(STORES[store] for store in stores)], [row for row in rows if any(row[1:])]))
    parts.extend(_missed(figures, goals))
    return "\n\n".join(parts)


def _cell(figures: Figures, store: str, row: _Row) -> str:
    prefix = f"{store}/{row.workload}"
    ours, theirs = f"{prefix}/{row.contender}/{row.measure}", f"{prefix}/{row.peer}/{row.measure}"
    own, other, ratio = figures.spread(ours), figures.spread(theirs), figures.ratio(ours, theirs)
    if own is None:
        return ""
    cell = f"{shown(row.measure, own.median)}"
    if other is not None and ratio is not None:
        cell += f"; LangGraph {shown(row.measure, other.median)}; {times(ratio.median)}"
    return cell


def _missed(figures: Figures, goals: Sequence[Goal]) -> Iterator[str]:
    measured = [(goal, spread) for goal in goals if (spread := goal.measured(figures)) is not None]
    missed = [(goal, spread) for goal, spread in measured if not goal.met(spread.median)]
    if not measured:
        return
    yield f"Of {len(measured)} goals that were measured, {len(measured) - len(missed)} are met" + (
        ", and these are missed:" if missed else "."
    )
    if missed:
        yield "\n".join(f"- {goal.goal}: {goal.show(spread.median)}, wanted {goal.wanted}" for goal, spread in missed)
