"""Reads the steps of a run in order, some at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Final

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3._concurrency import AT_ONCE
from stargraph.checkpoint.s3._frame import is_tombstone
from stargraph.checkpoint.s3._log import RunLog
from stargraph.checkpoint.s3._reader import RecordReader, Slot, Stored

_AHEAD_BYTES: Final = 64 * 1024 * 1024
"""How much is read ahead; one record may be larger."""


async def read_history(
    log: RunLog,
    reader: RecordReader,
    run_id: str,
    *,
    from_step: int | None,
    to_step: int | None,
    newest_first: bool,
) -> AsyncIterator[Checkpoint]:
    """Yield the checkpoints of a run.

    Args:
        log: the logs.
        reader: reads records.
        run_id: the run.
        from_step: the lowest step, included.
        to_step: the highest step, included.
        newest_first: yield the highest step first.
    """
    if to_step is not None and not await log.is_known(run_id):
        return
    slots: list[Slot] = []
    newest: int | None = None
    async for step, info in log.slots(run_id, to_step=to_step):
        newest = step if newest is None else newest
        if to_step is None and step == newest and await log.is_end_of_deleted(run_id, step, info):
            return
        if from_step is not None and step < from_step:
            break
        if not is_tombstone(info.size):
            slots.append((step, info))
    if not newest_first:
        slots.reverse()

    known: Mapping[int, Stored] = {}
    for part in _parts(slots):
        checkpoints, known = await reader.read_some(run_id, part, known)
        for checkpoint in checkpoints:
            yield checkpoint


def _parts(slots: Iterable[Slot]) -> Iterator[list[Slot]]:
    part: list[Slot] = []
    size = 0
    for slot in slots:
        if part and (len(part) == AT_ONCE or size + slot[1].size > _AHEAD_BYTES):
            yield part
            part, size = [], 0
        part.append(slot)
        size += slot[1].size
    if part:
        yield part
