from __future__ import annotations

import pytest
from support import workers

from stargraph.checkpoint.memory import MemoryCheckpointer


@pytest.fixture(autouse=True)
def _clean() -> None:
    workers.reset()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a machine that stands still for a while the time to end what a worker waits for when it ends."""
    monkeypatch.setattr("stargraph.worker._worker._LATE_SECONDS", 60.0)
    monkeypatch.setattr("stargraph.worker._heartbeat._STOP_SECONDS", 60.0)


@pytest.fixture
async def store() -> MemoryCheckpointer:
    store = MemoryCheckpointer()
    await store.bootstrap()
    return store
