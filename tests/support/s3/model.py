"""The processes that use one store, what they are told, and what must then be true.

An executor starts or takes over a run, appends steps, retries what got no answer, crashes. Others delete,
prune and list at any moment. `check` holds what was acknowledged against what is stored.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from support.s3.simulation import EPOCH, Bucket, Request, Scheduler, SimulatedStore

from stargraph.checkpoint.codec import Codec
from stargraph.checkpoint.driver import PruneRule
from stargraph.checkpoint.protocol import ENDED, Checkpoint, Task
from stargraph.checkpoint.s3._append import Appender
from stargraph.checkpoint.s3._frame import Header, PrunedFloor, Tombstone, read_header, record_of
from stargraph.checkpoint.s3._index import RunIndex
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import TransientStoreError
from stargraph.checkpoint.s3._prune import Pruner
from stargraph.checkpoint.s3._read import RecordReader
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.checkpoint.s3._step_keys import StepKeys
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreUnavailableError

HASH = "0" * 64
RUNS = ("run", "run-1")
"""One id begins with the other, on purpose."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Knowledge:
    """What clients were told, with the moments."""

    clock: int = 0
    acknowledged: dict[tuple[str, int], Checkpoint] = field(default_factory=dict)
    deletions_begun: set[str] = field(default_factory=set)
    deletions_done: set[str] = field(default_factory=set)
    pruned: set[str] = field(default_factory=set)
    endings_tried: set[str] = field(default_factory=set)
    highest: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: -1))
    in_calls: int = 0


async def _keeps_nothing(run_id: str) -> None:
    """Forget a deleted run: these handles have no cache of records."""


