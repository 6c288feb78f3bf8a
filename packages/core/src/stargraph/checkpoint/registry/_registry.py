"""Drivers register a URL scheme by an entry point; nothing here knows a driver by its code."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from types import NoneType
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from stargraph.checkpoint.registry._address import ENTRY_POINT_GROUP, Address, parse_address
from stargraph.checkpoint.registry._redaction import redact
from stargraph.errors import CheckpointError, DriverNotFoundError, StargraphError
from stargraph.errors._arguments import check_flags, check_type

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import ClosingCheckpointer

_DISTRIBUTIONS: Final = {
    "sqlite": "stargraph-checkpoint-sqlite",
    "postgresql": "stargraph-checkpoint-postgres",
    "postgres": "stargraph-checkpoint-postgres",
    "s3": "stargraph-checkpoint-s3",
}


class CheckpointerClass(Protocol):
    """What an entry point of the group names."""

    def from_url(self, url: str, /) -> ClosingCheckpointer:
        """Return a handle on the store that the URL names; no I/O.

        Args:
            url: as the user gave it.
        """


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """An installed driver.

    Attributes:
        scheme: the URL scheme that it opens.
        target: the class, as `module:name`.
        distribution: the distribution that brings it.
        version: the version of that.
    """

    scheme: str
    target: str
    distribution: str
    version: str


def installed_drivers() -> list[DriverInfo]:
    """Return the installed drivers, by scheme; nothing of them is imported."""
    return sorted(map(_info, entry_points(group=ENTRY_POINT_GROUP)), key=lambda info: (info.scheme, info.target))


def open_checkpointer(
    url: str | os.PathLike[str],
    *,
    read_only: bool = False,
    encryption_keys: str | None = None,
    encryption_keys_from: str = "encryption_keys",
) -> ClosingCheckpointer:
    """Return a handle on the store that a path or URL names; no I/O happens before `bootstrap`.

    Args:
        url: a path, `sqlite:///…`, `postgresql://…`, `s3://bucket/prefix`, or the scheme of any installed
            driver. `~` is expanded in a path.
        read_only: never write a byte; a store that does not exist is refused, not made.
        encryption_keys: keys as `Cipher.parse` reads them; those of the environment variable
            `STARGRAPH_ENCRYPTION_KEY` if None.
        encryption_keys_from: what the user wrote the keys into, such as an option; errors name it.

    Raises:
        CheckpointError: it is neither a path nor a URL, or its driver cannot do what is asked for: encrypt with the
            keys of the environment, or open read-only (`reason` is `invalid-url`, `no-encryption`, `no-read-only`).
        DriverNotFoundError: no installed driver opens it, two claim it, or its driver cannot be loaded or closed.
    """
    check_flags(read_only=read_only)
    check_type(encryption_keys, "encryption_keys", (str, NoneType), "keys as text, as in key_id:secret")
    with _keys_in_environment(encryption_keys, encryption_keys_from):
        return _opened(url, read_only=read_only)


def _opened(url: str | os.PathLike[str], *, read_only: bool) -> ClosingCheckpointer:
    from stargraph.checkpoint.codec import KEYS_FROM, Cipher
    from stargraph.checkpoint.driver import Encrypting, ReadOnly
    from stargraph.checkpoint.protocol import Closing

    address = parse_address(url)
    driver = find_driver(address)
    store = _read_only_handle(driver, address) if read_only else driver.from_url(address.text)
    if not isinstance(store, Closing):
        raise DriverNotFoundError(
            f"{redact(address.text)}: the driver {type(store).__name__} cannot be closed",
            reason="broken-driver",
            hint="Its class needs close(), and `async with`; see Closing in stargraph.checkpoint.protocol.",
        )
    if Cipher.from_environment() is not None and not (isinstance(store, Encrypting) and store.encrypted):
        raise CheckpointError(
            f"{redact(address.text)}: keys were given, but the driver {type(store).__name__} does not encrypt",
            reason="no-encryption",
            hint=f"Use a driver that encrypts, or leave out {KEYS_FROM.get()} to store the runs readable.",
        )
    if read_only and not (isinstance(store, ReadOnly) and store.read_only):
        raise CheckpointError(
            f"{redact(address.text)}: the driver {type(store).__name__} cannot open a store read-only",
            reason="no-read-only",
            hint="Open it without read_only.",
        )
    return store


def _read_only_handle(driver: CheckpointerClass, address: Address) -> ClosingCheckpointer:
    try:
        return driver.from_url(_read_only_url(address))
    except (StargraphError, ValueError):
        driver.from_url(address.text)  # which raises the same error about what the user wrote
        raise


_ENVIRONMENT: Final = threading.Lock()


@contextmanager
def _keys_in_environment(keys: str | None, source: str) -> Iterator[None]:
    """Drivers look for keys there when they are opened by a URL; child processes of nodes must not find them."""
    from stargraph.checkpoint.codec import ENCRYPTION_VARIABLE, KEYS_FROM

    if keys is None:
        yield
        return
    with _ENVIRONMENT:
        before = os.environ.get(ENCRYPTION_VARIABLE)
        try:
            os.environ[ENCRYPTION_VARIABLE] = keys
        except ValueError:  # which quotes what it cannot hold
            raise CheckpointError(
                f"{source}: the keys hold a character that none can have, such as NUL",
                reason="invalid-encryption-key",
                hint="Write key_id:secret, the secret of 16 random bytes or more, as `openssl rand -base64 32` makes.",
            ) from None
        token = KEYS_FROM.set(source)
        try:
            yield
        finally:
            KEYS_FROM.reset(token)
            if before is None:
                del os.environ[ENCRYPTION_VARIABLE]
            else:
                os.environ[ENCRYPTION_VARIABLE] = before


def find_driver(address: Address) -> CheckpointerClass:
    """Return the driver of an address.

    Args:
        address: the path or URL.

    Raises:
        DriverNotFoundError: no installed driver opens it, or two claim it.
    """
    found = list(entry_points(group=ENTRY_POINT_GROUP, name=address.scheme))
    targets = {point.value for point in found}
    if not found:
        raise _not_found(address)
    if len(targets) > 1:
        claims = ", ".join(sorted(f"{_info(point).distribution} ({point.value})" for point in found))
        raise DriverNotFoundError(
            f"{redact(address.text)}: two installed drivers claim {address.scheme!r}: {claims}",
            reason="ambiguous-driver",
            hint="Uninstall one of them, or pass an instance of the right one to graph.start().",
        )
    return _load(found[0], address.text)


def _read_only_url(address: Address) -> str:
    text = address.text
    if "://" not in text:
        text = f"sqlite:///{quote(text)}"
    if re.search(r"[?&]read_only=", text):
        return text
    return f"{text}{'&' if '?' in text else '?'}read_only=true"


def _load(point: EntryPoint, url: str) -> CheckpointerClass:
    info = _info(point)
    try:
        driver: CheckpointerClass = point.load()
        driver.from_url  # noqa: B018  # an AttributeError here is a broken driver too
    except Exception as error:  # importing a driver runs its code, which may raise anything
        raise DriverNotFoundError(
            f"{redact(url)}: the driver {info.distribution} {info.version} cannot be loaded:"
            f" {type(error).__name__}: {error}",
            reason="broken-driver",
            hint=f"Reinstall it: pip install --force-reinstall {info.distribution}",
        ) from error
    return driver


def _not_found(address: Address) -> DriverNotFoundError:
    installed = [info.scheme for info in installed_drivers()]
    known = ", ".join(f"{scheme}://" for scheme in installed) or "none"
    distribution = _DISTRIBUTIONS.get(address.scheme)
    similar = get_close_matches(address.scheme.partition("+")[0], {*installed, *_DISTRIBUTIONS}, n=1, cutoff=0.7)
    if distribution:
        hint = f"Install its driver: pip install {distribution}"
    elif address.scheme == "file":
        hint = f"Write the path alone: {redact(_path_of(address.text)) or './runs.sqlite'}"
    elif address.scheme in ("http", "https"):
        hint = "For a server that speaks S3, write s3://BUCKET/PREFIX?endpoint_url=URL."
    elif similar:
        hint = f"Did you mean {redact(similar[0] + address.text[len(address.scheme) :])} ?"
    else:
        hint = f"Installed: {known}. A driver registers its scheme in the entry-point group {ENTRY_POINT_GROUP!r}."
    return DriverNotFoundError(
        f"{redact(address.text)}: no installed driver opens {address.scheme}://", reason="driver-not-found", hint=hint
    )


def _path_of(url: str) -> str:
    """Return the path that a file:// URL stands for on this system."""
    from urllib.request import url2pathname  # slow to import, and rarely needed

    return url2pathname(url.partition("://")[2].removeprefix("localhost"))


def _info(point: EntryPoint) -> DriverInfo:
    distribution = point.dist
    return DriverInfo(
        scheme=point.name,
        target=point.value,
        distribution=distribution.name if distribution else "unknown",
        version=distribution.version if distribution else "unknown",
    )
