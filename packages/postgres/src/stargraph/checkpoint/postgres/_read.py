"""Reads: checkpoints with what they are decoded from, the steps of a run in pages, and summaries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import islice
from typing import Any, Final

import asyncpg

from stargraph.checkpoint.codec import (
    PREFIX_BYTES,
    Codec,
    CodecThreads,
    RecordCutError,
    SequenceDecoder,
    large_to_decode,
    state_size,
)
from stargraph.checkpoint.driver import LatestCache, missing_step_error, summaries_from_json
from stargraph.checkpoint.postgres._schema import Schema
from stargraph.checkpoint.protocol import Checkpoint, RunSummary, StepKey, StepSummary
from stargraph.errors import CheckpointCorruptedError

_PAGE_BYTES: Final = 4 * 1024 * 1024
_CHUNK_BYTES: Final = 1024 * 1024
_MOST_AT_ONCE: Final = 64
_PAGE_ROWS: Final = 512
_WHOLE: Final = 2**31 - 1
_QUICK: Final = 8
"""So many small checkpoints are decoded faster than they are handed over to a thread."""

Fetch = Callable[..., Awaitable[list[asyncpg.Record]]]

# Whether the run still ends with a digest ($2), whose record is stored; its bytes are not read.
_IS_LATEST: Final = """(
    r.digest = $2 AND EXISTS (
        SELECT 1 FROM {schema}.checkpoints AS c
        WHERE c.run_id = r.run_id AND c.step = r.last_step AND c.digest = r.digest
    )
)"""

# A record is decoded from that of its base, that one from its own base, and so on: a few at most. LIMIT keeps each
# of them a look-up by the key; the planner would otherwise read all steps of a long run to join them. The tail of the
# run comes along: it shows whether a record that is not there is gone, or never was.
_CHAIN: Final = """
WITH RECURSIVE run AS (
    SELECT r.last_step, r.floor, r.digest, {is_known} AS is_known
    FROM {schema}.runs AS r WHERE r.run_id = $1 AND r.status <> 'deleted'
), chain (step, base, record) AS (
    SELECT c.step, c.base, c.record
    FROM run CROSS JOIN LATERAL (
        SELECT step, base, record FROM {schema}.checkpoints WHERE run_id = $1 AND step = {step} LIMIT 1
    ) AS c
    WHERE NOT is_known
    UNION ALL
    SELECT c.step, c.base, c.record
    FROM chain CROSS JOIN LATERAL (
        SELECT step, base, record FROM {schema}.checkpoints
        WHERE run_id = $1 AND step = chain.base AND step < chain.step LIMIT 1
    ) AS c
)
SELECT run.last_step, run.floor, run.digest, run.is_known, {step} AS asked, chain.step, chain.record
FROM run LEFT JOIN chain ON true
"""

_STEP_OF_KEY: Final = "(SELECT max(step) FROM {schema}.keys WHERE run_id = $1 AND key = $2)"

_STEP_KEYS: Final = """
SELECT k.key, max(k.step) AS step FROM {schema}.keys AS k JOIN {schema}.runs AS r ON r.run_id = k.run_id
WHERE k.run_id = $1 AND r.status <> 'deleted'
GROUP BY k.key ORDER BY k.key DESC LIMIT $2
"""

# A statement of its own: with a bound that may be NULL, a generic plan would read all keys above a page to find it.
_STEP_KEYS_BELOW: Final = _STEP_KEYS.replace("GROUP BY", "AND k.key < $3 GROUP BY")

# The size of a record is known without reading it, so a page is bounded in bytes and holds at least one.
_PAGE: Final = """
WITH RECURSIVE run AS (
    SELECT last_step, floor FROM {schema}.runs WHERE run_id = $1 AND status <> 'deleted'
), near AS (
    SELECT c.step, c.base, octet_length(c.record) AS size
    FROM run JOIN {schema}.checkpoints AS c ON c.run_id = $1 AND c.step BETWEEN $2 AND $3
    ORDER BY c.step {order}
    LIMIT 256
), sized AS (
    SELECT step, base, sum(size) OVER (ORDER BY step {order}) - size AS before FROM near
), page AS (
    SELECT step, base FROM sized WHERE before < $4
), needed (step, base) AS (
    SELECT step, base FROM page
    UNION
    SELECT c.step, c.base
    FROM needed CROSS JOIN LATERAL (
        SELECT step, base FROM {schema}.checkpoints WHERE run_id = $1 AND step = needed.base LIMIT 1
    ) AS c
), found AS (
    SELECT needed.step, c.record, needed.step IN (SELECT step FROM page) AS asked
    FROM needed CROSS JOIN LATERAL (
        SELECT record FROM {schema}.checkpoints WHERE run_id = $1 AND step = needed.step LIMIT 1
    ) AS c
)
SELECT run.last_step, run.floor, found.step, found.record, found.asked
FROM run LEFT JOIN found ON true
ORDER BY found.step {order}
"""


# As a page of a history, but of a large record only its beginning is read, and with the step before the first one.
_TIMELINE: Final = """
WITH RECURSIVE run AS (
    SELECT last_step, floor FROM {schema}.runs WHERE run_id = $1 AND status <> 'deleted'
), near AS (
    SELECT c.step, c.base, least(octet_length(c.record), $6) AS size
    FROM run JOIN {schema}.checkpoints AS c ON c.run_id = $1 AND c.step BETWEEN $2 AND $3
    ORDER BY c.step
    LIMIT $4
), sized AS (
    SELECT step, base, sum(size) OVER (ORDER BY step) - size AS before FROM near
), page AS (
    SELECT step, base FROM sized WHERE before < $5
), needed (step, base) AS (
    SELECT step, base FROM (
        SELECT step, base FROM page
        UNION ALL
        SELECT step, base FROM {schema}.checkpoints
        WHERE run_id = $1 AND step = (SELECT min(step) FROM page) - 1
    ) AS wanted
    UNION
    SELECT c.step, c.base
    FROM needed CROSS JOIN LATERAL (
        SELECT step, base FROM {schema}.checkpoints WHERE run_id = $1 AND step = needed.base LIMIT 1
    ) AS c
), found AS (
    SELECT needed.step, c.prefix, c.size, needed.step IN (SELECT step FROM page) AS asked
    FROM needed CROSS JOIN LATERAL (
        SELECT substring(record FROM 1 FOR $6) AS prefix, octet_length(record) AS size
        FROM {schema}.checkpoints WHERE run_id = $1 AND step = needed.step LIMIT 1
    ) AS c
)
SELECT run.last_step, run.floor, found.step, found.prefix, found.size, found.asked
FROM run LEFT JOIN found ON true
ORDER BY found.step
"""

_LATEST_STEP: Final = "SELECT last_step FROM {schema}.runs WHERE run_id = $1 AND status <> 'deleted'"


class Reader:
    """Reads one store.

    Args:
        fetch: runs one statement, and again if it fails for a reason that may pass.
        schema: where the tables are.
        codec: decodes records.
        threads: where large records are decoded.
        cache: what this handle has written and read last.
    """

    def __init__(
        self, fetch: Fetch, schema: Schema, codec: Codec, threads: CodecThreads, cache: LatestCache[bytes]
    ) -> None:
        self._fetch = fetch
        self._codec = codec
        self._threads = threads
        self._cache = cache
        self._latest = schema.sql(_CHAIN, step="run.last_step", is_known="false")
        self._latest_unless = schema.sql(_CHAIN, step="run.last_step", is_known=schema.sql(_IS_LATEST))
        self._at_step = schema.sql(_CHAIN, step="$2", is_known="false")
        self._at_key = schema.sql(_CHAIN, step=_STEP_OF_KEY, is_known="false")
        self._step_keys = schema.sql(_STEP_KEYS)
        self._step_keys_below = schema.sql(_STEP_KEYS_BELOW)
        self._ascending = schema.sql(_PAGE, order="ASC")
        self._descending = schema.sql(_PAGE, order="DESC")
        self._timeline = schema.sql(_TIMELINE)
        self._latest_step = schema.sql(_LATEST_STEP)

    async def latest(self, run_id: str) -> Checkpoint | None:
        """Return the checkpoint with the highest step, or None if the run is unknown or deleted."""
        cached = self._cache.get(run_id)
        if cached is None:
            rows = await self._fetch(self._latest, run_id)
        else:
            rows = await self._fetch(self._latest_unless, run_id, cached.mark)
        if not rows:
            self._cache.drop(run_id)
            return None
        if cached is not None and rows[0]["is_known"]:
            return await self._threads.run(cached.checkpoint, large=cached.large)
        step = rows[0]["last_step"]
        checkpoint = await self._decode(self._codec.decode_latest, run_id, step, _records(run_id, step, rows))
        self._cache.put(checkpoint, rows[0]["digest"])
        return checkpoint

    async def at_step(self, run_id: str, step: int) -> Checkpoint | None:
        """Return one step of a run, or None if it is unknown, deleted or pruned."""
        rows = await self._fetch(self._at_step, run_id, step)
        if not rows or step > rows[0]["last_step"]:
            return None
        if rows[0]["step"] is None and step < rows[0]["floor"]:
            return None
        return await self._decode(self._codec.decode, run_id, step, _records(run_id, step, rows))

    async def at_key(self, run_id: str, key: str) -> Checkpoint | None:
        """Return the highest step of a run that has a key, or None."""
        rows = await self._fetch(self._at_key, run_id, key.encode())
        if not rows or rows[0]["asked"] is None:
            return None
        step = rows[0]["asked"]
        return await self._decode(self._codec.decode, run_id, step, _records(run_id, step, rows))

    async def step_keys(self, run_id: str, below: str | None, limit: int) -> list[StepKey]:
        """Return the keys of a run, the highest first, each with the highest step that has it."""
        if below is None:
            rows = await self._fetch(self._step_keys, run_id, limit)
        else:
            rows = await self._fetch(self._step_keys_below, run_id, limit, below.encode("utf-8", "surrogatepass"))
        return [StepKey(row["key"].decode(), row["step"]) for row in rows]

    async def history(self, run_id: str, low: int, high: int, *, newest_first: bool) -> AsyncIterator[Checkpoint]:
        """Yield the checkpoints from `low` to `high`, a page at a time; no connection is held between pages.

        Raises:
            CheckpointCorruptedError: a step is missing that was not pruned, or one does not follow the step before.
        """
        sql = self._descending if newest_first else self._ascending
        before: Checkpoint | None = None
        decoder = self._codec.sequence_decoder(run_id)
        while low <= high:
            rows = await self._fetch(sql, run_id, low, high, _PAGE_BYTES)
            if not rows:
                return
            high = min(high, rows[0]["last_step"])
            floor = rows[0]["floor"]
            steps = [row["step"] for row in rows if row["asked"]]
            _check_gaps(run_id, steps, max(low, floor), high, newest_first=newest_first)
            if not steps:
                return
            records = {row["step"]: row["record"] for row in rows}
            async for checkpoint in self._decode_page(decoder, records, steps):
                if before is not None:
                    _check_link(*((checkpoint, before) if newest_first else (before, checkpoint)))
                yield checkpoint
                before = checkpoint
            low, high = (low, steps[-1] - 1) if newest_first else (steps[-1] + 1, high)

    async def timeline_page(
        self, run_id: str, low: int, high: int, limit: int, *, most_of_each: int = PREFIX_BYTES
    ) -> tuple[list[StepSummary], bool]:
        """Return rows for the first steps from `low` to `high`, and whether there may be more.

        Args:
            low: the lowest step.
            high: the highest step.
            limit: at most this many rows.
            most_of_each: so many bytes of a record are read.

        Raises:
            CheckpointCorruptedError: a step is missing that was not pruned, or what tells an event is damaged.
        """
        limit = min(limit, _PAGE_ROWS)
        rows = await self._fetch(self._timeline, run_id, low, high, limit, _PAGE_BYTES, most_of_each)
        if not rows:
            return [], False
        steps = [row["step"] for row in rows if row["asked"]]
        high = min(high, rows[0]["last_step"])
        _check_gaps(run_id, steps, max(low, rows[0]["floor"]), high, newest_first=False)
        records = {row["step"]: row["prefix"] for row in rows if row["step"] is not None}
        sizes = {row["step"]: row["size"] for row in rows if row["step"] is not None}

        def summarize() -> list[StepSummary]:
            return self._codec.summarize(records, run_id=run_id, steps=steps, sizes=sizes)

        try:
            page = await self._threads.run(summarize, large=len(steps) > _QUICK)
        except RecordCutError:
            return await self.timeline_page(run_id, low, high, limit, most_of_each=_WHOLE)
        return page, bool(steps) and steps[-1] < high

    async def latest_step(self, run_id: str) -> int | None:
        """Return the latest step of a run, or None if the run is unknown or deleted."""
        rows = await self._fetch(self._latest_step, run_id)
        return rows[0]["last_step"] if rows else None

    async def summaries(self, sql: str, *parameters: object) -> list[RunSummary]:
        """Return the summaries that a statement finds."""
        rows = await self._fetch(sql, *parameters)
        return summaries_from_json([(row["run_id"], row["summary"] or b"null") for row in rows])

    async def _decode(
        self, decode: Callable[..., Checkpoint], run_id: str, step: int, records: Mapping[int, bytes]
    ) -> Checkpoint:
        def work() -> Checkpoint:
            return decode(records, run_id=run_id, step=step)

        return await self._threads.run(work, large=large_to_decode(records.values()))

    async def _decode_page(
        self, decoder: SequenceDecoder, records: Mapping[int, bytes], steps: list[int]
    ) -> AsyncIterator[Checkpoint]:
        decoded = decoder.decode(records, steps)
        large = large_to_decode(records.values())
        most = 1
        chunk: list[Checkpoint]
        while chunk := await self._threads.run(list, islice(decoded, most), large=large or most > _QUICK):
            for checkpoint in chunk:
                yield checkpoint
            # Several at once, but never many of a large state.
            most = max(1, min(_MOST_AT_ONCE, _CHUNK_BYTES // (1 + state_size(chunk[-1]))))


def _records(run_id: str, step: int, rows: list[asyncpg.Record]) -> dict[int, Any]:
    if rows[0]["step"] is None:
        raise missing_step_error(run_id, step)
    return {row["step"]: row["record"] for row in rows}


def _check_gaps(run_id: str, steps: list[int], low: int, high: int, *, newest_first: bool) -> None:
    """Refuse a page that leaves out a step that was not pruned; what was pruned is below `low`."""
    kept = sorted(step for step in steps if step >= low)
    if not newest_first and steps and not kept:
        return  # the page ends below
    expected = range(kept[0], high + 1) if newest_first and kept else range(low, (kept[-1] if kept else high) + 1)
    if len(kept) != len(expected):
        raise missing_step_error(run_id, min(set(expected).difference(kept)))


def _check_link(first: Checkpoint, second: Checkpoint) -> None:
    if second.step == first.step + 1 and second.previous_digest != first.digest:
        raise CheckpointCorruptedError(
            f"run {second.run_id!r}, step {second.step}: it does not follow the stored step {first.step}",
            reason="corrupted-store",
            hint="Nothing was changed. Restore the store from a backup, or fork the run from an earlier step.",
            run_id=second.run_id,
            step=second.step,
        )
