"""What a large state costs the event loop, which other runs share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.loop_work import LARGE_SHAPES, MEGABYTE, check_large_run, counted_work, large_states
from support.postgres_records import following, genesis

from stargraph.checkpoint.codec import Cipher, Codec, CodecThreads, decoded_size
from stargraph.checkpoint.postgres import PostgresCheckpointer

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("shape", LARGE_SHAPES)
@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_state_of_20_megabytes_is_worked_on_beside_the_loop(
    server: str, schema: str, monkeypatch: pytest.MonkeyPatch, shape: str, encrypted: bool
) -> None:
    run = [genesis(state=large_states(shape))]
    run += [following(run[0])]
    with counted_work(monkeypatch) as work:
        cipher = Cipher({"k1": b"0123456789abcdef0123456789abcdef"}) if encrypted else None
        options: dict[str, Any] = {"schema": schema, "encryption": cipher, "timeout": 300}
        writer, reader = (PostgresCheckpointer(server, **options) for _ in range(2))
        async with writer, reader:
            await check_large_run(work, writer, reader, run)


async def test_small_checkpoints_are_not_handed_to_threads(
    server: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    async with PostgresCheckpointer(server, schema=schema) as checkpointer:
        run = [genesis(state={"n": 0, "text": "x" * 1000})]
        run += [following(run[0])]
        for checkpoint in run:
            await checkpointer.write(checkpoint)
            assert await checkpointer.read_latest(checkpoint.run_id) == checkpoint
        begun = set(threading.enumerate()) - before
        assert not [thread for thread in begun if thread.name.startswith("stargraph-codec")]


async def test_a_small_step_of_a_large_state_is_handed_to_no_thread(
    server: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over: list[bool] = []
    run = CodecThreads.run

    async def recorded(self: CodecThreads, work: Callable[..., Any], *arguments: Any, large: bool) -> Any:
        handed_over.append(large)
        return await run(self, work, *arguments, large=large)

    async with PostgresCheckpointer(server, schema=schema) as checkpointer:
        monkeypatch.setattr(CodecThreads, "run", recorded)
        last = genesis(state={"n": 0, "text": "x" * MEGABYTE})
        await checkpointer.write(last)
        for _ in range(5):
            last = following(last)
            await checkpointer.write(last)
        assert handed_over == [True] + [False] * 5
        assert await checkpointer.read_latest(last.run_id) == last


async def test_threads_of_a_busy_program_are_not_waited_for(server: str, schema: str) -> None:
    release = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(release.wait)) for _ in range(80)]
    try:
        await asyncio.sleep(0)
        async with asyncio.timeout(60), PostgresCheckpointer(server, schema=schema) as checkpointer:
            first = genesis(state={"text": "x" * MEGABYTE})
            await checkpointer.write(first)
            assert await checkpointer.read_latest(first.run_id) == first
    finally:
        release.set()
        await asyncio.gather(*busy)


def test_the_size_of_a_record_is_guessed_without_decoding_it() -> None:
    small, large = genesis(state={"n": 1}), genesis(state={"text": "spam " * MEGABYTE})
    codec = Codec()
    assert decoded_size(codec.encode(small).data) < 2_000
    record = codec.encode(large).data
    assert len(record) < 64 * 1024 < 5 * MEGABYTE <= decoded_size(record)
    cipher = Cipher({"k1": b"0123456789abcdef0123456789abcdef"})
    assert decoded_size(Codec(cipher=cipher).encode(large).data) > 16 * 1024
    for damaged in (b"", b"\0", record[:1], record[:9], b"\xff" * 40):
        assert decoded_size(damaged) >= 0


async def test_a_close_that_is_cancelled_while_it_waits_for_a_write_closes_the_connections(
    server: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = PostgresCheckpointer(server, schema=schema, latest_cache_bytes=1_000_000)
    await checkpointer.bootstrap()
    await checkpointer.write(genesis())
    assert checkpointer._latest._entries
    attached = checkpointer._attach()
    async with attached.connections.lend() as connection:
        pass
    draining = asyncio.Event()

    async def drain() -> None:
        draining.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(attached.writer, "drain", drain)
    closing = asyncio.create_task(checkpointer.close())
    await draining.wait()
    assert not connection.is_closed
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not checkpointer._latest._entries
    assert connection.is_closed
