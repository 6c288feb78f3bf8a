"""Drivers that find the wrong checkpoint, or lose what they were given."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from stargraph.checkpoint.protocol._digest import digest_of
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreUnavailableError
from support.broken_drivers.broken_driver import broken


def signed_anew(found: Checkpoint, changes: dict[str, Any]) -> Checkpoint:
    """A checkpoint with other values, and a digest that fits them."""
    fields = {**found.__dict__, **changes}
    fields["digest"] = digest_of(fields, found.encoded_state(), found.encoded_update())
    return Checkpoint.model_validate(fields)


@broken(
    "steps.latest_ignores_clocks",
    "fencing.later_clock_does_not_win",
)
class LatestByClock(ReferenceCheckpointer):
    """ORDER BY timestamp DESC LIMIT 1: the latest by the clock of whoever wrote it."""

    def _latest(self, run_id: str) -> Checkpoint | None:
        found = [self._at(run_id, step) for step in self._records(run_id)]
        return max(filter(None, found), key=lambda checkpoint: checkpoint.timestamp, default=None)


@broken(
    "deletion.prune_one_run",
    "steps.latest_is_numeric",
    "values.every_field",
    "concurrency.linearizable",
    "deletion.prune_frees",
    "deletion.prune_keeps_what_is_needed",
    "batch.appends_all",
    "keys.exact",
    "keys.order",
    "keys.removals",
)
class StepsAsText(ReferenceCheckpointer):
    """Steps are text, as in file names without leading zeros: 9 comes after 10."""

    def _latest(self, run_id: str) -> Checkpoint | None:
        records = self._records(run_id)
        return self._at(run_id, max(records, key=str)) if records else None


@broken(
    "bootstrap.creates",
)
class UnknownRunRaises(ReferenceCheckpointer):
    """An unknown run raises KeyError."""

    def _records(self, run_id: str) -> dict[int, bytes]:
        return self._store.runs[run_id]


@broken(
    "access.outage",
    "steps.unknown_is_none",
    "steps.first_is_zero",
    "steps.gap_refused",
    "steps.rewrite_is_noop",
    "steps.conflict_keeps_stored",
    "steps.wrong_predecessor",
    "steps.ended_refused",
    "steps.others_go_on",
    "steps.invalid_before_stored",
    "isolation.case",
    "isolation.punctuation",
    "isolation.prefixes",
    "isolation.long_ids",
    "concurrency.linearizable",
    "durability.other_handle",
    "batch.conflict_stores_nothing",
    "batch.conflict_in_the_middle",
    "isolation.numbers",
)
class NearestStep(ReferenceCheckpointer):
    """WHERE step <= ? ORDER BY step DESC: a step that is not there gives the one before it."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._ensure_ready()
        below = [known for known in self._records(run_id) if known <= step]
        return await super().read_at_step(run_id, max(below)) if below else None


@broken(
    "steps.unknown_is_none",
)
class CountsFromTheEnd(ReferenceCheckpointer):
    """Steps are indexes of a list, and -1 is the last one."""

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        return await super().read_at_step(run_id, step if step >= 0 else len(self._records(run_id)) + step)


@broken(
    "deletion.pruned_run_goes_on",
    "steps.unknown_is_none",
    "isolation.case",
    "isolation.punctuation",
    "isolation.prefixes",
    "isolation.long_ids",
    "isolation.outside_alphabet",
    "engine.missing_run",
    "history.unknown_is_empty",
    "deletion.delete_run",
    "deletion.stays_deleted",
    "deletion.prune_matches",
    "batch.refusal_leaves_a_prefix",
    "stateful.agrees_with_model",
    "keys.find",
    "keys.order",
    "keys.removals",
    "queues.every_way_in",
    "watch.every_way_in",
    "isolation.numbers",
)
class SeeksAndTakes(ReferenceCheckpointer):
    """A sorted store is sought for the run, and what comes next is taken without looking whose it is."""

    def _records(self, run_id: str) -> dict[int, bytes]:
        following = sorted(known for known in self._store.runs if known >= run_id)
        return self._store.runs[following[0]] if following else {}

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        following = sorted(known for known in self._store.runs if known >= run_id)
        return super()._at(following[0], step) if following else None

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        if checkpoint.run_id not in self._store.runs and checkpoint.step == 0:
            self._store.runs[checkpoint.run_id] = {0: record}
        else:
            super()._append(checkpoint, record)


