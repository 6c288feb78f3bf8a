"""A report that says who made it: signed with a secret, so that whoever has it sees any change."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from stargraph.checkpoint.conformance._expect import HarnessError

KEY_VARIABLE: Final = "STARGRAPH_CONFORMANCE_KEY"
"""Holds `key_id:secret`; the secret has at least 16 bytes."""


def parse_key(text: str) -> tuple[str, bytes]:
    """Return the id and the secret of a key.

    Raises:
        HarnessError: it is not `key_id:secret`, or the secret is too short.
    """
    key_id, colon, secret = text.strip().partition(":")
    if not colon or not key_id or len(secret.encode()) < 16:
        raise HarnessError(f"{KEY_VARIABLE} is not key_id:secret with a secret of at least 16 bytes")
    return key_id, secret.encode()


def _mac(report: Mapping[str, Any], secret: bytes) -> str:
    text = json.dumps(report, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def sign(report: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the certificate of a report.

    Args:
        report: as `Report.to_json` makes it.
        key: `key_id:secret`.
    """
    key_id, secret = parse_key(key)
    return {"report": report, "key_id": key_id, "mac": _mac(report, secret)}


def verify(certificate: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the report of a certificate.

    Raises:
        HarnessError: it was signed with another key, or changed since.
    """
    key_id, secret = parse_key(key)
    if certificate.get("key_id") != key_id:
        raise HarnessError(f"the certificate was signed with the key {certificate.get('key_id')!r}, not {key_id!r}")
    report: Mapping[str, Any] = certificate.get("report", {})
    if not hmac.compare_digest(str(certificate.get("mac")), _mac(report, secret)):
        raise HarnessError("the certificate was changed after it was signed, or signed with another secret")
    return report
