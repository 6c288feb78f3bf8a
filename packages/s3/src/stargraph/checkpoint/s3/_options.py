"""What a store is opened with, and its URL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, unquote

from stargraph.checkpoint.driver import LatestCache, check_flags, check_type
from stargraph.errors import CheckpointError

MAX_PREFIX_BYTES: Final = 512
"""How long a prefix may be: a key holds 1,024 bytes, and two run ids take up to 400 of them."""

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aioboto3

Checksums: TypeAlias = Literal["when_supported", "when_required"]

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_ACCESS_POINT: Final = re.compile(r"arn:[A-Za-z0-9:._-]+")
_ENDPOINT: Final = re.compile(r"https?://[^/?#]", re.IGNORECASE)
_SHORT: Final = re.compile(r"[A-Za-z0-9._+-]{1,8}")
_WORD: Final = re.compile(r"[a-z_]{1,20}")
_SECRET_WORD: Final = re.compile(r"pass|pwd|secret|token|key|credential|sig", re.IGNORECASE)
_FLAGS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

_FLAG_OPTIONS: Final = ("path_style", "unsafe_single_writer", "files_of_ended_runs", "read_only")
_SECONDS_OPTIONS: Final = ("connect_timeout", "read_timeout", "deadline")
_BYTES_OPTIONS: Final = ("latest_cache_bytes",)
_TEXT_OPTIONS: Final = ("endpoint_url", "region", "kms_key_id", "checksums", "profile", "cache_dir")


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How the store is reached; `S3Checkpointer` describes the arguments.

    Attributes:
        in_url: the options were named in a URL, and hints name them so.

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
    in_url: bool = False

    def __post_init__(self) -> None:
        check_flags(path_style=self.path_style)
        if self.endpoint_url is not None and "@" in self.endpoint_url:
            raise ValueError("endpoint_url has an @: leave out the user and the password; set AWS_ACCESS_KEY_ID")
        if self.endpoint_url is not None and not _ENDPOINT.match(self.endpoint_url):
            raise ValueError(f"endpoint_url={self.endpoint_url}: give a URL that begins with http:// or https://")
        if self.checksums not in get_args(Checksums):
            raise ValueError(f"checksums{_quoted(str(self.checksums))}: give {' or '.join(get_args(Checksums))}")
        for name in _SECONDS_OPTIONS:
            seconds = getattr(self, name)
            if not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
                raise ValueError(f"{name}={seconds!r}: give seconds, more than 0")

    def spelled(self, name: str, value: str = "…", *, argument: str | None = None) -> str:
        """Return an option as its user writes it: in the store's URL, or as an argument.

        Args:
            name: the option.
            argument: its value as an argument, if that is written in another way.
        """
        return f"`{name}={value}` in the store's URL" if self.in_url else f"`{name}={argument or value}`"


@dataclass(frozen=True, slots=True)
class BucketPrefix:
    """A place in a bucket.

    Attributes:
        bucket: the bucket.
        prefix: what the keys begin with, without slashes at its ends.
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


def parse_url(url: str) -> tuple[BucketPrefix, dict[str, Any]]:
    """Read `s3://bucket/prefix?option=value&…`.

    Returns:
        The place, and the arguments of `S3Checkpointer` that the query names.

    Raises:
        CheckpointError: it is not such a URL (`reason="invalid-url"`). The message never quotes what may be a secret.
    """
    check_type(url, "url", str, "the URL of a store, as in s3://bucket/prefix")
    scheme, separator, rest = url.partition("://")
    if scheme.lower() != "s3" or not separator:
        raise _invalid("the URL does not begin with s3://")
    where, _, query = rest.partition("?")
    bucket, _, path = where.partition("/")
    if "@" in where or (":" in bucket and not _ACCESS_POINT.fullmatch(bucket)):
        raise CheckpointError(
            "the URL has an @, or a colon in the place of the bucket, as if it contained credentials",
            reason="invalid-url",
            hint="Leave them out, as in s3://bucket/prefix, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
            " AWS_PROFILE. What was in a URL may be in logs: rotate the key.",
        )
    if not (_BUCKET.fullmatch(bucket) or _ACCESS_POINT.fullmatch(bucket)):
        raise _invalid(f"{bucket!r} is not the name of a bucket")
    prefix = unquote(path).strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise _invalid(f"the prefix {prefix!r} has an empty part, or one that is . or ..")
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise _invalid(f"the prefix is longer than {MAX_PREFIX_BYTES} bytes")
    if not prefix.isprintable() or "#" in prefix:
        raise _invalid(f"the prefix {prefix!r} has a character that a key should not have")
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        name, value = _option(name, text, query)
        if name in options:
            raise _invalid(f"{name} is given twice")
        options[name] = value
    return BucketPrefix(bucket, prefix), options


def _option(name: str, text: str, query: str) -> tuple[str, Any]:
    if name in _FLAG_OPTIONS:
        if text.lower() not in _FLAGS:
            raise _invalid(f"{name}{_quoted(text)}: give true or false")
        return name, _FLAGS[text.lower()]
    if name in _SECONDS_OPTIONS:
        try:
            return name, float(text)
        except ValueError:
            raise _invalid(f"{name}{_quoted(text)}: give seconds") from None
    if name in _BYTES_OPTIONS:
        try:
            return name, LatestCache.parse_limit(text)
        except ValueError as error:
            raise _invalid(f"{name}{_quoted(text)}: give {error}") from None
    if name in _TEXT_OPTIONS:
        return name, text
    known = sorted((*_FLAG_OPTIONS, *_SECONDS_OPTIONS, *_BYTES_OPTIONS, *_TEXT_OPTIONS))
    # A name that is no word, or comes with a secret, is not repeated: it may be a piece of one.
    is_word = _WORD.fullmatch(name) is not None and _SECRET_WORD.search(query) is None
    is_like_one = bool(get_close_matches(name, known, n=1))
    named = repr(name) if is_word or is_like_one else "one of the names in the query"
    raise _invalid(f"{named} is not an option of an S3 store's URL: give {', '.join(known)}")


def _quoted(text: str) -> str:
    """Return a value as a message shows it; not at all if it may be a secret in the wrong place."""
    return f"={text}" if _SHORT.fullmatch(text) else ""


def _invalid(complaint: str) -> CheckpointError:
    return CheckpointError(
        complaint,
        reason="invalid-url",
        hint="An S3 store is named as s3://bucket/prefix, with options as in s3://bucket/prefix?region=eu-west-1.",
    )
