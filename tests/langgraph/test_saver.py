"""What a saver must get right beside the stories of graphs: removals, several writers, threads, damage."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from support.memory import MemoryCheckpointer as SmallCheckpointer
from support.places import Place, SQLitePlace

from stargraph.checkpoint.memory import MemoryCheckpointer, MemoryStore
from stargraph.checkpoint.protocol import Checkpoint as StoredCheckpoint
from stargraph.errors import CheckpointCorruptedError, CheckpointError
from stargraph.langgraph import StargraphSaver

pytestmark = pytest.mark.thorough


class Counter(TypedDict):
    n: int


class SlowStore(MemoryCheckpointer):
    """A store that takes its time to append, and counts the steps of each append.

    Args:
        turns: how many turns of the event loop an append takes.
    """

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.turns = turns
        self.batches: list[int] = []

    async def write(self, checkpoint: StoredCheckpoint) -> None:
        await self.write_many([checkpoint])

    async def write_many(self, checkpoints: Sequence[StoredCheckpoint]) -> None:
        self.batches.append(len(checkpoints))
        for _ in range(self.turns):
            await asyncio.sleep(0)
        await super().write_many(checkpoints)


def place_of(thread: str, namespace: str = "", checkpoint_id: str | None = None) -> Any:
    named = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, **named}}


def checkpoint(number: int = 0, **channels: Any) -> Checkpoint:
    versions: dict[str, str | int | float] = dict.fromkeys(channels, f"{number + 1:032}.5")
    return {
        **empty_checkpoint(),
        "id": str(uuid6(clock_seq=number)),
        "channel_values": channels,
        "channel_versions": versions,
    }


async def put(saver: StargraphSaver, thread: str, number: int, parent: Any = None, **channels: Any) -> Any:
    made = checkpoint(number, **channels)
    metadata: Any = {"source": "loop", "step": number, "run_id": channels.get("run", "")}
    return await saver.aput(parent or place_of(thread), made, metadata, made["channel_versions"])


async def ids(saver: StargraphSaver, thread: str) -> list[str]:
    return [found.checkpoint["id"] async for found in saver.alist(place_of(thread))]


async def test_a_deleted_thread_can_be_used_again(saver: StargraphSaver) -> None:
    for number in range(5):
        await put(saver, "t", number, a=number)
        found = await saver.aget_tuple(place_of("t"))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"a": number}
        assert len(await ids(saver, "t")) == 1
        await saver.adelete_thread("t")
        assert await saver.aget_tuple(place_of("t")) is None
        assert await ids(saver, "t") == []


async def test_another_process_finds_a_thread_that_was_deleted_and_used_again(place: Place) -> None:
    async with place.open() as one, place.open() as other:
        first, second = StargraphSaver(one), StargraphSaver(other)
        await put(first, "t", 0, a=0)
        assert (await second.aget_tuple(place_of("t"))) is not None
        await first.adelete_thread("t")
        assert await second.aget_tuple(place_of("t")) is None
        await put(first, "t", 1, a=1)
        found = await second.aget_tuple(place_of("t"))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"a": 1}
        await put(second, "t", 2, a=2)
        assert len(await ids(first, "t")) == 2


async def test_two_writers_of_a_thread_make_branches(place: Place) -> None:
    async with place.open() as one, place.open() as other:
        first, second = StargraphSaver(one), StargraphSaver(other)
        root = await put(first, "t", 0, a=0)
        left, right = await put(first, "t", 1, root, a="left"), await put(second, "t", 2, root, a="right")
        again = await put(first, "t", 3, left, a="left again")
        for saver in (first, second):
            for where, value in ((left, "left"), (right, "right"), (again, "left again")):
                found = await saver.aget_tuple(where)
                assert found is not None
                assert found.checkpoint["channel_values"] == {"a": value}
            parents = [found.parent_config async for found in saver.alist(place_of("t"))]
            assert parents == [left, root, root, None]


async def test_many_writers_at_once_lose_nothing(place: Place) -> None:
    async with place.open() as one, place.open() as other:
        savers = [StargraphSaver(one), StargraphSaver(other)]
        root = await put(savers[0], "t", 0, a=0)
        await asyncio.gather(
            *(
                savers[n % 2].aput_writes(root, [("a", n), ("b", str(n))], f"task-{n}", f"path {n:03}")
                for n in range(24)
            )
        )
        for saver in savers:
            found = await saver.aget_tuple(root)
            assert found is not None
            expected = [(f"task-{n}", name, value) for n in range(24) for name, value in (("a", n), ("b", str(n)))]
            assert found.pending_writes == expected


async def test_writes_may_come_before_their_checkpoint(saver: StargraphSaver) -> None:
    first = await put(saver, "t", 0, a=0)
    later = checkpoint(1, a=1)
    await saver.aput_writes(place_of("t", checkpoint_id=later["id"]), [("a", 2)], "task")
    assert await saver.aget_tuple(place_of("t", checkpoint_id=later["id"])) is None
    newest = await saver.aget_tuple(place_of("t"))
    assert newest is not None
    assert newest.config == first
    await saver.aput(first, later, {"source": "loop", "step": 1}, {})
    found = await saver.aget_tuple(place_of("t"))
    assert found is not None
    assert found.pending_writes == [("task", "a", 2)]


async def test_a_checkpoint_that_is_put_again_is_replaced_and_keeps_its_writes(saver: StargraphSaver) -> None:
    first = checkpoint(0, a=0, b=0)
    where = await saver.aput(place_of("t"), first, {"step": 0}, first["channel_versions"])
    await saver.aput_writes(where, [("a", 1)], "task")
    second = await put(saver, "t", 1, where, a=1)
    again = {**first, "channel_values": {"a": "again"}}
    await saver.aput(place_of("t"), again, {"step": 0}, {"a": "1"})  # type: ignore[arg-type]
    found = await saver.aget_tuple(where)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"a": "again"}
    assert found.pending_writes == [("task", "a", 1)]
    newest = await saver.aget_tuple(place_of("t"))
    assert newest is not None
    assert newest.config == second
    assert len(await ids(saver, "t")) == 2


async def test_the_checkpoints_of_a_run_leave_nothing_behind(file: SQLitePlace) -> None:
    async with file.open() as store, StargraphSaver(store) as saver:
        kept = await put(saver, "t", 0, run="kept", a="this one stays")
        await put(saver, "t", 1, kept, run="gone", a="a very private sentence")
        last = await put(saver, "t", 2, kept, run="kept", a="this one too")
        await saver.aput_writes(last, [("a", "pending")], "task")
        await saver.adelete_for_runs(["gone"])
        assert len(await ids(saver, "t")) == 2
        found = await saver.aget_tuple(place_of("t"))
        assert found is not None
        assert found.checkpoint["channel_values"]["a"] == "this one too"
        assert found.pending_writes == [("task", "a", "pending")]
        await put(saver, "t", 3, last, run="kept", a="goes on")
        assert len(await ids(saver, "t")) == 3
    async with file.open() as store:
        for run in await store.list_runs():
            steps = [step async for step in store.history(run.run_id)]  # type: ignore[attr-defined]
            assert not any("private" in step.model_dump_json() for step in steps)


async def test_a_pruned_thread_keeps_its_newest_checkpoint_whatever_was_written_last(saver: StargraphSaver) -> None:
    first = await put(saver, "t", 0, a=0)
    newest = await put(saver, "t", 1, first, a=1)
    await saver.aput_writes(newest, [("a", 2)], "task")
    await saver.aput_writes(first, [("a", 3)], "late")
    await put(saver, "other", 0, a=0)
    await put(saver, "other", 1, a=0)
    await saver.aprune(["t"])
    assert len(await ids(saver, "t")) == 1
    assert len(await ids(saver, "other")) == 2
    found = await saver.aget_tuple(place_of("t"))
    assert found is not None
    assert (found.config, found.pending_writes) == (newest, [("task", "a", 2)])
    with pytest.raises(ValueError, match="keep_latest"):
        await saver.aprune(["t"], strategy="keep_all")


async def test_a_history_of_many_checkpoints_is_listed_in_pages(saver: StargraphSaver) -> None:
    where = None
    made = []
    for number in range(40):
        where = await put(saver, "t", number, where, a=list(range(number)))
        made.append(where["configurable"]["checkpoint_id"])
    assert await ids(saver, "t") == made[::-1]
    page = [found async for found in saver.alist(place_of("t"), before=where, limit=3)]
    assert [found.checkpoint["id"] for found in page] == made[-2:-5:-1]
    assert [found.checkpoint["channel_values"]["a"] for found in page] == [list(range(n)) for n in (38, 37, 36)]
    steps = [found async for found in saver.alist(None, filter={"step": 7})]
    assert [found.checkpoint["id"] for found in steps] == [made[7]]


async def test_a_filter_finds_inner_members_by_their_names_joined_with_dots(saver: StargraphSaver) -> None:
    made = checkpoint(0, a=0)
    metadata: Any = {"user": {"access-level": "nested", "7": {"x": 1}}, "plain.name": "itself"}
    await saver.aput(place_of("t"), made, metadata, made["channel_versions"])
    cases: list[tuple[dict[str, Any], int]] = [
        ({"user.access-level": "nested"}, 1),
        ({"user.7.x": 1}, 1),
        ({"plain.name": "itself"}, 1),
        ({"user.access-level": "other"}, 0),
        ({"user.access-level.deeper": "nested"}, 0),
        ({"absent.name": 1}, 0),
    ]
    for wanted, count in cases:
        assert len([found async for found in saver.alist(None, filter=wanted)]) == count, wanted


def test_the_synchronous_methods_serve_many_threads(file: SQLitePlace) -> None:
    with StargraphSaver.from_url(file.url) as saver:
        first = checkpoint(0, a=0)
        where = saver.put(place_of("t"), first, {"step": 0}, first["channel_versions"])
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: saver.put_writes(where, [("a", n)], f"task-{n:02}"), range(32)))
        found = saver.get_tuple(place_of("t"))
        assert found is not None
        assert found.pending_writes == [(f"task-{n:02}", "a", n) for n in range(32)]
        assert [each.checkpoint["id"] for each in saver.list(place_of("t"))] == [first["id"]]
        saver.copy_thread("t", "u")
        saver.delete_thread("t")
        assert saver.get_tuple(place_of("t")) is None
        copied = saver.get_tuple(place_of("u"))
        assert copied is not None
        assert copied.pending_writes == found.pending_writes
    with StargraphSaver.from_url(file.url) as saver:
        assert saver.get_tuple(place_of("u")) is not None


async def test_an_edited_message_is_found_out(place: Place) -> None:
    async with place.open() as store, StargraphSaver(store) as saver:
        await put(saver, "t", 0, a="Transfer 10 EUR")
        run_id = (await store.list_runs())[0].run_id
    data = await place.get(run_id, 1)
    await place.put(run_id, 1, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    async with place.open() as store:
        with pytest.raises(CheckpointCorruptedError):
            await StargraphSaver(store).aget_tuple(place_of("t"))


async def test_an_encrypted_serializer_hides_values_and_keeps_threads_listed(file: SQLitePlace) -> None:
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    async with file.open() as store, StargraphSaver(store, serde=serde) as saver:
        where = await put(saver, "t", 0, a="a very private sentence")
        await saver.aput_writes(where, [("a", "another secret")], "task")
        found = await saver.aget_tuple(place_of("t"))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"a": "a very private sentence"}
        assert found.pending_writes == [("task", "a", "another secret")]
        (run,) = await store.list_runs()
        texts = [step.model_dump_json() async for step in store.history(run.run_id)]  # type: ignore[attr-defined]
        assert not any("private" in text or "another secret" in text for text in texts)


@dataclass
class Owner:
    name: str


async def test_only_classes_that_the_serializer_allows_are_made_of_metadata() -> None:
    made: Any = {**checkpoint(0, a=Owner("a")), "id": "1"}
    metadata: Any = {"step": 0, "owner": Owner("m"), "when": datetime(2026, 1, 31, tzinfo=UTC)}
    strict = JsonPlusSerializer(allowed_msgpack_modules=None)
    allowing = JsonPlusSerializer(allowed_msgpack_modules=[(Owner.__module__, Owner.__name__)])
    key = b"0123456789abcdef"
    for serde, expected in (
        (strict, {"name": "m"}),
        (EncryptedSerializer.from_pycryptodome_aes(strict, key=key), {"name": "m"}),
        (Reversed(), {"name": "m"}),
        (allowing, Owner("m")),
        (EncryptedSerializer.from_pycryptodome_aes(allowing, key=key), Owner("m")),
        (None, Owner("m")),
    ):
        async with StargraphSaver(MemoryCheckpointer(), serde) as saver:
            await saver.aput(place_of("t"), made, metadata, made["channel_versions"])
            found = await saver.aget_tuple(place_of("t"))
            assert found is not None
            assert found.metadata == {**metadata, "owner": expected}
            assert [each.metadata async for each in saver.alist(place_of("t"))] == [found.metadata]
            await saver.adelete_for_runs(["none"])


class Reversed(SerializerProtocol):
    """A serializer that is not LangGraph's."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        kind, data = JsonPlusSerializer().dumps_typed(obj)
        return f"reversed {kind}", data[::-1]

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return JsonPlusSerializer().loads_typed((data[0].removeprefix("reversed "), data[1][::-1]))


