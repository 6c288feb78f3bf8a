"""Nodes that leave a line in the file `LEDGER` names, and wait where the files in `GATES` say so."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from stargraph.graph import NodeContext


def step(state: Any, context: NodeContext) -> dict[str, Any]:
    """Tells that it runs, and waits while a file of its name is in the folder of gates."""
    folder = Path(os.environ["GATES"])
    with Path(os.environ["LEDGER"]).open("a") as ledger:
        ledger.write(f"{context.node} {os.getpid()}\n")
    while (folder / context.node).exists():
        time.sleep(0.005)
    return {"path": [context.node]}


def where(state: Any, context: NodeContext) -> dict[str, Any]:
    """Tells its item and its process."""
    return {"path": [f"{context.item} {os.getpid()}"]}


def asks(state: Any, context: NodeContext) -> None:
    """Asks, which a node in another process cannot."""
    context.interrupt("?")


def calls(state: Any, context: NodeContext) -> dict[str, Any]:
    """Makes three calls, each of which leaves a line."""
    return {"path": [context.call_sync("line", _line, f"call {number}") for number in range(3)]}


def _line(text: str) -> str:
    with Path(os.environ["LEDGER"]).open("a") as ledger:
        ledger.write(f"{text} {os.getpid()}\n")
    return text
