"""What type checkers know of a graph in Python: the state in nodes, of runs and of results."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.workspace import ROOT

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]

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


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a type checker says of each program."""
    folder = tmp_path_factory.mktemp("programs")
    files = {"right": folder / "right.py", "wrong": folder / "wrong.py"}
    files["right"].write_text(PROGRAM)
    files["wrong"].write_text(WRONG)
    words = {
        "mypy": ["mypy", "--strict", "--cache-dir", str(folder / "cache")],
        "pyright": ["pyright", "--pythonpath", sys.executable],
    }[request.param]
    ran = subprocess.run(
        [sys.executable, "-m", *words, *map(str, files.values())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = ran.stdout.splitlines()
    return {name: "\n".join(line for line in lines if f"{file.name}:" in line) for name, file in files.items()}


def test_the_class_of_the_state_is_known(told: dict[str, str]) -> None:
    revealed = re.findall(r'(?:Revealed type is|Type of ".*" is) "(.*)"', told["right"])
    plain = [re.sub(r"TypedDict\((\w+), .*\)", r"\1", each.replace("right.", "")) for each in revealed]
    assert plain == REVEALED, told
    assert "error:" not in told["right"]


def test_a_node_of_another_state_is_refused(told: dict[str, str]) -> None:
    lines = {int(line) for line in re.findall(r"wrong\.py:(\d+)(?::\d+)?(?: -)?:? error", told["wrong"])}
    marked = {number for number, line in enumerate(WRONG.splitlines(), 1) if re.search(r"# \d$", line)}
    assert lines == marked
