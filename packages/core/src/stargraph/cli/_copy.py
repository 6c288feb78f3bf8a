"""`stargraph copy`, `stargraph export` and `stargraph import`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._custody import chosen, count_runs, counting, finish, input_file, output_file
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    AllOption,
    CheckpointOption,
    JsonOption,
    KeysOption,
    RunIdsArgument,
    SinceOption,
)
from stargraph.cli._output import emit, plural
from stargraph.errors import StargraphError

if TYPE_CHECKING:
    from datetime import datetime

    from stargraph.transfer import TransferReport


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store with the runs: a path or a URL.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="Where they go; made if it is not there.")],
    run_id: RunIdsArgument = None,
    everything: AllOption = False,
    since: SinceOption = None,
    json: JsonOption = False,
    encryption_keys: KeysOption = None,
) -> None:
    """Copy runs from one store to another, of any two drivers; their digests and seals stay.

    What was interrupted is finished by the same command, and runs that moved on are brought up to date. Each run
    is read back and compared. Runs that were pruned are left out: a store takes a run from step 0 on.
    """
    from stargraph.cli._execution import run_async

    run_ids, moment = chosen(run_id, everything, since, verb="copy")
    _refuse_same(source, destination)
    try:
        report = run_async(_copy(source, destination, run_ids, moment))
    except KeyboardInterrupt:
        emit("the copy is not complete; the same command goes on with it", sys.stderr)
        raise
    finish(report, _told("copied", report), as_json=json)


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write; - is stdout.")],
    run_id: RunIdsArgument = None,
    everything: AllOption = False,
    since: SinceOption = None,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Write runs to one portable file: JSON Lines, each checkpoint with its digest and seal.

    The file holds states as plain text.
    """
    from stargraph.cli._execution import run_async

    run_ids, moment = chosen(run_id, everything, since, verb="export")
    if json and file == "-":
        raise StargraphError(
            "--json and - both want stdout", reason="invalid-arguments", hint="Write the runs to a file."
        )
    report = run_async(_export(checkpoint, file, run_ids, moment))
    told = f"exported {plural(report.runs, 'run')}, {plural(report.steps, 'step')}"
    finish(report, told, as_json=json, to_stderr=file == "-")


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of `stargraph export`; - is stdin.")],
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Store the runs of a file that `stargraph export` wrote; their digests and seals stay.

    A file that was cut off or edited is refused before anything is stored. From stdin, each line is checked as
    it comes; what was stored before a bad one is finished by importing the whole file.
    """
    from stargraph.cli._execution import run_async

    report = run_async(_import(checkpoint, file))
    finish(report, _told("imported", report), as_json=json)


async def _copy(source: str, destination: str, run_ids: list[str] | None, since: datetime | None) -> TransferReport:
    from stargraph.cli._store import keyring, opened
    from stargraph.transfer import copy_runs

    keys = keyring()
    async with opened(source, must_exist=True) as read, opened(destination) as written:
        with counting("copying", await count_runs(read, run_ids, since)) as progress:
            return await copy_runs(read, written, run_ids, since=since, keyring=keys, progress=progress)


async def _export(checkpoint: str, file: str, run_ids: list[str] | None, since: datetime | None) -> TransferReport:
    from stargraph.cli._store import keyring, opened
    from stargraph.transfer import export_runs

    keys = keyring()
    async with opened(checkpoint, must_exist=True) as store:
        with output_file(file) as stream, counting("exporting", await count_runs(store, run_ids, since)) as progress:
            return await export_runs(store, stream, run_ids, since=since, keyring=keys, progress=progress)


async def _import(checkpoint: str, file: str) -> TransferReport:
    from stargraph.cli._store import keyring, opened
    from stargraph.transfer import import_runs

    keys = keyring()
    with input_file(file) as stream:
        async with opened(checkpoint) as store:
            with counting("importing") as progress:
                return await import_runs(store, stream, keyring=keys, progress=progress)


def _told(done: str, report: TransferReport) -> str:
    present = f", {plural(report.present, 'step')} were there" if report.present else ""
    compared = f"; read back and compared {plural(report.verified, 'run')}" if report.verified else ""
    return f"{done} {plural(report.runs, 'run')}, {plural(report.steps, 'step')}{present}{compared}"


def _refuse_same(source: str, destination: str) -> None:
    from pathlib import Path

    same = source == destination
    if not same and "://" not in source + destination:
        same = Path(source).resolve() == Path(destination).resolve()
    if same:
        raise StargraphError(
            "SRC and DST are one store", reason="invalid-arguments", hint="Give two stores: SRC is only read."
        )
