"""A read-only handle: it reads everything, and sends nothing that could change a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.records import chain, first
from support.s3.proxy import FaultProxy
from support.s3.servers import sdk_client
from support.s3.stores import Stores

from stargraph.checkpoint.registry import open_checkpointer
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.s3._schema import STORE_FORMAT, marker_of
from stargraph.errors import CheckpointError, StoreUnavailableError, StoreVersionError

WRITES: dict[str, Callable[[S3Checkpointer], Awaitable[Any]]] = {
    "write": lambda store: store.write(first("new")),
    "write_many": lambda store: store.write_many([first("new")]),
    "delete_run": lambda store: store.delete_run("run"),
    "prune": lambda store: store.prune(older_than=datetime.now(UTC)),
    "check_conditional_writes": lambda store: store.check_conditional_writes(),
}


def _contents(stores: Stores) -> dict[str, bytes]:
    client = sdk_client(stores.endpoint)
    listed = client.list_objects_v2(Bucket=stores.bucket).get("Contents", [])
    found = {item["Key"]: client.get_object(Bucket=stores.bucket, Key=item["Key"])["Body"].read() for item in listed}
    client.close()
    return found


async def test_it_reads_with_nothing_but_get_and_list(stores: Stores, watched: Stores, proxy: FaultProxy) -> None:
    run = chain("run", 40, end="done")
    child = first("child", parent_run_id="run", parent_step=3, origin="subgraph")
    async with Stores(stores.endpoint, stores.session, watched.bucket).handle() as writer:
        await writer.write_many(run)
        await writer.write(child)
        planned = await writer.prune(older_than=datetime.now(UTC) + timedelta(days=1), dry_run=True)
    assert planned.runs == 1
    proxy.refuse_writes = True
    store = await watched.open(read_only=True)
    assert store.read_only
    assert await store.read_latest("run") == run[-1]
    assert await store.read_at_step("run", 3) == run[3]
    assert [checkpoint async for checkpoint in store.history("run")] == run
    assert {found.run_id for found in await store.list_runs()} == {"run", "child"}
    assert [found.run_id for found in (await store.search(status="done")).items] == ["run"]
    assert await store.count_runs() == {"done": 1, "running": 1}
    assert [found.run_id for found in await store.children("run")] == ["child"]
    assert await store.decoded_from("run", 1) == (0,)
    assert await store.examine() != []
    assert await store.prune(older_than=datetime.now(UTC) + timedelta(days=1), dry_run=True) == planned
    for name, call in WRITES.items():
        with pytest.raises(CheckpointError) as caught:
            await call(store)
        assert caught.value.reason == "read-only", name
    assert {request.method for request in proxy.requests} == {"GET"}


async def test_a_store_that_does_not_exist_is_not_made(stores: Stores) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        await stores.open(read_only=True)
    assert caught.value.reason == "no-store"
    assert stores.url in str(caught.value)
    assert _contents(stores) == {}


async def test_another_format_is_refused(stores: Stores, moto: str) -> None:
    client = sdk_client(moto)
    before_the_release = b'{"format":4,"store":"stargraph-checkpoint-s3"}\n'
    for body, reason in ((before_the_release, "older-format"), (marker_of(STORE_FORMAT + 1), "newer-format")):
        client.put_object(Bucket=stores.bucket, Key=f"{stores.prefix}/stargraph.json", Body=body)
        for read_only in (True, False):
            with pytest.raises(StoreVersionError) as caught:
                await stores.open(read_only=read_only)
            assert caught.value.reason == reason
        assert list(_contents(stores).values()) == [body]
    client.close()


async def test_it_caches_nothing_on_disk_unless_it_may(stores: Stores, tmp_path: Path) -> None:
    run = chain("run", 3)
    writer = await stores.open()
    await writer.write_many(run)
    before = _contents(stores)
    store = await stores.open(read_only=True, cache_dir=tmp_path)
    assert [checkpoint async for checkpoint in store.history("run")] == run
    await store.close()
    # The run has no key for its copies, and a read-only handle makes none.
    assert list(tmp_path.iterdir()) == []
    assert _contents(stores) == before

    writer = await stores.open(cache_dir=tmp_path / "of the writer")
    await writer.read_latest("run")
    await writer.close()
    store = await stores.open(read_only=True, cache_dir=tmp_path / "of the reader")
    assert [checkpoint async for checkpoint in store.history("run")] == run
    await store.close()
    assert list((tmp_path / "of the reader").iterdir()) != []


async def test_the_registry_opens_it(stores: Stores) -> None:
    await (await stores.open()).write(first("run"))
    url = f"{stores.url}?endpoint_url={stores.endpoint}"
    for store in (open_checkpointer(url, read_only=True), open_checkpointer(f"{url}&read_only=true")):
        assert isinstance(store, S3Checkpointer)
        async with store:
            assert store.read_only
            assert await store.read_latest("run") is not None
            with pytest.raises(CheckpointError, match="read-only"):
                await store.write(first("other"))
