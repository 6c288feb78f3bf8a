"""Starts S3 servers for the tests: moto, and rclone, which ignores conditions."""

from __future__ import annotations

import socket
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

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
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
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def moto_server() -> Iterator[str]:
    """Run moto; yield its URL."""
    port = _free_port()
    command = [sys.executable, str(Path(__file__).with_name("moto_process.py")), str(port)]
    with _serving(command, f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def rclone_server(folder: Path) -> Iterator[str]:
    """Run `rclone serve s3` over a folder; yield its URL.

    Args:
        folder: its folders are the buckets.
    """
    port = _free_port()
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
