"""The catalogue: every check, in the order in which they are run and shown."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Final

from stargraph.checkpoint.conformance._registry import Check

ENTRY_POINT_GROUP: Final = "stargraph.conformance_checks"
"""An entry point of this group names a `Group` of further checks."""


@cache
def catalogue() -> tuple[Check, ...]:
    """Return every check: those of the kit, and those that installed distributions add."""
    from stargraph.checkpoint.conformance._checks import (
        batch,
        bootstrap,
        cancel,
        clocks,
        closing,
        concurrency,
        corruption,
        crash,
        durability,
        encryption,
        engine,
        fencing,
        growth,
        history,
        interleaving,
        isolation,
        keys,
        listing,
        outages,
        performance,
        presence,
        pruned,
        queue_limits,
        schedules,
        search_pages,
        sizes,
        stateful,
        steps,
        survivors,
        timeline,
        trees,
        values,
        views,
        watch,
    )

    groups = (
        bootstrap.group,
        steps.group,
        values.group,
        isolation.group,
        listing.group,
        durability.group,
        growth.group,
        concurrency.group,
        fencing.group,
        cancel.group,
        crash.group,
        engine.group,
        corruption.group,
        history.group,
        timeline.group,
        watch.group,
        keys.group,
        queue_limits.group,  # queues', with the checks of all three modules
        presence.group,
        schedules.group,
        search_pages.group,  # search's, with the checks of both modules
        trees.group,
        survivors.group,  # deletion's, with the checks of both modules
        batch.group,
        pruned.group,
        closing.group,
        views.group,
        encryption.group,  # access', with the checks of both modules
        outages.group,
        interleaving.group,
        sizes.group,
        clocks.group,
        stateful.group,
        performance.group,
    )
    others = (point.load() for point in entry_points(group=ENTRY_POINT_GROUP))
    checks = tuple(check for group in (*groups, *others) for check in group.checks)
    known = [check.id for check in checks]
    assert len(known) == len(set(known)), "two checks have one id"
    assert all(needed in known for check in checks for needed in check.needs), "a check needs one that is not there"
    return checks


def find(check_id: str) -> Check | None:
    """Return the check with an id, or None.

    Args:
        check_id: `group.name`.
    """
    return next((check for check in catalogue() if check.id == check_id), None)
