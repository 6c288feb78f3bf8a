from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.applications import Starlette
from support.ui_runs import ARTICLE, COUNTER, graph_file

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.ui import create_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ORIGIN = "http://localhost:8123"


@pytest.fixture
async def store() -> AsyncIterator[MemoryCheckpointer]:
    async with MemoryCheckpointer() as opened:
        yield opened


@pytest.fixture
def app(store: MemoryCheckpointer) -> Starlette:
    return create_app(store)


@pytest.fixture
async def browser(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has opened the link."""
    async with client_of(app) as client:
        answer = await client.get(app.state.link())
        assert answer.status_code == 303
        yield client


@pytest.fixture
def writing(store: MemoryCheckpointer, folder: Path) -> Starlette:
    graphs = [graph_file(folder, ARTICLE, "article.yaml"), graph_file(folder, COUNTER, "counter.yaml")]
    return create_app(store, write=True, graphs=graphs)


@pytest.fixture
async def writer(writing: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(writing) as client, writing.router.lifespan_context(writing):
        await client.get(writing.state.link())
        found = re.search(r'name="csrf" content="(\w+)"', (await client.get("/")).text)
        assert found is not None
        client.headers.update({"origin": ORIGIN, "x-csrf-token": found.group(1)})
        yield client


def client_of(app: Starlette, origin: str = ORIGIN) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=origin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One Chromium for all tests of a module; its loop would be in the way of the async tests of other modules."""
    from support.ui_browser import launched

    with launched() as browser:
        yield browser
