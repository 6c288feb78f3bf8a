"""The latest checkpoints of runs, kept in memory for a store that says whether they still are the latest."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.protocol._compact import CompactCheckpoint, compact_checkpoint

Mark = TypeVar("Mark")

_LARGE: Final = 2 * 1024 * 1024
"""Bytes of text that take between one and a few milliseconds to parse: a loop should not be held for longer."""


@dataclass(frozen=True, slots=True)
class CachedLatest(Generic[Mark]):
    """A checkpoint that was the latest of its run.

    Attributes:
        mark: what the store says as long as that very checkpoint is the latest.
    """

    mark: Mark
    _kept: CompactCheckpoint

    @property
    def large(self) -> bool:
        """Whether `checkpoint` is better called in a thread."""
        return self._kept.parsed_size > _LARGE

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint; its lists and objects are its receiver's own."""
        return self._kept.checkpoint()


class LatestCache(Generic[Mark]):
    """What one handle has written or read last of its runs. May be used from any thread.

    A driver puts a checkpoint here after an acknowledged write that stored it in this very form, or after a verified
    read, and hands one out only if the store has just confirmed its mark: nothing that another handle has overtaken,
    deleted or pruned is ever served. What nobody reads any more goes first.

    Args:
        limit: about how many bytes of memory to use; 0 keeps nothing.

    Raises:
        ValueError: the limit is not a number of bytes.
    """

    def __init__(self, limit: int) -> None:
        if type(limit) is not int or limit < 0:
            raise ValueError(f"latest_cache_bytes is {limit!r}: give 0 or more bytes")
        self.limit: Final = limit
        self._entries: OrderedDict[str, CachedLatest[Mark]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @staticmethod
    def parse_limit(text: str) -> int:
        """Return the limit that a URL gives.

        Raises:
            ValueError: it is not a number of bytes; the message says what to give.
        """
        if text.isascii() and text.isdecimal():
            with contextlib.suppress(ValueError):  # thousands of digits
                return int(text)
        raise ValueError("0 or more bytes")

    def get(self, run_id: str) -> CachedLatest[Mark] | None:
        """Return what is kept of a run, or None; ask the store for its mark before using it."""
        with self._lock:
            found = self._entries.get(run_id)
            if found is not None:
                self._entries.move_to_end(run_id)
            return found

    def put(self, checkpoint: Checkpoint, mark: Mark) -> None:
        """Keep a checkpoint that is stored, in the place of an earlier one of its run.

        Args:
            checkpoint: what was written or read.
            mark: what the store says of it.
        """
        if not self.limit:
            return
        kept = compact_checkpoint(checkpoint)
        with self._lock:
            self._drop(checkpoint.run_id)
            if kept is None or kept.size > self.limit:
                return
            self._entries[checkpoint.run_id] = CachedLatest(mark, kept)
            self._size += kept.size
            while self._size > self.limit:
                self._drop(next(iter(self._entries)))

    def drop(self, run_id: str) -> None:
        """Forget a run: the store no longer has it."""
        with self._lock:
            self._drop(run_id)

    def clear(self) -> None:
        """Forget all runs."""
        with self._lock:
            self._entries.clear()
            self._size = 0

    def _drop(self, run_id: str) -> None:
        known = self._entries.pop(run_id, None)
        if known is not None:
            self._size -= known._kept.size
