"""The log of a run: one object per step, and creating it is the commit. docs/s3.md argues why this is safe.

Nothing here knows S3 or an event loop: the same code runs against the simulated store of the tests.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

from stargraph.checkpoint.codec import Codec
from stargraph.checkpoint.driver import Tail, judge_append, run_deleted_error
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.s3._frame import HEAD_BYTES, Head, Tombstone, is_tombstone, pack, read_head
from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._objects import ObjectInfo, ObjectStore
from stargraph.errors import CheckpointError, StoreUnavailableError

Result = TypeVar("Result")

BELIEF_SECONDS: Final = 3600.0
"""How long a tail is believed. Far below the grace after which the tombstones of taken slots may go."""

_TAILS: Final = 10_000
_PAGE: Final = 1000
_PEEK: Final = 2  # one key would do, but for an object of somebody else in the folder


@dataclass(slots=True)
class _Belief:
    """What a handle knows of a run's end.

    Attributes:
        tail: a step that is stored, read or acknowledged; others may have been added since.
        at: when that was, in seconds.
        settled: no write of this handle has an unknown outcome.
    """

    tail: Tail
    at: float
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Appended:
    """An object that was created.

    Attributes:
        etag: its ETag.
        body: its content.
    """

    etag: str
    body: bytes


class RunLog:
    """Appends to the logs of runs, and finds their ends.

    Args:
        store: the objects.
        keys: where they are.
        codec: makes records, and remembers what the next ones may build on.
        clock: the time in seconds, going on while the machine sleeps.
    """

    def __init__(
        self, store: ObjectStore, keys: KeyLayout, codec: Codec, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._keys = keys
        self._codec = codec
        self._clock = clock
        self._beliefs: OrderedDict[str, _Belief] = OrderedDict()

    async def append(self, checkpoint: Checkpoint) -> Appended | None:
        """Append a checkpoint.

        Args:
            checkpoint: the checkpoint.

        Returns:
            What was stored, or None where the checkpoint was stored already.

        Raises:
            CheckpointError: it is refused, as `judge_append` says; or the outcome is unknown.
        """
        run_id, step = checkpoint.run_id, checkpoint.step
        record = self._codec.encode(checkpoint)
        body = pack(checkpoint, record, self._codec)
        belief = self._belief(run_id)
        if belief is None and step == 0:
            # The index entry comes first: a crash in between leaves an entry without a run, which a
            # listing sees, and never a run without an entry, which it could not.
            await self._store.create(self._keys.entry(run_id, checkpoint.started_at), b"")
        elif (belief is None or not self._follows(checkpoint, belief.tail)) and (
            await self._judge(checkpoint) == "stored"
        ):
            self._codec.forget(run_id)
            return None
        try:
            etag = await self._store.create(self._keys.slot(run_id, step), body)
        except BaseException:
            # It may have been stored, or may yet be: the next write reads the log before it goes on.
            self._doubt(run_id)
            raise
        if etag is None:
            await self._settle(checkpoint)
            # What is stored may be another form of it, with other bases.
            self._codec.forget(run_id)
        else:
            self._codec.appended(record)
        self._believe(run_id, Tail(step, self._codec.fingerprint(checkpoint.digest), checkpoint.status))
        return None if etag is None else Appended(etag, body)

    async def _settle(self, checkpoint: Checkpoint) -> None:
        """The slot is taken: by a former attempt of this very write, or by another writer."""
        head = await self.head(checkpoint.run_id, checkpoint.step)
        if isinstance(head, Head):
            self._judged(checkpoint, tail=None, stored_digest=head.digest)
            if not await self.is_known(checkpoint.run_id):
                # A deletion that was cut short has left it behind.
                raise run_deleted_error(checkpoint.run_id, checkpoint.step)
        elif await self._judge(checkpoint) == "append":
            raise _inconsistent(self._keys.slot(checkpoint.run_id, checkpoint.step))

    async def _judge(self, checkpoint: Checkpoint) -> Literal["append", "stored"]:
        run_id, step = checkpoint.run_id, checkpoint.step
        tail = await self.read_tail(run_id)
        if tail == "deleted":
            raise run_deleted_error(run_id, step)
        stored_digest = None
        if tail is not None and step <= tail.step:
            head = await self.head(run_id, step) if step < tail.step else None
            if step == tail.step:
                stored_digest = tail.digest
            elif isinstance(head, Head):
                stored_digest = head.digest
            else:
                tail = replace(tail, floor=step + 1)
        return self._judged(checkpoint, tail=tail, stored_digest=stored_digest)

    def _judged(
        self, checkpoint: Checkpoint, *, tail: Tail | None, stored_digest: str | None
    ) -> Literal["append", "stored"]:
        return judge_append(checkpoint, tail=tail, stored_digest=stored_digest, fingerprint=self._codec.fingerprint)

    def _follows(self, checkpoint: Checkpoint, tail: Tail) -> bool:
        try:
            return self._judged(checkpoint, tail=tail, stored_digest=None) == "append"
        except CheckpointError:
            # The tail may be an old one: what is stored decides, and gives the reason.
            return False

    async def read_tail(self, run_id: str) -> Tail | Literal["deleted"] | None:
        """Return the end of a run as it is stored, or None where the run is unknown.

        Args:
            run_id: the run.
        """
        head = await self.newest_head(run_id)
        if not isinstance(head, Head):
            return head
        return self.learn(head)

    async def read_newest(
        self, run_id: str, read: Callable[[int, ObjectInfo | None], Awaitable[Result | None]]
    ) -> Result | Literal["deleted"] | None:
        """Return what a reader makes of the newest record of a run, or None where the run is unknown.

        Between the listing and the read the run may go on, and a prune take what was listed: then it looks again.

        Args:
            run_id: the run.
            read: reads the record at a step, given its line of the listing; None where there is none any more.
        """
        listed = None
        while True:
            newest = await self.newest(run_id)
            if newest is None:
                return None
            if await self.is_end_of_deleted(run_id, *newest):
                return "deleted"
            step, _ = newest
            if step == listed:
                raise _inconsistent(self._keys.slot(run_id, step))
            found = await read(*newest)
            if found is not None:
                return found
            listed = step

    async def newest_head(self, run_id: str) -> Head | Literal["deleted"] | None:
        """Return the first line of the newest record of a run, or None where the run is unknown.

        Args:
            run_id: the run.
        """

        async def read(step: int, _: ObjectInfo | None) -> Head | None:
            head = await self.head(run_id, step)
            return head if isinstance(head, Head) else None

        return await self.read_newest(run_id, read)

    async def newest(self, run_id: str) -> tuple[int, ObjectInfo | None] | None:
        """Return the highest step that is taken, and its line of the listing; None where no step is.

        Args:
            run_id: the run.
        """
        listed = await self._store.list(self._keys.log(run_id), limit=_PEEK)
        slots = [(step, info) for info in listed if (step := self._keys.step_of(info.key)) is not None]
        belief = self._beliefs.get(run_id)
        if belief is not None and (not slots or slots[0][0] < belief.tail.step):
            # A log never gets shorter: the listing is older than what this handle knows.
            return belief.tail.step, None
        return slots[0] if slots else None

    async def is_known(self, run_id: str) -> bool:
        """Tell whether a run has begun and was not deleted.

        Args:
            run_id: the run.
        """
        newest = await self.newest(run_id)
        return newest is not None and not await self.is_end_of_deleted(run_id, *newest)

    async def is_end_of_deleted(self, run_id: str, step: int, info: ObjectInfo | None) -> bool:
        """Tell whether the newest slot of a run says that the run was deleted.

        Args:
            run_id: the run.
            step: the step of the slot.
            info: its line of the listing.

        Raises:
            CheckpointCorruptedError: it has the length of a tombstone, and is none.
        """
        return info is not None and is_tombstone(info.size) and await self.head(run_id, step) == "deleted"

    async def slots(self, run_id: str, *, to_step: int | None = None) -> AsyncIterator[tuple[int, ObjectInfo]]:
        """Yield the slots of a run that are taken, the highest step first.

        Args:
            run_id: the run.
            to_step: the highest step to yield.
        """
        after = "" if to_step is None else self._keys.slot(run_id, to_step + 1)
        while True:
            page = await self._store.list(self._keys.log(run_id), after=after, limit=_PAGE)
            for info in page:
                step = self._keys.step_of(info.key)
                if step is not None:
                    yield step, info
            if len(page) < _PAGE:
                return
            after = page[-1].key

    async def head(self, run_id: str, step: int) -> Head | Tombstone | None:
        """Return the first line of what is in a slot, or None where the slot is empty.

        Args:
            run_id: the run.
            step: the step.
        """
        key = self._keys.slot(run_id, step)
        body = await self._store.get(key, first=HEAD_BYTES)
        if body is None:
            return None
        head = read_head(body, run_id=run_id, step=step)
        if head is None:
            body = await self._store.get(key)
            head = None if body is None else read_head(body + b"\n", run_id=run_id, step=step)
        return head

    def learn(self, head: Head) -> Tail:
        """Believe that a record is stored, since it was read; return the tail that it makes.

        Args:
            head: its first line.
        """
        tail = Tail(head.summary.last_step, head.digest, head.summary.status)
        self._believe(head.summary.run_id, tail)
        return tail

    def _believe(self, run_id: str, tail: Tail) -> None:
        belief = self._beliefs.get(run_id)
        if belief is not None and belief.tail.step > tail.step:
            tail = belief.tail
        self._beliefs[run_id] = _Belief(tail, self._clock())
        self._beliefs.move_to_end(run_id)
        if len(self._beliefs) > _TAILS:
            self._beliefs.popitem(last=False)

    def _belief(self, run_id: str) -> _Belief | None:
        belief = self._beliefs.get(run_id)
        if belief is None or not belief.settled or not 0 <= self._clock() - belief.at <= BELIEF_SECONDS:
            return None
        return belief

    def _doubt(self, run_id: str) -> None:
        belief = self._beliefs.get(run_id)
        if belief is not None:
            belief.settled = False


def _inconsistent(key: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{key}: the store's answers contradict each other: it has the object, and then it does not show it",
        reason="inconsistent-store",
        hint="Writing again is safe. A store of checkpoints must list and read its own writes at once, as S3 does.",
    )
