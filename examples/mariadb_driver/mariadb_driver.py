"""A checkpoint driver for MariaDB: InnoDB tables in one database."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncmy
from asyncmy import errors
from asyncmy.cursors import Cursor

from mariadb_statements import (
    ADD_RECORD,
    ADD_RUN,
    ADVANCE_RUN,
    AT_KEY,
    AT_STEP,
    BEGINNINGS,
    COUNT_STEPS,
    DIGESTS,
    ENDS,
    FLUSH,
    LATEST,
    MARK_DELETED,
    PAGES,
    PARENT_STATUS,
    RAISE_FLOOR,
    RECORDS,
    REMOVE_RECORDS,
    REMOVE_STEPS,
    STEP_KEYS,
    STEPS,
    TABLES,
    TAIL,
)
from stargraph.checkpoint.codec import (
    PREFIX_BYTES,
    Cipher,
    Codec,
    CodecThreads,
    RecordCutError,
    large_to_decode,
    large_to_encode,
)
from stargraph.checkpoint.driver import (
    Lifecycle,
    PruneRule,
    Requests,
    RetryPolicy,
    RunCursor,
    Tail,
    TimelineMethods,
    check_batch,
    check_bounds,
    check_filters,
    check_limit,
    check_prune,
    check_pruned_start,
    check_search,
    check_step,
    judge_append,
    judge_pruned_start,
    microseconds,
    missing_step_error,
    no_store_error,
    scan_runs,
    summaries_from_json,
    summary_json,
)
from stargraph.checkpoint.protocol import (
    ENDED,
    PRUNED_BY_DEFAULT,
    Checkpoint,
    Checkpointer,
    PruneReport,
    RunFilters,
    RunOrder,
    RunPage,
    RunSummary,
    Status,
    StepKey,
    StepSummary,
    is_run_id,
)
from stargraph.errors import CheckpointError, StoreUnavailableError, StoreVersionError

Result = TypeVar("Result")

FORMAT: Final = 1
_PACKET: Final = 128 * 1024 * 1024
"""Bytes of the longest statement: a record of the largest state, with what has to be escaped in it."""
_BATCH_BYTES: Final = 8 * 1024 * 1024
"""Records that one transaction appends."""
_ROWS: Final = 64
"""Steps of a timeline that one statement reads."""
_DUPLICATE, _NO_TABLE, _LOCKED, _DEADLOCK = 1062, 1146, 1205, 1213


class MariaDBCheckpointer(TimelineMethods):
    """Keeps runs in one database of a MariaDB server that any number of machines may share.

    Args:
        url: `mariadb://user:password@host:port/database`; with `?tls=true` the server's certificate is checked.
        read_only: never write.
        timeout: seconds until an attempt gives up.
        lock_timeout: seconds that a change waits for a lock.
        allow_data_loss: accept a server that may lose what it has acknowledged.
        encryption: the keys that encrypt what is stored; None stores it readable.
    """

    def __init__(
        self,
        url: str,
        *,
        read_only: bool = False,
        timeout: float = 30.0,
        lock_timeout: int = 10,
        allow_data_loss: bool = False,
        encryption: Cipher | None = None,
    ) -> None:
        address = urlsplit(url)
        options = parse_qsl(address.query, strict_parsing=bool(address.query))
        if options not in ([], [("tls", "true")]):
            raise ValueError(f"the URL has the parameters {[name for name, _ in options]}: give tls=true, or none")
        self._name = f"mariadb://{address.hostname}:{address.port or 3306}{address.path}"
        self._options: dict[str, Any] = {
            "host": address.hostname or "127.0.0.1",
            "port": address.port or 3306,
            "user": unquote(address.username or ""),
            "password": unquote(address.password or ""),
            "database": address.path.strip("/"),
            "ssl": ssl.create_default_context() if options else None,
            "charset": "utf8mb4",
            "binary_prefix": True,
            "autocommit": True,
            "connect_timeout": timeout,
            "init_command": "SET sql_notes = 0, tx_isolation = 'READ-COMMITTED', sql_mode = 'STRICT_ALL_TABLES',"
            f" innodb_lock_wait_timeout = {lock_timeout:d}, lock_wait_timeout = {lock_timeout:d}",
        }
        self._timeout = timeout
        self._allow_data_loss = allow_data_loss
        self._retries = RetryPolicy(timeout)
        self._requests = Requests()
        self._lifecycle = Lifecycle(read_only=read_only)
        self._codec = Codec(cipher=encryption)
        self._threads = CodecThreads()
        self._pool: Any = None

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """Return a handle on the database that a URL names; no I/O.

        Args:
            url: as the class takes it, with `read_only=true` too. The keys of encryption come from
                `STARGRAPH_ENCRYPTION_KEY`.

        Raises:
            ValueError: a parameter is unknown.
        """
        address = urlsplit(url)
        flags = [flag for flag in address.query.split("&") if flag]
        kept = [flag for flag in flags if flag not in ("read_only=true", "read_only=false")]
        if len(flags) - len(kept) > 1:
            raise ValueError("the URL has read_only twice: give it once")
        return cls(
            address._replace(query="&".join(kept)).geturl(),
            read_only="read_only=true" in flags,
            encryption=Cipher.from_environment(),
        )

    def __repr__(self) -> str:
        return f"MariaDBCheckpointer({self._name!r})"

    @property
    def read_only(self) -> bool:
        """Whether this handle never writes."""
        return self._lifecycle.read_only

    @property
    def encrypted(self) -> bool:
        """Whether what this handle writes is encrypted."""
        return self._codec.encrypts

    async def bootstrap(self) -> None:
        self._lifecycle.ensure_own_process()
        if self._pool is None:
            self._pool = await asyncmy.create_pool(minsize=0, maxsize=8, **self._options)
        await self._ask(self._open_store)
        self._lifecycle.opened()

    async def close(self) -> None:
        async with self._lifecycle.closing():
            pool, self._pool = self._pool, None
            await self._requests.drain()
            if pool is not None:
                pool.close()
                await pool.wait_closed()
                self._threads.close()

    async def __aenter__(self) -> Self:
        await self.bootstrap()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def write(self, checkpoint: Checkpoint) -> None:
        self._lifecycle.ensure_writable("write")
        await self._append([checkpoint])

    async def write_many(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._lifecycle.ensure_writable("write_many")
        check_batch(list(checkpoints))
        await self._append(checkpoints)

    async def start_pruned(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._lifecycle.ensure_writable("start_pruned")
        steps = check_pruned_start(checkpoints)
        rows = [(checkpoint, await self._encode(checkpoint)) for checkpoint in steps]
        refusal = await self._change(partial(self._start_pruned, rows))
        if refusal is not None:
            raise refusal

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        rows = await self._fetch(LATEST, run_id) if is_run_id(run_id) else ()
        return await self._decode(run_id, *rows[0]) if rows else None

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        rows = await self._fetch(AT_STEP, step, step, run_id) if check_step(step) and is_run_id(run_id) else ()
        record, must_be = rows[0] if rows else (None, False)
        return await self._decode(run_id, step, record) if record is not None or must_be else None

    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        self._lifecycle.ensure_open()
        first, last = check_bounds(from_step, to_step)
        floor, latest = await self._ends(run_id)
        # Those from the floor on have to be there: one that is not is lost, and reading it says so.
        found = {step for (step,) in await self._fetch(STEPS, run_id)} | set(range(floor, latest + 1))
        steps = sorted((step for step in found if first <= step <= last), reverse=newest_first)
        for start in range(0, len(steps), 16):
            part = tuple(steps[start : start + 16])
            records = dict(await self._fetch(RECORDS, run_id, part))
            for step in part:
                known = step in records
                checkpoint = await (
                    self._decode(run_id, step, records[step]) if known else self.read_at_step(run_id, step)
                )
                if checkpoint is not None:
                    yield checkpoint

    async def _timeline_page(self, run_id: str, first: int, last: int, limit: int) -> tuple[list[StepSummary], bool]:
        most = min(limit, _ROWS)
        whole: dict[int, tuple[int, bytes]] = {}
        while True:
            floor, latest = await self._ends(run_id)
            known = {step for (step,) in await self._fetch(STEPS, run_id)}
            steps = [step for step in sorted(known | set(range(floor, latest + 1))) if first <= step <= last][:most]
            if not steps:
                return [], False
            # With the step before the first one, a row tells what its step changed.
            found = await self._beginnings(run_id, (steps[0] - 1, *steps), PREFIX_BYTES) | whole
            for step in steps:
                if step not in found:
                    await self.read_at_step(run_id, step)  # raises if it is lost
            if not found.keys() >= set(steps):
                continue  # a prune came in between, and the run may have gone on: look again
            records = {step: record for step, (_, record) in found.items()}
            sizes = {step: size for step, (size, _) in found.items()}
            summarize = partial(self._codec.summarize, records, run_id=run_id, steps=steps, sizes=sizes)
            try:
                return await self._threads.run(summarize, large=large_to_decode(records.values())), len(steps) == most
            except RecordCutError as cut:  # its event is larger than that
                whole |= await self._beginnings(run_id, (cut.step,), _PACKET)

    async def _beginnings(self, run_id: str, steps: tuple[int, ...], most: int) -> dict[int, tuple[int, bytes]]:
        """Return the length and the first bytes of records."""
        rows = await self._fetch(BEGINNINGS, most, run_id, steps)
        return {step: (size, beginning) for step, size, beginning in rows}

    async def _latest_step(self, run_id: str) -> int | None:
        floor, latest = await self._ends(run_id)
        return latest if latest >= floor else None

    async def _ends(self, run_id: str) -> tuple[int, int]:
        """Return the floor and the latest step of a run, an empty range if there is no such run."""
        ends = await self._fetch(ENDS, run_id) if is_run_id(run_id) else ()
        return ends[0] if ends else (0, -1)

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        rows = await self._fetch(AT_KEY, run_id, _bytes(key)) if is_run_id(run_id) else ()
        step, record = rows[0] if rows else (-1, None)
        # A lost row takes its key with it: what is found is the highest only if no row above it is lost.
        floor, latest = await self._ends(run_id)
        above = set(range(max(floor, step + 1), latest + 1))
        for lost in sorted(above - {there for (there,) in await self._fetch(STEPS, run_id)} if above else ()):
            await self.read_at_step(run_id, lost)  # raises, unless it was pruned meanwhile
        return await self._decode(run_id, step, record) if rows else None

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        self._lifecycle.ensure_open()
        check_limit(limit)
        bound = None if below is None else _bytes(below)
        most = min(limit, 2**62)  # a statement takes 64 bits, and a limit may be any integer
        rows = await self._fetch(STEP_KEYS, run_id, bound, bound, most) if is_run_id(run_id) else ()
        return [StepKey(key.decode(), step) for key, step in rows]

    async def list_runs(self, *, since: datetime | None = None, limit: int = 100) -> list[RunSummary]:
        return list((await self.search(since=since, limit=limit)).items)

    async def search(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        order: RunOrder = "started",
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        self._lifecycle.ensure_open()
        return await check_search(limit=limit, cursor=cursor, order=order, filters=filters).scan(self._page)

    async def count_runs(self, **filters: Unpack[RunFilters]) -> dict[Status, int]:
        self._lifecycle.ensure_open()
        return check_filters(filters).count([run async for run in scan_runs(self._page)])

    async def children(self, run_id: str) -> list[RunSummary]:
        self._lifecycle.ensure_open()
        rows = await self._fetch(PAGES["children"], run_id) if is_run_id(run_id) else ()
        return summaries_from_json(rows)

    async def delete_run(self, run_id: str) -> bool:
        self._lifecycle.ensure_writable("delete_run")
        return is_run_id(run_id) and bool(await self._change(partial(self._delete, run_id)))

    async def prune(
        self,
        *,
        older_than: datetime,
        statuses: Collection[Status] = PRUNED_BY_DEFAULT,
        keep_last: int = 1,
        run_id: str | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        self._lifecycle.ensure_writable("prune", dry_run=dry_run)
        rule = check_prune(
            older_than=older_than, statuses=statuses, keep_last=keep_last, run_id=run_id, dry_run=dry_run
        )
        removed = []
        async for run in scan_runs(self._page, "updated", RunCursor("updated", rule.older_than, "")):
            latest = await self.read_latest(run.run_id) if rule.run_id in (None, run.run_id) else None
            if latest is not None and rule.selects(latest):
                removed.append(await self._change(partial(self._prune_run, latest, rule)))
        return PruneReport(runs=sum(map(bool, removed)), checkpoints=sum(removed), dry_run=dry_run)

    async def _open_store(self, cursor: Cursor) -> None:
        try:
            await cursor.execute("SELECT format FROM stargraph_format")
            row = await cursor.fetchone()
        except errors.ProgrammingError as error:
            if error.args[0] != _NO_TABLE:
                raise
            row = None
        if row is None:
            if self.read_only:
                raise no_store_error(self._name)
            await self._check_server(cursor)
            for statement in TABLES:  # the format last: if it is there, the rest is
                await cursor.execute(statement)
            row = (FORMAT,)
        if row[0] != FORMAT:
            raise StoreVersionError(
                f"{self._name}: the store has the format {row[0]}, not {FORMAT}",
                reason="newer-format" if row[0] > FORMAT else "older-format",
                hint="Open it with the version of this driver that made it.",
            )

    async def _check_server(self, cursor: Cursor) -> None:
        await cursor.execute("SELECT @@innodb_flush_log_at_trx_commit, @@max_allowed_packet")
        flush, packet = await cursor.fetchone()
        if flush != 1 and not self._allow_data_loss:
            raise CheckpointError(
                f"{self._name}: the server may lose what it has acknowledged",
                reason="not-durable",
                hint="Set innodb_flush_log_at_trx_commit = 1.",
            )
        if packet < _PACKET:
            raise CheckpointError(
                f"{self._name}: the server takes statements of {packet} bytes at most, and a checkpoint may need more",
                reason="small-packets",
                hint="Set max_allowed_packet = 256M.",
            )

    async def _append(self, checkpoints: Sequence[Checkpoint]) -> None:
        batch: list[tuple[Checkpoint, bytes]] = []
        for number, checkpoint in enumerate(checkpoints):
            batch.append((checkpoint, await self._encode(checkpoint)))
            if number + 1 == len(checkpoints) or sum(len(data) for _, data in batch) >= _BATCH_BYTES:
                refusal = await self._change(partial(self._append_batch, batch))
                if refusal is not None:
                    raise refusal
                batch = []

    async def _append_batch(self, batch: list[tuple[Checkpoint, bytes]], cursor: Cursor) -> CheckpointError | None:
        """Append steps up to the first that is refused; return why that was."""
        for checkpoint, record in batch:
            try:
                if not await self._appended(cursor, checkpoint, record):
                    # What another transaction has committed is visible before it is durable; this one's commit
                    # makes both durable, since it changes something after it.
                    await cursor.execute(FLUSH)
            except CheckpointError as refusal:
                return refusal
        return None

    async def _appended(self, cursor: Cursor, checkpoint: Checkpoint, record: bytes) -> bool:
        """Append a step; False if it was stored already."""
        run_id, step, fingerprint = checkpoint.run_id, checkpoint.step, self._codec.fingerprint
        if step == 0:
            done = await self._add_run(cursor, checkpoint)
        else:
            previous = fingerprint(checkpoint.previous_digest or "")
            condition = (run_id, step - 1, previous, *ENDED, "deleted")
            done = bool(await cursor.execute(ADVANCE_RUN, (*self._end(checkpoint), *condition)))
        if done:
            await self._add_record(cursor, checkpoint, record)
            return True
        await cursor.execute(TAIL, (step, run_id))
        row = await cursor.fetchone()
        known = row is not None and row[2] != "deleted"
        verdict = judge_append(
            checkpoint,
            tail=Tail(*row[:4]) if known else None,
            stored_digest=row[4] if known else None,
            deleted=row is not None and not known,
            fingerprint=fingerprint,
        )
        if verdict == "append":  # somebody else came in between, and another look settles it
            raise errors.OperationalError(_DEADLOCK, "the run was changed meanwhile")
        return False

    async def _start_pruned(self, rows: list[tuple[Checkpoint, bytes]], cursor: Cursor) -> CheckpointError | None:
        """Begin a run with what a prune has left of it; return why it cannot be."""
        last, _ = rows[-1]
        if await self._add_run(cursor, last):
            await cursor.execute(RAISE_FLOOR, (last.step, last.run_id))
            for checkpoint, record in rows:
                await self._add_record(cursor, checkpoint, record)
            return None
        await cursor.execute(DIGESTS, (tuple(checkpoint.step for checkpoint, _ in rows), last.run_id))
        found = await cursor.fetchall()
        try:
            judge_pruned_start(
                [checkpoint for checkpoint, _ in rows],
                stored_digests={step: digest for _, step, digest in found if step is not None},
                deleted=any(status == "deleted" for status, *_ in found),
                fingerprint=self._codec.fingerprint,
            )
        except CheckpointError as refusal:
            return refusal
        await cursor.execute(FLUSH)
        return None

    def _end(self, checkpoint: Checkpoint) -> tuple[Any, ...]:
        digest, updated = self._codec.fingerprint(checkpoint.digest), microseconds(checkpoint.timestamp)
        return checkpoint.step, digest, checkpoint.status, updated, summary_json(checkpoint)

    async def _add_run(self, cursor: Cursor, checkpoint: Checkpoint) -> bool:
        """Add the row of a run; False if there is one, or a tombstone."""
        parent = checkpoint.parent_run_id if checkpoint.origin == "subgraph" else None
        row = (*self._end(checkpoint), checkpoint.run_id, microseconds(checkpoint.started_at), parent)
        try:
            await cursor.execute(ADD_RUN, row)
        except errors.IntegrityError as error:
            if error.args[0] != _DUPLICATE:
                raise
            return False
        return True

    async def _add_record(self, cursor: Cursor, checkpoint: Checkpoint, record: bytes) -> None:
        digest = self._codec.fingerprint(checkpoint.digest)
        key = None if checkpoint.key is None else _bytes(checkpoint.key)
        await cursor.execute(ADD_RECORD, (checkpoint.run_id, checkpoint.step, digest, key, record))

    async def _encode(self, checkpoint: Checkpoint) -> bytes:
        large = large_to_encode((checkpoint,))
        return (await self._threads.run(self._codec.encode_alone, checkpoint, large=large)).data

    async def _delete(self, run_id: str, cursor: Cursor) -> int:
        """Leave a tombstone of a run; the steps go in the same transaction."""
        if await cursor.execute(MARK_DELETED, (run_id,)):
            return 1 + int(await cursor.execute(REMOVE_RECORDS, (run_id,)))
        return 0

    async def _prune_run(self, latest: Checkpoint, rule: PruneRule, cursor: Cursor) -> int:
        run_id = latest.run_id
        await cursor.execute(TAIL + " FOR UPDATE", (latest.step, run_id))
        row = await cursor.fetchone()
        if row is None or row[1] != self._codec.fingerprint(latest.digest):
            return 0  # it has moved on since it was judged
        if not rule.keep_last:
            if latest.origin == "subgraph" and await cursor.execute(PARENT_STATUS, (latest.parent_run_id,)):
                (status,) = await cursor.fetchone()
                if status not in (*ENDED, "deleted"):
                    return 0  # the parent may still have to read how its child ended
            await cursor.execute(COUNT_STEPS, (run_id,))
            (count,) = await cursor.fetchone()
            if not rule.dry_run:
                await self._delete(run_id, cursor)
            return int(count)
        await cursor.execute(STEPS, (run_id,))
        plan = rule.plan(latest, [step for (step,) in await cursor.fetchall()])
        if plan.removed and not rule.dry_run:
            await cursor.execute(RAISE_FLOOR, (plan.floor, run_id))
            await cursor.execute(REMOVE_STEPS, (run_id, tuple(plan.removed)))
        return len(plan.removed)

    async def _decode(self, run_id: str, step: int, record: bytes | None) -> Checkpoint:
        if record is None:
            raise missing_step_error(run_id, step)
        decode = partial(self._codec.decode, {step: record}, run_id=run_id, step=step)
        return await self._threads.run(decode, large=large_to_decode([record]))

    async def _page(self, order: RunOrder, after: RunCursor | None, count: int) -> list[RunSummary]:
        moment, run_id = (2**62, "") if after is None else (microseconds(after.moment), after.run_id)
        return summaries_from_json(await self._fetch(PAGES[order], moment, moment, run_id, count))

    async def _fetch(self, statement: str, *parameters: Any) -> Sequence[Any]:
        self._lifecycle.ensure_open()

        async def read(cursor: Cursor) -> Sequence[Any]:
            await cursor.execute(statement, parameters)
            rows: Sequence[Any] = await cursor.fetchall()
            return rows

        return await self._ask(read)

    async def _change(self, work: Callable[[Cursor], Awaitable[Result]]) -> Result:
        """Return what some work returns, in a transaction."""
        self._lifecycle.ensure_open()

        async def transaction(cursor: Cursor) -> Result:
            await cursor.execute("START TRANSACTION")
            result = await work(cursor)
            await cursor.execute("COMMIT")
            return result

        return await self._ask(transaction)

    async def _ask(self, work: Callable[[Cursor], Awaitable[Result]]) -> Result:
        pool = self._pool  # a close meanwhile waits for this

        async def attempt() -> Result:
            async with asyncio.timeout(self._timeout), pool.acquire() as connection:
                try:
                    async with connection.cursor() as cursor:
                        return await work(cursor)
                except BaseException:
                    connection.close()  # it may be in a transaction, or in the middle of an answer
                    raise

        try:
            return await self._requests.run(self._retries.run(attempt, is_transient=_is_transient))
        except (errors.Error, OSError, TimeoutError) as error:
            code = error.args[0] if error.args else None
            raise StoreUnavailableError(
                f"{self._name}: the request was not answered: {error}",
                reason="locked" if code == _LOCKED else "unavailable",
                hint="Check the server, then do it again: writing the same checkpoint again is always safe.",
            ) from error


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed when it is made again: a deadlock, or a connection that is lost."""
    lost = isinstance(error, errors.OperationalError) and error.args[0] in (_DEADLOCK, 2003, 2006, 2013)
    return lost or isinstance(error, OSError | errors.InterfaceError)


_: type[Checkpointer] = MariaDBCheckpointer
