"""What a failed request means, an answer, an unknown outcome or an error that says what to do; and the other errors."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NoReturn

from stargraph.checkpoint.s3._objects import TransientStoreError
from stargraph.errors import CheckpointCorruptedError, StoreUnavailableError, StoreVersionError

if TYPE_CHECKING:
    from stargraph.checkpoint.s3._options import ConnectionOptions


class ErrorAnswer(Enum):
    """An answer that the SDK reports as an error."""

    EXISTS = "there is an object already"
    MISSING = "there is no such object"
    EMPTY = "the object has no bytes to give"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of the store.

    Attributes:
        bucket: the bucket.
        key: the object, or the prefix that was listed.
        permission: what the credentials must be allowed to do.
        answers: what the request may be answered with, beside success.
    """

    bucket: str
    key: str
    permission: str
    answers: Collection[ErrorAnswer]

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


_ANSWERS: Final = {
    "PreconditionFailed": ErrorAnswer.EXISTS,
    "412": ErrorAnswer.EXISTS,
    "NoSuchKey": ErrorAnswer.MISSING,
    "404": ErrorAnswer.MISSING,
    "InvalidRange": ErrorAnswer.EMPTY,
    "416": ErrorAnswer.EMPTY,
}

_TRANSIENT: Final = frozenset(
    {
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
        "BadDigest",
    }
)

_WRONG_REGION: Final = ("wrong-region", "Name the region of the bucket: {region}.")

_HINTS: Final = {
    "NoSuchBucket": (
        "no-such-bucket",
        "Create the bucket {bucket!r}, or correct its name, {region} or {endpoint_url}.",
    ),
    "AccessDenied": ("access-denied", "Give these credentials {permission} on it, as the policy in docs/s3.md does."),
    "AllAccessDisabled": ("access-denied", "The owner of the bucket has to allow it again."),
    "InvalidAccessKeyId": ("bad-credentials", "The access key is not one of this store: check the credentials."),
    "SignatureDoesNotMatch": ("bad-credentials", "The secret key does not fit the access key: check the credentials."),
    "ExpiredToken": ("bad-credentials", "The session token has expired: get new credentials."),
    "TokenRefreshRequired": ("bad-credentials", "The session token has expired: get new credentials."),
    "InvalidToken": ("bad-credentials", "The session token is not valid here: check the credentials."),
    "RequestTimeTooSkewed": ("clock-skew", "The clock of this machine is wrong: synchronise it."),
    "AuthorizationHeaderMalformed": _WRONG_REGION,
    "PermanentRedirect": _WRONG_REGION,
    "IllegalLocationConstraintException": _WRONG_REGION,
    "NotImplemented": (
        "unsupported-request",
        "This store lacks a part of the S3 API that checkpoints need. docs/s3.md lists the stores that have it.",
    ),
    "EntityTooLarge": ("too-large", "Keep large data in an object of its own, and its address in the state."),
    "XMinioStorageFull": ("storage-full", "Free space on the store; nothing was written."),
    "QuotaExceeded": ("storage-full", "Raise the quota or free space on the store; nothing was written."),
}

_STATUS_CODES: Final = {301: "PermanentRedirect", 403: "AccessDenied", 501: "NotImplemented", 507: "QuotaExceeded"}

_USERINFO: Final = re.compile(r"(?<=//)[^/?#\s'\"]*@")


def redacted(text: object) -> str:
    """Return a text without what stands before the @ of the URLs in it."""
    return _USERINFO.sub("***@", str(text))


