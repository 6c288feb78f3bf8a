"""What the parameters of a DSN mean, which of them are honoured, and the options of a store's URL."""

from __future__ import annotations

import configparser
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlencode

from stargraph.checkpoint.driver import LatestCache, check_type, open_regular_file
from stargraph.checkpoint.postgres._dsn import PAIR, bad_dsn, is_pairs, is_whole, parameters_of
from stargraph.errors import StoreUnavailableError

TARGETS: Final = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
"""What `target_session_attrs` may say."""

# Passed to asyncpg, which treats them as libpq does.
_TO_ASYNCPG: Final = frozenset(
    {
        "sslmode",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "krbsrvname",
        "gsslib",
    }
)

_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

_KEEPALIVES: Final = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")

_READ_HERE: Final = frozenset(
    {
        "host",
        "hostaddr",
        "port",
        "dbname",
        "database",
        "user",
        "password",
        "passfile",
        "service",
        "servicefile",
        "target_session_attrs",
        "connect_timeout",
        "application_name",
        "fallback_application_name",
        "options",
        *_KEEPALIVES,
    }
)

# Values that change nothing for this client. Any other one asks for what asyncpg cannot do, and a wish for safety must
# not be dropped in silence.
_WITHOUT_EFFECT: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "channel_binding": (
        frozenset({"disable", "prefer"}),
        "Remove it, and set sslmode=verify-full with sslrootcert: TLS then proves which server answers.",
    ),
    "gssencmode": (frozenset({"disable", "prefer"}), "Remove it, and set sslmode=verify-full with sslrootcert."),
    "client_encoding": (frozenset({"utf8", "utf-8", "unicode", "auto"}), "Remove it: the store always uses UTF-8."),
    "sslcompression": (frozenset({"0"}), "Remove it: TLS compression is unsafe, and no longer supported."),
    "sslsni": (frozenset({"1"}), "Remove it: the host name is always sent."),
    "requiressl": (frozenset({"0"}), "Set sslmode=require instead."),
    "replication": (frozenset({"0", "false", "off", "no"}), "Remove it: the store needs a normal connection."),
    "gssdelegation": (frozenset({"0"}), "Remove it."),
    "load_balance_hosts": (frozenset({"disable"}), "Remove it: hosts are tried in their order."),
    "sslcertmode": (frozenset({"allow"}), "Remove it: sslcert and sslkey say whether a certificate is sent."),
}

_UNSUPPORTED: Final = frozenset({"require_auth", "requirepeer", "sslcrldir", "ssl_library", "oauth_issuer"})

# asyncpg reads the other ones itself.
_ENVIRONMENT: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "service": "PGSERVICE",
    "servicefile": "PGSERVICEFILE",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "application_name": "PGAPPNAME",
    "options": "PGOPTIONS",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "require_auth": "PGREQUIREAUTH",
    **{name: f"PG{name.upper()}" for name in _FILES},
}

_KNOWN: Final = frozenset(_TO_ASYNCPG | _READ_HERE | _WITHOUT_EFFECT.keys())

# The names that libpq knows, honoured here or not: any other one is a mistake, or a piece of a password.
_NAMES: Final = frozenset({*_KNOWN, *_UNSUPPORTED, *_FILES})

_SHOWN: Final = frozenset({"host", "hostaddr", "port", "user", "dbname", "sslmode", "target_session_attrs", "service"})
"""Parameters whose values a message may show."""


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("seconds above 0") from None


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("1 or more") from None


