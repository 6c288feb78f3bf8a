"""Nodes over `state_kinds.Coded`, for other processes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def encode(state: Any) -> dict[str, Any]:
    """Sets bytes that are no text, and a time."""
    return {"value": b"\xff\x00abcd", "at": datetime(2026, 1, 31, 9, tzinfo=UTC)}


def check(state: Any) -> dict[str, Any]:
    """Is given what `encode` set."""
    assert state.value == b"\xff\x00abcd"
    assert state.at == datetime(2026, 1, 31, 9, tzinfo=UTC)
    return {"n": 1}
