"""Drivers whose timelines or watches are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from stargraph.checkpoint.codec import Codec
from stargraph.checkpoint.codec._compression import inflate
from stargraph.checkpoint.codec._header import read_header
from stargraph.checkpoint.codec._literals import LiteralReader
from stargraph.checkpoint.codec._stored import _check_of
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer, ReferenceStore
from stargraph.checkpoint.driver import check_timeline, missing_step_error
from stargraph.checkpoint.protocol import Checkpoint, StepSummary
from stargraph.errors import StoreUnavailableError
from support.broken_drivers.broken_driver import broken

_LOOK: Final = 0.05


class _Rows(ReferenceCheckpointer):
    """A base: rows that are made of rows."""

    async def timeline(
        self, run_id: str, *, from_step: int = 0, to_step: int | None = None, limit: int = 1000
    ) -> list[StepSummary]:
        rows = await super().timeline(run_id, from_step=from_step, to_step=to_step, limit=limit)
        return [self._changed(row) for row in rows]

    def _changed(self, row: StepSummary) -> StepSummary:
        return row


@broken(slow=("timeline.states_are_not_decoded",))
class DecodesEveryState(ReferenceCheckpointer):
    """A row is made of the whole checkpoint."""

    async def timeline(
        self, run_id: str, *, from_step: int = 0, to_step: int | None = None, limit: int = 1000
    ) -> list[StepSummary]:
        await super().timeline(run_id, from_step=from_step, to_step=to_step, limit=limit)
        rows: list[StepSummary] = []
        before = self._at(run_id, from_step - 1) if from_step and from_step - 1 in self._records(run_id) else None
        for step in sorted(self._records(run_id)):
            if step >= from_step and (to_step is None or step <= to_step) and len(rows) < limit:
                found = self._at(run_id, step)
                assert found is not None
                known = before if before is not None and before.step == step - 1 else None
                rows.append(StepSummary.from_checkpoint(found, known))
                before = found
        return rows


@broken("timeline.ranges", "timeline.lost_step")
class TimelineIsHalfOpen(ReferenceCheckpointer):
    """to_step is the first step that is left out."""

    async def timeline(self, run_id: str, *, to_step: int | None = None, **options: Any) -> list[StepSummary]:
        return await super().timeline(run_id, to_step=None if to_step is None else to_step - 1, **options)


@broken("timeline.ranges")
class PagesBeginAnew(ReferenceCheckpointer):
    """The first row of a page knows nothing of the step before it, and so not what that step removed."""

    async def timeline(self, run_id: str, *, from_step: int = 0, **options: Any) -> list[StepSummary]:
        rows = await super().timeline(run_id, from_step=from_step, **options)
        return [row.model_copy(update={"removed": ()}) if row.step == from_step else row for row in rows]


@broken("timeline.removals", "pruned.high_steps")
class LimitCountsSteps(ReferenceCheckpointer):
    """A page ends `limit` steps above from_step, however few of them are stored."""

    async def timeline(
        self, run_id: str, *, from_step: int = 0, to_step: int | None = None, limit: int = 1000
    ) -> list[StepSummary]:
        check_timeline(from_step, to_step, limit)
        last = from_step + limit - 1
        bound = last if to_step is None else min(last, to_step)
        return await super().timeline(run_id, from_step=from_step, to_step=bound, limit=limit)


@broken("timeline.rows", "timeline.ranges", "timeline.removals", "timeline.lost_step", "timeline.damage")
class SetsAllThatThereIs(_Rows):
    """`changed` lists the fields of the state."""

    def _changed(self, row: StepSummary) -> StepSummary:
        return row.model_copy(update={"changed": (*row.changed, "text")})


@broken("timeline.rows", "timeline.ranges", "timeline.removals", "timeline.damage")
class ForgetsCalls(_Rows):
    """The table of rows has no column for calls."""

    def _changed(self, row: StepSummary) -> StepSummary:
        return row.model_copy(update={"calls": ()})


@broken("timeline.rows", "timeline.ranges", "timeline.removals", "timeline.lost_step", "timeline.damage")
class SecondsAreEnough(_Rows):
    """Times lose their microseconds."""

    def _changed(self, row: StepSummary) -> StepSummary:
        return row.model_copy(update={"timestamp": row.timestamp.replace(microsecond=0)})


@broken("timeline.rows", "timeline.ranges", "timeline.removals", "timeline.damage")
class ShowsTheLatestStatus(ReferenceCheckpointer):
    """Every row has the status that the run has now."""

    async def timeline(self, run_id: str, **options: Any) -> list[StepSummary]:
        rows = await super().timeline(run_id, **options)
        latest = self._latest(run_id)
        return [row.model_copy(update={"status": latest.status}) for row in rows] if latest else rows


@broken("timeline.rows", "timeline.ranges", "timeline.removals", "timeline.damage", "timeline.long_run")
class OrdersRowsAsText(ReferenceCheckpointer):
    """Step 10 comes before step 2."""

    async def timeline(self, run_id: str, **options: Any) -> list[StepSummary]:
        return sorted(await super().timeline(run_id, **options), key=lambda row: str(row.step))


@broken(slow=("timeline.long_run",))
class NeverMoreThanAThousand(ReferenceCheckpointer):
    """Whatever limit is asked for, a statement of the driver returns 1,000 rows."""

    async def timeline(self, run_id: str, *, limit: int = 1000, **options: Any) -> list[StepSummary]:
        return await super().timeline(run_id, limit=min(limit, 1000), **options)


@broken("timeline.rows", "timeline.removals")
class RowsAreCached(ReferenceCheckpointer):
    """What a handle has shown once, it shows again."""

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._shown: dict[tuple[str, str], list[StepSummary]] = {}

    async def timeline(self, run_id: str, **options: Any) -> list[StepSummary]:
        found = await super().timeline(run_id, **options)
        return self._shown.setdefault((run_id, str(options)), found)


@broken("timeline.lost_step")
class LeavesLostRowsOut(ReferenceCheckpointer):
    """A row that is not there is not missed."""

    async def timeline(
        self, run_id: str, *, from_step: int = 0, to_step: int | None = None, limit: int = 1000
    ) -> list[StepSummary]:
        self._ensure_ready()
        check_timeline(from_step, to_step, limit)
        records = self._records(run_id)
        last = max(records, default=-1) if to_step is None else to_step
        steps = [step for step in sorted(records) if from_step <= step <= last][:limit]
        return Codec(memory=0).summarize(records, run_id=run_id, steps=steps)


@broken("timeline.damage")
class BelievesTheBeginning(ReferenceCheckpointer):
    """What can be parsed is shown: the check of a record is not compared."""

    def _records(self, run_id: str) -> dict[int, bytes]:
        records = super()._records(run_id)
        return {step: _as_if_it_fitted(record) for step, record in records.items()} if self._shows else records

    _shows = False

    async def timeline(self, run_id: str, **options: Any) -> list[StepSummary]:
        self._ensure_ready()
        self._shows = True
        try:
            return await super().timeline(run_id, **options)
        finally:
            self._shows = False


def _as_if_it_fitted(record: bytes) -> bytes:
    """Return a record with the check that fits what is in it now."""
    import orjson

    try:
        start = read_header(record, "run", 10**6).end
        body = inflate(record[start:]) if record[1] & 1 else record[start:]
        line = body.index(b"\n")
        literals = LiteralReader(body, line + 5)
        literals.scripts(orjson.loads(body[:line])["f"])
        check = _check_of(body[:line], literals.taken(line + 5))
        return record[:1] + b"\0" + record[2:start] + body[: line + 1] + check + body[line + 5 :]
    except Exception:  # it is damaged, and refused by whoever reads it
        return record


class _Watching(ReferenceCheckpointer):
    """A base: watches that look for themselves."""

    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        self._ensure_ready()
        known = self._before(run_id, after_step)
        while True:
            step = await self._seen(run_id)
            if step > known:
                known = step
                yield step
            await self._pause(run_id)

    def _before(self, run_id: str, after_step: int) -> int:
        return after_step

    async def _seen(self, run_id: str) -> int:
        self._ensure_ready()
        await self._turn()
        return max(self._records(run_id), default=-1)

    async def _pause(self, run_id: str) -> None:
        await asyncio.sleep(_LOOK)


@broken("watch.steps", "watch.after_step", "watch.many", "watch.never_ends")
class HearsItselfOnly(_Watching):
    """A watch knows what its own handle has written."""

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._written: dict[str, int] = {}

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        self._written[checkpoint.run_id] = checkpoint.step

    async def _seen(self, run_id: str) -> int:
        await super()._seen(run_id)
        return self._written.get(run_id, -1)


@broken("watch.steps", "watch.after_step", "watch.many", "watch.closed", slow=("watch.idle", "watch.outage"))
class ChangesCountFromTheFirstLook(_Watching):
    """What is there when a watch begins is not told."""

    def _before(self, run_id: str, after_step: int) -> int:
        return max(self._records(run_id), default=-1)


@broken("watch.after_step")
class TellsAllOverAgain(_Watching):
    """after_step is ignored."""

    def _before(self, run_id: str, after_step: int) -> int:
        return -1


@broken(slow=("watch.never_ends",))
class EndsWithTheRun(_Watching):
    """A watch ends once the run has."""

    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        async for step in super().watch(run_id, after_step=after_step):
            yield step
            latest = self._latest(run_id)
            if latest is not None and latest.status in ("done", "failed", "cancelled"):
                return


@broken(slow=("watch.idle",))
class LooksWithoutAPause(_Watching):
    """It looks again at once."""

    async def _pause(self, run_id: str) -> None:
        await asyncio.sleep(0)


@broken(slow=("watch.idle",))
class ReadsTheStateToWatch(_Watching):
    """Each look decodes the latest checkpoint."""

    async def _seen(self, run_id: str) -> int:
        latest = await self.read_latest(run_id)
        return -1 if latest is None else latest.step


@broken("watch.pruned")
class CountsItsSteps(_Watching):
    """The latest step is taken for the number of rows less one."""

    async def _seen(self, run_id: str) -> int:
        await super()._seen(run_id)
        return len(self._records(run_id)) - 1


@broken("watch.closed")
class EndsInSilence(_Watching):
    """A watch of a closed handle ends."""

    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        self._ensure_ready()
        watch = super().watch(run_id, after_step=after_step)
        while self._state == "ready":
            coming = asyncio.ensure_future(anext(watch))
            while not coming.done() and self._state == "ready":
                await asyncio.wait({coming}, timeout=_LOOK)
            if not coming.done():
                coming.cancel()
                return
            yield coming.result()


@broken("watch.many")
class OneEarForAll(_Watching):
    """What was told to one watch of a run is not told to the others."""

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._told: dict[str, int] = {}

    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        self._told[run_id] = after_step
        while True:
            step = await self._seen(run_id)
            if step > self._told[run_id]:
                self._told[run_id] = step
                yield step
            await self._pause(run_id)


@broken(slow=("watch.never_ends",))
class TellsBeforeItIsStored(_Watching):
    """A write is announced before it is judged."""

    _boards: dict[int, dict[str, int]] = {}  # noqa: RUF012

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._announced = self._boards.setdefault(id(self._store), {})
        if not self._store.runs:
            self._announced.clear()

    async def write(self, checkpoint: Checkpoint) -> None:
        self._announced[checkpoint.run_id] = self._announced.get(checkpoint.run_id, -1) + 1
        await super().write(checkpoint)

    async def _seen(self, run_id: str) -> int:
        return max(await super()._seen(run_id), self._announced.get(run_id, -1))


@broken(slow=("watch.outage",))
class FallsSilentAfterAnOutage(_Watching):
    """The first look that fails is the last one, and nobody hears of it."""

    async def _seen(self, run_id: str) -> int:
        try:
            return await super()._seen(run_id)
        except StoreUnavailableError:
            await asyncio.Event().wait()
            raise


@broken("watch.every_way_in")
class OnlyWritesAreTold(_Watching):
    """write tells the watches of a step; batches and pruned starts are forgotten."""

    _everywhere: dict[int, tuple[ReferenceStore, dict[str, int]]] = {}  # noqa: RUF012

    def __init__(self, store: ReferenceStore | None = None, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._told = self._everywhere.setdefault(id(self._store), (self._store, {}))[1]

    async def write(self, checkpoint: Checkpoint) -> None:
        await super().write(checkpoint)
        self._told[checkpoint.run_id] = checkpoint.step

    async def _seen(self, run_id: str) -> int:
        await super()._seen(run_id)
        return self._told.get(run_id, -1)


@broken("watch.every_way_in")
class TellsEveryNumber(ReferenceCheckpointer):
    """Each number up to the latest step is told, also of steps that a prune has removed."""

    async def watch(self, run_id: str, *, after_step: int = -1) -> AsyncGenerator[int]:
        known = after_step
        async for step in super().watch(run_id, after_step=after_step):
            for each in range(known + 1, step + 1):
                yield each
            known = step


@broken("interleaving.reads_and_removal")
class RowsInTwoLooks(ReferenceCheckpointer):
    """The steps of a timeline are listed first, and looked for a turn later: one that is gone meanwhile is missed."""

    async def timeline(self, run_id: str, **arguments: Any) -> list[StepSummary]:
        await self._turn()
        before = set(self._records(run_id))
        found = await super().timeline(run_id, **arguments)
        for step in before - set(self._records(run_id)):
            raise missing_step_error(run_id, step)
        return found
