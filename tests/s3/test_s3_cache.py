"""The local cache: whatever happens to it, every read is right."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from support.records import STARTED_AT, chain, endless, following
from support.s3.proxy import FaultProxy
from support.s3.stores import Stores

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3 import S3Checkpointer, _cache
from stargraph.checkpoint.s3._cache import RecordCache


def _file(directory: Path) -> Path:
    (path,) = directory.glob("*.sqlite")
    return path


def _corrupt(directory: Path) -> None:
    path = _file(directory)
    path.write_bytes(b"\x00garbage" * (path.stat().st_size // 8))


def _flip_a_body(directory: Path) -> None:
    with sqlite3.connect(_file(directory)) as connection:
        connection.execute("UPDATE objects SET body = CAST(replace(body, 'count', 'COUNT') AS BLOB)")
    connection.close()


def _make_stale(directory: Path) -> None:
    with sqlite3.connect(_file(directory)) as connection:
        connection.execute("UPDATE objects SET etag = 'old'")
    connection.close()


def _delete(directory: Path) -> None:
    _file(directory).unlink()
    directory.rmdir()


def _put_a_folder_in_its_place(directory: Path) -> None:
    path = _file(directory)
    path.unlink()
    path.mkdir()


async def _check(store: S3Checkpointer, run: list[Checkpoint]) -> None:
    assert await store.read_latest("run") == run[-1]
    assert await store.read_at_step("run", 1) == run[1]
    assert [checkpoint async for checkpoint in store.history("run")] == run


@pytest.mark.parametrize("damage", [_corrupt, _flip_a_body, _make_stale, _delete, _put_a_folder_in_its_place])
async def test_a_damaged_cache_costs_time_alone(stores: Stores, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    directory = tmp_path / "cache"
    run = chain("run", 4)
    store = await stores.open(cache_dir=directory)
    await store.write_many(run[:-1])
    await store.close()
    damage(directory)
    store = await stores.open(cache_dir=directory)
    await _check(store, run[:-1])
    await store.write(run[-1])
    await _check(store, run)


async def test_the_next_process_reads_from_the_cache(watched: Stores, proxy: FaultProxy, tmp_path: Path) -> None:
    run = chain("run", 3)
    store = await watched.open(cache_dir=tmp_path)
    await store.write_many(run)
    await store.close()
    store = await watched.open(cache_dir=tmp_path)
    proxy.reset()
    assert await store.read_latest("run") == run[-1]
    assert proxy.kinds() == ["LIST"]


async def test_a_full_disk_costs_time_alone(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, connection: sqlite3.Connection, size: int) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(_cache._Database, "grow", full)
    run = chain("run", 6, end="done")
    store = await stores.open()
    await store.write_many(run)
    await _check(store, run)


async def test_what_was_removed_is_not_read_from_the_cache(stores: Stores) -> None:
    run = list(islice(endless("run", pad=1000), 12))
    run.append(following(run[-1], status="done"))
    store, other = await stores.open(), await stores.open()
    await store.write_many(run)
    kept = stores.decoded_from("run", 12)
    await other.prune(older_than=STARTED_AT.replace(year=2030))
    assert {step for step in range(13) if await store.read_at_step("run", step) is not None} == kept < set(range(13))
    assert [checkpoint.step async for checkpoint in store.history("run")] == sorted(kept)
    await other.delete_run("run")
    assert await store.read_latest("run") is None
    assert await store.read_at_step("run", 12) is None


async def test_it_holds_no_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "MAX_BYTES", 10_000)
    cache = RecordCache(tmp_path, store="store")
    for number in range(50):
        cache.put(f"key-{number}", "etag", bytes(1000))
        if number % 5 == 4:
            await cache.close()
    kept = [number for number in range(50) if await cache.get(f"key-{number}", "etag") is not None]
    assert 0 < len(kept) <= 10
    assert kept[-1] == 49
    await cache.close()


async def test_what_is_not_in_the_file_yet_is_read_all_the_same(tmp_path: Path) -> None:
    cache = RecordCache(tmp_path, store="store")
    cache.put("key", "old", b"old")
    cache.put("key", "new", b"new")
    assert list(tmp_path.iterdir()) == []
    assert await cache.get("key", "new") == b"new"
    assert await cache.get("key", "old") is None
    await cache.close()
    assert _file(tmp_path).exists()
    assert await cache.get("key", "new") == b"new"
    await cache.close()


async def test_a_disk_that_is_too_slow_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cache, "_MOST_BEHIND_BYTES", 10_000)
    released = threading.Event()
    monkeypatch.setattr(_cache, "_store", lambda *_: released.wait(10))
    cache = RecordCache(tmp_path, store="store")
    for number in range(500):
        cache.put(f"key-{number}", "etag", bytes(1000))
    kept = [number for number in range(500) if cache._recent.get(f"key-{number}") is not None]
    released.set()
    assert len(kept) <= _cache._BATCH + 11
    await cache.close()


async def test_a_private_cache_is_private_and_goes_with_the_handle(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(_cache, "_BATCH", 1)
    store = await stores.open()
    await store.write_many(chain("run", 2))
    while not list(tmp_path.glob("*/*.sqlite")):
        await asyncio.sleep(0.01)
    (directory,) = tmp_path.iterdir()
    assert os.stat(directory).st_mode & 0o077 == 0
    assert os.stat(_file(directory)).st_mode & 0o077 == 0
    await store.close()
    assert list(tmp_path.iterdir()) == []
