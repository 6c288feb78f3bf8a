"""Drivers whose search is wrong."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Unpack

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import check_filters, check_limit, check_search, in_order
from stargraph.checkpoint.protocol import RunFilters, RunOrder, RunPage, RunSummary, Status
from support.broken_drivers.broken_driver import broken


class Searches(ReferenceCheckpointer):
    """A base: matches summaries one by one."""

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        self._ensure_ready()
        status = filters.pop("status", None)
        graph_id = filters.pop("graph_id", None)
        metadata = filters.pop("metadata", None)
        assert status is None or isinstance(status, str)
        check_limit(limit)
        matcher = check_filters(filters)
        await self._turn()
        found = in_order(
            (
                run
                for run in self._summaries(None)
                if matcher.matches(run) and self._matches(run, status, graph_id, metadata or {})
            ),
            order,
        )
        return self._page(found, limit, cursor, order)

    def _page(self, found: list[RunSummary], limit: int, cursor: str | None, order: RunOrder) -> RunPage:
        return check_search(limit=limit, cursor=cursor, order=order, filters={}).page(found)

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        return (
            (status is None or item.status == status)
            and (graph_id is None or item.graph_id == graph_id)
            and metadata.items() <= item.metadata.items()
        )


@broken(
    "search.by_status",
    "search.filters_combine",
)
class AnyStatus(Searches):
    """Any checkpoint of the run is compared with the status."""

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        had = {found.status for step in self._records(item.run_id) if (found := self._at(item.run_id, step))}
        return super()._matches(item, None, graph_id, metadata) and (status is None or status in had)


@broken(
    "search.by_graph",
)
class GraphByPrefix(Searches):
    """graph_id matches whatever begins with it."""

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        return super()._matches(item, status, None, metadata) and item.graph_id.startswith(graph_id or "")


@broken(
    "search.by_metadata",
)
class MetadataAsText(Searches):
    """Tags are looked for in the text of all tags."""

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        text = str(sorted(item.metadata.items()))
        return super()._matches(item, status, graph_id, {}) and all(
            key in text and value in text for key, value in metadata.items()
        )


@broken(
    "search.filters_combine",
)
class FiltersWithOr(Searches):
    """A run is found if it matches any of the filters."""

    def _matches(self, item: RunSummary, status: str | None, graph_id: str | None, metadata: Mapping[str, str]) -> bool:
        asked = [
            super()._matches(item, status, None, {}) if status else None,
            super()._matches(item, None, graph_id, {}) if graph_id else None,
            super()._matches(item, None, None, metadata) if metadata else None,
        ]
        given = [matched for matched in asked if matched is not None]
        return any(given) if given else True


@broken(
    "search.by_run_id_prefix",
    "search.pages",
)
class CursorOfTimeAlone(Searches):
    """The cursor is the start of the last run: its neighbours of the same instant are skipped."""

    def _page(self, found: list[RunSummary], limit: int, cursor: str | None, order: RunOrder) -> RunPage:
        if cursor is not None:
            before = datetime.fromisoformat(cursor)
            found = [item for item in found if item.started_at < before]
        items = tuple(found[:limit])
        more = bool(items) and len(found) > limit
        return RunPage(items=items, next_cursor=items[-1].started_at.isoformat() if more else None)


@broken(
    "search.pages_while_runs_start",
)
class CursorIsOffset(Searches):
    """The cursor is an offset: runs that start meanwhile push the others onto the next page again."""

    def _page(self, found: list[RunSummary], limit: int, cursor: str | None, order: RunOrder) -> RunPage:
        start = int((cursor or "at 0").removeprefix("at "))
        if cursor is not None and not cursor.startswith("at "):
            raise ValueError("not a cursor")
        items = tuple(found[start : start + limit])
        more = bool(items) and start + limit < len(found)
        return RunPage(items=items, next_cursor=f"at {start + limit}" if more else None)


@broken(
    "search.bad_arguments_refused",
)
class AnyCursor(Searches):
    """A cursor that cannot be read is taken for none."""

    def _page(self, found: list[RunSummary], limit: int, cursor: str | None, order: RunOrder) -> RunPage:
        try:
            return super()._page(found, limit, cursor, order)
        except ValueError:
            return super()._page(found, limit, None, order)


@broken("search.by_run_id_prefix")
class PrefixIsAPattern(ReferenceCheckpointer):
    """LIKE 'prefix%': `_` and `%` in a prefix stand for other characters."""

    def _matching_prefix(self, prefix: str) -> list[RunSummary]:
        pattern = "".join({"_": ".", "%": ".*"}.get(character, re.escape(character)) for character in prefix)
        return [run for run in self._summaries(None) if re.match(pattern, run.run_id)]

    async def search(self, **arguments: Any) -> RunPage:
        prefix = arguments.pop("run_id_prefix", None)
        if not prefix:
            return await super().search(**arguments)
        self._ensure_ready()
        named = {name: arguments.pop(name) for name in ("limit", "cursor", "order") if name in arguments}
        query = check_search(**({"limit": 100, "cursor": None, "order": "started"} | named), filters=arguments)  # type: ignore[arg-type]
        await self._turn()
        return query.page(self._matching_prefix(prefix))


@broken("search.by_run_id_prefix")
class PrefixIsCut(ReferenceCheckpointer):
    """The index of ids holds their first 64 characters, and nothing else is compared."""

    async def search(self, **arguments: Any) -> RunPage:
        prefix = arguments.get("run_id_prefix")
        cut = {"run_id_prefix": prefix[:64]} if isinstance(prefix, str) else {}
        return await super().search(**(arguments | cut))


class _DueTimes(ReferenceCheckpointer):
    """A base: looks at due times itself."""

    def _is_due(self, run: RunSummary, bound: datetime) -> bool:
        return run.due_at is not None and run.due_at < bound

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        self._ensure_ready()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        bound = query.matcher.due_before
        await self._turn()
        query = replace(query, matcher=replace(query.matcher, due_before=None))
        return query.page(run for run in self._summaries(None) if bound is None or self._is_due(run, bound))


@broken("search.by_due_time")
class DueUpToTheBound(_DueTimes):
    """The bound itself is before it."""

    def _is_due(self, run: RunSummary, bound: datetime) -> bool:
        return run.due_at is not None and run.due_at <= bound


@broken("search.by_due_time")
class WithoutATimeIsDue(_DueTimes):
    """A run that waits for no time is due at any."""

    def _is_due(self, run: RunSummary, bound: datetime) -> bool:
        return run.due_at is None or run.due_at < bound


@broken("search.by_due_time")
class SleepersAlone(_DueTimes):
    """A queued run that may not begin yet is not found."""

    def _is_due(self, run: RunSummary, bound: datetime) -> bool:
        return run.status != "queued" and super()._is_due(run, bound)


class _WallClock(ReferenceCheckpointer):
    """A base: the bounds of a search lose their time zone."""

    BOUNDS: ClassVar[tuple[str, ...]] = ()

    async def search(self, **arguments: Any) -> RunPage:
        there = {name: arguments[name] for name in self.BOUNDS if arguments.get(name) is not None}
        bounds = {name: bound.replace(tzinfo=UTC) for name, bound in there.items() if bound.tzinfo}
        return await super().search(**(arguments | bounds))


@broken("search.by_update")
class UpdatedByTheWallClock(_WallClock):
    """The column of the last step has no time zone, and neither has what is compared with it."""

    BOUNDS = ("updated_since", "updated_before")


@broken("search.by_due_time")
class DueByTheWallClock(_WallClock):
    """The column of due times has no time zone, and neither has what is compared with it."""

    BOUNDS = ("due_before",)


@broken("search.defaults", slow=("sizes.many_runs",))
class CountsOnePage(ReferenceCheckpointer):
    """count_runs counts the runs of the first page of a search, which has a hundred."""

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        page = await self.search(limit=100, **filters)
        return dict(Counter(run.status for run in page.items))


class _AfterThePage(ReferenceCheckpointer):
    """A base: one filter, or the order, goes to the newest thousand runs alone."""

    LATE: ClassVar[frozenset[str]]
    """The names of those filters; `order` is that by last update."""

    async def search(
        self, *, limit: int = 100, cursor: str | None = None, order: RunOrder = "started", **filters: Unpack[RunFilters]
    ) -> RunPage:
        self._ensure_ready()
        query = check_search(limit=limit, cursor=cursor, order=order, filters=filters)
        await self._turn()
        given = {*filters, "order"} if order == "updated" else set(filters)
        return query.page(self._summaries(None)[: 1000 if self.LATE & given else None])


@broken(slow=("sizes.many_runs",))
class HashesFilteredAfterThePage(_AfterThePage):
    """graph_hash and runtime_hash have no column: the newest thousand runs are read and looked through."""

    LATE = frozenset({"graph_hash", "runtime_hash"})


@broken(slow=("sizes.many_runs",))
class PrefixesFilteredAfterThePage(_AfterThePage):
    """run_id_prefix is looked for among the newest thousand runs."""

    LATE = frozenset({"run_id_prefix"})


@broken(slow=("sizes.many_runs",))
class ParentsFilteredAfterThePage(_AfterThePage):
    """parent_run_id and roots_only are looked for among the newest thousand runs."""

    LATE = frozenset({"parent_run_id", "roots_only"})


@broken(slow=("sizes.many_runs",))
class UpdatesFilteredAfterThePage(_AfterThePage):
    """updated_since and updated_before are looked for among the newest thousand runs."""

    LATE = frozenset({"updated_since", "updated_before"})


@broken(slow=("sizes.many_runs",))
class ErrorsFilteredAfterThePage(_AfterThePage):
    """error_reason is looked for among the newest thousand runs."""

    LATE = frozenset({"error_reason"})


@broken(slow=("sizes.many_runs",))
class DueTimesFilteredAfterThePage(_AfterThePage):
    """due_before is looked for among the newest thousand runs."""

    LATE = frozenset({"due_before"})


@broken(slow=("sizes.many_runs",))
class SortsTheNewestThousand(_AfterThePage):
    """By last update come the thousand runs that started last."""

    LATE = frozenset({"order"})


class _ByUpdate(ReferenceCheckpointer):
    """A base: pages by last update have a cursor of their own."""

    async def search(
        self, *, limit: int = 100, cursor: str | None = None, order: RunOrder = "started", **filters: Unpack[RunFilters]
    ) -> RunPage:
        if order != "updated":
            return await super().search(limit=limit, cursor=cursor, order=order, **filters)
        found = (await super().search(limit=100_000, order=order, **filters)).items
        check_limit(limit)
        first = 0 if cursor is None else self._place(cursor, found)
        page = found[first : first + limit]
        more = bool(page) and first + limit < len(found)
        return RunPage(items=page, next_cursor=self._made(first + limit, page) if more else None)

    def _place(self, cursor: str, found: tuple[RunSummary, ...]) -> int:
        raise NotImplementedError

    def _made(self, end: int, page: tuple[RunSummary, ...]) -> str:
        raise NotImplementedError


@broken("search.pages_by_update_while_runs_change")
class CountsRowsByUpdate(_ByUpdate):
    """By last update the cursor is an offset."""

    def _place(self, cursor: str, found: tuple[RunSummary, ...]) -> int:
        return int(cursor)

    def _made(self, end: int, page: tuple[RunSummary, ...]) -> str:
        return str(end)


@broken("search.pages_by_update_while_runs_change")
class NamesARunByUpdate(_ByUpdate):
    """By last update the cursor names a run, which may have moved to the front or be gone."""

    def _place(self, cursor: str, found: tuple[RunSummary, ...]) -> int:
        ids = [run.run_id for run in found]
        if not cursor.startswith("after:"):
            raise ValueError("no cursor of this store")
        return ids.index(cursor[6:]) + 1 if cursor[6:] in ids else len(found)

    def _made(self, end: int, page: tuple[RunSummary, ...]) -> str:
        return f"after:{page[-1].run_id}"


@broken("interleaving.reads_and_removal")
class CountsInManyLooks(ReferenceCheckpointer):
    """The ids are read first, and then each run: one that is deleted meanwhile fails the count."""

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        self._ensure_ready()
        matcher = check_filters(filters)
        await self._turn()
        found = []
        for run_id in list(self._store.runs):
            await asyncio.sleep(0)
            latest = self._at(run_id, max(self._store.runs[run_id]))
            found += [RunSummary.from_checkpoint(latest)] if latest else []
        return matcher.count(found)
