"""Who sees the pages: one browser by its link, from this machine's names, by forms of these pages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from support.ui_runs import make_long
from ui.conftest import ORIGIN, client_of

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.ui import create_app
from stargraph.ui._security import HEADERS


async def test_nobody_sees_a_page_without_the_link(app: Starlette) -> None:
    async with client_of(app) as client:
        for path in ("/", "/runs/x", "/events", "/plot", "/nothing"):
            assert (await client.get(path)).status_code == 401
        assert (await client.get("/?token=guess")).status_code == 401


async def test_a_link_works_once_and_leaves_no_token_in_the_address(app: Starlette) -> None:
    link = app.state.link()
    async with client_of(app) as client, client_of(app) as second:
        answer = await client.get(f"{link}&status=done")
        assert (answer.status_code, answer.headers["location"]) == (303, "/?status=done")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert cookie.startswith("stargraph-ui-8123=")
        assert (await client.get("/")).status_code == 200
        assert (await second.get(link)).status_code == 401


async def test_a_link_never_leads_to_another_host(app: Starlette) -> None:
    async with client_of(app) as client:
        answer = await client.get(f"{ORIGIN}//evil.example/{app.state.link()[1:]}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/evil.example/")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8123", "127.0.0.1.evil.example", "", "[::2]"])
async def test_another_name_of_this_address_is_refused(app: Starlette, host: str) -> None:
    async with client_of(app) as client:
        assert (await client.get(app.state.link(), headers={"host": host})).status_code == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:9", "LOCALHOST"])
async def test_the_names_of_the_loopback_are_answered(app: Starlette, host: str) -> None:
    async with client_of(app) as client:
        assert (await client.get(app.state.link(), headers={"host": host})).status_code == 303


async def test_every_response_carries_the_policy(browser: httpx.AsyncClient, app: Starlette) -> None:
    async with client_of(app) as stranger:
        answers = [
            await browser.get("/"),
            await browser.get("/nothing"),
            await browser.get("/static/app.css"),
            await stranger.get("/"),
            await browser.put("/"),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 401, 405]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_page_that_fails_carries_the_policy_and_shows_no_traceback(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "s3cr3t-value"

    def broken(*args: object) -> None:
        raise RuntimeError(secret)

    monkeypatch.setattr("stargraph.ui._store.Store.opened", broken)
    answer = await browser.get("/?tag=private%3Dtag")
    assert answer.status_code == 500
    assert_headers(answer)
    assert "RuntimeError was raised" in answer.text
    assert "All runs" in answer.text
    (logged,) = [record.getMessage() for record in caplog.records if record.name == "stargraph.ui"]
    assert logged.startswith("GET /: RuntimeError\n")
    assert "in broken" in logged
    assert "Traceback" not in answer.text
    assert "test_access.py" not in answer.text
    for text in (answer.text, caplog.text):
        assert secret not in text
    assert "private" not in logged


async def test_an_error_page_that_fails_too_carries_the_policy(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("stargraph.ui._console.Console.text", broken)
    answer = await browser.get("/")
    assert (answer.status_code, answer.text) == (500, "This page failed. The log of the server says where.\n")
    assert_headers(answer)
    assert [record.name for record in caplog.records].count("stargraph.ui") == 2


async def test_a_hook_that_fails_lets_nobody_in(store: MemoryCheckpointer, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(create_app(store, auth=lambda request: request.headers["x-user"] == "ada")) as client:
        answer = await client.get("/")
    assert answer.status_code == 500
    assert answer.headers["content-type"].startswith("text/plain")
    assert_headers(answer)
    assert "KeyError" in caplog.text


async def test_a_stream_that_fails_is_cut_off_by_the_server(
    browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object) -> AsyncIterator[str]:
        yield "run"
        raise RuntimeError("half sent")

    monkeypatch.setattr("stargraph.ui._sse._changes_of", broken)
    with pytest.raises(RuntimeError, match="half sent"):
        await browser.get("/events")


def assert_headers(answer: httpx.Response) -> None:
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert answer.headers["cache-control"] == "no-store"


async def test_pages_hold_neither_inline_script_nor_style(
    browser: httpx.AsyncClient, store: MemoryCheckpointer
) -> None:
    await make_long(store, 10)
    for path in ("/", "/runs/long", "/nothing"):
        text = (await browser.get(path)).text
        assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text) == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:9999"},
        {"origin": "null"},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
    ],
)
async def test_a_form_of_another_page_is_refused(browser: httpx.AsyncClient, headers: dict[str, str]) -> None:
    token = await csrf_of(browser)
    answer = await browser.post("/runs/x/cancel", data={"csrf": token}, headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("token", ["", "0" * 64, "é", None])
async def test_a_form_without_the_token_of_the_session_is_refused(
    browser: httpx.AsyncClient, token: str | None
) -> None:
    data = {} if token is None else {"csrf": token}
    answer = await browser.post("/runs/x/cancel", data=data, headers={"origin": ORIGIN})
    assert answer.status_code == 403


async def test_the_token_of_one_session_is_not_that_of_another(app: Starlette) -> None:
    async with client_of(app) as first, client_of(app) as second:
        await first.get(app.state.link())
        await second.get(app.state.link())
        token = await csrf_of(second)
        answer = await first.post("/runs/x/cancel", data={"csrf": token}, headers={"origin": ORIGIN})
        assert answer.status_code == 403


async def test_nothing_can_be_changed_without_write(browser: httpx.AsyncClient) -> None:
    token = await csrf_of(browser)
    for action in ("answer", "cancel", "pause", "resume", "fork", "delete"):
        answer = await browser.post(f"/runs/x/{action}", data={"csrf": token}, headers={"origin": ORIGIN})
        assert answer.status_code in (404, 405)


async def test_another_site_cannot_ask_for_parts_of_pages(browser: httpx.AsyncClient) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert (await browser.get("/", headers=headers)).status_code == 403
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await browser.get("/", headers=visit)).status_code == 200


async def test_a_form_that_is_too_large_is_refused(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/runs/x/cancel", content=b"x" * 8_000_001, headers={"origin": ORIGIN})
    assert answer.status_code == 413


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_hook_decides_in_place_of_the_link(store: MemoryCheckpointer, is_async: bool) -> None:
    def allow(request: Request) -> bool:
        return request.headers.get("x-user") == "ada"

    async def allow_later(request: Request) -> bool:
        return allow(request)

    auth: Any = allow_later if is_async else allow
    app = FastAPI()
    app.mount("/console", create_app(store, auth=auth))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="https://ops.example") as client:
        assert (await client.get("/console/")).status_code == 403
        answer = await client.get("/console/", headers={"x-user": "ada"})
        assert answer.status_code == 200
        assert "Secure" in answer.headers["set-cookie"]
        assert "Path=/console" in answer.headers["set-cookie"]
        assert 'href="/console/static/app.css' in answer.text
        assert (await client.get("/console/static/app.css")).status_code == 200


async def test_a_store_that_cannot_be_opened_is_explained_without_its_password() -> None:
    app = create_app("postgresql://ada:s3cr3t-word@127.0.0.1:1/runs?connect_timeout=1", auth=lambda request: True)
    async with client_of(app) as client:
        answer = await client.get("/")
    assert answer.status_code == 500
    assert "s3cr3t-word" not in answer.text
    assert "127.0.0.1" in answer.text


async def csrf_of(client: httpx.AsyncClient) -> str:
    found = re.search(r'name="csrf" content="([0-9a-f]{64})"', (await client.get("/")).text)
    assert found is not None
    return found.group(1)
