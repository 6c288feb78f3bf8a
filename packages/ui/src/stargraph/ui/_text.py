"""Hostile text made harmless for a reader: nothing hides, nothing reverses the line, nothing is longer than a page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

# Controls, and what turns the direction of a line around: a state could show a reader something other than it says.
_INVISIBLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def visible(text: object) -> str:
    """Return a text in which invisible characters and marks of direction are written as escapes."""
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found.group()):04x}", str(text))


def shorten(text: str, width: int) -> str:
    """Return the first characters of a text, with an ellipsis if there are more."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def show_number(number: int) -> str:
    """Return a whole number with its thousands apart, on one line: `5 001`, as a comma is a decimal mark to many."""
    return f"{number:,}".replace(",", "\u202f")


def show_bytes(size: int | None) -> str:
    """Return a size in bytes for a person, as in `1.2 MB`; empty for None."""
    if size is None:
        return ""
    if size < 1000:
        return f"{size} B"
    amount = float(size)
    for unit in ("kB", "MB", "GB"):
        amount /= 1000
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
    return f"{amount / 1000:.3g} TB"


def show_seconds(seconds: float | None) -> str:
    """Return a duration for a person, as in `340 ms` or `2 h 5 min`; empty for None."""
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else f"{seconds * 1000:.1g} ms" if seconds > 0 else "0 ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    for size, unit, below, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit} {rest} {name}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def show_age(moment: datetime) -> str:
    """Return how long ago a moment is, as in `5 min ago`, or how far ahead."""
    seconds = (datetime.now(UTC) - moment) / timedelta(seconds=1)
    if abs(seconds) < 1:
        return "now"
    size, unit = next(
        (size, unit)
        for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
        if abs(seconds) >= size or size == 1
    )
    number = int(abs(seconds) // size)
    return f"{number} {unit} ago" if seconds > 0 else f"in {number} {unit}"
