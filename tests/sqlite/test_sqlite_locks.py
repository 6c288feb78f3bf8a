"""How long a handle waits for the locks of other connections, and what it says about that."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.records import chain, first

from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _connection, _errors
from stargraph.errors import StoreUnavailableError


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the product has logged; other tests may have left something behind that asyncio reports meanwhile."""
    return [record for record in caplog.records if record.name.startswith("stargraph")]


async def test_bootstrap_waits_for_a_lock(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError) as caught:
        await SQLiteCheckpointer(path, busy_timeout=0).bootstrap()
    assert caught.value.reason == "locked"
    store = SQLiteCheckpointer(path)
    bootstrapping = asyncio.ensure_future(store.bootstrap())
    while "another connection keeps the write lock" not in caplog.text:
        assert not bootstrapping.done()
        await asyncio.sleep(0.02)
    other.execute("ROLLBACK")
    await bootstrapping
    other.execute("BEGIN IMMEDIATE")
    await SQLiteCheckpointer(path).bootstrap()  # what is made already needs no lock
    other.execute("ROLLBACK")
    other.close()
    await store.close()


async def test_a_lock_held_for_too_long_is_reported(path: Path) -> None:
    async with SQLiteCheckpointer(path, busy_timeout=0.3) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            outcomes = await asyncio.gather(
                *(store.write(first(f"run-{number}")) for number in range(3)), return_exceptions=True
            )
            assert [getattr(outcome, "reason", None) for outcome in outcomes] == ["locked"] * 3
            assert await store.list_runs() == []  # reading goes on
            other.execute("ROLLBACK")
        await store.write(first())


async def test_a_short_lock_is_waited_for_and_told_in_the_log(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    asked: list[float] = []

    def monotonic() -> float:
        asked.append(now)
        return now

    monkeypatch.setattr(_errors, "time", SimpleNamespace(monotonic=monotonic))
    async with SQLiteCheckpointer(path, busy_timeout=20) as store:
        await store.write(first("other"))
        assert told(caplog) == []
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked.clear()
            writes = [asyncio.ensure_future(store.write(checkpoint)) for checkpoint in chain(length=5)]
            while 0.0 not in asked:
                await asyncio.sleep(0.02)
            now = 0.9
            await asyncio.sleep(0.6)  # some attempts
            assert told(caplog) == []
            now = 1.0
            while not told(caplog):
                await asyncio.sleep(0.02)
            assert not any(write.done() for write in writes)
            other.execute("COMMIT")
            await asyncio.gather(*writes)
        assert len([checkpoint async for checkpoint in store.history("run-1")]) == 5
    messages = {(record.name, record.levelname, record.getMessage()) for record in told(caplog)}
    expected = f"{path}: another connection keeps the write lock; trying again for up to 20 s"
    assert messages == {("stargraph.checkpoint.sqlite", "WARNING", expected)}


async def test_a_store_that_is_locked_while_it_is_opened_is_waited_for_and_told_in_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SQLiteCheckpointer(path) as store:
        await store.write(first())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        store = SQLiteCheckpointer(path, busy_timeout=60)
        opening = asyncio.ensure_future(store.bootstrap())
        deadline = asyncio.get_running_loop().time() + 50
        while not told(caplog) and not opening.done():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        assert not opening.done()
    await opening
    assert (await store.search()).items[0].run_id == "run-1"
    await store.close()
    expected = f"{path}: another connection keeps the write lock; trying again for up to 60 s"
    assert {record.getMessage() for record in told(caplog)} == {expected}


async def test_a_store_that_stays_locked_is_refused_after_the_timeout(path: Path) -> None:
    async with SQLiteCheckpointer(path):
        pass
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailableError, match="busy_timeout"):
            await SQLiteCheckpointer(path, busy_timeout=0).bootstrap()


@pytest.mark.parametrize("name", ["new", "existing"])
async def test_locks_that_follow_one_another_share_the_timeout(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "existing":
        async with SQLiteCheckpointer(path):
            pass
    clock = 0.0

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    def locked_for_six_seconds(work: Callable[..., Any]) -> Callable[..., Any]:
        """What meets a lock of its own when it is first called."""
        since: list[float] = []

        def meets_a_lock(*args: Any) -> Any:
            since.append(clock)
            if clock < since[0] + 6:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_BUSY, "SQLITE_BUSY"
                raise error
            return work(*args)

        return meets_a_lock

    monkeypatch.setattr(_errors, "time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(_connection, "time", SimpleNamespace(sleep=sleep))
    for step in ("stored_version", "_use_wal", "migrate"):
        monkeypatch.setattr(_connection, step, locked_for_six_seconds(getattr(_connection, step)))
    if name == "new":
        with pytest.raises(StoreUnavailableError, match="busy_timeout"):
            await SQLiteCheckpointer(path, busy_timeout=10).bootstrap()
        assert clock == pytest.approx(10, abs=0.1)
    clock = 0.0
    async with SQLiteCheckpointer(path, busy_timeout=20) as store:
        await store.write(first())
    assert clock <= 20


async def test_an_error_after_a_lock_names_the_way_out(path: Path) -> None:
    async with SQLiteCheckpointer(path, busy_timeout=0) as store:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailableError, match="busy_timeout"):
                await store.write(first())
            other.execute("ROLLBACK")
