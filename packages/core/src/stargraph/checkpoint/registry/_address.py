"""Read what a user gave as a store: a path, or a URL; refuse what looks like neither."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Final
from urllib.parse import quote, unquote

from stargraph.checkpoint.registry._redaction import redact
from stargraph.errors import CheckpointError

ENTRY_POINT_GROUP: Final = "stargraph.checkpointers"
"""An entry point of this group maps a URL scheme to a class that has `from_url`."""

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOME_URL: Final = re.compile(r"(sqlite:///)(~[^?]*)(.*)", re.IGNORECASE | re.DOTALL)
_PREFIX: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_LOST_COLON: Final = re.compile(r"(sqlite|postgres(?:ql)?|s3)(//?)(?=.)", re.IGNORECASE)
_LOGIN: Final = re.compile(r"[^/:@\s]:[^/\\].*@")
_DRIVE: Final = re.compile(r"[A-Za-z]:|\\\\")
_PAIR: Final = re.compile(r"([A-Za-z][A-Za-z _]*?)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s;]*)")
_TEMPLATE: Final = re.compile(r"\$\w|\$\{|\$\(|%\w+%|\{\{|<")
_QUERY: Final = re.compile(r"\?\w+=")
_SETTING: Final = re.compile(r"(?:(?:export|set|env)\s+)?([A-Z][A-Z0-9_]+)=(.*)", re.DOTALL)
_URL_WITHIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

# The keywords of libpq, https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS, that name a
# server or a login, and those of ADO.NET and of Azure.
_DSN_WORDS: Final = frozenset(
    {"host", "hostaddr", "port", "user", "dbname", "password", "passfile", "service", "sslmode"}
    | {"server", "data source", "database", "user id", "uid", "pwd", "accountname", "accountkey"}
)


_WORDS: Final = {
    "sqlite": "sqlite:///run.sqlite",
    "sqlite3": "sqlite:///run.sqlite",
    "file": "./run.sqlite",
    "memory": "memory://",
    "s3": "s3://BUCKET/PREFIX",
    **dict.fromkeys(("postgres", "postgresql", "pg", "psql"), "postgresql://USER@HOST/DATABASE"),
}
"""What somebody means who names a kind of store, and not a store."""

_ABSENT: Final = frozenset({"null", "none", "nil", "undefined", "nan", "true", "false"})
"""What a template or a program writes for a value that is not there, or that is no text."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is.

    Attributes:
        scheme: names the driver, in lower case.
        text: what the driver is given: the URL as it was written, or a path.
    """

    scheme: str
    text: str


def parse_address(given: str | os.PathLike[str]) -> Address:
    """Return the address that a path or URL stands for.

    A path is a SQLite file; `~` is expanded. What looks like a URL or a connection string but is none is refused: as
    a path it would become a local file, which nobody looks for.

    Args:
        given: the path or URL.

    Raises:
        CheckpointError: it is neither (`reason="invalid-url"`); the hint says what was probably meant.
        TypeError: it is neither text nor the object of a path.
    """
    text = _text_of(given)
    if not text or text.isspace():
        raise _refused("the name of the store is empty", "Give a path or the URL of a store.")
    if not isinstance(given, str):  # somebody has said that it is a path; pathlib drops a slash of each URL
        _refuse_broken_urls(text)
        return Address("sqlite", _expand(text))
    if text != text.strip() or text[0] in "'\"`" or _CONTROL.search(text):
        raise _refused(
            f"{redact(text)!r} begins or ends with a space or a quote, or holds a line break",
            "Write the path or URL alone.",
        )
    match = _URL.match(text)
    if match:
        home = _HOME_URL.match(text)
        if home:
            text = f"{home.group(1)}{quote(_expand(unquote(home.group(2))))}{home.group(3)}"
        return Address(match.group(1).lower(), text)
    _refuse_kinds(text)
    _refuse_settings(text)
    _refuse_connection_strings(text)
    _refuse_broken_urls(text)
    _refuse_odd_paths(text)
    return Address("sqlite", _expand(text))


def _text_of(given: object) -> str:
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(text, str):  # an object of a path may be one of bytes
        kind = "None" if given is None else f"of type {type(given).__qualname__}"
        raise TypeError(f"the name of the store is {kind}: give a path or the URL of a store, as text")
    return text


def _expand(path: str) -> str:
    expanded = os.path.expanduser(path)  # noqa: PTH111  # Path.expanduser raises a RuntimeError
    if expanded.startswith("~"):
        raise _refused(f"{path!r} names no user of this system", f"Write ./{path} for a file of that name.")
    return expanded


def _refuse_odd_paths(text: str) -> None:
    if _TEMPLATE.match(text) or "${" in text:
        raise _refused(
            f"{redact(text)!r} holds a variable that nothing has expanded",
            f"Expand it first; ./{text} names a file of that name." if text[0] in "$%" else "Expand it first.",
        )
    if text.startswith("-"):
        raise _refused(f"{text!r} looks like an option", f"Write ./{text} for a file of that name.")
    if _DRIVE.match(text) and sys.platform != "win32":
        raise _refused(
            f"{text!r} is a Windows path, which this system does not have",
            f"Give a path of this system; ./{text} names a file of that name.",
        )
    if text.endswith(("/", os.sep)):
        raise _refused(f"{text!r} names a directory", f"Name a file in it, such as {text}run.sqlite.")
    if _QUERY.search(text):
        raise _refused(
            f"{redact(text)!r} is a path with options, which belong to a URL",
            f"Write sqlite:///{redact(text)}",
        )


def _refuse_kinds(text: str) -> None:
    word = text.lower()
    if word in _ABSENT:
        raise _refused(
            f"{text!r} stands for a value that is missing or no text, and is not the name of a store",
            f"Look where the value comes from; write ./{text} for a file of that name.",
        )
    meant = _WORDS.get(word)
    if meant is None and word.isalnum() and entry_points(group=ENTRY_POINT_GROUP, name=word):
        meant = f"{word}://…"
    if meant is not None:
        raise _refused(
            f"{text!r} names a kind of store, not a store", f"Write {meant} , or ./{text} for a file of that name."
        )


def _refuse_settings(text: str) -> None:
    setting, url = _SETTING.match(text), _URL_WITHIN.search(text)
    if setting:
        raise _refused(
            f"{redact(text)!r} is a setting of an environment variable, not a path",
            f"Set {setting.group(1)} before the command, and give a path or URL here.",
        )
    if url and text[0] not in "./~" and not text.lower().startswith("jdbc:"):
        raise _refused(
            f"{redact(text)!r} has text before the URL",
            f"Write the URL alone: {redact(url.group().rstrip(chr(34) + chr(39)))}",
        )


def _refuse_connection_strings(text: str) -> None:
    pairs = {name.strip().lower(): value.strip("'") for name, value in _PAIR.findall(text)}
    if pairs.keys().isdisjoint(_DSN_WORDS) or not re.match(r"\s*[A-Za-z][A-Za-z _]*=|\s*\w+\s*=", text):
        return
    host = pairs.get("host") or pairs.get("hostaddr") or pairs.get("server") or "HOST"
    user = pairs.get("user") or pairs.get("user id") or pairs.get("uid") or "USER"
    database = pairs.get("dbname") or pairs.get("database") or "DATABASE"
    port = f":{pairs['port']}" if pairs.get("port") else ""
    raise _refused(
        f"{redact(text)!r} is a connection string, not a URL or a path",
        f"Write {redact(f'postgresql://{user}@{host}{port}/{database}')}, with the password in PGPASSWORD.",
    )


def _refuse_broken_urls(text: str) -> None:
    lost = _LOST_COLON.match(text)
    if lost and (lost.group(2) == "//" or "@" in text):
        raise _broken(text, f"{lost.group(1).lower()}://{text[lost.end() :]}")
    if text.startswith((":", "//")) and ("@" in text or text.startswith("://")):
        raise _broken(text, f"postgresql://{text.lstrip(':/')}")
    match = _PREFIX.match(text)
    if match is None:
        if _LOGIN.match(text) and sys.platform != "win32":
            raise _broken(text, f"postgresql://{text}")
        return
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme == "memory":
        raise _refused(
            f"{redact(text)!r} is not a URL",
            "Write memory:// for a store that ends with its process, or a path for one that lasts.",
        )
    if scheme == "jdbc":
        raise _broken(text, rest)
    if scheme == "file":
        raise _broken(text, rest.partition("?")[0].lstrip("/") if rest.startswith("//") else rest.partition("?")[0])
    if scheme == "sqlite":
        raise _broken(text, f"sqlite:///{rest.lstrip('/')}" if not rest.startswith("/") else f"sqlite:///{rest}")
    if scheme == "arn":
        raise _broken(text, f"s3://{rest.rpartition(':')[2]}")
    if scheme in ("s3", "postgres", "postgresql"):
        raise _broken(text, f"{scheme}://{rest.lstrip('/')}")
    if re.match(r"\d+(/|$)", rest) or "@" in rest:
        raise _broken(text, f"postgresql://{text}")
    raise _refused(
        f"{redact(text)!r} is neither a URL nor a plain path",
        f"Write {scheme}://… for a URL, ./{redact(text)} for a file of that name.",
    )


def _broken(text: str, meant: str) -> CheckpointError:
    return _refused(f"{redact(text)!r} is not a URL", f"Did you mean {redact(meant)} ?")


def _refused(message: str, hint: str) -> CheckpointError:
    return CheckpointError(message, reason="invalid-url", hint=hint)