class Handle:
    """What one process has of the store, without its retries and its event loop.

    Args:
        world: the schedule that it is part of.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.restart()

    def restart(self) -> None:
        """Forget everything, as a new process does."""
        world = self._world
        codec = Codec()
        self.store = SimulatedStore(world.bucket, attempts=world.random.choice((1, 2)))
        self.log = LogReader(self.store, world.keys, clock=world.now)
        self.index = RunIndex(self.store, world.keys, self.log)
        self.step_keys = StepKeys(self.store, world.keys, self.log)
        self.appender = Appender(self.store, world.keys, codec, self.log, self.index, self.step_keys)
        self.reader = RecordReader(self.store, world.keys, codec)

    async def latest(self, run_id: str) -> Checkpoint | None:
        """Do what the driver does for `read_latest`."""
        found = await self.log.read_newest(run_id, lambda *newest: self.reader.read_latest(run_id, *newest))
        if found is None or found == "deleted":
            return None
        latest, header = found
        self.log.update(header)
        return latest


class World:
    """One schedule.

    Args:
        seed: decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.bucket = Bucket()
        self.keys = KeyLayout("prefix")
        self.known = Knowledge()
        self.scheduler = Scheduler(
            self.bucket,
            self.random,
            faults=self.random.choice((0.02, 0.15, 0.4)),
            suspensions=self.random.choice((0.0, 0.03)),
        )
        self.scheduler.idle = lambda: self.known.in_calls == 0
        self.long_tasks = self.random.choice((0.5, 0.9))
        kinds = [self.executor_id, self.executor_id, self.executor_id, self.remover, self.remover, self.lister]
        for number, kind in enumerate(kinds):
            self.scheduler.add(f"{kind.__name__} {number}", kind(number))

    def play(self) -> None:
        """Play the schedule, and check what is true after it."""
        self.scheduler.run()
        self.check()

    # What each process has of its own.

    def now(self) -> float:
        return self.bucket.now.timestamp()

    async def _rest(self) -> None:
        """Do nothing for a while, as a process that computes, or that is suspended."""
        for _ in range(self.random.choice((0, 0, 0, 2, 20, 60))):
            with suppress(TransientStoreError):
                await Request(lambda: None)

    # The processes.

    async def executor_id(self, number: int) -> None:
        handle = Handle(self)
        for life in range(self.random.randint(1, 3)):
            if self.random.random() < 0.4:
                handle.restart()
            run_id = self.random.choice(RUNS)
            executor = f"{number:016x}{life:016x}"
            latest = await self._read(handle, run_id)
            if latest is None:
                upcoming = Checkpoint.genesis(
                    run_id=run_id,
                    graph_id="graph",
                    graph_hash=HASH,
                    runtime_hash=HASH,
                    state={"text": "0123456789" * 20},
                    executor_id=executor,
                    timestamp=EPOCH + timedelta(seconds=number * 10 + life),
                )
            else:
                await self._check_needed(handle, latest)
                upcoming = self._next(latest, executor)
            for _ in range(self.random.randint(1, 5)):
                if not await self._write_until_known(handle, upcoming):
                    break
                if upcoming.status in ENDED:
                    break
                await self._rest()
                upcoming = self._next(upcoming, executor)

    def _next(self, latest: Checkpoint, executor: str) -> Checkpoint:
        since = latest.step
        if latest.frontier and self.random.random() < self.long_tasks:
            since = latest.frontier[0].since_step  # a long task goes on: its input must outlive it
        return latest.next(
            event="completed",
            executor_id=executor,
            timestamp=EPOCH + timedelta(seconds=100 + latest.step),
            status=self.random.choice(("running", "running", "failed", "done")),
            frontier=(Task(id="task", node="node", since_step=since),),
        )

    async def _write_until_known(self, handle: Handle, checkpoint: Checkpoint) -> bool:
        """Write, and again after an unknown outcome; True once it was acknowledged, False to give up."""
        for _ in range(4):
            gone = checkpoint.run_id in self.known.deletions_done
            if checkpoint.status in ENDED:
                self.known.endings_tried.add(checkpoint.run_id)
            self.known.in_calls += 1
            try:
                await handle.appender.append(checkpoint)
            except (TransientStoreError, StoreUnavailableError):
                if self.random.random() < 0.3:
                    # An engine that lost patience and goes on as if it had been told so must be stopped.
                    return self.random.random() < 0.5
                if self.random.random() < 0.3:
                    handle.restart()  # and what it writes again has another form
                continue
            except CheckpointError:
                return False
            finally:
                self.known.in_calls -= 1
            self._acknowledge(checkpoint, after_deletion=gone)
            return True
        return False

    def _acknowledge(self, checkpoint: Checkpoint, *, after_deletion: bool) -> None:
        place = (checkpoint.run_id, checkpoint.step)
        if after_deletion:
            raise Violation(f"{place}: acknowledged, and the deletion of the run had returned before")
        other = self.known.acknowledged.setdefault(place, checkpoint)
        if other.digest != checkpoint.digest:
            raise Violation(f"{place}: two different checkpoints were acknowledged")
        self.known.highest[checkpoint.run_id] = max(self.known.highest[checkpoint.run_id], checkpoint.step)

    async def _read(self, handle: Handle, run_id: str) -> Checkpoint | None:
        floor = self.known.highest[run_id]
        for _ in range(3):
            self.known.in_calls += 1
            try:
                latest = await handle.latest(run_id)
            except TransientStoreError:
                continue
            except (CheckpointCorruptedError, StoreUnavailableError) as error:
                raise Violation(f"{run_id}: its latest step cannot be read: {error.message}") from error
            finally:
                self.known.in_calls -= 1
            if run_id not in self.known.deletions_begun and (-1 if latest is None else latest.step) < floor:
                raise Violation(f"{run_id}: step {floor} was acknowledged, and a later read shows {latest}")
            return latest
        return None

    async def _check_needed(self, handle: Handle, latest: Checkpoint) -> None:
        """Read what the run needs to go on: it must be there for as long as this is the latest checkpoint."""
        self.known.in_calls += 1
        try:
            for task in latest.frontier if latest.status not in ENDED else ():
                if await handle.reader.read(latest.run_id, task.since_step) is not None:
                    continue
                if await handle.latest(latest.run_id) == latest:
                    raise Violation(f"{latest.run_id}: step {latest.step} needs step {task.since_step}, and it went")
        except TransientStoreError:
            return
        finally:
            self.known.in_calls -= 1

    async def remover(self, number: int) -> None:
        handle = Handle(self)
        index = handle.index
        pruner = Pruner(handle.store, self.keys, handle.log, handle.reader, index, handle.step_keys, _keeps_nothing)
        for _ in range(self.random.choice((0, 3, 8))):
            run_id = self.random.choice(RUNS)
            if self.random.random() < 0.5:
                await self._rest()
            self.known.in_calls += 1
            try:
                if self.random.random() < 0.25:
                    self.known.deletions_begun.add(run_id)
                    if await pruner.delete(run_id):
                        self.known.deletions_done.add(run_id)
                    continue
                rule = PruneRule(
                    EPOCH + timedelta(days=900),
                    frozenset({"running", "failed", "done"}),
                    self.random.choice((0, 1, 1, 2)) if self.random.random() < 0.3 else 1,
                    dry_run=False,
                )
                async for entry in index.entries():
                    if entry.deleted:
                        await pruner.reclaim(entry, self.bucket.now)
                        continue
                    (self.known.pruned if rule.keep_last else self.known.deletions_begun).add(entry.run_id)
                    await pruner.prune(entry.run_id, entry.started_at, rule, now=self.bucket.now)
                async for entry in index.entries(folder=self.keys.open):
                    await pruner.remove_stale(entry, self.bucket.now)
            except (TransientStoreError, CheckpointError):
                pass
            finally:
                self.known.in_calls -= 1

    async def lister(self, number: int) -> None:
        handle = Handle(self)
        index = handle.index
        for _ in range(self.random.randint(0, 3)):
            before = {run_id for run_id, _ in self.known.acknowledged}
            gone = set(self.known.deletions_done)
            open_only = self.random.random() < 0.5
            self.known.in_calls += 1
            try:
                shown = await self._shown(index, open_only=open_only)
            except (TransientStoreError, CheckpointError):
                continue
            finally:
                self.known.in_calls -= 1
            if open_only:
                # A run that somebody tries to end may have ended meanwhile.
                before -= self.known.endings_tried
            if len(set(shown)) < len(shown) or gone & set(shown):
                raise Violation(f"{shown}: a listing shows a run twice, or a deleted one")
            if any(self.keys.slot(run_id, 0) not in self.bucket.objects for run_id in shown):
                raise Violation(f"{shown}: a listing shows a run that never began")
            hidden = before - set(shown) - self.known.deletions_begun
            if hidden:
                raise Violation(f"{hidden}: acknowledged, and a later listing does not show it")

    async def _shown(self, index: RunIndex, *, open_only: bool) -> list[str]:
        shown = []
        async for entry in index.entries(folder=self.keys.open if open_only else None):
            summary = await index.summary(entry)
            if summary is None:
                continue
            if not open_only or summary.status not in ENDED:
                shown.append(entry.run_id)
        return shown

    # What must be true in the end.

    def check(self) -> None:
        """Hold what is stored against what was acknowledged.

        Raises:
            Violation: they do not fit.
        """
        for run_id in RUNS:
            slots = self._slots(run_id)
            self._check_chain(run_id, slots)
            self._check_acknowledged(run_id, slots)
            self._check_index(run_id, slots)

    def _slots(self, run_id: str) -> dict[int, Header | Tombstone]:
        slots: dict[int, Header | Tombstone] = {}
        for info in reversed(self.bucket.list(self.keys.log(run_id), "", 1000)):
            step = self.keys.step_of(info.key)
            assert step is not None
            head = read_header(self.bucket.objects[info.key].body, run_id=run_id, step=step)
            assert head is not None
            assert not isinstance(head, PrunedFloor)
            slots[step] = head
        return slots

    def _decoded(self, run_id: str, step: int, records: dict[int, Header]) -> Checkpoint | None:
        """What a record holds, or None if something that it is decoded from is gone."""
        path = [step]
        while bases := records[path[-1]].bases:
            if bases[-1] not in records:
                return None
            path.append(bases[-1])
        stored = {
            at: record_of(self.bucket.objects[self.keys.slot(run_id, at)].body, records[at], run_id=run_id, step=at)
            for at in path
        }
        try:
            return Codec().decode(stored, run_id=run_id, step=step)
        except CheckpointCorruptedError as error:
            raise Violation(f"{run_id} {step}: it cannot be decoded: {error.message}") from error

    def _check_chain(self, run_id: str, slots: dict[int, Header | Tombstone]) -> None:
        records = {step: head for step, head in slots.items() if isinstance(head, Header)}
        deleted = run_id in self.known.deletions_begun
        for step in records:
            checkpoint = self._decoded(run_id, step, records)
            if checkpoint is None:
                if not deleted and run_id not in self.known.pruned:
                    raise Violation(f"{run_id} {step}: what it is decoded from went")
                continue
            before = records.get(step - 1)
            if before is not None and before.digest != checkpoint.previous_digest:
                raise Violation(f"{run_id} {step}: it does not follow what is stored at the step before")
            if (
                before is None
                and step > 0
                and step - 1 not in slots
                and run_id not in self.known.pruned | {run for run in RUNS if deleted}
            ):
                raise Violation(f"{run_id} {step}: nothing was ever stored at the step before")
        if records and not any(isinstance(slots[step], str) and slots[step] == "deleted" for step in slots):
            latest = self._decoded(run_id, max(records), records)
            if latest is None:
                raise Violation(f"{run_id}: what its latest step is decoded from went")
            if max(slots) != latest.step:
                raise Violation(f"{run_id}: the newest slot is a tombstone, and the run was not deleted")
            if latest.status not in ENDED:
                for item in latest.frontier:
                    if item.since_step not in records or self._decoded(run_id, item.since_step, records) is None:
                        raise Violation(f"{run_id}: the run needs step {item.since_step} to go on, and it went")

    def _check_acknowledged(self, run_id: str, slots: dict[int, Header | Tombstone]) -> None:
        newest = max(slots, default=-1)
        gone = newest >= 0 and slots[newest] == "deleted"
        if gone and run_id not in self.known.deletions_begun:
            raise Violation(f"{run_id}: it is deleted, and nobody asked for that")
        for (owner, step), checkpoint in self.known.acknowledged.items():
            if owner != run_id:
                continue
            found = slots.get(step)
            if isinstance(found, Header):
                if found.digest != checkpoint.digest:
                    raise Violation(f"{run_id} {step}: another checkpoint is stored than was acknowledged")
            elif gone:
                if step >= newest:
                    raise Violation(f"{run_id} {step}: acknowledged above the end of a deleted run")
            elif run_id not in self.known.pruned or step >= newest:
                raise Violation(f"{run_id} {step}: acknowledged, and it is lost")

    def _check_index(self, run_id: str, slots: dict[int, Header | Tombstone]) -> None:
        newest = max(slots, default=-1)
        if newest < 0 or slots[newest] == "deleted":
            return
        head = slots[newest]
        assert isinstance(head, Header)
        if self.keys.entry(run_id, head.summary.started_at) not in self.bucket.objects:
            raise Violation(f"{run_id}: it is stored, and the index does not know it")
        entry = self.keys.entry(run_id, head.summary.started_at, folder=self.keys.open)
        if head.summary.status not in ENDED and entry not in self.bucket.objects:
            raise Violation(f"{run_id}: it has not ended, and is not among the open runs")
