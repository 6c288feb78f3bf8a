"""langgraph-checkpoint-sqlite and -postgres, called as their own loop calls them at best, and LangGraph itself.

A step is one `aput`. With a DeltaChannel it is an `aput_writes` of what was appended, awaited, and then an `aput`
without the channel, or with a snapshot of it each hundred updates (`snapshot_frequency`, their default). Whatever
need not be stored for a correct read is left out.
"""

from __future__ import annotations

import asyncio
import operator
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from stargraph_bench import _nodes
from stargraph_bench._contender import Contender, InDatabase, InFolder, Place, StepWriter
from stargraph_bench._runs import APPENDED, Run, State

_SNAPSHOT_FREQUENCY: Final = 100

_COPY: Final = """
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
SELECT copies.run_id, checkpoint_ns, left(checkpoint_id, 24) || copies.suffix,
    left(parent_checkpoint_id, 24) || copies.suffix, type,
    jsonb_set(checkpoint, '{id}', to_jsonb(left(checkpoint_id, 24) || copies.suffix)), metadata
FROM checkpoints CROSS JOIN unnest($1::text[], $2::text[]) AS copies (run_id, suffix)
WHERE thread_id = $3
"""


def _config(run: Run, checkpoint_id: str | None = None) -> Any:
    named = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    return {"configurable": {"thread_id": run.run_id, "checkpoint_ns": "", **named}}


class _Saver(StepWriter):
    """`aput` of a saver, of a checkpoint that is built as their loop builds it."""

    saver: Any
    versions_of: Any

    def prepare(self, runs: Sequence[Run]) -> None:
        super().prepare(runs)
        self._puts = [self._puts_of(run) for run in runs]
        self._configs = [_config(run) for run in runs]
        self._ids: dict[str, list[str]] = {run.run_id: [] for run in runs}

    def _puts_of(self, run: Run) -> Iterator[tuple[Any, Any, Any]]:
        """Yield checkpoint, metadata and new versions of each step."""
        from langgraph.checkpoint.base.id import uuid6

        versions: dict[str, Any] = {}
        for number, step in enumerate(run.steps):
            new = {name: self.versions_of(None, versions.get(name), None) for name in step.changed}
            versions = versions | new
            checkpoint = {
                "v": 4,
                "id": str(uuid6(clock_seq=number)),
                "ts": "2026-01-01T00:00:00.000000+00:00",
                "channel_values": dict(step.state),
                "channel_versions": versions,
                "versions_seen": {},
                "updated_channels": sorted(new),
            }
            yield checkpoint, {"source": "loop", "step": number, "parents": {}}, new

    async def write(self, run: int, step: int) -> None:
        checkpoint, metadata, new = next(self._puts[run])
        self._ids[self.runs[run].run_id].append(checkpoint["id"])
        self._configs[run] = await self.saver.aput(self._configs[run], checkpoint, metadata, new)

    async def latest(self, run: Run) -> State:
        return await self._values(_config(run))

    async def at_step(self, run: Run, step: int) -> State:
        return await self._values(_config(run, self._ids[run.run_id][step]))

    async def _values(self, config: Any) -> State:
        found = await self.saver.aget_tuple(config)
        state: State = found.checkpoint["channel_values"]
        return state

    async def list_runs(self, limit: int) -> int:
        # There is no list of threads: this is what lists across threads.
        return len([item async for item in self.saver.alist(None, limit=limit)])


