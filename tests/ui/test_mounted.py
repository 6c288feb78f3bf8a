"""The pages in a program of somebody else: what they hold is released when that program ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from support.ui_runs import COUNTER, graph_file

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Graph
from stargraph.ui import create_app
from stargraph.ui._store import Store

ORIGIN = "https://ops.example"


def ada(request: Request) -> bool:
    return request.headers.get("x-user") == "ada"


@pytest.mark.parametrize("failed", [False, True], ids=["ended", "failed"])
async def test_the_end_of_the_outer_app_pauses_what_runs_and_closes_the_store(tmp_path: Path, failed: bool) -> None:
    path, counter = tmp_path / "run.sqlite", graph_file(tmp_path, COUNTER, "counter.yaml")
    async with SQLiteCheckpointer(path) as store:
        run = await Graph.from_file(counter).start(checkpointer=store, inputs={"rounds": 1_000_000}, run_id="counted")
        starting = asyncio.create_task(run.start())
        while await store.read_latest("counted") is None:
            await asyncio.sleep(0.01)
        run.pause()
        await starting
        runs = create_app(path, write=True, graphs=[counter], auth=ada)

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with runs.state.lifespan(app):
                yield
                if failed:
                    raise LookupError("the other's own")

        app = FastAPI(lifespan=lifespan if failed else runs.state.lifespan)
        app.mount("/runs", runs)
        transport = httpx.ASGITransport(app=app)
        raised: contextlib.AbstractContextManager[object] = (
            pytest.raises(LookupError) if failed else contextlib.nullcontext()
        )
        with raised:
            async with app.router.lifespan_context(app):
                async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers={"x-user": "ada"}) as client:
                    page = (await client.get("/runs/runs/counted")).text
                    token = page.partition('name="csrf" content="')[2].partition('"')[0]
                    answer = await client.post(
                        "/runs/runs/counted/resume", headers={"origin": ORIGIN, "x-csrf-token": token}
                    )
                    assert answer.status_code == 303, answer.text
                async with asyncio.timeout(60):
                    while (await _status(store)) != "running":
                        await asyncio.sleep(0.01)
                handle = runs.state.console.store.handle
                assert isinstance(handle, SQLiteCheckpointer)
        assert await _status(store) == "paused"
        assert runs.state.console.store.handle is None
        assert not handle._lifecycle.is_open


async def test_a_store_that_is_opened_while_the_app_ends_is_closed_too(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    async with SQLiteCheckpointer(path):
        store = Store(path, write=False)
        opening = asyncio.create_task(store.opened())
        await asyncio.sleep(0)
        await store.close()
        handle = await opening
        assert isinstance(handle, SQLiteCheckpointer)
        assert (store.handle, handle._lifecycle.is_open) == (None, False)


async def _status(store: SQLiteCheckpointer) -> str | None:
    latest = await store.read_latest("counted")
    return None if latest is None else latest.status
