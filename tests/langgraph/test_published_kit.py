"""LangGraph's published conformance kit, on every driver."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES
from langgraph.checkpoint.conformance.initializer import RegisteredCheckpointer
from support.places import Place, SQLitePlace

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver


async def _passes(registered: RegisteredCheckpointer) -> None:
    report = await validate(registered)
    failures = {name: result.failures for name, result in report.results.items() if not result.passed}
    assert not failures, failures
    assert set(report.results) == {each.value for each in ALL_CAPABILITIES}


async def test_it_passes_in_memory() -> None:
    async def savers() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        async with StargraphSaver(MemoryCheckpointer()) as saver:
            yield saver

    await _passes(RegisteredCheckpointer("memory", savers))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_it_passes_on_every_driver(place: Place) -> None:
    async def savers() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        async with place.open() as store, StargraphSaver(store) as saver:
            yield saver

    await _passes(RegisteredCheckpointer("place", savers))


@pytest.mark.thorough
async def test_it_passes_on_sqlite(file: SQLitePlace) -> None:
    async def savers() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        async with file.open() as store, StargraphSaver(store) as saver:
            yield saver

    await _passes(RegisteredCheckpointer("file", savers))
