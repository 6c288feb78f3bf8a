from __future__ import annotations

from workspace.conftest import wheels

__all__ = ["wheels"]
