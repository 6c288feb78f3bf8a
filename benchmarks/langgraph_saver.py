"""Compare `StargraphSaver` with LangGraph's own savers in LangGraph's own loop, on SQLite and PostgreSQL.

    PYTHONPATH=benchmarks:tests python benchmarks/langgraph_saver.py [--repeats 5] [--store sqlite] [--dsn DSN]

Savers take turns, each on a fresh store, and every conversation is read back and compared. Durability is full for
all: SQLite's WAL with `synchronous=FULL`, PostgreSQL's `synchronous_commit=on`. Values are built, serialized and
stored inside the clock. The text is prose of random words, which compresses about as English does. The speed is the
ratio of the medians of all repeats, the range that of single repeats. CPU is that of this process: for PostgreSQL,
the client alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages

from stargraph.langgraph import StargraphSaver
from stargraph_bench._runs import Prose

Graph = Any
Saver = Any
OURS: Final = "stargraph"
THEIRS: Final = "langgraph"


class Cost(NamedTuple):
    """What one operation took.

    Attributes:
        wall: seconds.
        cpu: seconds of this process.
    """

    wall: float
    cpu: float


class Counter(TypedDict):
    n: int
    text: str


def fold(messages: list[AnyMessage], writes: list[Any]) -> list[AnyMessage]:
    """The reducer of the conversation in a DeltaChannel."""
    for write in writes:
        messages = add_messages(messages, write)  # type: ignore[assignment, arg-type]  # its stub says less
    return messages


class DeltaMessages(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(fold)]


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}, "recursion_limit": 100_000}


def loop(saver: Saver, steps: int) -> Graph:
    """A graph that counts, with 1 KB beside the number."""
    builder = StateGraph(Counter)

    async def count(state: Counter) -> dict[str, Any]:
        return {"n": state["n"] + 1}

    builder.add_node("count", count)
    builder.add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if state["n"] < steps else END)
    return builder.compile(checkpointer=saver)


def chat(saver: Saver, state: Any, replies: Iterator[str]) -> Graph:
    """A graph that answers each message with the next reply."""
    builder: Any = StateGraph(state)

    async def reply(_: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(next(replies))]}

    builder.add_node("reply", reply)
    builder.add_edge(START, "reply")
    return builder.compile(checkpointer=saver)


async def timed(times: int, work: Callable[[], Awaitable[object]]) -> Cost:
    """Return what each of so many repetitions of a work takes, which does all of them."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return Cost((time.perf_counter() - wall) / times, (time.process_time() - cpu) / times)


class Sizes(NamedTuple):
    """How much is measured."""

    steps: int = 200
    turns: int = 100
    threads: int = 64
    fan_steps: int = 10
    reads: int = 50


async def measure(opened: Callable[[], Any], size: Callable[[], Awaitable[int]], sizes: Sizes) -> dict[str, Cost]:
    """Measure one saver on fresh stores.

    Args:
        opened: makes a store empty, and returns a saver on it to enter; without the empty store if it is called again.
        size: returns the bytes of the store that was opened last.
        sizes: how much.
    """
    costs: dict[str, Cost] = {}
    text = Prose(1).text(1000)

    async with opened() as saver:
        await loop(saver, 5).ainvoke({"n": 0, "text": text}, config("warm"))
        for name, durability in (("loop", "async"), ("loop, sync", "sync")):
            graph = loop(saver, sizes.steps)

            async def run(graph: Graph = graph, name: str = name, durability: str = durability) -> None:
                state = await graph.ainvoke({"n": 0, "text": text}, config(name), durability=durability)
                assert state["n"] == sizes.steps

            costs[name] = await timed(sizes.steps, run)

        fanned = loop(saver, sizes.fan_steps)

        async def fan() -> None:
            await asyncio.gather(
                *(fanned.ainvoke({"n": 0, "text": text}, config(f"fan {each}")) for each in range(sizes.threads))
            )

        costs["fan"] = await timed(sizes.threads * sizes.fan_steps, fan)

    for name, state in (("chat", MessagesState), ("chat, delta", DeltaMessages)):
        prose = Prose(2)
        questions = [prose.text(1000) for _ in range(sizes.turns)]
        replies = [prose.text(1000) for _ in range(sizes.turns)]
        async with opened() as saver:
            graph = chat(saver, state, iter(replies))

            async def talk(graph: Graph = graph, questions: list[str] = questions) -> None:
                for question in questions:
                    await graph.ainvoke({"messages": [HumanMessage(question)]}, config("t"))

            costs[name] = await timed(sizes.turns, talk)
            found = (await graph.aget_state(config("t"))).values["messages"]
            assert [each.content for each in found] == [
                each for pair in zip(questions, replies, strict=True) for each in pair
            ]
            if name == "chat":
                costs |= await _reads(saver, graph, sizes)
        stored = float(await size())
        costs[f"bytes, {name}"] = Cost(stored, stored)
    return costs


