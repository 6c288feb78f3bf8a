"""Buckets of their own, and a count of what clients send to them."""

from __future__ import annotations

from typing import Any

import aioboto3
from support.s3.servers import ACCESS_KEY, SECRET_KEY, fresh_bucket, sdk_client


class ObjectStore:
    """A fresh bucket, and a session that counts its PUTs.

    Args:
        server: the URL of the S3 server.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.bucket = fresh_bucket(server)
        self.url = f"s3://{self.bucket}/bench"
        self.session = aioboto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        self.session._session.register("request-created.s3.PutObject", self._count)
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.puts = self.uploaded = 0

    def remove(self) -> None:
        """Remove the bucket and what is in it."""
        client = sdk_client(self.server)
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=self.bucket, Key=item["Key"])
        client.delete_bucket(Bucket=self.bucket)
        client.close()

    def _count(self, request: Any, **_: Any) -> None:
        self.puts += 1
        body = request.data
        self.uploaded += len(body) if isinstance(body, (bytes, bytearray)) else body.seek(0, 2) - body.seek(0)
