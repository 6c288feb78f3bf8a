"""Graphs in programs that are not async: scripts, threads, prompts, notebooks, and beside a loop that runs already."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import StargraphError
from stargraph.graph import Graph, GraphBuilder

builder = GraphBuilder("sync")
builder.state(n=(int, 0), yes=(bool | None, None))


@builder.node
def count(state):  # type: ignore[no-untyped-def]
    return {"n": state.n + 1}


builder.add_node("ask", "interrupt", prompt="Go on from {n}?", into="yes")


@builder.node
async def last(state):  # type: ignore[no-untyped-def]
    return {"n": state.n * 10}


graph = Graph(builder)


def to_the_end(store: SQLiteCheckpointer | MemoryCheckpointer, run_id: str) -> dict[str, object]:
    result = graph.run_sync(checkpointer=store, inputs={"n": 1}, run_id=run_id)
    assert result.status == "awaiting_input"
    graph.respond_sync(run_id, result.questions[0], True, checkpointer=store)
    done = graph.resume_sync(run_id, checkpointer=store)
    assert done.status == "done"
    return dict(done.state)


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    assert to_the_end(SQLiteCheckpointer(tmp_path / "run.sqlite"), "r") == {"n": 20, "yes": True}


def test_runs_of_many_threads_share_a_store(tmp_path: Path) -> None:
    store = SQLiteCheckpointer(tmp_path / "run.sqlite")
    found: dict[str, dict[str, object]] = {}

    def work(name: str) -> None:
        found[name] = to_the_end(store, name)

    threads = [threading.Thread(target=work, args=(f"r{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {f"r{number}": {"n": 20, "yes": True} for number in range(8)}


async def test_beside_a_loop_that_runs() -> None:
    assert to_the_end(MemoryCheckpointer(), "r") == {"n": 20, "yes": True}


def test_a_known_run_is_resumed_if_wanted(tmp_path: Path) -> None:
    store = SQLiteCheckpointer(tmp_path / "run.sqlite")
    first = graph.run_sync(checkpointer=store, inputs={"n": 1}, run_id="r", resume=True)
    again = graph.run_sync(checkpointer=store, inputs={"n": 5}, run_id="r", resume=True)
    assert (first.state["n"], again.state["n"]) == (2, 2)
    with pytest.raises(StargraphError, match="exists already"):
        graph.run_sync(checkpointer=store, inputs={"n": 5}, run_id="r")


def test_a_wait_is_waited_for_if_wanted(tmp_path: Path) -> None:
    store = SQLiteCheckpointer(tmp_path / "run.sqlite")
    long = Graph(GraphBuilder("long").add_node("wait", "wait", seconds=3600))
    assert long.run_sync(checkpointer=store, run_id="long").status == "awaiting_input"
    waiting = Graph(GraphBuilder("waiting").add_node("wait", "wait", seconds=0.3))
    # On a busy machine the wait may be over before the run can end.
    assert waiting.run_sync(checkpointer=store, run_id="r").status in ("awaiting_input", "done")
    assert waiting.resume_sync("r", checkpointer=store, wait=True).status == "done"
    result = waiting.run_sync(checkpointer=store, run_id="w", wait=True)
    assert str(result) == repr(result) == "RunResult(run_id='w', status='done', last_step=3)"


nested = GraphBuilder("nested")


@nested.node
async def waits_for_itself(state):  # type: ignore[no-untyped-def]
    graph.run_sync(checkpointer=MemoryCheckpointer(), inputs={"n": 1})


@nested.node(id="fine")
def in_a_thread(state):  # type: ignore[no-untyped-def]
    return {"found": to_the_end(MemoryCheckpointer(), "inner")}


def test_an_async_node_is_told_and_a_sync_one_may() -> None:
    failed = Graph(nested).run_sync(checkpointer=MemoryCheckpointer())
    assert failed.error is not None
    assert failed.error.reason == "sync-in-async"
    only_sync = Graph(GraphBuilder("only").add_node("fine", f"{__name__}:in_a_thread"))
    assert only_sync.run_sync(checkpointer=MemoryCheckpointer()).state == {"found": {"n": 20, "yes": True}}


PROGRAM = """
import sys, time
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.graph import Graph, GraphBuilder

builder = GraphBuilder("slow")
builder.state(done=(list[str], []))

@builder.node
def first(state):
    return {"done": ["first"]}

@builder.node
async def second(state):
    import asyncio
    print("waiting", flush=True)
    await asyncio.sleep(0 if "quick" in sys.argv else 60)
    return {"done": [*state.done, "second"]}

result = Graph(builder).run_sync(checkpointer=SQLiteCheckpointer("run.sqlite"), run_id="r", resume=True)
print(result.status, result.state)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_script_that_was_stopped_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "slow.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -number
    if number == signal.SIGINT:
        assert errors.splitlines()[-1] == "KeyboardInterrupt"
        assert "Task was destroyed" not in errors
    again = subprocess.run(
        [sys.executable, "slow.py", "quick"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert again.stdout == "waiting\ndone {'done': ['first', 'second']}\n"
    assert again.stderr == ""


@pytest.mark.thorough
def test_a_session_without_a_file(tmp_path: Path) -> None:
    text = PROGRAM.replace('"quick" in sys.argv', "True")
    ran = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=text + "\n",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "done {'done': ['first', 'second']}" in ran.stdout
    assert "'first', 'second': defined in this session" in ran.stderr
    elsewhere = textwrap.dedent("""
        from stargraph.graph import Graph
        from stargraph.ir import GraphBuilder
        Graph(GraphBuilder("slow").add_node("first", "__main__:first"))
    """)
    words = [sys.executable, "-c", elsewhere]
    other = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert "'first' was defined in a session that no file holds" in other.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_has_a_loop_of_its_own() -> None:
    assert to_the_end(MemoryCheckpointer(), "r")["n"] == 20
    child = os.fork()
    if child == 0:
        worker = threading.Thread(target=to_the_end, args=(MemoryCheckpointer(), "r"), daemon=True)
        worker.start()
        worker.join(60)
        os._exit(1 if worker.is_alive() else 0)
    deadline = time.monotonic() + 60
    while (status := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status[1]) == 0


def test_a_checkpointer_of_another_loop_works_or_is_refused(tmp_path: Path) -> None:
    store = SQLiteCheckpointer(tmp_path / "run.sqlite")
    asyncio.run(store.bootstrap())
    assert to_the_end(store, "r") == {"n": 20, "yes": True}
    asyncio.run(store.close())
