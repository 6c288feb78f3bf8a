"""Appending: creating the object of a step is the commit. docs/s3.md argues why this is safe."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from stargraph.checkpoint.codec import Codec, CodecThreads, Record, large_to_encode
from stargraph.checkpoint.driver import Tail, judge_append, judge_pruned_start, run_deleted_error
from stargraph.checkpoint.protocol import ENDED, Checkpoint
from stargraph.checkpoint.s3._errors import inconsistent_error
from stargraph.checkpoint.s3._frame import Header, PrunedFloor, pack, tombstone
from stargraph.checkpoint.s3._index import RunIndex
from stargraph.checkpoint.s3._log import LogReader
from stargraph.checkpoint.s3._objects import ObjectStore
from stargraph.checkpoint.s3._schema import KeyLayout
from stargraph.checkpoint.s3._step_keys import StepKeys
from stargraph.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Appended:
    """An object that was created.

    Attributes:
        etag: its ETag.
        digest: that of the checkpoint, as its header shows it.
        body: its content.
    """

    etag: str
    digest: str
    body: bytes


class Appender:
    """Appends to the logs of runs.

    Args:
        store: the objects.
        keys: where they are.
        codec: makes records, and remembers what the next ones may build on.
        log: finds the ends of runs.
        index: lists runs.
        step_keys: notes the keys of steps.
        threads: encode what is large; None encodes it here.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: KeyLayout,
        codec: Codec,
        log: LogReader,
        index: RunIndex,
        step_keys: StepKeys,
        threads: CodecThreads | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._codec = codec
        self._log = log
        self._index = index
        self._step_keys = step_keys
        self._threads = threads

    async def append(self, checkpoint: Checkpoint) -> Appended | None:
        """Append a checkpoint.

        Returns:
            What was stored, or None if the checkpoint was stored already.

        Raises:
            CheckpointError: it is refused, as `judge_append` says; or the outcome is unknown.
        """
        appended = await self._append(checkpoint)
        if checkpoint.status in ENDED:
            # Also if it was stored already: whoever stored it may have died before this.
            await self._index.note_end(checkpoint)
        return appended

    async def _append(self, checkpoint: Checkpoint) -> Appended | None:
        run_id, step = checkpoint.run_id, checkpoint.step
        record, body = await self._encode(checkpoint)
        tail = self._log.cached_tail(run_id)
        if tail is None and step == 0:
            # The entries come first: a crash in between leaves an entry without a run, which a
            # listing sees, and never a run without an entry, which it could not.
            await self._index.note_start(checkpoint)
        elif (tail is None or not self._follows(checkpoint, tail)) and (await self._judge(checkpoint) == "stored"):
            self._codec.forget(run_id)
            return None
        await self._step_keys.note(checkpoint)
        try:
            etag = await self._store.create(self._keys.slot(run_id, step), body)
        except BaseException:
            # It may have been stored, or may yet be: the next write reads the log before it goes on.
            self._log.invalidate(run_id)
            raise
        if etag is None:
            below_floor = await self._judge_taken(checkpoint)
            # What is stored may be another form of it, with other bases.
            self._codec.forget(run_id)
            if below_floor:
                return None  # the slots after it may be free, and no write may find them by it
        else:
            self._codec.appended(record)
        digest = self._codec.fingerprint(checkpoint.digest)
        self._log.remember(run_id, Tail(step, digest, checkpoint.status))
        return None if etag is None else Appended(etag, digest, body)

    async def _encode(self, checkpoint: Checkpoint) -> tuple[Record, bytes]:
        def encode() -> tuple[Record, bytes]:
            record = self._codec.encode(checkpoint)
            return record, pack(checkpoint, record, self._codec)

        if self._threads is None:
            return encode()
        return await self._threads.run(encode, large=self._codec.is_large(checkpoint))

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> bool:
        """Start a run with what a prune has left of it.

        The first slot is taken before anything else, so that no other start of the run can begin. A tombstone below the
        floor then hides the run until the floor is stored, at the end, and says that nothing below it is lost. If this
        is cut short, the same call finishes it.

        Args:
            checkpoints: steps of one run, in order.

        Returns:
            Whether the run is stored so; False if it was deleted.

        Raises:
            CheckpointError: it is refused, as `judge_pruned_start` says; or the outcome is unknown.
        """
        *below, floor = checkpoints
        run_id = floor.run_id
        steps = [f"{checkpoint.step} {self._codec.fingerprint(checkpoint.digest)}\n" for checkpoint in checkpoints]
        start = PrunedFloor(floor.step, hashlib.sha256("".join(steps).encode()).hexdigest())
        for checkpoint in checkpoints:
            checkpoint.ensure_valid()
        if not await self._log.is_known(run_id):
            await self._index.note_start(floor)
        for checkpoint in checkpoints:
            await self._step_keys.note(checkpoint)
        hidden = tombstone("pruned", start=start)
        bodies = {0: hidden, floor.step - 1: hidden}
        for checkpoint in below:
            bodies[checkpoint.step] = await self._encode_alone(checkpoint, start)
        for step in sorted(bodies, key=lambda step: (step > 0, step != floor.step - 1)):
            if await self._store.create(self._keys.slot(run_id, step), bodies[step]) is None:
                header = await self._log.header(run_id, step)
                if start not in (header, header.start if isinstance(header, Header) else None):
                    return await self._judge_start(checkpoints)
        etag = await self._store.create(self._keys.slot(run_id, floor.step), await self._encode_alone(floor, None))
        if etag is None and not await self._judge_start(checkpoints):
            return False
        if floor.status in ENDED:
            await self._index.note_end(floor)
        return True

    async def _judge_start(self, checkpoints: Sequence[Checkpoint]) -> bool:
        run_id = checkpoints[0].run_id
        if await self._log.newest_header(run_id) == "deleted":
            return False
        headers = {checkpoint.step: await self._log.header(run_id, checkpoint.step) for checkpoint in checkpoints}
        stored = {step: header.digest for step, header in headers.items() if isinstance(header, Header)}
        judge_pruned_start(checkpoints, stored_digests=stored, fingerprint=self._codec.fingerprint)
        return True

    async def _encode_alone(self, checkpoint: Checkpoint, start: PrunedFloor | None) -> bytes:
        def encode() -> bytes:
            return pack(checkpoint, self._codec.encode_alone(checkpoint), self._codec, start=start)

        if self._threads is None:
            return encode()
        return await self._threads.run(encode, large=large_to_encode([checkpoint]))

    async def _judge_taken(self, checkpoint: Checkpoint) -> bool:
        """Refuse a step whose slot is taken, unless by a former attempt of this very write.

        Returns:
            Whether it is stored below the floor of a run that `start_pruned` has started.
        """
        header = await self._log.header(checkpoint.run_id, checkpoint.step)
        if isinstance(header, Header) and header.start is None:
            self._verdict(checkpoint, tail=None, stored_digest=header.digest)
            if not await self._log.is_known(checkpoint.run_id):
                # A deletion that was cut short has left it behind.
                raise run_deleted_error(checkpoint.run_id, checkpoint.step)
            return False
        if await self._judge(checkpoint) == "append":
            start = header.start if isinstance(header, Header) else header
            if not isinstance(start, PrunedFloor):
                raise inconsistent_error(self._keys.slot(checkpoint.run_id, checkpoint.step))
            tail = Tail(start.step, start.digest, "running", floor=start.step)
            self._verdict(checkpoint, tail=tail, stored_digest=None)  # it is being started, at a later step
        return True

    async def _judge(self, checkpoint: Checkpoint) -> Literal["append", "stored"]:
        run_id, step = checkpoint.run_id, checkpoint.step
        tail = await self._log.read_tail(run_id)
        if tail == "deleted":
            raise run_deleted_error(run_id, step)
        stored_digest = None
        if tail is not None and step <= tail.step:
            header = await self._log.header(run_id, step) if step < tail.step else None
            if step == tail.step:
                stored_digest = tail.digest
            elif isinstance(header, Header):
                stored_digest = header.digest
            else:
                tail = replace(tail, floor=step + 1)
        return self._verdict(checkpoint, tail=tail, stored_digest=stored_digest)

    def _verdict(
        self, checkpoint: Checkpoint, *, tail: Tail | None, stored_digest: str | None
    ) -> Literal["append", "stored"]:
        return judge_append(checkpoint, tail=tail, stored_digest=stored_digest, fingerprint=self._codec.fingerprint)

    def _follows(self, checkpoint: Checkpoint, tail: Tail) -> bool:
        try:
            return self._verdict(checkpoint, tail=tail, stored_digest=None) == "append"
        except CheckpointError:
            # The tail may be an old one: what is stored decides, and gives the reason.
            return False
