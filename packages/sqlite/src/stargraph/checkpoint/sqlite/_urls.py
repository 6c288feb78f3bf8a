"""What a store's URL says."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from stargraph.errors import CheckpointError

_SCHEME: Final = "sqlite:"
_SWITCH: Final = {"true": True, "1": True, "false": False, "0": False}


def parse_url(url: str) -> tuple[str, dict[str, Any]]:
    """Return the path and the arguments that a URL names; anything else is a path as it stands.

    Args:
        url: `sqlite:///relative`, `sqlite:////absolute`, or a path.

    Raises:
        CheckpointError: `reason="invalid-url"`.
    """
    if not url.lower().startswith(_SCHEME):
        return url, {}
    place, _, query = url.partition("?")
    path = unquote(place[len(_SCHEME) + 3 :])
    if not place[len(_SCHEME) :].startswith("///") or not path:
        raise _invalid(url, "it names no file")
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "synchronous" and value in ("full", "normal"):
            options[name] = value
        elif name == "busy_timeout" and value.replace(".", "", 1).isdigit():
            options[name] = float(value)
        elif name == "allow_network_filesystem" and value in _SWITCH:
            options[name] = _SWITCH[value]
        else:
            raise _invalid(url, f"{name}={value} is not one of its arguments")
    return path, options


def _invalid(url: str, complaint: str) -> CheckpointError:
    return CheckpointError(
        f"{url}: {complaint}",
        reason="invalid-url",
        hint="Write sqlite:///relative/run.sqlite, sqlite:////absolute/run.sqlite, or a plain path; after it, if"
        " need be, ?synchronous=normal, ?busy_timeout=60 or ?allow_network_filesystem=true.",
    )
