"""Threads with any name, and several processes that write to one thread."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from support.places import Place, SQLitePlace
from support.postgres_target import connection_to

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.errors import CheckpointError, StargraphError
from stargraph.langgraph import StargraphSaver

from .test_saver import checkpoint, ids, place_of, put

pytestmark = pytest.mark.thorough

NAMES = [
    "plain",
    "a/b/../c",
    "a\\b",
    "user@example.com",
    " spaces ",
    "new\nline",
    "ünï🜁",
    "UPPER",
    "upper",
    "a" * 2000,
    "lg:plain:0:1",
    "%_'\"; DROP TABLE runs; --",
    "..",
    "-",
    "\x00",
    "0",
]


async def test_threads_of_any_name_stay_apart(place: Place) -> None:
    async with place.open() as store, StargraphSaver(store) as saver:
        for number, name in enumerate(NAMES):
            where = await put(saver, name, number, a=name)
            await saver.aput_writes(where, [("a", number)], "task")
            inner = checkpoint(number, a=name)
            await saver.aput(place_of(name, "sub|1:node"), inner, {"step": number}, inner["channel_versions"])
        for number, name in enumerate(NAMES):
            found = await saver.aget_tuple(place_of(name))
            assert found is not None
            assert found.config["configurable"]["thread_id"] == name
            assert found.checkpoint["channel_values"] == {"a": name}
            assert found.pending_writes == [("task", "a", number)]
            places = [each.config["configurable"] async for each in saver.alist({"configurable": {"thread_id": name}})]
            assert sorted(each["checkpoint_ns"] for each in places) == ["", "sub|1:node"]
        listed = Counter([each.config["configurable"]["thread_id"] async for each in saver.alist(None)])
        assert listed == Counter(NAMES * 2)
        await saver.acopy_thread(NAMES[1], "copy/of it")
        await saver.adelete_thread(NAMES[1])
        assert await saver.aget_tuple(place_of(NAMES[1])) is None
        assert await saver.aget_tuple(place_of(NAMES[1], "sub|1:node")) is None
        copied = await saver.aget_tuple(place_of("copy/of it", "sub|1:node"))
        assert copied is not None
        assert copied.checkpoint["channel_values"] == {"a": NAMES[1]}
        assert len([each async for each in saver.alist(None)]) == 2 * len(NAMES)


async def test_a_thread_whose_id_is_a_number_is_found_by_its_text() -> None:
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        where: Any = place_of("7")
        where["configurable"]["thread_id"] = 7
        made = await put(saver, "unused", 0, where, a=1)
        assert made["configurable"]["thread_id"] == "7"
        assert await saver.aget_tuple(where) == await saver.aget_tuple(place_of("7"))
        await saver.adelete_thread(7)  # type: ignore[arg-type]
        assert await saver.aget_tuple(where) is None


async def test_a_thread_that_two_savers_have_seen_absent_is_begun_once(place: Place) -> None:
    """Each begins it as it read it, without a read before the append; deleted and begun again, it is another log."""
    async with place.open() as one, place.open() as two:
        savers = [StargraphSaver(one), StargraphSaver(two)]
        for _ in range(3):
            assert [await saver.aget_tuple(place_of("t")) for saver in savers] == [None, None]
            made = [await put(saver, "t", number, a=number) for number, saver in enumerate(savers)]
            for saver in savers:
                listed = [each.config async for each in saver.alist(place_of("t"))]
                assert listed == sorted(made, key=lambda each: each["configurable"]["checkpoint_id"], reverse=True)
            assert [await saver.aget_tuple(place_of("t", "sub")) for saver in savers] == [None, None]
            await savers[0].adelete_thread("t")


async def test_a_new_thread_is_looked_for_once() -> None:
    store = MemoryCheckpointer()
    searches = 0
    real = store.search

    def counting(**words: Any) -> Any:
        nonlocal searches
        searches += 1
        return real(**words)

    store.search = counting  # type: ignore[method-assign]
    async with StargraphSaver(store) as saver:
        assert await saver.aget_tuple(place_of("t")) is None
        await put(saver, "t", 0, a=1)
        assert searches == 1


async def test_the_same_parent_twice_makes_two_branches_and_the_highest_id_is_the_newest(place: Place) -> None:
    """Two executors that resume one thread at once: LangGraph means both children of one parent as branches."""
    async with place.open() as one, place.open() as two:
        savers = [StargraphSaver(one), StargraphSaver(two)]
        theirs = InMemorySaver()
        root = await put(savers[0], "t", 0, a="root")
        found = await savers[0].aget_tuple(root)
        assert found is not None
        await theirs.aput(place_of("t"), found.checkpoint, found.metadata, {"a": "1"})
        left, right = await asyncio.gather(
            put(savers[0], "t", 1, root, a="left"), put(savers[1], "t", 2, root, a="right")
        )
        # Both ran the task of the root: the first write of a task at a place stays, as with LangGraph's own savers.
        for saver, value in ((savers[0], "first"), (savers[1], "second")):
            await saver.aput_writes(root, [("a", value)], "task")
            await saver.aput_writes(root, [("__resume__", value)], "task")
        grown = await put(savers[0], "t", 3, left, a="left, on")
        newest = max(left, right, grown, key=lambda each: each["configurable"]["checkpoint_id"])
        for saver in savers:
            latest = await saver.aget_tuple(place_of("t"))
            assert latest is not None
            assert latest.config == newest
            tuples = {each.config["configurable"]["checkpoint_id"]: each async for each in saver.alist(place_of("t"))}
            assert len(tuples) == 4
            parents = [tuples[each["configurable"]["checkpoint_id"]].parent_config for each in (left, right, grown)]
            assert parents == [root, root, left]
            writes = tuples[root["configurable"]["checkpoint_id"]].pending_writes
            assert sorted(writes or []) == [("task", "__resume__", "second"), ("task", "a", "first")]


WRITER = """
import asyncio, sys, json
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from stargraph.langgraph import StargraphSaver

