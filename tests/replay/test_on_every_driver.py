"""Time travel on each driver: what it needs of a store is what every store gives."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.calling_nodes import EFFECTS
from support.graphs import calling
from support.postgres_server import any_server
from support.s3.servers import ACCESS_KEY, SECRET_KEY, fresh_bucket, moto_server

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, RunHistory
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Run
from stargraph.replay import diff_runs

Store = SQLiteCheckpointer | PostgresCheckpointer | S3Checkpointer


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with any_server() as dsn:
        yield dsn


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres", "s3"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Store]:
    """Makes a store of each driver; only the server that it needs is started."""
    if request.param == "sqlite":
        return lambda: SQLiteCheckpointer(tmp_path / "runs.sqlite")
    server = request.getfixturevalue(request.param)
    if request.param == "postgres":
        return lambda: PostgresCheckpointer(server, schema=f"replay_{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return lambda: S3Checkpointer(f"s3://{fresh_bucket(server)}/runs", endpoint_url=server)


@pytest.fixture
async def each_store(new_store: Callable[[], Store]) -> AsyncIterator[Store]:
    async with new_store() as store:
        yield store


async def to_the_end(run: Run, store: Store) -> None:
    summary = await run.start()
    while summary.status == "awaiting_input":
        latest = await store.read_latest(run.run_id)
        assert latest is not None
        for interrupt in latest.interrupts:
            await run.respond(interrupt.id, "yes")
        summary = await run.resume()
    assert summary.status == "done"


async def log_of(store: RunHistory, run_id: str) -> list[Checkpoint]:
    return [record async for record in store.history(run_id)]


async def test_replay_fork_and_diff(each_store: Store, tmp_path: Path) -> None:
    graph = calling(tmp_path)
    run = await graph.start(checkpointer=each_store, run_id="r")
    await to_the_end(run, each_store)
    log = await log_of(each_store, "r")
    made = list(EFFECTS)
    report = await run.replay()
    assert report.differences == ()
    assert report.compared > len(log)
    assert made == EFFECTS
    step = next(record.step for record in log if len(record.frontier) > 2 and record.event == "called")
    fork = await run.fork(step, run_id="f")
    await to_the_end(fork, each_store)
    difference = await diff_runs(run, fork)
    assert difference.shared == step
    assert difference.as_json()["alike"] > 0
    assert [record.digest for record in await log_of(each_store, "r")] == [record.digest for record in log]
    assert await each_store.delete_run("r")
    assert (await fork.replay()).differences == ()
