"""Moving runs: they end in their store, and can be resumed in another one."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import aclosing
from datetime import UTC, datetime

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import ENDED, Checkpoint, Checkpointer
from stargraph.errors import CheckpointConflictError
from stargraph.runtime import dispatch
from stargraph.runtime._given import as_run_ids, check_checkpointer, check_flags, check_keyring
from stargraph.runtime._reading import Progress, Tally
from stargraph.runtime._tree import with_children
from stargraph.transfer._copy import Copied, copy_to_head, survey_copy
from stargraph.transfer._reports import Refusal, TransferReport
from stargraph.transfer._transfer import Refused, latest_of


async def move_runs(
    source: Checkpointer,
    destination: Checkpointer,
    run_ids: Iterable[str],
    *,
    children: bool = True,
    keyring: Keyring | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    """Move runs with their child runs to another store, even while they are executed.

    Each run is read to its end first, to see that it can be copied. Then a last step, `moved`, is appended to it in the
    source: from then on it cannot be resumed there, and its executor is refused. Then it is copied up to the step
    before, and compared. So a run can never be resumed in both stores. A run that has ended is only copied. To finish
    an interrupted move, repeat it.

    Args:
        source: where the runs are.
        destination: where they go.
        run_ids: the runs.
        children: move their child runs too.
        keyring: checks the seals, and seals the last step.
        progress: called from time to time with the numbers of runs and steps done.

    Returns:
        What was copied, and the runs that were refused, which stay in the source as they were.

    Raises:
        CheckpointNotFoundError: a run is not in the source.
        StoreUnavailableError: a store fails; call again to complete it.
    """
    check_flags(children=children)
    check_checkpointer(source, "source")
    check_checkpointer(destination, "destination")
    check_keyring(keyring)
    tally = Tally(progress)
    copied: list[Copied] = []
    refused: list[Refusal] = []
    for root in as_run_ids(run_ids):
        unit = [run_id async for run_id in with_children(source, [root], children=children)]
        try:
            for run_id in unit:
                await _refuse_what_cannot_be_copied(source, destination, run_id, keyring)
            # The parent is fenced first: it can then start no further child.
            async with aclosing(with_children(source, [root], children=children, parent_first=True)) as runs:
                heads = [await _fenced(source, run_id, keyring) async for run_id in runs]
            for head in reversed(heads):
                copied.append(await copy_to_head(source, destination, head, keyring=keyring, tally=tally))
                tally.run()
        except Refused as error:
            refused.append(error.refusal)
    return TransferReport(
        runs=len(copied),
        steps=sum(run.written for run in copied),
        present=sum(run.present for run in copied),
        verified=len(copied),
        refused=tuple(refused),
    )


async def _refuse_what_cannot_be_copied(
    source: Checkpointer, destination: Checkpointer, run_id: str, keyring: Keyring | None
) -> None:
    latest = await latest_of(source, run_id, must_exist=True)
    if latest is not None and latest.status != "moved":
        await survey_copy(source, destination, latest, keyring=keyring)


async def _fenced(store: Checkpointer, run_id: str, keyring: Keyring | None) -> Checkpoint:
    """End a run in its store unless it has ended, and return the step that is its last one in the other store."""
    while True:
        tail = await dispatch.read_run(store, run_id, keyring=keyring)
        if tail.status == "moved":
            before = await dispatch.read_at_step(store, run_id, tail.step - 1, keyring=keyring)
            if before is None:
                raise dispatch.run_not_found_error(run_id)
            return before
        if tail.status in ENDED:
            return tail
        last = tail.next(
            event="moved",
            status="moved",
            executor_id=secrets.token_hex(16),
            timestamp=datetime.now(UTC),
            frontier=(),
            interrupts=(),
        )
        try:
            await dispatch.write(store, last, keyring=keyring)
        except CheckpointConflictError:
            continue  # its executor has appended meanwhile
        return tail