def classify(error: Exception, request: Request, options: ConnectionOptions) -> ErrorAnswer:
    """Return the answer that a failure of the SDK stands for; raise what any other failure means.

    Args:
        error: what the SDK raised.
        request: what was asked.
        options: how the store is reached, for the hints.

    Raises:
        TransientStoreError: the outcome is unknown, and another attempt may give one.
        StoreUnavailableError: no further attempt helps.
    """
    import aiohttp
    from aiobotocore.response import AioReadTimeoutError
    from botocore import exceptions as sdk
    from botocore.parsers import ResponseParserError

    if isinstance(error, sdk.ClientError):
        return _classify_reply(error, request, options)
    if isinstance(error, sdk.SSLError):
        raise StoreUnavailableError(
            f"{request}: no secure connection: {redacted(error)}",
            reason="tls",
            hint=f"Check {options.spelled('endpoint_url')}, and AWS_CA_BUNDLE for a private certificate authority.",
        ) from error
    if isinstance(error, sdk.ProxyConnectionError):
        raise TransientStoreError(f"{request}: the proxy does not answer") from error
    if isinstance(error, (sdk.EndpointConnectionError, sdk.ConnectTimeoutError)):
        raise _no_connection(error, request, options) from error
    if isinstance(
        error,
        (
            sdk.HTTPClientError,
            sdk.ConnectionError,
            sdk.ResponseStreamingError,
            sdk.IncompleteReadError,
            aiohttp.ClientError,
            asyncio.TimeoutError,
            OSError,
            AioReadTimeoutError,
            ResponseParserError,
        ),
    ):
        raise TransientStoreError(f"{request}: {type(error).__name__}: {redacted(error)}") from error
    if isinstance(error, sdk.BotoCoreError):
        raise _misconfigured(error, request, options) from error
    raise error


def _no_connection(error: Any, request: Request, options: ConnectionOptions) -> TransientStoreError:
    import socket

    cause = error.kwargs.get("error")
    system_error = getattr(cause, "os_error", cause)
    endpoint = redacted(error.kwargs.get("endpoint_url", "")).partition("?")[0]
    host = "/".join(endpoint.split("/")[:3])
    # aiohttp wraps both: what the resolver said, and what connect() did.
    if isinstance(system_error, socket.gaierror):
        complaint, reason = f"the name of the host in {host} cannot be resolved", "unknown-host"
        hint = f"Correct {options.spelled('endpoint_url')} or {options.spelled('region')}, or check the DNS here."
    elif isinstance(cause, (OSError, asyncio.TimeoutError)):
        complaint, reason = f"no connection to {host}", "unreachable"
        hint = (
            f"Check that the store runs there, {options.spelled('endpoint_url')}, and the firewall and proxy between."
        )
    else:
        return TransientStoreError(f"{request}: the connection to {host} broke: {redacted(cause)}")
    message = f"{request}: {complaint}: {redacted(cause)}"
    return TransientStoreError(message, unreachable=StoreUnavailableError(message, reason=reason, hint=hint))


def _misconfigured(error: Exception, request: Request, options: ConnectionOptions) -> StoreUnavailableError:
    from botocore import exceptions as sdk

    if isinstance(error, (sdk.SSOError, sdk.TokenRetrievalError, sdk.NoAuthTokenError)):
        profile = options.profile or os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
        login = "aws sso login" if profile is None else f"aws sso login --profile {shlex.quote(profile)}"
        reason, hint = "bad-credentials", f"Log in again: {login}."
    elif isinstance(error, sdk.ProfileNotFound):
        reason = "no-such-profile"
        hint = (
            f"Correct {options.spelled('profile')} or AWS_PROFILE; `aws configure list-profiles` shows what there is."
        )
    elif isinstance(error, sdk.CredentialRetrievalError):
        reason = "no-credentials"
        hint = "Run what your profile gets its credentials by, as `credential_process`, and see what it says."
    elif isinstance(error, (sdk.NoCredentialsError, sdk.PartialCredentialsError)):
        reason = "no-credentials"
        hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role."
    else:
        reason = "bad-configuration"
        names = (options.spelled(name) for name in ("region", "profile", "endpoint_url"))
        hint = f"Check {', '.join(names)} and the shared configuration files of AWS."
    return StoreUnavailableError(f"{request}: {redacted(error)}", reason=reason, hint=hint)


