"""Instants as text."""

from __future__ import annotations

from datetime import UTC, datetime


def format_time(moment: datetime) -> str:
    """Write an instant as the digest and the stored forms do: UTC, six decimals, `Z`.

    Args:
        moment: an aware datetime.
    """
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    # Not its own method: a subclass, such as pendulum's, may write another text.
    return datetime.isoformat(utc, timespec="microseconds")[:-6] + "Z"


def datetime_class(kind: type[datetime]) -> type[datetime]:
    """Return the class `datetime` of the standard library, whatever stands in its place.

    Args:
        kind: that class, or a subclass. freezegun puts one in place of every `datetime` that a module has imported.
    """
    return next(base for base in kind.__mro__ if base.__module__ == "datetime")
