"""Takes the pictures of docs/ui.md: `make screenshots`."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page, sync_playwright

from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Graph
from support.ui_browser import Served, require_chromium, served
from support.ui_runs import COUNTER, graph_file, make_articles, make_hostile, make_long, make_queued, make_schedules

PICTURES: Final = Path(__file__).resolve().parents[2] / "docs" / "ui"


async def fill(file: Path, folder: Path) -> dict[str, str]:
    """Make the store that is photographed."""
    async with SQLiteCheckpointer(file) as store:
        await make_long(store, 400, run_id="nightly-import")
        counter = Graph.from_file(graph_file(folder, COUNTER, "counter.yaml"))
        await (await counter.start(checkpointer=store, inputs={"rounds": 30}, run_id="counting")).start()
        await make_hostile(store, "hostile-texts")
        await make_queued(store)
        await make_schedules(store)
        for _ in range(3):
            ids = await make_articles(store, folder)
    return ids


def main() -> None:
    """Write the pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "runs.sqlite"
        found: list[dict[str, str]] = []
        thread = threading.Thread(target=lambda: found.append(asyncio.run(fill(file, folder))))
        thread.start()
        thread.join()
        os.chdir(folder)  # commands on the pages name the store as a person would
        with (
            served(Path("runs.sqlite"), write=True, graphs=[folder / "article.yaml"]) as pages,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=require_chromium(), args=["--no-sandbox"])
            _take_all(browser, pages, found[0])
            browser.close()


def _take_all(browser: Any, pages: Served, ids: dict[str, str]) -> None:
    light = _page(browser, pages, 1160, "light")
    _take(light, pages, "/", "runs")
    _take(light, pages, f"/runs/{ids['failed']}", "run", height=1500)
    _take(light, pages, f"/runs/{ids['waiting']}", "question", height=760)
    light.goto(f"{pages.origin}/runs/{ids['done']}?step=13")
    light.get_by_text("Fork from this step").click()
    light.get_by_label("Field of the state").fill("score")
    light.get_by_label("Its value, as JSON").fill("0.1")
    light.get_by_role("button", name="Fork and run").click()
    light.wait_for_url("**/diff?a=*")
    _take(light, pages, light.url.removeprefix(pages.origin), "compare", height=820)
    _take(light, pages, "/queues", "queues", height=900)
    _take(light, pages, "/schedules", "schedules", height=700)
    dark = _page(browser, pages, 1160, "dark")
    _take(dark, pages, f"/runs/{ids['done']}?step=12", "dark", height=1200)
    narrow = _page(browser, pages, 400, "light")
    _take(narrow, pages, f"/runs/{ids['waiting']}", "narrow", height=1100)


def _page(browser: Any, pages: Served, width: int, scheme: str) -> Page:
    context = browser.new_context(viewport={"width": width, "height": 760}, color_scheme=scheme, locale="en-GB")
    page: Page = context.new_page()
    page.goto(pages.link())
    return page


def _take(page: Page, pages: Served, path: str, name: str, height: int = 720) -> None:
    width = page.viewport_size["width"] if page.viewport_size else 1160
    page.set_viewport_size({"width": width, "height": height})
    page.goto(f"{pages.origin}{path}")
    page.wait_for_timeout(1500)
    page.screenshot(path=str(PICTURES / f"{name}.png"))


if __name__ == "__main__":
    main()
