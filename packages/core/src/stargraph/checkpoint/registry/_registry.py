"""Drivers register a URL scheme by an entry point; nothing here knows a driver by its code."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Protocol

from stargraph.checkpoint.protocol import Checkpointer
from stargraph.errors import DriverNotFoundError

ENTRY_POINT_GROUP: Final = "stargraph.checkpointers"
"""An entry point of this group maps a URL scheme to a class that has `from_url`."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

_DISTRIBUTIONS: Final = {
    "sqlite": "stargraph-checkpoint-sqlite",
    "postgresql": "stargraph-checkpoint-postgres",
    "postgres": "stargraph-checkpoint-postgres",
    "s3": "stargraph-checkpoint-s3",
}

# Wider than URLs allow, since a password that should have been quoted is the one that shows: from the first colon up
# to the last @, and the value of each parameter whose name sounds secret or is itself quoted.
_USER_SECRET: Final = re.compile(r"(?<=://)([^:@]*):.*@", re.DOTALL)
_PARAMETER: Final = re.compile(
    r"(?<![^\s?&=])([^\s?&=]*(?:pass|pwd|secret|token|key|credential|sig|%)[^\s?&=]*\s*=\s*)('[^']*'|[^&\s]*)",
    re.IGNORECASE,
)


class CheckpointerClass(Protocol):
    """What an entry point of the group names."""

    def from_url(self, url: str, /) -> Checkpointer:
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


def open_checkpointer(url: str | os.PathLike[str]) -> Checkpointer:
    """Return a handle on the store that a path or URL names; no I/O happens before `bootstrap`.

    Args:
        url: a path, `sqlite:///…`, `postgresql://…`, `s3://bucket/prefix`, or the scheme of any installed
            driver.

    Raises:
        DriverNotFoundError: no installed driver opens it, or two claim it.
    """
    text = os.fspath(url)
    match = _SCHEME.match(text)
    scheme = match.group(1).lower() if match else "sqlite"
    found = list(entry_points(group=ENTRY_POINT_GROUP, name=scheme))
    targets = {point.value for point in found}
    if not found:
        raise _not_found(text, scheme)
    if len(targets) > 1:
        claims = ", ".join(sorted(f"{_info(point).distribution} ({point.value})" for point in found))
        raise DriverNotFoundError(
            f"{redact(text)}: two installed drivers claim {scheme!r}: {claims}",
            reason="ambiguous-driver",
            hint="Uninstall one of them, or pass an instance of the one that you mean to graph.start().",
        )
    return _load(found[0], text).from_url(text)


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


def _not_found(url: str, scheme: str) -> DriverNotFoundError:
    known = ", ".join(f"{info.scheme}://" for info in installed_drivers()) or "none"
    distribution = _DISTRIBUTIONS.get(scheme)
    hint = (
        f"Install its driver: pip install {distribution}"
        if distribution
        else f"Installed: {known}. A driver registers its scheme in the entry-point group {ENTRY_POINT_GROUP!r}."
    )
    return DriverNotFoundError(
        f"{redact(url)}: no installed driver opens {scheme}://", reason="driver-not-found", hint=hint
    )


def _info(point: EntryPoint) -> DriverInfo:
    distribution = point.dist
    return DriverInfo(
        scheme=point.name,
        target=point.value,
        distribution=distribution.name if distribution else "unknown",
        version=distribution.version if distribution else "unknown",
    )


def redact(url: str) -> str:
    """Return a URL without its secrets: the password and any parameter that sounds like one.

    Args:
        url: a path, a URL or a connection string.
    """
    return _PARAMETER.sub(r"\1***", _USER_SECRET.sub(r"\1:***@", url))
