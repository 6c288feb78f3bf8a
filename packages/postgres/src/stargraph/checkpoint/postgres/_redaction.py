"""A DSN as messages may show it."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from stargraph.checkpoint.postgres._dsn import is_pairs, pairs_of
from stargraph.checkpoint.postgres._options import _KNOWN, _SHOWN
from stargraph.errors import StoreUnavailableError


def without_secrets(dsn: str) -> str:
    """Return a DSN as messages may show it: the user, the hosts, the database and harmless parameters."""
    if is_pairs(dsn):
        return _pairs_without_secrets(dsn)
    if "://" not in dsn:
        return "postgresql://…"
    try:
        parts = urlsplit(dsn)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return "postgresql://…"
    # An unescaped slash or question mark in a password makes the rest of it look like something else.
    if "@" in parts.path or "@" in parts.query or "@" in parts.fragment or parts.fragment:
        return "postgresql://…"
    user, at, hosts = parts.netloc.rpartition("@")
    if re.search(r":[^],]*[^0-9,\]:][^,\]]*$", re.sub(r"\[[^]]*\]", "", hosts)):
        return "postgresql://…"
    netloc = re.sub(r":.*", ":***", user) + at + hosts
    shown = [(name, value if name in _SHOWN else "***") for name, value in pairs if name in _KNOWN]
    query = urlencode(shown, safe="*/:,")
    return (
        urlunsplit(parts._replace(netloc=netloc, query=query, fragment=""))
        if netloc
        else (f"{parts.scheme}://{parts.path}{'?' if query else ''}{query}")
    )


def _pairs_without_secrets(dsn: str) -> str:
    try:
        given = pairs_of(dsn)
    except StoreUnavailableError:
        return "postgresql://…"
    shown = [f"{name}={value if name in _SHOWN else '***'}" for name, value in given.items() if name in _KNOWN]
    return " ".join(shown) or "postgresql://…"
