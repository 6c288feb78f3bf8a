"""What somebody sends who means harm: no request breaks a page, leaves the pages, or keeps the server busy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from support.checkpoints import genesis
from ui.conftest import client_of

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.ui import create_app
from stargraph.ui._security import Access
from stargraph.ui._sse import MOST_STREAMS

NAMES = [
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "a%00b",
    "%ff%fe",
    "'; DROP TABLE runs; --",
    "x" * 5000,
    "<b>",
]
QUERIES = [
    "status=" + "x" * 5000,
    "&".join(["status=done"] * 3000),
    "tag=" + quote(" ".join(f"a{n}=b" for n in range(300))),
    "tag=" + quote("=" * 500),
    "q=" + quote("a b c " * 30),
    "q=" + "a" * 50_000,
    "q=%00%ff%F0%9F",
    "id=%00",
    "id=" + "9" * 400,
    "since=" + "9" * 4000 + "d",
    "since=9999-12-31T23:59:59-14:00",
    "idle=" + "9" * 30 + "d",
    "cursor=" + "A" * 9000,
    "cursor=%00",
    "order=nonsense&range=nonsense",
    "parent=" + "%ED%A0%80",
    "reason=" + quote("'\"\\"),
]


@pytest.fixture
async def sqlite_browser(tmp_path: Path) -> Any:
    async with SQLiteCheckpointer(tmp_path / "runs.sqlite") as store:
        await store.write(genesis(run_id="one", metadata={"a": "b"}))
        app = create_app(store)
        async with client_of(app) as client:
            await client.get(app.state.link())
            yield client


@pytest.mark.parametrize("query", QUERIES, ids=lambda text: text[:24])
async def test_a_strange_query_is_answered(sqlite_browser: httpx.AsyncClient, query: str) -> None:
    for path in ("/", "/plot", "/plot.svg"):
        answer = await sqlite_browser.get(f"{path}?{query}")
        assert answer.status_code in (200, 400), (path, answer.status_code, answer.text[-600:])
        assert "logger stargraph.ui" not in answer.text


@pytest.mark.parametrize("name", NAMES, ids=lambda text: text[:24])
async def test_a_strange_name_is_no_run(sqlite_browser: httpx.AsyncClient, name: str) -> None:
    for path in (
        f"/runs/{name}",
        f"/runs/{name}/events",
        f"/runs/{name}/export",
        f"/runs/{name}/children?depth=x",
        f"/runs/{name}/steps/0/state",
        f"/static/{name}",
        f"/static/../{name}",
        f"/diff?a={name}&b=one",
    ):
        answer = await sqlite_browser.get(path)
        assert answer.status_code in (200, 400, 404), (path, answer.status_code, answer.text[-600:])
        assert "root:" not in answer.text
        assert "logger stargraph.ui" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/runs/one/one.svg",
        "/runs/one/steps/0/value?path=[",
        "/runs/one/steps/0/value?path=[[]]",
        "/runs/one/steps/0/state?path=" + "[" * 3000,
        "/runs/one/steps/0/state?first=-1",
        "/runs/one/steps/99999999999999999999",
        "/runs/one/steps?first=-5&last=x",
        "/runs/one/diff?a=x&b=-1",
        "/runs/one?step=" + "9" * 400,
    ],
)
async def test_a_strange_part_of_a_run_is_answered(sqlite_browser: httpx.AsyncClient, path: str) -> None:
    answer = await sqlite_browser.get(path)
    assert answer.status_code in (200, 303, 400, 404), (answer.status_code, answer.text[-600:])
    assert "logger stargraph.ui" not in answer.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_other_methods_are_refused(browser: httpx.AsyncClient, method: str) -> None:
    for path in ("/", "/static/app.css", "/runs/one/delete"):
        assert (await browser.request(method, path)).status_code == 405


async def test_an_address_that_was_sent_keeps_nothing_busy(
    browser: httpx.AsyncClient, store: MemoryCheckpointer
) -> None:
    for number in range(50):
        await store.write(genesis(run_id=f"aaaa-{number}", metadata={"t": "a" * 200}))
    text = (await browser.get("/", params={"q": "a " * 101})).text
    assert "at most 200 are searched for" in text


async def test_a_hook_is_asked_for_everything_but_the_assets(store: MemoryCheckpointer) -> None:
    await store.write(genesis(run_id="one"))
    app = FastAPI()
    app.mount("/runs", create_app(store, auth=lambda request: False, write=True))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app, root_path="/api"), base_url="https://ops.example"
    ) as client:
        for prefix in ("/runs", "/api/runs"):
            for path in (
                "/",
                "/events",
                "/runs/one",
                "/runs/one/events",
                "/runs/one/export",
                "/plot",
                "/queues",
                "/schedules",
                "/static/../runs/one",
                "/static/%2e%2e/runs/one",
                "//static/../",
                "/static",
                "/runs/static/",
                "/runs/one/static/app.css",
            ):
                answer = await client.get(prefix + path)
                assert answer.status_code in (307, 403, 404), (prefix, path, answer.status_code)
                assert "MemoryCheckpointer" not in answer.text  # the name of the store
                assert "<html" not in answer.text
            answer = await client.post(f"{prefix}/runs/one/delete", headers={"origin": "https://ops.example"})
            assert answer.status_code == 403


async def test_links_fit_the_path_under_which_the_pages_are_mounted(store: MemoryCheckpointer) -> None:
    await store.write(genesis(run_id="one"))

    def ada(request: Request) -> bool:
        return request.headers["x-user"] == "ada"

    app = FastAPI()
    app.mount("/runs", create_app(store, auth=ada))
    headers = {"x-user": "ada"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app, root_path="/api"), base_url="https://ops.example"
    ) as client:
        answer = await client.get("/api/runs/", headers=headers)
        assert answer.status_code == 200
        assert 'href="/api/runs/runs/one"' in answer.text
        assert 'href="/api/runs/static/app.css' in answer.text
        assert 'data-live="/api/runs/events' in answer.text
        assert "Path=/api/runs" in answer.headers["set-cookie"]


def test_a_session_proves_itself() -> None:
    access, other = (Access(auth=None, hosts=None) for _ in range(2))
    sessions = {access.open_session() for _ in range(1000)}
    assert len(sessions) == 1000
    assert all(access.knows(each) for each in sessions)  # however many have come since
    session = sessions.pop()
    nonce, _, signature = session.partition(".")
    for forged in (
        "",
        ".",
        nonce,
        f"{nonce}.",
        f".{signature}",
        f"{nonce}x.{signature}",
        f"{session}0",
        session.upper(),
        "é.\udcff",
    ):
        assert not access.knows(forged), forged
    assert not other.knows(session)
    assert access.csrf_token(session) not in session
    assert not access.knows(f"{nonce}.{access.csrf_token(nonce)}")


async def test_only_so_many_pages_are_live(store: MemoryCheckpointer) -> None:
    await store.write(genesis(run_id="one"))
    app = create_app(store, auth=lambda request: True)
    console = app.state.console

    async def listen(opened: asyncio.Event) -> int:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            opened.set()

        async def receive() -> Any:
            await asyncio.sleep(3600)

        statuses: list[int] = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/events",
            "raw_path": b"/events",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "root_path": "",
            "scheme": "http",
            "server": ("localhost", 1),
        }
        await app(scope, receive, send)
        return statuses[0]

    signs = [asyncio.Event() for _ in range(MOST_STREAMS)]
    listeners = [asyncio.create_task(listen(sign)) for sign in signs]
    async with asyncio.timeout(60):
        await asyncio.gather(*(sign.wait() for sign in signs))
        while console.streams < MOST_STREAMS:
            await asyncio.sleep(0.01)
        assert await listen(asyncio.Event()) == 503
    for each in listeners:
        each.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    async with asyncio.timeout(60):
        while console.streams:
            await asyncio.sleep(0.01)
