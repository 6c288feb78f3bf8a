"""`stargraph inspect`."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stargraph.cli._event_words import index_of, step_words
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    LATEST,
    CheckpointOption,
    JsonOption,
    KeysOption,
    LatestRunArgument,
)
from stargraph.cli._output import (
    clean,
    one_line,
    plural,
    print_json,
    print_lines,
    shorten,
    show_bytes,
    show_seconds,
    show_time,
    show_value,
    table,
)
from stargraph.cli._secrets import hide_known
from stargraph.cli._streams import is_terminal
from stargraph.errors import CheckpointNotFoundError, StargraphError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from datetime import datetime

    from stargraph.checkpoint.protocol import Checkpoint, Checkpointer
    from stargraph.cli._store import StoreRef

_VALUE_WIDTH: Final = 40
_SHOWN_CHANGES: Final = 6
_SHOWN_TEXT: Final = 300
_SHOWN_ERROR: Final = 20_000
"""How many characters of an error are printed; --json has all of them."""
_HEADER: Final = ("STEP", "EVENT", "NODE", "TOOK", "STATE", "CHANGED")
_WIDTHS: Final = (4, 16, 16, 7, 8)
"""The widths of the columns while a run is followed, when its rows are not known yet."""

_ON_A_TERMINAL: Final = 100
"""How many of the last steps are shown on a terminal unless --last says another number."""

_STILL_THERE: Final = 10.0
"""After how many seconds without a step a run that is followed is read again: a watch does not report its deletion."""


def inspect(
    run_id: LatestRunArgument = LATEST,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    step: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show this step, with the whole state after it.")
    ] = None,
    diff: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="A B", min=0, help="Show how the states after these two steps differ."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep showing steps as they come, until the run ends.")
    ] = False,
    last: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Show the last N steps; 0 shows all. On a terminal the last 100 are shown."
        ),
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write the run as one page, for a bug report.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what happened in a run, step by step; or one step with its state; or what changed between two.

    With --follow, any process may execute the run; Ctrl-C ends only the watching. The command exits with the
    exit code of the run.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    ref = StoreRef(checkpoint, encryption_keys)
    if (step is not None) + (diff is not None) + follow + (html is not None) > 1:
        raise StargraphError(
            "--step, --diff, --follow and --html cannot be combined",
            reason="invalid-arguments",
            hint="Give one of them.",
        )
    if html is not None:
        if json:
            raise StargraphError(
                "--html and --json cannot be combined",
                reason="invalid-arguments",
                hint="Give --html for a page, or --json for the same as an object.",
            )
        _write_page(html, run_async(_page(ref, run_id)))
    elif step is not None:
        (record,) = run_async(_read_steps(ref, run_id, step))
        if json:
            print_json(record.model_dump(mode="json"))
        else:
            print_lines(_step_lines(record))
    elif diff is not None:
        _show_diff(*run_async(_read_steps(ref, run_id, *diff)), as_json=json)
    elif follow:
        code = run_async(_follow(ref, run_id, as_json=json))
        if code:
            raise typer.Exit(code)
    else:
        if last is None:
            last = _ON_A_TERMINAL if not json and is_terminal(sys.stdout) else 0
        latest, entries, earlier = run_async(_timeline(ref, run_id, last))
        if json:
            print_json(_run_as_json(latest, entries))
        else:
            left_out = [f"({plural(earlier, 'earlier step')}: --last 0 shows all)", ""] if earlier else []
            print_lines([*_head(latest), "", *left_out, *table(_HEADER, map(_cells, entries))])


async def _page(ref: StoreRef, run_id: str) -> str:
    from stargraph.cli._run_ids import find_run_id
    from stargraph.cli._store import keyring
    from stargraph.cli._ui import load_page_function

    render = load_page_function("page")
    async with ref.opened("read") as store:
        page: str = await render(store, await find_run_id(store, run_id), keyring=keyring())
    return hide_known(page)


def _write_page(file: str, page: str) -> None:
    from stargraph.cli._files import output_file

    with output_file(file) as stream:
        stream.write(page.encode())
    if file != "-":
        print_lines([f"wrote {one_line(file)}: states and errors of the run are in it, read it before you send it on"])


async def _timeline(ref: StoreRef, run_id: str, last: int) -> tuple[Checkpoint, list[dict[str, Any]], int]:
    """Return the latest checkpoint of a run, its last steps or all of them, and how many were left out."""
    from stargraph.cli._run_ids import find_run_id
    from stargraph.cli._store import read_latest

    entries = []
    async with ref.opened("read") as store:
        latest = await read_latest(store, await find_run_id(store, run_id))
        before: Checkpoint | None = None
        first = max(latest.step + 1 - last, 0) if last else 0
        shown = {interrupt.id for interrupt in latest.open_interrupts}  # in the head
        # The step before the first one tells what that has changed.
        async for record in _history(store, latest, from_step=max(first - 1, 0)):
            if record.step >= first:
                entries.append(_entry(record, before, shown))
            before = record
    return latest, entries, first


async def _follow(ref: StoreRef, run_id: str, *, as_json: bool) -> int:
    """Print the steps of a run as they come, and return the exit code of the run once it ended."""
    from contextlib import aclosing

    from stargraph.checkpoint.protocol import ENDED
    from stargraph.cli._outcome import exit_code_of_status
    from stargraph.cli._run_ids import find_run_id
    from stargraph.cli._store import read_latest
    from stargraph.runtime import dispatch

    async with ref.opened("read") as store:
        run_id = await find_run_id(store, run_id)
        latest = await read_latest(store, run_id)
        shown = {interrupt.id for interrupt in latest.open_interrupts}
        if not as_json:
            print_lines([*_head(latest), "", _aligned(_HEADER)])
        before: Checkpoint | None = None
        async with aclosing(dispatch.watch(store, run_id, after_step=latest.step)) as watch:
            while True:
                following = 0 if before is None else before.step + 1
                async for record in _history(store, latest, from_step=following):
                    entry = _entry(record, before, shown)
                    if as_json:
                        print_json(_entry_as_json(entry), indent=None)
                    else:
                        print_lines([_aligned(_cells(entry))])
                    before = record
                if latest.status in ENDED or latest.status == "failed":
                    return exit_code_of_status(latest.status)
                await _next_step(watch, store, run_id)
                latest = await read_latest(store, run_id)


async def _next_step(watch: AsyncGenerator[int], store: Checkpointer, run_id: str) -> None:
    """Wait until a run has a new step; raise if the run is gone."""
    import asyncio

    from stargraph.cli._store import read_latest

    async def next_step() -> int:
        return await anext(watch)

    coming = asyncio.ensure_future(next_step())
    try:
        while not (await asyncio.wait({coming}, timeout=_STILL_THERE))[0]:
            await read_latest(store, run_id)
        coming.result()
    finally:
        coming.cancel()
        await asyncio.wait({coming})


def _aligned(cells: Sequence[str]) -> str:
    *columns, last = cells
    return "  ".join([*(cell.ljust(width) for cell, width in zip(columns, _WIDTHS, strict=True)), last]).rstrip()


def _history(store: Checkpointer, latest: Checkpoint, *, from_step: int = 0) -> AsyncIterator[Checkpoint]:
    """The steps up to the latest one; those that were pruned are left out."""
    from stargraph.cli._store import keyring
    from stargraph.runtime import dispatch

    return dispatch.history(store, latest.run_id, from_step=from_step, to_step=latest.step, keyring=keyring())


async def _read_steps(ref: StoreRef, run_id: str, *steps: int) -> list[Checkpoint]:
    from stargraph.cli._run_ids import find_run_id
    from stargraph.cli._store import keyring, read_latest
    from stargraph.runtime import dispatch

    records = []
    async with ref.opened("read") as store:
        run_id = await find_run_id(store, run_id)
        latest = await read_latest(store, run_id)
        for step in steps:
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
            records.append(record)
    return records


def _show_diff(before: Checkpoint, after: Checkpoint, *, as_json: bool) -> None:
    from stargraph.replay import diff_states

    diff = diff_states(before, after)
    if as_json:
        print_json({"run_id": after.run_id, "from_step": before.step, "to_step": after.step, **diff.as_json()})
        return
    events = [f"step {record.step}, {_event(record)}" for record in (before, after)]
    sizes = [show_bytes(len(record.state_json())) for record in (before, after)]
    lines = [
        f"run      {after.run_id}",
        f"from     {events[0]}",
        f"to       {events[1]}",
        f"state    {sizes[0]} → {sizes[1]}, {plural(diff.total, 'difference')}",
    ]
    print_lines([*lines, "", *map(one_line, diff.lines())] if diff else lines)


def _seconds_between(began: datetime, ended: datetime) -> float:
    """Return how long something took; nothing if the clock was set back meanwhile."""
    return max((ended - began).total_seconds(), 0.0)


def _entry(record: Checkpoint, before: Checkpoint | None, shown: Collection[str]) -> dict[str, Any]:
    began = record.task_started_at or next((call.started_at for call in record.calls if call.kind == "call"), None)
    seconds = None if began is None else _seconds_between(began, record.timestamp)
    return {
        "step": record.step,
        "event": record.event,
        "status": record.status,
        "node": record.last_node,
        "task_id": record.task_id,
        "timestamp": record.timestamp,
        "seconds": seconds,
        "state_bytes": len(record.state_json()),
        "index": index_of(record, before),
        "said": step_words(record, before, shown),
        "calls": [call.model_dump(mode="json") for call in record.calls],
        "interrupts": [each.model_dump(mode="json") for each in record.interrupts] if record.event == "asked" else [],
        "changed": _changes(record, before),
        "error": record.error.model_dump(mode="json", exclude={"traceback"}) if record.error else None,
    }


def _changes(record: Checkpoint, before: Checkpoint | None) -> dict[str, Any]:
    """What is new, different and gone in the state, by the names of the fields."""
    old = before.encoded_state() if before else {}
    new = record.encoded_state()
    return {
        "set": {
            name: (len(encoded.encoded), show_value(encoded.value, _VALUE_WIDTH))
            for name, encoded in new.items()
            if name not in old or old[name].digest != encoded.digest
        },
        "removed": [name for name in old if name not in new],
    }


def _run_as_json(latest: Checkpoint, entries: list[dict[str, Any]]) -> dict[str, Any]:
    from stargraph.checkpoint.protocol import RunSummary

    return {
        **RunSummary.from_checkpoint(latest).model_dump(mode="json"),
        "interrupts": [interrupt.model_dump(mode="json") for interrupt in latest.open_interrupts],
        "timeline": [_entry_as_json(entry) for entry in entries],
    }


def _entry_as_json(entry: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in entry.items() if name != "said"}
    return {**shown, "changed": list(entry["changed"]["set"]), "removed": entry["changed"]["removed"]}


def _head(latest: Checkpoint) -> list[str]:
    seconds = _seconds_between(latest.started_at, latest.timestamp)
    lines = [
        f"run      {latest.run_id}",
        f"graph    {latest.graph_id}  ({latest.graph_hash[:12]})",
        f"status   {latest.status}",
        f"started  {show_time(latest.started_at)}",
        f"updated  {show_time(latest.timestamp)}  ({show_seconds(seconds)} later)",
    ]
    if latest.process is not None:
        process = latest.process
        worker = f", worker {one_line(process.worker)}" if process.worker else ""
        lines.append(f"process  {one_line(process.host)}, pid {process.pid}, stargraph {process.version}{worker}")
    if latest.parent_run_id is not None:
        lines.append(f"parent   {latest.parent_run_id}, step {latest.parent_step}  ({latest.origin})")
    if latest.metadata:
        lines.append(f"tags     {' '.join(one_line(f'{name}={tag}') for name, tag in latest.metadata.items())}")
    for interrupt in latest.open_interrupts:
        if interrupt.due_at is not None:
            lines.append(f"waits    {interrupt.id}: until {show_time(interrupt.due_at)}")
            continue
        lines.append(f"asks     {interrupt.id}: {one_line(shorten(interrupt.prompt, _SHOWN_TEXT))}")
        if interrupt.payload is not None:
            lines.append(
                f"         {shorten(one_line(json_module.dumps(interrupt.payload, ensure_ascii=False)), _SHOWN_TEXT)}"
            )
    if latest.error is not None:
        said = clean(shorten(f"{latest.error.type}: {latest.error.message}", _SHOWN_TEXT)).splitlines()
        lines += [f"{'' if number else 'error':<9}{line}" for number, line in enumerate(said)]
    return lines


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(entry["step"]),
        entry["event"],
        one_line(entry["node"] or "") + ("" if entry["index"] is None else f"[{entry['index']}]"),
        "" if entry["seconds"] is None else show_seconds(entry["seconds"]),
        show_bytes(entry["state_bytes"]),
        hide_known("  ".join([*entry["said"], *filter(None, [_changes_in_words(entry["changed"])])])),
    )


def _changes_in_words(changes: dict[str, Any]) -> str:
    words = [
        f"{one_line(name)}={shown}" if shown is not None else f"{one_line(name)} ({show_bytes(size)})"
        for name, (size, shown) in islice(changes["set"].items(), _SHOWN_CHANGES)
    ]
    words += [f"-{one_line(name)}" for name in changes["removed"][: _SHOWN_CHANGES - len(words)]]
    more = len(changes["set"]) + len(changes["removed"]) - len(words)
    return "  ".join([*words, f"and {more:,} more"] if more else words)


def _event(record: Checkpoint) -> str:
    return f"{record.event} {record.last_node}" if record.last_node else record.event


def _step_lines(record: Checkpoint) -> list[str]:
    lines = [
        f"run      {record.run_id}",
        f"step     {record.step}",
        f"event    {_event(record)}",
        f"status   {record.status}",
        f"time     {show_time(record.timestamp)}",
    ]
    if record.key is not None:
        lines.append(f"key      {one_line(record.key)}")
    if record.task_started_at is not None:
        lines.append(f"took     {show_seconds(_seconds_between(record.task_started_at, record.timestamp))}")
    lines += [f"{'' if number else 'said':<9}{words}" for number, words in enumerate(step_words(record, None))]
    following = " ".join(item.node if item.kind == "task" else f"join:{item.join}" for item in record.frontier)
    if following:
        lines.append(f"next     {following}")
    lines.append(f"digest   {record.digest}")
    if record.error is not None:
        lines += ["", f"error    {clean(shorten(f'{record.error.type}: {record.error.message}', _SHOWN_ERROR))}"]
        lines += clean(shorten(record.error.traceback or "", _SHOWN_ERROR)).splitlines()
    if record.update is not None:
        lines += ["", "update", *_pretty(record.update)]
    return [*lines, "", "state", *_pretty(record.state)]


def _pretty(value: object) -> list[str]:
    return clean(json_module.dumps(value, indent=2, ensure_ascii=False)).split("\n")
