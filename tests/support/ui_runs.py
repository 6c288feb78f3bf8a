"""Stores with runs for the pages: one of each kind, long ones, large ones, hostile ones."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from stargraph.checkpoint.protocol import (
    Checkpoint,
    Checkpointer,
    ErrorInfo,
    JsonValue,
    ProcessInfo,
    QueueEntry,
    Schedule,
    Schedules,
    Task,
)
from stargraph.graph import Graph
from stargraph.runtime import dispatch
from support.checkpoints import EXECUTOR, NOW, genesis

ARTICLE: Final = """\
ir_version: "1.0.0"
id: article
state_schema:
  topic: str
  sections: {type: "list[str]", default: []}
  drafts: {type: list, default: [], reduce: append}
  facts: {type: dict, default: {}}
  score: {type: float, default: 0.0}
  summary: {type: str, default: ""}
  approved: {type: "bool | None", default: null}
  published: {type: bool, default: false}
nodes:
  - {id: plan, kind: "support.ui_nodes:plan"}
  - {id: draft, kind: "support.ui_nodes:draft"}
  - {id: merge, kind: "support.ui_nodes:merge"}
  - {id: facts, kind: "support.ui_nodes:facts"}
  - {id: style, kind: "support.ui_nodes:style"}
  - {id: approve, kind: interrupt, prompt: "Publish the article on {topic}?", into: approved}
  - {id: publish, kind: "support.ui_nodes:publish"}
rules:
  - {id: fan, when: {node: plan}, then: [{kind: map, over: state.sections, target: draft, join: merge}]}
  - {id: check, when: {node: merge}, then: [{kind: parallel, targets: [facts, style], join: approve}]}
  - {id: rejected, when: {node: approve, if: "state.approved == false"}, then: [{kind: halt, reason: rejected}]}
"""

COUNTER: Final = """\
ir_version: "1.0.0"
id: counter
state_schema:
  rounds: int
  count: {type: int, default: 0}
nodes:
  - {id: tick, kind: "support.ui_nodes:tick"}
  - {id: end, kind: halt}
rules:
  - {id: again, when: {node: tick, if: "state.count < state.rounds"}, then: [{kind: goto, target: tick}]}
