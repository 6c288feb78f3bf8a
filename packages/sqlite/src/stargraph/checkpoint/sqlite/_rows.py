"""How values look in the columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Return an aware datetime as microseconds since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def tags(metadata: Mapping[str, str]) -> str:
    """Return metadata as the JSON object from which SQL makes rows of `tags`."""
    return json.dumps({tag(name): tag(value) for name, value in metadata.items()})


def tag(text: str) -> str:
    """Return a text as a column of `tags` holds it: escaped, since json_each cuts it at a NUL."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
