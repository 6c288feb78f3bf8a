"""A handle serves the latest checkpoint from memory only if the store confirms it, and then exactly."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from support.checkpoints import HARD_STATE, NOW, following, genesis
from support.places import Place, S3Place, SQLitePlace

from stargraph.checkpoint.codec import Codec
from stargraph.checkpoint.driver import LatestCache
from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, Interrupt, RecordedCall, Seal, Task
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer, _read
from stargraph.errors import CheckpointCorruptedError, CheckpointError

ROOM = 64 * 1024 * 1024


def caching(place: Place, room: int = ROOM) -> Any:
    """A handle that keeps what it has written and read last."""
    url = f"sqlite:///{place.path}" if isinstance(place, SQLitePlace) else place.url
    return open_checkpointer(f"{url}{'&' if '?' in url else '?'}latest_cache_bytes={room}")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that were decoded as the latest ones."""
    steps: list[int] = []
    decode = Codec.decode_latest

    def counted(self: Codec, records: Any, *, run_id: str, step: int) -> Checkpoint:
        steps.append(step)
        return decode(self, records, run_id=run_id, step=step)

    monkeypatch.setattr(Codec, "decode_latest", counted)
    return steps


def asking(checkpoint: Checkpoint) -> Checkpoint:
    question = Interrupt(
        id="q1", task_id="t1", node="ask", prompt="Which?", payload={"choices": ["a", "b"]}, asked_at=NOW
    )
    return following(checkpoint, event="asked", status="awaiting_input", interrupts=(question,))


async def test_what_was_written_is_read_exactly_and_not_decoded(place: Place, decoded: list[int]) -> None:
    steps = [genesis(state=HARD_STATE, metadata={"tag": "1"})]
    steps.append(following(steps[-1], changes={"n": [1, {"b": 2, "a": [3]}]}, update={"n": [1], "other": {"x": 1}}))
    steps.append(asking(steps[-1]))
    steps.append(following(steps[-1], status="done", interrupts=()))
    async with caching(place) as store:
        for step in steps:
            await store.write(step)
            found = await store.read_latest("run-1")
            assert found == step
            assert repr(found) == repr(step)
            assert list(found.state) == list(step.state)
            found.ensure_valid()
    assert decoded == []


async def test_what_was_read_is_not_decoded_again(place: Place, decoded: list[int]) -> None:
    steps = [genesis(state={"items": [1]})]
    steps.append(following(steps[-1], changes={"items": [1, 2]}))
    await place.write(*steps)
    async with caching(place) as store:
        for _ in range(3):
            assert await store.read_latest("run-1") == steps[-1]
        assert decoded == [1]
        # The run goes on from what was served, and its records stay readable.
        served = await store.read_latest("run-1")
        steps.append(following(served, changes={"items": [1, 2, 3]}))
        await store.write(steps[-1])
        assert (await store.read_latest("run-1")).state == {"items": [1, 2, 3]}
    async with place.open() as other:
        assert [await other.read_at_step("run-1", each.step) for each in steps] == steps


async def test_a_handle_keeps_nothing_unless_it_is_told_to(place: Place, decoded: list[int]) -> None:
    await place.write(genesis())
    async with place.open() as store:
        for _ in range(2):
            await store.read_latest("run-1")
    assert decoded == [0, 0]


async def test_what_another_handle_has_written_is_read(place: Place) -> None:
    first = genesis(state={"n": 0})
    async with caching(place) as store, caching(place) as other:
        await store.write(first)
        assert await other.read_latest("run-1") == first
        last = first
        for number in range(1, 4):
            writer, reader = (other, store) if number % 2 else (store, other)
            last = following(last, changes={"n": number})
            await writer.write(last)
            for _ in range(2):
                assert await reader.read_latest("run-1") == last


async def test_a_run_that_another_handle_deletes_is_gone(place: Place) -> None:
    run = [genesis()]
    run += [following(run[-1], status="done")]
    async with caching(place) as store, place.open() as other:
        for step in run:
            await store.write(step)
        assert await store.read_latest("run-1") == run[-1]
        await other.prune(older_than=NOW + timedelta(days=1), keep_last=1)  # type: ignore[attr-defined]
        assert await store.read_latest("run-1") == run[-1]
        await other.delete_run("run-1")  # type: ignore[attr-defined]
        assert await store.read_latest("run-1") is None