async def _reads(saver: Saver, graph: Graph, sizes: Sizes) -> dict[str, Cost]:
    where = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

    async def get() -> None:
        for _ in range(sizes.reads):
            found = await saver.aget_tuple(where)
            assert len(found.checkpoint["channel_values"]["messages"]) == 2 * sizes.turns

    async def listed() -> None:
        assert len([found.config async for found in saver.alist(where)]) == 3 * sizes.turns

    async def listed_with_values() -> None:
        lengths = [len(found.checkpoint["channel_values"].get("messages", ())) async for found in saver.alist(where)]
        assert max(lengths) == 2 * sizes.turns

    async def states() -> None:
        count = 0
        async for state in graph.aget_state_history(config("t")):
            count += 1
            assert state.values is not None
        assert count == 3 * sizes.turns

    return {
        "get": await timed(sizes.reads, get),
        "history": await timed(1, listed),
        "history, values": await timed(1, listed_with_values),
        "state history": await timed(1, states),
    }


async def on_sqlite(name: str, sizes: Sizes) -> dict[str, Cost]:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    with tempfile.TemporaryDirectory(prefix="stargraph-saver-", dir=os.environ.get("STARGRAPH_BENCH_DIR")) as folder:
        path = Path(folder)

        def opened() -> Any:
            path_ = path / uuid.uuid4().hex
            path_.mkdir()
            places.append(path_)
            if name == OURS:
                return StargraphSaver.from_url(f"sqlite:///{path_ / 'threads.sqlite'}")
            return AsyncSqliteSaver.from_conn_string(str(path_ / "threads.sqlite"))

        async def size() -> int:
            return sum(file.stat().st_size for file in places[-1].iterdir())

        places: list[Path] = []
        return await measure(opened, size, sizes)


async def on_postgres(name: str, sizes: Sizes, dsn: str) -> dict[str, Cost]:
    import asyncpg
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    names: list[str] = []
    empty = 0

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Saver]:
        nonlocal empty
        names.append(f"saver_{uuid.uuid4().hex}")
        connection = await asyncpg.connect(dsn)
        await connection.execute(f'CREATE DATABASE "{names[-1]}"')
        empty = await connection.fetchval("SELECT pg_database_size($1)", names[-1])
        await connection.close()
        place = f"{dsn.rpartition('/')[0]}/{names[-1]}"
        saver: Any = StargraphSaver.from_url(place) if name == OURS else AsyncPostgresSaver.from_conn_string(place)
        async with saver as entered:
            await entered.setup()
            yield entered

    async def size() -> int:
        connection = await asyncpg.connect(dsn)
        whole = await connection.fetchval("SELECT pg_database_size($1)", names[-1])
        await connection.close()
        return int(whole) - empty

    costs = await measure(opened, size, sizes)
    connection = await asyncpg.connect(dsn)
    for each in names:
        await connection.execute(f'DROP DATABASE "{each}"')
    await connection.close()
    return costs


class Row(NamedTuple):
    """A row of the table: a measure, ours or theirs, against one of theirs."""

    title: str
    measure: str
    against: str
    goal: float | None
    is_bytes: bool = False


