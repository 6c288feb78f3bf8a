"""The history of delta channels, as LangGraph's savers give it, on every driver."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver

from .test_saver import place_of

pytestmark = pytest.mark.thorough

FIRST, LAST = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"
NONE: Any = object()


async def chain(
    saver: Any, *steps: tuple[Any, list[Any]], ids: list[str] | None = None, thread: str = "t"
) -> list[Any]:
    """Put checkpoints, each the child of the one before, and return their configurations.

    Args:
        saver: writes them.
        steps: for each, the value of the channel "ch", or `NONE`, and the values that are written to it.
        ids: their ids.
    """
    places: list[Any] = []
    where = place_of("t")
    for number, (value, writes) in enumerate(steps):
        made: Any = {**empty_checkpoint(), "id": ids[number] if ids else str(uuid6(clock_seq=number))}
        if value is not NONE:
            made["channel_values"] = {"ch": value}
        made["channel_versions"] = {"ch": f"{number + 1}"}
        where = await saver.aput(where, made, {"step": number}, made["channel_versions"])
        for position, each in enumerate(writes):
            await saver.aput_writes(where, [("ch", each), ("other", each)], f"task-{number}-{position}")
        places.append(where)
    return places


async def read(saver: Any, where: Any, *channels: str) -> Any:
    found = await saver.aget_delta_channel_history(config=where, channels=channels or ("ch",))
    return {name: (each.get("seed", NONE), [write[2] for write in each["writes"]]) for name, each in found.items()}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(_DeltaSnapshot(0), []), (NONE, [1]), (NONE, [2]), (NONE, [3])], (_DeltaSnapshot(0), [1, 2])),
        ([(_DeltaSnapshot(0), [0]), (NONE, [1]), (_DeltaSnapshot(2), [2]), (NONE, [3])], (_DeltaSnapshot(2), [2])),
        ([(NONE, [0]), (NONE, [1]), (NONE, [2])], (NONE, [0, 1])),
        ([(NONE, [0])], (NONE, [])),
        (
            [([10], ["old"]), ([10, 20], ["at seed"]), (NONE, ["after"]), (NONE, ["own"])],
            ([10, 20], ["at seed", "after"]),
        ),
        ([([10], ["a"]), (NONE, []), (NONE, ["b"]), (NONE, [])], ([10], ["a", "b"])),
        ([(True, ["a"]), (NONE, [])], (True, ["a"])),
        ([(0, ["a"]), (NONE, [])], (0, ["a"])),
        ([("", ["a"]), (NONE, [])], ("", ["a"])),
        ([(_DeltaSnapshot(0), [0]), (_DeltaSnapshot(1), [1])], (_DeltaSnapshot(0), [0])),
    ],
)
async def test_the_writes_since_the_nearest_value_come_oldest_first(
    saver: StargraphSaver, steps: list[Any], expected: Any
) -> None:
    for each in (saver, InMemorySaver()):
        places = await chain(each, *steps)
        assert await read(each, places[-1]) == {"ch": expected}
        assert await read(each, place_of("t", checkpoint_id="")) == {"ch": expected}
        assert await read(each, place_of("t")) == {"ch": expected}
        assert await read(each, places[-1], *[]) == {"ch": expected}
    assert await saver.aget_delta_channel_history(config=place_of("t"), channels=[]) == {}
    assert await read(saver, place_of("unknown")) == {"ch": (NONE, [])}


async def test_each_channel_ends_at_a_value_of_its_own(saver: StargraphSaver) -> None:
    where = place_of("t")
    for number in range(5):
        values = {1: {"a": _DeltaSnapshot("a")}, 3: {"b": _DeltaSnapshot("b")}}.get(number, {})
        made: Any = {**empty_checkpoint(), "id": str(uuid6(clock_seq=number)), "channel_values": values}
        made["channel_versions"] = dict.fromkeys(values, f"{number}")
        where = await saver.aput(where, made, {"step": number}, made["channel_versions"])
        await saver.aput_writes(where, [("a", number), ("b", number)], f"task-{number}")
    assert await read(saver, where, "a", "b", "c") == {
        "a": (_DeltaSnapshot("a"), [1, 2, 3]),
        "b": (_DeltaSnapshot("b"), [3]),
        "c": (NONE, []),
    }


@pytest.mark.parametrize("ahead", [False, True])
async def test_a_checkpoint_has_the_snapshot_that_its_version_of_a_channel_names(
    saver: StargraphSaver, ahead: bool
) -> None:
    for each in (saver, InMemorySaver()):
        where = place_of("t")
        versions = {"a": "1", "b": "1"}
        for number, (changed, values) in enumerate(
            [(["a", "b"], {"a": _DeltaSnapshot("a")}), (["b"], {}), ([], {}), (["a"], {}), ([], {})]
        ):
            versions = versions | dict.fromkeys(changed, f"{number + 1}")
            made: Any = {**empty_checkpoint(), "id": str(uuid6(clock_seq=number)), "channel_values": values}
            made["channel_versions"] = versions
            if ahead:  # LangGraph does not wait for a checkpoint before it runs the tasks after it
                await each.aput_writes(place_of("t", checkpoint_id=made["id"]), [("b", number)], "task")
            where = await each.aput(where, made, {"step": number}, {name: versions[name] for name in changed})
            found = await each.aget_tuple(where)
            assert found is not None
            assert found.checkpoint["channel_values"] == ({"a": _DeltaSnapshot("a")} if number < 3 else {}), number
            await each.aput_writes(where, [("b", number)], f"task-{number}")


class CountingStore(MemoryCheckpointer):
    """Counts the requests for states."""

    reads = 0

    async def read_at_step(self, run_id: str, step: int) -> Any:
        self.reads += 1
        return await super().read_at_step(run_id, step)

    async def read_at_key(self, run_id: str, key: str) -> Any:
        self.reads += 1
        return await super().read_at_key(run_id, key)

    def history(self, run_id: str, **steps: int | None) -> Any:
        self.reads += 1
        return super().history(run_id, **steps)  # type: ignore[arg-type]


async def test_steps_are_kept_in_memory_once_the_parents_of_a_checkpoint_are_walked() -> None:
    async with StargraphSaver(store := CountingStore()) as saver:
        kept = saver._store.cache._steps
        places = await chain(saver, *[(NONE, [number]) for number in range(10)])
        assert not kept, "nobody needs them without a delta channel"
        assert await read(saver, places[-1]) == {"ch": (NONE, [*range(9)])}
        assert {step.checkpoint_id for step, _ in kept.values()} >= {
            place["configurable"]["checkpoint_id"] for place in places[:-1]
        }
        newest = await saver.aput(places[-1], empty_checkpoint(), {}, {})
        before = store.reads
        assert await read(saver, newest) == {"ch": (NONE, [*range(10)])}
        assert store.reads == before, "what was read or appended since is not read again"


async def test_writes_of_parallel_tasks_come_in_the_order_of_their_paths(saver: StargraphSaver) -> None:
    first, last = await chain(saver, (_DeltaSnapshot(0), []), (NONE, []))
    await saver.aput_writes(first, [("ch", "third")], FIRST, "~pull, 02")
    await saver.aput_writes(first, [("ch", "second")], LAST, "~pull, 01")
    await saver.aput_writes(first, [("ch", "first")], LAST[:-1] + "e")
    assert await read(saver, last) == {"ch": (_DeltaSnapshot(0), ["first", "second", "third"])}


@pytest.mark.parametrize("ids", [[f"id-{n:03}" for n in range(200)], [f"id-{n:03}" for n in range(200, 0, -1)]])
async def test_a_long_chain_is_walked_to_its_root_whatever_the_order_of_ids(file: Any, ids: list[str]) -> None:
    async with file.open() as store, StargraphSaver(store) as saver:
        steps: list[tuple[Any, list[Any]]] = [(["seed"], ["w0"]), *((NONE, [number]) for number in range(1, 200))]
        places = await chain(saver, *steps, ids=ids)
        # A write that comes late is stored far behind its checkpoint.
        await saver.aput_writes(places[3], [("ch", "late")], "task-late")
        assert await read(saver, places[-1]) == {"ch": (["seed"], ["w0", 1, 2, 3, "late", *range(4, 199)])}


async def test_a_chain_of_parents_that_comes_back_to_itself_ends(saver: StargraphSaver) -> None:
    first, second = await chain(saver, (NONE, []), (NONE, []), ids=["cid-a", "cid-b"])
    again: Any = {**empty_checkpoint(), "id": "cid-a"}
    await saver.aput(second, again, {"step": 0}, {})
    assert await read(saver, second) == {"ch": (NONE, [])}
    assert await read(saver, first) == {"ch": (NONE, [])}


@pytest.mark.parametrize("counted", [True, False])
async def test_a_pruned_thread_keeps_what_its_delta_channels_are_made_from(
    saver: StargraphSaver, counted: bool
) -> None:
    places = await chain(saver, (NONE, ["gone"]), (_DeltaSnapshot(1), [1]), (NONE, [2]), (NONE, [3]))
    newest = await saver.aget_tuple(places[-1])
    assert newest is not None
    metadata: Any = {**newest.metadata} | ({"counters_since_delta_snapshot": {"ch": [2, 2]}} if counted else {})
    await saver.aput(places[-2], newest.checkpoint, metadata, {})
    await saver.aprune(["t"])
    assert await read(saver, places[-1]) == {"ch": (_DeltaSnapshot(1), [1, 2])}
    assert await saver.aget_tuple(places[0]) is None
    oldest = await saver.aget_tuple(places[1])
    assert oldest is not None
    assert oldest.parent_config is None, "its parent is gone"
    assert [each[2] for each in oldest.pending_writes or []] == [1, 1]
    ids = [each.config["configurable"]["checkpoint_id"] async for each in saver.alist(place_of("t"))]
    assert ids == [place["configurable"]["checkpoint_id"] for place in reversed(places[1:])]
    parents = [each.parent_config async for each in saver.alist(place_of("t"))]
    assert parents == [places[2], places[1], None]
    await saver.aprune(["t"])
    assert await read(saver, places[-1]) == {"ch": (_DeltaSnapshot(1), [1, 2])}
    for name in ("aprune", "adelete_for_runs"):
        with pytest.raises(TypeError, match="not a str"):
            await getattr(saver, name)("t")


async def test_a_pruned_thread_keeps_no_ancestors_for_a_channel_that_is_empty(saver: StargraphSaver) -> None:
    places = await chain(saver, ([1], []), (NONE, []), (NONE, []))
    await saver.aprune(["t"])
    assert [each.config async for each in saver.alist(place_of("t"))] == [places[-1]]
