"""The node of a graph file that a Dask worker does not have."""

from __future__ import annotations

from typing import Any


def add(state: Any) -> dict[str, Any]:
    """Add 1."""
    return {"n": state.n + 1}
