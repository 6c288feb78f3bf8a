"""The list of runs: what it finds, its pages, and what it says if there is nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from support.checkpoints import genesis
from support.ui_runs import make_articles, make_hostile, make_long

from stargraph.checkpoint.memory import MemoryCheckpointer


def listed(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200
    return re.findall(r'<tr data-row="([^"]+)"', answer.text)


async def test_an_empty_store_says_what_to_do(browser: httpx.AsyncClient) -> None:
    text = (await browser.get("/")).text
    assert "holds no runs yet" in text
    assert "stargraph run graph.yaml" in text


async def test_filters_stand_in_the_address(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path
) -> None:
    ids = await make_articles(store, folder)
    await make_long(store, 3)
    assert set(listed(await browser.get("/"))) == {*ids.values(), "long"}
    assert listed(await browser.get("/?status=awaiting_input")) == [ids["waiting"]]
    assert set(listed(await browser.get("/?status=failed&status=cancelled"))) == {ids["failed"], ids["cancelled"]}
    assert listed(await browser.get("/?graph=loop")) == ["long"]
    assert listed(await browser.get("/?tag=kind=done desk=tech")) == [ids["done"]]
    assert listed(await browser.get("/?id=wait")) == [ids["waiting"]]
    assert listed(await browser.get("/?since=1h&graph=loop")) == []
    assert listed(await browser.get("/?idle=30d")) == ["long"]
    assert "Clear all filters" in (await browser.get("/?graph=none")).text


@pytest.mark.parametrize("query", ["status=nonsense", "since=yesterday", "tag=novalue", "cursor=nonsense"])
async def test_a_filter_that_makes_no_sense_is_explained_in_place(browser: httpx.AsyncClient, query: str) -> None:
    answer = await browser.get(f"/?{query}")
    assert answer.status_code == 200
    assert "This search cannot be done." in answer.text


async def test_pages_follow_one_another(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    for number in range(120):
        await store.write(genesis(run_id=f"run-{number:03}"))
    seen: list[str] = []
    path = "/?graph=triage"
    for _ in range(3):
        answer = await browser.get(path)
        seen += listed(answer)
        found = re.search(r'rel="next" href="(\?[^"]+)"', answer.text)
        path = "/" + found.group(1).replace("&amp;", "&") if found else ""
    assert path == ""
    assert seen == [f"run-{number:03}" for number in range(120)]


async def test_child_runs_are_loaded_below_their_parent(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await store.write(genesis(run_id="parent"))
    await store.write(genesis(run_id="child", parent_run_id="parent", parent_step=0, origin="subgraph"))
    assert listed(await browser.get("/?roots=1")) == ["parent"]
    answer = await browser.get("/runs/parent/children")
    assert listed(answer) == ["child"]
    assert 'data-depth="1"' in answer.text
    assert "no child runs" in (await browser.get("/runs/child/children?depth=2")).text


async def test_the_plot_counts_what_started_in_its_range(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path
) -> None:
    await make_articles(store, folder)
    await make_long(store, 3)  # of January
    text = (await browser.get("/plot?range=1h")).text
    assert "Runs by when they started:" in text
    counted = {
        status: int(number) for number, status in re.findall(r"(\d+) ([a-z ]+?)(?:,|\")", text.split("aria-label")[1])
    }
    assert counted == {"awaiting input": 1, "done": 2, "failed": 1, "cancelled": 1}
    file = await browser.get("/plot.svg?range=1h")
    assert file.headers["content-disposition"] == 'attachment; filename="runs.svg"'
    assert file.text.startswith("<svg xmlns=")
    assert "class=" not in file.text


async def test_hostile_runs_are_only_text(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await make_hostile(store)
    text = (await browser.get("/")).text
    assert "hostile" in listed(await browser.get("/"))
    assert "<script>alert" not in text
    assert "<b>tag</b>" not in text


class Plain:
    """A store with the five methods of the contract alone."""

    def __init__(self, store: Any) -> None:
        for name in ("bootstrap", "write", "read_latest", "read_at_step", "list_runs"):
            setattr(self, name, getattr(store, name))


async def test_a_store_that_cannot_search_is_still_listed(store: MemoryCheckpointer) -> None:
    from ui.conftest import client_of

    from stargraph.ui import create_app

    await store.write(genesis(run_id="one"))
    plain: Any = Plain(store)
    app: Starlette = create_app(plain, auth=lambda request: True)
    async with client_of(app) as client:
        assert listed(await client.get("/")) == ["one"]
        assert "lacks the capability RunSearch" in (await client.get("/?status=done")).text


async def test_a_text_is_found_wherever_the_list_shows_it(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path
) -> None:
    ids = await make_articles(store, folder)
    await make_long(store, 3)
    assert listed(await browser.get("/?q=long")) == ["long"]
    assert listed(await browser.get("/?q=LOOP")) == ["long"]
    assert listed(await browser.get("/?q=kind=wait")) == [ids["waiting"]]
    failed = (await store.search(status="failed")).items[0]
    assert failed.error is not None
    word = failed.error.message.split()[0]
    assert ids["failed"] in listed(await browser.get("/", params={"q": word}))
    assert listed(await browser.get("/", params={"q": f"{word} tech nowhere"})) == []
    assert listed(await browser.get("/?q=tech&status=cancelled")) == [ids["cancelled"]]
    text = (await browser.get("/?q=tech")).text
    assert "of 6 runs" in text
    assert "there are no more" in text
    assert 'class="plot"' not in text


async def test_a_text_is_looked_for_up_to_a_bound_and_further_on_demand(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stargraph.ui._text_search._AT_A_TIME", 20)
    monkeypatch.setattr("stargraph.ui._text_search.MOST_RUNS", 60)
    monkeypatch.setattr("stargraph.ui._text_search.MOST_SECONDS", 3600.0)
    for number in range(150):
        metadata = {"customer": "ada"} if number in (100, 149) else {}
        await store.write(genesis(run_id=f"run-{number:03}", metadata=metadata))
    first = await browser.get("/?q=ada")
    assert listed(first) == []
    assert "Not found so far." in first.text
    assert "of 60 runs" in first.text
    seen: list[str] = []
    looked = 0
    path = "/?q=ada"
    while path:
        answer = await browser.get(path)
        seen += listed(answer)
        looked += int(re.findall(r"of (\d+) runs", answer.text)[0])
        found = re.search(r'rel="next" href="(\?[^"]+)"', answer.text)
        path = "/" + found.group(1).replace("&amp;", "&") if found else ""
    assert (seen, looked) == (["run-100", "run-149"], 150)
    # An id that was pasted is found at once, however old its run is.
    assert listed(await browser.get("/?q=run-149"))[0] == "run-149"
    many = listed(await browser.get("/?q=run-"))
    assert many == [f"run-{number:03}" for number in range(60)]


async def test_a_store_that_is_slow_is_searched_for_a_while(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stargraph.ui._text_search._AT_A_TIME", 20)
    monkeypatch.setattr("stargraph.ui._text_search.MOST_SECONDS", -1.0)
    for number in range(50):
        await store.write(genesis(run_id=f"run-{number:03}"))
    assert "of 20 runs" in (await browser.get("/?q=nowhere")).text