_URL_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "schema": str,
    "timeout": _seconds,
    "read_only": _boolean,
    "max_connections": _count,
    "group_commit": _boolean,
    "prepared_statements": _boolean,
    "allow_data_loss": _boolean,
    "latest_cache_bytes": LatestCache.parse_limit,
}
"""The arguments of `PostgresCheckpointer` that a URL may hold, and how their values are read."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Where to connect, and how.

    Attributes:
        hosts: names, addresses or socket directories, in the order in which they are tried; empty for the default.
        ports: one for each host, one for all, or none for the default.
        user: None for the default, likewise `database` and `password`.
        database: its name.
        password: the password.
        passfile: a file of passwords.
        target_session_attrs: which of several servers to use; None if nothing says so.
        connect_timeout: seconds to wait for one host; None for no limit of its own.
        keepalives: the parameters of TCP keepalives that are given.
        addresses: for hosts whose address is given too (`hostaddr`), that address; no name is looked up for them.
        server_settings: settings of the session.
        tls: the parameters that asyncpg reads itself, as a DSN.
    """

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str | None
    database: str | None
    password: str | None
    passfile: str | None
    target_session_attrs: str | None
    connect_timeout: float | None
    keepalives: Mapping[str, int]
    addresses: Mapping[str, str]
    server_settings: Mapping[str, str]
    tls: str

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `asyncpg.connect`, without the hosts and the target of the session."""
        arguments: dict[str, Any] = {
            "dsn": self.tls,
            "user": self.user,
            "database": self.database,
            "password": self.password,
            "passfile": self.passfile,
            "server_settings": dict(self.server_settings) or None,
        }
        return {name: value for name, value in arguments.items() if value is not None}


def read_dsn(dsn: str, *, own_tls: bool = False) -> ConnectionOptions:
    """Return what a DSN says, completed from its service file, which is read again.

    Args:
        dsn: the DSN.
        own_tls: whether the caller has a TLS context, so that the parameters of TLS do not count.

    Raises:
        StoreUnavailableError: it is malformed, or asks for what cannot be honoured (`reason="bad-dsn"`). The message
            names the parameter, and quotes no value that may be a secret.
    """
    given = parameters_of(dsn, _NAMES)
    environment = {name: os.environ[variable] for name, variable in _ENVIRONMENT.items() if os.environ.get(variable)}
    service = given.get("service") or environment.get("service")
    if service:
        given = {**_service(service, given.get("servicefile") or environment.get("servicefile")), **given}
    given = {**environment, **given}
    for name, value in given.items():
        _check(name, value, dsn)
    if not own_tls:
        _refuse_missing_authorities(given)
    hosts = tuple(host.strip("[]") for host in _listed(given, "host"))
    addresses = tuple(address.strip("[]") for address in _listed(given, "hostaddr"))
    ports = tuple(_number("port", port, 65_535) for port in _listed(given, "port"))
    if hosts and addresses and len(hosts) != len(addresses):
        raise bad_dsn(f"{len(hosts)} hosts have {len(addresses)} hostaddr", "Give one hostaddr for each host.")
    if len(ports) not in (0, 1, len(hosts or addresses)):
        raise bad_dsn(
            f"{len(hosts or addresses)} hosts have {len(ports)} ports", "Give one port for each host, or one for all."
        )
    settings = {
        "application_name": given.get("application_name") or given.get("fallback_application_name"),
        "options": given.get("options"),
    }
    return ConnectionOptions(
        hosts=hosts or addresses,
        ports=ports,
        user=given.get("user"),
        database=given.get("dbname") or given.get("database"),
        password=given.get("password"),
        passfile=given.get("passfile"),
        target_session_attrs=given.get("target_session_attrs") or None,
        connect_timeout=_connect_timeout(given.get("connect_timeout")),
        keepalives={key: _number(key, given[key], 2**31 - 1) for key in _KEEPALIVES if key in given},
        addresses=dict(zip(hosts, addresses, strict=False)),
        server_settings={key: value for key, value in settings.items() if value},
        tls=f"postgresql://?{urlencode({key: given[key] for key in sorted(_TO_ASYNCPG & given.keys())})}",
    )


def refuse_unknown_parameters(dsn: str) -> None:
    """Refuse a misspelt parameter; nothing is read for that, and what else is wrong shows when the store is opened.

    Raises:
        StoreUnavailableError: `reason="bad-dsn"`.
    """
    try:
        given = parameters_of(dsn, _NAMES)
    except StoreUnavailableError:
        return
    for name in given:
        if name not in _NAMES:
            raise _unknown(name, dsn)


def _listed(given: Mapping[str, str], name: str) -> list[str]:
    return [part for part in given.get(name, "").split(",") if part]


def _service(service: str, file: str | None) -> dict[str, str]:
    path = Path(file) if file else _in_home(".pg_service.conf")
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        with io.TextIOWrapper(open_regular_file(path), encoding="utf-8") as opened:
            parser.read_file(opened)
        given = dict(parser[service])
    except OSError as error:
        raise bad_dsn(f"the service file {str(path)!r} cannot be read: {error.strerror}", "Correct its path.") from None
    except (configparser.Error, KeyError, UnicodeDecodeError):
        raise bad_dsn(
            f"the service {service!r} is not defined in {str(path)!r}", "Define it there, or correct its name."
        ) from None
    return given


def _in_home(name: str) -> Path:
    """Return a file in the home directory; it starts with ~ if there is none, as in some containers."""
    # Path.home() raises then.
    return Path(os.path.expanduser(f"~/{name}"))  # noqa: PTH111


def _check(name: str, value: str, dsn: str) -> None:
    if name in _WITHOUT_EFFECT:
        accepted, hint = _WITHOUT_EFFECT[name]
        if value.lower() not in accepted:
            raise bad_dsn(f"{name}={value} cannot be honoured by this driver", hint)
    elif name == "target_session_attrs":
        if value not in TARGETS:
            raise bad_dsn(f"{name} is {value!r}", f"Give one of {', '.join(TARGETS)}.")
    elif name == "sslmode":
        modes = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
        if value not in modes:
            raise bad_dsn(f"{name} is {value!r}", f"Give one of {', '.join(modes)}.")
    elif name in _FILES:
        if value and value != "system" and not Path(value).is_file():
            raise bad_dsn(f"{name} names {value!r}, and there is no such file", "Correct its path.")
        if value == "system":
            raise bad_dsn(
                f"{name}=system cannot be honoured by this driver",
                "Name the system's file of certificates, as in sslrootcert=/etc/ssl/certs/ca-certificates.crt.",
            )
    elif name in _UNSUPPORTED:
        raise bad_dsn(f"the parameter {name} cannot be honoured by this driver", "Remove it.")
    elif name not in _KNOWN:
        raise _unknown(name, dsn)


def _refuse_missing_authorities(given: Mapping[str, str]) -> None:
    """Refuse to check a server's certificate without anything to check it against."""
    mode = given.get("sslmode") or os.environ.get("PGSSLMODE", "")
    if mode not in ("verify-ca", "verify-full") or given.get("sslrootcert"):
        return
    # Where libpq and asyncpg look if nothing is given.
    on_windows = Path(os.environ.get("APPDATA", "")) / "postgresql" / "root.crt"
    usual = on_windows if sys.platform == "win32" else _in_home(".postgresql/root.crt")
    if not usual.is_file():
        raise bad_dsn(
            f"sslmode={mode} needs sslrootcert, which is not given, and there is no {str(usual)!r}",
            "Add sslrootcert=FILE: for a public authority the system's file, as in"
            " sslrootcert=/etc/ssl/certs/ca-certificates.crt.",
        )


