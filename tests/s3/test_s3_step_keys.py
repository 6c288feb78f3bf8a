"""The entries of keys whose steps are not there: lost, not yet written, or pruned."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.records import STARTED_AT, first, following
from support.s3.servers import sdk_client
from support.s3.stores import Stores

from stargraph.checkpoint.protocol import Checkpoint, StepKey
from stargraph.checkpoint.s3 import _prune
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.errors import CheckpointCorruptedError

pytestmark = pytest.mark.thorough


def _run() -> list[Checkpoint]:
    run = [first("run", key="a")]
    for key in ("b", "a", None):
        run.append(following(run[-1], key=key, status="running"))
    return run


async def test_a_lost_step_is_not_found_at_an_older_one(stores: Stores) -> None:
    store, run = await stores.open(), _run()
    await store.write_many(run)
    sdk_client(stores.endpoint).delete_object(Bucket=stores.bucket, Key=KeyLayout(stores.prefix).slot("run", 2))
    for reader in (store, await stores.open()):
        for read in (reader.read_at_key("run", "a"), reader.step_keys("run")):
            with pytest.raises(CheckpointCorruptedError) as caught:
                await read
            assert caught.value.reason == "missing-step"
        assert await reader.read_at_key("run", "b") == run[1]


async def test_a_step_that_a_crash_did_not_write_hides_no_other(stores: Stores) -> None:
    store, run = await stores.open(), _run()
    await store.write_many(run)
    entry = KeyLayout(stores.prefix).step_key("run", "a", 4)
    sdk_client(stores.endpoint).put_object(Bucket=stores.bucket, Key=entry, Body=b"")
    reader = await stores.open()
    assert await reader.read_at_key("run", "a") == run[2]
    await store.write(following(run[-1]))
    assert await reader.read_at_key("run", "a") == run[2]
    assert await reader.step_keys("run") == [StepKey("b", 1), StepKey("a", 2)]


async def test_the_entry_of_a_pruned_step_is_passed_over(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await stores.open()
    run = [first("run", key="a")]
    for number in range(12):
        run.append(following(run[-1], key="b" if number == 3 else None))
    run.append(following(run[-1], status="done"))
    await store.write_many(run)
    monkeypatch.setattr(_prune, "TOMBSTONE_LIFETIME", timedelta(seconds=-10))
    for _ in range(2):
        await store.prune(older_than=STARTED_AT + timedelta(days=1))
    kept = stores.decoded_from("run", 13)
    assert 4 not in kept
    # A prune that was cut short leaves it behind.
    entry = KeyLayout(stores.prefix).step_key("run", "b", 4)
    sdk_client(stores.endpoint).put_object(Bucket=stores.bucket, Key=entry, Body=b"")
    assert await (await stores.open()).read_at_key("run", "b") is None
