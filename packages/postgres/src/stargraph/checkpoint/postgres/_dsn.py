"""DSNs: what of one may be shown, and the parameters that are ours."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_SHOWN_PARAMETERS: Final = frozenset({"host", "port", "user", "dbname", "sslmode", "target_session_attrs"})


def without_secrets(dsn: str) -> str:
    """Return a DSN as messages may show it: the user, the hosts, the database and harmless parameters.

    Args:
        dsn: the DSN.
    """
    try:
        parts = urlsplit(dsn)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return "postgresql://…"
    if "://" not in dsn:
        return "postgresql://…"
    # An unescaped slash or question mark in a password makes the rest of it look like something else.
    if "@" in parts.path or "@" in parts.query or "@" in parts.fragment:
        return "postgresql://…"
    user, at, hosts = parts.netloc.rpartition("@")
    netloc = re.sub(r":.*", ":***", user) + at + hosts
    shown = [(name, value if name in _SHOWN_PARAMETERS else "***") for name, value in pairs]
    query = urlencode(shown, safe="*/:,")
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}"


def split_schema(url: str) -> tuple[str, str | None]:
    """Return a URL without its parameter `schema`, and the value of that, if it has one.

    Args:
        url: a DSN; only it says `schema`, which the server would take for a setting.
    """
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    schema = dict(pairs).get("schema")
    if schema is None:
        return url, None
    query = urlencode([pair for pair in pairs if pair[0] != "schema"])
    return urlunsplit(parts._replace(query=query)), schema
