"""The page of a run and its parts: steps, states, differences, drawings, proof, files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette
from support.checkpoints import NOW, following, genesis
from support.ui_runs import HOSTILE, make_articles, make_hostile, make_long

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpoint, ErrorInfo
from stargraph.graph import Graph, GraphBuilder, respond
from stargraph.worker import Worker

FRAGMENT = {"x-fragment": "1"}


async def test_the_page_says_what_the_run_is(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path
) -> None:
    ids = await make_articles(store, folder)
    text = (await browser.get(f"/runs/{ids['waiting']}")).text
    assert "Publish the article on databases?" in text
    assert "One of: yes, no" in text
    assert '<form method="post"' not in text
    assert f"stargraph inspect {ids['waiting']} --checkpoint STORE" in text
    failed = (await browser.get(f"/runs/{ids['failed']}")).text
    assert "the printer at 10.0.0.7 does not answer" in failed
    assert "Traceback (most recent call last)" in failed


async def test_a_long_error_message_can_be_read_to_its_end(
    browser: httpx.AsyncClient, store: MemoryCheckpointer
) -> None:
    for run_id, message, details in (("short", "no", 0), ("long", f"{'x' * 900} and the end of it", 1)):
        first = genesis(run_id=run_id)
        await store.write(first)
        error = ErrorInfo(type="ValueError", message=message)
        await store.write(following(first, event="failed", status="failed", error=error))
        text = (await browser.get(f"/runs/{run_id}")).text
        whole = re.findall(r'<details id="message">.*?<pre[^>]*>(.*?)</pre>', text)
        assert whole == [message] * details


async def test_an_answer_that_nobody_has_taken_up_is_said_to_wait(
    browser: httpx.AsyncClient, store: MemoryCheckpointer
) -> None:
    builder = GraphBuilder("asking")
    builder.state(n=int, answer=(bool | None, None))
    builder.add_node("ask", "interrupt", prompt="Well?", into="answer")
    asking = Graph(builder)
    await asking.enqueue(store, {"n": 1}, run_id="queued")
    await Worker(store, asking, until_idle=True, handle_signals=False).run()
    await (await asking.start(checkpointer=store, inputs={"n": 1}, run_id="started")).start()
    for run_id, word in (("queued", "The run waits for a worker."), ("started", "the run waits until it is resumed.")):
        assert word not in (await browser.get(f"/runs/{run_id}")).text
        latest = await store.read_latest(run_id)
        assert latest is not None
        await respond(store, run_id, latest.questions[0].id, True)
        text = (await browser.get(f"/runs/{run_id}")).text
        assert word in text
        assert "and not continued yet" in text
    await Worker(store, asking, until_idle=True, handle_signals=False).run()
    assert "and not continued yet" not in (await browser.get("/runs/queued")).text


async def test_a_run_that_is_not_there_is_explained(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/runs/nothing")
    assert answer.status_code == 404
    assert "the store holds no run" in answer.text
    assert answer.text.count("lists the runs that it holds") == 1


async def test_steps_come_in_windows(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await make_long(store, 350)
    answer = await browser.get("/runs/long/steps?first=120&last=5000")
    assert re.findall(r'data-step="(\d+)"', answer.text) == [str(step) for step in range(120, 220)]
    answer = await browser.get("/runs/long/steps?first=340")
    assert re.findall(r'data-step="(\d+)"', answer.text) == [str(step) for step in range(340, 350)]


async def test_a_step_shows_what_it_changed(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await make_long(store, 10)
    text = (await browser.get("/runs/long/steps/4", headers=FRAGMENT)).text
    rows = re.findall(r'd-path"><bdi>(.*?)</bdi>.*?d-old"><bdi>(.*?)</bdi>.*?d-new"><bdi>(.*?)</bdi>', text)
    assert rows == [("count", "3", "4"), ("last", "&#34;store&#34;", "&#34;fetch&#34;")]
    answer = await browser.get("/runs/long/steps/4")
    assert (answer.status_code, answer.headers["location"]) == (303, "../../long?step=4")
    assert (await browser.get("/runs/long/steps/99", headers=FRAGMENT)).status_code == 404


async def test_any_two_steps_are_compared(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await make_long(store, 30)
    text = (await browser.get("/runs/long/diff?a=2&b=20")).text
    assert re.findall(r'd-path"><bdi>(\w+)</bdi>', text) == ["count"]
    assert "stargraph inspect long --diff 2 20" in text
    assert (await browser.get("/runs/long/diff?a=x&b=20")).status_code == 400


async def test_a_large_state_is_loaded_in_parts(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    text = "é" * 5000
    await store.write(genesis(run_id="big", state={"rows": [{"n": n} for n in range(250)], "text": text, "x": {"": 1}}))
    page = await browser.get("/runs/big")
    assert "4\u202f600 more characters" in page.text
    assert len(page.content) < 40_000
    part = await browser.get(f"/runs/big/steps/0/state?path={quote(json.dumps(['rows']))}")
    assert part.text.count("<details") == 100
    assert "offset=100" in part.text
    rest = await browser.get(f"/runs/big/steps/0/state?path={quote(json.dumps(['rows']))}&offset=200")
    assert rest.text.count("<details") == 50
    value = await browser.get(f"/runs/big/steps/0/value?path={quote(json.dumps(['text']))}")
    assert value.json() == text
    assert (await browser.get(f"/runs/big/steps/0/value?path={quote(json.dumps(['x', '']))}")).json() == 1


@pytest.mark.parametrize(
    "path", ['["no"]', '["rows", -1]', '["rows", "0"]', "rows", "{}", '["rows", 0, "n", 0]', "[[[["]
)
async def test_a_part_that_is_not_there_is_explained(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, path: str
) -> None:
    await store.write(genesis(run_id="big", state={"rows": [{"n": 1}]}))
    answer = await browser.get("/runs/big/steps/0/value", params={"path": path})
    assert (answer.status_code, "no such part" in answer.text) == (400, True)


async def test_a_state_is_searched(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    state = {"users": [{"name": "Ada"}, {"name": "Grace"}], "count": 42, "odd key": {"grace": None}}
    await store.write(genesis(run_id="one", state=state))
    text = (await browser.get("/runs/one/steps/0/find?q=grace")).text
    assert re.findall(r"<code><bdi>(.*?)</bdi>", text) == ["users[1].name", "[&#34;odd key&#34;].grace"]
    assert "count" in (await browser.get("/runs/one/steps/0/find?q=42")).text
    assert "Nothing in this state" in (await browser.get("/runs/one/steps/0/find?q=absent")).text


async def test_the_drawings_show_how_far_the_run_has_come(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path
) -> None:
    ids = await make_articles(store, folder)
    text = (await browser.get(f"/runs/{ids['waiting']}/charts")).text
    assert "draft: done, completed 4 times" in text
    assert "approve: awaiting input, completed 0 times" in text
    assert "publish: not reached" in text
    assert "for each of state.sections" in text
    assert "draft[2]: " in text
    assert "approve asks still" in text
    drawing = (await browser.get(f"/runs/{ids['waiting']}/graph.svg")).text
    assert drawing.count(">draft</text>") == 1  # its function has the same name
    for name in ("graph", "timeline"):
        file = await browser.get(f"/runs/{ids['waiting']}/{name}.svg")
        assert file.headers["content-disposition"] == f'attachment; filename="{name}.svg"'
        assert file.text.startswith("<svg xmlns=")
        assert "class=" not in file.text
    assert (await browser.get(f"/runs/{ids['waiting']}/other.svg")).status_code in (400, 404)


async def test_lineage_leads_up_and_down(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await store.write(genesis(run_id="a", parent_run_id="gone", parent_step=3, origin="fork"))
    await store.write(genesis(run_id="b", parent_run_id="a", parent_step=0, origin="fork"))
    await store.write(genesis(run_id="c", parent_run_id="b", parent_step=0, origin="subgraph"))
    text = (await browser.get("/runs/b/lineage")).text
    assert text.index("gone") < text.index(">a<") < text.index(">b<") < text.index(">c<")
    assert "is not in this store" in text


async def test_a_run_is_proved_and_taken_along(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path
) -> None:
    await make_long(store, 40)
    assert "40 steps are each what was written" in (await browser.get("/runs/long/verify")).text
    file = await browser.get("/runs/long/export")
    assert file.headers["content-disposition"] == 'attachment; filename="long.jsonl"'
    async with MemoryCheckpointer() as other:
        import io

        from stargraph.transfer import import_runs

        await import_runs(other, io.BytesIO(file.content))
        latest = await other.read_latest("long")
    assert latest is not None
    assert latest.digest == (await store.read_latest("long")).digest  # type: ignore[union-attr]


async def test_two_runs_are_compared(browser: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path) -> None:
    ids = await make_articles(store, folder)
    text = (await browser.get(f"/diff?a={ids['done']}&b={ids['rejected']}")).text
    assert "What differs between two runs" in text
    assert "published" in text
    assert (await browser.get("/diff?a=x")).status_code == 400


async def test_every_part_of_a_hostile_run_is_only_text(browser: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await make_hostile(store)
    parts = ["", "/steps", "/charts", "/lineage", "/verify", "/graph.svg", "/timeline.svg", "/diff?a=0&b=1"]
    parts += ["/steps/1/find?q=script", "/steps/1/find?q=svg", "/steps/1/state?path=[]"]
    for part in parts:
        text = (await browser.get(f"/runs/hostile{part}", headers=FRAGMENT)).text
        assert "<script>alert" not in text, part
        assert "<svg onload" not in text, part
        assert "<svg/onload" not in text, part
        assert "<img src=x" not in text, part
        assert "\u202e" not in text, part
        assert "49" not in re.findall(r"\{\{ 7\*7 \}\}|>49<", text), part
    value = await browser.get("/runs/hostile/steps/0/value")
    assert value.headers["content-type"].startswith("application/json")
    assert value.json() == HOSTILE


async def test_queues_and_workers_have_a_page(browser: httpx.AsyncClient, app: Starlette) -> None:
    text = (await browser.get("/queues")).text
    assert "No run waits in a queue" in text
    assert "stargraph worker GRAPH" in text


async def test_what_came_before_the_page_listens_is_news(app: Starlette, store: MemoryCheckpointer) -> None:
    from stargraph.ui import _sse

    await make_long(store, 10)
    steps = _sse._steps_of(app.state.console.store, "long", 4)
    assert await anext(steps) == "9"
    changes = _sse._changes_of(store, NOW)
    assert await anext(changes) == "long"


async def test_a_large_state_is_decoded_once_for_all_parts_of_a_page(
    browser: httpx.AsyncClient, store: MemoryCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_long(store, 6)
    read = store.read_latest
    reads: list[str] = []

    async def counted(run_id: str) -> Checkpoint | None:
        reads.append(run_id)
        return await read(run_id)

    monkeypatch.setattr(store, "read_latest", counted)
    for part in ("", "/steps", "/charts", "/lineage"):
        assert (await browser.get(f"/runs/long{part}")).status_code == 200
    assert reads == ["long"]
    await store.write(genesis(run_id="grows"))
    assert "<h2>Step 0" in (await browser.get("/runs/grows")).text
    first = await read("grows")
    assert first is not None
    await store.write(first.next(event="paused", status="paused", executor_id=first.executor_id, timestamp=NOW))
    assert "<h2>Step 1" in (await browser.get("/runs/grows")).text
    await store.delete_run("grows")
    assert (await browser.get("/runs/grows")).status_code == 404
