"""What a store is opened with, and its URL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, unquote

from stargraph.checkpoint.s3._keys import MAX_PREFIX_BYTES
from stargraph.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aioboto3

Checksums: TypeAlias = Literal["when_supported", "when_required"]

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_ACCESS_POINT: Final = re.compile(r"arn:[^/?#]+")
_ENDPOINT: Final = re.compile(r"https?://[^/?#]", re.IGNORECASE)
_FLAGS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How the store is reached.

    Attributes:
        endpoint_url: where the API is; None for AWS.
        region: the region; None for that of the environment.
        path_style: put the bucket in the path of the URL; None lets the SDK choose.
        kms_key_id: encrypt with this KMS key.
        checksums: when the SDK adds checksums of its own.
        proxies: proxy URLs by scheme.
        profile: the profile of the shared configuration files.
        session: makes the clients.
        connect_timeout: seconds to connect.
        read_timeout: seconds without a byte.
        deadline: seconds for a request with all its attempts.

    Raises:
        ValueError: one of them makes no sense.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    kms_key_id: str | None = None
    checksums: Checksums = "when_supported"
    # Proxy URLs and sessions hold secrets.
    proxies: Mapping[str, str] | None = field(default=None, repr=False)
    profile: str | None = None
    session: aioboto3.Session | None = field(default=None, repr=False)
    connect_timeout: float = 5.0
    read_timeout: float = 20.0
    deadline: float = 60.0

    def __post_init__(self) -> None:
        if self.endpoint_url is not None and not _ENDPOINT.match(self.endpoint_url):
            raise ValueError(f"endpoint_url={self.endpoint_url}: give a URL that begins with http:// or https://")
        if self.checksums not in get_args(Checksums):
            raise ValueError(f"checksums={self.checksums}: give {' or '.join(get_args(Checksums))}")
        for name in ("connect_timeout", "read_timeout", "deadline"):
            seconds = getattr(self, name)
            if not 0 < seconds < float("inf"):
                raise ValueError(f"{name}={seconds}: give seconds, more than 0")


@dataclass(frozen=True, slots=True)
class Address:
    """A place in a bucket.

    Attributes:
        bucket: the bucket.
        prefix: what the keys begin with, without slashes at its ends.
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


def parse_url(url: str) -> tuple[Address, dict[str, Any]]:
    """Read `s3://bucket/prefix?option=value&…`.

    Args:
        url: the URL.

    Returns:
        The place, and the arguments of `S3Checkpointer` that the query names.

    Raises:
        CheckpointError: it is not such a URL (`reason="invalid-url"`).
    """
    scheme, separator, rest = url.partition("://")
    if scheme.lower() != "s3" or not separator:
        raise _invalid(f"{url.partition('?')[0]!r} does not name an S3 store")
    where, _, query = rest.partition("?")
    bucket, _, path = where.partition("/")
    if not (_BUCKET.fullmatch(bucket) or _ACCESS_POINT.fullmatch(bucket)):
        raise _invalid(f"{bucket!r} is not the name of a bucket")
    prefix = unquote(path).strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise _invalid(f"the prefix {prefix!r} has an empty part, or one that is . or ..")
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise _invalid(f"the prefix is longer than {MAX_PREFIX_BYTES} bytes")
    if not prefix.isprintable() or "#" in prefix:
        raise _invalid(f"the prefix {prefix!r} has a character that a key should not have")
    return Address(bucket, prefix), dict(_option(name, text) for name, text in parse_qsl(query, strict_parsing=False))


def _option(name: str, text: str) -> tuple[str, Any]:
    if name in ("path_style", "unsafe_single_writer", "files_of_ended_runs"):
        if text.lower() not in _FLAGS:
            raise _invalid(f"{name}={text}: give true or false")
        return name, _FLAGS[text.lower()]
    if name in ("connect_timeout", "read_timeout", "deadline"):
        try:
            return name, float(text)
        except ValueError:
            raise _invalid(f"{name}={text}: give seconds") from None
    if name in ("endpoint_url", "region", "kms_key_id", "checksums", "profile", "cache_dir"):
        return name, text
    raise _invalid(f"{name!r} is not an option of an S3 store's URL")


def _invalid(complaint: str) -> CheckpointError:
    return CheckpointError(
        complaint,
        reason="invalid-url",
        hint="An S3 store is named as s3://bucket/prefix, with options as in s3://bucket/prefix?region=eu-west-1.",
    )
