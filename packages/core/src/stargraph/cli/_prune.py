"""`stargraph prune` and `stargraph delete`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    ChildrenOption,
    JsonOption,
    KeysOption,
    RunIdsArgument,
    StatusName,
    WithTagOption,
)
from stargraph.cli._output import emit, plural, print_json, print_lines
from stargraph.cli._streams import is_terminal
from stargraph.errors import CheckpointCorruptedError, CheckpointError, CheckpointNotFoundError, StargraphError

if TYPE_CHECKING:
    from datetime import datetime

    from stargraph.checkpoint.protocol import Checkpointer, PruneReport, RunDeletion, Status
    from stargraph.cli._store import StoreRef

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")]


def prune(
    older_than: Annotated[
        str,
        typer.Option(metavar="TIME", help="Runs whose last step is older than 30m, 12h, 30d, 8w, or 2026-01-31."),
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

    Runs that could still be resumed (all but done, cancelled and moved ones) are touched only if --status names them
    and --yes, or a yes on a terminal, confirms it. What such a run needs to resume stays, unless --keep-last 0
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
    run_id: RunIdsArgument = None,
    tag: WithTagOption = None,
    children: ChildrenOption = True,
    yes: YesOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Remove runs for good, with their child runs. Their ids cannot be used again.

    Name the runs, or give --tag NAME=VALUE for every run that has all these tags. A run that could still be
    resumed, or that is named by a prefix, as `latest` or by a tag, is removed only with --yes, or a yes on a terminal.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._inputs import split_pairs
    from stargraph.cli._store import StoreRef

    if not run_id and not tag:
        raise StargraphError(
            "no run to delete is named", reason="invalid-arguments", hint="Name runs by their ids, or give --tag."
        )
    ref = StoreRef(checkpoint, encryption_keys)
    tags = split_pairs(tag or (), "--tag")
    found, facts = run_async(_to_delete(ref, run_id or [], tags))
    if facts:
        what = "it" if len(found) == 1 else plural(len(found), "run")
        _confirm(f"{', and '.join(facts)}. Remove {what}?", yes=yes, instead=", and ".join(facts))
    deleted = run_async(_delete(ref, found, children=children))
    if json:
        print_json({"deleted": deleted})
    elif len(deleted) == 1:
        print_lines([f"run {deleted[0]} is deleted"])
    else:
        print_lines([f"deleted {plural(len(deleted), 'run')}", *(f"  {each}" for each in deleted)])


async def _prune(
    ref: StoreRef, older_than: datetime, statuses: list[Status], keep_last: int, dry_run: bool
) -> PruneReport:
    async with ref.opened("read" if dry_run else "write") as store:
        return await _as_run_deletion(store).prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, dry_run=dry_run
        )


async def _to_delete(ref: StoreRef, texts: list[str], tags: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the runs to delete, and what a person should know before they are."""
    from stargraph.checkpoint.protocol import ENDED
    from stargraph.cli._run_ids import find_run_id
    from stargraph.runtime._reading import all_runs
    from stargraph.runtime._tree import children_of

    facts: list[str] = []
    async with ref.opened("read") as store:
        _as_run_deletion(store)
        found = []
        for text in texts:
            try:
                found.append(await find_run_id(store, text))
            except CheckpointNotFoundError:
                if not await children_of(store, text):
                    raise
                found.append(text)  # a deletion was interrupted after it removed this run
        facts += [
            f"{text!r} stands for run {run_id!r}" for text, run_id in zip(texts, found, strict=True) if text != run_id
        ]
        if tags:
            tagged = [
                summary.run_id
                async for summary in all_runs(store, metadata=tags)
                if tags.items() <= summary.metadata.items()
            ]
            if tagged:
                facts.append(f"{plural(len(tagged), 'run')} {'has' if len(tagged) == 1 else 'have'} these tags")
            found += tagged
        for run_id in found[: len(texts)]:
            try:
                latest = await store.read_latest(run_id)
            except CheckpointCorruptedError:
                facts.append(f"run {run_id!r} is damaged and could still be resumed")
                continue
            if latest is not None and latest.status not in ENDED:
                facts.append(f"run {run_id!r} is {latest.status} and could still be resumed")
    return list(dict.fromkeys(found)), facts


async def _delete(ref: StoreRef, run_ids: list[str], *, children: bool) -> list[str]:
    from stargraph.runtime.dispatch import run_not_found_error
    from stargraph.transfer import delete_runs

    if not run_ids:
        return []
    async with ref.opened("write") as store:
        deleted = await delete_runs(store, run_ids, children=children)
    if not deleted:
        raise run_not_found_error(run_ids[0])
    return deleted


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
