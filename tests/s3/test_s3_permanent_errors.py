"""What no retry helps is told at once, with what to change; what may pass is retried and logged; no secret is told."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import chain, first, following
from support.s3.proxy import FaultProxy
from support.s3.servers import SECRET_KEY
from support.s3.stores import Stores

from stargraph.checkpoint.driver import RetryPolicy
from stargraph.checkpoint.s3 import S3Checkpointer, _objects
from stargraph.errors import CheckpointError, StargraphError, StoreUnavailableError


@pytest.fixture(autouse=True)
def _endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is tried again take an hour, so that what is told at once is told long before."""

    def policy(_: float, **options: Any) -> RetryPolicy:
        return RetryPolicy(3600.0, **options)

    monkeypatch.setattr(_objects, "RetryPolicy", policy)
    monkeypatch.setattr(_objects, "_FIRST_PAUSE", 0.2)


async def _refusal(store: S3Checkpointer) -> StargraphError:
    with pytest.raises(StargraphError) as caught:
        async with asyncio.timeout(60):
            await store.bootstrap()
    await store.close()
    return caught.value


async def test_nobody_listens() -> None:
    error = await _refusal(S3Checkpointer("s3://bucket/p", endpoint_url="http://127.0.0.1:9"))
    assert error.reason == "unreachable"
    assert "http://127.0.0.1:9" in error.message
    assert error.hint is not None
    assert "`endpoint_url=…`" in error.hint
    assert "URL" not in error.hint


async def test_an_unknown_host() -> None:
    store = S3Checkpointer.from_url("s3://bucket/p?endpoint_url=http://no-such-host.invalid:9000&path_style=true")
    error = await _refusal(store)
    assert error.reason == "unknown-host"
    assert "http://no-such-host.invalid:9000" in error.message
    assert error.hint is not None
    assert "`endpoint_url=…` in the store's URL" in error.hint


@pytest.fixture
def expired_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile `work` whose login by SSO has expired."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text(
        "[profile work]\nsso_session = company\nsso_account_id = 123456789012\nsso_role_name = dev\n"
        "region = us-east-1\n[sso-session company]\nsso_start_url = https://company.example/start\n"
        "sso_region = us-east-1\nsso_registration_scopes = sso:account:access\n"
    )
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    expired = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    token = {"startUrl": "https://company.example/start", "accessToken": "sso-secret", "expiresAt": expired}
    name = sha1(b"company", usedforsecurity=False).hexdigest()  # as the AWS command line names it
    (cache / f"{name}.json").write_text(json.dumps(token))


@pytest.mark.usefixtures("expired_login")
async def test_an_expired_sso_token() -> None:
    error = await _refusal(S3Checkpointer("s3://bucket/p", profile="work"))
    assert error.reason == "bad-credentials"
    assert "aws sso login --profile work" in str(error)
    assert "sso-secret" not in str(error)


