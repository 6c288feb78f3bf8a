"""The file of the write-ahead log is kept longer than the log, and nothing that is in it is ever overwritten."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from support.checkpoints import chain

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.checkpoint.sqlite._files import StoreFiles


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


def _remembered(store: Path) -> tuple[StoreFiles, Path, sqlite3.Connection]:
    """Files that are open, the log of them, and the connection that keeps it."""
    files = StoreFiles(store)
    files.prepare(allow_network_filesystem=False)
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (x)")
    files.remember()
    return files, store.with_name("run.sqlite-wal"), connection


async def test_few_of_many_commits_make_the_file_longer(store: Path) -> None:
    log = store.with_name("run.sqlite-wal")
    lengths = []
    async with SQLiteCheckpointer(store) as checkpointer:
        for checkpoint in chain(100):
            await checkpointer.write(checkpoint)
            lengths.append(log.stat().st_size)
    assert len(set(lengths)) < 20


def test_what_somebody_else_has_appended_stays(store: Path) -> None:
    files, log, connection = _remembered(store)
    with log.open("ab") as file:
        file.write(b"of another process")
    length = log.stat().st_size
    files.lengthen_wal(length)
    content = log.read_bytes()
    assert content[:length].endswith(b"of another process")
    assert set(content[length:]) == {0}
    assert len(content) > length
    connection.close()


def test_zeros_end_the_log(store: Path) -> None:
    files, log, connection = _remembered(store)
    for number in range(50):
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        files.check()
        files.lengthen_wal(log.stat().st_size)
    copy = store.with_name("copy.sqlite")
    copy.write_bytes(store.read_bytes())
    store.with_name("copy.sqlite-wal").write_bytes(log.read_bytes())
    reader = sqlite3.connect(copy)  # without the index in shared memory it has to find the end by itself
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (50,)
    assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    reader.close()
    connection.close()


def test_a_log_that_is_not_ours_is_left_alone(store: Path) -> None:
    files, log, connection = _remembered(store)
    log.unlink()
    files.lengthen_wal(2**20)
    assert not log.exists()
    log.write_bytes(b"not ours")
    files.lengthen_wal(2**20)
    assert log.read_bytes() == b"not ours"
    connection.close()


def test_one_that_is_long_enough_is_left_alone(store: Path) -> None:
    files, log, connection = _remembered(store)
    files.lengthen_wal(log.stat().st_size)
    length = log.stat().st_size
    files.check()
    files.lengthen_wal(100)
    assert log.stat().st_size == length
    connection.close()
