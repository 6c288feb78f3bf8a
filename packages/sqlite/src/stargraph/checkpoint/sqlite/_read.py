"""Reading runs: each function is one consistent read and leaves no statement open."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, takewhile
from typing import Final

from stargraph.checkpoint.codec import PREFIX_BYTES, Codec, RecordCutError, SequenceDecoder, missing_base_steps
from stargraph.checkpoint.driver import CachedLatest, LatestCache, missing_step_error
from stargraph.checkpoint.protocol import Checkpoint, StepKey, StepSummary
from stargraph.checkpoint.sqlite._schema import STEP, checkpoint_id

BASES_BYTES: Final = 128
"""How much of a record names those that it is decoded from."""

# A column takes any type of value, also one that somebody else put there.
_RECORD: Final = "CAST(checkpoints.record AS BLOB)"
_PREFIX: Final = f"substr({_RECORD}, 1, {BASES_BYTES})"

_DAMAGED: Final = "Run `PRAGMA integrity_check` on the file, and restore a backup."

_PAGE_STEPS: Final = 64
_PAGE_ROWS: Final = 512
_PAGE_BYTES: Final = 4 * 1024 * 1024

_LATEST: Final = f"""
SELECT runs.step, {_RECORD}, runs.digest FROM runs
LEFT JOIN checkpoints ON checkpoints.id = {checkpoint_id("runs.step")} AND checkpoints.digest = runs.digest
WHERE runs.run_id = ?
"""  # noqa: S608  # made of constants; values are parameters

_IS_LATEST: Final = f"""
SELECT EXISTS (
    SELECT 1 FROM runs JOIN checkpoints ON checkpoints.id = {checkpoint_id("runs.step")}
        AND checkpoints.digest = runs.digest
    WHERE runs.run_id = ? AND runs.digest = ?
)
"""  # noqa: S608  # made of constants; values are parameters

_AT_STEPS: Final = f"""
SELECT {STEP}, {_RECORD} FROM runs
JOIN checkpoints ON checkpoints.id IN ({{ids}})
WHERE runs.run_id = ?
"""  # noqa: S608  # made of constants; values are parameters

_BETWEEN: Final = f"""
SELECT {STEP}, {{record}} FROM runs
JOIN checkpoints ON checkpoints.id BETWEEN {checkpoint_id("?")} AND {checkpoint_id("?")}
WHERE runs.run_id = ?
ORDER BY checkpoints.id {{order}} LIMIT ?
"""  # noqa: S608  # made of constants; values are parameters

_SIZES: Final = f"""
SELECT {STEP}, checkpoints.id, length(checkpoints.record) FROM runs
JOIN checkpoints ON checkpoints.id BETWEEN {checkpoint_id("?")} AND {checkpoint_id("?")}
WHERE runs.run_id = ?
ORDER BY checkpoints.id LIMIT ?
"""  # noqa: S608  # made of constants; values are parameters

_STEP_OF_KEY: Final = """
SELECT max(keys.step) FROM runs JOIN keys ON keys.run = runs.number AND keys.key = ? WHERE runs.run_id = ?
"""

_STEP_KEYS: Final = """
SELECT keys.key, max(keys.step) FROM runs JOIN keys ON keys.run = runs.number
WHERE runs.run_id = :run_id
GROUP BY keys.key ORDER BY keys.key DESC LIMIT :limit
"""
# A statement of its own, so that the index leads to the first key of a page; the bound need not be valid UTF-8.
_STEP_KEYS_BELOW: Final = _STEP_KEYS.replace("GROUP BY", "AND keys.key < CAST(:below AS TEXT) GROUP BY")


def latest(
    connection: sqlite3.Connection,
    codec: Codec,
    cache: LatestCache[bytes],
    run_id: str,
    cached: CachedLatest[bytes] | None,
) -> Checkpoint | None:
    """Return the checkpoint with the highest step of a run, or None.

    Args:
        cached: what is served if it still is the latest.

    Raises:
        CheckpointCorruptedError: it is missing or damaged.
    """
    if cached is not None and is_latest(connection, run_id, cached.mark):
        return cached.checkpoint()
    with snapshot(connection):
        row = connection.execute(_LATEST, (run_id,)).fetchone()
        if row is None:
            cache.drop(run_id)
            return None
        step, record, digest = row
        if record is None:
            raise missing_step_error(run_id, step, hint=_DAMAGED)
        records = with_bases(connection, run_id, [(step, record)])
    checkpoint = codec.decode_latest(records, run_id=run_id, step=step)
    cache.put(checkpoint, digest)
    return checkpoint


def is_latest(connection: sqlite3.Connection, run_id: str, digest: bytes) -> bool:
    """Return whether the latest step of a run is stored with a digest."""
    (found,) = connection.execute(_IS_LATEST, (run_id, digest)).fetchone()
    return bool(found)


def at_step(connection: sqlite3.Connection, codec: Codec, run_id: str, step: int) -> Checkpoint | None:
    """Return one step of a run, or None.

    Raises:
        CheckpointCorruptedError: it was written, no prune removed it, and it is missing; or it is damaged.
    """
    with snapshot(connection):
        records = with_bases(connection, run_id, at_steps(connection, run_id, [step]))
        if not records:
            floor, highest = _unbroken(connection, run_id)
            if floor <= step <= highest:
                raise missing_step_error(run_id, step, hint=_DAMAGED)
            return None
    return codec.decode(records, run_id=run_id, step=step)


def at_key(connection: sqlite3.Connection, codec: Codec, run_id: str, key: str) -> Checkpoint | None:
    """Return the highest step of a run that has a key, or None.

    Raises:
        CheckpointCorruptedError: it is missing or damaged.
    """
    with snapshot(connection):
        (step,) = connection.execute(_STEP_OF_KEY, (key, run_id)).fetchone()
        if step is None:
            return None
        records = with_bases(connection, run_id, at_steps(connection, run_id, [step]))
        if step not in records:
            raise missing_step_error(run_id, step, hint=_DAMAGED)
    return codec.decode(records, run_id=run_id, step=step)


def step_keys(connection: sqlite3.Connection, run_id: str, below: str | None, limit: int) -> list[StepKey]:
    """Return the keys of a run, the highest first, each with the highest step that has it."""
    values = {"run_id": run_id, "limit": limit}
    if below is None:
        rows = connection.execute(_STEP_KEYS, values)
    else:
        rows = connection.execute(_STEP_KEYS_BELOW, values | {"below": below.encode("utf-8", "surrogatepass")})
    return [StepKey(*row) for row in rows]


def history_page(
    connection: sqlite3.Connection, decoder: SequenceDecoder, run_id: str, first: int, last: int, *, newest_first: bool
) -> tuple[list[Checkpoint], bool]:
    """Return some checkpoints between two steps, both included, and whether there may be more.

    A page ends after so many steps or bytes, so that its size does not follow that of the run.

    Args:
        connection: reads the store.
        decoder: of the run, that of all pages.
        first: the lowest step.
        last: the highest step.
        newest_first: begin with the highest step.

    Raises:
        CheckpointCorruptedError: the page begins with a step that was written, that no prune removed, and that is
            missing; or a step is damaged.
    """
    with snapshot(connection):
        rows = between(connection, run_id, first, last, newest_first=newest_first, limit=_PAGE_STEPS)
        floor, highest = _unbroken(connection, run_id)
        whole = len(rows) == _PAGE_STEPS
        lost = _first_lost(
            [step for step, _ in rows], max(first, floor), min(last, highest), newest_first=newest_first, whole=whole
        )
        if lost is not None:
            rows = list(takewhile(lambda row: row[0] > lost if newest_first else row[0] < lost, rows))
            if not rows:
                raise missing_step_error(run_id, lost, hint=_DAMAGED)
        records = with_bases(connection, run_id, rows)
    page: list[Checkpoint] = []
    size = 0
    for checkpoint in decoder.decode(records, [step for step, _ in rows]):
        page.append(checkpoint)
        size += sum([len(value.encoded) for value in checkpoint.encoded_state().values()])
        if size >= _PAGE_BYTES:
            return page, True
    return page, whole or lost is not None


def timeline_page(
    connection: sqlite3.Connection, codec: Codec, run_id: str, first: int, last: int, limit: int, *, whole: bool = False
) -> tuple[list[StepSummary], bool]:
    """Return rows for the first steps between two, both included, and whether there may be more.

    Of a large record only its beginning is read, unless the whole is needed to tell the event.

    Raises:
        CheckpointCorruptedError: a step was written, no prune removed it, and it is missing; or its event is damaged.
    """
    with snapshot(connection):
        most = min(limit, _PAGE_ROWS)
        sizes = _sizes(connection, run_id, first, last, most)
        read = list(accumulate(size if whole else min(size, PREFIX_BYTES) for _, size in sizes.values()))
        steps = [step for step, total in zip(sizes, read, strict=True) if total <= max(_PAGE_BYTES, read[0])]
        more = len(steps) < len(sizes) or len(sizes) == most
        floor, highest = _unbroken(connection, run_id)
        lost = _first_lost(steps, max(first, floor), min(last, highest), newest_first=False, whole=more)
        if lost is not None:
            raise missing_step_error(run_id, lost, hint=_DAMAGED)
        if not steps:
            return [], False
        sizes = _sizes(connection, run_id, first - 1, first - 1, 1) | {step: sizes[step] for step in steps}
        records: dict[int, bytes] = {}
        missing: list[int] = list(sizes)
        while missing:
            for step in missing:
                sizes |= {} if step in sizes else _sizes(connection, run_id, step, step, 1)
            found = {step: _prefix(connection, *sizes[step], whole=whole) for step in missing if step in sizes}
            records |= found
            missing = missing_base_steps(records, run_id=run_id, steps=list(records)) if found else []
        try:
            lengths = {step: size for step, (_, size) in sizes.items()}
            return codec.summarize(records, run_id=run_id, steps=steps, sizes=lengths), more
        except RecordCutError:
            pass
    return timeline_page(connection, codec, run_id, first, last, limit, whole=True)


def latest_step(connection: sqlite3.Connection, run_id: str) -> int | None:
    """Return the latest step of a run, or None."""
    row = connection.execute("SELECT step FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return None if row is None else row[0]


def _sizes(
    connection: sqlite3.Connection, run_id: str, first: int, last: int, limit: int
) -> dict[int, tuple[int, int]]:
    """Return the first steps between two, each with the id and the length of its record."""
    rows = connection.execute(_SIZES, (first, last, run_id, limit)) if last >= 0 else ()
    return {step: (number, size) for step, number, size in rows}


def _prefix(connection: sqlite3.Connection, number: int, size: int, *, whole: bool) -> bytes:
    """Return a record; the beginning of a large one, unless the whole is asked for."""
    if whole or size <= PREFIX_BYTES:
        (record,) = connection.execute(f"SELECT {_RECORD} FROM checkpoints WHERE id = ?", (number,)).fetchone()  # noqa: S608  # made of constants; values are parameters
        return bytes(record)
    # substr would read all of it.
    with connection.blobopen("checkpoints", "record", number, readonly=True) as blob:
        return blob.read(PREFIX_BYTES)


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Read the same state of the store in all that is read inside."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def at_steps(connection: sqlite3.Connection, run_id: str, steps: Sequence[int]) -> list[tuple[int, bytes]]:
    """Return those of some steps of a run that are stored, and their records.

    Args:
        connection: to read with.
        run_id: of the run.
        steps: in any order.
    """
    statement = _AT_STEPS.format(ids=", ".join([checkpoint_id("?")] * len(steps)))
    return connection.execute(statement, (*steps, run_id)).fetchall()


def between(
    connection: sqlite3.Connection,
    run_id: str,
    first: int,
    last: int,
    *,
    newest_first: bool = False,
    limit: int = -1,
    prefixes: bool = False,
) -> list[tuple[int, bytes]]:
    """Return the stored steps of a run between two, both included, and their records.

    Args:
        connection: to read with.
        run_id: of the run.
        first: the lowest step.
        last: the highest step.
        newest_first: return the highest step first.
        limit: at most this many; all of them if negative.
        prefixes: return only the first `BASES_BYTES` of each record.
    """
    statement = _BETWEEN.format(record=_PREFIX if prefixes else _RECORD, order="DESC" if newest_first else "ASC")
    return connection.execute(statement, (first, last, run_id, limit)).fetchall()


def with_bases(connection: sqlite3.Connection, run_id: str, rows: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
    """Return the records of some steps and of those that they are decoded from, by step."""
    records = dict(rows)
    asked: set[int] = set()
    while missing := [
        step for step in missing_base_steps(records, run_id=run_id, steps=list(records)) if step not in asked
    ]:
        asked.update(missing)
        records |= dict(at_steps(connection, run_id, missing))
    return records


def _unbroken(connection: sqlite3.Connection, run_id: str) -> tuple[int, int]:
    """Return the floor and the highest step of a run: all between them must be stored; 0 and -1 if it is unknown."""
    row = connection.execute("SELECT floor, step FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return (0, -1) if row is None else (row[0], row[1])


def _first_lost(steps: Sequence[int], first: int, last: int, *, newest_first: bool, whole: bool) -> int | None:
    """Return the step at which a page breaks off that should have all between two, or None if it has them.

    Args:
        steps: the steps of the page, in its order; others may be among them.
        first: the lowest step that must be stored.
        last: the highest step that must be stored.
        newest_first: the page begins with the highest step.
        whole: the steps after the last one of the page are on the next page.
    """
    expected = range(last, first - 1, -1) if newest_first else range(first, last + 1)
    found = [step for step in steps if first <= step <= last]
    for step, other in zip(expected, found, strict=False):
        if step != other:
            return step
    return None if whole or len(found) == len(expected) else expected[len(found)]
