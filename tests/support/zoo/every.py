"""The whole zoo: importing this puts every specimen into it."""

from support.zoo import (
    batches,
    database,
    deletions,
    deltas,
    histories,
    identity,
    lifecycle,
    listing,
    logs,
    racing,
    reading,
    searches,
    writing,
)
from support.zoo.specimens import ZOO, Specimen

__all__ = ["MODULES", "ZOO", "Specimen"]

MODULES = (
    writing,
    reading,
    identity,
    listing,
    lifecycle,
    racing,
    histories,
    searches,
    deletions,
    batches,
    database,
    deltas,
    logs,
)
