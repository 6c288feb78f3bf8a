"""A list of checkpoints of several logs: what comes next of each of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from stargraph.langgraph._log import ThreadLog
from stargraph.langgraph._state import StoredStep

_UNKNOWN: Final = "\U0010ffff"
"""Higher than the id of any checkpoint: what is next of a log is read before it is compared with others."""

_FEW: Final = 16


class ListHead:
    """The checkpoints of one log, the highest id first; values are read only once it is their turn.

    Args:
        log: the log.
        wanted: the id of the one checkpoint that is listed; None for all.
        below: only lower ids; None for all.
        is_one_of_many: other logs are listed too. Then the ids alone say whose turn it is, and few values are held.

    Attributes:
        checkpoint_id: the id of the next checkpoint, or one that is not lower.
        stored: the next checkpoint, or None if it was not read yet.
    """

    def __init__(self, log: ThreadLog, wanted: str | None, below: str | None, *, is_one_of_many: bool) -> None:
        self.log: Final = log
        self.checkpoint_id = _UNKNOWN
        self.stored: StoredStep | None = None
        self._wanted = wanted
        self._below = below
        self._is_one_of_many = is_one_of_many
        self._steps = (
            self._read_one(wanted) if wanted else log.before(below, most_at_once=_FEW if is_one_of_many else None)
        )

    async def find_first(self) -> bool:
        """Find the first id, if that is needed, and return whether there may be a checkpoint."""
        if self._is_one_of_many and not self._wanted:
            async with aclosing(self.log.ids(self._below, limit=1)) as ids:
                first = await anext(ids, None)
            self.checkpoint_id = first or ""
            return first is not None
        return True

    async def read_next(self) -> bool:
        """Read the next checkpoint, and return whether there is one."""
        self.stored = await anext(self._steps, None)
        while self.stored is not None and (self.stored.checkpoint_id or "") > self.checkpoint_id:
            # It was put after the turns were decided, and its own turn has passed.
            self.stored = await anext(self._steps, None)
        self.checkpoint_id = (self.stored and self.stored.checkpoint_id) or ""
        return self.stored is not None

    async def aclose(self) -> None:
        """Stop reading."""
        await self._steps.aclose()

    async def _read_one(self, checkpoint_id: str) -> AsyncGenerator[StoredStep]:
        found = await self.log.at(checkpoint_id) if self._below is None or checkpoint_id < self._below else None
        if found is not None and found.has_checkpoint:
            yield found
