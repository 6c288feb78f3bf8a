from __future__ import annotations

import pytest
from support import workers

from stargraph.checkpoint.memory import MemoryCheckpointer


@pytest.fixture(autouse=True)
def _clean() -> None:
    workers.reset()


@pytest.fixture
async def store() -> MemoryCheckpointer:
    store = MemoryCheckpointer()
    await store.bootstrap()
    return store
