"""Copying runs between two stores of any kind."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpoint, Checkpointer, PrunedStart
from stargraph.runtime._given import as_run_ids, check_checkpointer, check_flags, check_keyring, check_moment
from stargraph.runtime._reading import Progress, Tally, each
from stargraph.transfer._reports import Refusal, TransferReport
from stargraph.transfer._transfer import (
    BatchWriter,
    Extent,
    Refused,
    chosen_runs,
    confirm,
    head_of,
    latest_of,
    not_joined,
    not_startable,
    present_in,
    refuse_moved,
    survey,
)
from stargraph.transfer._transfer import refused as refused_run


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy of one run did.

    Attributes:
        written: how many steps it wrote.
        present: how many steps were there before.
    """

    written: int
    present: int


async def survey_copy(
    source: Checkpointer, destination: Checkpointer, latest: Checkpoint, *, keyring: Keyring | None
) -> tuple[int, Extent | None]:
    """Return the first step that a copy has to write, and what it has to write from there; None if all is there.

    Args:
        source: where the run is.
        destination: where it goes.
        latest: the last step to copy.
        keyring: checks the seals.

    Raises:
        Refused: the run is damaged, or what is there is another one or cannot be continued from what was left of it.
    """
    head = head_of(latest)
    there = await present_in(destination, head, source)
    first = 0 if there is None else there.step + 1
    if first > head.step:
        return head.step + 1, None
    extent = await survey(source, latest.run_id, keyring=keyring, head=latest, first=first)
    if extent.floor > first and there is not None:
        raise not_joined(latest.run_id, first, extent.floor)
    if extent.floor > 0 and there is None and not isinstance(destination, PrunedStart):
        raise not_startable(latest.run_id)
    return first, extent


async def copy_to_head(
    source: Checkpointer, destination: Checkpointer, latest: Checkpoint, *, keyring: Keyring | None, tally: Tally
) -> Copied:
    """Copy one run up to one of its steps, and compare what arrived.

    Args:
        source: where the run is.
        destination: where it goes.
        latest: the last step to copy.
        keyring: checks the seals.
        tally: counts the steps.

    Raises:
        Refused: as `survey_copy` refuses it.
    """
    first, extent = await survey_copy(source, destination, latest, keyring=keyring)
    if extent is None:
        return Copied(0, first)
    writer = BatchWriter(destination)
    writer.floor = 0 if first else extent.floor
    async with aclosing(extent.read(source)) as checkpoints:
        async for checkpoint in checkpoints:
            await writer.add(checkpoint)
            tally.step()
    await writer.flush()
    await confirm(destination, head_of(latest), keyring=keyring)
    return Copied(writer.written, first)


async def copy_runs(
    source: Checkpointer,
    destination: Checkpointer,
    run_ids: Iterable[str] | None = None,
    *,
    since: datetime | None = None,
    children: bool = True,
    keyring: Keyring | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    """Copy runs: every step with the same digest and seal, each run read back and compared at its end.

    To finish an interrupted copy, call it again: a run that is there already is compared by the digest of its latest
    step, and the rest is appended. A run that has continued is brought up to date the same way.

    Args:
        source: where the runs are; it may be written meanwhile.
        destination: where they go.
        run_ids: the runs; None for all.
        since: if all are meant, only runs that started then or later.
        children: copy the child runs of named runs too; if one is refused, so is its parent.
        keyring: checks the seals; they are copied as they are.
        progress: called from time to time with the numbers of runs and steps done.

    Returns:
        What was copied, and the runs that were refused: damaged ones, and those whose id another run has. A pruned run
        is copied with what is left of it.

    Raises:
        CheckpointNotFoundError: a run that was asked for is not in the source.
        StoreUnavailableError: a store fails; call again to complete it.
    """
    check_flags(children=children)
    if since is not None:
        check_moment(since, "since")
    check_checkpointer(source, "source")
    check_checkpointer(destination, "destination")
    check_keyring(keyring)
    named = None if run_ids is None else as_run_ids(run_ids)
    tally = Tally(progress)

    async def copy_unit(unit: tuple[str, ...]) -> list[Copied | Refusal]:
        outcomes: list[Copied | Refusal] = []
        for run_id in unit:
            if any(isinstance(outcome, Refusal) for outcome in outcomes) and run_id == unit[-1]:
                outcomes.append(_without_child(run_id).refusal)
                continue
            outcome = await copy(run_id)
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    async def copy(run_id: str) -> Copied | Refusal | None:
        try:
            latest = await latest_of(source, run_id, must_exist=named is not None)
            if latest is None:
                return None
            refuse_moved(latest)
            return await copy_to_head(source, destination, latest, keyring=keyring, tally=tally)
        except Refused as error:
            return error.refusal

    refused: list[Refusal] = []
    copied: list[Copied] = []
    async with aclosing(each(chosen_runs(source, named, since, children=children), copy_unit)) as units:
        async for outcomes in units:
            for outcome in outcomes:
                if isinstance(outcome, Refusal):
                    refused.append(outcome)
                else:
                    copied.append(outcome)
                    tally.run()
    return TransferReport(
        runs=len(copied),
        steps=sum(run.written for run in copied),
        present=sum(run.present for run in copied),
        verified=sum(run.written > 0 for run in copied),
        refused=tuple(refused),
    )


def _without_child(run_id: str) -> Refused:
    return refused_run(
        run_id,
        "child-refused",
        "one of its child runs was not copied, and without it the work of that child would be done again",
        "See why the child run was left out, or copy the run alone with children=False (--no-children).",
    )
