"""The checks, one module for each group."""

from stargraph.checkpoint.conformance._checks import (
    batch,
    bootstrap,
    cancel,
    closing,
    concurrency,
    corruption,
    crash,
    deletion,
    durability,
    fencing,
    history,
    isolation,
    listing,
    performance,
    search,
    stateful,
    steps,
    values,
)

GROUPS = (
    bootstrap.group,
    steps.group,
    values.group,
    isolation.group,
    listing.group,
    durability.group,
    concurrency.group,
    fencing.group,
    cancel.group,
    crash.group,
    corruption.group,
    history.group,
    search.group,
    deletion.group,
    batch.group,
    closing.group,
    stateful.group,
    performance.group,
)
"""Every group, in the order of the catalogue."""

__all__ = ["GROUPS"]
