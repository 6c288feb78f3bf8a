"""Instants as text."""

from __future__ import annotations

from datetime import UTC, datetime


def format_time(moment: datetime) -> str:
    """Write an instant as the digest and the stored forms do: UTC, six decimals, `Z`.

    Args:
        moment: an aware datetime.
    """
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")[:-6] + "Z"
