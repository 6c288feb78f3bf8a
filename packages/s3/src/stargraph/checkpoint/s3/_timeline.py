"""Rows of a timeline: of each object only the beginning is read, and a few of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stargraph.checkpoint.codec import PREFIX_BYTES, Codec, CodecThreads, RecordCutError, missing_base_steps
from stargraph.checkpoint.protocol import StepSummary
from stargraph.checkpoint.s3._concurrency import map_each
from stargraph.checkpoint.s3._errors import corrupted_error
from stargraph.checkpoint.s3._frame import HEADER_BYTES, Header, PrunedFloor, read_header, record_of
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import ObjectStore
from stargraph.checkpoint.s3._read import history_slots
from stargraph.checkpoint.s3._schema import KeyLayout

_NEXT_WINDOW: Final = 256
_AT_A_TIME: Final = 128
"""So many rows are read and summarised together: they take a few MiB at most, if none has to be read whole."""


@dataclass(frozen=True, slots=True)
class _Prefix:
    """The beginning of what a slot holds."""

    header: Header
    record: bytes


class TimelineReader:
    """Reads rows of timelines.

    Args:
        store: the objects.
        keys: where they are.
        log: lists them.
        codec: reads the beginning of records.
        threads: where many of them are read; None reads them here.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: KeyLayout,
        log: LogReader,
        codec: Codec,
        threads: CodecThreads | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._log = log
        self._codec = codec
        self._threads = threads

    async def page(self, run_id: str, first: int, last: int, limit: int) -> tuple[list[StepSummary], bool]:
        """Return rows for the first steps between two, both included, and whether there may be more.

        Raises:
            CheckpointCorruptedError: a step is lost, or what tells an event is damaged.
        """
        end = await self._log.known_end(run_id)
        if end is None:
            return [], False
        last = min(last, end)
        window = limit
        steps: list[int] = []
        # A log is listed from its end: without a bound, the first page of a long run would list all of it. Only where a
        # prune has left nothing, more is listed.
        while first <= last and not steps:
            bound = min(last, first + window - 1)
            parts = await history_slots(self._log, run_id, from_step=first, to_step=bound, newest_first=False)
            steps = [step for part in parts for step, _ in part]
            first, window = bound + 1, max(window * 4, _NEXT_WINDOW)
        rows: list[StepSummary] = []
        for start in range(0, min(len(steps), limit), _AT_A_TIME):
            rows += await self._rows(run_id, steps[start : min(start + _AT_A_TIME, limit)])
        return rows, first <= last or len(steps) > limit

    async def _rows(self, run_id: str, steps: Sequence[int], *, whole: bool = False) -> list[StepSummary]:
        """Return rows for some steps, without those that a prune has taken meanwhile."""
        prefixes: dict[int, _Prefix] = {}
        wanted = [step for step in (steps[0] - 1, *steps) if step >= 0]
        while wanted:
            found = await map_each(lambda step: self._prefix(run_id, step, whole), wanted)
            prefixes |= {step: prefix for step, prefix in zip(wanted, found, strict=True) if prefix is not None}
            known = {step: prefix.record for step, prefix in prefixes.items()}
            missing = missing_base_steps(known, run_id=run_id, steps=list(known))
            if not set(missing).isdisjoint(wanted):
                # A base was pruned; so what is decoded from it was too, or is about to be.
                prefixes = {
                    step: prefix for step, prefix in prefixes.items() if set(missing).isdisjoint(prefix.header.bases)
                }
                known = {step: prefix.record for step, prefix in prefixes.items()}
                missing = missing_base_steps(known, run_id=run_id, steps=list(known))
            wanted = missing
        stored = [step for step in steps if step in prefixes]

        def summarize() -> list[StepSummary]:
            sizes = {step: prefix.header.size for step, prefix in prefixes.items()}
            return self._codec.summarize(known, run_id=run_id, steps=stored, sizes=sizes)

        try:
            rows = summarize() if self._threads is None else await self._threads.run(summarize, large=len(stored) > 8)
        except RecordCutError:
            if whole:
                raise
            return [row for step in stored for row in await self._rows(run_id, [step], whole=True)]
        for row in rows:
            # A run that was begun without encryption shows its digests as they are.
            if prefixes[row.step].header.digest not in (self._codec.fingerprint(row.digest), row.digest):
                raise corrupted_error(run_id, row.step, "its header is that of another record")
        return rows

    async def _prefix(self, run_id: str, step: int, whole: bool) -> _Prefix | None:
        key = self._keys.slot(run_id, step)
        first = None if whole else HEADER_BYTES + PREFIX_BYTES
        body = await self._store.get(key, first=first)
        header = None if body is None else read_header(body, run_id=run_id, step=step)
        if body is not None and header is None and first is not None:
            first, body = None, await self._store.get(key)
            header = None if body is None else read_header(body, run_id=run_id, step=step)
        if body is None or header == "pruned" or header == "deleted" or isinstance(header, PrunedFloor):
            return None
        if not isinstance(header, Header):
            raise corrupted_error(run_id, step, "it ends in its header")
        if first is None or len(body) < first:
            return _Prefix(header, record_of(body, header, run_id=run_id, step=step))
        return _Prefix(header, body[header.length : header.length + PREFIX_BYTES])
