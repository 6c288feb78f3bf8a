"""Rows of a timeline, read from records without their states."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from stargraph.checkpoint.codec._chain import Chain, EventFields
from stargraph.checkpoint.codec._cipher import Cipher
from stargraph.checkpoint.codec._fields import stored_fields_of
from stargraph.checkpoint.codec._header import corrupted
from stargraph.checkpoint.protocol import StepSummary
from stargraph.checkpoint.protocol._timeline import removed_names
from stargraph.errors import CheckpointError


class EventReader:
    """Reads the events of one run.

    Args:
        records: the records by step, each whole or its beginning.
        cipher: decrypts them.
        sizes: the length of each record that may not be whole.
    """

    def __init__(
        self, records: Mapping[int, bytes], run_id: str, cipher: Cipher | None, sizes: Mapping[int, int]
    ) -> None:
        self._records = records
        self._run_id = run_id
        self._chain = Chain(records, run_id, cipher, sizes=sizes)

    def rows(self, steps: Sequence[int]) -> Iterator[StepSummary]:
        """Yield the rows of some steps, ascending.

        Raises:
            RecordCutError: the whole record of a step is needed.
            CheckpointCorruptedError: what tells an event is not what was written.
            StoreVersionError: a newer version of Stargraph wrote a record.
        """
        before: StepSummary | None = None
        keys: Collection[str] | None = None
        for step in steps:
            if before is None or before.step != step - 1:
                before, keys = None, self._keys(step - 1)
            row, keys = self._row(step, keys)
            if before is not None and row.previous_digest != before.digest:
                raise corrupted(self._run_id, step, "it does not follow the step before it")
            yield row
            before = row

    def _row(self, step: int, keys_before: Collection[str] | None) -> tuple[StepSummary, Collection[str]]:
        event = self._event(step)
        try:
            stored = stored_fields_of(event.fields)
        except (ValueError, TypeError) as error:
            # Without its cause, which would quote the content in logs.
            raise corrupted(self._run_id, step, str(error).partition("\n")[0]) from None
        if (stored.run_id, stored.step) != (self._run_id, step):
            raise corrupted(self._run_id, step, f"it is step {stored.step} of run {stored.run_id!r}")
        removed = removed_names(keys_before, event.keys)
        row = StepSummary.of_fields(stored, changed=event.updated, removed=removed, size=event.size)
        return row, event.keys

    def _event(self, step: int) -> EventFields:
        try:
            return self._chain.read_event(step)
        except (ValueError, TypeError) as error:
            raise corrupted(self._run_id, step, str(error).partition("\n")[0]) from None

    def _keys(self, step: int) -> Collection[str] | None:
        """Return the members of the state of a step; None if it is not there, or cannot be read."""
        if step not in self._records:
            return None
        try:
            return self._event(step).keys
        except CheckpointError:
            return None  # it is another row that this concerns