@pytest.mark.thorough
@pytest.mark.usefixtures("expired_login")
def test_a_command_with_an_expired_sso_token_says_it_in_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    command = [sys.executable, "-m", "stargraph", "runs", "--checkpoint", "s3://bucket/p"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 7
    error, hint = told.stderr.splitlines()
    assert "Token has expired" in error
    assert hint == "hint: Log in again: aws sso login --profile work."


async def test_a_program_that_gives_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text("[profile made]\ncredential_process = /bin/false\nregion = us-east-1\n")
    error = await _refusal(S3Checkpointer("s3://bucket/p", profile="made"))
    assert error.reason == "no-credentials"
    assert "`credential_process`" in str(error)


async def test_an_unknown_profile_of_a_url() -> None:
    error = await _refusal(S3Checkpointer.from_url("s3://bucket/p?profile=nobody"))
    assert error.reason == "no-such-profile"
    assert "nobody" in str(error)
    assert "`profile=…` in the store's URL" in str(error)


async def test_a_store_that_was_there_is_waited_for(watched: Stores, proxy: FaultProxy) -> None:
    """Only a handle that was never answered takes a refused connection for a mistake."""
    store = await watched.open()
    await store.write(first("run"))
    assert store._opened().store._answered


async def test_a_retry_is_logged(watched: Stores, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    store = await watched.open()
    begun = first("run")
    await store.write(begun)
    proxy.reset()
    proxy.fail_once(0, "503")
    with caplog.at_level(logging.WARNING, logger="stargraph.checkpoint.s3"):
        await store.write(following(begun))
    (record,) = [record for record in caplog.records if record.name.startswith("stargraph")]
    assert (record.name, record.levelname) == ("stargraph.checkpoint.s3", "WARNING")
    assert "attempt 1 failed and is repeated" in record.getMessage()
    assert "SlowDown" in record.getMessage()


async def test_rotated_credentials_are_read_again(
    watched: Stores, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def rotate(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n")

    rotate("FIRSTKEY")
    run = chain("run", 6)
    store = await watched.open(session=None)
    await store.write(run[0])
    proxy.refused_key = "FIRSTKEY"
    proxy.reset()
    with pytest.raises(StoreUnavailableError) as caught:
        await store.write(run[1])
    assert caught.value.reason == "bad-credentials"
    assert len(proxy.requests) == 1  # nothing new to try
    rotate("SECONDKEY")
    await store.write(run[1])
    proxy.refused_key = "SECONDKEY"
    rotate("THIRDKEY")
    await store.write_many(run)
    assert {request.access_key for request in proxy.requests} == {"FIRSTKEY", "SECONDKEY", "THIRDKEY"}
    assert await store.read_latest("run") == run[-1]


secrets_ = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="/+=@:?&%"), min_size=12)


def _urls(secret: str) -> list[str]:
    return [
        f"s3://AKIDEXAMPLE:{secret}@bucket/prefix",
        f"s3://{secret}@bucket/prefix",
        f"s3://AKIDEXAMPLE:{secret}",
        f"s3:{secret}@bucket",
        f"https://AKIDEXAMPLE:{secret}@bucket/prefix",
        f"s3://bucket/prefix?endpoint_url=http://user:{secret}@host:9000",
        f"s3://bucket/prefix?secret_key={secret}",
        f"s3://bucket/prefix?{secret}",
        f"s3://bucket/prefix?path_style={secret}",
        f"s3://bucket/prefix?deadline={secret}",
        f"s3://bucket/prefix?checksums={secret}",
    ]


@given(secrets_)
def test_no_secret_of_a_url_is_reported(secret: str) -> None:
    for url in _urls(secret):
        for make in (S3Checkpointer.from_url, S3Checkpointer):
            try:
                shown = repr(make(url))
            except (CheckpointError, ValueError) as error:
                shown = "".join(traceback.format_exception_only(error)) + repr(error)
            assert secret not in shown, url


@pytest.mark.usefixtures("_endless", "impatient")
async def test_no_secret_of_an_argument_is_reported(moto: str) -> None:
    options: dict[str, Any] = {"proxies": {"http": "http://user:proxy-secret@127.0.0.1:9"}}
    store = S3Checkpointer("s3://bucket/p", endpoint_url=moto, **options)
    error = await _refusal(store)
    for shown in (str(error), repr(error), repr(store), repr(store._options)):
        assert "proxy-secret" not in shown
        assert SECRET_KEY not in shown


class WithoutCredentials:
    """A session that finds no credentials, which takes seconds where the metadata service does not answer."""

    def __init__(self) -> None:
        self.asked = 0

    async def get_credentials(self) -> None:
        self.asked += 1

    def client(self, *_: object, **__: object) -> None:
        raise AssertionError("a client looks for credentials once more")


async def test_credentials_that_are_nowhere_are_looked_for_once() -> None:
    session: Any = WithoutCredentials()
    with pytest.raises(StoreUnavailableError) as refused:
        await S3Checkpointer("s3://bucket/prefix", session=session).bootstrap()
    assert refused.value.reason == "no-credentials"
    assert session.asked == 1
