"""The quick way to make and read a checkpoint takes and refuses what a validation by pydantic does."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import EXECUTOR, NOW, following, genesis, rich

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.protocol import (
    Checkpoint,
    ErrorInfo,
    FanOut,
    ProcessInfo,
    StepRange,
    Task,
    _checkpoint,
)
from stargraph.checkpoint.protocol._digest import digest_of
from stargraph.checkpoint.protocol._draft import StoredFields
from stargraph.errors import StargraphError


class Word(enum.StrEnum):
    DONE = "done"
    RUNNING = "running"


class Subclass(str):
    __slots__ = ()


class Moment(datetime):
    pass


TASK = Task(id="t", node="a", since_step=0)
FAN_OUT = FanOut(mode="map", rule="r", task_id="t", join="j", since_step=0, width=3, next_index=1)
EAST = timezone(timedelta(hours=2))
TEXTS = ["", "a", "é", "\ud800", "\0", '"\\', Subclass("a"), Word.DONE, 7, True, b"a", None]
MOMENTS = [
    NOW,
    NOW.astimezone(EAST),
    NOW.replace(tzinfo=None),
    datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
    Moment(2026, 1, 1, tzinfo=UTC),
    "2026-01-31T09:05:07Z",
    "yesterday",
    0,
    None,
]
HASHES = ["0" * 64, "A" * 64, "0" * 63, "0" * 64 + "\n", "é" * 64, Subclass("0" * 64), b"0" * 64, 7, None]
STEP: dict[str, list[Any]] = {
    "event": ["completed", "started", "asked", "finished", Word.DONE, "", 7, None, ["completed"]],
    "status": ["running", "done", Word.DONE, "finished", 7, None, {}],
    "executor_id": [EXECUTOR, EXECUTOR.upper(), EXECUTOR[:-1], EXECUTOR + "\n", Subclass(EXECUTOR), 7, None],
    "timestamp": MOMENTS,
    "task_started_at": MOMENTS,
    "last_node": TEXTS,
    "task_id": TEXTS,
    "definition": [None, {}, [1.0, {"a": "é"}], {"a": float("nan")}, {1: 2}, object()],
    "error": [None, ErrorInfo(type="E", message="m"), {"type": "E", "message": "m"}, {"type": "E"}, "E", ()],
    "frontier": [(), (TASK,), (TASK, FAN_OUT), [TASK], [], (TASK.model_dump(),), ({"kind": "x"},), (7,), None, 7, {}],
    "interrupts": [(), [], None, ({},), (7,)],
    "calls": [(), [], None, ({},), (7,)],
    "graph_hash": HASHES,
    "runtime_hash": HASHES,
    "process": [
        None,
        ProcessInfo(host="h", pid=1, version="1"),
        {"host": "h", "pid": 1, "version": "1"},
        {"host": "h", "pid": "1", "version": "1"},
        {"host": "h"},
        "h",
    ],
}
FIRST: dict[str, list[Any]] = {
    **{name: STEP[name] for name in ("executor_id", "definition", "frontier", "interrupts", "status")},
    **{name: STEP[name] for name in ("graph_hash", "runtime_hash", "process", "timestamp")},
    "run_id": ["r", "", "é", "a/b", "a" * 201, "a\n", Subclass("r"), 7, None],
    "graph_id": TEXTS,
    "metadata": [{}, {"a": "b"}, {"é": "é"}, {"\ud800": "a"}, {"a": 1}, {1: "a"}, None],
    "parent_run_id": [None, "p", "p\n", 7],
    "parent_step": [None, 0, 2**53, 2**53 + 1, -1, True, 1.0, "1"],
    "origin": [None, "fork", "subgraph", "clone", Word.DONE],
}
BASES = [genesis(metadata={"a": "b"}, frontier=(TASK,)), following(genesis()), rich()]


def picks(choices: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Pick values for some of the fields; the first of a list is right, so that most are right together."""
    one = {name: st.one_of(st.just(values[0]), st.sampled_from(values)) for name, values in choices.items()}
    return st.fixed_dictionaries({}, optional=one)


def outcome(make: Callable[[], Checkpoint]) -> Any:
    try:
        made = make()
    except (StargraphError, ValueError, TypeError, AttributeError) as error:
        return type(error), getattr(error, "reason", None), str(error)
    made.ensure_valid()
    return made.digest, made.model_dump_json(), encode(made), [type(value) for value in made.__dict__.values()]


