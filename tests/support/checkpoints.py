"""Checkpoints to test with, and Hypothesis strategies for what they may hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from stargraph.checkpoint.protocol import (
    Checkpoint,
    ErrorInfo,
    FanOut,
    Interrupt,
    JsonValue,
    ProcessInfo,
    QueueEntry,
    RecordedCall,
    StepRange,
    Task,
)

GRAPH_HASH = "1f" * 32
RUNTIME_HASH = "2e" * 32
EXECUTOR = "0123456789abcdef" * 2
OTHER_EXECUTOR = "fedcba9876543210" * 2
NOW = datetime(2026, 1, 31, 9, 5, 7, 120, tzinfo=UTC)

HARD_STATE: dict[str, JsonValue] = {
    "z comes first": 1,
    "": "the empty key",
    "NUL": "a\0b",
    "astral": "😀 \U0010ffff",
    "nfc": "\u00e9",
    "nfd": "e\u0301",
    "\u00e9": "composed key",
    "e\u0301": "decomposed key",
    "negative zero": -0.0,
    "zero": 0.0,
    "one of each": [1, 1.0, True, "1"],
    "limits": [2**63 - 1, -(2**63)],
    "floats": [5e-324, 1.7976931348623157e308, 1e16, 1e-6, 0.1],
    "empty": [[], {}, "", None],
    "order": {"b": 1, "a": {"d": 2, "c": 3}},
    "separators": '\u2028\u2029\x7f/\\"\b\t\n\f\r\x1f',
}


def genesis(**fields: Any) -> Checkpoint:
    """Return step 0 of a run; `fields` replace those of `Checkpoint.genesis`."""
    given: dict[str, Any] = {
        "run_id": "run-1",
        "graph_id": "triage",
        "graph_hash": GRAPH_HASH,
        "runtime_hash": RUNTIME_HASH,
        "state": {},
        "executor_id": EXECUTOR,
        "timestamp": NOW,
    }
    return Checkpoint.genesis(**given | fields)


def following(checkpoint: Checkpoint, **fields: Any) -> Checkpoint:
    """Return the next step, a second later; `fields` are those of `Checkpoint.next`."""
    given: dict[str, Any] = {
        "event": "completed",
        "executor_id": checkpoint.executor_id,
        "timestamp": checkpoint.timestamp + timedelta(seconds=1),
    }
    return checkpoint.next(**given | fields)


def chain(length: int, **fields: Any) -> list[Checkpoint]:
    """Return the first steps of a run that counts."""
    made = [genesis(**fields)]
    while len(made) < length:
        made.append(following(made[-1], changes={"n": len(made)}))
    return made


def rich() -> Checkpoint:
    """Return a checkpoint in which every field has a value."""
    error = ErrorInfo(type="my_pkg.Slow", message="took long", reason="timeout", node="fetch", traceback="Traceback …")
    first = genesis(
        state=HARD_STATE,
        metadata={"team": "α", "": ""},
        process=ProcessInfo(host="knoten-α", pid=4711, version="1.2.3", worker="blue-1", id="0123456789abcdef"),
        queue=QueueEntry(name="mail", priority=-3, concurrency_key="kunde α", not_before=NOW),
        parent_run_id="parent:1",
        parent_step=4,
        origin="fork",
        definition={"ir": {"nodes": ["a"]}, "weight": 1.0},
    )
    return following(
        first,
        event="migrated",
        status="awaiting_input",
        changes={"n": 1},
        update={"n": 1, "": [1.0]},
        last_node="fetch",
        task_id="t-1",
        task_started_at=NOW,
        key="Schlüssel 1",
        definition=[{"b": 1, "a": -0.0}],
        frontier=(
            Task(id="t-2", node="ask", since_step=0, index=3, calls=(StepRange(first=1, last=1),)),
            FanOut(
                mode="map",
                rule="fan-out",
                task_id="t-1",
                join="report",
                since_step=0,
                width=5,
                next_index=4,
                completed_steps=(StepRange(first=1, last=2),),
            ),
        ),
        interrupts=(
            Interrupt(
                id="i-1",
                task_id="t-2",
                node="ask",
                prompt="Page somebody? 😀",
                payload={"severity": 4.0},
                into="approval",
                child_run_id="child.1",
                asked_at=NOW,
            ),
        ),
        calls=(
            RecordedCall(
                kind="call", task_id="t-1", name="get", key="k", occurrence=2, result=[1, 1.0], started_at=NOW
            ),
            RecordedCall(kind="now", task_id="t-1", name="now", error=error, started_at=NOW),
        ),
        error=error,
    )


text = st.text(st.characters(codec="utf-8"), max_size=8)
integers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 2**53, 2**63 - 1, -(2**63)])
floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, 1e-5, 1e-6, 1e15, 1e16])
scalars = st.none() | st.booleans() | integers | floats | text
json_values: st.SearchStrategy[JsonValue] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
states: st.SearchStrategy[dict[str, JsonValue]] = st.dictionaries(text, json_values, max_size=4)


def same(one: object, other: object) -> bool:
    """Return whether two JSON values are equal, of the same types and in the same order, where == takes 1 for True."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float):
        return one.hex() == other.hex()
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    return one == other


def sorted_deeply(value: JsonValue) -> JsonValue:
    """Return the value with the keys of every object in order."""
    if isinstance(value, list):
        return [sorted_deeply(item) for item in value]
    if isinstance(value, dict):
        return {key: sorted_deeply(value[key]) for key in sorted(value)}
    return value
