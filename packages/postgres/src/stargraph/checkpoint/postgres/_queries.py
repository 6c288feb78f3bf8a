"""The SQL of the driver.

Why an append is safe under READ COMMITTED, with any number of writers:

* A run has one row in `runs`, found by its primary key, and it is never removed: a deleted run keeps it as its
  tombstone. Step 0 inserts that row, so the unique index lets exactly one genesis in, and none after a deletion.
* Every other append updates that row on condition that its tail is the step before with the digest that the new
  checkpoint names, and that the run is open. PostgreSQL locks the row first and, where another transaction had
  changed it, checks the condition again on the newest version. So of two writers of a step one finds the
  tail moved, and none of them can follow a step that it has not seen.
* The checkpoint is inserted by the same statement and only where the row was taken, so both become durable with
  one commit or not at all; the primary key of `checkpoints` would refuse a second row as well.
* Deletion and pruning update the same row before they remove checkpoints, so they take turns with writers. A prune
  raises `floor` above all that it removes, and a writer is refused whose record would be decoded from below it: it
  remembers a step that is gone.

A row that was not taken says nothing about why: the statement's snapshot may be older than the winner. A second
statement reads the tail, with a snapshot of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stargraph.checkpoint.postgres._rows import SUMMARY_COLUMNS
from stargraph.checkpoint.postgres._schema import quoted

_OPEN: Final = "status NOT IN ('done', 'cancelled', 'deleted')"

_BEGIN: Final = """
WITH taken AS (
    INSERT INTO {schema}.runs
        (run_id, last_step, digest, status, graph_id, started_at, updated_at, summary, tags)
    VALUES ($1, 0, $2, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (run_id) DO NOTHING
    RETURNING run_id
)
INSERT INTO {schema}.checkpoints (run_id, step, digest, record)
SELECT run_id, 0, $2, $3 FROM taken
RETURNING run_id
"""

_ADVANCE: Final = """
WITH taken AS (
    UPDATE {schema}.runs
    SET last_step = $2::bigint, digest = $3, status = $7, updated_at = $8, summary = $9
    WHERE run_id = $1 AND last_step = $2::bigint - 1 AND digest = $6 AND floor <= coalesce($4::bigint, floor) AND {open}
    RETURNING run_id
)
INSERT INTO {schema}.checkpoints (run_id, step, digest, base, record)
SELECT run_id, $2, $3, $4, $5 FROM taken
RETURNING run_id
"""

# Each run is once in a batch. Batches cannot block each other in a circle: rows that somebody else holds
# are left out, and the genesis rows, the only ones that are waited for, are inserted in order.
_APPEND_BATCH: Final = """
WITH batch AS (
    SELECT * FROM unnest(
        $1::text[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[], $7::text[], $8::timestamptz[],
        $9::bytea[], $10::text[], $11::timestamptz[]
    ) AS b (run_id, first_step, previous, base, last_step, digest, status, updated_at, summary, graph_id, started_at)
), begun AS (
    INSERT INTO {schema}.runs
        (run_id, last_step, digest, status, graph_id, started_at, updated_at, summary, tags)
    SELECT run_id, last_step, digest, status, graph_id, started_at, updated_at, summary,
           ARRAY(SELECT t.tag FROM unnest($12::text[], $13::text[]) AS t (run_id, tag) WHERE t.run_id = batch.run_id)
    FROM batch WHERE first_step = 0 ORDER BY run_id
    ON CONFLICT (run_id) DO NOTHING
    RETURNING run_id
), locked AS (
    SELECT r.run_id
    FROM batch AS b
    JOIN {schema}.runs AS r ON r.run_id = b.run_id AND r.last_step = b.first_step - 1 AND r.digest = b.previous
    WHERE r.floor <= coalesce(b.base, r.floor) AND r.{open}
    FOR NO KEY UPDATE OF r {if_locked}
), moved AS (
    UPDATE {schema}.runs AS r
    SET last_step = b.last_step, digest = b.digest, status = b.status, updated_at = b.updated_at, summary = b.summary
    FROM batch AS b JOIN locked ON locked.run_id = b.run_id
    WHERE r.run_id = b.run_id
    RETURNING r.run_id
), taken AS (
    SELECT run_id FROM begun UNION ALL SELECT run_id FROM moved
), stored AS (
    INSERT INTO {schema}.checkpoints (run_id, step, digest, base, record)
    SELECT c.run_id, c.step, c.digest, c.base, c.record
    FROM unnest($14::text[], $15::bigint[], $16::bytea[], $17::bigint[], $18::bytea[])
        AS c (run_id, step, digest, base, record)
    WHERE c.run_id IN (SELECT run_id FROM taken)
)
SELECT run_id FROM taken
"""

_TAIL: Final = """
SELECT r.last_step, r.digest, r.status, r.floor, c.step, c.digest AS stored
FROM {schema}.runs AS r
LEFT JOIN {schema}.checkpoints AS c ON c.run_id = $1 AND c.step BETWEEN $2 AND $3
WHERE r.run_id = $1
"""

# A record is decoded from that of its base, that one from its own base, and so on: a few at most. LIMIT keeps each
# of them a look-up by the key, where the planner would else read all steps of a long run to join them.
_CHAIN: Final = """
WITH RECURSIVE chain (step, base, record) AS (
    SELECT c.step, c.base, c.record
    FROM {schema}.runs AS r JOIN {schema}.checkpoints AS c ON c.run_id = $1 AND c.step = {step}
    WHERE r.run_id = $1 AND r.status <> 'deleted'
    UNION ALL
    SELECT c.step, c.base, c.record
    FROM chain CROSS JOIN LATERAL (
        SELECT step, base, record FROM {schema}.checkpoints
        WHERE run_id = $1 AND step = chain.base AND step < chain.step LIMIT 1
    ) AS c
)
SELECT step, record FROM chain
"""

# The size of a record is known without reading it, so a page is bounded in bytes and holds at least one.
_PAGE: Final = """
WITH RECURSIVE near AS (
    SELECT c.step, c.base, octet_length(c.record) AS size
    FROM {schema}.runs AS r JOIN {schema}.checkpoints AS c ON c.run_id = $1 AND c.step BETWEEN $2 AND $3
    WHERE r.run_id = $1 AND r.status <> 'deleted'
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
)
SELECT needed.step, c.record, needed.step IN (SELECT step FROM page) AS asked
FROM needed CROSS JOIN LATERAL (
    SELECT record FROM {schema}.checkpoints WHERE run_id = $1 AND step = needed.step LIMIT 1
) AS c
ORDER BY needed.step {order}
"""

_LIST: Final = """
SELECT {summary} FROM {schema}.runs
WHERE status <> 'deleted' AND started_at >= coalesce($1, '-infinity'::timestamptz)
ORDER BY started_at DESC, run_id LIMIT $2
"""

# The tombstone's digest tells a deletion that is tried again from somebody else's.
_ENTOMB: Final = """
UPDATE {schema}.runs
SET status = 'deleted', updated_at = now(), digest = $2, graph_id = '""', summary = NULL, tags = '{}'
WHERE run_id = $1 AND status <> 'deleted' AND digest = coalesce($3, digest)
RETURNING run_id
"""

_BURIED: Final = "SELECT digest FROM {schema}.runs WHERE run_id = $1 AND status = 'deleted'"

_RECLAIM: Final = """
WITH doomed AS (SELECT step FROM {schema}.checkpoints WHERE run_id = $1 ORDER BY step LIMIT $2),
gone AS (DELETE FROM {schema}.checkpoints WHERE run_id = $1 AND step IN (SELECT step FROM doomed) RETURNING 1)
SELECT count(*) FROM gone
"""

# -1: nothing of the deleted run is left to be reclaimed.
_RECLAIMED: Final = "UPDATE {schema}.runs SET last_step = -1 WHERE run_id = $1 AND status = 'deleted'"

_UNRECLAIMED: Final = """
SELECT run_id FROM {schema}.runs WHERE status = 'deleted' AND last_step >= 0 AND run_id > $1 ORDER BY run_id LIMIT $2
"""

_STILL: Final = """
SELECT run_id, last_step, floor, digest, status FROM {schema}.runs
WHERE status = ANY ($1::text[]) AND updated_at < $2 AND last_step - $3::bigint >= floor AND run_id > $4
ORDER BY run_id LIMIT $5
"""

_COUNT_RUN: Final = "SELECT count(*) FROM {schema}.checkpoints WHERE run_id = $1"

_DOOMED: Final = """
SELECT step FROM {schema}.checkpoints AS c
WHERE run_id = $1 AND step < $2 AND step >= $6
  AND NOT EXISTS (SELECT FROM unnest($3::bigint[], $4::bigint[]) AS k (low, high) WHERE c.step BETWEEN k.low AND k.high)
ORDER BY step LIMIT $5
"""

# What stays and is decoded from what goes.
_BEREFT: Final = """
WITH kept (low, high) AS (
    SELECT * FROM unnest($3::bigint[], $4::bigint[]) UNION ALL SELECT $2::bigint, 9223372036854775807
)
SELECT DISTINCT c.step
FROM kept CROSS JOIN LATERAL (
    SELECT step, base FROM {schema}.checkpoints WHERE run_id = $1 AND step BETWEEN low AND high AND base < $2 OFFSET 0
) AS c
WHERE NOT EXISTS (SELECT FROM kept AS k WHERE c.base BETWEEN k.low AND k.high)
ORDER BY c.step
"""

_REWRITE: Final = """
WITH still AS (
    SELECT run_id FROM {schema}.runs WHERE run_id = $1 AND digest = $2 AND last_step = $3 FOR NO KEY UPDATE
)
UPDATE {schema}.checkpoints AS c SET base = NULL, record = $5
FROM still WHERE c.run_id = $1 AND c.run_id = still.run_id AND c.step = $4
RETURNING c.step
"""

_PRUNE: Final = """
WITH still AS (
    UPDATE {schema}.runs SET floor = greatest(floor, $4::bigint)
    WHERE run_id = $1 AND digest = $2 AND last_step = $5
    RETURNING run_id
), gone AS (
    DELETE FROM {schema}.checkpoints AS c USING still
    WHERE c.run_id = $1 AND c.run_id = still.run_id AND c.step = ANY ($3::bigint[])
    RETURNING 1
)
SELECT (SELECT count(*) FROM still) AS still, (SELECT count(*) FROM gone) AS gone
"""


@dataclass(frozen=True, slots=True)
class Queries:
    """The statements for one schema; each parameter is sent apart from the text.

    Attributes:
        begin: takes a run for its step 0, and stores that.
        advance: moves a run from one step to the next, and stores that.
        append_batch: both, for many runs and any number of steps of each; leaves out a run that somebody holds.
        append_run: the same for one run; waits for whoever holds it.
        tail: the tail of a run, and what is stored within a range of steps.
        latest: the latest checkpoint, and those that it is decoded from.
        at_step: one checkpoint, likewise.
        page: the checkpoints of a range from its low end, as many as fit, likewise.
        page_down: likewise from its high end.
        list_runs: summaries in their order.
        entomb: turns a run into its tombstone.
        buried: finds a tombstone.
        reclaim: removes some checkpoints of a deleted run.
        reclaimed: notes that all of them are gone.
        unreclaimed: finds tombstones whose checkpoints are not gone.
        still: finds the runs that a prune has to look at.
        count_run: counts the checkpoints of a run.
        doomed: finds checkpoints that a prune removes.
        bereft: finds checkpoints that stay and are decoded from such.
        rewrite: stores a checkpoint in a form that stands alone, unless its run has moved.
        prune: removes checkpoints of a run, unless it has moved.
        runs: the name of the table of runs.
    """

    begin: str
    advance: str
    append_batch: str
    append_run: str
    tail: str
    latest: str
    at_step: str
    page: str
    page_down: str
    list_runs: str
    entomb: str
    buried: str
    reclaim: str
    reclaimed: str
    unreclaimed: str
    still: str
    count_run: str
    doomed: str
    bereft: str
    rewrite: str
    prune: str
    runs: str

    @classmethod
    def of(cls, schema: str) -> Queries:
        """Return the statements for a schema.

        Args:
            schema: its name.

        Raises:
            ValueError: it is not a name that a schema may have.
        """
        name = quoted(schema)

        def sql(template: str, **parts: str) -> str:
            for part, text in {"schema": name, "open": _OPEN, "summary": SUMMARY_COLUMNS, **parts}.items():
                template = template.replace(f"{{{part}}}", text)
            return template.strip()

        return cls(
            begin=sql(_BEGIN),
            advance=sql(_ADVANCE),
            append_batch=sql(_APPEND_BATCH, if_locked="SKIP LOCKED"),
            append_run=sql(_APPEND_BATCH, if_locked=""),
            tail=sql(_TAIL),
            latest=sql(_CHAIN, step="r.last_step"),
            at_step=sql(_CHAIN, step="$2"),
            page=sql(_PAGE, order="ASC"),
            page_down=sql(_PAGE, order="DESC"),
            list_runs=sql(_LIST),
            entomb=sql(_ENTOMB),
            buried=sql(_BURIED),
            reclaim=sql(_RECLAIM),
            reclaimed=sql(_RECLAIMED),
            unreclaimed=sql(_UNRECLAIMED),
            still=sql(_STILL),
            count_run=sql(_COUNT_RUN),
            doomed=sql(_DOOMED),
            bereft=sql(_BEREFT),
            rewrite=sql(_REWRITE),
            prune=sql(_PRUNE),
            runs=f"{name}.runs",
        )
