"""A real browser on served pages; Debian's chromium, since a download of one is not always allowed."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from stargraph.ui import create_app

WAIT = 60_000
"""How long a test waits for what a page must show, in milliseconds."""

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def require_chromium() -> str:
    """Return the program, or skip the test with the reason."""
    if CHROMIUM is None:
        if os.environ.get("STARGRAPH_TESTS_REQUIRE_SERVERS"):
            pytest.fail("chromium is not installed: apt-get install chromium")
        pytest.skip("chromium is not installed: apt-get install chromium")
    return CHROMIUM


@dataclass(frozen=True)
class Served:
    """Pages that are served by a thread.

    Attributes:
        origin: their address.
        app: the app.
    """

    origin: str
    app: Any

    def link(self) -> str:
        return f"{self.origin}{self.app.state.link()}"


@contextmanager
def served(store: Path, **options: Any) -> Iterator[Served]:
    """Serve the pages of a store on a free port."""
    app = create_app(store, **options)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1, ws="none", access_log=False)
    )
    started = threading.Event()
    startup = server.startup

    async def start(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = start  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(60)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://localhost:{port}", app)
    finally:
        server.should_exit = True
        thread.join(60)


@contextmanager
def launched() -> Iterator[Browser]:
    """Start the browser."""
    program = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=2 * WAIT
        )
        yield browser
        browser.close()


@dataclass
class Seen:
    """What a browser did and complained about.

    Attributes:
        page: the page.
        complaints: what it wrote to its console, violations of the policy among them.
        hosts: the hosts that it sent requests to.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


def signed_in(context: BrowserContext, pages: Served) -> Seen:
    context.set_default_timeout(WAIT)
    seen = Seen(context.new_page())
    seen.page.on("console", lambda message: seen.complaints.append(message.text) if message.type == "error" else None)
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("request", lambda request: seen.hosts.add(request.url.split("/")[2]))
    seen.page.goto(pages.link())
    return seen


def rows(page: Page) -> list[str]:
    return [str(row.get_attribute("data-row")) for row in page.locator("tbody tr[data-row]").all()]


def in_a_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine where no loop runs: playwright keeps one in this thread."""
    found: list[Any] = []

    def run() -> None:
        found.append(asyncio.run(work))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]
