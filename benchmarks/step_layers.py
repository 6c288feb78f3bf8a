"""What a step of an engine executes, layer by layer: counts that a busy machine does not change.

    PYTHONPATH=benchmarks python benchmarks/step_layers.py [memory | sqlite | postgres://…]

It runs a graph that loops over one node with a state of 1 KB and counts the bytecodes of the thread of the event loop.
Two runs are counted, one of them twice as long, and their difference is shown: what the steps cost, without the start
and the end of a run. Time that passes in C, in the kernel, in the thread of a driver or in a server does not show here.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpointer, Closing
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.graph import Graph
from stargraph.ir import parse_graph

_STEPS: Final = 50

_GRAPH: Final = """
ir_version: "1.0.0"
id: step-layers
state_schema:
  n: int
  text: str
nodes:
  - {{id: work, kind: "step_layers:work"}}
rules:
  - id: end
    when: {{node: work, if: "state.n >= {steps}"}}
    then: [{{kind: halt}}]
  - id: again
    when: {{node: work}}
    then: [{{kind: goto, target: work}}]
"""


async def work(state: Any) -> dict[str, Any]:
    """Count to the next number."""
    return {"n": state.n + 1}


class _Bytecodes:
    """Counts the bytecodes of this thread by the function that they belong to."""

    def __init__(self) -> None:
        self.counted: Counter[CodeType] = Counter()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self.counted[frame.f_code] += 1
        return self


async def _run(store: Checkpointer, steps: int) -> None:
    started = await Graph(parse_graph(_GRAPH.format(steps=steps))).start(
        checkpointer=store, inputs={"n": 0, "text": "word " * 200}
    )
    (await started.start()).raise_for_status()


async def _counted(store: Checkpointer, steps: int) -> Counter[CodeType]:
    bytecodes = _Bytecodes()
    sys.settrace(bytecodes)
    try:
        await _run(store, steps)
    finally:
        sys.settrace(None)
    return bytecodes.counted


async def _step_of(url: str) -> dict[CodeType, float]:
    """Return the bytecodes of one step by the function that they belong to."""
    store = open_checkpointer(url)
    await store.bootstrap()
    # A first run imports and fills caches. It is counted too: from Python 3.12 on, a first trace misses bytecodes.
    await _counted(store, 2)
    once = await _counted(store, _STEPS)
    twice = await _counted(store, 2 * _STEPS)
    if isinstance(store, Closing):
        await store.close()
    return {code: (count - once[code]) / _STEPS for code, count in twice.items()}


def _layer_of(code: CodeType) -> str:
    package = code.co_filename.partition("/src/stargraph/")[2]
    if package:
        return "stargraph." + ".".join(Path(package).parent.parts)
    if "site-packages" in code.co_filename:
        return Path(code.co_filename.rpartition("site-packages/")[2]).parts[0]
    return "asyncio and what it uses" if code.co_filename.startswith(sys.base_prefix) else "other"


def main() -> None:
    """Count a step of the store that is named, and print a table."""
    parser = argparse.ArgumentParser(description="Count the bytecodes of a step by layer.")
    parser.add_argument("store", nargs="?", default="sqlite", help="memory, sqlite, or a PostgreSQL URL")
    store = parser.parse_args().store
    with tempfile.TemporaryDirectory() as folder:
        url = {"memory": "memory://", "sqlite": f"{folder}/steps.sqlite"}.get(store, store)
        step = asyncio.run(_step_of(url))
    bytecodes: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for code, count in step.items():
        if count >= 0.5:  # what happens in each step
            bytecodes[_layer_of(code)] += round(count)
            functions[_layer_of(code)] += 1
    print("| layer | bytecodes | functions |")
    print("| --- | --- | --- |")
    for layer, count in bytecodes.most_common():
        print(f"| {layer} | {count:,} | {functions[layer]} |")
    print(f"| all | {bytecodes.total():,} | {functions.total()} |")


if __name__ == "__main__":
    main()
