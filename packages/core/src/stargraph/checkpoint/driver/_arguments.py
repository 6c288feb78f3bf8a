"""Checks of arguments, so that every store refuses the same ones in the same words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, get_args

from stargraph.checkpoint.driver._append_rules import needed_steps
from stargraph.checkpoint.protocol._checkpoint import Checkpoint
from stargraph.checkpoint.protocol._records import ENDED, Status, as_utc
from stargraph.errors._arguments import check_count, check_type

MAX_STEP: Final = 2**53
"""The highest step that a checkpoint can have."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The instant from which stores count time."""

MICROSECOND: Final = timedelta(microseconds=1)
"""The unit in which they count it: exact, where a float of seconds is not."""

_STATUSES: Final[frozenset[str]] = frozenset(get_args(Status))


class StepBounds(NamedTuple):
    """The steps that `history` is asked for, both ends included; empty if `first` is above `last`."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class PruneRule:
    """The checked arguments of `prune`.

    Attributes:
        older_than: only runs whose last step was recorded before, in UTC.
        statuses: only runs with one of these.
        keep_last: how many checkpoints of each run to keep; 0 removes the run.
        dry_run: only count.
        run_id: only this run; None for all.
    """

    older_than: datetime
    statuses: frozenset[Status]
    keep_last: int
    dry_run: bool
    run_id: str | None = None

    def selects(self, latest: Checkpoint) -> bool:
        """Return whether a run is one of those that are pruned.

        Args:
            latest: its latest checkpoint.
        """
        named = self.run_id in (None, latest.run_id)
        return named and latest.timestamp < self.older_than and latest.status in self.statuses

    def plan(self, latest: Checkpoint, steps: Iterable[int]) -> PrunePlan:
        """Return what a prune removes from a run that is selected: all but the last steps, and those that it needs.

        Args:
            latest: its latest checkpoint.
            steps: the steps that are stored.
        """
        stored = sorted(steps)
        kept = set(stored[-self.keep_last :]) if self.keep_last else set()
        if kept and latest.status not in ENDED:
            for needed in needed_steps(latest):
                kept.update(range(needed.first, needed.last + 1))
        removed = [step for step in stored if step not in kept]
        return PrunePlan(removed, removed[-1] + 1 if removed else 0)


class PrunePlan(NamedTuple):
    """What a prune does to one run.

    Attributes:
        removed: the steps that go, in order; all of them if the run is deleted.
        floor: what the run's floor is raised to, before anything is removed; 0 leaves it as it is.
    """

    removed: list[int]
    floor: int


def check_limit(limit: int) -> None:
    """Refuse a limit that is negative or not an integer.

    Raises:
        ValueError: it is.
    """
    check_count(limit, "limit", least=0)


def check_listing(since: datetime | None, limit: int) -> datetime | None:
    """Refuse bad arguments of `list_runs`.

    Returns:
        `since` in UTC.

    Raises:
        ValueError: `since` is naive, or `limit` is negative or not an integer.
    """
    check_limit(limit)
    return None if since is None else check_instant(since, "since")


def check_instant(moment: datetime, name: str) -> datetime:
    """Refuse a naive datetime; return an aware one in UTC.

    Args:
        moment: the datetime.
        name: the name of the argument, for the error.

    Raises:
        ValueError: it is naive, or outside the years 1 to 9999 in UTC.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise ValueError(
            f"{name} is {moment!r}: give a datetime with its offset, as in datetime(2026, 1, 31, tzinfo=timezone.utc)"
        )
    return as_utc(moment)


def microseconds(moment: datetime) -> int:
    """Return an aware datetime as microseconds since 1970, exactly: numbers that sort as instants do."""
    return (moment - EPOCH) // MICROSECOND


def check_step(step: int) -> bool:
    """Return whether a run can have a step; False means that `read_at_step` returns None.

    Raises:
        ValueError: `step` is not an integer.
    """
    if isinstance(step, bool) or not isinstance(step, int):
        raise ValueError(f"step is {step!r}: give an integer")
    return 0 <= step <= MAX_STEP


def check_bounds(from_step: int | None, to_step: int | None) -> StepBounds:
    """Return the bounds of `history`; those of a whole run if neither is given.

    Raises:
        ValueError: one of them is not an integer.
    """
    for name, step in (("from_step", from_step), ("to_step", to_step)):
        if step is not None and (isinstance(step, bool) or not isinstance(step, int)):
            raise ValueError(f"{name} is {step!r}: give an integer, or None")
    return StepBounds(max(0, from_step or 0), MAX_STEP if to_step is None else min(to_step, MAX_STEP))


def check_timeline(from_step: int, to_step: int | None, limit: int) -> StepBounds:
    """Return the bounds of `timeline`.

    Raises:
        ValueError: a step is not an integer, or `limit` is negative or not an integer.
    """
    check_limit(limit)
    check_step(from_step)
    return check_bounds(from_step, to_step)


def check_prune(
    *, older_than: datetime, statuses: Iterable[Status], keep_last: int, dry_run: bool, run_id: str | None = None
) -> PruneRule:
    """Refuse bad arguments of `prune`.

    Raises:
        ValueError: `older_than` is naive, a status is unknown, `keep_last` is negative or not an integer, `run_id`
            is not text, or `dry_run` is not a bool: a mistake here removes what cannot be restored.
    """
    if isinstance(statuses, str):
        raise ValueError(f"statuses is {statuses!r}: give a tuple, as in ({statuses!r},)")
    check_type(statuses, "statuses", Iterable, "a tuple, as in ('done',)")
    wanted = tuple(statuses)
    for status in wanted:
        if status not in _STATUSES:
            raise ValueError(f"statuses holds {status!r}: give {', '.join(get_args(Status))}")
    check_count(keep_last, "keep_last", least=0)
    if run_id is not None and not isinstance(run_id, str):
        raise ValueError(f"run_id is {run_id!r}: give a run id, or None")
    if not isinstance(dry_run, bool):
        raise ValueError(f"dry_run is {dry_run!r}: give True or False")
    return PruneRule(check_instant(older_than, "older_than"), frozenset(wanted), keep_last, dry_run, run_id)
