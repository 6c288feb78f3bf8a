"""Which runs a worker takes next: those of its versions, then others that one of its graphs can go on with."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from stargraph.checkpoint.driver import QueueDamage
from stargraph.checkpoint.protocol import Checkpointer, GraphVersion, RefusedVersion, RunQueue, RunSummary
from stargraph.engine import facts
from stargraph.errors import CheckpointCorruptedError, StoreUnavailableError
from stargraph.worker._damage import DamageLog
from stargraph.worker._execution import LOGGER
from stargraph.worker._metrics import WorkerMetrics
from stargraph.worker._versions import LoadedGraph, Versions

_LOOK_SECONDS: Final = 15.0
"""How often it looks for runs of other versions."""

_REFUSED_SECONDS: Final = 300.0
"""How long a run that cannot be executed is left alone, unless somebody goes on with it."""

_LOOKED_AT: Final = 100
"""At how many runs of other versions it looks at a time."""

_REPORTED: Final = 20
"""Versions that it says in the store that it refuses: each beat writes them."""

_REASON_LENGTH: Final = 300

_NEVER: Final = 10.0**9


class Claim(NamedTuple):
    """A run that this worker took, and the graph that it is executed with.

    Attributes:
        run: where it stood.
        loaded: the graph.
    """

    run: RunSummary
    loaded: LoadedGraph


class Claims:
    """Takes runs for one worker.

    Args:
        store: holds them.
        process_id: who takes them.
        queues: where from.
        versions: what this worker can execute.
        silent_after: seconds of silence after which a process counts as gone.
        metrics: notes what was found.
    """

    def __init__(
        self,
        store: Checkpointer,
        process_id: str,
        queues: Sequence[str],
        versions: Versions,
        *,
        silent_after: float,
        metrics: WorkerMetrics,
    ) -> None:
        assert isinstance(store, RunQueue)
        self._queue: RunQueue = store
        self._store: Checkpointer = store
        self._process_id = process_id
        self._queues = queues
        self._versions = versions
        self._silent_after = silent_after
        self._metrics = metrics
        self._refused: dict[str, tuple[int, float]] = {}
        self._reported: set[GraphVersion] = set()
        self._damage = DamageLog(metrics)
        self._damaged_queues: dict[str, str] = {}
        self._looked = -_NEVER
        self._takes_over_from = 0.0

    async def take(self, room: int, running: Collection[str]) -> list[Claim]:
        """Take as many runs as there is room for; what is damaged is left aside, and logged.

        Args:
            room: how many.
            running: the runs that this worker executes already.

        Raises:
            CheckpointError: as the store raises.
        """
        now = time.monotonic()
        self._refused = {run: (step, until) for run, (step, until) in self._refused.items() if until > now}
        # What a process took and did not begin with is free when it counts as gone, like what it executed.
        found = await self._claimable(room, fits=self._versions.all, reserve=self._silent_after)
        claims = [
            Claim(run, loaded)
            for run in found
            if run.run_id not in running
            and not self._is_refused(run)
            and (loaded := self._versions.exact(run)) is not None
        ]
        try:
            if len(found) < room and now - self._looked >= _LOOK_SECONDS:
                self._looked = now
                claims += await self._take_other_versions(room - len(found), running)
            await self._note_damage()
        except StoreUnavailableError:
            if not claims:  # what was taken is reserved, and nobody else would execute it for a while
                raise
        return claims

    def refuse(self, run_id: str, step: int) -> None:
        """Leave a run alone for a while, unless somebody goes on with it.

        Args:
            step: its latest step.
        """
        self._refused.setdefault(run_id, (step, time.monotonic() + _REFUSED_SECONDS))

    def _is_refused(self, run: RunSummary) -> bool:
        return self._refused.get(run.run_id, (-1, 0.0))[0] == run.last_step

    def _silence(self) -> float:
        """Return after how many seconds of silence a process counts as gone.

        After an outage of the store all were silent: they get the time to say that they live.
        """
        now = time.monotonic()
        if now - self._metrics.heartbeat > self._silent_after * 0.8:
            self._takes_over_from = now + self._silent_after
        return self._silent_after if now >= self._takes_over_from else _NEVER

    async def _claimable(
        self, limit: int, *, fits: Sequence[GraphVersion] | None = None, reserve: float = 0.0
    ) -> list[RunSummary]:
        """Return the runs that can go on; a queue that the store cannot read keeps those of no other from it.

        Raises:
            CheckpointError: as the store raises.
        """
        found: list[RunSummary] = []
        asked: list[Sequence[str]] = [self._queues]
        while asked and len(found) < limit:
            queues = asked.pop(0)
            try:
                found += await self._queue.claimable(
                    self._process_id,
                    queues,
                    limit=limit - len(found),
                    fits=fits,
                    silent_after=self._silence(),
                    reserve=reserve,
                )
            except StoreUnavailableError:
                if not found:
                    raise
                break
            except CheckpointCorruptedError as error:
                if error.reason != "corrupted-record":  # the whole store is damaged
                    raise
                if len(queues) == 1:
                    self._damaged_queues[queues[0]] = error.message
                else:
                    asked = [(queue,) for queue in queues]
            else:
                # One that is not asked, since there is no room left, stays what it was.
                self._damaged_queues = {
                    queue: why for queue, why in self._damaged_queues.items() if queue not in queues
                }
        return found

    async def _note_damage(self) -> None:
        damaged = {f"queue {queue}": error for queue, error in self._damaged_queues.items()}
        if isinstance(self._queue, QueueDamage):
            damaged |= {f"run {run.run_id}": run.error for run in await self._queue.damaged_runs()}
        self._damage.note(damaged)

    async def _take_other_versions(self, room: int, running: Collection[str]) -> list[Claim]:
        """Take runs of other versions that one of the graphs can go on with; count and report the others."""
        # Nothing is reserved: most of these are for other workers.
        found = await self._claimable(_LOOKED_AT)
        claims: list[Claim] = []
        stranded = 0
        before, refused = dict(self._metrics.refused), {}
        for run in found:
            if run.run_id in running or self._versions.exact(run) is not None:
                continue
            version = GraphVersion.of(run)
            fitting: LoadedGraph | str = before.get(version, "it was refused")
            if not self._is_refused(run):
                fitting = await self._versions.fitting(self._store, run)
            if isinstance(fitting, str):
                stranded += 1
                refused[version] = fitting
                self.refuse(run.run_id, run.last_step)
                self._report(run, fitting)
            elif len(claims) < room:
                claims.append(Claim(run, fitting))
        self._metrics.stranded = stranded
        self._metrics.refused = tuple(
            RefusedVersion(version, why[:_REASON_LENGTH]) for version, why in list(refused.items())[:_REPORTED]
        )
        return claims

    def _report(self, run: RunSummary, why: str) -> None:
        version = GraphVersion.of(run)
        if version not in self._reported:
            self._reported.add(version)
            LOGGER.warning(
                "run %s waits for a worker that it fits: %s", run.run_id, why, extra=facts(run.run_id, run.last_step)
            )