class Json(ReferenceCheckpointer):
    """A sound driver that does without the codec: every step is one JSON object."""

    claimable: Any = None  # the queues of the reference read records of its own form
    queue_counts: Any = None
    set_limits: Any = None

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_ready()
        encode(checkpoint)
        await self._turn()
        self._append(checkpoint, json.dumps(self._fields(checkpoint), ensure_ascii=False).encode())

    def _fields(self, checkpoint: Checkpoint) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(checkpoint.model_dump_json())
        return fields

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        record = self._records(run_id).get(step)
        if record is None:
            return None
        # A batch goes through the codec.
        if record[:1] >= b"\xc0":
            return decode(record, run_id=run_id, step=step)
        try:
            checkpoint = self._parsed(record)
        except (ValueError, CheckpointError) as error:
            raise corrupted(run_id, step, str(error)) from None
        if self._differs(checkpoint, run_id, step):
            raise corrupted(run_id, step, "it is another step")
        return checkpoint

    def _parsed(self, record: bytes) -> Checkpoint:
        return Checkpoint.model_validate_json(record)

    def _differs(self, checkpoint: Checkpoint, run_id: str, step: int) -> bool:
        return (checkpoint.run_id, checkpoint.step) != (run_id, step)


def corrupted(run_id: str, step: int, complaint: str) -> CheckpointCorruptedError:
    """Return the error of a record that is not what was written."""
    return CheckpointCorruptedError(complaint, reason="corrupted-record", run_id=run_id, step=step)


class Jsonb(Json):
    """A base: keeps the state as the database's own JSON type does, and puts the record together when it is read."""

    def _keep(self, value: Any) -> Any:
        return value

    def _fields(self, checkpoint: Checkpoint) -> dict[str, Any]:
        fields = super()._fields(checkpoint)
        return fields | {"state": self._keep(fields["state"])}


@broken(
    "values.text",
    "values.numbers",
    "values.keys",
    "values.key_order",
    "values.empties",
    "values.megabytes",
    "values.altered_refused",
    "corruption.flipped_bytes",
    "corruption.altered_values",
)
class JsonbKeyOrder(Jsonb):
    """jsonb sorts the keys, the shorter ones first."""

    def _keep(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._keep(value[key]) for key in sorted(value, key=lambda key: (len(key), key))}
        return [self._keep(item) for item in value] if isinstance(value, list) else value


