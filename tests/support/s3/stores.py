"""Handles on a store of their own."""

from __future__ import annotations

import json
from typing import Any

import aioboto3
from support.s3.servers import fresh_bucket, sdk_client

from stargraph.checkpoint.s3 import S3Checkpointer
from stargraph.checkpoint.s3._schema import KeyLayout


class Stores:
    """Makes handles on one store, in a bucket of its own.

    Args:
        endpoint: the URL of the server.
        session: makes their clients; None for the standard one.
        bucket: the bucket, if it is made already.
    """

    def __init__(self, endpoint: str, session: aioboto3.Session | None, bucket: str | None = None) -> None:
        self.bucket = bucket or fresh_bucket(endpoint)
        self.prefix = "some/prefix"
        self.url = f"s3://{self.bucket}/{self.prefix}"
        self.endpoint = endpoint
        self.session = session
        self._made: list[S3Checkpointer] = []

    def handle(self, **options: Any) -> S3Checkpointer:
        options.setdefault("endpoint_url", self.endpoint)
        options.setdefault("session", self.session)
        # A machine that stands still for a while is no fault: who tests one of these gives it.
        options.setdefault("deadline", 300.0)
        options.setdefault("read_timeout", 120.0)
        options.setdefault("connect_timeout", 60.0)
        made = S3Checkpointer(self.url, **options)
        self._made.append(made)
        return made

    async def open(self, **options: Any) -> S3Checkpointer:
        made = self.handle(**options)
        await made.bootstrap()
        return made

    def decoded_from(self, run_id: str, *steps: int) -> set[int]:
        """Return some steps and those that their records are decoded from, as the objects name them."""
        client = sdk_client(self.endpoint)
        found = set(steps)
        for step in steps:
            key = KeyLayout(self.prefix).slot(run_id, step)
            body = client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            found.update(json.loads(body.partition(b"\n")[0]).get("bases", ()))
        client.close()
        return found

    async def close(self) -> None:
        for made in self._made:
            await made.close()