async def test_a_store_without_what_it_needs_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"lacks .*RunSearch.*KeyedSteps") as raised:
        StargraphSaver(SmallCheckpointer())
    assert raised.value.reason == "missing-capability"


@pytest.mark.parametrize(
    ("given", "advice"), [("sqlite:///a.sqlite", "open_checkpointer"), (MemoryCheckpointer, "pass an instance of it")]
)
def test_what_is_no_store_is_refused(given: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=advice):
        StargraphSaver(given)


async def test_a_cancelled_caller_leaves_the_log_whole() -> None:
    store = MemoryStore()
    async with StargraphSaver(MemoryCheckpointer(store)) as saver:
        root = await put(saver, "t", 0, a=0)
        task = asyncio.create_task(saver.aput_writes(root, [("a", 1)], "task"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await saver.aput_writes(root, [("a", 2)], "other")
        found = await saver.aget_tuple(root)
        assert found is not None
        assert found.pending_writes is not None
        assert ("other", "a", 2) in found.pending_writes


@pytest.mark.parametrize("turns", [0, 3])
async def test_a_caller_does_not_wait_for_a_writer_that_was_cancelled(turns: int) -> None:
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        before = asyncio.all_tasks()
        waiting = asyncio.create_task(put(saver, "t", 0, a=0))
        while not (others := asyncio.all_tasks() - before - {waiting}):
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in others:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 60)
        place = await put(saver, "t", 1, a=1)
        found = await saver.aget_tuple(place)
        assert found is not None
        assert found.checkpoint["channel_values"] == {"a": 1}


async def test_an_id_that_no_store_can_index_is_refused() -> None:
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        with pytest.raises(CheckpointError, match="cannot be the id"):
            await saver.aput(place_of("t"), {**checkpoint(), "id": "x" * 300}, {}, {})


async def test_writes_that_come_ahead_of_their_checkpoint_store_no_conversation_anew(file: SQLitePlace) -> None:
    texts = [secrets.token_urlsafe(1500) for _ in range(30)]
    async with file.open() as store, StargraphSaver(store) as saver:
        where: Any = place_of("t")
        for number in range(30):
            made = checkpoint(number, messages=texts[: number + 1])
            await saver.aput_writes(place_of("t", checkpoint_id=made["id"]), [("other", number)], "task")
            where = await saver.aput(where, made, {"step": number}, made["channel_versions"])
            found = await saver.aget_tuple(where)
            assert found is not None
            assert found.checkpoint["channel_values"] == {"messages": texts[: number + 1]}
            assert found.pending_writes == [("task", "other", number)]
        (run,) = await store.list_runs()
        steps = run.last_step + 1
    stored = sum([len(await file.get(run.run_id, step)) for step in range(steps)])
    assert stored < 6 * sum(map(len, texts)), "each step stores about what it adds, not the whole list"


@pytest.mark.parametrize("turns", [1000, 5])  # many steps of the graph, and less than one, however busy the machine is
async def test_a_graph_that_runs_ahead_of_the_store_appends_each_checkpoint_once(turns: int) -> None:
    """The writes of several steps wait for an append; or a checkpoint waits for its writes, if an append is quick."""
    store = SlowStore(turns)
    async with StargraphSaver(store) as saver:
        builder = StateGraph(Counter)

        async def count(state: Counter) -> Counter:
            return {"n": state["n"] + 1}

        async def following(state: Counter) -> str:  # async, since LangGraph runs others in a thread, for many turns
            return "count" if state["n"] < 10 else END

        builder.add_node("count", count)
        builder.add_edge(START, "count")
        builder.add_conditional_edges("count", following)
        graph: Any = builder.compile(checkpointer=saver)
        await graph.ainvoke({"n": 0}, {**place_of("t"), "recursion_limit": 100})
        assert (await graph.aget_state(place_of("t"))).values == {"n": 10}
        histories = [state.values.get("n") async for state in graph.aget_state_history(place_of("t"))]
        assert histories == [*range(10, -1, -1), None]
    # Twelve checkpoints, the writes of the first eleven, and the genesis: a step for a checkpoint with its writes.
    assert len(store.batches) <= 14
    assert sum(store.batches) <= 16


async def test_a_saver_that_is_cancelled_while_it_closes_leaves_nothing_open() -> None:
    here = asyncio.get_running_loop()
    closing, closed = asyncio.Event(), asyncio.Event()

    class ClosesSlowlyElsewhere(MemoryCheckpointer):
        async def close(self) -> None:
            if asyncio.get_running_loop() is here:
                closed.set()
            else:
                here.call_soon_threadsafe(closing.set)
                await asyncio.Event().wait()

    saver = StargraphSaver(ClosesSlowlyElsewhere())
    await asyncio.to_thread(saver.__enter__)
    leaving = asyncio.create_task(saver.aclose())
    await closing.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert closed.is_set()
    assert not saver._thread.has_started


async def test_a_saver_that_was_not_entered_says_how_to_enter_it() -> None:
    saver = StargraphSaver(MemoryCheckpointer())
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: put(saver, "t", 0, a=1),
        lambda: saver.aget_tuple(place_of("t")),
        lambda: anext(saver.alist(None), None),
        lambda: anext(saver.alist(place_of("t")), None),
        lambda: saver.adelete_thread("t"),
    ]
    for call in calls:
        with pytest.raises(CheckpointError, match="nobody has entered it") as raised:
            await call()
        assert raised.value.reason == "not-bootstrapped"
        assert raised.value.hint is not None
        assert "`async with saver:`" in raised.value.hint
    await saver.setup()
    for call in calls:
        await call()
    await saver.aclose()


