"""Drivers that find the wrong steps by their keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from unicodedata import normalize

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import check_limit, missing_step_error
from stargraph.checkpoint.protocol import Checkpoint, PruneReport, StepKey
from stargraph.errors import CheckpointCorruptedError
from support.broken_drivers.broken_driver import broken


class Keyed(ReferenceCheckpointer):
    """A base: an index of keys beside the runs, shared by all handles of a store."""

    _indexes: dict[int, dict[tuple[str, str], list[int]]] = {}  # noqa: RUF012

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._index = self._indexes.setdefault(id(self._store), {})

    def _note(self, checkpoint: Checkpoint) -> None:
        if checkpoint.key is not None:
            steps = self._index.setdefault((checkpoint.run_id, self._form(checkpoint.key)), [])
            if checkpoint.step not in steps:
                steps.append(checkpoint.step)

    def _form(self, key: str) -> str:
        return key

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        self._note(checkpoint)

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().write_many(checkpoints)
        for checkpoint in checkpoints:
            self._note(checkpoint)

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        await super().start_pruned(checkpoints)
        for checkpoint in checkpoints:
            self._note(checkpoint)

    def _steps(self, run_id: str, key: str) -> list[int]:
        steps = self._index.get((run_id, self._form(key)), [])
        return sorted(step for step in steps if self._at(run_id, step) is not None)

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        await self.read_latest(run_id)
        steps = self._steps(run_id, key)
        return self._at(run_id, steps[-1]) if steps else None


@broken("keys.pruned_start", "keys.find", "keys.batches")
class FindsTheFirst(Keyed):
    """read_at_key returns the lowest step that has the key."""

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        await self.read_latest(run_id)
        steps = self._steps(run_id, key)
        return self._at(run_id, steps[0]) if steps else None


@broken("keys.exact")
class IgnoresCase(Keyed):
    """Keys are compared without their case."""

    def _form(self, key: str) -> str:
        return key.lower()


@broken("keys.exact")
class JoinsRunAndKey(ReferenceCheckpointer):
    """One column holds the run and the key, with a colon between them."""

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        await super().read_at_key(run_id, key)
        for other in self._store.runs:
            for its_key, checkpoint in self._keyed(other).items():
                if f"{other}:{its_key}" == f"{run_id}:{key}":
                    return checkpoint
        return None


@broken("keys.exact")
class NormalisesKeys(Keyed):
    """Keys are compared in their composed form."""

    def _form(self, key: str) -> str:
        return normalize("NFC", key)


@broken("keys.exact")
class StripsKeys(Keyed):
    """Blanks at the end of a key do not count, as in a CHAR column."""

    def _form(self, key: str) -> str:
        return key.rstrip(" ")


@broken("keys.exact")
class CutsKeysOff(Keyed):
    """Only the first 64 characters of a key are stored."""

    def _form(self, key: str) -> str:
        return key[:64]


@broken("keys.find", "keys.removals")
class FindsKeysOfOtherRuns(Keyed):
    """If the run has no such key, that of another run is found."""

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        found = await super().read_at_key(run_id, key)
        others = (self._at(run, step) for (run, other), steps in self._index.items() if other == key for step in steps)
        return found or next(filter(None, others), None)


@broken("keys.pruned_start", "keys.find", "keys.removals")
class RemembersKeysInTheHandle(Keyed):
    """The index is a dictionary of the handle, which knows nothing of what others write."""

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._index = {}


@broken("keys.batches")
class BatchesHaveNoKeys(Keyed):
    """write_many stores the records and not their keys."""

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        await ReferenceCheckpointer.write_many(self, checkpoints)


@broken("keys.order")
class OrdersByUtf16(ReferenceCheckpointer):
    """Keys are in the order of their UTF-16 form, as in JavaScript and Java."""

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        found = await super().step_keys(run_id, below=below, limit=limit)
        return sorted(found, key=lambda each: each.key.encode("utf-16-be"), reverse=True)


@broken("keys.pruned_start", "keys.order", "keys.batches")
class ListsEachStep(ReferenceCheckpointer):
    """A key is listed once for each step that has it."""

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        await super().step_keys(run_id, below=below, limit=limit)
        steps = [self._at(run_id, step) for step in sorted(self._records(run_id), reverse=True)]
        found = [StepKey(step.key, step.step) for step in steps if step is not None and step.key is not None]
        return sorted((each for each in found if below is None or each.key < below), reverse=True)[:limit]


@broken("keys.many", "keys.order")
class BelowIsIncluded(ReferenceCheckpointer):
    """`below` is the highest key of the page, not the one above it."""

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        return await super().step_keys(run_id, below=None if below is None else below + "\0", limit=limit)


@broken("keys.arguments")
class AnyLimit(ReferenceCheckpointer):
    """A limit goes into the slice as it is."""

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: Any = 100) -> list[StepKey]:
        return (await super().step_keys(run_id, below=below, limit=1_000_000))[: int(limit)]


@broken("keys.refused_writes")
class NotesTheKeyFirst(Keyed):
    """The key is noted before the append is judged, and points at the step of whoever won."""

    async def write(self, checkpoint: Checkpoint) -> None:
        self._note(checkpoint)
        await super().write(checkpoint)


@broken("keys.removals")
class KeysOutliveTheirSteps(Keyed):
    """step_keys lists what was noted, whatever was pruned or deleted since."""

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        await super().step_keys(run_id, limit=limit)
        found = [StepKey(key, max(steps)) for (run, key), steps in self._index.items() if run == run_id]
        return sorted((each for each in found if below is None or each.key < below), reverse=True)[:limit]


@broken("isolation.punctuation", "queues.counts", "deletion.prune_one_run")
class PrunesAllTheSame(ReferenceCheckpointer):
    """The run id of a prune is not looked at."""

    async def prune(self, *, older_than: datetime, run_id: str | None = None, **options: Any) -> PruneReport:
        return await super().prune(older_than=older_than, **options)


@broken("keys.many")
class HundredKeys(ReferenceCheckpointer):
    """step_keys gives a hundred keys at most, however many were asked for."""

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        check_limit(limit)
        return await super().step_keys(run_id, below=below, limit=min(limit, 100))


@broken("keys.many")
class ThousandKeys(ReferenceCheckpointer):
    """step_keys gives a thousand keys at most, however many were asked for."""

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        return (await super().step_keys(run_id, below=below, limit=limit))[:1000]


@broken("keys.pruned_start")
class PrunedStartsHaveNoKeys(Keyed):
    """start_pruned stores the records, and notes no key."""

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        await ReferenceCheckpointer.start_pruned(self, checkpoints)


class _Remembers(ReferenceCheckpointer):
    """A base: remembers what was found as long as the run has the same latest step."""

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._known: dict[tuple[str, str, int], Any] = {}

    def _place(self, run_id: str, what: str) -> tuple[str, str, int]:
        return run_id, what, max(self._records(run_id), default=-1)


@broken("keys.removals")
class FindsWhatItFoundBefore(_Remembers):
    """read_at_key looks again only after the run has gone on: a prune or a deletion does not show."""

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        await self._turn()
        place = self._place(run_id, key)
        if place not in self._known:
            self._known[place] = await super().read_at_key(run_id, key)
        return self._known[place]  # type: ignore[no-any-return]


@broken("keys.removals")
class ListsWhatItListedBefore(_Remembers):
    """step_keys looks again only after the run has gone on."""

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        found = await super().step_keys(run_id, below=below, limit=limit)
        return self._known.setdefault(self._place(run_id, f"{below!r} {limit}"), found)  # type: ignore[no-any-return]


@broken("keys.damage")
class KeysPassOverDamage(ReferenceCheckpointer):
    """A step that cannot be read has no key: an older one is found, which the run has left behind."""

    def _keyed(self, run_id: str) -> dict[str, Checkpoint]:
        found: dict[str, Checkpoint] = {}
        for step in sorted(self._records(run_id)):
            with contextlib.suppress(CheckpointCorruptedError):
                checkpoint = self._at(run_id, step)
                if checkpoint is not None and checkpoint.key is not None:
                    found[checkpoint.key] = checkpoint
        return found


@broken("keys.damage")
class KeysOfTheRecordsThatAreThere(ReferenceCheckpointer):
    """A lost step has no key: an older one is found, which the run has left behind."""

    def _keyed(self, run_id: str) -> dict[str, Checkpoint]:
        steps = [self._at(run_id, step) for step in sorted(self._records(run_id))]
        return {step.key: step for step in steps if step is not None and step.key is not None}


@broken("interleaving.reads_and_removal")
class KeyInTwoLooks(ReferenceCheckpointer):
    """The step of a key is looked up, and its record a turn later: if it is gone meanwhile, the read fails."""

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        found = await super().read_at_key(run_id, key)
        await asyncio.sleep(0)
        if found is not None and self._records(run_id).get(found.step) is None:
            raise missing_step_error(run_id, found.step)
        return found
