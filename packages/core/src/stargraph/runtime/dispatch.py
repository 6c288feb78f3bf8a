"""Where the engine meets a store: writes that no cancellation tears, and reads that are always checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import BatchAppend, Checkpoint, Checkpointer, RunHistory
from stargraph.errors import CheckpointCorruptedError

T = TypeVar("T")


async def write(checkpointer: Checkpointer, checkpoint: Checkpoint, *, keyring: Keyring | None = None) -> None:
    """Append a checkpoint, and wait for the outcome whatever happens to the caller.

    A cancellation that arrives meanwhile is raised once the outcome of the write is known, so that no
    write goes on behind the back of whoever takes the run up again.

    Args:
        checkpointer: the store.
        checkpoint: what to append.
        keyring: seals it.

    Raises:
        CheckpointError: as the store raises.
        asyncio.CancelledError: the caller was cancelled; the checkpoint is stored, or was refused.
    """
    sealed = checkpoint if keyring is None else keyring.seal(checkpoint)
    await run_uncancelled(checkpointer.write(sealed))


async def write_many(
    checkpointer: BatchAppend, checkpoints: Sequence[Checkpoint], *, keyring: Keyring | None = None
) -> None:
    """Append consecutive steps of one run, as `write` does.

    Args:
        checkpointer: the store.
        checkpoints: the steps, in order.
        keyring: seals them.

    Raises:
        CheckpointError: as the store raises; what is stored is a prefix.
        asyncio.CancelledError: the caller was cancelled; the outcome is known.
    """
    sealed = checkpoints if keyring is None else [keyring.seal(checkpoint) for checkpoint in checkpoints]
    await run_uncancelled(checkpointer.write_many(sealed))


async def run_uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Wait for the outcome of a piece of work whatever happens to the caller.

    Args:
        work: what must not be torn.

    Raises:
        asyncio.CancelledError: the caller was cancelled; the work has ended.
        Exception: as the work raises.
    """
    pending = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(pending)
    except asyncio.CancelledError:
        while not pending.done():
            try:
                await asyncio.wait({pending})
            except asyncio.CancelledError:
                continue
        if not pending.cancelled():
            pending.exception()
        raise


async def read_latest(checkpointer: Checkpointer, run_id: str, *, keyring: Keyring | None = None) -> Checkpoint | None:
    """Read the latest checkpoint of a run, checked.

    Args:
        checkpointer: the store.
        run_id: the run.
        keyring: checks the seal.

    Raises:
        CheckpointCorruptedError: the record is not what was written.
    """
    return _checked(await checkpointer.read_latest(run_id), run_id, None, keyring)


async def read_at_step(
    checkpointer: Checkpointer, run_id: str, step: int, *, keyring: Keyring | None = None
) -> Checkpoint | None:
    """Read one step of a run, checked.

    Args:
        checkpointer: the store.
        run_id: the run.
        step: the step.
        keyring: checks the seal.

    Raises:
        CheckpointCorruptedError: the record is not what was written.
    """
    return _checked(await checkpointer.read_at_step(run_id, step), run_id, step, keyring)


async def history(
    checkpointer: Checkpointer, run_id: str, *, from_step: int = 0, to_step: int, keyring: Keyring | None = None
) -> AsyncIterator[Checkpoint]:
    """Yield steps of a run in order, checked; those that were pruned are left out.

    Args:
        checkpointer: the store.
        run_id: the run.
        from_step: the first step.
        to_step: the last step.
        keyring: checks the seals.

    Raises:
        CheckpointCorruptedError: a record is not what was written.
    """
    if isinstance(checkpointer, RunHistory):
        async for record in checkpointer.history(run_id, from_step=from_step, to_step=to_step):
            _checked(record, run_id, record.step, keyring)
            yield record
        return
    for step in range(from_step, to_step + 1):
        found = await read_at_step(checkpointer, run_id, step, keyring=keyring)
        if found is not None:
            yield found


def _checked(
    checkpoint: Checkpoint | None, run_id: str, step: int | None, keyring: Keyring | None
) -> Checkpoint | None:
    if checkpoint is None:
        return None
    if checkpoint.run_id != run_id or (step is not None and checkpoint.step != step):
        raise CheckpointCorruptedError(
            f"run {run_id!r}, step {'latest' if step is None else step}: the store returned step {checkpoint.step}"
            f" of run {checkpoint.run_id!r}",
            reason="wrong-record",
            hint="The store's driver is at fault: prove it with stargraph-conformance.",
            run_id=run_id,
            step=step,
        )
    checkpoint.ensure_valid()
    if keyring is not None:
        keyring.check(checkpoint)
    return checkpoint
