"""One run as one file, the command that serves the pages, and threads of LangGraph."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
from collections.abc import Iterator
from datetime import datetime, tzinfo
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from langgraph.graph import START, MessagesState, StateGraph
from support.cli import Folder, own_folder
from support.ui_runs import make_articles, make_hostile
from ui.conftest import client_of

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.cli import _ui
from stargraph.langgraph import StargraphSaver
from stargraph.ui import create_app
from stargraph.ui._page import render_page


class Links(HTMLParser):
    """Collects what a page would load or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [pair for pair in attrs if pair[0] in ("href", "src", "action") or pair[0].startswith("on")]


async def test_a_page_of_a_run_needs_nothing_else(store: MemoryCheckpointer, folder: Path) -> None:
    ids = await make_articles(store, folder)
    await make_hostile(store)
    for run_id in (ids["failed"], ids["waiting"], "hostile"):
        page = await render_page(store, run_id)
        links = Links()
        links.feed(page)
        assert links.found == []
        assert not links.tags & {"script", "link", "img", "iframe", "object"}
        style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
        assert style is not None
        digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
        assert f"style-src &#39;sha256-{digest}&#39;" in page
    assert "the printer at 10.0.0.7 does not answer" in await render_page(store, ids["failed"])
    assert "Publish the article on databases?" in await render_page(store, ids["waiting"])


class StandingClock(datetime):
    """A run that goes on has lasted longer in the second of two pages."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2026, 11, 28, 12, tzinfo=tz)


def test_inspect_writes_the_page(folder_of_commands: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stargraph.ui._timeline_svg.datetime", StandingClock)

    async def fill() -> None:
        async with SQLiteCheckpointer(tmp_path / "runs.sqlite") as store:
            await make_hostile(store)

    asyncio.run(fill())
    file = tmp_path / "run.html"
    shown = folder_of_commands.call(
        "inspect", "hostile", "--html", str(file), "--checkpoint", str(tmp_path / "runs.sqlite")
    )
    assert (shown.code, "read it before you send it on" in shown.out) == (0, True)
    assert file.read_text().startswith("<!doctype html>")
    assert file.stat().st_mode & 0o077 == 0  # it holds states
    where = ["--checkpoint", str(tmp_path / "runs.sqlite")]
    printed = folder_of_commands.call("inspect", "hostile", "--html", "-", *where)
    assert (printed.code, printed.out.strip()) == (0, file.read_text().strip())
    for wrong in (tmp_path / "no/run.html", tmp_path):
        refused = folder_of_commands.call("inspect", "hostile", "--html", str(wrong), *where)
        assert (refused.code, refused.err.count("\n")) == (2, 2), refused


@pytest.fixture
def folder_of_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    for name in [name for name in os.environ if name.startswith("STARGRAPH_")]:
        monkeypatch.delenv(name)
    with own_folder(tmp_path) as found:
        yield found


@pytest.mark.parametrize("words", [["ui"], ["inspect", "--html", "x.html"]])
def test_a_missing_package_is_one_line(
    folder_of_commands: Folder, monkeypatch: pytest.MonkeyPatch, words: list[str], tmp_path: Path
) -> None:
    async def fill() -> None:
        async with SQLiteCheckpointer(tmp_path / "runs.sqlite") as store:
            await make_hostile(store)

    asyncio.run(fill())
    monkeypatch.setattr(_ui, "ENTRY_POINT_GROUP", "stargraph.ui-that-is-not-there")
    monkeypatch.setenv("STARGRAPH_CHECKPOINT", str(tmp_path / "runs.sqlite"))
    shown = folder_of_commands.call(*words)
    assert shown.code != 0
    assert "pip install stargraph-ui" in shown.err


async def test_a_thread_is_shown_as_a_conversation(tmp_path: Path) -> None:
    builder: Any = StateGraph(MessagesState)
    builder.add_node("reply", lambda state: {"messages": [("ai", "hello <b>yourself</b>")]})
    builder.add_edge(START, "reply")
    address = f"sqlite:///{tmp_path / 'threads.sqlite'}"
    async with StargraphSaver.from_url(address) as saver:
        graph = builder.compile(checkpointer=saver)
        await graph.ainvoke({"messages": [("human", "hello")]}, {"configurable": {"thread_id": "1"}})
    app = create_app(address, auth=lambda request: True)
    async with client_of(app) as client, app.router.lifespan_context(app):
        listing = await client.get("/?tag=thread_id=1")
        (run_id,) = re.findall(r'<tr data-row="([^"]+)"', listing.text)
        assert f"/runs/{run_id}/messages" in (await client.get(f"/runs/{run_id}")).text
        text = (await client.get(f"/runs/{run_id}/messages")).text
    assert re.findall(r'class="role"><bdi>(\w+)', text) == ["human", "ai"]
    assert "hello &lt;b&gt;yourself&lt;/b&gt;" in text


async def test_a_thread_needs_no_messages(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await make_hostile(store)
    assert "no messages that can be read" in (await browser.get("/runs/hostile/messages")).text
