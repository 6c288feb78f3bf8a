"""Drivers that look at the store twice for one answer, and handles that take something away from other ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.conformance.reference import ReferenceCheckpointer
from stargraph.checkpoint.driver import check_listing, in_order
from stargraph.checkpoint.protocol import Checkpoint, RunSummary
from support.broken_drivers.broken_driver import broken


@broken("interleaving.reads_and_removal")
class LatestInTwoLooks(ReferenceCheckpointer):
    """The highest step is looked up, and then its record: a prune in between makes a run that goes on unknown."""

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._ensure_ready()
        await self._turn()
        step = max(self._records(run_id), default=None)
        await self._turn()
        return None if step is None else self._at(run_id, step)


@broken("interleaving.reads_and_removal")
class ListInManyLooks(ReferenceCheckpointer):
    """The ids are read first, and then the latest step of each: one that was deleted meanwhile fails the list."""

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        self._ensure_ready()
        since = check_listing(since, limit)
        found = []
        for run_id in list(self._store.runs):
            await self._turn()
            latest = self._latest(run_id)
            assert latest is not None
            found.append(RunSummary.from_checkpoint(latest))
        return in_order(run for run in found if since is None or run.started_at >= since)[:limit]


@broken("interleaving.reads_and_removal")
class HistoryInManyLooks(ReferenceCheckpointer):
    """The steps of a history are listed first, and then read one by one: one that was pruned meanwhile fails it."""

    async def history(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Checkpoint]:
        self._ensure_ready()
        await self._turn()
        for step in sorted(self._records(run_id), reverse=newest_first):
            if (from_step is None or step >= from_step) and (to_step is None or step <= to_step):
                yield decode(self._records(run_id)[step], run_id=run_id, step=step)
                await self._turn()


@broken("bootstrap.beside_calls")
class BootstrapTakesBack(ReferenceCheckpointer):
    """A second bootstrap first closes what the one before had opened, under the calls that are in flight."""

    async def bootstrap(self) -> None:
        self._state = "not-bootstrapped"
        await super().bootstrap()

    async def write(self, checkpoint: Checkpoint) -> None:
        self._ensure_writable("write")
        record = encode(checkpoint)
        await self._turn()
        self._ensure_ready()
        self._append(checkpoint, record)


_POOLS: dict[int, list[ReferenceCheckpointer]] = {}


@broken("closing.others_stay_open")
class OnePoolForAll(ReferenceCheckpointer):
    """All handles on a store share a pool, and the first one that closes takes it away from the others."""

    async def bootstrap(self) -> None:
        await super().bootstrap()
        _POOLS.setdefault(id(self._store), []).append(self)

    async def close(self) -> None:
        was_ready = self._state == "ready"
        await super().close()
        for handle in _POOLS.pop(id(self._store), []) if was_ready else []:
            handle._state = "closed"
