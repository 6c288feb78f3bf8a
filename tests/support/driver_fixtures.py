from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.places import DRIVERS, Place, Servers, SQLitePlace


# The first stage tests the driver for S3 itself; what runs on every store runs there in the second.
@pytest.fixture(params=[pytest.param(each, marks=pytest.mark.thorough) if each == "s3" else each for each in DRIVERS])
def driver(request: pytest.FixtureRequest) -> str:
    driver: str = request.param
    return driver


@pytest.fixture
def hosts(tmp_path: Path, postgres: str, s3: str) -> Servers:
    """Every server."""
    return Servers(tmp_path, postgres, s3)


@pytest.fixture
def driver_server(driver: str, tmp_path: Path, request: pytest.FixtureRequest) -> Servers:
    """The server that the driver needs, and no other."""
    return Servers(tmp_path, *(request.getfixturevalue(each) if each == driver else "" for each in ("postgres", "s3")))


@pytest.fixture
async def place(driver_server: Servers, driver: str) -> AsyncIterator[Place]:
    async with driver_server.place(driver) as place:
        yield place


@pytest.fixture
def file(tmp_path: Path) -> SQLitePlace:
    """A place that needs no server."""
    return SQLitePlace(tmp_path / "run.sqlite")
