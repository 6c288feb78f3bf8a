"""The catalogue: every check, in the order in which they are run and shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from typing import Final

from stargraph.checkpoint.conformance._expect import HarnessError, error_line
from stargraph.checkpoint.conformance._registry import Check, Group

ENTRY_POINT_GROUP: Final = "stargraph.conformance_checks"
"""An entry point of this group names a `Group` of further checks."""


def _added() -> Iterator[Group]:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        where = f"the entry point {point.name} = {point.value!r} of the group {ENTRY_POINT_GROUP}"
        try:
            group = point.load()
        except Exception as error:
            raise HarnessError(f"{where} cannot be loaded: {error_line(error)}") from error
        if not isinstance(group, Group):
            raise HarnessError(f"{where} names {type(group).__name__}: it must name a Group")
        yield group


@cache
def catalogue() -> tuple[Check, ...]:
    """Return every check: those of the kit, and those that installed distributions add.

    Raises:
        HarnessError: what a distribution adds cannot be loaded, or fits none of the others.
    """
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
        frozen,
        growth,
        history,
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
        frozen.group,  # interleaving's, with the checks of both modules
        sizes.group,
        clocks.group,
        stateful.group,
        performance.group,
    )
    checks = tuple(check for group in (*groups, *_added()) for check in group.checks)
    known = Counter(check.id for check in checks)
    if twice := [check_id for check_id, times in known.items() if times > 1]:
        raise HarnessError(f"two checks have the id {twice[0]!r}: give the group that was added a name of its own")
    for check in checks:
        if lacking := [needed for needed in check.needs if needed not in known]:
            raise HarnessError(f"the check {check.id!r} needs {lacking[0]!r}, and there is no such check")
    return checks


def find(check_id: str) -> Check | None:
    """Return the check with an id, or None.

    Args:
        check_id: `group.name`.
    """
    return next((check for check in catalogue() if check.id == check_id), None)
