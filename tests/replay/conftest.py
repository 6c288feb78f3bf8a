from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import calling_nodes, nodes
from support.memory import MemoryCheckpointer


@pytest.fixture(autouse=True)
def ledger() -> Iterator[list[str]]:
    """What was executed, empty at the start of each test."""
    nodes.reset()
    calling_nodes.reset()
    yield nodes.LEDGER
    nodes.settle()
    nodes.reset()
    calling_nodes.reset()


@pytest.fixture
async def store() -> MemoryCheckpointer:
    checkpointer = MemoryCheckpointer()
    await checkpointer.bootstrap()
    return checkpointer
