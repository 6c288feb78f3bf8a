"""Exact checks of plain values: what core builds passes them, in a tenth of the time that a validation takes.

A value that does not pass is not wrong: pydantic looks at it then, converts it, or says what is wrong. So what is
accepted here is exactly what pydantic would leave as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, get_args

from pydantic import ValidationError

from stargraph.checkpoint.protocol._pydantic import assemble
from stargraph.checkpoint.protocol._records import (
    MAX_KEY_BYTES,
    ErrorInfo,
    Event,
    FanOut,
    Interrupt,
    Origin,
    ProcessInfo,
    QueueEntry,
    RecordedCall,
    Seal,
    Status,
    StepRange,
    Task,
    is_run_id,
)
from stargraph.checkpoint.values._times import datetime_class

_EVENTS: Final = frozenset(get_args(Event))
_STATUSES: Final = frozenset(get_args(Status))
_ORIGINS: Final = frozenset(get_args(Origin))
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_EXECUTOR: Final = re.compile(r"[0-9a-f]{32}")
_PROCESS_ID: Final = re.compile(r"[0-9a-f]{16}")
_FRONTIER: Final = frozenset((Task, FanOut))
_MAX_STEP: Final = 2**53
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", re.ASCII)
_TASK_FIELDS: Final = tuple(Task.model_fields)
_TASK_KEYS: Final = frozenset(_TASK_FIELDS)
_task_members: Final = itemgetter("id", "node", "since_step", "index", "rule")
_FAN_OUT_FIELDS: Final = tuple(FanOut.model_fields)
_FAN_OUT_KEYS: Final = frozenset(_FAN_OUT_FIELDS)
_PROCESS_FIELDS: Final = tuple(ProcessInfo.model_fields)
_SEAL_FIELDS: Final = tuple(Seal.model_fields)


def is_plain_step(fields: Mapping[str, Any]) -> bool:
    """Return whether the fields that are others in each step are plain."""
    event, status, executor_id, step = fields["event"], fields["status"], fields["executor_id"], fields["step"]
    started, error = fields["task_started_at"], fields["error"]
    return (
        type(step) is int
        and 0 <= step <= _MAX_STEP
        and type(event) is str
        and event in _EVENTS
        and type(status) is str
        and status in _STATUSES
        and type(executor_id) is str
        and _EXECUTOR.fullmatch(executor_id) is not None
        and _is_instant(fields["timestamp"])
        and (started is None or _is_instant(started))
        and _is_text_or_none(fields["last_node"])
        and _is_text_or_none(fields["task_id"])
        and _is_key_or_none(fields["key"])
        and fields["definition"] is None
        and (error is None or type(error) is ErrorInfo)
        and type(fields["frontier"]) is tuple
        and _FRONTIER.issuperset(map(type, fields["frontier"]))
        and _are_all(fields["interrupts"], Interrupt)
        and _are_all(fields["calls"], RecordedCall)
    )


def is_plain_run(fields: Mapping[str, Any]) -> bool:
    """Return whether the fields that repeat in a run are plain."""
    parent_step, process, origin = fields["parent_step"], fields["process"], fields["origin"]
    parent, metadata, queue = fields["parent_run_id"], fields["metadata"], fields["queue"]
    return (
        type(fields["run_id"]) is str
        and is_run_id(fields["run_id"])
        and _is_text(fields["graph_id"])
        and is_hash(fields["graph_hash"])
        and is_hash(fields["runtime_hash"])
        and _is_instant(fields["started_at"])
        and (process is None or type(process) is ProcessInfo)
        and (queue is None or type(queue) is QueueEntry)
        and (parent is None or (type(parent) is str and is_run_id(parent)))
        and (parent_step is None or (type(parent_step) is int and 0 <= parent_step <= _MAX_STEP))
        and (origin is None or (type(origin) is str and origin in _ORIGINS))
        and type(metadata) is dict
        and all(_is_text(name) and _is_text(value) for name, value in metadata.items())
    )


def is_hash(value: object) -> bool:
    """Return whether a value is a fingerprint: 64 hex digits in lower case."""
    return type(value) is str and _HASH.fullmatch(value) is not None


def read_plain(fields: dict[str, Any]) -> bool:
    """Make of fields that were parsed from JSON what pydantic would make of them, in place.

    Returns:
        Whether all of them are plain. If not, some may have been converted, which pydantic takes as well.
    """
    for name in ("started_at", "timestamp", "task_started_at"):
        moment = fields[name]
        if type(moment) is str and _TIME.fullmatch(moment):
            try:
                fields[name] = datetime.fromisoformat(moment)
            except ValueError:
                return False
    process, seal = fields["process"], fields["seal"]
    if type(process) is dict:
        whole = {"id": None, **process}
        if whole.keys() == ProcessInfo.model_fields.keys() and _is_plain_process(whole):
            fields["process"] = assemble(ProcessInfo, {name: whole[name] for name in _PROCESS_FIELDS})
    if type(fields["queue"]) is dict:
        try:
            fields["queue"] = QueueEntry.model_validate(fields["queue"])
        except ValidationError:
            return False
    if type(seal) is dict and seal.keys() == Seal.model_fields.keys() and _is_plain_seal(seal):
        fields["seal"] = assemble(Seal, {name: seal[name] for name in _SEAL_FIELDS})
    for name in ("calls", "interrupts"):
        if fields[name] == []:
            fields[name] = ()
    if type(fields["frontier"]) is list:
        fields["frontier"] = _frontier(fields["frontier"])
    previous, seal = fields["previous_digest"], fields["seal"]
    return (
        is_plain_step(fields)
        and is_plain_run(fields)
        and is_hash(fields["digest"])
        and (previous is None or is_hash(previous))
        and (seal is None or type(seal) is Seal)
    )


def _frontier(items: list[Any]) -> tuple[Any, ...]:
    made = []
    count = len(_TASK_FIELDS)
    for item in items:
        try:
            if item["kind"] == "task" and item["calls"] == [] and len(item) == count:
                made.append(_task(*_task_members(item)) or item)
                continue
        except (KeyError, TypeError):  # it is no task, or a member is a list or a dict
            pass
        made.append(_frontier_item(item))
    return tuple(made)


def _frontier_item(item: Any) -> Any:
    """Return a task or a fan-out that is plain as what it is, and anything else as it is."""
    if type(item) is not dict:
        return item
    keys = item.keys()
    if keys == _TASK_KEYS and item["kind"] == "task":
        ranges = _step_ranges(item["calls"])
        if ranges is not None and _is_plain_task(*_task_members(item)):
            return assemble(Task, {**{name: item[name] for name in _TASK_FIELDS}, "calls": ranges})
    elif keys == _FAN_OUT_KEYS and item["kind"] == "fan_out":
        completed = _step_ranges(item["completed_steps"])
        if (
            completed is not None
            and item["mode"] in ("parallel", "map")
            and all(_is_text(item[name]) for name in ("rule", "task_id", "join"))
            and all(_is_step(item[name]) for name in ("since_step", "width", "next_index"))
        ):
            return assemble(FanOut, {**{name: item[name] for name in _FAN_OUT_FIELDS}, "completed_steps": completed})
    return item


# The steps of a map share all but one or two of their tasks, hundreds of them: a resume reads them once.
@lru_cache(maxsize=4096, typed=True)
def _task(task_id: str, node: str, since_step: int, index: int | None, rule: str | None) -> Task | None:
    """Return a task that has recorded no call; None if it is not plain."""
    if not _is_plain_task(task_id, node, since_step, index, rule):
        return None
    made = {"kind": "task", "id": task_id, "node": node, "since_step": since_step, "index": index, "rule": rule}
    return assemble(Task, {**made, "calls": ()})


def _is_plain_task(task_id: object, node: object, since_step: object, index: object, rule: object) -> bool:
    return (
        _is_text(task_id)
        and _is_text(node)
        and _is_step(since_step)
        and (index is None or _is_step(index))
        and _is_text_or_none(rule)
    )


def _step_ranges(ranges: object) -> tuple[StepRange, ...] | None:
    if type(ranges) is not list:
        return None
    if not all(
        type(each) is dict and each.keys() == {"first", "last"} and _is_step(each["first"]) and _is_step(each["last"])
        for each in ranges
    ):
        return None
    return tuple([assemble(StepRange, {"first": each["first"], "last": each["last"]}) for each in ranges])


def _is_step(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_STEP


def _is_plain_seal(seal: dict[str, Any]) -> bool:
    return _is_text(seal["key_id"]) and is_hash(seal["mac"])


def _is_plain_process(process: dict[str, Any]) -> bool:
    pid, own_id = process["pid"], process["id"]
    return (
        _is_text(process["host"])
        and _is_text(process["version"])
        and _is_text_or_none(process["worker"])
        and type(pid) is int
        and 0 <= pid <= _MAX_STEP
        and (own_id is None or (type(own_id) is str and _PROCESS_ID.fullmatch(own_id) is not None))
    )


def _is_instant(value: object, kind: type[datetime] = datetime_class(datetime)) -> bool:  # noqa: B008  # as imported
    return type(value) is kind and value.tzinfo is UTC


def _is_text(value: object) -> bool:
    # Text that is not ASCII may hold a lone surrogate: pydantic looks for it.
    return type(value) is str and value.isascii()


def _is_text_or_none(value: object) -> bool:
    return value is None or (type(value) is str and value.isascii())


def _is_key_or_none(value: object) -> bool:
    return value is None or (type(value) is str and value.isascii() and 0 < len(value) <= MAX_KEY_BYTES)


def _are_all(items: object, kind: type) -> bool:
    return type(items) is tuple and (not items or all(type(item) is kind for item in items))