@broken(
    "values.text",
    "values.keys",
    "values.megabytes",
)
class DropsNul(Jsonb):
    """jsonb cannot hold U+0000, so it is dropped."""

    def _keep(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key.replace("\0", ""): self._keep(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._keep(item) for item in value]
        return value.replace("\0", "") if isinstance(value, str) else value


@broken(
    "values.numbers",
)
class OneNumberType(Jsonb):
    """Numbers are what JavaScript makes of them: 1.0 is 1, and integers beyond 2^53 are rounded."""

    def _keep(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._keep(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._keep(item) for item in value]
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            return int(value)
        return int(float(value)) if type(value) is int else value


@broken(
    "values.empties",
    "engine.resumes_elsewhere",
)
class LeavesOutEmpties(Jsonb):
    """exclude_none and exclude_defaults: null and empty members are left out."""

    def _keep(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._keep(item) for key, item in value.items() if item is not None}
        return [self._keep(item) for item in value] if isinstance(value, list) else value


@broken(
    "values.text",
    "values.keys",
)
class NormalisesText(Jsonb):
    """Text is normalised to NFC on its way in."""

    def _keep(self, value: Any) -> Any:
        import unicodedata

        if isinstance(value, dict):
            return {unicodedata.normalize("NFC", key): self._keep(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._keep(item) for item in value]
        return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


@broken(
    "values.depth",
)
class ShallowStates(Jsonb):
    """A recursive walk with a bound of 32 levels."""

    def _keep(self, value: Any, depth: int = 0) -> Any:
        if depth > 32:
            raise StoreUnavailableError("document is nested too deeply", reason="too-deep")
        if isinstance(value, dict):
            return {key: self._keep(item, depth + 1) for key, item in value.items()}
        return [self._keep(item, depth + 1) for item in value] if isinstance(value, list) else value


@broken(
    "values.megabytes",
)
class OneMegabyte(ReferenceCheckpointer):
    """Records larger than a megabyte are refused, as by a default limit of the server."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        if len(record) > 2**20:
            raise StoreUnavailableError("packet too large", reason="too-large")
        super()._append(checkpoint, record)


@broken(slow=("values.sixty_four_mebibytes",))
class SixteenMegabytes(ReferenceCheckpointer):
    """Records larger than 16 MiB are refused, as by a document database."""

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        if len(record) > 2**24:
            raise StoreUnavailableError("document too large", reason="too-large")
        super()._append(checkpoint, record)


@broken(
    "isolation.same_names_inside",
    "values.every_field",
    "engine.runs_to_the_end",
    "engine.resumes_elsewhere",
    "engine.takeover",
    "queues.kinds",
)
class ForgetsAColumn(ReferenceCheckpointer):
    """The fields go to columns, and `definition`, `interrupts` and `calls` have none; what is read is signed again."""

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        found = super()._at(run_id, step)
        if found is None or (not found.interrupts and not found.calls and found.definition is None):
            return found
        fields = {"interrupts": (), "calls": (), "definition": None}
        return signed_anew(found, fields)


@broken(
    "steps.append_and_read",
    "engine.resumes_elsewhere",
    "engine.graph_hash_mismatch",
    "engine.runtime_hash_mismatch",
    "engine.takeover",
)
class ForgetsTheHashes(ReferenceCheckpointer):
    """graph_hash and runtime_hash are not stored; what is read is signed again."""

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        found = super()._at(run_id, step)
        if found is None:
            return None
        fields = {"graph_hash": "0" * 64, "runtime_hash": "0" * 64}
        return signed_anew(found, fields)

    def _append(self, checkpoint: Checkpoint, record: bytes) -> None:
        # The digest has a column of its own, so that appends still fit together.
        records = self._store.runs.setdefault(checkpoint.run_id, {})
        records.setdefault(checkpoint.step, record)


@broken(
    "list_runs.microseconds_order",
    "values.instants",
)
class MillisecondClock(ReferenceCheckpointer):
    """Times are kept in milliseconds; what is read is signed again."""

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        found = super()._at(run_id, step)
        if found is None or found.timestamp.microsecond not in (1, 100, 123_457, 999_999):
            return found
        fields = {}
        for name in ("timestamp", "started_at"):
            moment = getattr(found, name)
            fields[name] = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        return signed_anew(found, fields)


@broken(
    "values.seal",
)
class DropsTheSeal(ReferenceCheckpointer):
    """The seal is not covered by the digest, and not stored."""

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint.sealed(None))


@broken(
    "corruption.flipped_bytes",
    "corruption.altered_values",
    "corruption.swapped",
)
class TrustsTheBytes(Json):
    """What is stored is parsed and returned, whatever its digest says."""

    def _parsed(self, record: bytes) -> Checkpoint:
        try:
            return super()._parsed(record)
        except (ValueError, CheckpointError):
            return Checkpoint.model_construct(**json.loads(record.decode("latin-1")))

    def _differs(self, checkpoint: Checkpoint, run_id: str, step: int) -> bool:
        return False


@broken(
    "corruption.truncated",
)
class EmptyIsAbsent(Json):
    """A record without a byte in it, as a crash may leave a file, counts as one that was never written."""

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        return super()._at(run_id, step) if self._records(run_id).get(step) else None


@broken(
    "corruption.swapped",
)
class TrustsThePlace(Json):
    """The digest is compared, but not whether the record is that of the run and step that was asked for."""

    def _differs(self, checkpoint: Checkpoint, run_id: str, step: int) -> bool:
        return False


class Objects(ReferenceCheckpointer):
    """A base: hands out objects that it holds."""

    def __init__(self, store: ReferenceStore | None = None) -> None:
        super().__init__(store)
        self._held: dict[tuple[str, int], Checkpoint] = {}


@broken(
    "values.reader_keeps_no_hold",
)
class SharedCache(Objects):
    """A cache hands out one object to all readers."""

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        held = self._held.get((run_id, step))
        if held is None and (held := super()._at(run_id, step)) is not None:
            self._held[run_id, step] = held
        # A deleted or pruned step leaves the cache.
        return held if step in self._records(run_id) else None

    def _summaries(self, since: Any) -> list[RunSummary]:
        latest = filter(None, (self._latest(run_id) for run_id in self._store.runs))
        found = [
            RunSummary.from_checkpoint(checkpoint).model_copy(update={"metadata": checkpoint.metadata})
            for checkpoint in latest
        ]
        kept = [item for item in found if since is None or item.started_at >= since]
        return sorted(kept, key=lambda item: (-item.started_at.timestamp(), item.run_id))


@broken(
    "values.writer_keeps_no_hold",
    "values.reader_keeps_no_hold",
)
class KeepsTheWritersObject(Objects):
    """The object that was written is what is read: nothing is encoded."""

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        self._held[checkpoint.run_id, checkpoint.step] = checkpoint

    def _at(self, run_id: str, step: int) -> Checkpoint | None:
        there = super()._at(run_id, step)
        held = self._held.get((run_id, step))
        return held if held is not None and there is not None and held.digest == there.digest else there


@broken(
    "corruption.lost_step",
)
class GapsArePruned(ReferenceCheckpointer):
    """What is not found is None, as if every gap came from a prune."""

    def _required_steps(self, run_id: str) -> set[int]:
        return set(self._records(run_id))


@broken(
    "deletion.lost_step",
)
class OncePrunedAlwaysPruned(ReferenceCheckpointer):
    """The run is marked as pruned; up to where is not kept."""

    def _required_steps(self, run_id: str) -> set[int]:
        return super()._required_steps(run_id) if self._floor(run_id) == 0 else set(self._records(run_id))


@broken(
    "corruption.lost_step",
)
class HistoryPassesOverGaps(ReferenceCheckpointer):
    """read_at_step knows what must be there; history yields what a scan finds."""

    async def history(self, run_id: str, **bounds: Any) -> AsyncIterator[Checkpoint]:
        lowest, highest = bounds.get("from_step"), bounds.get("to_step")
        self._ensure_ready()
        for step in sorted(self._records(run_id), reverse=bounds.get("newest_first", False)):
            found = self._at(run_id, step)
            if found is not None and (lowest is None or step >= lowest) and (highest is None or step <= highest):
                yield found
