"""Copies of records, in memory and on the local disk: whatever happens to them, every read is right."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from support.records import STARTED_AT, chain, endless, first, following
from support.s3.proxy import FaultProxy
from support.s3.servers import sdk_client
from support.s3.stores import Stores

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3 import S3Checkpointer, _cache
from stargraph.checkpoint.s3._cache import Copy, RecordCache
from stargraph.checkpoint.s3._store import OpenStore
from stargraph.errors import CheckpointError


def _file(directory: Path) -> Path:
    (path,) = directory.glob("*.sqlite")
    return path


def _corrupt(directory: Path) -> None:
    path = _file(directory)
    path.write_bytes(b"\x00garbage" * (path.stat().st_size // 8))


def _change(directory: Path, statement: str) -> None:
    with sqlite3.connect(_file(directory)) as connection:
        connection.execute(statement)
    connection.close()


def _flip_a_body(directory: Path) -> None:
    _change(directory, "UPDATE copies SET sealed = CAST(substr(sealed, 2) || x'00' AS BLOB)")


def _make_stale(directory: Path) -> None:
    _change(directory, "UPDATE copies SET etag = 'old'")


def _put_numbers_in_it(directory: Path) -> None:
    _change(directory, "UPDATE copies SET sealed = 7")


def _swap_bodies(directory: Path) -> None:
    _change(directory, "UPDATE copies SET sealed = (SELECT sealed FROM copies ORDER BY key LIMIT 1)")


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


@pytest.mark.parametrize(
    "damage",
    [_corrupt, _flip_a_body, _make_stale, _put_numbers_in_it, _swap_bodies, _delete, _put_a_folder_in_its_place],
)
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
    # The second listing looks for the file of an end, and the object holds the key of the run's copies.
    assert sorted(proxy.kinds()) == ["GET", "LIST", "LIST"]
    assert [request.path for request in proxy.requests if request.kind == "GET"] == [
        f"/{watched.bucket}/{watched.prefix}/cache-keys/run"
    ]
    proxy.reset()
    assert [checkpoint async for checkpoint in store.history("run")] == run
    assert proxy.kinds() == ["LIST"]


async def test_a_full_disk_costs_time_alone(stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(_cache._File, "add", full)
    monkeypatch.setattr(_cache, "_BATCH", 1)
    run = chain("run", 6, end="done")
    store = await stores.open(cache_dir=tmp_path)
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


async def test_a_file_holds_no_more_than_it_may(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cache, "DISK_BYTES", 10_000)
    monkeypatch.setattr(_cache, "MEMORY_BYTES", 0)
    opened = OpenStore(stores.handle(cache_dir=tmp_path)._options)

    async def fill() -> list[int]:
        for number in range(50):
            await opened.cache.put(Copy("run", f"key-{number}", "etag", bytes(1000)))
            if number % 5 == 4:
                await opened.cache.close()
        return [number for number in range(50) if await opened.cache.get("run", f"key-{number}", "etag") is not None]

    kept = await opened.io.run(fill())
    assert 0 < len(kept) <= 10
    assert kept[-1] == 49
    await opened.io.close()


async def test_memory_holds_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "MEMORY_BYTES", 10_000)
    cache = RecordCache()
    for number in range(50):
        await cache.put(Copy("run", f"key-{number}", "etag", bytes(1000)))
        assert await cache.get("run", "key-0", "etag") is not None or number > 40  # what is used stays
    kept = [number for number in range(50) if await cache.get("run", f"key-{number}", "etag") is not None]
    assert kept == [0, *range(41, 50)]
    await cache.put(Copy("run", "key-0", "new", b"new"))
    assert await cache.get("run", "key-0", "etag") is None
    assert await cache.get("run", "key-0", "new") == b"new"
    await cache.evict("run")
    assert await cache.get("run", "key-0") is None


async def test_a_disk_that_is_too_slow_does_not_fill_the_memory(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cache, "_BEHIND_BYTES", 10_000)
    released = threading.Event()
    monkeypatch.setattr(_cache._File, "add", lambda *_: released.wait(60))
    opened = OpenStore(stores.handle(cache_dir=tmp_path)._options)
    disk = opened.cache._disk
    assert disk is not None

    async def fill() -> int:
        for number in range(500):
            await opened.cache.put(Copy("run", f"key-{number}", "etag", bytes(1000)))
        return disk._size

    assert await opened.io.run(fill()) <= 12_000
    released.set()
    await opened.io.close()


async def test_nothing_is_kept_on_the_disk_by_default(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = await stores.open(files_of_ended_runs=False)
    run = chain("run", 100)
    await store.write_many(run)
    await _check(store, run)
    assert list(tmp_path.iterdir()) == []


async def test_the_directory_is_made_for_this_user_alone(stores: Stores, tmp_path: Path) -> None:
    directory = tmp_path / "some" / "cache"
    store = await stores.open(cache_dir=directory)
    await store.write(first("run"))
    await store.close()
    assert os.stat(directory).st_mode & 0o077 == 0
    assert os.stat(_file(directory)).st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o777])
@pytest.mark.parametrize("read_only", [False, True])
async def test_a_directory_that_others_can_enter_is_refused(
    stores: Stores, tmp_path: Path, mode: int, read_only: bool
) -> None:
    await stores.open()
    tmp_path.chmod(mode)
    with pytest.raises(CheckpointError) as caught:
        await stores.open(cache_dir=tmp_path, read_only=read_only)
    assert caught.value.reason == "cache-not-private"
    assert f"chmod 700 {tmp_path}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


async def test_a_directory_that_cannot_be_written_is_no_obstacle(
    stores: Stores, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "file"
    place.write_text("no directory")
    store = await stores.open(cache_dir=place / "cache")
    run = chain("run", 3, end="done")
    await store.write_many(run)
    await _check(store, run)
    assert "nothing is cached on disk" in caplog.text


def _readable(directory: Path, words: list[bytes]) -> bool:
    return any(word in path.read_bytes() for path in directory.rglob("*") if path.is_file() for word in words)


async def test_copies_of_other_machines_cannot_be_read_once_the_run_is_deleted(stores: Stores, tmp_path: Path) -> None:
    """The key of the copies is an object of the store, and the deletion overwrites it."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    run = [first("run", state={"word": "quite-secret"})]
    run.append(following(run[0], changes={"word": "more-secret"}))
    words = [b"quite-secret", b"more-secret", run[0].digest.encode()]
    for directory in (here, elsewhere):
        store = await stores.open(cache_dir=directory)
        for checkpoint in run:
            await store.write(checkpoint)
        await _check(store, run)
        await store.close()
        assert not _readable(directory, words)
    stolen = tmp_path / "stolen"
    shutil.copytree(elsewhere, stolen)
    client = sdk_client(stores.endpoint)
    key_object = f"{stores.prefix}/cache-keys/run"
    assert len(client.get_object(Bucket=stores.bucket, Key=key_object)["Body"].read()) == 32

    store = await stores.open(cache_dir=here)
    await store.delete_run("run")
    await store.close()
    for item in client.list_objects_v2(Bucket=stores.bucket)["Contents"]:
        body = client.get_object(Bucket=stores.bucket, Key=item["Key"])["Body"].read()
        assert not any(word in body for word in words)
        assert len(body) != 32
    with sqlite3.connect(_file(here)) as connection:
        assert connection.execute("SELECT count(*) FROM copies").fetchone() == (0,)
    connection.close()
    assert not _readable(here, words)

    # Even with the listing from before the deletion, nothing decrypts what the other machine has.
    opened = OpenStore(stores.handle(cache_dir=stolen)._options)
    disk = opened.cache._disk
    assert disk is not None
    slot = opened.keys.slot("run", 0)
    assert await opened.io.run(disk.get("run", slot)) is None
    with sqlite3.connect(_file(stolen)) as connection:
        assert connection.execute("SELECT count(*) FROM copies").fetchone() == (2,)
    connection.close()
    await opened.io.close()
    client.close()


async def test_the_key_of_a_deleted_run_is_not_made_again(stores: Stores, tmp_path: Path) -> None:
    store = await stores.open()
    await store.write(first("run"))
    await store.delete_run("run")
    opened = OpenStore(stores.handle(cache_dir=tmp_path)._options)
    await opened.io.run(opened.cache.put(Copy("run", "key", "etag", b"late")))
    await opened.io.close()
    assert list(tmp_path.iterdir()) == []
