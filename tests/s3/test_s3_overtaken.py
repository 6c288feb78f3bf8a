"""A run moves on, and a prune takes what was listed, between two requests of one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from support.records import STARTED_AT, following, task
from support.records import first as begin
from support.s3.stores import Stores

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.errors import StoreUnavailableError

LATER = STARTED_AT + timedelta(days=1)


def _once_before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], Awaitable[Any]]) -> None:
    """Do something right before a method is called for the first time."""
    original = getattr(owner, name)

    async def call(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        await action()
        return await original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


async def _go_on_and_prune(store: S3Checkpointer, upcoming: Checkpoint) -> None:
    store._opened().reader._codec.forget(upcoming.run_id)  # so that it is decoded from nothing that goes
    await store.write(upcoming)
    await store.prune(older_than=LATER, statuses=["running"])


async def test_a_read_of_the_latest_looks_again(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = await stores.open(), await stores.open()
    begun = begin("run")
    second = following(begun)
    await store.write(begun)
    _once_before(monkeypatch, other._opened().reader, "read_latest", lambda: _go_on_and_prune(store, second))
    assert await other.read_latest("run") == second


async def test_a_list_of_runs_looks_again(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = await stores.open(), await stores.open()
    begun = begin("run")
    await store.write(begun)
    _once_before(monkeypatch, other._opened().log, "header", lambda: _go_on_and_prune(store, following(begun)))
    assert [summary.last_step for summary in await other.list_runs()] == [1]


async def test_a_writer_that_reads_the_tail_looks_again(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = await stores.open(), await stores.open()
    begun = begin("run")
    second = following(begun)
    await store.write(begun)
    _once_before(monkeypatch, other._opened().log, "header", lambda: _go_on_and_prune(store, second))
    await other.write(following(second))
    assert (await _latest(store)).step == 2


async def test_a_slower_prune_leaves_what_the_run_needs_by_now(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store, slower = await stores.open(), await stores.open()
    begun = begin("run")
    second = following(begun, frontier=(task(0),))
    third = following(second, frontier=(task(0),))
    await store.write_many([begun, second])
    _once_before(monkeypatch, slower._opened().reader, "read", lambda: _go_on_and_prune(store, third))
    report = await slower.prune(older_than=LATER, statuses=["running"])
    assert report.checkpoints == 0
    assert [checkpoint.step async for checkpoint in store.history("run")] == [0, 2]


async def test_a_store_that_lists_what_it_does_not_have_is_named(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open()
    await store.write(begin("run"))
    other = await stores.open()

    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(other._opened().reader, "read_latest", nothing)
    with pytest.raises(StoreUnavailableError) as caught:
        await other.read_latest("run")
    assert caught.value.reason == "inconsistent-store"


async def _latest(store: S3Checkpointer) -> Checkpoint:
    latest = await store.read_latest("run")
    assert latest is not None
    return latest
