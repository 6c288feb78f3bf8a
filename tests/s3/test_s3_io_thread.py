"""The thread of a handle: a program's own loop and threads hold no request up, and none holds them up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from support.records import chain, first, following
from support.s3.proxy import FaultProxy
from support.s3.stores import Stores

from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.s3._io_thread import IOThread
from stargraph.errors import CheckpointError, StoreUnavailableError


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "stargraph-s3"}


async def _nothing() -> None:
    return None


async def test_a_full_default_executor_holds_up_nothing(stores: Stores) -> None:
    """Every thread of the loop's pool is taken by user code, as by sync nodes or `to_thread`."""
    released = threading.Event()
    pool = ThreadPoolExecutor(2)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(pool)
    blocked = [loop.run_in_executor(None, released.wait, 300) for _ in range(8)]
    try:
        run = chain("run", 5, end="done")
        # A host name, so that it has to be resolved.
        async with stores.handle(endpoint_url=stores.endpoint.replace("127.0.0.1", "localhost")) as store:
            await store.write_many(run)
            assert await store.read_latest("run") == run[-1]
            assert [checkpoint async for checkpoint in store.history("run")] == run
        assert not any(future.done() for future in blocked)
    finally:
        released.set()
        await asyncio.gather(*blocked)


@contextlib.asynccontextmanager
async def _server(answer: Any) -> AsyncIterator[str]:
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(answer(reader, writer))
        serving.add(task)
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await task
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        server.close()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _trickling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a body byte by byte, so that no read ever times out."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("answer", [_silent, _trickling])
async def test_a_request_ends_at_its_deadline(answer: Any, stores: Stores) -> None:
    async with _server(answer) as url:
        store = stores.handle(endpoint_url=url, deadline=1.0, path_style=True)
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError) as caught:
            async with asyncio.timeout(60):
                await store.bootstrap()
        assert time.monotonic() - began > 0.9
        assert caught.value.reason == "no-answer"
        assert "within 1 s" in str(caught.value)


async def test_a_request_that_waits_for_a_connection_ends_at_its_deadline(
    watched: Stores, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections of the client are taken by requests that hang."""
    writer, store = await watched.open(), await watched.open()
    objects = store._opened().objects
    monkeypatch.setattr(objects, "_policy", replace(objects._policy, deadline=2.0))  # it may take longer to open it
    for number in range(40):
        await writer.write(first(f"run-{number}"))
    proxy.slow_seconds = 300
    proxy.fail_when(lambda request: True, "delayed")
    async with asyncio.timeout(60):
        results = await asyncio.gather(*(store.read_latest(f"run-{n}") for n in range(40)), return_exceptions=True)
    assert {getattr(result, "reason", None) for result in results} == {"no-answer"}


async def test_a_name_that_is_never_resolved_ends_at_the_deadline(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    resolve = socket.getaddrinfo

    def slow(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.example":
            released.wait(300)
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    store = stores.handle(endpoint_url="http://slow.example", deadline=1.0, path_style=True)
    try:
        with pytest.raises(StoreUnavailableError):
            async with asyncio.timeout(60):
                await store.bootstrap()
    finally:
        released.set()


async def _under_way(proxy: FaultProxy) -> None:
    """Wait until a request has come since the last reset."""
    async with asyncio.timeout(60):
        while not proxy.requests:
            await asyncio.sleep(0.01)


async def test_a_cancelled_call_is_cancelled_in_the_thread(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    await store.write(first("run"))
    proxy.reset()
    proxy.slow_seconds = 600
    proxy.fail_when(lambda request: True, "delayed")
    reading = asyncio.ensure_future(store.read_latest("run"))
    await _under_way(proxy)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(reading, 60)
    # The caller waits for that too, but not for ever.
    async with asyncio.timeout(60):
        while store._opened().io._tasks:  # they are those of another thread
            await asyncio.sleep(0.01)


async def test_a_call_under_way_at_close_is_reported(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    await store.write(first("run"))
    proxy.reset()
    proxy.slow_seconds = 600
    proxy.fail_when(lambda request: True, "delayed")
    reading = asyncio.ensure_future(store.read_latest("run"))
    await _under_way(proxy)
    await asyncio.wait_for(store.close(), 60)
    with pytest.raises(CheckpointError) as caught:
        await reading
    assert caught.value.reason == "closed"


async def test_a_handle_that_is_dropped_leaves_no_thread(stores: Stores) -> None:
    before = _threads()
    store = S3Checkpointer(stores.url, endpoint_url=stores.endpoint, session=stores.session)
    await store.bootstrap()
    assert len(_threads() - before) == 1
    del store
    gc.collect()
    for _ in range(6000):
        if not _threads() - before:
            break
        await asyncio.sleep(0.01)
    assert _threads() - before == set()


async def test_what_is_handed_over_while_the_thread_ends_is_never_forgotten() -> None:
    for _ in range(50):
        thread = IOThread(_nothing)

        async def work() -> str:
            await asyncio.sleep(0)
            return "done"

        calls = [asyncio.ensure_future(thread.run(work())) for _ in range(5)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(thread.close())
        calls += [asyncio.ensure_future(thread.run(work())) for _ in range(5)]
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
        assert all(result == "done" or getattr(result, "reason", "") == "closed" for result in results)
        await closing


async def test_large_records_are_written_and_read_beside_the_loop(stores: Stores) -> None:
    """20 MB of state: the loop that asks for it runs none of the work."""
    used: list[str] = []
    store, other = await stores.open(), await stores.open()
    begun = first("run", state={"text": ["word " * 200] * 20_000, "count": 0})
    second = following(begun)
    main = threading.current_thread()
    for opened in (store._opened(), other._opened()):
        codec = opened.reader._codec
        for name in ("encode", "decode", "decode_latest"):
            original = getattr(codec, name)

            def watched(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
                used.append(threading.current_thread().name)
                assert threading.current_thread() is not main
                return _original(*args, **kwargs)

            setattr(codec, name, watched)
    busy = time.thread_time()
    await store.write(begun)
    await store.write(second)
    latest = await other.read_latest("run")
    # Other threads may be busy too, so what counts is the work of this one: building such a record takes seconds.
    assert time.thread_time() - busy < 0.25
    assert latest == second
    # In the thread that waits for answers neither, but for the second step, in which little has changed.
    assert [name.startswith("stargraph-codec") for name in used] == [True, False, True]


@pytest.mark.parametrize(
    ("error", "reported"),
    [(ConnectionResetError("Cannot write to closing transport"), False), (ValueError("a fault of the driver"), True)],
)
async def test_what_the_library_leaves_behind_in_an_outage_is_no_news(
    error: Exception, reported: bool, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # what other tests have left behind is reported before
    thread = IOThread(_nothing)

    async def fail() -> None:
        raise error

    async def leave_a_task_behind() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task
        gc.collect()

    await thread.run(leave_a_task_behind())
    await thread.close()
    found = [record for record in caplog.records if record.exc_info and record.exc_info[1] is error]
    assert ["never retrieved" in record.getMessage() for record in found] == [True] * reported
