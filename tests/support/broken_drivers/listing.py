"""Drivers whose list_runs is wrong."""

from __future__ import annotations

from datetime import UTC, datetime

from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.protocol import RunSummary
from support.broken_drivers.broken_driver import broken


class Listing(ReferenceCheckpointer):
    """A base: cuts off what `_listed` gives."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        from stargraph.checkpoint.driver import check_listing

        self._ensure_ready()
        since = check_listing(since, limit)
        await self._turn()
        return self._listed(since, limit)

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        return self._summaries(since)[:limit]

    def _all(self) -> list[RunSummary]:
        return [RunSummary.from_checkpoint(latest) for latest in filter(None, map(self._latest, self._store.runs))]


@broken("list_runs.limit")
class LimitIsABigint(ReferenceCheckpointer):
    """A limit goes to the database as it is, which takes 64 bits."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        if limit >= 2**63:
            raise OverflowError("int too large to convert")
        return await super().list_runs(since=since, limit=limit)


@broken(
    "list_runs.ties_by_run_id",
    "list_runs.limit",
    "list_runs.default_limit",
)
class IgnoresTheLimit(Listing):
    """The limit is not passed on."""

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        return self._summaries(since)


@broken(
    "list_runs.limit",
)
class ZeroMeansAll(Listing):
    """`limit or 100`: 0 gives everything."""

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        return self._summaries(since)[: limit or 100]


@broken(
    "list_runs.ties_by_run_id",
    "list_runs.limit",
    "list_runs.default_limit",
)
class LimitBeforeOrder(Listing):
    """The limit is applied to the order of insertion, and the rest is sorted."""

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        first = {summary.run_id for summary in self._all()[:limit]}
        return [summary for summary in self._summaries(since) if summary.run_id in first]


@broken(
    "list_runs.negative_limit_refused",
)
class NegativeLimit(ReferenceCheckpointer):
    """A negative limit goes to a slice."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        found = await super().list_runs(since=since, limit=max(limit, 10**6))
        return found[:limit]


@broken(
    "list_runs.naive_since_refused",
)
class NaiveIsUtc(ReferenceCheckpointer):
    """A since without an offset is taken for UTC."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        since = since.replace(tzinfo=UTC) if since is not None and since.tzinfo is None else since
        return await super().list_runs(since=since, limit=limit)


@broken(
    "list_runs.default_limit",
)
class NoDefaultLimit(ReferenceCheckpointer):
    """Without a limit everything is listed."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 10**9) -> list[RunSummary]:
        return await super().list_runs(since=since, limit=limit)


@broken(
    "list_runs.microseconds_order",
    "list_runs.since_is_inclusive",
    "list_runs.since_across_offsets",
)
class SinceIsExclusive(Listing):
    """`>` instead of `>=`."""

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        return [item for item in self._summaries(since) if since is None or item.started_at > since][:limit]


@broken(
    "list_runs.since_across_offsets",
)
class SinceAsText(ReferenceCheckpointer):
    """Timestamps are compared as text, whatever their offsets."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        found = await super().list_runs(limit=10**6 if limit >= 0 else limit)
        if since is not None:
            await super().list_runs(since=since, limit=0)
            found = [item for item in found if item.started_at.isoformat() >= since.isoformat()]
        return found[:limit]


@broken(
    "bootstrap.eight_handles",
    "list_runs.newest_first",
    "list_runs.microseconds_order",
    "list_runs.ties_by_run_id",
    "list_runs.limit",
    "list_runs.summaries",
    "concurrency.many_tasks",
)
class InsertionOrder(Listing):
    """The order is that of insertion, newest first."""

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        found = [item for item in reversed(self._all()) if since is None or item.started_at >= since]
        return found[:limit]


@broken(
    "list_runs.newest_first",
)
class LastUpdateOrder(Listing):
    """ORDER BY updated_at DESC."""

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        return sorted(self._summaries(since), key=lambda item: item.updated_at, reverse=True)[:limit]


@broken(
    "bootstrap.eight_handles",
    "list_runs.ties_by_run_id",
    "concurrency.many_tasks",
    "search.pages",
    "deletion.delete_run",
)
class TiesDescending(Listing):
    """ORDER BY started_at DESC, run_id DESC."""

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        return sorted(self._summaries(since), key=lambda item: (item.started_at, item.run_id), reverse=True)[:limit]


@broken(
    "list_runs.microseconds_order",
    "list_runs.since_is_inclusive",
)
class WholeSeconds(Listing):
    """Starts are kept in whole seconds, for the order and for since."""

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        found = sorted(self._all(), key=lambda item: (-int(item.started_at.timestamp()), item.run_id))
        return [item for item in found if since is None or int(item.started_at.timestamp()) >= int(since.timestamp())][
            :limit
        ]


@broken(
    "list_runs.microseconds_order",
    "list_runs.summaries",
    "durability.other_handle",
    "engine.runs_to_the_end",
    "search.by_status",
    "search.filters_combine",
    "batch.appends_all",
)
class SummaryOfTheStart(ReferenceCheckpointer):
    """The summary is made when the run starts, and not again."""

    def _summaries(self, since: datetime | None) -> list[RunSummary]:
        starts = [self._at(run_id, min(steps)) for run_id, steps in self._store.runs.items() if steps]
        found = [RunSummary.from_checkpoint(start) for start in starts if start is not None]
        kept = [item for item in found if since is None or item.started_at >= since]
        return sorted(kept, key=lambda item: (-item.started_at.timestamp(), item.run_id))


@broken(
    "list_runs.summaries",
)
class SummaryWithoutError(ReferenceCheckpointer):
    """The summary has no column for the error."""

    def _summaries(self, since: datetime | None) -> list[RunSummary]:
        return [item.model_copy(update={"error": None}) for item in super()._summaries(since)]


@broken(slow=("list_runs.thousands",))
class PagesOfAThousand(Listing):
    """The store below gives a thousand keys at a time, and the next page is not asked for."""

    def _listed(self, since: datetime | None, limit: int) -> list[RunSummary]:
        return self._summaries(since)[: min(limit, 1000)]


@broken(
    "list_runs.due_times",
)
class ForgetsDueTimes(ReferenceCheckpointer):
    """The table of summaries was made before runs could wait for a time."""

    def _summaries(self, since: datetime | None) -> list[RunSummary]:
        return [summary.model_copy(update={"due_at": None}) for summary in super()._summaries(since)]


@broken(
    "list_runs.due_times",
)
class ShowsTheFirstDueTime(ReferenceCheckpointer):
    """The due time is that of the first task that waits, not the earliest one."""

    def _summaries(self, since: datetime | None) -> list[RunSummary]:
        found = []
        for summary in super()._summaries(since):
            latest = self._latest(summary.run_id)
            waits = [each.due_at for each in latest.interrupts if each.due_at] if latest else []
            found.append(summary.model_copy(update={"due_at": waits[0]}) if waits else summary)
        return found