ROWS: Final = (
    Row("put and put_writes, loop of 1 KB, a step", "loop", "loop", 1.0),
    Row('the same with `durability="sync"`', "loop, sync", "loop, sync", 1.0),
    Row("a turn of a conversation that grows to 200 KB", "chat", "chat", 1.5),
    Row("the same in a `DeltaChannel`", "chat, delta", "chat, delta", None),
    Row("get_tuple at 200 KB", "get", "get", 1.0),
    Row("list of 300 checkpoints", "history", "history", 5.0),
    Row("the same, with all values looked at", "history, values", "history, values", None),
    Row("`get_state_history` of 300 states", "state history", "state history", None),
    Row("64 threads at once, a step", "fan", "fan", 2.0),
    Row("bytes of the conversation", "bytes, chat", "bytes, chat", 1 / 25, True),
    Row("bytes, ours whole, theirs in a `DeltaChannel`", "bytes, chat", "bytes, chat, delta", 0.6, True),
)


def table(figures: dict[str, list[dict[str, Cost]]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| measure | goal | ours | LangGraph's | speed | range | CPU | met |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in ROWS:
        ours = [each[row.measure] for each in figures[OURS]]
        theirs = [each[row.against] for each in figures[THEIRS]]
        middle = [statistics.median(each.wall for each in side) for side in (ours, theirs)]
        cpu = statistics.median(each.cpu for each in theirs) / statistics.median(each.cpu for each in ours)
        ratio = middle[1] / middle[0]
        if row.is_bytes:
            assert row.goal is not None
            met = "met" if 1 / ratio <= row.goal else "**missed**"
            goal = f"≤ {_share(row.goal)}"
            shown = [f"{each / 1e6:.2f} MB" for each in middle]
            yield f"| {row.title} | {goal} | {shown[0]} | {shown[1]} | {_share(1 / ratio)} | | | {met} |"
            continue
        each = [theirs_.wall / ours_.wall for ours_, theirs_ in zip(ours, theirs, strict=True)]
        goal = "" if row.goal is None else f"≥ {row.goal:.1f}×"
        met = "" if row.goal is None else ("met" if ratio >= row.goal else "**missed**")
        shown = [f"{value * 1000:.2f} ms" for value in middle]
        yield (
            f"| {row.title} | {goal} | {shown[0]} | {shown[1]} | {ratio:.2f}× | {min(each):.2f}×–{max(each):.2f}×"
            f" | {cpu:.2f}× | {met} |"
        )


def _share(value: float) -> str:
    return f"1/{1 / value:.0f}" if value < 0.2 else f"{value:.2f}×"


@contextlib.contextmanager
def server(dsn: str | None) -> Iterator[str]:
    """Give the DSN of a PostgreSQL server, which is started if none is named."""
    if dsn is not None:
        yield dsn
        return
    from support.postgres_server import DEBIAN_BINARIES, LocalServer, embedded_binaries

    with LocalServer(embedded_binaries() or DEBIAN_BINARIES, {"shared_buffers": "'256MB'"}) as local:
        yield local.dsn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", action="append", choices=("sqlite", "postgres"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dsn", help="a PostgreSQL server on which databases may be made")
    parser.add_argument("--tiny", action="store_true", help="only show that everything runs")
    words = parser.parse_args()
    sizes = Sizes(5, 3, 3, 2, 2) if words.tiny else Sizes()
    for store in words.store or ("sqlite", "postgres"):
        figures: dict[str, list[dict[str, Cost]]] = {OURS: [], THEIRS: []}
        with contextlib.ExitStack() as stack:
            dsn = stack.enter_context(server(words.dsn)) if store == "postgres" else ""
            for repeat in range(1 if words.tiny else words.repeats):
                for name in (OURS, THEIRS) if repeat % 2 else (THEIRS, OURS):
                    taken = on_postgres(name, sizes, dsn) if store == "postgres" else on_sqlite(name, sizes)
                    figures[name].append(asyncio.run(taken))
                print(f"{store}: repeat {repeat + 1}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        print(f"\n{store}\n")
        print("\n".join(table(figures)))


if __name__ == "__main__":
    main()
