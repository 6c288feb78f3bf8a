"""A process that runs a LangGraph graph is killed; another one goes on, and finished nodes stay finished."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

PROGRAM = """
import operator, os, signal, sys
from pathlib import Path
from typing import Annotated, TypedDict
from langgraph.graph import END, START, StateGraph
from stargraph.langgraph import StargraphSaver

ledger, kill_at = Path(sys.argv[2]), int(sys.argv[3])

class State(TypedDict):
    n: int
    done: Annotated[list[int], operator.add]

def work(state):
    n = state["n"]
    if n == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    with ledger.open("a") as file:
        file.write(f"{n}\\n")
    return {"n": n + 1, "done": [n]}

builder = StateGraph(State)
builder.add_node("work", work)
builder.add_edge(START, "work")
builder.add_conditional_edges("work", lambda state: "work" if state["n"] < 12 else END)
with StargraphSaver.from_url(sys.argv[1]) as saver:
    graph = builder.compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "t"}, "recursion_limit": 100}
    known = graph.get_state(config).values
    state = graph.invoke(None if known else {"n": 0, "done": []}, config, durability="sync")
    print(state["done"])
"""


def test_a_killed_graph_goes_on_where_it_was(tmp_path: Path) -> None:
    program, ledger = tmp_path / "program.py", tmp_path / "ledger"
    program.write_text(PROGRAM)

    def run(kill_at: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(program), str(tmp_path / "run.sqlite"), str(ledger), str(kill_at)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    for kill_at in (3, 7, 8):
        assert run(kill_at).returncode == -signal.SIGKILL
    done = run(-1)
    assert (done.returncode, done.stdout.strip()) == (0, str(list(range(12)))), done.stderr
    assert ledger.read_text().split() == [str(n) for n in range(12)]
