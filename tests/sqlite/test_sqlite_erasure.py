"""What was removed is nowhere in the files any more."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from support.records import STARTED_AT, chain, first, following, noise

from stargraph.checkpoint.codec import _compression
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo
from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _prune, _writer
from stargraph.checkpoint.sqlite._writer import Writer

LATER = STARTED_AT + timedelta(days=1)


def occurrences(path: Path, marker: str) -> int:
    """Count a marker in the files; it needs six letters: digests are random, and four of them come up by chance."""
    assert len(marker) >= 6
    return sum(found.read_bytes().count(marker.encode()) for found in path.parent.glob(f"{path.name}*"))


class NeverShorter:
    """A compressor whose result is not worth storing."""

    def compress(self, body: bytes) -> bytes:
        return body + b"."


@pytest.fixture(autouse=True)
def readable_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compressed, so that a marker shows in the files."""
    monkeypatch.setattr(_compression._zstandard, "compressor", NeverShorter())
    monkeypatch.setattr(_compression._zstandard, "quick_compressor", NeverShorter())


def personal_run(run_id: str, marker: str, length: int = 6) -> list[Checkpoint]:
    """A run whose id, tags, graph, states and error all have the marker."""
    checkpoints = [
        first(f"{run_id}-{marker}", metadata={marker: marker}, graph_id=f"graph-{marker}", state={"text": marker})
    ]
    while len(checkpoints) < length:
        checkpoints.append(following(checkpoints[-1], changes={"text": f"{marker} {noise(500)}"}))
    error = ErrorInfo(type="ValueError", message=marker, reason=marker)
    checkpoints.append(following(checkpoints[-1], event="failed", status="failed", error=error))
    return checkpoints


@pytest.mark.parametrize("how", ["delete", "prune"])
async def test_nothing_of_a_removed_run_is_left(store: SQLiteCheckpointer, path: Path, how: str) -> None:
    await store.write_many(chain("other", 30))
    for number in range(5):
        await store.write_many(personal_run(f"run-{number}", "Alice-Smith"))
    await store.write_many(personal_run("run", "Robert"))
    assert occurrences(path, "Alice-Smith") > 50
    if how == "delete":
        for number in range(5):
            assert await store.delete_run(f"run-{number}-Alice-Smith")
    else:
        await store.delete_run("run-0-Alice-Smith")
        report = await store.prune(older_than=LATER, statuses=["failed"], keep_last=0)
        assert report.runs == 5
    assert occurrences(path, "Alice-Smith") == 0
    assert (occurrences(path, "Robert") > 0) == (how == "delete")
    assert len([checkpoint async for checkpoint in store.history("other")]) == 30


async def test_nothing_of_a_pruned_step_is_left(store: SQLiteCheckpointer, path: Path) -> None:
    checkpoints = [first(state={"text": "Alice-Smith"})]
    while len(checkpoints) < 20:
        changes = {"text": "Robert" if len(checkpoints) > 10 else f"Alice-Smith {noise(200)}"}
        checkpoints.append(following(checkpoints[-1], changes=changes))
    checkpoints.append(following(checkpoints[-1], status="done"))
    for checkpoint in checkpoints:
        await store.write(checkpoint)
    assert occurrences(path, "Alice-Smith")
    await store.prune(older_than=LATER, keep_last=3)
    assert occurrences(path, "Alice-Smith") == 0
    assert [checkpoint async for checkpoint in store.history("run-1")] == checkpoints[-3:]


@pytest.mark.parametrize("seed", range(10))
async def test_pages_that_were_divided_keep_no_copy(store: SQLiteCheckpointer, path: Path, seed: int) -> None:
    """SQLite does not clear what it moves from one page to another: without VACUUM, five of these seeds fail."""
    rng = random.Random(seed)
    latest: dict[str, Checkpoint] = {}
    for number in rng.sample(range(20), 20):
        marker = f"mark-{number:03}"
        latest[marker] = first(f"run-{number}-{marker}", state={"text": marker}, metadata={"m": marker})
        await store.write(latest[marker])
    markers = sorted(latest)
    for _ in range(200):
        marker = rng.choice(markers)
        latest[marker] = following(latest[marker], changes={"text": marker * rng.choice([3, 300])}, error=None)
        await store.write(latest[marker])
        store._codec.forget(latest[marker].run_id)  # what is written next holds its whole state
    for marker in rng.sample(markers, 19):
        await store.delete_run(latest[marker].run_id)
        assert occurrences(path, marker) == 0


async def test_a_reader_delays_what_is_erased(
    store: SQLiteCheckpointer, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store.write_many(personal_run("run-1", "Alice-Smith"))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert await store.delete_run("run-1-Alice-Smith") is True
    assert await store.read_latest("run-1-Alice-Smith") is None
    assert "still reading" in caplog.text
    assert occurrences(path, "Alice-Smith") > 0
    reader.execute("COMMIT")
    reader.close()
    assert await store.delete_run("run-1-Alice-Smith") is False
    await store.write(first("run-2"))
    assert await store.delete_run("run-2")
    assert occurrences(path, "Alice-Smith") == 0


async def test_a_large_store_is_not_written_anew(
    store: SQLiteCheckpointer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_prune, "_VACUUM_BYTES", 10_000)
    await store.write_many(personal_run("run-1", "Alice-Smith", 200))
    await store.delete_run("run-1-Alice-Smith")
    assert path.stat().st_size > 100_000  # free pages, for what is written next
    assert occurrences(path, "Alice-Smith") == 0


async def test_a_deletion_that_was_interrupted_erases_when_it_is_made_again(
    store: SQLiteCheckpointer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.write_many(personal_run("run-1", "Alice-Smith"))

    async def interrupted(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "erase_removed", interrupted)
        with pytest.raises(asyncio.CancelledError):
            await store.delete_run("run-1-Alice-Smith")
    assert occurrences(path, "Alice-Smith") > 0
    assert await store.delete_run("run-1-Alice-Smith") is False
    assert occurrences(path, "Alice-Smith") == 0


async def test_a_disk_without_space_for_a_copy_fails_no_deletion(
    store: SQLiteCheckpointer, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await store.write_many(personal_run("run-1", "Alice-Smith"))

    def full(_: object) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(_writer, "vacuum", full)
    assert await store.delete_run("run-1-Alice-Smith") is True
    assert await store.read_latest("run-1-Alice-Smith") is None
    assert "disk is full" in caplog.text
