"""The nodes that workers execute; each writes down that it begins, before anything else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from stargraph.graph import Context
from stargraph_torture.ledger import Ledger

FOLDER = "STARGRAPH_TORTURE_FOLDER"
"""The environment variable that names the folder of the ledger."""

SECONDS = "STARGRAPH_TORTURE_NODE_SECONDS"
"""The environment variable that says how long a node takes."""

_ledger: Ledger | None = None


def ledger() -> Ledger:
    """Return the ledger of this process."""
    global _ledger  # noqa: PLW0603
    if _ledger is None:
        _ledger = Ledger(Path(os.environ[FOLDER]) / "ledger")
    return _ledger


async def step(state: Any, context: Context) -> dict[str, Any]:
    """Count one node more; the node `n5` of the poison run ends the process instead."""
    ledger().add("effect", run=context.run_id, node=context.node)
    await asyncio.sleep(float(os.environ[SECONDS]))
    if state.poison and context.node == "n5":
        os._exit(77)
    return {"done": [*state.done, context.node]}