async def main(url, name, count):
    async with StargraphSaver.from_url(url) as saver:
        where = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        made = []
        for number in range(count):
            checkpoint = {**empty_checkpoint(), "id": str(uuid6()), "channel_values": {"a": [name, number]}}
            checkpoint["channel_versions"] = {"a": f"{number + 1:032}.{name}"}
            where = await saver.aput(where, checkpoint, {"step": number}, checkpoint["channel_versions"])
            writes = [saver.aput_writes(where, [("a", [name, number, n])], f"{name}-{n}") for n in range(3)]
            await asyncio.gather(*writes)
            made.append(where["configurable"]["checkpoint_id"])
        print(json.dumps(made))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_processes_that_write_to_one_thread_tear_nothing(file: SQLitePlace, tmp_path: Path) -> None:
    program = tmp_path / "writer.py"
    program.write_text(WRITER)
    async with file.open() as store, StargraphSaver(store):
        pass
    count = 15
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, str(program), file.url, name, str(count), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for name in ("one", "two", "three")
    ]
    done = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0], done
    chains = {name: json.loads(out) for name, (out, _) in zip(("one", "two", "three"), done, strict=True)}
    async with file.open() as store, StargraphSaver(store) as saver:
        assert await ids(saver, "t") == sorted((each for chain in chains.values() for each in chain), reverse=True)
        for name, chain in chains.items():
            for number, checkpoint_id in enumerate(chain):
                found = await saver.aget_tuple(place_of("t", checkpoint_id=checkpoint_id))
                assert found is not None
                assert found.checkpoint["channel_values"] == {"a": [name, number]}
                assert found.pending_writes == [(f"{name}-{n}", "a", [name, number, n]) for n in range(3)]
                parent = None if number == 0 else place_of("t", checkpoint_id=chain[number - 1])
                assert found.parent_config == parent
        (run,) = await store.list_runs()
        assert [step.step async for step in store.history(run.run_id)] == list(range(run.last_step + 1))  # type: ignore[attr-defined]


def test_a_url_takes_the_options_of_its_driver(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'threads.sqlite'}"
    with StargraphSaver.from_url(f"{url}?synchronous=normal&busy_timeout=1.5") as saver:
        assert saver.get_tuple(place_of("t")) is None
    with StargraphSaver.from_url(f"{url}?read_only=true") as saver:
        assert saver.get_tuple(place_of("t")) is None
        with pytest.raises(CheckpointError) as raised:
            saver.put_writes(place_of("t", checkpoint_id="x"), [("a", 1)], "task")
        assert raised.value.reason == "read-only"
    with pytest.raises(CheckpointError, match="speed"):
        StargraphSaver.from_url(f"{url}?speed=high")


async def test_a_synchronous_method_on_a_loop_of_its_own_says_what_to_do() -> None:
    saver = StargraphSaver(MemoryCheckpointer())

    async def misuse() -> None:
        saver.get_tuple(place_of("t"))

    with saver, pytest.raises(StargraphError, match="Await the async method") as caught:
        await asyncio.to_thread(saver._thread.run, misuse())
    assert caught.value.reason == "sync-in-async"


async def test_leaving_a_saver_closes_the_connections_of_both_kinds_of_methods(postgres: str) -> None:
    location = f"{postgres}{'&' if '?' in postgres else '?'}schema=loops_{uuid.uuid4().hex}"
    async with StargraphSaver.from_url(location) as saver:
        await put(saver, "t", 0, a=1)
        assert await asyncio.to_thread(saver.get_tuple, place_of("t")) is not None
        driver: Any = saver.checkpointer
        assert len(driver._attached) == 2
    assert not driver._attached
    async with connection_to(location) as (connection, schema):
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
