"""How a store is opened, and what its URL says about that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, unquote

from stargraph.checkpoint.driver import LatestCache, check_flags, check_type
from stargraph.errors import CheckpointError

Synchronous: TypeAlias = Literal["full", "normal"]
"""When a commit is on disk: at once, or at the next checkpoint of the write-ahead log."""

_SCHEME: Final = "sqlite:"
_SWITCH: Final = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Options:
    """How a store is opened.

    Attributes:
        synchronous: when a commit is on disk.
        busy_timeout: how long to wait for another connection's lock, in seconds.
        allow_network_filesystem: accept the risk of a filesystem that other machines share.
        read_only: never write a byte.

    Raises:
        ValueError: a value is not one of those.
    """

    synchronous: Synchronous = "full"
    busy_timeout: float = 30.0
    allow_network_filesystem: bool = False
    read_only: bool = False

    def __post_init__(self) -> None:
        check_flags(allow_network_filesystem=self.allow_network_filesystem)
        if self.synchronous not in get_args(Synchronous):
            raise ValueError(f"synchronous is {self.synchronous!r}: give 'full' or 'normal'")
        number = not isinstance(self.busy_timeout, bool) and isinstance(self.busy_timeout, int | float)
        if not number or not 0 <= self.busy_timeout < float("inf"):
            raise ValueError(f"busy_timeout is {self.busy_timeout!r}: give 0 or more seconds")


def _synchronous(text: str) -> str:
    if text not in get_args(Synchronous):
        raise ValueError("full or normal")
    return text


def _seconds(text: str) -> float:
    seconds = float(text) if text.replace(".", "", 1).isdecimal() else math.inf
    if seconds == math.inf:
        raise ValueError("0 or more seconds")
    return seconds


def _boolean(text: str) -> bool:
    if text not in _SWITCH:
        raise ValueError("true or false")
    return _SWITCH[text]


_URL_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "synchronous": _synchronous,
    "busy_timeout": _seconds,
    "allow_network_filesystem": _boolean,
    "read_only": _boolean,
    "latest_cache_bytes": LatestCache.parse_limit,
}
"""The arguments of `SQLiteCheckpointer` that a URL may hold, and how their values are read."""


def parse_url(url: str) -> tuple[str, dict[str, Any]]:
    """Return the path and the options that a URL names; anything else is a path as it stands.

    Args:
        url: `sqlite:///relative`, `sqlite:////absolute`, or a path.

    Raises:
        CheckpointError: `reason="invalid-url"`.
        TypeError: `url` is no text.
    """
    check_type(url, "url", str, "the URL or path of a store, as text")
    if not url.lower().startswith(_SCHEME):
        return url, {}
    place, _, query = url.partition("?")
    path = unquote(place[len(_SCHEME) + 3 :])
    if not place[len(_SCHEME) :].startswith("///") or not path:
        raise _invalid_url_error(url, "it names no file")
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise _invalid_url_error(url, f"{name} is given twice")
        if name not in _URL_OPTIONS:
            raise _invalid_url_error(url, f"{name}={value} is not one of its options")
        try:
            options[name] = _URL_OPTIONS[name](value)
        except ValueError as error:
            raise _invalid_url_error(url, f"{name} is {value!r}: give {error}") from None
    return path, options


def _invalid_url_error(url: str, complaint: str) -> CheckpointError:
    return CheckpointError(
        f"{url!r}: {complaint}",
        reason="invalid-url",
        hint="Write sqlite:///relative/run.sqlite, sqlite:////absolute/run.sqlite, or a plain path; after a URL, if"
        " needed, ?read_only=true, ?synchronous=normal, ?busy_timeout=60, ?latest_cache_bytes=67108864 or"
        " ?allow_network_filesystem=true.",
    )
