"""What must be true of a store and the ledger once everything has come to rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph_torture.graphs import graph_of
from stargraph_torture.recorder import Store

_TAKES = frozenset({"started", "resumed"})
_MOST_TOLD: Final = 20


@dataclass
class Verdict:
    """What the oracle found.

    Attributes:
        acknowledged: how many checkpoints the store had acknowledged, each counted once.
        stored: how many it holds.
        runs: how many runs it holds, child runs included.
        effects: how many times a node had its effect.
        repeated: how many of these were repeats, of a node that was in flight when its executor was lost.
        refused: what the drivers raised meanwhile.
        violations: the promises that were broken; there must be none.
    """

    acknowledged: int = 0
    stored: int = 0
    runs: int = 0
    effects: int = 0
    repeated: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    lost: int = 0

    def blame(self, what: str) -> None:
        """Record a broken promise."""
        if len(self.violations) < _MOST_TOLD:
            self.violations.append(what)


async def examine(
    store: Store, ledger: Sequence[Mapping[str, Any]], run_ids: Sequence[str], ends: Mapping[str, dict[str, JsonValue]]
) -> Verdict:
    """Compare a store with the ledger and with runs that nothing disturbed.

    Args:
        store: a handle of its own, past every proxy.
        ledger: what the workers saw.
        run_ids: the runs that were executed.
        ends: the state that a run of each graph ends in.
    """
    verdict = Verdict()
    logs = await _read_logs(store, verdict)
    for line in ledger:
        if line["what"] == "odd":
            verdict.blame(f"run {line.get('run')}: {line['text']}")
        elif line["what"] == "refused":
            verdict.refused[line["text"]] += 1
    _check_acknowledged(ledger, logs, verdict)
    cancelled = {line["run"] for line in ledger if line["what"] == "cancelling"}
    _check_ends(logs, run_ids, ends, cancelled, verdict)
    _check_effects(ledger, logs, verdict)
    return verdict


async def _read_logs(store: Store, verdict: Verdict) -> dict[str, list[Checkpoint]]:
    """Read every run, and check that each log is a chain without gaps whose end the listing knows."""
    logs: dict[str, list[Checkpoint]] = {}
    for summary in await store.list_runs(limit=10**6):
        run_id = summary.run_id
        log = logs[run_id] = [checkpoint async for checkpoint in store.history(run_id)]
        verdict.stored += len(log)
        previous = None
        for step, checkpoint in enumerate(log):
            if checkpoint.step != step:
                verdict.blame(f"run {run_id}: step {checkpoint.step} stands in the place of step {step}")
            if checkpoint.previous_digest != previous:
                verdict.blame(f"run {run_id}, step {step}: it does not follow the step before it")
            previous = checkpoint.digest
        if not log or (summary.last_step, summary.status) != (log[-1].step, log[-1].status):
            verdict.blame(f"run {run_id}: the listing says {summary.status} at {summary.last_step}, the log does not")
        elif await store.read_latest(run_id) != log[-1]:
            verdict.blame(f"run {run_id}: read_latest() is not the end of the log")
    verdict.runs = len(logs)
    return logs


def _check_acknowledged(
    ledger: Sequence[Mapping[str, Any]], logs: Mapping[str, list[Checkpoint]], verdict: Verdict
) -> None:
    """Every acknowledged checkpoint is there, and no step was ever acknowledged with two values."""
    seen: dict[tuple[str, int], str] = {}
    for line in ledger:
        if line["what"] != "acknowledged":
            continue
        run_id, step, digest = line["run"], line["step"], line["digest"]
        log = logs.get(run_id, [])
        if seen.setdefault((run_id, step), digest) != digest:
            verdict.blame(f"run {run_id}, step {step}: acknowledged with two values")
        if step >= len(log) or log[step].digest != digest:
            verdict.lost += 1
            there = "nothing is there" if step >= len(log) else "another checkpoint is there"
            verdict.blame(f"run {run_id}, step {step}: acknowledged ({line['event']}), and {there}")
    verdict.acknowledged = len(seen)


def _check_ends(
    logs: Mapping[str, list[Checkpoint]],
    run_ids: Sequence[str],
    ends: Mapping[str, dict[str, JsonValue]],
    cancelled: set[str],
    verdict: Verdict,
) -> None:
    """Every run ended in the state of an undisturbed one, but those that somebody cancelled."""
    for run_id in run_ids:
        if run_id not in logs:
            verdict.blame(f"run {run_id}: the store does not know it")
    for run_id, log in logs.items():
        if not log:
            continue
        last, root = log[-1], run_id.partition(":")[0]
        if last.status == "cancelled" and root in cancelled:
            continue
        if last.status != "done":
            verdict.blame(f"run {run_id}: it ended as {last.status}, {last.error}")
        elif last.state != ends[last.graph_id]:
            verdict.blame(f"run {run_id}: it ended in {last.state}, undisturbed in {ends[last.graph_id]}")
        if root == run_id and last.graph_id != graph_of(run_id):
            verdict.blame(f"run {run_id}: it is a run of {last.graph_id}")


def _check_effects(ledger: Sequence[Mapping[str, Any]], logs: Mapping[str, list[Checkpoint]], verdict: Verdict) -> None:
    """A node had its effect at least once; again only for an executor that took over before it was recorded."""
    executors = {
        line["session"]: line["executor_id"]
        for line in ledger
        if line["what"] == "acknowledged" and line["event"] in _TAKES and line["session"]
    }
    taken: dict[tuple[str, str], int] = {}
    completed: dict[tuple[str, str], int] = {}
    for run_id, log in logs.items():
        for checkpoint in log:
            if checkpoint.event in _TAKES:
                taken.setdefault((run_id, checkpoint.executor_id), checkpoint.step)
            elif checkpoint.event == "completed" and checkpoint.task_id is not None:
                completed[run_id, checkpoint.task_id] = checkpoint.step
    effects: dict[tuple[str, str], Counter[tuple[str, int]]] = defaultdict(Counter)
    nodes = set()
    for line in ledger:
        if line["what"] != "effect":
            continue
        run_id, task, session = line["run"], line["task"], line["session"]
        nodes.add((graph_name(logs, run_id), line["node"]))
        verdict.effects += 1
        effects[run_id, task][session, line["attempt"]] += 1
        since = taken.get((run_id, executors.get(session, "")))
        if since is None:
            verdict.blame(f"run {run_id}: node {line['node']} ran for an executor that the log does not know")
        elif since > completed.get((run_id, task), since):
            verdict.blame(
                f"run {run_id}: node {line['node']} ran for the executor of step {since},"
                f" and was recorded at step {completed[run_id, task]}"
            )
    for (run_id, task), times in effects.items():
        verdict.repeated += len({session for session, _ in times}) - 1
        if max(times.values()) > 1:
            verdict.blame(f"run {run_id}, task {task}: it ran twice for one executor")
    for (run_id, task), step in completed.items():
        node = logs[run_id][step].last_node
        if (run_id, task) not in effects and (graph_name(logs, run_id), node) in nodes:
            verdict.blame(f"run {run_id}, step {step}: node {node} was recorded and never ran")


def graph_name(logs: Mapping[str, list[Checkpoint]], run_id: str) -> str:
    """Return the graph of a run; its own id if the store does not know it."""
    return logs[run_id][0].graph_id if logs.get(run_id) else run_id
