"""`stargraph prune` and `stargraph delete`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    JsonOption,
    KeysOption,
    RunIdArgument,
    StatusName,
)
from stargraph.cli._output import emit, plural, print_json, print_lines
from stargraph.cli._streams import is_terminal
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StargraphError

if TYPE_CHECKING:
    from datetime import datetime

    from stargraph.checkpoint.protocol import Checkpointer, PruneReport, RunDeletion, Status
    from stargraph.cli._store import StoreRef

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")]


def prune(
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Runs whose last step is older: 30m, 12h, 30d, 8w, or 2026-01-31.")
    ],
    status: Annotated[
        list[StatusName] | None, typer.Option(help="Runs with this status; repeatable. done if not given.")
    ] = None,
    keep_last: Annotated[
        int, typer.Option(metavar="N", min=0, help="How many steps of each run stay; 0 removes the runs.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: YesOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Remove all but the last steps of idle runs; they can still be read and resumed.

    Runs that could still be resumed (all but done and cancelled ones) are touched only if --status names them and
    --yes, or a yes on a terminal, confirms it. What such a run needs to resume stays, unless --keep-last 0
    removes the run.
    """
    from stargraph.checkpoint.protocol import ENDED
    from stargraph.cli._execution import run_async
    from stargraph.cli._inputs import parse_since
    from stargraph.cli._store import StoreRef

    moment = parse_since(older_than, "--older-than")
    statuses: list[Status] = [name.value for name in status or [StatusName.DONE]]
    open_ones = [name for name in statuses if name not in ENDED]
    if open_ones and not dry_run:
        fact = f"runs that are {' or '.join(open_ones)} could still be resumed"
        loss = "they would be removed" if keep_last == 0 else "their earlier steps would be removed"
        _confirm(f"{fact}; {loss}. Continue?", yes=yes, instead=f"{fact}, and {loss}")
    ref = StoreRef(checkpoint, encryption_keys)
    report = run_async(_prune(ref, moment, statuses, keep_last, dry_run))
    if json:
        print_json(report.model_dump(mode="json"))
        return
    verb = "would remove" if report.dry_run else "removed"
    print_lines([f"{verb} {plural(report.checkpoints, 'step')} of {plural(report.runs, 'run')}"])


def delete(
    run_id: RunIdArgument,
    yes: YesOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Remove the run RUN_ID for good. Its id is never free again, and an executor of it is refused.

    A run that could still be resumed (any but a done or cancelled one), or that RUN_ID names by a prefix or as
    `latest`, is removed only with --yes, or a yes on a terminal. Its child runs are runs of their own and stay.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    ref = StoreRef(checkpoint, encryption_keys)
    found, status = run_async(_status_of(ref, run_id))
    facts = [f"{run_id!r} stands for run {found!r}"] if found != run_id else []
    facts += [f"run {found!r} is {status} and could still be resumed"] if status is not None else []
    if facts:
        _confirm(f"{', and '.join(facts)}. Remove it?", yes=yes, instead=", and ".join(facts))
    run_async(_delete(ref, found))
    if json:
        print_json({"run_id": found, "deleted": True})
    else:
        print_lines([f"run {found} is deleted"])


async def _prune(
    ref: StoreRef, older_than: datetime, statuses: list[Status], keep_last: int, dry_run: bool
) -> PruneReport:
    async with ref.opened("read" if dry_run else "write") as store:
        return await _as_run_deletion(store).prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, dry_run=dry_run
        )


async def _status_of(ref: StoreRef, text: str) -> tuple[str, str | None]:
    """The id of a run, and its status if it could still be resumed; None if it has ended."""
    from stargraph.checkpoint.protocol import ENDED
    from stargraph.cli._run_ids import find_run_id

    async with ref.opened("read") as store:
        _as_run_deletion(store)
        run_id = await find_run_id(store, text)
        try:
            latest = await store.read_latest(run_id)
        except CheckpointCorruptedError:
            return run_id, "damaged"
    return run_id, None if latest is None or latest.status in ENDED else latest.status


async def _delete(ref: StoreRef, run_id: str) -> None:
    from stargraph.runtime.dispatch import run_not_found_error

    async with ref.opened("write") as store:
        if not await _as_run_deletion(store).delete_run(run_id):
            raise run_not_found_error(run_id)


def _confirm(question: str, *, yes: bool, instead: str) -> None:
    """Return only if a person says yes, or `--yes` has.

    Args:
        question: what a terminal is asked.
        yes: `--yes` was given.
        instead: what to report if nobody can be asked.

    Raises:
        StargraphError: nobody can be asked.
        typer.Exit: the answer is no.
    """
    if yes:
        return
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise StargraphError(instead, reason="not-confirmed", hint="Give --yes to confirm.")
    if not typer.confirm(question, err=True):
        emit("nothing was removed", sys.stderr)
        raise typer.Exit(ExitCode.FAILED)


def _as_run_deletion(store: Checkpointer) -> RunDeletion:
    from stargraph.checkpoint.protocol import RunDeletion

    if isinstance(store, RunDeletion):
        return store
    raise CheckpointError(
        f"the driver {type(store).__name__} cannot remove runs",
        reason="not-supported",
        hint="Copy the runs that you need into a store of another driver.",
    )
