"""All broken drivers: importing this module registers each of them."""

from support.broken_drivers import (
    batches,
    between,
    database,
    deletions,
    deltas,
    histories,
    identity,
    keys,
    lifecycle,
    listing,
    logs,
    opening,
    racing,
    reading,
    retries,
    scale,
    searches,
    stale,
    timing,
    writing,
)
from support.broken_drivers.broken_driver import BROKEN_DRIVERS, BrokenDriver

__all__ = ["BROKEN_DRIVERS", "MODULES", "BrokenDriver"]

MODULES = (
    writing,
    reading,
    identity,
    listing,
    lifecycle,
    racing,
    histories,
    searches,
    keys,
    deletions,
    batches,
    database,
    deltas,
    logs,
    retries,
    stale,
    scale,
    timing,
    between,
    opening,
)