@pytest.mark.parametrize("removal", ["delete", "prune", "elsewhere"])
async def test_nothing_of_a_deleted_run_stays_in_memory(place: Place, removal: str) -> None:
    run = [genesis(state={"secret": "its text"})]
    run += [following(run[-1], status="done" if removal == "prune" else "running")]
    async with caching(place) as store, place.open() as other:
        for step in run:
            await store.write(step)
        assert await store.read_latest("run-1") == run[-1]
        kept = store._opened() if isinstance(store, S3Checkpointer) else store
        cache = kept.latest if isinstance(store, S3Checkpointer) else store._latest
        codec = kept.appender._codec if isinstance(store, S3Checkpointer) else store._codec
        assert cache._entries
        assert ("run-1" in codec._contexts) == (removal != "prune")  # an ended run needs no next step
        if removal == "delete":
            assert await store.delete_run("run-1")
        elif removal == "prune":
            assert (await store.prune(older_than=NOW + timedelta(days=1), keep_last=0)).runs == 1
        else:
            await other.delete_run("run-1")  # type: ignore[attr-defined]
            assert await store.read_latest("run-1") is None
        assert (len(cache._entries), cache._size) == (0, 0)
        assert removal == "elsewhere" or "run-1" not in codec._contexts


async def test_no_change_of_what_was_written_or_read_shows(place: Place) -> None:
    first = genesis(state={"items": [{"a": [1]}], "by_name": {"x": []}}, update={"given": [1]}, metadata={"tag": "1"})
    run = [first, asking(first)]
    texts = [repr(step) for step in run]
    async with caching(place) as store:
        for step, wanted in zip(run, texts, strict=True):
            await store.write(step)
            served = await store.read_latest("run-1")
            for each in (step, served):
                each.state["items"][0]["a"].append(2)
                each.state["by_name"].clear()
                each.state["new"] = 1
                if each.update:
                    each.update["given"].append(2)
                each.metadata["tag"] = "2"
                for question in each.interrupts:
                    question.payload["choices"].append("c")
            found = await store.read_latest("run-1")
            assert repr(found) == wanted
            found.ensure_valid()


async def test_the_seal_that_is_stored_is_read(place: Place) -> None:
    """A write of a step that is stored changes nothing, not even its seal, which no digest covers."""
    plain = genesis()
    sealed = plain.sealed(Seal(key_id="k", mac="0" * 64))
    await place.write(sealed)
    async with caching(place) as store:
        await store.write(plain)
        found = await store.read_latest("run-1")
        assert found is not None
        assert found.seal == sealed.seal


async def test_a_write_that_is_refused_or_cancelled_shows_as_it_is_stored(place: Place) -> None:
    last = genesis(state={"n": 0})
    async with caching(place) as store, place.open() as other:
        await store.write(last)
        for turns in range(12):
            following_one = following(last, changes={"n": turns + 1})
            task = asyncio.create_task(store.write(following_one))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            found = await store.read_latest("run-1")
            assert found == await other.read_latest("run-1")
            assert found in (last, following_one)
            last = found
        rival = following(last, changes={"n": -1})
        await other.write(rival)
        with pytest.raises(CheckpointError):
            await store.write(following(last, changes={"n": -2}))
        assert await store.read_latest("run-1") == rival


async def test_a_record_that_is_gone_is_missed(place: Place) -> None:
    run = [genesis()]
    run.append(following(run[-1]))
    async with caching(place) as store:
        for step in run:
            await store.write(step)
        await place.remove("run-1", 1)
        with pytest.raises(CheckpointError):
            await store.read_latest("run-1")


