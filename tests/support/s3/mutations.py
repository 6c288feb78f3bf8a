"""The rules of the protocol, each removed on its own: the model check must notice every one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, cast
from unittest.mock import patch

from support.s3.simulation import Bucket

from stargraph.checkpoint.codec import Codec, Record
from stargraph.checkpoint.driver import Tail
from stargraph.checkpoint.protocol import ENDED, Checkpoint
from stargraph.checkpoint.s3 import _log, _removal
from stargraph.checkpoint.s3._frame import Head, is_tombstone, tombstone
from stargraph.checkpoint.s3._index import Entry
from stargraph.checkpoint.s3._log import Appended, RunLog
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore, TransientStoreError
from stargraph.checkpoint.s3._removal import PruneRule, Removal

Delta = Callable[[], AbstractContextManager[Any]]


def _create_overwrites() -> AbstractContextManager[Any]:
    return patch.object(Bucket, "create", Bucket.put)


def _a_taken_slot_is_success() -> AbstractContextManager[Any]:
    async def settle(self: RunLog, checkpoint: Checkpoint) -> None:
        return

    return patch.object(RunLog, "_settle", settle)


def _a_lost_answer_is_success() -> AbstractContextManager[Any]:
    original = RunLog.append

    async def append(self: RunLog, checkpoint: Checkpoint) -> Appended | None:
        try:
            return await original(self, checkpoint)
        except TransientStoreError:
            return None

    return patch.object(RunLog, "append", append)


def _an_unknown_outcome_is_believed() -> AbstractContextManager[Any]:
    original = RunLog.append

    async def append(self: RunLog, checkpoint: Checkpoint) -> Appended | None:
        try:
            return await original(self, checkpoint)
        except TransientStoreError:
            self._believe(checkpoint.run_id, Tail(checkpoint.step, checkpoint.digest, checkpoint.status))
            raise

    return patch.object(RunLog, "append", append)


def _the_step_before_is_not_read() -> AbstractContextManager[Any]:
    async def judge(self: RunLog, checkpoint: Checkpoint) -> str:
        return "append"

    return patch.object(RunLog, "_judge", judge)


def _the_index_entry_comes_last() -> AbstractContextManager[Any]:
    original = RunLog.append

    async def append(self: RunLog, checkpoint: Checkpoint) -> Appended | None:
        store: Any = self._store
        delayed: list[str] = []

        class Reordered:
            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            async def create(self, key: str, content: bytes) -> str | None:
                if "/runs/" in key:
                    delayed.append(key)
                    return ""
                return cast("str | None", await store.create(key, content))

        self._store = cast("ObjectStore", Reordered())
        try:
            appended = await original(self, checkpoint)
        finally:
            self._store = store
        for key in delayed:
            await store.create(key, b"")
        return appended

    return patch.object(RunLog, "append", append)


def _deletion_does_not_take_the_next_slot() -> AbstractContextManager[Any]:
    async def claim(self: Removal, run_id: str, step: int) -> bool:
        return True

    return patch.object(Removal, "_claim", claim)


def _deletion_overwrites_the_next_slot() -> AbstractContextManager[Any]:
    async def claim(self: Removal, run_id: str, step: int) -> bool:
        await self._store.overwrite([self._keys.slot(run_id, step)], tombstone("deleted"))
        return True

    return patch.object(Removal, "_claim", claim)


def _deletion_frees_the_slots() -> AbstractContextManager[Any]:
    async def bury(self: Removal, run_id: str, last: int) -> int:
        keys = [self._keys.slot(run_id, step) async for step, _ in self._log.slots(run_id)]
        await self._store.remove(keys)
        return len(keys)

    return patch.object(Removal, "_bury", bury)


def _pruning_frees_the_slots() -> AbstractContextManager[Any]:
    original = Removal._thin

    async def thin(self: Removal, run_id: str, head: Head, keep_last: int, **how: Any) -> int:
        count = await original(self, run_id, head, keep_last, **how)
        async for _, info in self._log.slots(run_id):
            if is_tombstone(info.size):
                await self._store.remove([info.key])
        return count

    return patch.object(Removal, "_thin", thin)


def _the_first_slot_is_freed_after_the_grace() -> AbstractContextManager[Any]:
    async def free(self: Removal, slots: list[tuple[int, ObjectInfo]], now: datetime) -> None:
        await self._store.remove([info.key for _, info in slots if is_tombstone(info.size)])

    return patch.object(Removal, "_free", free)


def _there_is_no_grace() -> AbstractContextManager[Any]:
    return patch.object(_removal, "GRACE", timedelta(days=-1))


def _a_tail_is_believed_for_ever() -> AbstractContextManager[Any]:
    return patch.object(_log, "BELIEF_SECONDS", float("inf"))


def _pruning_forgets_the_frontier() -> AbstractContextManager[Any]:
    async def needed_by(self: Removal, run_id: str, latest: int) -> set[int]:
        return set()

    return patch.object(Removal, "_needed_by", needed_by)


def _pruning_believes_a_record_that_was_pruned() -> AbstractContextManager[Any]:
    original_needed_by, original_bases_of = Removal._needed_by, Removal._bases_of

    async def needed_by(self: Removal, run_id: str, latest: int) -> set[int]:
        return await original_needed_by(self, run_id, latest) or set()

    async def base_steps_of(self: Removal, run_id: str, steps: set[int]) -> set[int]:
        return await original_bases_of(self, run_id, steps) or set()

    return patch.multiple(Removal, _needed_by=needed_by, _bases_of=base_steps_of)


def _pruning_forgets_what_records_are_decoded_from() -> AbstractContextManager[Any]:
    async def base_steps_of(self: Removal, run_id: str, steps: set[int]) -> set[int]:
        return set()

    return patch.object(Removal, "_bases_of", base_steps_of)


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
    async def read_newest(self: RunLog, run_id: str, read: Any) -> Any:
        newest = await self.newest(run_id)
        return None if newest is None else await read(*newest)

    return patch.object(RunLog, "read_newest", read_newest)


def _pruning_judges_steps_that_came_later() -> AbstractContextManager[Any]:
    original = Removal._thin

    async def thin(self: Removal, run_id: str, head: Head, keep_last: int, **how: Any) -> int:
        records = await self._records(run_id)
        latest, ended = head.summary.last_step, head.summary.status in ENDED
        kept = await self._kept(run_id, latest, set(records[:keep_last]), ended=ended) or set()
        victims = [self._keys.slot(run_id, step) for step in records if step not in kept]
        await self._store.overwrite(victims, tombstone("pruned"))
        return await original(self, run_id, head, keep_last, **how)

    return patch.object(Removal, "_thin", thin)


def _a_removal_believes_an_old_verdict() -> AbstractContextManager[Any]:
    original = Removal.prune

    async def prune(self: Removal, run_id: str, started_at: datetime, rule: PruneRule, **how: Any) -> int:
        if rule.keep_last == 0 and not how["dry_run"]:
            newest = await self._log.newest(run_id)
            return 0 if newest is None else await self._bury(run_id, newest[0])
        return await original(self, run_id, started_at, rule, **how)

    return patch.object(Removal, "prune", prune)


def _an_entry_is_shown_unchecked() -> AbstractContextManager[Any]:
    from stargraph.checkpoint.s3._index import RunIndex

    async def summary(self: RunIndex, entry: Entry) -> Any:
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
        _deletion_does_not_take_the_next_slot,
        _deletion_overwrites_the_next_slot,
        _deletion_frees_the_slots,
        _pruning_frees_the_slots,
        _the_first_slot_is_freed_after_the_grace,
        _there_is_no_grace,
        _a_tail_is_believed_for_ever,
        _pruning_forgets_the_frontier,
        _pruning_believes_a_record_that_was_pruned,
        _pruning_forgets_what_records_are_decoded_from,
        _a_record_in_another_form_is_built_on,
        _a_reader_looks_only_once,
        _pruning_judges_steps_that_came_later,
        _a_removal_believes_an_old_verdict,
        _an_entry_is_shown_unchecked,
    )
}
"""What is done wrong, and how to do it."""
