"""A real browser on served pages; Debian's chromium, since a download of one is not always allowed."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from stargraph.ui import create_app

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
    assert started.wait(30)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://localhost:{port}", app)
    finally:
        server.should_exit = True
        thread.join(20)
