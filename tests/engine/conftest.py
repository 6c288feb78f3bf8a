from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import nodes
from support.driver_fixtures import *  # noqa: F403
from support.memory import MemoryCheckpointer


@pytest.fixture(autouse=True)
def ledger() -> Iterator[list[str]]:
    """What was executed, empty at the start of each test."""
    nodes.reset()
    yield nodes.LEDGER
    nodes.settle()
    nodes.reset()


@pytest.fixture
async def store() -> MemoryCheckpointer:
    checkpointer = MemoryCheckpointer()
    await checkpointer.bootstrap()
    return checkpointer
