"""Time travel on each driver: what it needs of a store is what every store gives."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model
from support import state_kinds
from support.calling_nodes import EFFECTS
from support.graphs import calling, graph
from support.s3.servers import ENVIRONMENT, fresh_bucket

from stargraph.checkpoint.postgres import PostgresCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, RunHistory
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.engine._fidelity import difference
from stargraph.graph import Run
from stargraph.replay import diff_runs

pytestmark = pytest.mark.thorough

Store = SQLiteCheckpointer | PostgresCheckpointer | S3Checkpointer


@pytest.fixture(params=["sqlite", "postgres", "s3"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Store]:
    """Makes a store of each driver; only the server that it needs is started."""
    if request.param == "sqlite":
        return lambda: SQLiteCheckpointer(tmp_path / "runs.sqlite")
    server = request.getfixturevalue(request.param)
    if request.param == "postgres":
        return lambda: PostgresCheckpointer(server, schema=f"replay_{uuid.uuid4().hex[:8]}")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
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
            await run.answer(interrupt.id, "yes")
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


async def test_every_kind_of_value_comes_back(each_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {f"f{number}": kind(value=value) for number, (kind, value) in enumerate(state_kinds.HOLD.values())}
    fields: dict[str, Any] = {name: (type(value) | None, None) for name, value in values.items()}
    monkeypatch.setattr(state_kinds, "State", create_model("State", **fields))
    monkeypatch.setattr(state_kinds, "PUT", values)
    monkeypatch.setattr(state_kinds, "SEEN", [])
    listed = ", ".join(f'{{id: {node}, kind: "support.state_kinds:{node}"}}' for node in ("put", "back"))
    loaded = graph(f'state_class: "support.state_kinds:State"\nnodes: [{listed}]')
    run = await loaded.start(checkpointer=each_store, run_id="kinds")
    summary = await run.start()
    assert summary.status == "done", summary.error
    assert (await run.replay()).differences == ()
    fork = await run.fork(1)
    forked = await fork.start()
    assert forked.status == "done"
    assert forked.stored_state == summary.stored_state
    for state in (state_kinds.SEEN[1], state_kinds.SEEN[-1]):
        for name, value in values.items():
            assert difference(value, getattr(state, name)) is None
