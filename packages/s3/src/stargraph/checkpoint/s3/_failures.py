"""What a failed request means: an answer, an unknown outcome, or an error that tells what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from enum import Enum
from typing import Any, Final

from stargraph.checkpoint.s3._objects import TransientStoreError
from stargraph.errors import StoreUnavailableError


class Outcome(Enum):
    """An answer that the SDK reports as an error."""

    EXISTS = "there is an object already"
    MISSING = "there is no such object"
    EMPTY = "the object has no bytes to give"


_ANSWERS: Final = {
    "PreconditionFailed": Outcome.EXISTS,
    "412": Outcome.EXISTS,
    "NoSuchKey": Outcome.MISSING,
    "404": Outcome.MISSING,
    "InvalidRange": Outcome.EMPTY,
    "416": Outcome.EMPTY,
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

_HINTS: Final = {
    "NoSuchBucket": ("no-such-bucket", "Create the bucket {bucket!r}, or correct its name, region or endpoint_url."),
    "AccessDenied": ("access-denied", "Give these credentials {permission} on it, as the policy in docs/s3.md does."),
    "AllAccessDisabled": ("access-denied", "The owner of the bucket has to allow it again."),
    "InvalidAccessKeyId": ("bad-credentials", "The access key is not one of this store: check the credentials."),
    "SignatureDoesNotMatch": ("bad-credentials", "The secret key does not fit the access key: check the credentials."),
    "ExpiredToken": ("bad-credentials", "The session token has expired: get new credentials."),
    "InvalidToken": ("bad-credentials", "The session token is not valid here: check the credentials."),
    "RequestTimeTooSkewed": ("clock-skew", "The clock of this machine is wrong: synchronise it."),
    "AuthorizationHeaderMalformed": ("wrong-region", "Pass the region of the bucket: S3Checkpointer(…, region=…)."),
    "PermanentRedirect": ("wrong-region", "Pass the region of the bucket: S3Checkpointer(…, region=…)."),
    "IllegalLocationConstraintException": (
        "wrong-region",
        "Pass the region of the bucket: S3Checkpointer(…, region=…).",
    ),
    "NotImplemented": (
        "unsupported-request",
        "This store lacks a part of the S3 API that checkpoints need. docs/s3.md lists the stores that have it.",
    ),
    "EntityTooLarge": ("too-large", "Keep large data in an object of its own, and its address in the state."),
    "XMinioStorageFull": ("storage-full", "Free space on the store; nothing was written."),
    "QuotaExceeded": ("storage-full", "Raise the quota or free space on the store; nothing was written."),
}

_STATUS_CODES: Final = {301: "PermanentRedirect", 403: "AccessDenied", 501: "NotImplemented", 507: "QuotaExceeded"}


def classify(error: Exception, *, answers: Collection[Outcome], where: str, bucket: str, permission: str) -> Outcome:
    """Return what a failure says where it is an answer, and raise what it means where it is none.

    Args:
        error: what the SDK raised.
        answers: what the request may be answered with.
        where: the object, or the folder that was listed.
        bucket: the bucket.
        permission: what the credentials must be allowed to do.

    Raises:
        TransientStoreError: the outcome is unknown, and another attempt may give one.
        StoreUnavailableError: no further attempt helps.
    """
    import aiohttp
    from botocore import exceptions as sdk

    if isinstance(error, sdk.ClientError):
        return _classify_reply(
            error.response, error, answers=answers, where=where, bucket=bucket, permission=permission
        )
    if isinstance(error, sdk.SSLError):
        raise StoreUnavailableError(
            f"{where}: no secure connection: {error}",
            reason="tls",
            hint="Check the endpoint_url, and AWS_CA_BUNDLE for a private certificate authority.",
        ) from error
    if isinstance(error, sdk.ProxyConnectionError):
        raise TransientStoreError(f"{where}: the proxy does not answer") from error
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
        ),
    ) or type(error).__name__ in ("ResponseParserError", "AioReadTimeoutError"):
        raise TransientStoreError(f"{where}: {type(error).__name__}: {error}") from error
    if isinstance(error, (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.CredentialRetrievalError)):
        raise StoreUnavailableError(
            f"{where}: {error}",
            reason="no-credentials",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role.",
        ) from error
    if isinstance(error, sdk.BotoCoreError):
        raise StoreUnavailableError(
            f"{where}: {error}", reason="bad-configuration", hint="Check the region, the profile and the endpoint_url."
        ) from error
    raise error


def _classify_reply(
    reply: Any, error: Exception, *, answers: Collection[Outcome], where: str, bucket: str, permission: str
) -> Outcome:
    status = reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    found = reply.get("Error", {})
    code = str(found.get("Code") or status)
    outcome = _ANSWERS.get(code) or _ANSWERS.get(str(status))
    if outcome is not None and outcome in answers and code not in _HINTS:
        return outcome
    text = f"{code} ({status}) {found.get('Message') or ''}".strip()
    known = _HINTS.get(code) or _HINTS.get(_STATUS_CODES.get(status, ""))
    if known is None and (code in _TRANSIENT or status in (408, 409, 425, 429) or status >= 500):
        raise TransientStoreError(f"{where}: {text}") from error
    reason, hint = known or (
        "refused",
        "The store refused the request; its words are above. Check that the endpoint_url is one that speaks S3.",
    )
    raise StoreUnavailableError(
        f"{where}: the store refused {permission}: {text}",
        reason=reason,
        hint=hint.format(bucket=bucket, permission=permission),
    ) from error