class _Filled(_Saver):
    """A saver whose store can be filled with many threads."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._filled: dict[str, list[str]] = {}

    @abstractmethod
    async def copy_rows(self, first: Run, copies: Mapping[str, Sequence[str]]) -> None:
        """Copy the rows of one thread, each with ids of its own, given by thread."""

    async def fill(self, runs: Sequence[Run]) -> None:
        """Store the first run by their API, and the others, which have equal steps, as copies of its rows.

        Four hundred thousand `aput` would take minutes.
        """
        first, *others = runs
        self.prepare([first])
        for step in range(len(first.steps)):
            await self.write(0, step)
        ids = self._ids[first.run_id]
        copies = {}
        for run in others:
            suffix = uuid.uuid4().hex[:12]
            copies[run.run_id] = [f"{one[:24]}{suffix}" for one in ids]
        await self.copy_rows(first, copies)
        self._filled |= {first.run_id: ids, **copies}
        self._ids = self._filled


class _Delta(_Saver):
    """The same with the growing field in a DeltaChannel."""

    def _puts_of(self, run: Run) -> Iterator[tuple[Any, Any, Any]]:
        from langgraph.checkpoint.serde.types import _DeltaSnapshot

        updates = 0
        for number, (checkpoint, metadata, new) in enumerate(super()._puts_of(run)):
            messages = checkpoint["channel_values"].pop(APPENDED)
            updates += 1
            if number == 0 or updates >= _SNAPSHOT_FREQUENCY:
                checkpoint["channel_values"][APPENDED] = _DeltaSnapshot(messages)
                updates = 0
            else:
                metadata["counters_since_delta_snapshot"] = {APPENDED: (updates, updates)}
            yield checkpoint, metadata, new

    def prepare(self, runs: Sequence[Run]) -> None:
        super().prepare(runs)
        self._tasks = [[str(uuid.uuid4()) for _ in run.steps] for run in runs]

    async def write(self, run: int, step: int) -> None:
        if step:
            appended = self.runs[run].steps[step].update[APPENDED]
            await self.saver.aput_writes(self._configs[run], [(APPENDED, appended)], self._tasks[run][step])
        await super().write(run, step)

    async def _values(self, config: Any) -> State:
        from langgraph.channels.delta import DeltaChannel

        found = await self.saver.aget_tuple(config)
        values: State = dict(found.checkpoint["channel_values"])
        channel = DeltaChannel(_extend, list)
        if APPENDED in values:
            channel = channel.from_checkpoint(values[APPENDED])
        else:
            histories = await self.saver.aget_delta_channel_history(config=found.config, channels=[APPENDED])
            history = histories[APPENDED]
            channel = channel.from_checkpoint(history.get("seed"))
            channel.replay_writes(history["writes"])
        return {**values, APPENDED: channel.get()}


def _extend(messages: list[State], writes: Sequence[list[State]]) -> list[State]:
    return [*messages, *(message for write in writes for message in write)]


class _OnSQLite(InFolder, Contender):
    modules = ("aiosqlite", "langgraph.checkpoint.sqlite.aio")
    saver: Any

    @staticmethod
    def versions_of(saver: Any, current: Any, channel: None) -> Any:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        return AsyncSqliteSaver.get_next_version(saver, current, channel)

    async def open(self) -> None:
        self.fresh_path()
        await self.connect()

    async def connect(self) -> None:
        import aiosqlite
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        connection = await aiosqlite.connect(self.path)
        self.saver = AsyncSqliteSaver(connection)
        await self.saver.setup()  # which turns WAL on
        await connection.execute("PRAGMA synchronous = FULL")

    async def close(self) -> None:
        await self.saver.conn.close()


class _OnPostgres(InDatabase, Contender):
    modules = ("langgraph.checkpoint.postgres.aio", "psycopg", "psycopg_pool")
    saver: Any

    @staticmethod
    def versions_of(saver: Any, current: Any, channel: None) -> Any:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        return AsyncPostgresSaver.get_next_version(saver, current, channel)

    async def open(self) -> None:
        await self.fresh_dsn()
        await self.connect()

    async def connect(self) -> None:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg import AsyncConnection
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        self._opened = AsyncExitStack()
        options: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        if len(self.runs) == 1:
            connection: Any = await AsyncConnection.connect(self.dsn, **options)
            await self._opened.enter_async_context(connection)
        else:
            connection = AsyncConnectionPool(self.dsn, min_size=8, max_size=8, open=False, kwargs=options)
            await self._opened.enter_async_context(connection)
            await connection.wait()
        self.saver = AsyncPostgresSaver(connection)
        await self.saver.setup()

    async def close(self) -> None:
        await self._opened.aclose()


class LangGraphSQLite(_OnSQLite, _Filled):
    """AsyncSqliteSaver with full snapshots."""

    async def copy_rows(self, first: Run, copies: Mapping[str, Sequence[str]]) -> None:
        await self.saver.conn.execute("PRAGMA synchronous = OFF")
        columns = "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata"
        asked = f"SELECT {columns} FROM checkpoints WHERE thread_id = ? ORDER BY checkpoint_id"
        rows = list(await self.saver.conn.execute_fetchall(asked, (first.run_id,)))
        await self.saver.conn.executemany(
            f"INSERT INTO checkpoints (thread_id, {columns}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (run_id, space, own, parent, kind, blob.replace(checkpoint_id.encode(), own.encode()), metadata)
                for run_id, ids in copies.items()
                for (space, checkpoint_id, _, kind, blob, metadata), own, parent in zip(
                    rows, ids, [None, *ids], strict=False
                )
            ),
        )
        await self.saver.conn.commit()
        await self.saver.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class LangGraphDeltaSQLite(_OnSQLite, _Delta):
    """AsyncSqliteSaver with a DeltaChannel."""


class LangGraphPostgres(_OnPostgres, _Filled):
    """AsyncPostgresSaver with full snapshots: one connection for one run, a pool of eight for many."""

    async def copy_rows(self, first: Run, copies: Mapping[str, Sequence[str]]) -> None:
        import asyncpg

        connection = await asyncpg.connect(self.dsn)
        await connection.execute(_COPY, list(copies), [ids[0][24:] for ids in copies.values()], first.run_id)
        await connection.close()
        await self.settle()


class LangGraphDeltaPostgres(_OnPostgres, _Delta):
    """AsyncPostgresSaver with a DeltaChannel."""


class _Engine(_Saver):
    """A StateGraph of one node that loops, with durability="sync"."""

    async def execute(self) -> list[float]:
        graph = self._compiled(self.runs[0])

        async def drive(run: Run) -> None:
            config = {"configurable": {"thread_id": run.run_id}, "recursion_limit": len(run.steps) + 10}
            await graph.ainvoke(run.steps[0].state, config, durability="sync")

        _nodes.CALLED.clear()
        await asyncio.gather(*map(drive, self.runs))
        return _nodes.step_seconds(self.runs)

    async def execute_map(self, items: list[int]) -> list[int]:
        """Double every item by a Send each; return the results."""
        from typing import Annotated

        from langgraph.graph import START, StateGraph
        from langgraph.types import Send
        from typing_extensions import TypedDict

        async def double(item: int) -> State:
            return {"doubled": [item * 2]}

        fields = {"items": list[int], "doubled": Annotated[list[int], operator.add]}
        builder: Any = StateGraph(TypedDict("MapState", fields))  # type: ignore[operator]
        builder.add_node("double", double)
        builder.add_conditional_edges(
            START, lambda state: [Send("double", item) for item in state["items"]], ["double"]
        )
        graph = builder.compile(checkpointer=self.saver)
        config = {"configurable": {"thread_id": str(uuid.uuid4())}}
        await graph.ainvoke({"items": items}, config, durability="sync")
        doubled: list[int] = (await graph.aget_state(config)).values["doubled"]
        return doubled

    def prepare(self, runs: Sequence[Run]) -> None:
        Contender.prepare(self, runs)
        _nodes.RUNS = {run.run_id: run for run in runs}

    async def at_step(self, run: Run, step: int) -> State:
        found = [item async for item in self.saver.alist(_config(run), filter={"step": step}, limit=1)]
        return await self._state(run, found[0].config)

    async def latest(self, run: Run) -> State:
        return await self._state(run, _config(run))

    async def _state(self, run: Run, config: Any) -> State:
        state: State = (await self._compiled(run).aget_state(config)).values
        return state

    def appended(self) -> Any:
        """Return the type of the field that grows."""
        from typing import Annotated

        return Annotated[list[Any], operator.add]

    def _compiled(self, run: Run) -> Any:
        from langgraph.graph import END, START, StateGraph
        from typing_extensions import TypedDict

        fields = {
            name: self.appended() if name == APPENDED else type(value) for name, value in run.steps[0].state.items()
        }
        builder: Any = StateGraph(TypedDict("BenchState", fields))  # type: ignore[operator]
        last = len(run.steps) - 1

        async def work(state: State, config: Any) -> State:
            return _nodes.next_update(config["configurable"]["thread_id"], state["n"] + 1)

        work.__annotations__.pop("config")
        builder.add_node("work", work)
        builder.add_edge(START, "work")
        builder.add_conditional_edges("work", lambda state: END if state["n"] >= last else "work", ["work", END])
        return builder.compile(checkpointer=self.saver)


class _DeltaEngine(_Engine):
    """The same with the growing field in a DeltaChannel."""

    def appended(self) -> Any:
        from typing import Annotated

        from langgraph.channels.delta import DeltaChannel

        return Annotated[list[Any], DeltaChannel(_extend, snapshot_frequency=_SNAPSHOT_FREQUENCY)]


class LangGraphEngineSQLite(_Engine, LangGraphSQLite):
    """LangGraph on AsyncSqliteSaver."""


class LangGraphEnginePostgres(_Engine, LangGraphPostgres):
    """LangGraph on AsyncPostgresSaver."""


class LangGraphDeltaEngineSQLite(_DeltaEngine, LangGraphSQLite):
    """LangGraph on AsyncSqliteSaver, with a DeltaChannel."""


class LangGraphDeltaEnginePostgres(_DeltaEngine, LangGraphPostgres):
    """LangGraph on AsyncPostgresSaver, with a DeltaChannel."""
