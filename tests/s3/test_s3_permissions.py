"""The policy of docs/s3.md is enough, and what is missing of it is named; moto enforces it here."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import aioboto3
import boto3
import pytest
from support.records import STARTED_AT, chain, endless, first, following
from support.s3.servers import moto_server

from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.errors import StoreUnavailableError

pytestmark = pytest.mark.thorough

DOCUMENT = Path(__file__).parents[2] / "docs" / "s3.md"
BUCKET = "my-bucket"


def _documented() -> dict[str, Any]:
    (text,) = re.findall(r"```json\n(\{\n  \"Version\".*?)```", DOCUMENT.read_text(), re.DOTALL)
    policy: dict[str, Any] = json.loads(text)
    return policy


def _without(action: str) -> dict[str, Any]:
    policy = _documented()
    for statement in policy["Statement"]:
        actions = statement["Action"]
        statement["Action"] = [each for each in ([actions] if isinstance(actions, str) else actions) if each != action]
    policy["Statement"] = [statement for statement in policy["Statement"] if statement["Action"]]
    return policy


class Enforcing:
    """A server that asks for permission, and users of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._users = 0
        self._root = boto3.Session("root", "root", region_name="us-east-1")
        client = self._root.client("s3", endpoint_url=url)
        client.create_bucket(Bucket=BUCKET)
        client.close()

    def user(self, policy: dict[str, Any]) -> aioboto3.Session:
        """Return a session of a new user."""
        self._enforce(None)
        iam = self._root.client("iam", endpoint_url=self.url)
        self._users += 1
        name = f"user-{self._users}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="policy", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        iam.close()
        self._enforce(0)
        return aioboto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name="us-east-1")

    def _enforce(self, after: int | None) -> None:
        body = str(10**9 if after is None else after).encode()
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", data=body, headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request, timeout=60).close()


@pytest.fixture(scope="module")
def enforcing() -> Iterator[Enforcing]:
    with moto_server(every_service=True) as url:
        yield Enforcing(url)


async def _live(store: S3Checkpointer) -> None:
    await store.bootstrap()
    run = chain("run", 3, end="done")
    await store.write_many(run)
    assert await store.read_latest("run") == run[-1]
    assert [checkpoint async for checkpoint in store.history("run")] == run
    assert [found.run_id for found in await store.list_runs()] == ["run"]
    await store.prune(older_than=STARTED_AT + timedelta(days=1))
    await store.examine()
    assert await store.delete_run("run")


@pytest.fixture
async def opened() -> AsyncIterator[list[S3Checkpointer]]:
    handles: list[S3Checkpointer] = []
    yield handles
    for handle in handles:
        await handle.close()


async def test_the_documented_policy_is_enough(enforcing: Enforcing, opened: list[S3Checkpointer]) -> None:
    store = S3Checkpointer(
        f"s3://{BUCKET}/stargraph", endpoint_url=enforcing.url, session=enforcing.user(_documented())
    )
    opened.append(store)
    await _live(store)


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"])
async def test_a_missing_permission_is_named(enforcing: Enforcing, opened: list[S3Checkpointer], action: str) -> None:
    session = enforcing.user(_without(action))
    store = S3Checkpointer(f"s3://{BUCKET}/stargraph/{action[3:]}", endpoint_url=enforcing.url, session=session)
    opened.append(store)
    with pytest.raises(StoreUnavailableError) as caught:
        await _live(store)
    assert caught.value.reason == "access-denied"
    assert action in str(caught.value)
    assert BUCKET in str(caught.value)


async def test_whoever_only_runs_graphs_needs_no_deletion(enforcing: Enforcing, opened: list[S3Checkpointer]) -> None:
    session = enforcing.user(_without("s3:DeleteObject"))
    store = S3Checkpointer(f"s3://{BUCKET}/stargraph/no-deletion", endpoint_url=enforcing.url, session=session)
    opened.append(store)
    await store.bootstrap()
    run = list(islice(endless("run", pad=1000), 12))
    await store.write_many([*run, following(run[-1], status="done")])
    assert [found.status for found in await store.list_runs()] == ["done"]
    assert (await store.prune(older_than=STARTED_AT + timedelta(days=1))).checkpoints > 0


async def test_another_prefix_is_refused(enforcing: Enforcing, opened: list[S3Checkpointer]) -> None:
    store = S3Checkpointer(f"s3://{BUCKET}/other", endpoint_url=enforcing.url, session=enforcing.user(_documented()))
    opened.append(store)
    with pytest.raises(StoreUnavailableError) as caught:
        await store.bootstrap()
    assert caught.value.reason == "access-denied"
    assert f"s3://{BUCKET}/other" in str(caught.value)


async def test_a_wrong_secret_and_an_unknown_key(enforcing: Enforcing, opened: list[S3Checkpointer]) -> None:
    session = enforcing.user(_documented())
    key = (await session.get_credentials()).access_key
    for credentials, word in (((key, "wrong"), "secret key"), (("AKIANOBODY", "wrong"), "access key")):
        store = S3Checkpointer(
            f"s3://{BUCKET}/stargraph",
            endpoint_url=enforcing.url,
            session=aioboto3.Session(*credentials, region_name="us-east-1"),
        )
        opened.append(store)
        with pytest.raises(StoreUnavailableError) as caught:
            await store.bootstrap()
        assert caught.value.reason == "bad-credentials"
        assert word in str(caught.value)
        assert "wrong" not in str(caught.value)


async def test_whoever_only_reads_needs_two_permissions(enforcing: Enforcing, opened: list[S3Checkpointer]) -> None:
    policy = _documented()
    for statement in policy["Statement"]:
        if isinstance(statement["Action"], list):
            statement["Action"] = ["s3:GetObject"]
    url = f"s3://{BUCKET}/stargraph/reading"
    writer = S3Checkpointer(url, endpoint_url=enforcing.url, session=enforcing.user(_documented()))
    opened.append(writer)
    await writer.bootstrap()
    run = chain("run", 12, end="done")
    await writer.write_many(run)
    await writer.write(first("open"))
    reading = enforcing.user(policy)
    reader = S3Checkpointer(url, endpoint_url=enforcing.url, session=reading, read_only=True)
    opened.append(reader)
    await reader.bootstrap()
    assert await reader.read_latest("run") == run[-1]
    assert [checkpoint async for checkpoint in reader.history("run")] == run
    assert [found.run_id for found in (await reader.search(status="running")).items] == ["open"]
    assert await reader.count_runs() == {"done": 1, "running": 1}
    other = S3Checkpointer(url, endpoint_url=enforcing.url, session=reading)
    opened.append(other)
    with pytest.raises(StoreUnavailableError) as caught:
        await other.bootstrap()
    assert caught.value.reason == "access-denied"
    assert "s3:PutObject" in str(caught.value)
