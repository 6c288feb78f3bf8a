"""Starts S3 servers for the tests: moto, SeaweedFS, and rclone, which ignores conditions."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from support.ports import free_port

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
}
"""What a client of these servers needs, and nothing of the machine's own."""


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server exited with {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server does not answer")


@cache
def _sdk_session() -> Any:
    return boto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")


def sdk_client(url: str) -> Any:
    """Return a plain client, to look at a server from outside.

    Args:
        url: the URL of the server.
    """
    return _sdk_session().client("s3", endpoint_url=url)


def fresh_bucket(url: str) -> str:
    """Make a bucket and return its name: moto looks at every key of a bucket for each listing.

    Args:
        url: the URL of the server.
    """
    name = f"test-{uuid.uuid4().hex}"
    client = sdk_client(url)
    client.create_bucket(Bucket=name)
    client.close()
    return name


@contextmanager
def _serving(command: list[str], url: str) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.kill()
        process.wait(timeout=60)


@contextmanager
def moto_server(*, every_service: bool = False) -> Iterator[str]:
    """Run moto; yield its URL.

    Args:
        every_service: run the other services of AWS too, such as IAM.
    """
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("moto_process.py")), str(port)]
    if every_service:
        command.append("--every-service")
    with _serving(command, f"http://127.0.0.1:{port}") as url:
        yield url


_SEAWEED_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
)


def seaweed() -> str | None:
    """Return where the program of SeaweedFS is, or None if it is not installed."""
    weed = Path(sys.executable).parent / "weed"
    return str(weed) if weed.exists() else None


@contextmanager
def seaweed_server(folder: Path) -> Iterator[str]:
    """Run SeaweedFS, all of its parts in one process; yield the URL of its S3 API.

    Args:
        folder: where it keeps its data.
    """
    weed = seaweed()
    assert weed is not None
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    port, *others = (free_port() for _ in range(1 + len(_SEAWEED_PORTS)))
    command = [
        weed,
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=16",
        "-volume.max=5000",  # each bucket takes some
        "-filer",
        "-s3",
        f"-s3.port={port}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={config}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        *(f"-{part}={other}" for part, other in zip(_SEAWEED_PORTS, others, strict=True)),
    ]
    with _serving(command, f"http://127.0.0.1:{port}") as url:
        _wait_until_it_stores(url)
        yield url


def _wait_until_it_stores(url: str) -> None:
    """Wait until a server takes an object: its API answers before the parts behind that are ready."""
    client = sdk_client(url)
    deadline = time.monotonic() + 60
    while True:
        try:
            client.put_object(Bucket=fresh_bucket(url), Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            client.close()
            return


@contextmanager
def rclone_server(folder: Path) -> Iterator[str]:
    """Run `rclone serve s3` over a folder; yield its URL.

    Args:
        folder: its folders are the buckets.
    """
    port = free_port()
    rclone = Path(sys.executable).parent / "rclone"
    command = [
        str(rclone),
        "serve",
        "s3",
        "--config=",
        f"--addr=127.0.0.1:{port}",
        f"--auth-key={ACCESS_KEY},{SECRET_KEY}",
        "--vfs-cache-mode=full",
        f"--cache-dir={folder.parent / 'rclone-cache'}",
        str(folder),
    ]
    with _serving(command, f"http://127.0.0.1:{port}") as url:
        yield url
