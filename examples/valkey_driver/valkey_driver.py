"""A checkpoint driver for Valkey, and for Redis, which speaks the same protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar, Unpack
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from valkey.asyncio import BlockingConnectionPool, Valkey
from valkey.exceptions import BusyLoadingError, ValkeyError
from valkey.exceptions import ConnectionError as NotConnectedError
from valkey.exceptions import TimeoutError as NoAnswerError

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
from valkey_scripts import (
    APPEND,
    BEGINNINGS,
    DELETE,
    LATEST,
    LATEST_STEP,
    LIBRARY,
    PAGE,
    PRUNE,
    RECORDS,
    START,
    STEP_KEYS,
    STEPS,
)

Result = TypeVar("Result")

FORMAT: Final = 1
_NEWEST: Final = 10**18
"""Above every instant that a checkpoint can have, in microseconds."""
_BATCH_BYTES: Final = 8 * 1024 * 1024
"""Records that one script appends, so that others are not kept waiting for long."""
_ROWS: Final = 64
"""Steps of a timeline that one script reads."""


class ValkeyCheckpointer(TimelineMethods):
    """Keeps runs on one Valkey or Redis server; not on a cluster, whose scripts reach the keys of one slot only.

    Args:
        url: `valkey://user:password@host:port/database`, with the parameters of the library `valkey`.
        prefix: of all keys; letters and digits.
        read_only: never write.
        timeout: seconds until a call gives up, all attempts included.
        allow_data_loss: accept a server that may lose what it has acknowledged.
        encryption: the keys that encrypt what is stored; None stores it readable.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "stargraph",
        read_only: bool = False,
        timeout: float = 30.0,
        allow_data_loss: bool = False,
        encryption: Cipher | None = None,
    ) -> None:
        if not prefix.isalnum():
            raise ValueError(f"prefix is {prefix!r}: give letters and digits")
        address = urlsplit(url)
        self._name = f"{address.scheme}://{address.hostname}:{address.port or 6379}{address.path}"
        self._url = url
        self._prefix = prefix
        self._timeout = timeout
        self._allow_data_loss = allow_data_loss
        self._retries = RetryPolicy(timeout)
        self._requests = Requests()
        self._lifecycle = Lifecycle(read_only=read_only)
        self._codec = Codec(cipher=encryption)
        self._threads = CodecThreads()
        self._client: Valkey | None = None

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """Return a handle on the store that a URL names; no I/O.

        Args:
            url: as the class takes it; `prefix`, `read_only` and `timeout` are arguments of the class. The keys of
                encryption come from `STARGRAPH_ENCRYPTION_KEY`.

        Raises:
            ValueError: a parameter is unknown, or does not fit.
        """
        address = urlsplit(url)
        options = parse_qsl(address.query, strict_parsing=bool(address.query))
        given = dict(options)
        unknown = sorted(given.keys() - {"prefix", "read_only", "timeout"})
        if unknown or len(given) < len(options) or given.get("read_only", "true") not in ("true", "false"):
            raise ValueError("the URL's options are prefix, read_only=true or false, and timeout in seconds, each once")
        return cls(
            urlunsplit(address._replace(query="")),
            prefix=given.get("prefix", "stargraph"),
            read_only=given.get("read_only") == "true",
            timeout=float(given.get("timeout", 30)),
            encryption=Cipher.from_environment(),
        )

    def __repr__(self) -> str:
        return f"ValkeyCheckpointer({self._name!r}, prefix={self._prefix!r})"

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
        if self._client is None:
            seconds = self._timeout / 3
            pool = BlockingConnectionPool.from_url(
                self._url, max_connections=8, timeout=seconds, socket_timeout=seconds, socket_connect_timeout=seconds
            )
            self._client = Valkey.from_pool(pool)
        key = f"{self._prefix}:format"
        found = await self._command("GET", key)
        if found is None:
            if self.read_only:
                raise no_store_error(self._name)
            await self._check_durability()
            await self._command("SET", key, FORMAT, "NX")
            found = await self._command("GET", key)
        if found != b"%d" % FORMAT:
            newer = not (found.isdigit() and int(found) < FORMAT)
            raise StoreVersionError(
                f"{self._name}: the store has the format {found.decode(errors='replace')!r}, not {FORMAT}",
                reason="newer-format" if newer else "older-format",
                hint="Open it with the version of this driver that made it.",
            )
        self._lifecycle.opened()

    async def close(self) -> None:
        async with self._lifecycle.closing():
            client, self._client = self._client, None
            await self._requests.drain()
            if client is not None:
                await client.aclose()
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
        rows = [field for checkpoint in steps for field in await self._row(checkpoint)]
        found = await self._run(START, steps[0].run_id, *rows)
        if found:
            status, digests = found
            judge_pruned_start(
                steps,
                stored_digests={step.step: each.decode() for step, each in zip(steps, digests, strict=True) if each},
                deleted=status == b"deleted",
                fingerprint=self._codec.fingerprint,
            )

    async def read_latest(self, run_id: str) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        found = await self._run(LATEST, run_id) if is_run_id(run_id) else None
        return await self._decode(run_id, int(found[0]), found[1]) if found else None

    async def read_at_step(self, run_id: str, step: int) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        found = await self._read(run_id, [step]) if check_step(step) and is_run_id(run_id) else []
        return found[0] if found else None

    async def history(
        self, run_id: str, *, from_step: int | None = None, to_step: int | None = None, newest_first: bool = False
    ) -> AsyncIterator[Checkpoint]:
        self._lifecycle.ensure_open()
        first, last = check_bounds(from_step, to_step)
        floor, latest, stored = await self._run(STEPS, run_id) if is_run_id(run_id) else (0, -1, [])
        # Those from the floor on have to be there: one that is not is lost, and reading it says so.
        found = {*map(int, stored), *range(int(floor), int(latest) + 1)}
        steps = sorted((step for step in found if first <= step <= last), reverse=newest_first)
        for start in range(0, len(steps), 16):
            for checkpoint in await self._read(run_id, steps[start : start + 16]):
                yield checkpoint

    async def read_at_key(self, run_id: str, key: str) -> Checkpoint | None:
        self._lifecycle.ensure_open()
        while is_run_id(run_id):
            # "/" follows "." in ASCII: so this is above every step of the key, and below every higher key.
            found = await self._run(STEP_KEYS, run_id, f"({_hex(key)}/", 1)
            highest = _step_key(found[0]) if found else None
            if highest is None or highest.key != key:
                return None
            checkpoint = await self.read_at_step(run_id, highest.step)
            if checkpoint is not None:  # else the step was pruned meanwhile
                return checkpoint
        return None

    async def step_keys(self, run_id: str, *, below: str | None = None, limit: int = 100) -> list[StepKey]:
        self._lifecycle.ensure_open()
        check_limit(limit)
        place = "+" if below is None else f"({_hex(below)}."
        return [_step_key(member) for member in await self._run(STEP_KEYS, run_id, place, limit)]

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
        return [run async for run in scan_runs(self._page) if run.parent_run_id == run_id and run.origin == "subgraph"]

    async def delete_run(self, run_id: str) -> bool:
        self._lifecycle.ensure_writable("delete_run")
        return is_run_id(run_id) and bool(await self._run(DELETE, run_id))

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
                removed.append(await self._prune_run(latest, rule))
        return PruneReport(runs=sum(map(bool, removed)), checkpoints=sum(removed), dry_run=dry_run)

    async def _timeline_page(self, run_id: str, first: int, last: int, limit: int) -> tuple[list[StepSummary], bool]:
        most = min(limit, _ROWS)
        whole: dict[int, tuple[int, bytes]] = {}
        while True:
            floor, latest, stored = await self._run(STEPS, run_id)
            known = set(map(int, stored))
            due = sorted(known | {*range(int(floor), int(latest) + 1)})
            steps = [step for step in due if first <= step <= last][:most]
            # With the step before the first one, a row tells what its step changed.
            before = known & {step - 1 for step in steps[:1]}
            floor, latest, found = await self._beginnings(run_id, [*before, *steps], PREFIX_BYTES)
            found |= whole
            for step in steps:
                if step not in found and floor <= step <= latest:
                    raise missing_step_error(run_id, step)
            if not found.keys() >= set(steps):
                continue  # a prune came in between, and the run may have gone on: look again
            records = {step: record for step, (_, record) in found.items()}
            sizes = {step: size for step, (size, _) in found.items()}
            summarize = partial(self._codec.summarize, records, run_id=run_id, steps=steps, sizes=sizes)
            try:
                return await self._threads.run(summarize, large=large_to_decode(records.values())), len(steps) == most
            except RecordCutError as cut:  # its event is larger than that
                whole |= (await self._beginnings(run_id, [cut.step], -1))[2]

    async def _beginnings(
        self, run_id: str, steps: Sequence[int], most: int
    ) -> tuple[int, int, dict[int, tuple[int, bytes]]]:
        """Return the floor and the latest step of a run, and the length and the first bytes of each record."""
        floor, latest, rows = await self._run(BEGINNINGS, run_id, most, *steps)
        return int(floor), int(latest), {step: (row[0], row[1]) for step, row in zip(steps, rows, strict=True) if row}

    async def _latest_step(self, run_id: str) -> int | None:
        found = await self._run(LATEST_STEP, run_id)
        return None if found is None else int(found)

    async def _append(self, checkpoints: Sequence[Checkpoint]) -> None:
        run_id = checkpoints[0].run_id if checkpoints else ""
        arguments: list[Any] = []
        size = first = 0
        for number, checkpoint in enumerate(checkpoints):
            row = await self._row(checkpoint)
            arguments += row
            size += len(row[8])
            if number + 1 < len(checkpoints) and size < _BATCH_BYTES:
                continue
            done, *known = await self._run(APPEND, run_id, *arguments)
            if known:
                self._refuse(checkpoints[first + done], *known)
            arguments, size, first = [], 0, number + 1

    async def _row(self, checkpoint: Checkpoint) -> list[Any]:
        large = large_to_encode((checkpoint,))
        record = await self._threads.run(self._codec.encode_alone, checkpoint, large=large)
        previous = checkpoint.previous_digest
        return [
            checkpoint.step,
            checkpoint.step - 1,
            self._codec.fingerprint(checkpoint.digest),
            "" if previous is None else self._codec.fingerprint(previous),
            checkpoint.status,
            _member(checkpoint.started_at, checkpoint.run_id),
            _member(checkpoint.timestamp, checkpoint.run_id),
            summary_json(checkpoint),
            record.data,
            "" if checkpoint.key is None else f"{_hex(checkpoint.key)}.{checkpoint.step:019d}",
        ]

    def _refuse(self, checkpoint: Checkpoint, stored: Any, step: Any, digest: Any, status: Any, floor: Any) -> NoReturn:
        deleted = status == b"deleted"
        known = status is not None and not deleted
        judge_append(
            checkpoint,
            tail=Tail(int(step), digest.decode(), status.decode(), int(floor)) if known else None,
            stored_digest=stored and stored.decode(),
            deleted=deleted,
            fingerprint=self._codec.fingerprint,
        )
        raise missing_step_error(checkpoint.run_id, checkpoint.step)  # the script refused what the rules allow

    async def _prune_run(self, latest: Checkpoint, rule: PruneRule) -> int:
        *_, stored = await self._run(STEPS, latest.run_id)
        plan = rule.plan(latest, map(int, stored))
        known = [
            latest.run_id,
            self._codec.fingerprint(latest.digest),
            plan.floor if rule.keep_last else "",
            latest.parent_run_id if latest.origin == "subgraph" else "",
            int(not rule.dry_run),
        ]
        if not rule.keep_last:
            return int(await self._run(PRUNE, *known))
        parts = [plan.removed[start : start + 1000] for start in range(0, len(plan.removed), 1000)]
        return sum([int(await self._run(PRUNE, *known, *part)) for part in parts])

    async def _read(self, run_id: str, steps: Sequence[int]) -> list[Checkpoint]:
        floor, latest, records = await self._run(RECORDS, run_id, *steps)
        rows = list(zip(steps, records, strict=True))
        for step, record in rows:
            if record is None and int(floor) <= step <= int(latest):
                raise missing_step_error(run_id, step)
        return [await self._decode(run_id, step, record) for step, record in rows if record is not None]

    async def _decode(self, run_id: str, step: int, record: bytes | None) -> Checkpoint:
        if record is None:
            raise missing_step_error(run_id, step)
        large = large_to_decode([record])
        return await self._threads.run(
            partial(self._codec.decode, {step: record}, run_id=run_id, step=step), large=large
        )

    async def _page(self, order: RunOrder, after: RunCursor | None, count: int) -> list[RunSummary]:
        start = "-" if after is None else f"({_member(after.moment, after.run_id)}"
        run_ids, summaries = await self._run(PAGE, order, start, count)
        return summaries_from_json([(name.decode(), text) for name, text in zip(run_ids, summaries, strict=True)])

    async def _check_durability(self) -> None:
        names = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
        found = await self._command("CONFIG GET", *names)
        if not self._allow_data_loss and (
            (found["appendonly"], found["appendfsync"]) != ("yes", "always")
            or (found["maxmemory"] != "0" and found["maxmemory-policy"] != "noeviction")
        ):
            raise CheckpointError(
                f"{self._name}: the server may lose what it has acknowledged: {found}",
                reason="not-durable",
                hint="Set appendonly yes, appendfsync always and maxmemory-policy noeviction.",
            )

    async def _run(self, script: str, *arguments: Any) -> Any:
        client = self._ready()
        registered = client.register_script(LIBRARY + script)
        return await self._ask(lambda: registered(keys=[self._prefix], args=arguments))

    async def _command(self, *arguments: Any) -> Any:
        client: Any = self._client
        return await self._ask(lambda: client.execute_command(*arguments))

    def _ready(self) -> Valkey:
        self._lifecycle.ensure_open()
        assert self._client is not None
        return self._client

    async def _ask(self, request: Callable[[], Awaitable[Result]]) -> Result:
        try:
            return await self._requests.run(self._retries.run(request, is_transient=_is_transient))
        except (ValkeyError, OSError) as error:
            raise StoreUnavailableError(
                f"{self._name}: the request was not answered: {error}",
                reason="unavailable",
                hint="Check the server, then do it again: writing the same checkpoint again is always safe.",
            ) from error


def _is_transient(error: Exception) -> bool:
    return isinstance(error, NotConnectedError | NoAnswerError | BusyLoadingError | OSError)


def _member(moment: datetime, run_id: str) -> str:
    """Return the member of an index for a run: in ascending order the newest is the first."""
    return f"{_NEWEST - microseconds(moment):019d}{run_id}"


def _hex(key: str) -> str:
    """Return a key so that its bytes sort as its code points do, with nothing in it that ends it."""
    return key.encode("utf-8", "surrogatepass").hex()


def _step_key(member: bytes) -> StepKey:
    key, _, step = member.partition(b".")
    return StepKey(bytes.fromhex(key.decode()).decode(), int(step))


_: type[Checkpointer] = ValkeyCheckpointer
