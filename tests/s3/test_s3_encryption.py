"""Records that are encrypted before they leave the machine."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from support.records import chat, first, following
from support.s3.servers import sdk_client
from support.s3.stores import Stores

from stargraph.checkpoint.codec import ENCRYPTION_VARIABLE, Cipher
from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.sqlite import SQLiteCheckpointer
from stargraph.errors import CheckpointConflictError, CheckpointCorruptedError, CheckpointError

KEYS = "one:0123456789abcdef0123456789abcdef"


def _contents(stores: Stores) -> dict[str, bytes]:
    client = sdk_client(stores.endpoint)
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=stores.bucket)["Contents"]]
    found = {key: client.get_object(Bucket=stores.bucket, Key=key)["Body"].read() for key in keys}
    client.close()
    return found


async def test_nothing_of_the_state_is_in_the_bucket(stores: Stores, tmp_path: Path) -> None:
    cipher = Cipher.parse(KEYS)
    store, other = await stores.open(encryption=cipher), await stores.open(encryption=Cipher.parse(KEYS))
    run = list(islice(chat("run", message=200), 12))
    for checkpoint in run:
        await store.write(checkpoint)
    assert await other.read_latest("run") == run[-1]
    run.append(following(run[-1], status="done"))
    await other.write(run[-1])
    assert [checkpoint async for checkpoint in store.history("run")] == run
    with pytest.raises(CheckpointConflictError):
        await store.write(following(run[-2], executor_id="f" * 32))
    await store.write(run[5])

    contents = _contents(stores)
    secrets = [run[0].state["messages"][0][:32].encode(), *(checkpoint.digest.encode() for checkpoint in run)]
    assert len(contents) == len(run) + 3
    assert not [key for key, body in contents.items() if any(secret in body for secret in secrets)]

    (file,) = [body for key, body in contents.items() if key.endswith(".sqlite")]
    (tmp_path / "run.sqlite").write_bytes(file)
    async with SQLiteCheckpointer(tmp_path / "run.sqlite", encryption=cipher) as opened:
        assert [checkpoint async for checkpoint in opened.history("run")] == run


async def test_without_the_key_nothing_is_read(stores: Stores) -> None:
    await (await stores.open(encryption=Cipher.parse(KEYS))).write(first("run"))
    plain = await stores.open()
    with pytest.raises(CheckpointCorruptedError) as caught:
        await plain.read_latest("run")
    assert caught.value.reason == "no-encryption-key"
    assert [found.run_id for found in await plain.list_runs()] == ["run"]


async def test_a_plain_run_takes_no_encrypted_step(stores: Stores) -> None:
    begun = first("run")
    await (await stores.open()).write(begun)
    store = await stores.open(encryption=Cipher.parse(KEYS, allow_plain=True))
    assert await store.read_latest("run") == begun
    with pytest.raises(CheckpointError) as caught:
        await store.write(following(begun))
    assert caught.value.reason == "plain-run"


async def test_a_url_takes_the_keys_of_the_environment(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENCRYPTION_VARIABLE, KEYS)
    begun = first("run", state={"word": "visible-or-not"})
    async with S3Checkpointer.from_url(f"{stores.url}?endpoint_url={stores.endpoint}") as store:
        await store.write(begun)
    assert not any(b"visible-or-not" in body for body in _contents(stores).values())
    async with S3Checkpointer(stores.url, endpoint_url=stores.endpoint, encryption=Cipher.parse(KEYS)) as store:
        assert await store.read_latest("run") == begun
