"""Our drivers, and our engine on them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from stargraph.checkpoint.protocol import BatchAppend, Checkpoint, Checkpointer, Closing, Task
from stargraph.checkpoint.values import EncodedValue
from stargraph_bench import _nodes
from stargraph_bench._contender import Contender, InDatabase, InFolder, StepWriter
from stargraph_bench._runs import APPENDED, Run, State, Step

if TYPE_CHECKING:
    from stargraph_bench._object_store import ObjectStore

_STARTED: Final = datetime(2026, 1, 1, tzinfo=UTC)
_EXECUTOR: Final = "e" * 32
_TICK: Final = timedelta(milliseconds=250)


class Store(Checkpointer, BatchAppend, Closing, Protocol):
    """What the contenders need of a driver."""


def checkpoints(run: Run, number: int = 0) -> Iterator[Checkpoint]:
    """Yield the checkpoints of a run as the engine makes them: with update, task and frontier.

    Args:
        number: its place among others, which decides when it started.
    """
    moment = _STARTED + number * timedelta(seconds=1)
    last = Checkpoint.genesis(
        run_id=run.run_id,
        graph_id="bench",
        graph_hash="a" * 64,
        runtime_hash="b" * 64,
        state=run.steps[0].state,
        update=run.steps[0].update,
        executor_id=_EXECUTOR,
        timestamp=moment,
        frontier=(Task(id=_task_id(run, 0), node="work", since_step=0),),
    )
    yield last
    for number, step in enumerate(run.steps[1:], 1):
        last = last.next(
            event="completed",
            executor_id=_EXECUTOR,
            timestamp=moment + number * _TICK,
            **_what_changes(last, step),
            last_node="work",
            task_id=_task_id(run, number - 1),
            task_started_at=moment + (number - 1) * _TICK,
            frontier=(Task(id=_task_id(run, number), node="work", since_step=number),),
        )
        yield last


def _what_changes(last: Checkpoint, step: Step) -> dict[str, Any]:
    """Return update and changes of a step: each value is checked and encoded once, and appended if it grows."""
    update = {name: EncodedValue.of(value, name) for name, value in step.update.items()}
    changes = {
        name: update[name] if name in update else EncodedValue.of(step.state[name], name) for name in step.changed
    }
    if APPENDED in changes:
        changes[APPENDED] = last.encoded_state()[APPENDED].extended(update[APPENDED])
    return {"changes": changes, "update": update}


def _task_id(run: Run, number: int) -> str:
    return f"{run.run_id[:8]}-{number:08x}"


class Driver(StepWriter):
    """`write` of a driver, of a checkpoint that is built from the step before it as the engine builds it."""

    store: Store
    latest_cache_bytes = 0

    async def execute(self) -> list[float]:
        self._checkpoints = [checkpoints(run, number) for number, run in enumerate(self.runs)]
        return await super().execute()

    async def write(self, run: int, step: int) -> None:
        await self.store.write(next(self._checkpoints[run]))

    async def close(self) -> None:
        await self.store.close()

    async def latest(self, run: Run) -> State:
        return _state_of(await self.store.read_latest(run.run_id))

    async def at_step(self, run: Run, step: int) -> State:
        return _state_of(await self.store.read_at_step(run.run_id, step))

    async def list_runs(self, limit: int) -> int:
        return len(await self.store.list_runs(limit=limit))

    async def fill(self, runs: Sequence[Run]) -> None:
        # 64 at a time share commits.
        for low in range(0, len(runs), 64):
            group = enumerate(runs[low : low + 64], low)
            await asyncio.gather(*(self.store.write_many(list(checkpoints(run, number))) for number, run in group))


def _state_of(checkpoint: Checkpoint | None) -> State:
    assert checkpoint is not None
    return checkpoint.state


class _Counts:
    """Commits of SQLite connections that are opened meanwhile, and answers of threads to the loop."""

    def __init__(self) -> None:
        self.commits = self.answers = 0
        self._undo = contextlib.ExitStack()

    def begin(self) -> None:
        self.commits = self.answers = 0
        counts = self

        class Counted(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                words = statement.split(maxsplit=1)
                if words[0] == "COMMIT" or (words[0] == "INSERT" and not self.in_transaction):
                    counts.commits += 1
                return super().execute(statement, *values)

        connect = sqlite3.connect
        setattr(sqlite3, "connect", functools.partial(connect, factory=Counted))  # noqa: B010
        self._undo.callback(setattr, sqlite3, "connect", connect)
        loop = asyncio.get_running_loop()
        answer = loop.call_soon_threadsafe

        def counted(*arguments: Any, **options: Any) -> asyncio.Handle:
            self.answers += 1
            return answer(*arguments, **options)

        setattr(loop, "call_soon_threadsafe", counted)  # noqa: B010
        self._undo.callback(delattr, loop, "call_soon_threadsafe")

    def end(self) -> None:
        self._undo.close()


@contextlib.contextmanager
def _counted_messages() -> Iterator[list[int]]:
    """Collect the sizes of what transports of this process send meanwhile."""
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    write = transport.write
    sizes: list[int] = []

    def counted(self: Any, data: bytes) -> None:
        sizes.append(len(data))
        write(self, data)

    transport.write = counted
    try:
        yield sizes
    finally:
        transport.write = write


class StargraphSQLite(InFolder, Driver):
    """The SQLite driver as it comes: synchronous=FULL."""

    modules = ("stargraph.checkpoint.sqlite",)

    async def open(self) -> None:
        self.fresh_path()
        await self.connect()

    async def connect(self) -> None:
        from stargraph.checkpoint.sqlite import SQLiteCheckpointer

        self.store = SQLiteCheckpointer(self.path, latest_cache_bytes=self.latest_cache_bytes)
        await self.store.bootstrap()

    async def fill(self, runs: Sequence[Run]) -> None:
        from stargraph.checkpoint.sqlite import SQLiteCheckpointer

        durable, self.store = self.store, SQLiteCheckpointer(self.path, synchronous="normal")
        await self.store.bootstrap()
        await super().fill(runs)
        await self.store.close()
        self.store = durable

    async def count_execution(self) -> dict[str, float]:
        """Store the prepared runs in a fresh store and count commits and thread hops a write."""
        counts = _Counts()
        counts.begin()
        try:
            await self.open()
            before = counts.commits, counts.answers
            writes = len(await self.execute())
            commits, answers = counts.commits - before[0], counts.answers - before[1]
        finally:
            counts.end()
        await self.close()
        await self.remove()
        return {"rows_a_commit": writes / commits, "hops_a_write": answers / writes}


class StargraphPostgres(InDatabase, Driver):
    """The PostgreSQL driver as it comes."""

    modules = ("stargraph.checkpoint.postgres",)

    async def open(self) -> None:
        await self.fresh_dsn()
        await self.connect()

    async def connect(self) -> None:
        from stargraph.checkpoint.postgres import PostgresCheckpointer

        self.store = PostgresCheckpointer(self.dsn, latest_cache_bytes=self.latest_cache_bytes)
        await self.store.bootstrap()

    async def fill(self, runs: Sequence[Run]) -> None:
        await super().fill(runs)
        await self.settle()

    async def count_execution(self) -> dict[str, float]:
        """Store the prepared runs in a fresh store and count transactions a write."""
        await self.open()
        before = await self.transactions()
        with _counted_messages() as messages:
            writes = len(await self.execute())
        commits = await self.transactions() - before
        await self.close()
        await self.remove()
        return {"rows_a_commit": writes / commits, "messages_a_write": len(messages) / writes}


class StargraphSQLiteCache(StargraphSQLite):
    """The SQLite driver, whose handle keeps the latest checkpoints in memory."""

    latest_cache_bytes = 64 * 1024 * 1024


class StargraphPostgresCache(StargraphPostgres):
    """The PostgreSQL driver, likewise."""

    latest_cache_bytes = 64 * 1024 * 1024


class StargraphS3(Driver):
    """The S3 driver as it comes."""

    _objects: ObjectStore

    async def open(self) -> None:
        from stargraph.checkpoint.s3 import S3Checkpointer
        from stargraph_bench._object_store import ObjectStore

        self._objects = ObjectStore(self.place.s3)
        self.store = S3Checkpointer(self._objects.url, endpoint_url=self.place.s3, session=self._objects.session)
        await self.store.bootstrap()
        self._objects.reset()

    async def remove(self) -> None:
        self._objects.remove()

    async def size(self) -> int:
        return self._objects.uploaded

    async def counts(self) -> dict[str, float]:
        return {"puts_a_write": self._objects.puts / sum(len(run.steps) for run in self.runs)}


class _Engine(Contender):
    """A graph of one node that loops, executed by our engine."""

    store: Store

    def prepare(self, runs: Sequence[Run]) -> None:
        from stargraph.graph import Graph
        from stargraph.ir import parse_graph

        super().prepare(runs)
        _nodes.RUNS = {run.run_id: run for run in runs}
        self._graphs = {run.run_id: Graph(parse_graph(_graph_text(run))) for run in runs}

    async def execute(self) -> list[float]:
        async def drive(run: Run) -> None:
            started = await self._graphs[run.run_id].start(
                checkpointer=self.store, run_id=run.run_id, inputs=run.steps[0].state
            )
            summary = await started.start()
            summary.raise_for_status()

        _nodes.CALLED.clear()
        await asyncio.gather(*map(drive, self.runs))
        return _nodes.step_seconds(self.runs)

    async def execute_map(self, items: list[int]) -> list[int]:
        """Double every item by a map; return the results."""
        from stargraph.graph import Graph
        from stargraph.ir import parse_graph

        started = await Graph(parse_graph(_MAP)).start(checkpointer=self.store, inputs={"items": items})
        summary = await started.start()
        summary.raise_for_status()
        latest = await self.store.read_latest(summary.run_id)
        doubled: list[int] = _state_of(latest)["doubled"]
        return doubled


_MAP: Final = """
ir_version: "1.0.0"
id: bench-map
state_schema:
  items: "list[int]"
  doubled: {type: "list[int]", reduce: append, default: []}
