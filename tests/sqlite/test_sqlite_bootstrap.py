"""How a file becomes a store, and which files are left alone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from support import sqlite_processes
from support.records import chain, first
from support.sqlite_files import fingerprint, refused

from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _schema
from stargraph.checkpoint.sqlite._schema import PAGE_BYTES
from stargraph.errors import CheckpointError, StoreUnavailableError, StoreVersionError


async def test_every_method_waits_for_bootstrap(path: Path) -> None:
    store = SQLiteCheckpointer(path)
    calls = [
        store.write(first()),
        store.write_many([first()]),
        store.read_latest("run-1"),
        store.read_at_step("run-1", 0),
        store.list_runs(),
        store.search(),
        store.delete_run("run-1"),
        store.prune(older_than=first().timestamp),
        anext(store.history("run-1")),
    ]
    for call in calls:
        with pytest.raises(CheckpointError) as caught:
            await call
        assert caught.value.reason == "not-bootstrapped"
    assert not path.exists()


async def test_bootstrap_again_keeps_everything(path: Path) -> None:
    checkpoints = chain(length=3)
    async with SQLiteCheckpointer(path) as store:
        await store.write_many(checkpoints)
        await store.bootstrap()
        assert await store.read_latest("run-1") == checkpoints[-1]
    async with SQLiteCheckpointer(path) as store:
        assert [checkpoint async for checkpoint in store.history("run-1")] == checkpoints


async def test_bootstrap_many_times_at_once_on_one_handle(path: Path) -> None:
    store = SQLiteCheckpointer(path)
    await asyncio.gather(*(store.bootstrap() for _ in range(8)))
    await store.write(first())
    await store.close()
    # The file is the only one left: every connection was closed.
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_many_processes_bootstrap_at_once(path: Path) -> None:
    code = """
        import asyncio, sys
        from support.records import chain
        from stargraph.checkpoint.sqlite import SQLiteCheckpointer

        async def main():
            store = SQLiteCheckpointer(sys.argv[1])
            print("ready", flush=True)
            sys.stdin.readline()
            await store.bootstrap()
            await store.write_many(chain(sys.argv[2], 3, end="done"))

        asyncio.run(main())
    """
    target = path.parent / "made" / "by" / "them" / "run.sqlite"
    processes = [sqlite_processes.start(code, target, f"run-{number}") for number in range(8)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (0, "", "")

    async def runs() -> list[str]:
        async with SQLiteCheckpointer(target) as store:
            return [run.run_id for run in await store.list_runs() if run.status == "done"]

    assert asyncio.run(runs()) == [f"run-{number}" for number in range(8)]
    assert [found.name for found in target.parent.iterdir()] == ["run.sqlite"]


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch(mode=0o640)
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_store_whose_maker_was_lost_before_it_had_a_log_is_finished(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.sqlite"
    maker = sqlite3.connect(elsewhere, isolation_level=None)
    maker.execute("PRAGMA cache_size = 1")
    maker.execute("BEGIN IMMEDIATE")
    maker.execute("CREATE TABLE half AS SELECT zeroblob(100000)")
    path.write_bytes(elsewhere.read_bytes())
    Path(f"{path}-journal").write_bytes(Path(f"{elsewhere}-journal").read_bytes())
    maker.close()
    run = chain("r", 2)
    async with SQLiteCheckpointer(path) as store:
        await store.write_many(run)
        assert await store.read_latest("r") == run[1]
    assert not Path(f"{path}-journal").exists()


async def test_a_newer_format_is_left_alone(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    before = fingerprint(path.parent)
    with pytest.raises(StoreVersionError) as caught:
        await SQLiteCheckpointer(path).bootstrap()
    assert "99" in str(caught.value)
    assert caught.value.reason == "newer-format"
    assert fingerprint(path.parent) == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_another_application_is_left_alone(path: Path, mode: str) -> None:
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA journal_mode = {mode}")
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()
    before = fingerprint(path.parent)
    error = await refused(path)
    assert (type(error), error.reason) == (StoreUnavailableError, "not-a-store")
    assert fingerprint(path.parent) == before


async def test_another_application_keeps_the_log_that_its_lost_process_has_left(path: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(theirs)) as other:
        other.execute("PRAGMA journal_mode = wal")
        other.execute("CREATE TABLE theirs (x)")
        other.commit()
        for name in ("", "-wal"):
            shutil.copy(f"{theirs}{name}", f"{path}{name}")
    before = {name: Path(f"{path}{name}").read_bytes() for name in ("", "-wal")}
    assert (await refused(path)).reason == "not-a-store"
    assert {name: Path(f"{path}{name}").read_bytes() for name in ("", "-wal")} == before


async def test_another_application_keeps_the_transaction_that_its_lost_process_has_begun(
    path: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(theirs, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("PRAGMA cache_size = 2")
        other.execute("BEGIN")
        other.execute("INSERT INTO theirs VALUES (randomblob(200000))")  # more than the cache: it is written by now
        for name in ("", "-journal"):
            shutil.copy(f"{theirs}{name}", f"{path}{name}")
    before = fingerprint(path.parent)
    assert (await refused(path)).reason == "not-a-store"
    assert fingerprint(path.parent) == before


@pytest.mark.parametrize("how", ["mode=ro", "immutable=1"])
def test_tables_made_between_two_questions_are_not_taken_for_those_of_another(path: Path, how: str) -> None:
    maker = sqlite3.connect(path, isolation_level=None)
    maker.execute("PRAGMA journal_mode = WAL")
    looker = sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None)

    def meanwhile(statement: str) -> None:
        if "sqlite_master" in statement:
            _schema.migrate(maker, path)
            maker.execute("PRAGMA wal_checkpoint")

    looker.set_trace_callback(meanwhile)
    assert not _schema.stored_version(looker, path)
    looker.close()
    maker.close()


@pytest.mark.parametrize("pragma", ["application_id", "user_version"])
async def test_an_empty_database_of_another_application_is_left_alone(path: Path, pragma: str) -> None:
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA {pragma} = 7")
    other.close()
    before = fingerprint(path.parent)
    assert (await refused(path)).reason == "not-a-store"
    assert fingerprint(path.parent) == before


@pytest.mark.parametrize("content", [b"x", b"hello world\n", b"SQLite format 3\0", b"plain text\n" * 1000])
async def test_what_is_not_sqlite_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert (await refused(path)).reason == "not-a-store"
    assert fingerprint(path.parent) == {path.name: hashlib.sha256(content).hexdigest()}


def damage(path: Path, first: int, *, pages: int | None = None) -> None:
    """Fill some pages of a file, or all from one on, with noise."""
    content = path.read_bytes()
    start, end = first * PAGE_BYTES, len(content) if pages is None else (first + pages) * PAGE_BYTES
    path.write_bytes(content[:start] + os.urandom(end - start) + content[end:])


async def test_a_damaged_store_is_reported(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write_many(chain(length=50))
    damage(path, 1)
    assert (await refused(path)).reason == "corrupted-store"


async def test_damaged_tables_are_reported(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write_many(chain(length=50))
    with sqlite3.connect(path) as other:
        roots = dict(other.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"))
    other.close()
    for table in ("runs", "checkpoints"):
        damage(path, roots[table] - 1, pages=1)
    async with SQLiteCheckpointer(path) as store:
        for call in (store.read_latest("run-1"), store.write(first("run-2")), store.list_runs()):
            with pytest.raises(CheckpointError) as caught:
                await call
            assert caught.value.reason == "corrupted-store"


def schema_of(path: Path) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    finally:
        connection.close()


async def test_an_older_format_is_migrated_in_one_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
    step = ("ALTER TABLE runs ADD COLUMN note TEXT", "CREATE INDEX runs_by_note ON runs (note)")
    broken = (step[0], "CREATE INDEX runs_by_note ON nothing (note)")
    before = schema_of(path)
    monkeypatch.setitem(_schema.MIGRATIONS, 2, broken)
    assert (await refused(path)).reason == "store-failed"
    assert schema_of(path) == before
    monkeypatch.setitem(_schema.MIGRATIONS, 2, step)
    async with SQLiteCheckpointer(path) as store:
        assert await store.read_latest("run-1") is not None
    fresh = path.with_name("fresh.sqlite")
    async with SQLiteCheckpointer(fresh):
        pass
    assert schema_of(path) == schema_of(fresh)


async def test_a_file_switched_out_of_wal_is_switched_back(path: Path) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    other.close()
    async with SQLiteCheckpointer(path) as store:
        assert await store.read_latest("run-1") is not None
        with sqlite3.connect(path) as other:
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.close()
