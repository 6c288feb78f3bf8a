"""The write path: append, and find out what happened if the database did not simply take it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from stargraph.checkpoint.codec import Codec, CodecThreads, large_to_encode
from stargraph.checkpoint.driver import (
    GroupCommit,
    LatestCache,
    Tail,
    judge_append,
    judge_pruned_start,
    run_deleted_error,
)
from stargraph.checkpoint.postgres._append import (
    DELETED,
    Append,
    AppendStatements,
    encode_alone,
    encode_append,
    encode_appends,
    encode_each_alone,
    pruned_start_parameters,
)
from stargraph.checkpoint.postgres._connection import Connections
from stargraph.checkpoint.postgres._errors import UNSURE, Retries, is_transient
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointCorruptedError, CheckpointError

_ATTEMPTS: Final = 10
_REMEMBERED_RUNS: Final = 10_000


class _RunLock:
    """Lets one write of a run through at a time, and counts how many want to."""

    __slots__ = ("lock", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class Writer:
    """Appends checkpoints, one request of a run at a time.

    Args:
        connections: where connections come from.
        statements: what to send.
        codec: encodes checkpoints.
        threads: where large ones are encoded.
        retries: how long to try.
        cache: takes note of what was stored last of each run.
        timeout: seconds that an append may wait for its turn at the database.
        grouped: whether appends of several runs may share a statement.
    """

    def __init__(
        self,
        connections: Connections,
        statements: AppendStatements,
        codec: Codec,
        threads: CodecThreads,
        retries: Retries,
        cache: LatestCache[bytes],
        *,
        timeout: float,
        grouped: bool,
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._codec = codec
        self._threads = threads
        self._retries = retries
        self._cache = cache
        self._grouped = grouped
        self._group_commit = GroupCommit[Append, bool](
            self._commit,
            size=lambda append: append.size,
            timeout=timeout,
            together=is_transient,
            key=lambda append: append.run_id,
        )
        self._locks: dict[str, _RunLock] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._acknowledged: OrderedDict[str, int] = OrderedDict()

    async def write(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Append consecutive checkpoints of one run.

        Args:
            checkpoints: at least one; what is stored of them is always a prefix.
        """
        # Not validated yet; whatever is no run id is refused when it is encoded.
        run_id = str(vars(checkpoints[0]).get("run_id"))
        turn = self._locks.get(run_id)
        if turn is None:
            turn = self._locks[run_id] = _RunLock()
            self._idle.clear()
        turn.wanted += 1
        try:
            await self._retries.acquire(turn.lock, run_id=run_id, step=vars(checkpoints[0]).get("step"))
            try:
                if len(checkpoints) == 1:
                    large = self._codec.is_large(checkpoints[0])
                    await self._append(await self._threads.run(encode_append, checkpoints[0], self._codec, large=large))
                else:
                    await self._append_parts(checkpoints)
            finally:
                turn.lock.release()
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._locks[run_id]
                if not self._locks:
                    self._idle.set()

    async def _append_parts(self, checkpoints: Sequence[Checkpoint]) -> None:
        # Without group commit every statement names its one row by constants.
        appends = encode_appends(checkpoints, self._codec, most=None if self._grouped else 1)
        large = large_to_encode(checkpoints)
        while (append := await self._threads.run(next, appends, None, large=large)) is not None:
            await self._append(append)

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Start a run with what a prune has left of it.

        Args:
            checkpoints: steps of one run, in order.
        """
        append = await self._threads.run(
            encode_each_alone, checkpoints, self._codec, large=large_to_encode(checkpoints)
        )

        async def attempt() -> bool:
            parameters = pruned_start_parameters(append)
            if await self._connections.fetch(self._statements.start_pruned, *parameters):
                return True
            steps = [checkpoint.step for checkpoint in checkpoints]
            rows = await self._connections.fetch(self._statements.stored, append.run_id, steps)
            judge_pruned_start(
                checkpoints,
                stored_digests={row["step"]: row["digest"].hex() for row in rows if row["step"] is not None},
                deleted=bool(rows) and rows[0]["status"] == DELETED,
                fingerprint=self._codec.fingerprint,
            )
            return False

        as_encoded = await self._retries.run(attempt, UNSURE, run_id=append.run_id, step=append.last.step)
        if as_encoded:
            self._codec.appended(append.records[-1])
            self._remember(append.run_id, append.last.step)

    async def drain(self) -> None:
        """Wait for the appends that are on their way."""
        await self._idle.wait()

    def _remember(self, run_id: str, step: int) -> None:
        self._acknowledged[run_id] = step
        self._acknowledged.move_to_end(run_id)
        if len(self._acknowledged) > _REMEMBERED_RUNS:
            self._acknowledged.popitem(last=False)

    async def _append(self, append: Append) -> None:
        remaining = append
        alone = False

        async def attempt() -> bool:
            nonlocal remaining, alone
            for _ in range(_ATTEMPTS):
                if alone or not self._grouped:
                    (stored,) = await self._commit((remaining,), wait=True)
                else:
                    stored = await self._group_commit.submit(remaining)
                if stored:
                    return True
                rest = await self._rest_of(remaining)
                if not rest:
                    return False
                # Whoever held the run has let it go, or will: wait for that in the statement itself. Or a prune has
                # removed what it is decoded from.
                remaining = await self._threads.run(encode_alone, rest, self._codec, large=large_to_encode(rest))
                alone = True
            raise _contradiction(remaining.first)

        as_encoded = await self._retries.run(attempt, UNSURE, run_id=append.run_id, step=append.first.step)
        if as_encoded:
            self._codec.appended(remaining.records[-1])
            self._cache.put(remaining.last, remaining.digests[-1])
        else:
            self._codec.forget(append.run_id)
        self._remember(append.run_id, append.last.step)

    async def _commit(self, appends: Sequence[Append], *, wait: bool = False) -> list[bool]:
        """Store appends of one run each; return of each whether the run took it."""
        sql, parameters = self._statements.store(appends, wait=wait)
        taken = {row["run_id"] for row in await self._connections.fetch(sql, *parameters)}
        return [append.run_id in taken for append in appends]

    async def _rest_of(self, append: Append) -> Sequence[Checkpoint]:
        """Return what is not stored of an append that may still be made.

        Raises:
            CheckpointError: it may not be made.
        """
        tail, stored = await self._read_tail(append)
        for position, checkpoint in enumerate(append.checkpoints):
            acknowledged = self._acknowledged.get(append.run_id, -1)
            if (-1 if tail is None else tail.step) < min(acknowledged, checkpoint.step - 1):
                self._codec.forget(append.run_id)
                raise _history_lost(checkpoint, acknowledged, tail)
            verdict = judge_append(
                checkpoint,
                tail=tail,
                stored_digest=stored.get(checkpoint.step),
                fingerprint=self._codec.fingerprint,
            )
            if verdict == "append":
                return append.checkpoints[position:]
        return ()

    async def _read_tail(self, append: Append) -> tuple[Tail | None, dict[int, str]]:
        rows = await self._connections.fetch(self._statements.tail, append.run_id, append.first.step, append.last.step)
        if not rows:
            return None, {}
        if rows[0]["status"] == DELETED:
            raise run_deleted_error(append.run_id, append.first.step)
        tail = Tail(
            step=rows[0]["last_step"],
            digest=rows[0]["digest"].hex(),
            status=rows[0]["status"],
            floor=rows[0]["floor"],
        )
        return tail, {row["step"]: row["stored"].hex() for row in rows if row["stored"] is not None}


def _contradiction(checkpoint: Checkpoint) -> CheckpointCorruptedError:
    return CheckpointCorruptedError(
        f"run {checkpoint.run_id!r}, step {checkpoint.step}: the tables allow the append, but do not store it",
        reason="corrupted-store",
        hint="Look for triggers and row-level security on the tables, and restore a backup if the tables were edited.",
        run_id=checkpoint.run_id,
        step=checkpoint.step,
    )


def _history_lost(checkpoint: Checkpoint, acknowledged: int, tail: Tail | None) -> CheckpointError:
    holds = "knows no such run" if tail is None else f"ends at step {tail.step}"
    return CheckpointError(
        f"run {checkpoint.run_id!r}, step {checkpoint.step}: this database acknowledged step {acknowledged} and now"
        f" {holds}: it has lost history",
        reason="history-lost",
        hint="A failover to an asynchronous replica can do that, and so can a restored backup. Resume the run from its"
        " latest step; what nodes did after that happens again. docs/postgres.md says how to prevent it.",
        run_id=checkpoint.run_id,
        step=checkpoint.step,
    )
