"""The rules of the protocol, each removed on its own: the model check must notice every one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime, timedelta
from typing import Any, cast
from unittest.mock import patch

from support.s3.simulation import Bucket

from stargraph.checkpoint.codec import Codec, Record
from stargraph.checkpoint.driver import PruneRule, Tail
from stargraph.checkpoint.protocol import ENDED, Checkpoint
from stargraph.checkpoint.s3 import _log, _prune
from stargraph.checkpoint.s3._append import Appended, Appender
from stargraph.checkpoint.s3._frame import Header, is_tombstone, tombstone
from stargraph.checkpoint.s3._index import IndexEntry, RunIndex
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore, TransientStoreError
from stargraph.checkpoint.s3._prune import Pruner, _Removed

Delta = Callable[[], AbstractContextManager[Any]]


def _create_overwrites() -> AbstractContextManager[Any]:
    return patch.object(Bucket, "create", Bucket.put)


def _a_taken_slot_is_success() -> AbstractContextManager[Any]:
    async def judge_taken(self: Appender, checkpoint: Checkpoint) -> None:
        return

    return patch.object(Appender, "_judge_taken", judge_taken)


def _a_lost_answer_is_success() -> AbstractContextManager[Any]:
    original = Appender.append

    async def append(self: Appender, checkpoint: Checkpoint) -> Appended | None:
        try:
            return await original(self, checkpoint)
        except TransientStoreError:
            return None

    return patch.object(Appender, "append", append)


def _an_unknown_outcome_is_believed() -> AbstractContextManager[Any]:
    original = Appender.append

    async def append(self: Appender, checkpoint: Checkpoint) -> Appended | None:
        try:
            return await original(self, checkpoint)
        except TransientStoreError:
            self._log.remember(checkpoint.run_id, Tail(checkpoint.step, checkpoint.digest, checkpoint.status))
            raise

    return patch.object(Appender, "append", append)


def _the_step_before_is_not_read() -> AbstractContextManager[Any]:
    async def judge(self: Appender, checkpoint: Checkpoint) -> str:
        return "append"

    return patch.object(Appender, "_judge", judge)


def _entries_come_last(folder: str) -> AbstractContextManager[Any]:
    """Make the entries of a run in one folder after its first step."""
    original_append, original_note_start = Appender.append, RunIndex.note_start

    async def note_start(self: RunIndex, begun: Checkpoint) -> None:
        store: Any = self._store

        class Leaving:
            async def create_empty(self, wanted: Sequence[str]) -> None:
                await store.create_empty([key for key in wanted if folder not in key])

        self._store = cast("ObjectStore", Leaving())
        try:
            await original_note_start(self, begun)
        finally:
            self._store = store

    async def append(self: Appender, checkpoint: Checkpoint) -> Appended | None:
        appended = await original_append(self, checkpoint)
        if checkpoint.step == 0:
            await self._store.create_empty(
                [
                    self._keys.entry(checkpoint.run_id, checkpoint.started_at, folder=place)
                    for place in (self._keys.runs, self._keys.open)
                    if folder in place
                ]
            )
        return appended

    stack = ExitStack()
    stack.enter_context(patch.object(RunIndex, "note_start", note_start))
    stack.enter_context(patch.object(Appender, "append", append))
    return stack


def _the_index_entry_comes_last() -> AbstractContextManager[Any]:
    return _entries_come_last("/runs/")


def _the_open_entry_comes_last() -> AbstractContextManager[Any]:
    return _entries_come_last("/open/")


def _the_open_entry_goes_before_the_run_has_ended() -> AbstractContextManager[Any]:
    original = Appender.append

    async def append(self: Appender, checkpoint: Checkpoint) -> Appended | None:
        if checkpoint.status in ENDED:
            await self._index.note_end(checkpoint)
        return await original(self, checkpoint)

    return patch.object(Appender, "append", append)


def _the_open_entry_of_a_start_is_removed_at_once() -> AbstractContextManager[Any]:
    original = Pruner.remove_stale

    async def remove_stale(self: Pruner, entry: IndexEntry, now: datetime) -> None:
        if await self._log.newest_header(entry.run_id) is None:
            await self._store.remove([entry.key])
        await original(self, entry, now)

    return patch.object(Pruner, "remove_stale", remove_stale)


def _deletion_does_not_take_the_next_slot() -> AbstractContextManager[Any]:
    async def take_slot(self: Pruner, run_id: str, step: int) -> bool:
        return True

    return patch.object(Pruner, "_take_slot", take_slot)


def _deletion_overwrites_the_next_slot() -> AbstractContextManager[Any]:
    async def take_slot(self: Pruner, run_id: str, step: int) -> bool:
        await self._store.overwrite([self._keys.slot(run_id, step)], tombstone("deleted"))
        return True

    return patch.object(Pruner, "_take_slot", take_slot)


def _deletion_frees_the_slots() -> AbstractContextManager[Any]:
    async def mark_deleted(self: Pruner, run_id: str, latest: Header | None = None) -> _Removed:
        keys = [self._keys.slot(run_id, step) async for step, _ in self._log.slots(run_id)]
        await self._store.remove(keys)
        return _Removed(len(keys), None)

    return patch.object(Pruner, "_mark_deleted", mark_deleted)


def _pruning_frees_the_slots() -> AbstractContextManager[Any]:
    original = Pruner._prune_steps

    async def prune_steps(self: Pruner, run_id: str, header: Header, rule: PruneRule, **how: Any) -> int:
        count = await original(self, run_id, header, rule, **how)
        async for _, info in self._log.slots(run_id):
            if is_tombstone(info.size):
                await self._store.remove([info.key])
        return count

    return patch.object(Pruner, "_prune_steps", prune_steps)


def _the_first_slot_is_freed_after_a_week() -> AbstractContextManager[Any]:
    async def free(self: Pruner, slots: list[tuple[int, ObjectInfo]], now: datetime) -> None:
        await self._store.remove([info.key for _, info in slots if is_tombstone(info.size)])

    return patch.object(Pruner, "_free", free)


def _tombstones_go_at_once() -> AbstractContextManager[Any]:
    return patch.object(_prune, "TOMBSTONE_LIFETIME", timedelta(days=-1))


def _a_tail_is_cached_for_ever() -> AbstractContextManager[Any]:
    return patch.object(_log, "TAIL_SECONDS", float("inf"))


def _pruning_forgets_the_frontier() -> AbstractContextManager[Any]:
    async def needed_by(self: Pruner, run_id: str, latest: int) -> set[int]:
        return set()

    return patch.object(Pruner, "_needed_by", needed_by)


def _pruning_believes_a_record_that_was_pruned() -> AbstractContextManager[Any]:
    original_needed_by, original_bases_of = Pruner._needed_by, Pruner._bases_of

    async def needed_by(self: Pruner, run_id: str, latest: int) -> set[int]:
        return await original_needed_by(self, run_id, latest) or set()

    async def base_steps_of(self: Pruner, run_id: str, steps: set[int]) -> set[int]:
        return await original_bases_of(self, run_id, steps) or set()

    return patch.multiple(Pruner, _needed_by=needed_by, _bases_of=base_steps_of)


def _pruning_forgets_what_records_are_decoded_from() -> AbstractContextManager[Any]:
    async def base_steps_of(self: Pruner, run_id: str, steps: set[int]) -> set[int]:
        return set()

    return patch.object(Pruner, "_bases_of", base_steps_of)


def _a_record_in_another_form_is_built_on() -> AbstractContextManager[Any]:
    original = Codec.encode
    encoded: dict[int, Record] = {}

    def encode(self: Codec, checkpoint: Checkpoint) -> Record:
        encoded[id(self)] = original(self, checkpoint)
        return encoded[id(self)]

    def forget(self: Codec, run_id: str) -> None:
        self.appended(encoded[id(self)])

    return patch.multiple(Codec, encode=encode, forget=forget)


def _a_reader_looks_only_once() -> AbstractContextManager[Any]:
    async def read_newest(self: LogReader, run_id: str, read: Any) -> Any:
        newest = await self.newest(run_id)
        return None if newest is None else await read(*newest)

    return patch.object(LogReader, "read_newest", read_newest)


def _pruning_judges_steps_that_came_later() -> AbstractContextManager[Any]:
    original = Pruner._prune_steps

    async def prune_steps(self: Pruner, run_id: str, header: Header, rule: PruneRule, **how: Any) -> int:
        records = await self._records(run_id)
        latest, ended = header.summary.last_step, header.summary.status in ENDED
        kept = await self._kept(run_id, latest, set(records[: rule.keep_last]), ended=ended) or set()
        prunable = [self._keys.slot(run_id, step) for step in records if step not in kept]
        await self._store.overwrite(prunable, tombstone("pruned"))
        return await original(self, run_id, header, rule, **how)

    return patch.object(Pruner, "_prune_steps", prune_steps)


def _a_prune_believes_an_old_verdict() -> AbstractContextManager[Any]:
    original = Pruner.prune

    async def prune(self: Pruner, run_id: str, started_at: datetime, rule: PruneRule, **how: Any) -> int:
        if rule.keep_last == 0 and not rule.dry_run:
            newest = await self._log.newest(run_id)
            return 0 if newest is None else (await self._mark_deleted(run_id)).records
        return await original(self, run_id, started_at, rule, **how)

    return patch.object(Pruner, "prune", prune)


def _an_entry_is_shown_unchecked() -> AbstractContextManager[Any]:
    async def summary(self: RunIndex, entry: IndexEntry) -> Any:
        return entry

    return patch.object(RunIndex, "summary", summary)


MUTATIONS: dict[str, Delta] = {
    patch_rule.__name__.strip("_").replace("_", " "): patch_rule
    for patch_rule in (
        _create_overwrites,
        _a_taken_slot_is_success,
        _a_lost_answer_is_success,
        _an_unknown_outcome_is_believed,
        _the_step_before_is_not_read,
        _the_index_entry_comes_last,
        _the_open_entry_comes_last,
        _the_open_entry_goes_before_the_run_has_ended,
        _the_open_entry_of_a_start_is_removed_at_once,
        _deletion_does_not_take_the_next_slot,
        _deletion_overwrites_the_next_slot,
        _deletion_frees_the_slots,
        _pruning_frees_the_slots,
        _the_first_slot_is_freed_after_a_week,
        _tombstones_go_at_once,
        _a_tail_is_cached_for_ever,
        _pruning_forgets_the_frontier,
        _pruning_believes_a_record_that_was_pruned,
        _pruning_forgets_what_records_are_decoded_from,
        _a_record_in_another_form_is_built_on,
        _a_reader_looks_only_once,
        _pruning_judges_steps_that_came_later,
        _a_prune_believes_an_old_verdict,
        _an_entry_is_shown_unchecked,
    )
}
"""What is done wrong, and how to do it."""
