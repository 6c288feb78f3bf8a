"""Copying runs between two stores of any kind."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpointer
from stargraph.runtime._reading import Progress, Tally, each
from stargraph.transfer._reports import Refusal, TransferReport
from stargraph.transfer._transfer import (
    Appender,
    Refused,
    chosen_runs,
    confirm,
    head_of,
    latest_of,
    present_in,
    survey,
)


@dataclass(frozen=True, slots=True)
class _Copied:
    written: int
    present: int


async def copy_runs(
    source: Checkpointer,
    destination: Checkpointer,
    run_ids: Iterable[str] | None = None,
    *,
    since: datetime | None = None,
    keyring: Keyring | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    """Copy runs: every step with the same digest and seal, each run read back and compared at its end.

    A copy that was interrupted is finished by another call: what is there already is compared by the digest of
    its latest step, and the rest is appended. A run that moved on is brought up to date the same way.

    Args:
        source: where the runs are; it may be written meanwhile.
        destination: where they go.
        run_ids: the runs; None for all.
        since: only runs that started then or later, where all are meant.
        keyring: checks the seals; they are copied as they are.
        progress: called now and then with the numbers of runs and steps that are done.

    Returns:
        What was copied, and the runs that were refused: pruned, damaged, or another run of that id is there.

    Raises:
        CheckpointNotFoundError: a run that was asked for is not in the source.
        StoreUnavailableError: a store fails; call again to go on.
    """
    named = None if run_ids is None else list(run_ids)
    tally = Tally(progress)

    async def copy(run_id: str) -> _Copied | Refusal | None:
        try:
            latest = await latest_of(source, run_id, must_exist=named is not None)
            if latest is None:
                return None
            head = head_of(latest)
            there = await present_in(destination, head, source)
            first = 0 if there is None else there.step + 1
            if first > head.step:
                return _Copied(0, head.step + 1)
            extent = await survey(source, run_id, keyring=keyring, head=latest, first=first)
            extent.refuse_gaps(first)
            appender = Appender(destination)
            async with aclosing(extent.read(source)) as checkpoints:
                async for checkpoint in checkpoints:
                    await appender.add(checkpoint)
                    tally.step()
            await appender.flush()
            await confirm(destination, head, keyring=keyring)
        except Refused as error:
            return error.refusal
        return _Copied(appender.written, first)

    refused: list[Refusal] = []
    copied: list[_Copied] = []
    async with aclosing(each(chosen_runs(source, named, since), copy)) as outcomes:
        async for outcome in outcomes:
            if isinstance(outcome, Refusal):
                refused.append(outcome)
            elif outcome is not None:
                copied.append(outcome)
                tally.run()
    return TransferReport(
        runs=len(copied),
        steps=sum(run.written for run in copied),
        present=sum(run.present for run in copied),
        verified=sum(run.written > 0 for run in copied),
        refused=tuple(refused),
    )
