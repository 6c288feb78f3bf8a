"""What changes runs: the same calls as those of the command line, by forms of the pages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from support.checkpoints import genesis
from support.ui_runs import graph_file, make_articles

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.graph import Graph


async def latest(store: MemoryCheckpointer, run_id: str) -> Checkpoint:
    found = await store.read_latest(run_id)
    assert found is not None
    return found


async def until(store: MemoryCheckpointer, run_id: str, *statuses: str) -> Checkpoint:
    async with asyncio.timeout(60):
        while (found := await latest(store, run_id)).status not in statuses:
            await asyncio.sleep(0.01)
    return found


async def test_an_answer_is_taken_and_the_run_goes_on(
    writer: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path
) -> None:
    ids = await make_articles(store, folder)
    run_id = ids["waiting"]
    question = (await latest(store, run_id)).questions[0].id
    wrong = await writer.post(f"/runs/{run_id}/answer", data={"question": question, "value": "perhaps"})
    assert (wrong.status_code, "not one of yes, no" in wrong.text) == (400, True)
    assert f'href="/runs/{run_id}"' in wrong.text
    assert (await latest(store, run_id)).questions
    right = await writer.post(f"/runs/{run_id}/answer", data={"question": question, "value": "yes", "resume": "1"})
    assert (right.status_code, right.headers["location"]) == (303, f"/runs/{run_id}")
    done = await until(store, run_id, "done")
    assert (done.state["approved"], done.state["published"]) == (True, True)
    late = await writer.post(f"/runs/{run_id}/answer", data={"question": question, "value": "no"})
    assert "answered meanwhile" in late.text


@pytest.mark.parametrize(
    ("into", "text", "value"), [("n", "12", 12), ("s", "plain\r\ntext", "plain\ntext"), ("j", '{"a": [1]}', {"a": [1]})]
)
async def test_an_answer_has_the_type_of_its_field(
    writer: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path, into: str, text: str, value: object
) -> None:
    source = f"""\
ir_version: "1.0.0"
id: asks
state_schema:
  n: {{type: "int | None", default: null}}
  s: {{type: str, default: ""}}
  j: {{type: "dict", default: {{}}}}
nodes: [{{id: ask, kind: interrupt, prompt: "What?", into: {into}}}]
"""
    graph = Graph.from_file(graph_file(folder, source, "asks.yaml"))
    run = await graph.start(checkpointer=store, run_id="asks")
    await run.start()
    data = {"question": run.questions[0].id, "value": text}
    assert (await writer.post("/runs/asks/answer", data=data)).status_code == 303
    assert (await latest(store, "asks")).calls[0].result == value


async def test_a_run_is_resumed_paused_and_cancelled(
    writer: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path
) -> None:
    graph = Graph.from_file(folder / "counter.yaml")
    run = await graph.start(checkpointer=store, inputs={"rounds": 100_000}, run_id="counted")
    first = asyncio.create_task(run.start())
    while (await store.read_latest("counted")) is None:
        await asyncio.sleep(0.01)
    assert (await writer.post("/runs/counted/pause")).status_code == 303
    assert (await first).status == "paused"  # though another process executes it
    assert (await writer.post("/runs/counted/resume")).status_code == 303
    await until(store, "counted", "running")
    assert "starts no more nodes" in (await writer.get("/runs/counted")).text
    assert (await writer.post("/runs/counted/pause")).status_code == 303
    await until(store, "counted", "paused")
    assert (await writer.post("/runs/counted/cancel")).status_code == 303
    assert (await latest(store, "counted")).status == "cancelled"


async def test_a_pause_that_nobody_carries_out_can_be_forced(
    writer: httpx.AsyncClient, store: MemoryCheckpointer
) -> None:
    await store.write(genesis(run_id="lost"))
    assert (await writer.post("/runs/lost/pause")).status_code == 303
    page = (await writer.get("/runs/lost")).text
    assert "A pause was requested" in page
    assert "stargraph pause lost --grace 0" in page
    assert (await writer.post("/runs/lost/pause", data={"now": "1"})).status_code == 303
    assert (await latest(store, "lost")).status == "paused"


async def test_a_fork_is_stored_before_the_page_shows_it(
    writer: httpx.AsyncClient, store: MemoryCheckpointer, folder: Path
) -> None:
    ids = await make_articles(store, folder)
    ended = {each.last_node: each.step async for each in store.history(ids["done"]) if each.event == "completed"}
    # Of two nodes that run side by side, either may end first.
    step = str(max(ended["facts"], ended["style"]))
    data = {"step": step, "path": "score", "value": "0.1"}
    answer = await writer.post(f"/runs/{ids['done']}/fork", data=data)
    assert answer.status_code == 303
    fork_id = answer.headers["location"].partition("&b=")[2]
    fork = await until(store, fork_id, "awaiting_input")
    assert (fork.parent_run_id, fork.state["score"]) == (ids["done"], 0.1)
    assert "score" in (await writer.get(answer.headers["location"])).text
    output = {"step": str(ended["facts"] - 1), "node": "facts", "output": '{"facts": {"checked": 0}}'}
    other = await writer.post(f"/runs/{ids['done']}/fork", data=output)
    assert other.status_code == 303
    for text in ("high", "NaN", '{"a": 1, "a": 2}'):
        refused = await writer.post(f"/runs/{ids['done']}/fork", data={"step": step, "path": "score", "value": text})
        assert "is not JSON" in refused.text


async def test_a_graph_that_is_not_loaded_is_named(writer: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await store.write(genesis(run_id="other"))
    answer = await writer.post("/runs/other/resume")
    assert "stargraph ui --write --graph GRAPH" in answer.text


async def test_a_run_is_left_to_the_workers(writer: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await store.write(genesis(run_id="lost"))
    assert (await writer.post("/runs/lost/requeue", data={"queue": "nightly"})).status_code == 303
    found = await latest(store, "lost")
    assert found.queue is not None
    assert (found.status, found.queue.name) == ("queued", "nightly")


async def test_only_the_whole_id_confirms_a_deletion(writer: httpx.AsyncClient, store: MemoryCheckpointer) -> None:
    await store.write(genesis(run_id="old"))
    await writer.get("/runs/old")
    for text in ("", "ol", "OLD"):
        assert "was not deleted" in (await writer.post("/runs/old/delete", data={"confirm": text})).text
    assert (await writer.post("/runs/old/delete", data={"confirm": "old"})).status_code == 303
    assert await store.read_latest("old") is None
    assert (await writer.get("/runs/old/steps/0/value")).status_code == 404
