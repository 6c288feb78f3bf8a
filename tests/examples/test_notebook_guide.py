"""The cells of docs/notebooks.md in a real kernel, and what a person does there besides."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.documents import blocks_of
from support.workspace import ROOT

pytestmark = pytest.mark.thorough

AGAIN = """
try:
    graph.run_sync(checkpointer=store, inputs={"numbers": [1]}, run_id="monday")
except Exception as error:
    print(error.reason)
"""
CHANGED = """
builder = GraphBuilder("report")
builder.state(numbers=list[int], total=(int, 0), publish=(bool | None, None))


@builder.node
def add_up(state):
    return {"total": sum(state.numbers)}


builder.add_node("ask", "interrupt", prompt="Publish {total}?", into="publish")


@builder.node
def end(state):
    return {"total": -state.total}


changed = Graph(builder)
waiting = graph.run_sync(checkpointer=store, inputs={"numbers": [2]})
changed.respond_sync(waiting.run_id, waiting.questions[0], False, checkpointer=store)
try:
    changed.resume_sync(waiting.run_id, checkpointer=store)
except Exception as error:
    print(error.reason)
print(changed.resume_sync(waiting.run_id, checkpointer=store, accept=("runtime",)).state)
"""
STOPPED = """
import asyncio, os, signal, threading

slow = GraphBuilder("slow")


@slow.node
async def wait(state):
    if len(waits) < 2:
        waits.append(1)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        await asyncio.sleep(60)


waits = [1]
slow_graph = Graph(slow)
try:
    slow_graph.run_sync(checkpointer=store, run_id="slow")
except KeyboardInterrupt:
    print("stopped")
print(slow_graph.resume_sync("slow", checkpointer=store).status)
"""


def outputs(cell: nbformat.NotebookNode) -> str:
    """Return what a cell printed and showed, without its warnings: whether one is repeated depends on other modules."""
    shown = [each for each in cell.outputs if each.get("name") != "stderr"]
    return "".join(each.get("text", "") or each.get("data", {}).get("text/plain", "") for each in shown)


def test_the_cells_run_and_a_person_goes_on(tmp_path: Path) -> None:
    guide = [block.text for block in blocks_of((ROOT / "docs/notebooks.md").read_text()) if block.language == "python"]
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    notebook.cells = [nbformat.v4.new_code_cell(text) for text in (*guide, AGAIN, CHANGED, STOPPED)]  # type: ignore[no-untyped-call]
    NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    _, started, ended, live, again, changed, stopped = map(outputs, notebook.cells)
    warned = "".join(each.get("text", "") for each in notebook.cells[0].outputs)
    assert "'add_up', 'end': defined in this session, so only this session can resume" in warned
    assert started == "('awaiting_input', 'Publish 6?')"
    assert ended == "RunResult(run_id='monday', status='done', last_step=6)"
    assert "1 completed add_up {'total': 9}" in live
    assert again == "run-exists\n"
    assert changed == "runtime-hash\n{'numbers': [2], 'total': -2, 'publish': False}\n"
    assert stopped == "stopped\ndone\n"