async def test_a_namespace_that_is_not_text_names_the_one_that_is(saver: StargraphSaver) -> None:
    place: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": 3}}
    made = checkpoint(a=1)
    assert await saver.aput(place, made, {}, {}) == place_of("t", "3", made["id"])
    for each in (place, place_of("t", "3")):
        found = await saver.aget_tuple(each)
        assert found is not None
        assert [each.config async for each in saver.alist(each)] == [found.config]


async def test_no_thread_has_a_name_that_is_not_text(saver: StargraphSaver) -> None:
    await put(saver, "t", 0, a=1)
    place: Any = {"configurable": {"thread_id": "t\ud800"}}
    assert await saver.aget_tuple(place) is None
    assert [each async for each in saver.alist(place)] == []
    assert await saver.aget_tuple(place_of("t", "\ud800")) is None
    assert await saver.aget_tuple(place_of("t", checkpoint_id="\ud800")) is None
    listed = [each.config async for each in saver.alist(place_of("t"), before=place_of("t", checkpoint_id="\ud800"))]
    assert len(listed) == 1, "below whatever it is, as UTF-8 orders it"
    await saver.adelete_thread("t\ud800")
    with pytest.raises(CheckpointError, match="lone surrogate"):
        await put(saver, "t\ud800", 0, a=1)
    assert await saver.aget_tuple(place_of("t")) is not None
