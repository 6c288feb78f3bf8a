"""What tests ask of runs."""

from __future__ import annotations

from typing import Any

from stargraph.graph import Run


def stored(run: Run) -> dict[str, Any]:
    """Return the state of a run as it is stored: JSON, whatever class it has."""
    assert run.summary is not None
    return run.summary.stored_state