def both_ways(make: Callable[[], Checkpoint]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("is_plain_step", "is_plain_run", "read_plain"):
            patch.setattr(_checkpoint, name, lambda fields: False)
        validated = outcome(make)
    assert outcome(make) == validated


@given(st.sampled_from(BASES), picks(STEP))
def test_a_step_is_made_alike(base: Checkpoint, given: dict[str, Any]) -> None:
    both_ways(lambda: following(base, **given))


@given(picks(FIRST))
def test_a_first_step_is_made_alike(given: dict[str, Any]) -> None:
    both_ways(lambda: genesis(**given))


@pytest.mark.parametrize("choices", [STEP, FIRST], ids=["step", "first"])
def test_each_value_alone_is_taken_alike(choices: dict[str, list[Any]]) -> None:
    make: Callable[..., Checkpoint] = genesis if choices is FIRST else lambda **given: following(BASES[0], **given)
    for name, values in choices.items():
        for value in values:
            both_ways(lambda given={name: value}: make(**given))  # type: ignore[misc]


def test_a_process_or_hash_that_changes_is_in_the_digest() -> None:
    for name in ("process", "graph_hash", "runtime_hash"):
        first, second = (following(BASES[1], **{name: value}) for value in (STEP[name][0], STEP[name][1 % 1]))
        assert first == second
        other = ProcessInfo(host="h", pid=1, version="1") if name == "process" else "4c" * 32
        assert following(BASES[1], **{name: other}).digest != first.digest


# What is read.

PARSED: dict[str, list[Any]] = {
    "run_id": ["run-1", "é", "", 7, None],
    "step": [1, 0, -1, 1.0, True, "1", 2**53 + 1, None],
    "timestamp": [
        "2026-01-31T09:05:08.000120Z",
        "2026-01-31T09:05:08Z",
        "2026-01-31T11:05:08+02:00",
        "2026-01-31T09:05:08",
        "20260131T090508.000Z",
        "2026-13-31T09:05:08Z",
        "2026-W05-6T09:05:08Z",
        1769850308,
        None,
    ],
    "task_started_at": [None, "2026-01-31T09:05:08Z", "x" * 19 + "Z", {}],
    "frontier": [
        [],
        [TASK.model_dump(mode="json")],
        [TASK.model_dump(mode="json"), FAN_OUT.model_dump(mode="json")],
        [{**TASK.model_dump(mode="json"), "calls": [{"first": 1, "last": 2}]}],
        [{**TASK.model_dump(mode="json"), "calls": [{"first": 1, "last": True}]}],
        [{**TASK.model_dump(mode="json"), "calls": [{"first": 1, "last": 2, "more": 3}]}],
        [{**TASK.model_dump(mode="json"), "node": ["a"]}],
        [{**TASK.model_dump(mode="json"), "since_step": 0.0}],
        [{**TASK.model_dump(mode="json"), "since_step": False}],
        [{**TASK.model_dump(mode="json"), "rule": "\ud800"}],
        [{**FAN_OUT.model_dump(mode="json"), "completed_steps": [{"first": 1, "last": 2}, {"first": 4, "last": 4}]}],
        [{**FAN_OUT.model_dump(mode="json"), "completed_steps": [{"first": -1, "last": 2}]}],
        [{**FAN_OUT.model_dump(mode="json"), "mode": ["map"]}],
        [{**FAN_OUT.model_dump(mode="json"), "mode": "side"}],
        [{**FAN_OUT.model_dump(mode="json"), "width": True}],
        [{**FAN_OUT.model_dump(mode="json"), "join": None}],
        [{**TASK.model_dump(mode="json"), "index": True}],
        [{**TASK.model_dump(mode="json"), "since_step": "1"}],
        [{**TASK.model_dump(mode="json"), "id": "é"}],
        [{**TASK.model_dump(mode="json"), "kind": "fan_out"}],
        [{"kind": "task", "id": "t", "node": "a", "since_step": 0}],
        [7],
        {},
        None,
    ],
    "process": [
        None,
        {"host": "h", "pid": 1, "version": "1", "worker": None},
        {"host": "é", "pid": 1, "version": "1", "worker": "w"},
        {"host": "h", "pid": True, "version": "1", "worker": None},
        {"host": "h", "pid": 1, "version": "1"},
        {"host": "h", "pid": 1, "version": "1", "worker": None, "more": 1},
    ],
    "seal": [
        None,
        {"key_id": "k", "mac": "0" * 64},
        {"key_id": "k", "mac": "x"},
        {"key_id": "k"},
        {"key_id": "é", "mac": "0" * 64},
    ],
    "metadata": [{}, {"a": "b"}, {"a": 1}, [], None],
    "calls": [[], [{}], (), None, 7],
    "interrupts": [[], [{}], None],
    "error": [None, {"type": "E", "message": "m"}, {"type": "E"}],
    "definition": [None, {"a": [1.0]}],
    "parent_step": [None, 1.0],
    "unknown": [1],
}


@given(picks(PARSED), st.sets(st.sampled_from(sorted(PARSED)), max_size=1))
def test_what_is_stored_is_read_alike(given: dict[str, Any], missing: set[str]) -> None:
    base = following(genesis(frontier=(TASK,)))
    fields = orjson.loads(base.model_dump_json(exclude={"state", "update"})) | given
    fields = {name: value for name, value in fields.items() if name not in missing}
    try:  # somebody who writes into a store can compute a digest
        valid = StoredFields.model_validate({**fields, "state": {}, "update": None})
        fields["digest"] = digest_of(valid.__dict__, {}, None)
    except (StargraphError, ValueError):
        pass
    both_ways(lambda: Checkpoint.from_stored(dict(fields), {}, None))


@pytest.mark.parametrize("ranges", [(), (StepRange(first=1, last=2),)])
def test_what_was_written_is_read(ranges: tuple[StepRange, ...]) -> None:
    made = following(
        genesis(process=ProcessInfo(host="h", pid=1, version="1")),
        frontier=(Task(id="t", node="a", since_step=0, calls=ranges), FAN_OUT),
        task_started_at=NOW,
    )
    fields = orjson.loads(made.model_dump_json(exclude={"state", "update"}))
    both_ways(lambda: Checkpoint.from_stored(dict(fields), {}, None))
    assert Checkpoint.from_stored(fields, {}, None) == made


def test_steps_that_have_the_same_tasks_share_them() -> None:
    """Each step of a map of thousands of items has all tasks that are at work: a resume must not make them again."""
    branches = tuple(Task(id=f"t.{n}", node="a", since_step=0, index=n) for n in range(9))
    first = genesis(frontier=(*branches, FAN_OUT))
    read = [decode(encode(step), run_id=step.run_id, step=step.step) for step in (first, following(first))]
    assert [step.frontier for step in read] == [first.frontier] * 2
    assert all(one is other for one, other in zip(*(step.frontier[:-1] for step in read), strict=True))
