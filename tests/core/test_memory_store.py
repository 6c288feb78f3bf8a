"""The driver in memory: as any other, except that nothing of it is left once its process has ended."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest
from support.conformance_targets import memory
from support.records import chain, first

from stargraph.checkpoint.codec import ENCRYPTION_VARIABLE
from stargraph.checkpoint.conformance import catalogue, run
from stargraph.checkpoint.memory import MemoryCheckpointer, MemoryStore
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.errors import CheckpointError, StoreUnavailableError

KEYS = "2026-11:7ImrD5vC9VQ8pXUQ0m1k3bqKJH2yN4sT"

OF_OTHER_STORES = {"newer-format", "older-format", "outage", "url"}
"""What a store in memory has not: another format, a way to be unreachable, an address for a second handle."""


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_it_passes_every_check_of_the_kit_that_one_process_can_execute() -> None:
    report = run(memory, seed=1)
    left_out = {result.check.id for result in report.results if result.verdict == "skip"}
    checks = [check for check in catalogue() if not check.advisory]
    assert left_out == {check.id for check in checks if check.processes or check.capability in OF_OTHER_STORES}
    assert report.count("pass") == len(checks) - len(left_out), report.to_json()
    assert {"history", "search", "trees", "deletion", "batch", "closing", "encryption"} <= set(report.capabilities)


async def test_nothing_is_left_but_in_the_store_that_handles_share() -> None:
    async with MemoryCheckpointer() as handle:
        await handle.write(first("r"))
    async with handle:
        assert await handle.read_latest("r") is not None, "the handle was closed, and holds its store"
    async with MemoryCheckpointer() as another:
        assert await another.list_runs() == []
    shared = MemoryStore()
    async with MemoryCheckpointer(shared) as one, MemoryCheckpointer(shared) as two:
        written = first("r")
        await one.write(written)
        assert await two.read_latest("r") == written


async def test_a_value_comes_back_as_a_copy() -> None:
    async with MemoryCheckpointer() as store:
        await store.write(first("r", state={"names": ["a"]}))
        found: Any = await store.read_latest("r")
        found.state["names"].append("b")
        again = await store.read_latest("r")
        assert again is not None
        assert again.state == {"names": ["a"]}


async def test_other_tasks_run_between_two_writes() -> None:
    async with MemoryCheckpointer() as store:
        turns: list[str] = []

        async def write(run_id: str) -> None:
            for checkpoint in chain(run_id, 3):
                await store.write(checkpoint)
                turns.append(run_id)

        await asyncio.gather(write("a"), write("b"))
    assert turns != sorted(turns)


async def test_threads_with_loops_of_their_own_share_it() -> None:
    store = MemoryCheckpointer()
    await store.bootstrap()

    def work(run_id: str) -> None:
        async def write() -> None:
            for checkpoint in chain(run_id, 50):
                await store.write(checkpoint)

        asyncio.run(write())

    threads = [threading.Thread(target=work, args=(f"r{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert [run.last_step for run in await store.list_runs()] == [49] * 4


async def test_a_url_opens_a_store_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENCRYPTION_VARIABLE, raising=False)
    one: Any = open_checkpointer("memory://")
    await one.bootstrap()
    await one.write(first("r"))
    two = open_checkpointer("MEMORY://")
    await two.bootstrap()
    assert await two.list_runs() == []
    assert (one.read_only, one.encrypted) == (False, False)
    monkeypatch.setenv(ENCRYPTION_VARIABLE, KEYS)
    assert open_checkpointer("memory://").encrypted  # type: ignore[attr-defined]
    read_only = open_checkpointer("memory://", read_only=True)
    with pytest.raises(StoreUnavailableError) as caught:
        await read_only.bootstrap()
    assert caught.value.reason == "no-store"


@pytest.mark.parametrize("url", ["memory://name", "memory:///name", "memory://?name=x", "memory://?read_only=maybe"])
def test_a_url_that_asks_for_more_is_refused(url: str) -> None:
    with pytest.raises(CheckpointError, match="names something that a store in memory does not have") as caught:
        open_checkpointer(url)
    assert caught.value.reason == "invalid-url"


async def test_a_forked_child_is_refused_and_not_given_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryCheckpointer() as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(StoreUnavailableError) as caught:
                await store.read_latest("r")
        assert caught.value.reason == "forked"