def _unknown(name: str, dsn: str) -> StoreUnavailableError:
    if name in _URL_OPTIONS:
        return bad_dsn(
            f"{name} is an option of the store, not of the connection",
            f"Pass {name}= to PostgresCheckpointer, or open the URL with PostgresCheckpointer.from_url.",
        )
    close = difflib.get_close_matches(name, _KNOWN | _URL_OPTIONS.keys(), n=1)
    if not close and is_whole(dsn) and re.fullmatch(r"\w{1,40}", name, re.ASCII):
        return bad_dsn(
            f"unknown parameter {name!r}",
            f"Remove it. If it is a setting of the server, write options=-c%20{name}%3Dvalue.",
        )
    if not close:
        # Not quoted: perhaps a piece of a password that holds an unquoted & or space.
        return bad_dsn(
            "it has a parameter that is not one of PostgreSQL's",
            "Remove it. A setting of the server goes into options=-c%20name%3Dvalue, and special characters of a"
            " password are written as %XX.",
        )
    return bad_dsn(f"unknown parameter {name!r}", f"Did you mean {close[0]}?")


def _number(name: str, text: str, highest: int) -> int:
    # Not quoted: a password with a slash in it makes the rest of the address look like a port.
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > highest:
        raise bad_dsn(f"{name} is not a number from 0 to {highest}")
    return int(text)


def _connect_timeout(text: str | None) -> float | None:
    if not text or text in ("0", "-1"):
        return None
    return float(_number("connect_timeout", text, 2**31 - 1))


def split_url(url: str) -> tuple[str, dict[str, Any]]:
    """Return the DSN in a store's URL, and the arguments of `PostgresCheckpointer` that the URL holds.

    Raises:
        ValueError: the value of one of these does not fit.
    """
    check_type(url, "url", str, "the URL of a database, as text")
    if is_pairs(url):
        pairs = [(match.group(1), match) for match in PAIR.finditer(url)]
        given = [(name, match.group(2) or match.group(3) or "") for name, match in pairs if name in _URL_OPTIONS]
        dsn = "".join(match.group(0) for name, match in pairs if name not in _URL_OPTIONS) if given else url
    else:
        before, _, query = url.partition("?")
        parameters = [pair.partition("=")[::2] for pair in query.split("&")]
        given = [(name, unquote(value)) for name, value in parameters if name in _URL_OPTIONS]
        rest = "&".join(f"{name}={value}" for name, value in parameters if name not in _URL_OPTIONS)
        dsn = (f"{before}?{rest}" if rest else before) if given else url
    options: dict[str, Any] = {}
    for name, text in given:
        if name in options:
            raise ValueError(f"{name} is given twice")
        try:
            options[name] = _URL_OPTIONS[name](text)
        except ValueError as error:
            raise ValueError(f"{name} is {text!r}: give {error}") from None
    return dsn, options
