"""Measures the pages of large stores in Chromium: `make ui-measures`, which prints the table of docs/ui.md."""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psutil  # type: ignore[import-untyped]
from playwright.sync_api import Browser, sync_playwright

from stargraph.checkpoint.protocol import Checkpointer, ErrorInfo
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.runtime import dispatch
from support.checkpoints import EXECUTOR, genesis
from support.ui_browser import require_chromium
from support.ui_runs import make_long

RUNS: Final = 200_000
_BATCH: Final = 500
"""Runs that are stored at a time: a driver commits them together."""

_LISTS: Final = {
    "the list": "/",
    "its second page": "next",
    "one status": "/?status=failed",
    "one graph": "/?graph=graph-3",
    "a tag": "/?tag=team=t3",
    "started in the last day": "/?since=24h",
    "idle for a day, by latest step": "/?idle=24h&order=updated",
    "an error reason": "/?reason=reason-2",
    "the beginning of an id": "/?id=run-0199",
    "a text that some runs have": "/?q=customer-77",
    "a text that no run has": "/?q=nowhere",
}


async def fill_list(store: Checkpointer, count: int = RUNS) -> None:
    """Store that many runs of the last thirty days: nine in ten are done, and each has two tags."""
    chance = random.Random(20_261_128)
    span, end = timedelta(days=30), datetime.now(UTC)
    batch = []
    for number in range(count):
        start = end - span + span * number / count
        first = genesis(
            run_id=f"run-{number:07}",
            graph_id=f"graph-{number % 7}",
            timestamp=start,
            metadata={"team": f"t{number % 5}", "customer": f"customer-{chance.randrange(5000)}"},
        )
        at = start + timedelta(seconds=chance.random() * 600)
        ends: dict[str, Any] = {"event": "completed", "status": "done", "frontier": ()}
        if chance.random() < 0.1:
            status = chance.choice(("failed", "running", "paused", "cancelled"))
            event = "completed" if status == "running" else status
            ends = {"event": event, "status": status}
            if status == "failed":
                reason = f"reason-{number % 3}"
                ends["error"] = ErrorInfo(type="ValueError", message=f"customer {number} is unknown", reason=reason)
        batch.append([first, first.next(executor_id=EXECUTOR, timestamp=at, **ends)])
        if len(batch) >= _BATCH or number == count - 1:
            await asyncio.gather(*(dispatch.write_many(store, run) for run in batch))
            batch = []


async def fill(url: str, what: str) -> None:
    """Make one of the stores that are measured."""
    store = open_checkpointer(url)
    await store.bootstrap()
    try:
        if what == "list":
            await fill_list(store)
        else:
            await make_long(store, 20_000)
            await make_long(store, 3, run_id="large", state_bytes=20_000_000)
    finally:
        await store.close()


@contextmanager
def _served(url: str) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a store as a person does; yield the link, and the process."""
    command = [sys.executable, "-m", "stargraph", "ui", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        link = next(line.split()[1] for line in process.stdout if line.startswith("open "))
        try:
            yield link, psutil.Process(process.pid)
        finally:
            process.terminate()


def measure(browser: Browser, url: str, paths: dict[str, str]) -> None:
    """Print a row of the table for each page: in a new server for the first figure, again for the second."""
    for name, path in paths.items():
        with _served(url) as (link, process):
            page = browser.new_page()
            page.goto(link)
            origin = link.partition("/?")[0]
            if path == "next":
                page.locator("a[rel=next]").click()
                page.wait_for_load_state()
                path = page.url.removeprefix(origin)
            figures: list[tuple[float, float]] = []
            size = 0.0
            for _ in range(2):
                began = sum(process.cpu_times()[:2])
                answer = page.goto(origin + path)
                assert answer is not None
                size = len(answer.body()) / 1000
                paint = page.evaluate(
                    "() => new Promise(done => { const known = performance.getEntriesByName('first-contentful-paint');"
                    " if (known.length) done(known[0].startTime); else new PerformanceObserver(list => {"
                    " for (const each of list.getEntriesByName('first-contentful-paint')) done(each.startTime); })"
                    ".observe({type: 'paint', buffered: true}); })"
                )
                page.wait_for_timeout(1500)  # what the page loads after its first paint
                figures.append((paint / 1000, sum(process.cpu_times()[:2]) - began))
            resident = process.memory_info().rss / 1e6
            painted = " | ".join(f"{each[0]:.2f} s" for each in figures)
            spent = " | ".join(f"{each[1]:.2f} s" for each in figures)
            print(f"| {name} | {painted} | {spent} | {size:.0f} kB | {resident:.0f} MB |", flush=True)
            page.close()


def main() -> None:
    """Make the stores, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", help="measure the lists of this store, filled already, such as a PostgreSQL URL")
    parser.add_argument("--fill", action="store_true", help="fill --store first")
    given = parser.parse_args()
    print("| page | first paint | again | CPU of the server | again | HTML | memory of the server |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_chromium(), args=["--no-sandbox"])
        runs = {"a run of 20,000 steps": "/runs/long", "a run with a state of 20 MB": "/runs/large"}
        if given.store is None:
            large, given.store, given.fill = f"{folder}/large.sqlite", f"{folder}/list.sqlite", True
            _in_a_process(large, "large")
            measure(browser, large, runs)
        if given.fill:
            _in_a_process(given.store, "list")
        measure(browser, given.store, _LISTS)
        browser.close()


def _in_a_process(url: str, what: str) -> None:
    """Fill a store in a process of its own: playwright keeps a loop in this one."""
    text = f"import asyncio; from support.ui_measures import fill; asyncio.run(fill({url!r}, {what!r}))"
    subprocess.run([sys.executable, "-c", text], check=True)


if __name__ == "__main__":
    main()
