"""`stargraph copy`, `stargraph export` and `stargraph import`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._files import input_file, output_file
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    AllOption,
    CheckpointOption,
    ChildrenOption,
    JsonOption,
    KeysOption,
    RunIdsArgument,
    SinceOption,
)
from stargraph.cli._output import emit, plural
from stargraph.cli._transfer import count_runs, note_children_left, progress_on_stderr, report_transfer, selected_runs
from stargraph.errors import StargraphError

if TYPE_CHECKING:
    from datetime import datetime

    from stargraph.cli._store import StoreRef
    from stargraph.transfer import TransferReport


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store with the runs: a path or a URL.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The store they go to; made if it does not exist.")],
    run_id: RunIdsArgument = None,
    everything: AllOption = False,
    since: SinceOption = None,
    children: ChildrenOption = True,
    json: JsonOption = False,
    encryption_keys: KeysOption = None,
) -> None:
    """Copy runs from one store to another, of the same driver or not, with their digests and seals.

    Run the same command again to complete an interrupted copy, or to add the new steps of runs that have continued.
    Each run is read back and compared. Of a pruned run, the remaining steps are copied.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    run_ids, moment = selected_runs(run_id, everything, since, verb="copy")
    _refuse_same(source, destination)
    stores = StoreRef(source, encryption_keys, "SRC"), StoreRef(destination, encryption_keys, "DST")
    try:
        report = run_async(_copy(*stores, run_ids, moment, children=children))
    except KeyboardInterrupt:
        emit("the copy is not complete; the same command completes it", sys.stderr)
        raise
    report_transfer(report, _in_words("copied", report), as_json=json)


def move(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store with the runs: a path or a URL.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The store they go to; made if it does not exist.")],
    run_id: Annotated[
        list[str], typer.Argument(metavar="RUN_ID", help="Ids of runs, unique prefixes of ids, or latest.")
    ],
    children: ChildrenOption = True,
    json: JsonOption = False,
    encryption_keys: KeysOption = None,
) -> None:
    """Move runs to another store, where they can be resumed; in SRC they end, with the status moved.

    A process that still executes such a run is refused from then on. Run the same command again to complete an
    interrupted move.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    _refuse_same(source, destination)
    stores = StoreRef(source, encryption_keys, "SRC"), StoreRef(destination, encryption_keys, "DST")
    try:
        report = run_async(_move(*stores, run_id, children=children))
    except KeyboardInterrupt:
        emit("the move is not complete; the same command completes it", sys.stderr)
        raise
    report_transfer(report, _in_words("moved", report), as_json=json)


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write; - is stdout.")],
    run_id: RunIdsArgument = None,
    everything: AllOption = False,
    since: SinceOption = None,
    children: ChildrenOption = True,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Write runs to one portable file: JSON Lines, each checkpoint with its digest and seal.

    The file holds states as plain text.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    run_ids, moment = selected_runs(run_id, everything, since, verb="export")
    if json and file == "-":
        raise StargraphError(
            "--json and - cannot both use stdout", reason="invalid-arguments", hint="Write the runs to a file."
        )
    report = run_async(_export(StoreRef(checkpoint, encryption_keys), file, run_ids, moment, children=children))
    text = f"exported {plural(report.runs, 'run')}, {plural(report.steps, 'step')}"
    report_transfer(report, text, as_json=json, to_stderr=file == "-")


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of `stargraph export`; - is stdin.")],
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Store the runs of a file that `stargraph export` wrote, with their digests and seals.

    A file that was cut off or edited is refused before anything is stored. From stdin, each line is checked as
    it comes; after a bad line, import the whole file to complete what was stored before it.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    report = run_async(_import(StoreRef(checkpoint, encryption_keys), file))
    report_transfer(report, _in_words("imported", report), as_json=json)


async def _copy(
    source: StoreRef, destination: StoreRef, run_ids: list[str] | None, since: datetime | None, *, children: bool
) -> TransferReport:
    from stargraph.cli._run_ids import find_run_ids
    from stargraph.cli._store import keyring
    from stargraph.transfer import copy_runs

    keys = keyring()
    async with source.opened("read") as read, destination.opened("create") as written:
        run_ids = await find_run_ids(read, run_ids)
        await note_children_left(read, run_ids, children=children)
        with progress_on_stderr("copying", await count_runs(read, run_ids, since)) as progress:
            return await copy_runs(
                read, written, run_ids, since=since, children=children, keyring=keys, progress=progress
            )


async def _move(source: StoreRef, destination: StoreRef, run_ids: list[str], *, children: bool) -> TransferReport:
    from stargraph.cli._run_ids import find_run_ids
    from stargraph.cli._store import keyring
    from stargraph.transfer import move_runs

    keys = keyring()
    async with source.opened("write") as read, destination.opened("create") as written:
        found = await find_run_ids(read, run_ids) or []
        await note_children_left(read, found, children=children)
        with progress_on_stderr("moving", await count_runs(read, found)) as progress:
            return await move_runs(read, written, found, children=children, keyring=keys, progress=progress)


async def _export(
    ref: StoreRef, file: str, run_ids: list[str] | None, since: datetime | None, *, children: bool
) -> TransferReport:
    from stargraph.cli._run_ids import find_run_ids
    from stargraph.cli._store import keyring
    from stargraph.transfer import export_runs

    keys = keyring()
    async with ref.opened("read") as store:
        run_ids = await find_run_ids(store, run_ids)
        await note_children_left(store, run_ids, children=children)
        with (
            output_file(file) as stream,
            progress_on_stderr("exporting", await count_runs(store, run_ids, since)) as progress,
        ):
            return await export_runs(
                store, stream, run_ids, since=since, children=children, keyring=keys, progress=progress
            )


async def _import(ref: StoreRef, file: str) -> TransferReport:
    from stargraph.cli._store import keyring
    from stargraph.transfer import import_runs

    keys = keyring()
    with input_file(file) as stream:
        async with ref.opened("create") as store:
            with progress_on_stderr("importing") as progress:
                return await import_runs(store, stream, keyring=keys, progress=progress)


def _in_words(done: str, report: TransferReport) -> str:
    present = f", {plural(report.present, 'step')} were there" if report.present else ""
    compared = f"; read back and compared {plural(report.verified, 'run')}" if report.verified else ""
    return f"{done} {plural(report.runs, 'run')}, {plural(report.steps, 'step')}{present}{compared}"


def _refuse_same(source: str, destination: str) -> None:
    from pathlib import Path

    from stargraph.checkpoint.registry import parse_address

    addresses = [parse_address(source), parse_address(destination)]
    places = {each.text if "://" in each.text else str(Path(each.text).resolve()) for each in addresses}
    if len(places) == 1:
        raise StargraphError("SRC and DST are the same store", reason="invalid-arguments", hint="Give two stores.")
