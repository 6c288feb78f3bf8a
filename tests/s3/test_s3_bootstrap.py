"""Opening a store: what is recognised, what is refused, and what the refusal says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import aioboto3
import pytest
from support.records import chain, first, following
from support.s3.proxy import FaultProxy
from support.s3.servers import SECRET_KEY, rclone_server, sdk_client
from support.s3.stores import Stores

from stargraph.checkpoint.s3 import RaceReport, S3Checkpointer, UnsafeStoreWarning, _index
from stargraph.checkpoint.s3._schema import KeyLayout, race
from stargraph.checkpoint.s3._store import OpenStore
from stargraph.errors import (
    CheckpointConflictError,
    CheckpointCorruptedError,
    StoreUnavailableError,
    StoreVersionError,
)


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("rclone") / "data"
    folder.mkdir()
    with rclone_server(folder) as url:
        yield url


async def test_many_bootstraps_at_once_and_again(stores: Stores) -> None:
    handles = [stores.handle() for _ in range(6)]
    await asyncio.gather(*(handle.bootstrap() for handle in handles))
    await handles[0].write(first())
    await handles[1].bootstrap()
    assert await handles[1].read_latest("run-1") is not None


async def test_a_newer_store_is_refused_and_left_alone(stores: Stores, moto: str) -> None:
    key = f"{stores.prefix}/stargraph.json"
    newer = b'{"format": 3, "store": "stargraph", "more": true}'
    client = sdk_client(moto)
    client.put_object(Bucket=stores.bucket, Key=key, Body=newer)
    with pytest.raises(StoreVersionError) as caught:
        await stores.open()
    assert "format 3" in str(caught.value)
    assert client.get_object(Bucket=stores.bucket, Key=key)["Body"].read() == newer
    client.close()


async def test_a_marker_of_something_else_is_refused(stores: Stores, moto: str) -> None:
    client = sdk_client(moto)
    client.put_object(Bucket=stores.bucket, Key=f"{stores.prefix}/stargraph.json", Body=b"hello")
    client.close()
    with pytest.raises(CheckpointCorruptedError):
        await stores.open()


async def test_a_store_that_ignores_conditions_is_refused(rclone: str, sdk_session: aioboto3.Session) -> None:
    stores = Stores(rclone, sdk_session)
    store = stores.handle(path_style=True)
    with pytest.raises(StoreUnavailableError) as caught:
        await store.bootstrap()
    assert caught.value.reason == "conditional-writes-unsupported"
    assert "unsafe_single_writer" in str(caught.value)
    await stores.close()


async def test_an_unsafe_store_warns_works_and_detects_what_it_can(rclone: str, sdk_session: aioboto3.Session) -> None:
    stores = Stores(rclone, sdk_session)
    store = stores.handle(path_style=True, unsafe_single_writer=True)
    with pytest.warns(UnsafeStoreWarning, match="nothing stops two executors"):
        await store.bootstrap()
    run = chain("run", 4, end="done")
    for checkpoint in run:
        await store.write(checkpoint)
        await store.write(checkpoint)
    assert [checkpoint async for checkpoint in store.history("run")] == run
    assert [summary.run_id for summary in await store.list_runs()] == ["run"]
    other = stores.handle(path_style=True, unsafe_single_writer=True)
    with pytest.warns(UnsafeStoreWarning):
        await other.bootstrap()
    with pytest.raises(CheckpointConflictError):
        await other.write(first("run"))
    await stores.close()


async def test_racing_writers_have_one_winner(stores: Stores) -> None:
    report = await (await stores.open()).check_conditional_writes()
    assert report == RaceReport(winners=(1, 1, 1), writers=8)
    assert report.passed


async def test_the_race_notices_a_store_that_ignores_conditions(rclone: str, sdk_session: aioboto3.Session) -> None:
    stores = Stores(rclone, sdk_session)
    store = OpenStore(stores.handle(path_style=True)._options)
    report = await store.io.run(race(store.objects, KeyLayout(f"race/{uuid.uuid4().hex}")))
    assert not report.passed
    await store.io.close()
    await stores.close()


async def test_a_missing_bucket(moto: str, sdk_session: aioboto3.Session) -> None:
    async with _refused("s3://no-such-bucket/p", endpoint_url=moto, session=sdk_session) as error:
        assert error.reason == "no-such-bucket"
        assert "no-such-bucket" in str(error)


async def test_nobody_listens(sdk_session: aioboto3.Session) -> None:
    url = "http://127.0.0.1:9"
    async with _refused("s3://bucket/p", endpoint_url=url, session=sdk_session) as error:
        assert error.reason == "unreachable"
        assert "127.0.0.1:9" in str(error)


async def test_no_credentials(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    async with _refused("s3://bucket/p", endpoint_url=moto) as error:
        assert error.reason == "no-credentials"
        assert "AWS_ACCESS_KEY_ID" in str(error)


async def test_an_unknown_profile(moto: str) -> None:
    async with _refused("s3://bucket/p", endpoint_url=moto, profile="nobody") as error:
        assert error.reason == "no-such-profile"
        assert "nobody" in str(error)


@pytest.mark.parametrize(
    ("status", "code", "reason", "says"),
    [
        (403, "AccessDenied", "access-denied", "s3:GetObject"),
        (403, "InvalidAccessKeyId", "bad-credentials", "access key"),
        (403, "SignatureDoesNotMatch", "bad-credentials", "secret key"),
        (400, "ExpiredToken", "bad-credentials", "expired"),
        (403, "RequestTimeTooSkewed", "clock-skew", "clock"),
        (400, "AuthorizationHeaderMalformed", "wrong-region", "region"),
        (501, "NotImplemented", "unsupported-request", "S3 API"),
        (507, "XMinioStorageFull", "storage-full", "space"),
        (418, "Teapot", "refused", "Teapot"),
    ],
)
async def test_a_refusal_says_what_to_do(
    watched: Stores, proxy: FaultProxy, status: int, code: str, reason: str, says: str
) -> None:
    proxy.refusal = (status, code)
    with pytest.raises(StoreUnavailableError) as caught:
        await watched.open()
    assert caught.value.reason == reason
    assert says in str(caught.value)
    assert SECRET_KEY not in str(caught.value)
    assert len(proxy.requests) == 1


async def test_what_is_written_can_be_encrypted_with_a_key(stores: Stores, moto: str) -> None:
    store = await stores.open(kms_key_id="alias/checkpoints")
    await store.write(first())
    client = sdk_client(moto)
    for item in client.list_objects_v2(Bucket=stores.bucket)["Contents"]:
        found = client.head_object(Bucket=stores.bucket, Key=item["Key"])
        assert found["ServerSideEncryption"] == "aws:kms"
        assert found["SSEKMSKeyId"] == "alias/checkpoints"
    client.close()


async def test_a_folder_that_lists_in_no_order_is_sorted_here(
    stores: Stores, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open()
    run = chain("run", 5)
    await store.write_many(run)
    monkeypatch.setattr(store._opened()._raw, "lists_in_order", False)
    assert await store.read_latest("run") == run[-1]
    assert [checkpoint async for checkpoint in store.history("run", to_step=3)] == run[:4]
    await store.write(following(run[-1]))
    await store.write_many(chain("run-1", 2))
    for page in (1, 1000):
        monkeypatch.setattr(_index, "_PAGE", page)
        assert [found.run_id for found in (await store.search(run_id_prefix="run-")).items] == ["run-1"]
        assert len((await store.search(run_id_prefix="r")).items) == 2


class _refused:
    """Expects that bootstrap is refused, and closes the handle."""

    def __init__(self, url: str, **options: Any) -> None:
        self._store = S3Checkpointer(url, **options)

    async def __aenter__(self) -> StoreUnavailableError:
        with pytest.raises(StoreUnavailableError) as caught:
            await self._store.bootstrap()
        return caught.value

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()


async def test_everything_goes_through_the_proxy_that_is_given(
    stores: Stores, moto: str, proxy: FaultProxy, sdk_session: aioboto3.Session
) -> None:
    """The store's own name is known to the proxy alone."""
    nowhere = "http://s3.example.invalid"
    store = stores.handle(endpoint_url=nowhere, proxies={"http": proxy.url}, path_style=True)
    await store.bootstrap()
    run = chain("run", 3, end="done")
    await store.write_many(run)
    assert [checkpoint async for checkpoint in store.history("run")] == run
    assert len(proxy.requests) > 5
    direct = stores.handle(endpoint_url=nowhere, path_style=True)
    with pytest.raises(StoreUnavailableError) as caught:
        await direct.bootstrap()
    assert caught.value.reason == "unknown-host"
    assert "s3.example.invalid" in str(caught.value)


async def test_the_connection_is_made_as_the_arguments_say(moto: str) -> None:
    store = S3Checkpointer(
        "s3://bucket/prefix",
        endpoint_url=moto,
        region="eu-west-3",
        path_style=True,
        checksums="when_required",
        proxies={"https": "http://user:hidden@proxy:3128"},
        connect_timeout=1.5,
        read_timeout=2.5,
    )
    opened = OpenStore(store._options)
    client = await opened.io.run(opened._connection.client())
    config = client.meta.config
    assert client.meta.region_name == "eu-west-3"
    assert config.s3 == {"addressing_style": "path"}
    assert config.proxies == {"https": "http://user:hidden@proxy:3128"}
    assert (config.connect_timeout, config.read_timeout) == (1.5, 2.5)
    assert (config.request_checksum_calculation, config.response_checksum_validation) == ("when_required",) * 2
    assert config.retries["total_max_attempts"] == 1
    assert "hidden" not in repr(store) + repr(store._options)
    await opened.io.close()
