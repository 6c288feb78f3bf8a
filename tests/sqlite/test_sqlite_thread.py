"""The private names of aiosqlite that the driver uses: one function, `_worker_of`, and these tests."""

from __future__ import annotations

import ast
import sqlite3
import threading
from queue import SimpleQueue

import aiosqlite
import pytest
from support.workspace import ROOT

from stargraph.checkpoint.sqlite._thread import THREAD_NAME, ConnectionThread, _worker_of
from stargraph.errors import CheckpointError

SOURCES = ROOT / "packages/sqlite/src/stargraph/checkpoint/sqlite"


def test_aiosqlite_runs_what_is_put_until_it_is_told_to_stop() -> None:
    """If this fails, aiosqlite has changed inside: adapt `_worker_of`, and the bounds in pyproject.toml."""
    worker = _worker_of(aiosqlite.Connection(lambda: sqlite3.connect(":memory:"), iter_chunk_size=64))
    assert isinstance(worker.thread, threading.Thread)
    assert not worker.thread.is_alive()
    worker.thread.daemon = True
    worker.thread.start()
    seen: SimpleQueue[str] = SimpleQueue()

    def fails() -> None:
        raise ValueError("a failure does not end the thread")

    worker.put(fails)
    worker.put(lambda: seen.put(threading.current_thread().name))
    worker.put(lambda: worker.stop)
    worker.thread.join(5)
    assert not worker.thread.is_alive()
    assert seen.get_nowait() == worker.thread.name


def test_no_other_code_uses_a_private_name_of_aiosqlite() -> None:
    found = []
    for source in SOURCES.glob("*.py"):
        text = source.read_text()
        if "aiosqlite" not in text.replace("aiosqlite's", ""):
            continue
        private = {name for name in vars(aiosqlite.Connection(lambda: sqlite3.connect(""), 1)) if name.startswith("_")}
        private |= {name for name in dir(aiosqlite.Connection) if name.startswith("_") and not name.startswith("__")}
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                        of_aiosqlite = node.value.id in ("aiosqlite", "core") or (
                            node.value.id != "self" and node.attr in private
                        )
                        if of_aiosqlite and node.attr.startswith("_"):
                            found.append((source.name, function.name))
    assert set(found) == {("_thread.py", "_worker_of")}


async def test_work_runs_on_one_thread_in_order_and_errors_are_raised_where_it_is_awaited() -> None:
    thread = ConnectionThread(lambda: sqlite3.connect(":memory:"))
    await thread.open()
    names = [await thread.run(lambda _: threading.current_thread().name) for _ in range(2)]
    assert names == [THREAD_NAME] * 2
    with pytest.raises(sqlite3.OperationalError):
        await thread.run(lambda connection: connection.execute("nonsense"))
    thread.shut()
    thread.shut()
    with pytest.raises(CheckpointError) as caught:
        await thread.run(lambda _: None)
    assert caught.value.reason == "closed"
