"""Handles on a fresh prefix of the test bucket."""

from __future__ import annotations

import uuid
from typing import Any

import aioboto3

from stargraph.checkpoint.s3 import S3Checkpointer

BUCKET = "checkpoints"


class Stores:
    """Makes handles on one fresh prefix."""

    def __init__(self, endpoint: str, session: aioboto3.Session | None) -> None:
        self.url = f"s3://{BUCKET}/test/{uuid.uuid4().hex}"
        self.endpoint = endpoint
        self.session = session
        self._made: list[S3Checkpointer] = []

    def handle(self, **options: Any) -> S3Checkpointer:
        options.setdefault("endpoint_url", self.endpoint)
        options.setdefault("session", self.session)
        options.setdefault("deadline", 20.0)
        made = S3Checkpointer(self.url, **options)
        self._made.append(made)
        return made

    async def open(self, **options: Any) -> S3Checkpointer:
        made = self.handle(**options)
        await made.bootstrap()
        return made

    async def close(self) -> None:
        for made in self._made:
            await made.close()
