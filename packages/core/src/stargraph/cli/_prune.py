"""`stargraph prune` and `stargraph delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._custody import agree, removing
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    JsonOption,
    KeysOption,
    RunIdArgument,
    StatusName,
)
from stargraph.cli._output import plural, print_json, print_lines
from stargraph.errors import CheckpointCorruptedError

if TYPE_CHECKING:
    from datetime import datetime

    from stargraph.checkpoint.protocol import PruneReport, Status

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="It is meant: ask nothing.")]


def prune(
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Runs whose last step is older: 30m, 12h, 30d, 8w, or 2026-01-31.")
    ],
    status: Annotated[
        list[StatusName] | None, typer.Option(help="Runs that stand there; repeatable. done if not given.")
    ] = None,
    keep_last: Annotated[
        int, typer.Option(metavar="N", min=0, help="How many steps of each run stay; 0 removes the runs.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    yes: YesOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Remove all but the last steps of runs that stand still; they can still be read, and go on.

    Runs that could still go on (all but done and cancelled ones) are touched only where --status names them and
    --yes, or a yes on a terminal, says that it is meant. What such a run needs to go on stays, unless
    --keep-last 0 removes the run.
    """
    from stargraph.checkpoint.protocol import ENDED
    from stargraph.cli._execution import run_async
    from stargraph.cli._inputs import parse_since

    moment = parse_since(older_than, "--older-than")
    statuses: list[Status] = [name.value for name in status or [StatusName.DONE]]
    open_ones = [name for name in statuses if name not in ENDED]
    if open_ones and not dry_run:
        told = f"runs that are {' or '.join(open_ones)} could still go on"
        lost = "they would be removed" if keep_last == 0 else "their earlier steps would be removed"
        agree(f"{told}; {lost}. Go on?", yes=yes, instead=f"{told}, and {lost}")
    report = run_async(_prune(checkpoint, moment, statuses, keep_last, dry_run))
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
    """Remove the run RUN_ID for good. Its id is never taken again, and an executor of it is refused.

    A run that could still go on (any but a done or cancelled one) is removed only with --yes, or a yes on a
    terminal. Runs of its subgraphs are runs of their own and stay.
    """
    from stargraph.cli._execution import run_async

    status = run_async(_status_of(checkpoint, run_id))
    if status is not None:
        told = f"run {run_id!r} is {status} and could still go on"
        agree(f"{told}. Remove it?", yes=yes, instead=told)
    run_async(_delete(checkpoint, run_id))
    if json:
        print_json({"run_id": run_id, "deleted": True})
    else:
        print_lines([f"run {run_id} is deleted"])


async def _prune(url: str, older_than: datetime, statuses: list[Status], keep_last: int, dry_run: bool) -> PruneReport:
    from stargraph.cli._store import opened

    async with opened(url, must_exist=True) as store:
        return await removing(store).prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, dry_run=dry_run
        )


async def _status_of(url: str, run_id: str) -> str | None:
    """Where a run stands that could still go on, as far as can be told; None for one that ended."""
    from stargraph.checkpoint.protocol import ENDED
    from stargraph.cli._store import opened

    async with opened(url, must_exist=True) as store:
        removing(store)
        try:
            latest = await store.read_latest(run_id)
        except CheckpointCorruptedError:
            return "damaged"
    return None if latest is None or latest.status in ENDED else latest.status


async def _delete(url: str, run_id: str) -> None:
    from stargraph.cli._store import opened
    from stargraph.runtime.dispatch import run_not_found_error

    async with opened(url, must_exist=True) as store:
        if not await removing(store).delete_run(run_id):
            raise run_not_found_error(run_id)
