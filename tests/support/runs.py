"""What tests ask of runs."""

from __future__ import annotations

from typing import Any

from stargraph.checkpoint.protocol import Checkpoint, Checkpointer
from stargraph.graph import Run


def stored(run: Run) -> dict[str, Any]:
    """Return the state of a run as it is stored: JSON, whatever class it has."""
    assert run.summary is not None
    return run.summary.stored_state


async def latest(store: Checkpointer, run_id: str) -> Checkpoint:
    """Return the latest checkpoint of a run that the store has."""
    found = await store.read_latest(run_id)
    assert found is not None
    return found
