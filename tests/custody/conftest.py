from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from support.places import DRIVERS, Place, Servers, SQLitePlace, servers


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers(tmp_path_factory.mktemp("custody")) as hosts:
        yield hosts


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    driver: str = request.param
    return driver


@pytest.fixture
async def place(hosts: Servers, driver: str) -> AsyncIterator[Place]:
    async with hosts.place(driver) as place:
        yield place


@pytest.fixture
def file(tmp_path_factory: pytest.TempPathFactory) -> SQLitePlace:
    """A place that needs no server."""
    return SQLitePlace(tmp_path_factory.mktemp("custody") / "run.sqlite")
