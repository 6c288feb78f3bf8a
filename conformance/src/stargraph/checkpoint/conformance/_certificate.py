"""A report that says who made it: signed with a private key, so that anybody can see any change (Ed25519, RFC 8032)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from stargraph.checkpoint.conformance._expect import HarnessError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

KEY_VARIABLE: Final = "STARGRAPH_CONFORMANCE_KEY"
"""Holds the private key: what `stargraph-conformance key` prints."""

_BYTES: Final = 32
"""The length of a private and of a public key."""


def _ed25519() -> Any:
    # Who neither signs nor verifies needs no cryptography.
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise HarnessError(
            "certificates need the package cryptography: pip install 'stargraph-conformance[certificates]'"
        ) from error
    return ed25519


def _key_bytes(text: str, what: str) -> bytes:
    try:
        found = base64.b64decode(text.strip(), validate=True)
    except (ValueError, binascii.Error):
        found = b""
    if len(found) != _BYTES:
        raise HarnessError(f"{what} is not a key: give {_BYTES} bytes in base64, as `stargraph-conformance key` prints")
    return found


def parse_key(text: str) -> ed25519.Ed25519PrivateKey:
    """Return the private key that the environment holds.

    Raises:
        HarnessError: it is no key, or the package cryptography is absent.
    """
    found: ed25519.Ed25519PrivateKey = _ed25519().Ed25519PrivateKey.from_private_bytes(_key_bytes(text, KEY_VARIABLE))
    return found


def make_key() -> tuple[str, str]:
    """Return a new private key and its public key, in base64."""
    private = _ed25519().Ed25519PrivateKey.generate()
    return base64.b64encode(private.private_bytes_raw()).decode(), _public(private)


def _public(private: ed25519.Ed25519PrivateKey) -> str:
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def _signed(report: Mapping[str, Any]) -> bytes:
    return json.dumps(report, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sign(report: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the certificate of a report.

    Args:
        report: as `Report.to_json` makes it.
        key: the private key, in base64.
    """
    private = parse_key(key)
    signature = base64.b64encode(private.sign(_signed(report))).decode()
    return {"report": report, "public_key": _public(private), "signature": signature}


def verify(certificate: Mapping[str, Any], signer: str | None = None) -> Mapping[str, Any]:
    """Return the report of a certificate.

    Args:
        certificate: as `sign` makes it.
        signer: the public key that it must be signed with, in base64; None for the one that it names, which proves
            only that nothing was changed since it was signed.

    Raises:
        HarnessError: it was signed with another key, or changed since.
    """
    named = str(certificate.get("public_key"))
    public = _ed25519().Ed25519PublicKey.from_public_bytes(_key_bytes(named, "the public key of the certificate"))
    if signer is not None and _key_bytes(signer, "the signer") != public.public_bytes_raw():
        raise HarnessError(f"the certificate was signed with the key {named}, not with {signer}")
    report: Mapping[str, Any] = certificate.get("report", {})
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(base64.b64decode(str(certificate.get("signature"))), _signed(report))
    except (InvalidSignature, ValueError) as error:
        raise HarnessError("the certificate was changed after it was signed") from error
    return report
