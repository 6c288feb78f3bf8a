"""The report in Markdown: the goals, then every workload."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stargraph_bench._bench import IMPORT
from stargraph_bench._figures import Figures, Spread, shown, times
from stargraph_bench._goals import Goal
from stargraph_bench._machine import Machine
from stargraph_bench._workloads import ENGINES, WORKLOADS, Scale

STORES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "s3": "S3"}

_LABELS = {
    "rate": "steps/s",
    "p50_ms": "p50",
    "p99_ms": "p99",
    "cpu_ms": "CPU a step",
    "server_cpu_ms": "CPU of the server a step",
    "device_bytes": "to the disk a step",
    "fresh_ms": "open and read",
    "bytes": "bytes of the store",
    "run_bytes": "of the runs alone",
    "latest_ms": "latest",
    "at_step_ms": "at step",
    "list_ms": "list 100",
    "resume_ms": "open and read",
    "rows_a_commit": "rows a commit",
    "hops_a_write": "hops a write",
    "messages_a_write": "messages a write",
    "puts_a_write": "PUTs a write",
    "ms_a_step": "time a step",
    "bytes_a_step": "bytes a step",
    "write_ms": "write",
    "loads_aioboto3": "loads aioboto3",
}


def report(figures: Figures, goals: Sequence[Goal], machine: Machine, scale: Scale) -> str:
    """Return the report of what was measured."""
    parts = [machine.sentence()]
    if scale in ("tiny", "quick"):
        parts.insert(0, f"**The sizes are those of --{scale}, smaller than the titles and the goals say.**")
    engines = {one.name for one in WORKLOADS if set(ENGINES) <= set(one.contenders)}
    by_engines = [(store, workload) for store, workload in figures.workloads() if workload in engines]
    for store, workload in by_engines:
        parts.extend(_workload(figures, store, workload))
    parts.extend(_goals(figures, goals))
    for store, workload in figures.workloads():
        if (store, workload) not in by_engines:
            parts.extend(_workload(figures, store, workload))
    if figures.failures:
        parts.append("### Failed")
        parts += [f"- {where}: {message.strip().splitlines()[-1]}" for where, message in figures.failures.items()]
    return "\n\n".join(parts) + "\n"


def _goals(figures: Figures, goals: Sequence[Goal]) -> Iterator[str]:
    rows = []
    met = 0
    for goal in goals:
        spread = goal.measured(figures)
        if spread is not None:
            met += goal.met(spread.median)
            verdict = "met" if goal.met(spread.median) else "**missed**"
            between = f"{goal.show(spread.low)} – {goal.show(spread.high)}"
            rows.append([goal.goal, goal.wanted, goal.show(spread.median), between, verdict])
    if rows:
        yield f"### Goals: {met} of {len(rows)} met"
        yield table(["goal", "wanted", "measured", "spread", ""], rows)


def _workload(figures: Figures, store: str, workload: str) -> Iterator[str]:
    titles = {one.name: one.title for one in WORKLOADS} | {IMPORT: "import the driver in a fresh process"}
    yield f"### {STORES[store]}, {workload}: {titles[workload]}"
    names = figures.names(store, workload)
    rows = []
    for contender in figures.contenders(store, workload):
        row = [contender]
        for name in names:
            address = f"{store}/{workload}/{contender}/{name}"
            spread = figures.spread(address)
            base = f"{store}/{workload}/{_ours(contender)}/{name}"
            ratio = figures.ratio(base, address) if base != address else None
            row.append(_cell(name, spread, ratio))
        rows.append(row)
    yield table(["", *(_label(name) for name in names)], rows)


def _ours(contender: str) -> str:
    return "stargraph-engine" if contender.endswith("-engine") else "stargraph"


def _label(name: str) -> str:
    kind, at, size = name.partition("@")
    return f"{_LABELS.get(kind, kind)}{' at ' if at else ''}{int(size):,}" if at else _LABELS.get(kind, kind)


def _cell(name: str, spread: Spread | None, ratio: Spread | None) -> str:
    """Write a value with its spread, and how many times ours is of it."""
    if spread is None:
        return "–"
    value = shown(name, spread.median)
    between = f" ({shown(name, spread.low)} – {shown(name, spread.high)})" if spread.high > spread.low else ""
    ours = f"; ours {times(ratio.median)}" if ratio is not None else ""
    return f"{value}{between}{ours}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
