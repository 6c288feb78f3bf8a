"""The file of the write-ahead log is kept longer than the log, and nothing that is in it is ever overwritten."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkpoints import chain

from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _wal
from stargraph.checkpoint.sqlite._connection import Store
from stargraph.checkpoint.sqlite._wal import WriteAheadLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


@pytest.fixture
def file(path: Path) -> Path:
    return path.with_name("run.sqlite-wal")


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that keeps a log with one table in it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE t (x)")
    yield connection
    connection.close()


def commit(log: WriteAheadLog, connection: sqlite3.Connection, size: int) -> None:
    """Do what the writer does after a commit of one change."""
    if log.committed(changes=1, size=size):
        log.tidy(connection)


async def test_few_of_many_commits_make_the_file_longer(path: Path, file: Path) -> None:
    lengths = []
    async with SQLiteCheckpointer(path) as checkpointer:
        assert isinstance(checkpointer._store, Store)
        for checkpoint in chain(100):
            await checkpointer.write(checkpoint)
            await checkpointer._store._writing.run(lambda _: None)  # it is made longer behind the answer
            lengths.append(file.stat().st_size)
    assert len(set(lengths)) < 20


def test_the_file_is_made_longer_in_pieces_of_a_page(
    connection: sqlite3.Connection, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux keeps what is written in one call as one piece, and writes all of it when a part of it changes."""
    pieces: list[tuple[int, int]] = []
    write = os.write

    def recorded(descriptor: int, data: bytes) -> int:
        pieces.append((os.fstat(descriptor).st_size, len(data)))
        return write(descriptor, data)

    log = WriteAheadLog(file)
    monkeypatch.setattr(os, "write", recorded)
    commit(log, connection, 100)
    assert len(pieces) > 20
    assert all(size <= 4096 and (end + size) % 4096 == 0 for end, size in pieces)


def test_what_somebody_else_has_appended_stays(connection: sqlite3.Connection, file: Path) -> None:
    log = WriteAheadLog(file)
    with file.open("ab") as appended:
        appended.write(b"of another process")
    length = file.stat().st_size
    commit(log, connection, 100)
    content = file.read_bytes()
    assert content[:length].endswith(b"of another process")
    assert set(content[length:]) == {0}
    assert len(content) > length


def test_zeros_end_the_log(connection: sqlite3.Connection, path: Path, file: Path) -> None:
    log = WriteAheadLog(file)
    for number in range(50):
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        commit(log, connection, 4096)
    copy = path.with_name("copy.sqlite")
    copy.write_bytes(path.read_bytes())
    path.with_name("copy.sqlite-wal").write_bytes(file.read_bytes())
    reader = sqlite3.connect(copy)  # without the index in shared memory it has to find the end by itself
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (50,)
    assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    reader.close()


@pytest.mark.parametrize("content", [None, b"not ours"])
def test_a_log_that_is_not_ours_is_left_alone(
    connection: sqlite3.Connection, file: Path, content: bytes | None
) -> None:
    log = WriteAheadLog(file)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    commit(log, connection, 2**20)
    assert (file.read_bytes() if file.exists() else None) == content


def test_a_file_that_is_long_enough_is_left_alone(connection: sqlite3.Connection, file: Path) -> None:
    log = WriteAheadLog(file)
    commit(log, connection, 100)
    length = file.stat().st_size
    commit(log, connection, 100)
    assert file.stat().st_size == length


def test_a_log_that_is_erased_leaves_an_empty_file(connection: sqlite3.Connection, path: Path, file: Path) -> None:
    log = WriteAheadLog(file)
    connection.execute("INSERT INTO t VALUES ('marker')")
    assert b"marker" in file.read_bytes()
    assert log.erase(connection)
    assert file.stat().st_size == 0
    assert b"marker" in path.read_bytes()


def test_a_log_that_somebody_reads_is_erased_with_a_later_commit(
    connection: sqlite3.Connection, path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wal, "_CHECKPOINT_BYTES", 300_000)
    connection.execute("PRAGMA busy_timeout = 1")
    log = WriteAheadLog(file)
    connection.execute("INSERT INTO t VALUES ('marker')")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (1,)
    connection.execute("UPDATE t SET x = zeroblob(6)")
    assert not log.erase(connection)
    commit(log, connection, 400_000)  # the reader is still there
    assert b"marker" in file.read_bytes()
    reader.execute("COMMIT")
    commit(log, connection, 400_000)
    assert file.stat().st_size == 0
    reader.close()
