"""Searches: the checked form of what was asked, the cursor between pages, and both applied to summaries in memory."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import Final, TypeAlias, get_args

import orjson

from stargraph.checkpoint.driver._arguments import EPOCH, MICROSECOND, check_instant, check_limit, microseconds
from stargraph.checkpoint.protocol import RunFilters, RunOrder, RunPage, RunSummary, Status, is_run_id
from stargraph.errors._arguments import check_type

_STATUSES: Final[frozenset[str]] = frozenset(get_args(Status))

_MAX_TAGS: Final = 1_000
"""How many tags a search may name; each is a part of the statement of a database, which bounds its length."""


@dataclass(frozen=True, slots=True)
class RunMatcher:
    """The checked form of `RunFilters`; None stands for what was not asked.

    Attributes:
        statuses: the run has one of these; an empty tuple fits no run.
        graph_id: the id of its graph.
        graph_hash: the fingerprint of its graph.
        runtime_hash: the fingerprint of its code.
        error_reason: the reason of its error.
        metadata: tags that it has; empty if none were asked for.
        since: it started then or later, in UTC.
        updated_since: its last step was recorded then or later, in UTC.
        updated_before: its last step was recorded before, in UTC.
        due_before: it waits for a time before this one, in UTC.
        parent_run_id: the run that it came from.
        roots_only: it is not a child run.
        run_id_prefix: its id begins with this.
    """

    statuses: tuple[Status, ...] | None
    graph_id: str | None
    graph_hash: str | None
    runtime_hash: str | None
    error_reason: str | None
    metadata: Mapping[str, str]
    since: datetime | None
    updated_since: datetime | None
    updated_before: datetime | None
    due_before: datetime | None
    parent_run_id: str | None
    roots_only: bool
    run_id_prefix: str | None

    @property
    def run_id_range(self) -> tuple[str, str] | None:
        """The ids that fit `run_id_prefix`, in the order of their characters: from the first text on, below the second.

        None if no prefix was asked for. A prefix that no id has makes an empty range.
        """
        if self.run_id_prefix is None:
            return None
        # No id has a character as high as this one.
        return (self.run_id_prefix, self.run_id_prefix + "~") if is_run_id(self.run_id_prefix) else ("~", "~")

    def matches(self, run: RunSummary) -> bool:
        """Return whether a run fits all that was asked."""
        return (
            (self.statuses is None or run.status in self.statuses)
            and (self.graph_id is None or run.graph_id == self.graph_id)
            and (self.graph_hash is None or run.graph_hash == self.graph_hash)
            and (self.runtime_hash is None or run.runtime_hash == self.runtime_hash)
            and (self.error_reason is None or (run.error is not None and run.error.reason == self.error_reason))
            and (self.since is None or run.started_at >= self.since)
            and (self.updated_since is None or run.updated_at >= self.updated_since)
            and (self.updated_before is None or run.updated_at < self.updated_before)
            and (self.due_before is None or (run.due_at is not None and run.due_at < self.due_before))
            and (self.parent_run_id is None or run.parent_run_id == self.parent_run_id)
            and not (self.roots_only and run.origin == "subgraph")
            and (self.run_id_prefix is None or run.run_id.startswith(self.run_id_prefix))
            and self.metadata.items() <= run.metadata.items()
        )

    def count(self, runs: Iterable[RunSummary]) -> dict[Status, int]:
        """Return what `count_runs` returns, for a store that has to look at every run.

        Args:
            runs: all runs of the store.
        """
        return dict(Counter(run.status for run in runs if self.matches(run)))


@dataclass(frozen=True, slots=True)
class RunCursor:
    """The place in an order at which a page ended.

    Attributes:
        order: the order.
        moment: `started_at` or `updated_at` of the last run of the page.
        run_id: that run.
    """

    order: RunOrder
    moment: datetime
    run_id: str

    @classmethod
    def after(cls, run: RunSummary, order: RunOrder) -> RunCursor:
        """Return the cursor of a page that ends with a run."""
        return cls(order, moment_of(run, order), run.run_id)

    def encode(self) -> str:
        """Return the text that a caller is given as `next_cursor`."""
        place = [self.order, microseconds(self.moment), self.run_id]
        return base64.urlsafe_b64encode(orjson.dumps(place)).decode()

    @classmethod
    def decode(cls, text: str, order: RunOrder) -> RunCursor:
        """Return the cursor that `encode` made a text of.

        Args:
            order: the order of the search that it is given to.

        Raises:
            ValueError: the text is not a cursor, or one of another order.
        """
        try:
            # Strict: by default, characters that are not of the alphabet are skipped in silence.
            made_for, moment, run_id = orjson.loads(base64.b64decode(text, altchars=b"-_", validate=True))
            if made_for == order and type(moment) is int and is_run_id(run_id):
                return cls(order, EPOCH + moment * MICROSECOND, run_id)
        except (ValueError, TypeError, OverflowError):
            pass
        raise ValueError(f"cursor is {text!r}: give the next_cursor of the page before, in the same order, or None")

    def precedes(self, run: RunSummary) -> bool:
        """Return whether a run comes after this place in the order."""
        moment = moment_of(run, self.order)
        return moment < self.moment or (moment == self.moment and run.run_id > self.run_id)


ReadRuns: TypeAlias = Callable[[RunOrder, RunCursor | None, int], Awaitable[Sequence[RunSummary]]]
"""Reads runs in an order, after a cursor, about that many; none if there are no more."""

_PAGE: Final = 500
"""Runs that a scan reads at a time."""


async def scan_runs(
    read: ReadRuns, order: RunOrder = "started", after: RunCursor | None = None, *, page: int = _PAGE
) -> AsyncIterator[RunSummary]:
    """Yield the runs of a store in an order, a page at a time.

    Args:
        read: reads a page.
        order: which come first.
        after: where to begin; None for the first run.
        page: runs that the first page has.
    """
    while runs := await read(order, after, page):
        for run in runs:
            yield run
        after, page = RunCursor.after(runs[-1], order), _PAGE


@dataclass(frozen=True, slots=True)
class RunQuery:
    """The checked form of the arguments of `search`.

    Attributes:
        matcher: what to look for.
        limit: at most this many runs.
        order: which come first.
        cursor: the end of the page before; None for the first page.
    """

    matcher: RunMatcher
    limit: int
    order: RunOrder
    cursor: RunCursor | None

    def page(self, runs: Iterable[RunSummary]) -> RunPage:
        """Return what `search` returns, for a store that has to look at every run.

        Args:
            runs: all runs of the store, or at least those that come next and one more, in any order.
        """
        found = in_order(
            (run for run in runs if self.matcher.matches(run) and (self.cursor is None or self.cursor.precedes(run))),
            self.order,
        )
        return self.cut(found)

    async def scan(self, read: ReadRuns) -> RunPage:
        """Return what `search` returns, for a store that has its runs in order but cannot compare what filters ask for.

        Args:
            read: reads a page of them.
        """
        found: list[RunSummary] = []
        if self.limit == 0:
            return self.cut(found)
        oldest = self.matcher.since if self.order == "started" else self.matcher.updated_since
        async for run in scan_runs(read, self.order, self.cursor, page=min(self.limit + 1, _PAGE)):
            if oldest is not None and moment_of(run, self.order) < oldest:
                break
            if self.matcher.matches(run):
                found.append(run)
            if len(found) > self.limit:
                break
        return self.cut(found)

    def cut(self, found: list[RunSummary]) -> RunPage:
        """Return the page that begins with some runs.

        Args:
            found: the runs that match, in order, from the cursor on; one more than `limit` shows that there is another
                page.
        """
        items = tuple(found[: self.limit])
        more = bool(items) and len(found) > self.limit
        return RunPage.model_construct(
            items=items, next_cursor=RunCursor.after(items[-1], self.order).encode() if more else None
        )


def check_filters(filters: RunFilters) -> RunMatcher:
    """Refuse malformed filters, in the same words for every store.

    Args:
        filters: the keyword arguments of `search` or `count_runs`.

    Raises:
        TypeError: there is no such filter.
        ValueError: a filter is malformed.
    """
    unknown = sorted(filters.keys() - RunFilters.__annotations__.keys())
    if unknown:
        raise TypeError(f"there is no filter {unknown[0]!r}: give {', '.join(RunFilters.__annotations__)}")
    given = filters.get("status")
    # Each once: a store may read the runs of each status for itself.
    if given is not None:
        check_type(given, "status", Iterable, "a status, or several in a tuple")
    statuses = None if given is None else (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    for status in statuses or ():
        if status not in _STATUSES:
            raise ValueError(f"status is {status!r}: give {', '.join(get_args(Status))}")
    roots_only = filters.get("roots_only", False)
    if not isinstance(roots_only, bool):
        raise ValueError(f"roots_only is {roots_only!r}: give True or False")
    return RunMatcher(
        statuses=statuses,
        graph_id=_check_text(filters.get("graph_id"), "graph_id"),
        graph_hash=_check_text(filters.get("graph_hash"), "graph_hash"),
        runtime_hash=_check_text(filters.get("runtime_hash"), "runtime_hash"),
        error_reason=_check_text(filters.get("error_reason"), "error_reason"),
        metadata=_check_tags(filters.get("metadata")),
        since=_check_moment(filters.get("since"), "since"),
        updated_since=_check_moment(filters.get("updated_since"), "updated_since"),
        updated_before=_check_moment(filters.get("updated_before"), "updated_before"),
        due_before=_check_moment(filters.get("due_before"), "due_before"),
        parent_run_id=_check_text(filters.get("parent_run_id"), "parent_run_id"),
        roots_only=roots_only,
        run_id_prefix=_check_text(filters.get("run_id_prefix"), "run_id_prefix") or None,
    )


def check_search(*, limit: int, cursor: str | None, order: RunOrder, filters: RunFilters) -> RunQuery:
    """Refuse bad arguments of `search`, in the same words for every store.

    Args:
        limit: as `search` takes it.
        cursor: likewise; made by `RunCursor`.
        order: likewise.
        filters: the other keyword arguments.

    Raises:
        TypeError: there is no such filter.
        ValueError: an argument is malformed.
    """
    check_limit(limit)
    if order not in get_args(RunOrder):
        raise ValueError(f"order is {order!r}: give 'started' or 'updated'")
    after = None if cursor is None else RunCursor.decode(cursor, order)
    return RunQuery(check_filters(filters), limit, order, after)


def in_order(runs: Iterable[RunSummary], order: RunOrder = "started") -> list[RunSummary]:
    """Return runs as a list shows them: the newest first, ties by `run_id` ascending."""
    by_id = sorted(runs, key=lambda run: run.run_id)
    return sorted(by_id, key=lambda run: moment_of(run, order), reverse=True)


def moment_of(run: RunSummary, order: RunOrder) -> datetime:
    """Return the time by which an order places a run."""
    return run.started_at if order == "started" else run.updated_at


def _check_text(value: str | None, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}: give text, or None")
    return value


def _check_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    check_type(tags, "metadata", (Mapping, NoneType), "a dict of texts, or None")
    found = dict(tags or {})
    if len(found) > _MAX_TAGS:
        raise ValueError(f"metadata has {len(found):,} tags: give at most {_MAX_TAGS:,}, those that few runs have")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValueError(f"metadata holds {name!r}: {value!r}; give text for both")
    return found


def _check_moment(moment: datetime | None, name: str) -> datetime | None:
    return None if moment is None else check_instant(moment, name)