async def test_damage_inside_the_record_does_not_show_where_the_documents_say_so(place: Place) -> None:
    run = [genesis(state={"text": "unaltered"})]
    run.append(following(run[-1]))
    async with caching(place) as store:
        for step in run:
            await store.write(step)
        await place.put("run-1", 1, b"\xc1\x00\x00nothing")
        if isinstance(place, S3Place):  # the ETag is another one
            with pytest.raises(CheckpointError):
                await store.read_latest("run-1")
        else:
            assert await store.read_latest("run-1") == run[-1]
        with pytest.raises(CheckpointCorruptedError):
            await store.read_at_step("run-1", 1)
        with pytest.raises(CheckpointCorruptedError):
            _ = [each async for each in store.history("run-1")]
    async with place.open() as other:
        with pytest.raises(CheckpointCorruptedError):
            await other.read_latest("run-1")


async def test_with_encryption(place: Place, decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", "k1:" + "5" * 64)
    run = [genesis(state={"secret": ["s"]})]
    run.append(following(run[-1]))
    async with caching(place) as store:
        for step in run:
            await store.write(step)
        assert await store.read_latest("run-1") == run[-1]
        assert decoded == []


async def test_a_large_state_and_a_closed_handle(place: Place, decoded: list[int]) -> None:
    first = genesis(state={"items": ["x" * 1000] * 2500})
    store = caching(place)
    async with store:
        await store.write(first)
        assert await store.read_latest("run-1") == first
        assert decoded == []
    with pytest.raises(CheckpointError):
        await store.read_latest("run-1")
    async with store:
        assert await store.read_latest("run-1") == first
    assert decoded == [0]


async def test_what_does_not_fit_is_read_from_the_store(place: Place, decoded: list[int]) -> None:
    async with caching(place, room=15_000) as store:
        runs = [genesis(run_id=f"run-{number}", state={"n": [number]}) for number in range(4)]
        for run in runs:
            await store.write(run)
        assert [await store.read_latest(run.run_id) for run in reversed(runs)] == runs[::-1]
        assert decoded == [0, 0]
        large = genesis(run_id="large", state={"items": ["x" * 1000] * 20})
        await store.write(large)
        assert await store.read_latest("large") == large
    assert decoded == [0, 0, 0]


async def test_several_loops_share_a_handle(file: SQLitePlace) -> None:
    """A read on the thread of its caller and one on the thread of the connection take turns."""
    run = [genesis(state={"n": 0})]
    for number in range(1, 40):
        run.append(following(run[-1], changes={"n": number}))
    failures: list[BaseException] = []
    finished = threading.Event()
    async with caching(file) as store:
        await store.write(run[0])

        async def follow() -> None:
            seen = 0
            while not finished.is_set():
                latest, _ = await asyncio.gather(store.read_latest("run-1"), store.read_at_step("run-1", 0))
                assert seen <= latest.step
                seen = latest.step
                assert latest == run[seen]

        def read() -> None:
            try:
                asyncio.run(follow())
            except BaseException as error:  # asserted below
                failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for step in run[1:]:
            await store.write(step)
            assert await store.read_latest("run-1") == step
        finished.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    assert failures == []


def _with(read: Callable[[Any], Any], query: Any, _: Any) -> Any:
    return read(query)


async def test_the_store_is_asked_once_for_what_another_handle_has_overtaken(
    file: SQLitePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    is_latest = _read.is_latest

    def counted(connection: sqlite3.Connection, run_id: str, digest: bytes) -> bool:
        asked.append(is_latest(connection, run_id, digest))
        return asked[-1]

    monkeypatch.setattr(_read, "is_latest", counted)
    run = [genesis()]
    run.append(following(run[-1]))
    async with SQLiteCheckpointer(file.path, latest_cache_bytes=ROOM) as store, file.open() as other:
        await store.write(run[0])
        await other.write(run[1])
        assert await store.read_latest("run-1") == run[1]
        assert asked == [False]
        assert await store.read_latest("run-1") == run[1]
        assert asked == [False, True]


async def test_a_question_on_the_thread_of_the_caller_waits_for_nobody(
    file: SQLitePlace, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def timeout(connection: sqlite3.Connection) -> int:
        milliseconds: int = connection.execute("PRAGMA busy_timeout").fetchone()[0]
        return milliseconds

    def failing(error: Exception, *_: Any, **__: Any) -> bool:
        raise error

    run = [genesis()]
    run.append(following(run[-1]))
    async with SQLiteCheckpointer(file.path, latest_cache_bytes=ROOM) as store:
        await store.write(run[0])
        opened = store._opened()
        for _ in range(2):
            assert opened.read_here(timeout) == 0
            assert await opened.read(timeout) == 30_000
        for fault in (
            sqlite3.OperationalError("database is locked"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "the message of a damaged file"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(opened, "read_here", partial(_with, opened.read_here, partial(failing, fault)))
                assert await store.read_latest("run-1") == run[0]
    assert decoded == []


def test_what_is_kept() -> None:
    cache: LatestCache[int] = LatestCache(100_000)
    first = genesis(state={"n": [1]})
    cache.put(first, 0)
    assert cache.get("run-1") is not None
    call = RecordedCall(kind="call", task_id="t", name="c", result=[1], started_at=NOW)
    cache.put(following(first, event="called", calls=(call,)), 1)
    assert cache.get("run-1") is None  # and not the step before it
    altered = following(first)
    altered.state["n"] = [2]
    cache.put(altered, 2)
    assert cache.get("run-1") is None
    for number in range(100):
        cache.put(genesis(run_id=f"r{number}", state={"text": "x" * 1000}), number)
    kept = [number for number in range(100) if cache.get(f"r{number}") is not None]
    assert kept == list(range(100 - len(kept), 100))
    assert 5 <= len(kept) <= 20
    cache.clear()
    assert cache.get("r99") is None


def _with_tasks(run_id: str) -> Checkpoint:
    tasks = tuple(Task(id=f"t-{number}", node="a", since_step=0) for number in range(100))
    return genesis(run_id=run_id, frontier=tasks)


def _with_question(run_id: str) -> Checkpoint:
    asked = Interrupt(id="q", task_id="t", node="n", prompt="?", payload=list(range(1000, 4000)), asked_at=NOW)
    return following(genesis(run_id=run_id), event="asked", status="awaiting_input", interrupts=(asked,))


@pytest.mark.parametrize(
    "make",
    [
        lambda run_id: genesis(run_id=run_id, state={f"field-{number}": [] for number in range(100)}),
        lambda run_id: genesis(run_id=run_id, state={f"field-{number}": number for number in range(100)}),
        lambda run_id: genesis(run_id=run_id, state={"text": "x" * 50_000 + "\U0001f600"}),
        lambda run_id: genesis(run_id=run_id, state={}, metadata={"tag": "x" * 50_000 + "\U0001f600"}),
        _with_tasks,
        _with_question,
    ],
    ids=["lists", "numbers", "text", "tags", "tasks", "question"],
)
def test_the_limit_bounds_the_memory_of_all_that_is_kept(make: Callable[[str], Checkpoint]) -> None:
    make("warm-up")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        cache: LatestCache[int] = LatestCache(500_000)
        for number in range(40):
            cache.put(make(f"run-{number}"), number)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cache.get("run-39") is not None
    assert used < 600_000


@pytest.mark.parametrize("room", [-1, 1.5, True, "1"])
def test_a_limit_that_is_no_number_of_bytes(room: Any) -> None:
    for make in (
        lambda: SQLiteCheckpointer("x.sqlite", latest_cache_bytes=room),
        lambda: PostgresCheckpointer("postgresql://h/d", latest_cache_bytes=room),
        lambda: S3Checkpointer("s3://bucket/x", latest_cache_bytes=room),
    ):
        with pytest.raises(ValueError, match="latest_cache_bytes"):
            make()


@pytest.mark.parametrize("text", ["-1", "1.5", "many", "", "²", "9" * 5000], ids=lambda text: repr(text[:9]))
def test_a_limit_in_a_url(text: str) -> None:
    for kind, url in (
        (SQLiteCheckpointer, "sqlite:///x.sqlite"),
        (PostgresCheckpointer, "postgresql://h/d"),
        (S3Checkpointer, "s3://bucket/x"),
    ):
        with pytest.raises((CheckpointError, ValueError), match=r"latest_cache_bytes.*: give 0 or more bytes"):
            kind.from_url(f"{url}?latest_cache_bytes={text}")