def _classify_reply(error: Any, request: Request, options: ConnectionOptions) -> ErrorAnswer:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    found = error.response.get("Error", {})
    code = str(found.get("Code") or status)
    outcome = _ANSWERS.get(code) or _ANSWERS.get(str(status))
    if outcome is not None and outcome in request.answers and code not in _HINTS:
        return outcome
    text = f"{code} ({status}) {found.get('Message') or ''}".strip()
    known = _HINTS.get(code) or _HINTS.get(_STATUS_CODES.get(status, ""))
    if known is None and (code in _TRANSIENT or status in (408, 409, 425, 429) or status >= 500):
        raise TransientStoreError(f"{request}: {text}") from error
    reason, hint = known or (
        "refused",
        "The store refused the request; its words are above. Check that {endpoint_url} is one that speaks S3.",
    )
    raise StoreUnavailableError(
        f"{request}: the store refused {request.permission}: {text}",
        reason=reason,
        hint=hint.format(
            bucket=request.bucket,
            permission=request.permission,
            region=options.spelled("region"),
            endpoint_url=options.spelled("endpoint_url"),
        ),
    ) from error


def conditions_ignored_error(where: str, unsafe_option: str) -> StoreUnavailableError:
    """Return the error of a store that ignores conditions.

    Args:
        where: the store.
        unsafe_option: how to accept it.
    """
    return StoreUnavailableError(
        f"{where}: the store ignores `If-None-Match: *` and overwrote an object",
        reason="conditional-writes-unsupported",
        hint="Without conditional writes two executors of one run would overwrite each other. AWS S3 and Cloudflare R2"
        " have them, and newer versions of MinIO and Ceph: upgrade the server. If only one process ever writes,"
        f" {unsafe_option} accepts this store.",
    )


def race_lost_error(where: str, writers: int, winners: Collection[int]) -> StoreUnavailableError:
    """Return the error of a store on which more than one writer won.

    Args:
        where: the store.
        writers: how many created one object at once.
        winners: how many of them won, for each round.
    """
    return StoreUnavailableError(
        f"{where}: of {writers} writers that created one object at once, more than one won"
        f" (in {len(winners)} rounds: {', '.join(str(count) for count in winners)})",
        reason="conditional-writes-unsafe",
        hint="Two executors of one run could both believe that their step is stored. Use another store, or upgrade it.",
    )


def newer_format_error(where: str, found: object, known: int) -> StoreVersionError:
    """Return the error of a store or an object that has a newer format than this software knows."""
    return StoreVersionError(
        f"{where}: it has format {found}, and this software knows formats up to {known}",
        reason="newer-format",
        hint="Upgrade stargraph-checkpoint-s3 here; nothing was touched.",
    )


def corrupted_error(run_id: str, step: int, complaint: str) -> CheckpointCorruptedError:
    """Return the error of an object that is not what was written.

    Args:
        complaint: what is wrong with it.
    """
    return CheckpointCorruptedError(
        f"run {run_id!r}, step {step}: the stored object is not what was written: {complaint}",
        reason="corrupted-record",
        hint="Nothing was changed. Restore the object from a backup or an earlier version of it, or fork the run"
        " from an earlier step.",
        run_id=run_id,
        step=step,
    )


def raise_truncated(run_id: str, step: int, newest: int | None) -> NoReturn:
    """Raise the error of a run whose last records are gone.

    Args:
        step: the step that ended it, as its file says.
        newest: the highest step that is left, if any.
    """
    left = "no step is left" if newest is None else f"the newest one left is step {newest}"
    raise CheckpointCorruptedError(
        f"run {run_id!r}: it ended at step {step}, and {left}",
        reason="truncated",
        hint="A person or a lifecycle rule removed objects. Restore them from a backup or from earlier versions.",
        run_id=run_id,
        step=step,
    )


def inconsistent_error(key: str) -> StoreUnavailableError:
    """Return the error of a store whose answers contradict each other."""
    return StoreUnavailableError(
        f"{key}: the store contradicts itself: it has the object, but does not show it",
        reason="inconsistent-store",
        hint="Writing again is safe. A checkpoint store must list and read its own writes at once, as S3 does.",
    )
