"""`stargraph inspect`."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stargraph.cli._options import DEFAULT_CHECKPOINT, CheckpointOption, JsonOption, RunIdArgument
from stargraph.cli._output import (
    clean,
    one_line,
    print_json,
    print_lines,
    show_bytes,
    show_seconds,
    show_time,
    show_value,
    table,
)
from stargraph.errors import CheckpointNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stargraph.checkpoint.protocol import Checkpoint, Checkpointer

_VALUE_WIDTH: Final = 40


def inspect(
    run_id: RunIdArgument,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    step: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show this step, with the whole state after it.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what happened in a run, step by step; or one step with its state."""
    from stargraph.cli._execution import run_async

    if step is None:
        latest, entries = run_async(_timeline(checkpoint, run_id))
        if json:
            print_json(_run_as_json(latest, entries))
        else:
            print_lines([*_head(latest), "", *_timeline_lines(entries)])
        return
    record = run_async(_read_step(checkpoint, run_id, step))
    if json:
        print_json(record.model_dump(mode="json"))
    else:
        print_lines(_step_lines(record))


async def _timeline(url: str, run_id: str) -> tuple[Checkpoint, list[dict[str, Any]]]:
    from stargraph.cli._store import opened, read_latest

    entries = []
    async with opened(url, must_exist=True) as store:
        latest = await read_latest(store, run_id)
        before: Checkpoint | None = None
        async for record in _history(store, latest):
            entries.append(_entry(record, before))
            before = record
    return latest, entries


async def _history(store: Checkpointer, latest: Checkpoint) -> AsyncIterator[Checkpoint]:
    """The steps up to the latest one; those that were pruned are left out."""
    from stargraph.checkpoint.protocol import RunHistory
    from stargraph.cli._store import keyring
    from stargraph.runtime import dispatch

    keys = keyring()
    if isinstance(store, RunHistory):
        async for record in store.history(latest.run_id, to_step=latest.step):
            if keys is not None:
                keys.check(record)
            yield record
        return
    for step in range(latest.step + 1):
        found = await dispatch.read_at_step(store, latest.run_id, step, keyring=keys)
        if found is not None:
            yield found


async def _read_step(url: str, run_id: str, step: int) -> Checkpoint:
    from stargraph.cli._store import keyring, opened, read_latest
    from stargraph.runtime import dispatch

    async with opened(url, must_exist=True) as store:
        latest = await read_latest(store, run_id)
        record = await dispatch.read_at_step(store, run_id, step, keyring=keyring())
    if record is None:
        raise CheckpointNotFoundError(
            f"run {run_id!r} has no step {step}",
            reason="step-not-found",
            hint=f"Its latest step is {latest.step}"
            + ("." if step > latest.step else "; the step you asked for was pruned."),
            run_id=run_id,
            step=step,
        )
    return record


def _entry(record: Checkpoint, before: Checkpoint | None) -> dict[str, Any]:
    seconds = (record.timestamp - record.task_started_at).total_seconds() if record.task_started_at else None
    return {
        "step": record.step,
        "event": record.event,
        "status": record.status,
        "node": record.last_node,
        "task_id": record.task_id,
        "timestamp": record.timestamp,
        "seconds": seconds,
        "state_bytes": len(record.state_json()),
        "changed": _changes(record, before),
        "error": record.error.model_dump(mode="json", exclude={"traceback"}) if record.error else None,
    }


def _changes(record: Checkpoint, before: Checkpoint | None) -> dict[str, Any]:
    """What is new, different and gone in the state, by the names of the fields."""
    old = before.state_fragments() if before else {}
    new = record.state_fragments()
    return {
        "set": {
            name: {"bytes": len(fragment.encoded), "value": show_value(fragment.value, _VALUE_WIDTH)}
            for name, fragment in new.items()
            if name not in old or old[name].digest != fragment.digest
        },
        "removed": [name for name in old if name not in new],
    }


def _run_as_json(latest: Checkpoint, entries: list[dict[str, Any]]) -> dict[str, Any]:
    from stargraph.checkpoint.protocol import RunSummary

    timeline = [
        {
            **entry,
            "changed": list(entry["changed"]["set"]),
            "removed": entry["changed"]["removed"],
        }
        for entry in entries
    ]
    return {
        **RunSummary.from_checkpoint(latest).model_dump(mode="json"),
        "interrupts": [interrupt.model_dump(mode="json") for interrupt in latest.interrupts],
        "timeline": timeline,
    }


def _head(latest: Checkpoint) -> list[str]:
    seconds = (latest.timestamp - latest.started_at).total_seconds()
    lines = [
        f"run      {latest.run_id}",
        f"graph    {latest.graph_id}  ({latest.graph_hash[:12]})",
        f"status   {latest.status}",
        f"started  {show_time(latest.started_at)}",
        f"updated  {show_time(latest.timestamp)}  ({show_seconds(seconds)} later)",
    ]
    if latest.parent_run_id is not None:
        lines.append(f"parent   {latest.parent_run_id}, step {latest.parent_step}  ({latest.origin})")
    if latest.metadata:
        lines.append(f"tags     {' '.join(one_line(f'{name}={tag}') for name, tag in latest.metadata.items())}")
    lines += [f"asks     {interrupt.id}: {one_line(interrupt.prompt)}" for interrupt in latest.interrupts]
    if latest.error is not None:
        lines.append(f"error    {one_line(f'{latest.error.type}: {latest.error.message}')}")
    return lines


def _timeline_lines(entries: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            str(entry["step"]),
            entry["event"],
            entry["node"] or "",
            "" if entry["seconds"] is None else show_seconds(entry["seconds"]),
            show_bytes(entry["state_bytes"]),
            _changes_in_words(entry["changed"]),
        )
        for entry in entries
    ]
    return table(("STEP", "EVENT", "NODE", "TOOK", "STATE", "CHANGED"), rows)


def _changes_in_words(changes: dict[str, Any]) -> str:
    words = [
        f"{one_line(name)}={change['value']}"
        if change["value"] is not None
        else f"{one_line(name)} ({show_bytes(change['bytes'])})"
        for name, change in changes["set"].items()
    ]
    return "  ".join([*words, *(f"-{one_line(name)}" for name in changes["removed"])])


def _step_lines(record: Checkpoint) -> list[str]:
    lines = [
        f"run      {record.run_id}",
        f"step     {record.step}",
        f"event    {record.event}" + (f" {record.last_node}" if record.last_node else ""),
        f"status   {record.status}",
        f"time     {show_time(record.timestamp)}",
    ]
    if record.task_started_at is not None:
        lines.append(f"took     {show_seconds((record.timestamp - record.task_started_at).total_seconds())}")
    following = " ".join(item.node if item.kind == "task" else f"join:{item.join}" for item in record.frontier)
    if following:
        lines.append(f"next     {following}")
    lines.append(f"digest   {record.digest}")
    if record.error is not None:
        lines += ["", f"error    {clean(f'{record.error.type}: {record.error.message}')}"]
        lines += [clean(line) for line in (record.error.traceback or "").splitlines()]
    if record.update is not None:
        lines += ["", "update", *_pretty(record.update)]
    return [*lines, "", "state", *_pretty(record.state)]


def _pretty(value: object) -> list[str]:
    return clean(json_module.dumps(value, indent=2, ensure_ascii=False)).split("\n")
