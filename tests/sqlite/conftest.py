from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stargraph.checkpoint.sqlite import SQLiteCheckpointer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteCheckpointer]:
    async with SQLiteCheckpointer(path) as checkpointer:
        yield checkpointer
