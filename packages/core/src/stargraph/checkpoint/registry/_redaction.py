"""Hide the secrets of URLs and connection strings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote, unquote_plus

from stargraph.errors._arguments import check_type

# Wider than URLs allow, since a password that should have been quoted is the one that shows: from the first colon up
# to the last @, and the value of each parameter whose name sounds secret or is itself quoted. A slash of `://`, or the
# whole of it, is often lost on the way.
_USER_SECRET: Final = re.compile(r"(?:(?<=://)|(?<=:/)(?!/))([^:@]*):(.*)@", re.DOTALL)
_BARE_USER_SECRET: Final = re.compile(r"^([^:@\s]+):(?!/)(.*)@", re.DOTALL)
_PARAMETER: Final = re.compile(
    r"(?<![^\s?&=])([^\s?&=]*(?:pass|pwd|secret|token|key|credential|sig|%)[^\s?&=]*\s*=\s*)"
    r"('(?:[^'\\]|\\.)*'?|\"[^\"]*\"?|[^&\s]*)",
    re.IGNORECASE | re.DOTALL,
)
_URL_IN_TEXT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}[^\s'\"<>`]+|[^\s'\"<>`:@]+:[^\s'\"<>`]+@[^\s'\"<>`]+")
_EXAMPLES: Final = ("…", "password", "PASSWORD")
_EXAMPLE: Final = re.compile(r"://[\w…]+:(?:…|password|PASSWORD)@")
"""What stands for a password in a hint that says how to write a URL."""
_SECRET_NAME: Final = re.compile(r"(?:pass|pwd|secret|token|key|credential|sig)", re.IGNORECASE)


def redact(url: str) -> str:
    """Return a URL without its secrets: the password and any parameter that sounds like one.

    Args:
        url: a path, a URL or a connection string.
    """
    check_type(url, "url", str, "a path or a URL as text")
    return _PARAMETER.sub(r"\1***", _without_password(url))


def _without_password(url: str) -> str:
    shown, found = _USER_SECRET.subn(r"\1:***@", url)
    return shown if found else _BARE_USER_SECRET.sub(r"\1:***@", url)


_SHORTEST: Final = 4
"""A shorter secret would be found in every word; where it is, its place in a URL hides it."""

_CERTAIN: Final = 8
"""From this length on a secret is hidden inside of words too."""


def redact_text(text: str, words: Iterable[str] = ()) -> str:
    """Return a message without the secrets of the URLs and connection strings that it quotes.

    Args:
        text: sentences, which may hold URLs.
        words: the arguments of a command line; the secrets that they hold are hidden however they are quoted.
    """
    check_type(text, "text", str, "a message")
    secrets = {secret for word in words for secret in find_secrets(word) if len(secret) >= _SHORTEST}
    for secret in sorted(secrets, key=len, reverse=True):
        for form in map(re.escape, (secret, repr(secret)[1:-1])):
            text = re.sub(form if len(secret) >= _CERTAIN else rf"(?<!\w){form}(?!\w)", "***", text)
    shown = _URL_IN_TEXT.sub(_redacted_in_text, text)
    return _PARAMETER.sub(
        lambda found: found.group() if _value_in_text(found) in _EXAMPLES else _parameter_in_text(found), shown
    )


def _redacted_in_text(found: re.Match[str]) -> str:
    url = found.group()
    return url if _EXAMPLE.search(url) else _PARAMETER.sub(_parameter_in_text, _without_password(url))


def _parameter_in_text(found: re.Match[str]) -> str:
    name, value = found.groups()
    return f"{name}***{value[len(_value_in_text(found)) :]}"


def _value_in_text(found: re.Match[str]) -> str:
    """Return the value of a parameter without the marks after it that close a quotation or a clause."""
    value: str = found.group(2)
    return value if value.startswith(("'", '"')) else value.rstrip(".,:;").rstrip("\"'`)]>")


def find_secrets(text: str) -> set[str]:
    """Return the secrets that a URL or connection string holds, as they are written and as they are meant.

    Args:
        text: anything; what holds no URL and no parameter holds no secret.
    """
    check_type(text, "text", str, "a URL or a connection string as text")
    found: set[str] = set()
    for secret in _written_secrets(text):
        found |= {secret, unquote(secret), unquote_plus(secret), re.sub(r"\\(.)", r"\1", secret)}
    return found - {""}


def _written_secrets(text: str) -> Iterator[str]:
    for pattern in (_USER_SECRET, _BARE_USER_SECRET):
        for match in pattern.finditer(text):
            yield match.group(2)
            yield match.group(2).partition("@")[0]
    for match in _PARAMETER.finditer(text):
        value = match.group(2)
        yield value.removeprefix(value[0]).removesuffix(value[0]) if value[:1] in ("'", '"') else value
    # A value in a query may hold a space that nobody quoted.
    for pair in text.partition("?")[2].split("&"):
        name, equals, value = pair.partition("=")
        if equals and _SECRET_NAME.search(unquote(name)):
            yield value
