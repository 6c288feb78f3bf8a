"""The driver on SeaweedFS: a store with an implementation of its own of all that the driver relies on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import islice

import aioboto3
import pytest
from support.records import STARTED_AT, chain, endless, following
from support.s3.stores import Stores

from stargraph.checkpoint.s3 import _index, _log, _prune
from stargraph.errors import CheckpointConflictError, CheckpointError

pytestmark = pytest.mark.thorough


@pytest.fixture
async def stores(seaweedfs: str, sdk_session: aioboto3.Session) -> AsyncIterator[Stores]:
    stores = Stores(seaweedfs, sdk_session)
    yield stores
    await stores.close()


async def test_racing_writers_have_one_winner(stores: Stores) -> None:
    assert (await (await stores.open()).check_conditional_writes()).passed


async def test_of_two_executors_one_loses(stores: Stores) -> None:
    handles = [await stores.open() for _ in range(4)]
    begun = chain("run", 1)[0]
    await handles[0].write(begun)

    rivals = []
    for handle in handles:  # each has read the run before any of them writes
        assert await handle.read_latest("run") == begun
        rivals.append(following(begun, executor_id=os.urandom(16).hex()))
    outcomes = await asyncio.gather(
        *(handle.write(rival) for handle, rival in zip(handles, rivals, strict=True)), return_exceptions=True
    )
    (winner,) = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
    assert sum(isinstance(outcome, CheckpointConflictError) for outcome in outcomes) == 3
    for handle in handles:
        assert await handle.read_latest("run") == winner


async def test_the_life_of_a_run(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_log, _prune):
        monkeypatch.setattr(module, "_PAGE", 100)
    store, other = await stores.open(), await stores.open()
    run = list(islice(endless("run", pad=400), 109))
    run.append(following(run[-1], status="done"))
    await store.write_many(run)
    assert await other.read_latest("run") == run[-1]
    assert [checkpoint async for checkpoint in other.history("run")] == run
    await other.write_many(chain("run-1", 3, started_at=STARTED_AT + timedelta(hours=1)))
    assert [(found.run_id, found.status) for found in await store.list_runs()] == [
        ("run-1", "running"),
        ("run", "done"),
    ]
    kept = stores.decoded_from("run", 108, 109)
    report = await store.prune(older_than=STARTED_AT + timedelta(days=1), keep_last=2)
    assert (report.runs, report.checkpoints) == (1, 110 - len(kept))
    assert [checkpoint async for checkpoint in other.history("run")] == [run[step] for step in sorted(kept)]
    assert await other.delete_run("run")
    assert [found.run_id for found in await store.list_runs()] == ["run-1"]
    with pytest.raises(CheckpointError) as caught:
        await store.write(run[-1])
    assert caught.value.reason == "run-deleted"


async def test_runs_are_found_by_their_prefix(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS compares names of folders without their slash, and a start in a listing passes over all of a folder."""
    store = await stores.open()
    ids = ["run-1", "run-1-a", "run-1.b", "run-10"]
    for run_id in (*ids, "run-0", "run-2", "other"):
        await store.write_many(chain(run_id, 3))
    for page in (1, 2, 1000):
        monkeypatch.setattr(_index, "_PAGE", page)
        assert sorted(run.run_id for run in (await store.search(run_id_prefix="run-1")).items) == ids
