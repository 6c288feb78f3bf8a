"""The tables and statements of the MariaDB driver. A run that was deleted keeps its row, as its tombstone."""

from typing import Final

_ID: Final = "VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin"

TABLES: Final = (
    f"""
    CREATE TABLE IF NOT EXISTS stargraph_runs (
        run_id {_ID} PRIMARY KEY,
        last_step BIGINT NOT NULL,
        digest CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        status VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        floor BIGINT NOT NULL DEFAULT 0,
        started_at BIGINT COMMENT 'microseconds since 1970; NULL for a tombstone',
        updated_at BIGINT,
        parent {_ID} COMMENT 'of a child run',
        summary LONGBLOB,
        INDEX started (started_at DESC, run_id),
        INDEX updated (updated_at DESC, run_id),
        INDEX children (parent)
    ) ENGINE = InnoDB
    """,
    f"""
    CREATE TABLE IF NOT EXISTS stargraph_checkpoints (
        run_id {_ID},
        step BIGINT,
        digest CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        step_key VARBINARY(255),
        record LONGBLOB NOT NULL,
        PRIMARY KEY (run_id, step),
        INDEX step_keys (run_id, step_key, step)
    ) ENGINE = InnoDB
    """,
    """
    CREATE TABLE IF NOT EXISTS stargraph_format (id INT PRIMARY KEY, format INT NOT NULL, flushes BIGINT NOT NULL)
    ENGINE = InnoDB
    """,
    "INSERT INTO stargraph_format VALUES (1, 1, 0) ON DUPLICATE KEY UPDATE format = format",
)

ADD_RUN: Final = """
INSERT INTO stargraph_runs (last_step, digest, status, updated_at, summary, run_id, started_at, parent)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""
ADVANCE_RUN: Final = """
UPDATE stargraph_runs SET last_step = %s, digest = %s, status = %s, updated_at = %s, summary = %s
WHERE run_id = %s AND last_step = %s AND digest = %s AND status NOT IN (%s, %s, %s, %s)
"""
ADD_RECORD: Final = """
INSERT INTO stargraph_checkpoints (run_id, step, digest, step_key, record) VALUES (%s, %s, %s, %s, %s)
"""
TAIL: Final = """
SELECT r.last_step, r.digest, r.status, r.floor, c.digest
FROM stargraph_runs AS r LEFT JOIN stargraph_checkpoints AS c ON c.run_id = r.run_id AND c.step = %s
WHERE r.run_id = %s
"""
DIGESTS: Final = """
SELECT r.status, c.step, c.digest
FROM stargraph_runs AS r LEFT JOIN stargraph_checkpoints AS c ON c.run_id = r.run_id AND c.step IN %s
WHERE r.run_id = %s
"""
FLUSH: Final = "UPDATE stargraph_format SET flushes = flushes + 1"

LATEST: Final = """
SELECT r.last_step, c.record
FROM stargraph_runs AS r LEFT JOIN stargraph_checkpoints AS c ON c.run_id = r.run_id AND c.step = r.last_step
WHERE r.run_id = %s AND r.status <> 'deleted'
"""
AT_STEP: Final = """
SELECT c.record, %s BETWEEN r.floor AND r.last_step
FROM stargraph_runs AS r LEFT JOIN stargraph_checkpoints AS c ON c.run_id = r.run_id AND c.step = %s
WHERE r.run_id = %s AND r.status <> 'deleted'
"""
RECORDS: Final = "SELECT step, record FROM stargraph_checkpoints WHERE run_id = %s AND step IN %s"
BEGINNINGS: Final = """
SELECT step, length(record), left(record, %s) FROM stargraph_checkpoints WHERE run_id = %s AND step IN %s
"""
AT_KEY: Final = """
SELECT step, record FROM stargraph_checkpoints WHERE run_id = %s AND step_key = %s ORDER BY step DESC LIMIT 1
"""
STEP_KEYS: Final = """
SELECT step_key, max(step) FROM stargraph_checkpoints
WHERE run_id = %s AND step_key IS NOT NULL AND (%s IS NULL OR step_key < %s)
GROUP BY step_key ORDER BY step_key DESC LIMIT %s
"""
STEPS: Final = "SELECT step FROM stargraph_checkpoints WHERE run_id = %s"
ENDS: Final = "SELECT floor, last_step FROM stargraph_runs WHERE run_id = %s AND status <> 'deleted'"
COUNT_STEPS: Final = "SELECT count(*) FROM stargraph_checkpoints WHERE run_id = %s"


def _page(column: str) -> str:
    return f"""
    SELECT run_id, summary FROM stargraph_runs
    WHERE {column} IS NOT NULL AND {column} <= %s AND ({column} < %s OR run_id > %s)
    ORDER BY {column} DESC, run_id LIMIT %s
    """  # a column of this table


PAGES: Final = {
    "started": _page("started_at"),
    "updated": _page("updated_at"),
    "children": """
    SELECT run_id, summary FROM stargraph_runs WHERE parent = %s AND status <> 'deleted'
    ORDER BY started_at DESC, run_id
    """,
}

MARK_DELETED: Final = """
UPDATE stargraph_runs
SET status = 'deleted', digest = '', started_at = NULL, updated_at = NULL, parent = NULL, summary = NULL
WHERE run_id = %s AND status <> 'deleted'
"""
REMOVE_RECORDS: Final = "DELETE FROM stargraph_checkpoints WHERE run_id = %s"
REMOVE_STEPS: Final = "DELETE FROM stargraph_checkpoints WHERE run_id = %s AND step IN %s"
RAISE_FLOOR: Final = "UPDATE stargraph_runs SET floor = greatest(floor, %s) WHERE run_id = %s"
PARENT_STATUS: Final = "SELECT status FROM stargraph_runs WHERE run_id = %s LOCK IN SHARE MODE"