nodes:
  - {id: plan, kind: "stargraph_bench._nodes:nothing"}
  - {id: double, kind: "stargraph_bench._nodes:double"}
  - {id: collect, kind: "stargraph_bench._nodes:nothing"}
rules:
  - id: each
    when: {node: plan}
    then: [{kind: map, over: "state.items", target: double, join: collect, max_concurrency: 64}]
"""


def _graph_text(run: Run) -> str:
    grows = APPENDED in run.steps[0].state
    fields = "\n".join(
        f'  {name}: {{type: "{_type_of(value)}"{", reduce: append" if name == APPENDED else ""}}}'
        for name, value in run.steps[0].state.items()
    )
    return f"""
ir_version: "1.0.0"
id: bench
description: {"a growing conversation" if grows else "a small state"}
state_schema:
{fields}
nodes:
  - {{id: work, kind: "stargraph_bench._nodes:work"}}
rules:
  - id: end
    when: {{node: work, if: "state.n >= {len(run.steps) - 1}"}}
    then: [{{kind: halt}}]
  - id: again
    when: {{node: work}}
    then: [{{kind: goto, target: work}}]
"""


def _type_of(value: object) -> str:
    return {int: "int", str: "str", list: "list[any]"}[type(value)]


class EngineSQLite(_Engine, StargraphSQLite):
    """Our engine on the SQLite driver."""


class EnginePostgres(_Engine, StargraphPostgres):
    """Our engine on the PostgreSQL driver."""
