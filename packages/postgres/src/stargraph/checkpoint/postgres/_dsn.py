"""How a DSN is written: as a URI or as pairs of a name and a value, and the parameters that it gives by that."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from typing import Final
from urllib.parse import unquote

from stargraph.checkpoint.driver import check_type
from stargraph.errors import StoreUnavailableError

_HINT: Final = (
    "Write it as postgresql://user:password@host:port/database, with special characters as %XX, or as"
    " host=… user=… password=… dbname=…."
)


def parameters_of(dsn: str, names: AbstractSet[str]) -> dict[str, str]:
    """Return the parameters of a DSN by their names, unchecked.

    Args:
        dsn: the DSN.
        names: the names that libpq knows: any other one is a mistake, or a piece of a password.

    Raises:
        StoreUnavailableError: it is malformed (`reason="bad-dsn"`). The message quotes no value.
    """
    check_type(dsn, "dsn", str, "the URL of a database, as text")
    if dsn.partition("://")[0].lower() in ("postgresql", "postgres"):
        return _of_uri(dsn, names)
    if is_pairs(dsn):
        return pairs_of(dsn)
    raise bad_dsn("it does not begin with postgresql://, and is not a list of parameters")


def is_pairs(dsn: str) -> bool:
    """Return whether a DSN is written as pairs of a name and a value, of which a password may hold :// too."""
    return "=" in dsn.partition("://")[0]


def _of_uri(dsn: str, names: AbstractSet[str]) -> dict[str, str]:
    # Split by hand: urlsplit reads "#" and "[" as libpq does not, and quotes what it cannot read.
    rest = dsn.partition("://")[2]
    before, _, query = rest.partition("?")
    netloc, _, path = before.partition("/")
    credentials, at, host_list = netloc.rpartition("@")
    given_names = [unquote(pair.partition("=")[0]) for pair in query.split("&") if pair]
    # An @ after the host: what was read as host, database or parameter is perhaps a piece of the password.
    if "@" in path or any("@" in name for name in given_names) or ("@" in query and not names >= set(given_names)):
        raise bad_dsn("the user or the password holds a / or ? that is not written as %2F or %3F")
    given: dict[str, str] = {}
    if at:
        user, colon, password = credentials.partition(":")
        given |= {"user": unquote(user)} if user else {}
        given |= {"password": unquote(password)} if colon else {}
    if host_list:
        hosts, ports = zip(*map(_host_and_port, host_list.split(",")), strict=True)
        given["host"] = ",".join(hosts)
        if any(ports):
            given["port"] = ",".join(port or "5432" for port in ports)
    if path:
        given["dbname"] = unquote(path)
    parameters: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise bad_dsn("a parameter has no value")
        _add(parameters, unquote(name), unquote(value))
    return given | parameters


def _add(given: dict[str, str], name: str, value: str) -> None:
    # libpq takes the last one, in silence: sslmode=verify-full&sslmode=disable.
    if name in given:
        raise bad_dsn(f"{name} is given twice", "Give it once.")
    given[name] = value


def _host_and_port(text: str) -> tuple[str, str]:
    # To compile an expression takes as long as to read the rest of the DSN.
    if text.startswith("[") and (bracketed := re.fullmatch(r"(\[[^\]]*\])(?::(.*))?", text)) is not None:
        return bracketed.group(1), bracketed.group(2) or ""
    host, _, port = text.partition(":")
    return unquote(host), port


# A value is quoted if it is empty or holds a space; a backslash keeps the character after it.
PAIR: Final = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)", re.ASCII | re.DOTALL)


def pairs_of(dsn: str) -> dict[str, str]:
    """Return the parameters of a DSN that is written as `name=value name='a value'`.

    Raises:
        StoreUnavailableError: it is malformed (`reason="bad-dsn"`).
    """
    given: dict[str, str] = {}
    position = 0
    text = dsn.rstrip()
    while position < len(text):
        pair = PAIR.match(text, position)
        if pair is None:
            raise bad_dsn("a parameter is not written as name=value; quote a value that holds a space: name='a value'")
        quoted, bare = pair.group(2), pair.group(3)
        value = re.sub(r"\\(.)", r"\1", bare if quoted is None else quoted, flags=re.DOTALL)
        _add(given, pair.group(1), value)
        position = pair.end()
    return given


def is_whole(dsn: str) -> bool:
    """Return whether no parameter's name can be a piece of a password that holds an unquoted ?, & or space."""
    before, _, query = ("", "", dsn) if is_pairs(dsn) else dsn.rpartition("?")
    if "pass" in query.lower():
        return False
    hosts, slash, _ = before.partition("://")[2].rpartition("@")[2].partition("/")
    # Without a user and a host, what stands before the ? may be a user and the start of a password.
    return all(
        re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?", host) and (slash or ":" not in host) for host in hosts.split(",")
    )


def bad_dsn(complaint: str, hint: str = _HINT) -> StoreUnavailableError:
    """Return the error of a DSN that says what cannot be read or honoured."""
    return StoreUnavailableError(f"PostgreSQL: bad DSN: {complaint}", reason="bad-dsn", hint=hint)
