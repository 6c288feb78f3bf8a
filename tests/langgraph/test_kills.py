"""A process that runs a LangGraph graph is killed; another one goes on, and finished nodes stay finished."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import Place

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


def test_a_killed_graph_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    program, ledger = tmp_path / "program.py", tmp_path / "ledger"
    program.write_text(PROGRAM)

    def run(kill_at: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(program), place.url, str(ledger), str(kill_at)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    for kill_at in (3, 7, 8):
        assert run(kill_at).returncode == -signal.SIGKILL
    done = run(-1)
    assert (done.returncode, done.stdout.strip()) == (0, str(list(range(12)))), done.stderr
    assert ledger.read_text().split() == [str(n) for n in range(12)]


PARALLEL = """
import asyncio, operator, os, signal, sys
from pathlib import Path
from typing import Annotated, TypedDict
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send
from stargraph.langgraph import StargraphSaver

ledger, kill_at = Path(sys.argv[2]), int(sys.argv[3])

class State(MessagesState):
    done: Annotated[list[int], operator.add]

async def work(item):
    n = item["n"]
    if n == kill_at:
        while True:  # until what the others wrote is stored
            found = await saver.aget_tuple(config)
            if found and len({task for task, *_ in found.pending_writes}) >= 7:
                break
            await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    with ledger.open("a") as file:
        file.write(f"{n}\\n")
    return {"done": [n], "messages": [AIMessage(f"did {n}", id=f"a{n}")]}

builder = StateGraph(State)
builder.add_node("work", work)
builder.add_conditional_edges(START, lambda state: [Send("work", {"n": n}) for n in range(8)], ["work"])
builder.add_edge("work", END)

config = {"configurable": {"thread_id": "t"}}
saver = StargraphSaver.from_url(sys.argv[1])

async def main():
    async with saver:
        graph = builder.compile(checkpointer=saver)
        known = (await graph.aget_state(config)).values
        given = None if known else {"messages": [HumanMessage("go", id="h")], "done": []}
        state = await graph.ainvoke(given, config)
        print(sorted(state["done"]), len(state["messages"]))

asyncio.run(main())
"""


def test_of_parallel_tasks_only_the_killed_one_runs_again(place: Place, tmp_path: Path) -> None:
    program, ledger = tmp_path / "program.py", tmp_path / "ledger"
    program.write_text(PARALLEL)

    def run(kill_at: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(program), place.url, str(ledger), str(kill_at)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert run(5).returncode == -signal.SIGKILL
    done = run(-1)
    assert (done.returncode, done.stdout.strip()) == (0, f"{list(range(8))} 9"), done.stderr
    assert sorted(map(int, ledger.read_text().split())) == list(range(8))
