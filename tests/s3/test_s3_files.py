"""The file of a run that ended: a SQLite store of its own."""

from __future__ import annotations

import sqlite3
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from support.records import STARTED_AT, chain, endless, following
from support.s3.proxy import FaultProxy
from support.s3.servers import sdk_client
from support.s3.stores import Stores

from stargraph.checkpoint.sqlite import SQLiteCheckpointer


class Bucket:
    """The bucket as a user of the AWS command line sees it."""

    def __init__(self, url: str, stores: Stores) -> None:
        self._client: Any = sdk_client(url)
        self._stores = stores

    def files(self) -> dict[str, bytes]:
        listed = self._client.list_objects_v2(Bucket=self._stores.bucket, Prefix=f"{self._stores.prefix}/runs/").get(
            "Contents", []
        )
        keys = [item["Key"] for item in listed if item["Key"].endswith(".sqlite")]
        return {key: self._client.get_object(Bucket=self._stores.bucket, Key=key)["Body"].read() for key in keys}

    def close(self) -> None:
        self._client.close()


async def _copy(stores: Stores, moto: str, tmp_path: Path) -> Path:
    bucket = Bucket(moto, stores)
    ((_, content),) = bucket.files().items()
    bucket.close()
    path = tmp_path / "run.sqlite"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("end", ["done", "cancelled"])
async def test_it_opens_as_a_store_and_in_the_shell(stores: Stores, moto: str, tmp_path: Path, end: Any) -> None:
    run = chain("run", 40, end=end)
    store = await stores.open()
    await store.write_many(run)
    path = await _copy(stores, moto, tmp_path)
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert connection.execute("SELECT run_id, step, status FROM runs").fetchall() == [("run", 39, end)]
    connection.close()
    async with SQLiteCheckpointer(path) as file:
        assert [checkpoint async for checkpoint in file.history("run")] == run
        assert await file.list_runs() == await store.list_runs()


async def test_a_machine_that_only_saw_the_end_makes_it_too(stores: Stores, moto: str, tmp_path: Path) -> None:
    run = chain("run", 20, end="done")
    await (await stores.open()).write_many(run[:-1])
    await (await stores.open()).write(run[-1])
    async with SQLiteCheckpointer(await _copy(stores, moto, tmp_path)) as file:
        assert [checkpoint async for checkpoint in file.history("run")] == run


async def test_a_run_that_can_go_on_has_none(stores: Stores, moto: str) -> None:
    store = await stores.open()
    await store.write_many(chain("run-1", 3, end="failed"))
    await store.write_many(chain("run-2", 3, end="paused"))
    bucket = Bucket(moto, stores)
    assert bucket.files() == {}
    bucket.close()


async def test_it_can_be_switched_off(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open(files_of_ended_runs=False)
    run = chain("run", 3, end="done")
    await store.write_many(run[:-1])
    proxy.reset()
    await store.write(run[-1])
    assert proxy.kinds() == ["PUT", "DELETE"]
    assert [summary.status for summary in await store.list_runs()] == ["done"]


@pytest.mark.usefixtures("impatient")
async def test_without_it_nothing_is_missing(watched: Stores, proxy: FaultProxy) -> None:
    store = await watched.open()
    run = chain("run", 3, end="done")
    proxy.fail_when(lambda request: request.path.endswith(".sqlite"), "dropped")
    await store.write_many(run)
    proxy.reset()
    assert [summary.status for summary in await store.list_runs()] == ["done"]
    assert [checkpoint async for checkpoint in store.history("run")] == run


async def test_a_run_that_was_pruned_before_it_ended_has_none(stores: Stores, moto: str) -> None:
    store = await stores.open()
    run = list(islice(endless("run", pad=1000), 12))
    await store.write_many(run)
    report = await store.prune(older_than=STARTED_AT.replace(year=2030), statuses=["running"])
    assert report.checkpoints > 0
    await store.write(following(run[-1], status="done"))
    bucket = Bucket(moto, stores)
    assert bucket.files() == {}
    bucket.close()
    assert [summary.last_step for summary in await store.list_runs()] == [12]


async def test_pruning_and_deleting_empty_it(stores: Stores, moto: str) -> None:
    store = await stores.open()
    run = list(islice(endless("pruned", pad=1000), 12))
    await store.write_many([*run, following(run[-1], status="done")])
    await store.prune(older_than=STARTED_AT.replace(year=2030))
    await store.write_many(chain("deleted", 3, end="done"))
    await store.delete_run("deleted")
    bucket = Bucket(moto, stores)
    assert list(bucket.files().values()) == [b"", b""]
    bucket.close()
    assert [summary.run_id for summary in await store.list_runs()] == ["pruned"]