"""

HOSTILE: Final[dict[str, JsonValue]] = {
    "<script>alert(1)</script>": "</script><script>document.title='owned'</script>",
    "svg": "<svg onload=\"document.title='owned'\"><image href='https://evil.example/x'/></svg>",
    'quote"><img src=x onerror=alert(1)>': "' onmouseover='alert(1)",
    "bidi": "user\u202etxt.exe\u2066",
    "template": "{{ 7*7 }} {% raw %} ${7*7}",
    "k" * 30_000: "a huge key",
    "markup": "&lt;b&gt; &amp; ]]> <!-- --> \u0000 \u001b[31m",
    "deep": [[[[[[[[[[[["<b>deep</b>"]]]]]]]]]]]],
}


def graph_file(folder: Path, text: str, name: str) -> Path:
    """Write a graph into a folder, and return its file."""
    file = folder / name
    file.write_text(text)
    return file


async def make_articles(store: Checkpointer, folder: Path) -> dict[str, str]:
    """Run the article graph to each place where it can stand; return the run ids by their kind."""
    graph = Graph.from_file(graph_file(folder, ARTICLE, "article.yaml"))
    ids = {kind: f"{kind}-{secrets.token_hex(4)}" for kind in ("waiting", "done", "failed", "rejected", "cancelled")}
    topics = {"failed": "queues", "waiting": "databases", "done": "caches", "rejected": "leases", "cancelled": "clocks"}
    for kind, run_id in ids.items():
        run = await graph.start(
            checkpointer=store, inputs={"topic": topics[kind]}, run_id=run_id, metadata={"desk": "tech", "kind": kind}
        )
        await run.start()
        if kind == "cancelled":
            await run.cancel()
        elif kind != "waiting":
            await run.answer(run.questions[0], kind != "rejected")
            await run.resume()
    return ids


async def make_queued(store: Checkpointer) -> None:
    """Store a run of a queue of each kind."""
    now = datetime.now(UTC)
    for name, entry in {
        "ready": QueueEntry(),
        "later": QueueEntry(name="nightly", not_before=now + timedelta(hours=2)),
        "old": QueueEntry(priority=7),
    }.items():
        at = NOW if name == "old" else now
        await store.write(genesis(run_id=name, status="queued", timestamp=at, queue=entry))
    process = ProcessInfo(id="b" * 16, host="vanished", pid=7, version="1")
    await store.write(genesis(run_id="lost", process=process, queue=QueueEntry()))
    await store.write(first := genesis(run_id="broken", queue=QueueEntry()))
    error = ErrorInfo(type="ValueError", message="<b>no</b> luck", reason="bad-luck")
    await store.write(first.next(event="failed", status="failed", executor_id=EXECUTOR, timestamp=now, error=error))
    await store.write(genesis(run_id="unqueued"))


async def make_schedules(store: Schedules) -> None:
    """Store a schedule that is due, one that never is, and one whose words are an attack."""
    for name, cron, zone, graph_id in (
        ("daily-report", "0 7 * * *", "Europe/Berlin", "article"),
        ("every-quarter-of-an-hour", "*/15 * * * *", "UTC", "counter"),
        ("wrong", "<script>alert(1)</script>", "UTC", "<script>alert('graph')</script>"),
    ):
        entry = QueueEntry(name="nightly", priority=5) if name == "daily-report" else QueueEntry()
        made = Schedule(id=name, cron=cron, timezone=zone, graph_id=graph_id, queue=entry, since=datetime.now(UTC))
        await store.put_schedule(made)


async def make_hostile(store: Checkpointer, run_id: str = "hostile") -> None:
    """Store a run in which every text is an attack."""
    first = genesis(
        run_id=run_id,
        graph_id="<script>alert('graph')</script>",
        state=HOSTILE,
        metadata={"<b>tag</b>": "\"><script>alert('tag')</script>"},
        definition={
            "graph": {
                "id": "x",
                "nodes": [{"id": "</title><script>alert(2)</script>", "kind": "echo"}],
                "rules": [],
            }
        },
        frontier=(Task(id="0001-x", node="</title><script>alert(2)</script>", since_step=0),),
    )
    await dispatch.write(store, first)
    await dispatch.write(
        store,
        first.next(
            event="completed",
            executor_id=EXECUTOR,
            timestamp=NOW + timedelta(seconds=2),
            last_node="</title><script>alert(2)</script>",
            task_id="0001-x",
            task_started_at=NOW,
            changes={"svg": "<svg/onload=alert(3)>"},
            update={"svg": "<svg/onload=alert(3)>"},
        ),
    )


async def make_long(store: Checkpointer, steps: int, *, run_id: str = "long", state_bytes: int = 0) -> Checkpoint:
    """Store a run of many steps that loops over three nodes; its state has one large field on demand."""
    names = ("fetch", "parse", "store")
    state: dict[str, JsonValue] = {"count": 0, "last": ""}
    if state_bytes:
        row = "x" * 180
        state["rows"] = [{"id": at, "text": f"{at}{row}"} for at in range(state_bytes // 210)]
    record = genesis(
        run_id=run_id,
        graph_id="loop",
        state=state,
        definition={
            "graph": {
                "id": "loop",
                "nodes": [{"id": name, "kind": "support.ui_nodes:tick"} for name in names],
                "rules": [
                    {
                        "id": "again",
                        "when": {"node": "store", "if": "state.count < 20000"},
                        "then": [{"kind": "goto", "target": "fetch"}],
                    }
                ],
            }
        },
        frontier=(Task(id="0000-fetch", node="fetch", since_step=0),),
    )
    batch = [record]
    for step in range(1, steps):
        name, following = names[(step - 1) % 3], names[step % 3]
        at = NOW + timedelta(seconds=step)
        record = record.next(
            event="completed",
            executor_id=EXECUTOR,
            timestamp=at,
            last_node=name,
            task_id=f"{step - 1:04}-{name}",
            task_started_at=at - timedelta(seconds=0.7),
            changes={"count": step, "last": name},
            update={"count": step, "last": name},
            status="done" if step == steps - 1 else "running",
            frontier=() if step == steps - 1 else (Task(id=f"{step:04}-{following}", node=following, since_step=step),),
        )
        batch.append(record)
        if len(batch) == 500:
            await dispatch.write_many(store, batch)
            batch = []
    if batch:
        await dispatch.write_many(store, batch)
    return record
