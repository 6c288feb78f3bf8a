from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.driver_fixtures import *  # noqa: F403
from support.places import Place

from stargraph.langgraph import StargraphSaver


@pytest.fixture
async def saver(place: Place) -> AsyncIterator[StargraphSaver]:
    async with place.open() as store, StargraphSaver(store) as saver:
        yield saver
