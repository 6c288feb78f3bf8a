"""The keys of steps: an entry for each, in a folder of the run, in the order that `step_keys` returns them.

An entry is a hint, like those of the index: it is there before its step, and is checked against the step before it is
believed. So a crash in between leaves an entry without a step, and never a step that its key does not find.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Final

from stargraph.checkpoint.protocol import Checkpoint, StepKey
from stargraph.checkpoint.s3._concurrency import AT_ONCE, map_each
from stargraph.checkpoint.s3._frame import Header
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import ObjectStore
from stargraph.checkpoint.s3._schema import KeyLayout

_PAGE: Final = 1000


class StepKeys:
    """Notes the keys of steps, and finds steps by them.

    Args:
        store: the objects.
        keys: where they are.
        log: reads the steps of runs.
    """

    def __init__(self, store: ObjectStore, keys: KeyLayout, log: LogReader) -> None:
        self._store = store
        self._keys = keys
        self._log = log

    async def note(self, checkpoint: Checkpoint) -> None:
        """Make the entry of a step that is about to be written, if it has a key."""
        if checkpoint.key is not None:
            entry = self._keys.step_key(checkpoint.run_id, checkpoint.key, checkpoint.step)
            await self._store.create_empty([entry])

    async def step_of(self, run_id: str, key: str) -> int | None:
        """Return the highest step of a run that has a key, or None."""
        async for found in self._entries(self._keys.step_key_folder(run_id, key)):
            if await self._is_stored(run_id, found):
                return found.step
        return None

    async def list(self, run_id: str, below: str | None, limit: int) -> list[StepKey]:
        """Return the keys of a run, the highest first, each with the highest step that has it."""

        async def stored(entry: StepKey) -> StepKey | None:
            if await self._is_stored(run_id, entry):
                return entry
            step = await self.step_of(run_id, entry.key)
            return None if step is None else StepKey(entry.key, step)

        after = "" if below is None else f"{self._keys.step_key_folder(run_id, below)}~"
        found: list[StepKey] = []
        window: list[StepKey] = []
        last = None
        async for entry in self._entries(self._keys.step_keys(run_id), after=after):
            if entry.key == last:
                continue  # an earlier step with the key
            last = entry.key
            window.append(entry)
            if len(window) >= min(AT_ONCE, limit - len(found)):
                found += [each for each in await map_each(stored, window) if each is not None]
                window = []
            if len(found) == limit:
                return found
        return found + [each for each in await map_each(stored, window) if each is not None]

    async def remove(self, run_id: str, *, below: int | None = None, kept: Collection[int] = ()) -> None:
        """Remove entries of a run.

        Args:
            below: those of steps below this one; None for all.
            kept: the steps whose entries stay.
        """
        gone = [
            self._keys.step_key(run_id, entry.key, entry.step)
            async for entry in self._entries(self._keys.step_keys(run_id))
            if (below is None or entry.step < below) and entry.step not in kept
        ]
        for start in range(0, len(gone), _PAGE):
            await self._store.remove(gone[start : start + _PAGE])

    async def _entries(self, folder: str, *, after: str = "") -> AsyncIterator[StepKey]:
        while True:
            listed = await self._store.list(folder, after=after, limit=_PAGE)
            for info in listed:
                entry = self._keys.step_key_of(info.key)
                if entry is not None:
                    yield entry
            if len(listed) < _PAGE:
                return
            after = listed[-1].key

    async def _is_stored(self, run_id: str, entry: StepKey) -> bool:
        header = await self._log.header(run_id, entry.step)
        if header is None and entry.step < (await self._log.known_end(run_id) or 0):
            # A crash leaves an entry without a step only until another one takes the slot.
            await self._log.check_not_lost(run_id, entry.step)
        return isinstance(header, Header) and header.key == entry.key
