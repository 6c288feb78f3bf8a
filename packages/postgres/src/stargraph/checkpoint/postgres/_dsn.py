"""DSNs: what of one may be shown, and the parameters that are ours."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_OUR_PARAMETERS: Final = frozenset({"schema", "timeout"})
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


def split_options(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without the parameters that are ours, and these: the server would take them for its settings.

    Args:
        url: a DSN with `schema` and `timeout`, or without.
    """
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in pairs if name in _OUR_PARAMETERS}
    if not ours:
        return url, ours
    query = urlencode([pair for pair in pairs if pair[0] not in ours])
    return urlunsplit(parts._replace(query=query)), ours
