"""What type checkers know of a graph in Python: the state in nodes, of runs and of results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.workspace import ROOT

pytestmark = pytest.mark.thorough

PROGRAM = """\
from dataclasses import dataclass
from typing import Any, TypedDict

from pydantic import BaseModel

from stargraph.checkpoint.protocol import Checkpointer
from stargraph.graph import Context, Graph, GraphBuilder, Run, RunResult


@dataclass
class Order:
    total: float = 0.0


class Model(BaseModel):
    name: str = ""


class Table(TypedDict):
    rows: list[int]


builder = GraphBuilder("order", Order)


@builder.node
def add_up(state: Order) -> dict[str, Any]:
    return {"total": state.total + 1}


@builder.node(timeout=3)
async def confirm(state: Order, ctx: Context) -> Order:
    return Order(total=state.total)


@builder.node
def context_first(ctx: Context, state: Order) -> None: ...


@builder.node
def untyped(state):  # type: ignore[no-untyped-def]
    return None


@builder.node
class Step:
    def execute(self, state: Order) -> None: ...


builder.after(add_up, when="state.total > 1.0").goto(confirm)
graph = Graph(builder)


async def main(store: Checkpointer) -> None:
    run = await graph.start(checkpointer=store, inputs={"total": 1.0})
    result = await run.start()
    reveal_type(result.state)
    reveal_type(run.state)
    reveal_type((await run.resume()).state)
    reveal_type(result.raise_for_status().state)
    reveal_type(graph.run_sync(checkpointer=store).state)
    reveal_type((await graph.start_or_resume(checkpointer=store, run_id="r")).state)
    reveal_type(add_up(Order()))
    reveal_type(Graph(GraphBuilder("m", Model)).run_sync(checkpointer=store).state)
    reveal_type(Graph(GraphBuilder("t", Table)).run_sync(checkpointer=store).state)
    reveal_type(Graph(GraphBuilder("any")).run_sync(checkpointer=store).state)
    reveal_type(Graph.from_file("g.yaml").run_sync(checkpointer=store).state)


def bare(graph: Graph, run: Run, result: RunResult) -> None: ...


def own(run: Run[Order], result: RunResult[Order]) -> float:
    return result.state.total if run.state is None else run.state.total
"""

REVEALED = [
    "Order",
    "Order | None",
    "Order",
    "Order",
    "Order",
    "Order | None",
    "dict[str, Any]",
    "Model",
    "Table",
    "Any",
    "Any",
]

WRONG = """\
from dataclasses import dataclass

from stargraph.graph import Context, Graph, GraphBuilder


@dataclass
class Order:
    total: float = 0.0


class Other: ...


builder = GraphBuilder("order", Order)


@builder.node  # 1
def wrong(state: Other) -> None: ...


@builder.node(timeout=2)  # 2
async def wrong_too(state: Other, ctx: Context) -> None: ...


def read(graph: Graph[Order]) -> str:
    return graph.ir.idd  # 3
"""


def checked(tool: str, file: Path) -> str:
    words = {
        "mypy": [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(file.parent / "cache"), str(file)],
        "pyright": [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(file)],
    }
    ran = subprocess.run(words[tool], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    return ran.stdout


@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_the_class_of_the_state_is_known(tmp_path: Path, tool: str) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    told = checked(tool, file)
    revealed = re.findall(r'(?:Revealed type is|Type of ".*" is) "(.*)"', told)
    plain = [re.sub(r"TypedDict\((\w+), .*\)", r"\1", each.replace("program.", "")) for each in revealed]
    assert plain == REVEALED, told
    assert "error:" not in told, told


@pytest.mark.parametrize("tool", ["mypy", "pyright"])
def test_a_node_of_another_state_is_refused(tmp_path: Path, tool: str) -> None:
    file = tmp_path / "program.py"
    file.write_text(WRONG)
    lines = {int(line) for line in re.findall(r"program\.py:(\d+)(?::\d+)?(?: -)?:? error", checked(tool, file))}
    marked = {number for number, line in enumerate(WRONG.splitlines(), 1) if re.search(r"# \d$", line)}
    assert lines == marked
