"""Random calls in random order: this saver answers as LangGraph's saver in memory, and as a plain model of the rest."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from support.places import Place

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver

Saver = BaseCheckpointSaver[Any]

THREADS = ("t", "u", "v")
NAMESPACES = ("", "kept", "call:1")
CHANNELS = ("a", "b", "log")
SPECIAL = ("__error__", "__interrupt__", "__resume__", "__scheduled__")
RUNS = ("run 1", "run 2")


class Model(InMemorySaver):
    """LangGraph's saver in memory, and what it lacks: copy, prune and delete_for_runs on its own tables."""

    def names(self) -> Iterator[tuple[str, str, str]]:
        for thread, namespaces in self.storage.items():
            for namespace, checkpoints in namespaces.items():
                for checkpoint_id in checkpoints:
                    yield thread, namespace, checkpoint_id

    def metadata(self, name: tuple[str, str, str]) -> dict[str, Any]:
        metadata: dict[str, Any] = self.serde.loads_typed(self.storage[name[0]][name[1]][name[2]][1])
        return metadata

    def remove(self, name: tuple[str, str, str]) -> None:
        del self.storage[name[0]][name[1]][name[2]]
        self.writes.pop(name, None)

    async def adelete_for_runs(self, run_ids: Any) -> None:
        for name in list(self.names()):
            if self.metadata(name).get("run_id") in run_ids:
                self.remove(name)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        for name in list(self.names()):
            _, namespace, checkpoint_id = name
            if name[0] == source_thread_id:
                copied = target_thread_id, namespace, checkpoint_id
                self.storage[target_thread_id][namespace][checkpoint_id] = self.storage[name[0]][namespace][name[2]]
                self.writes[copied] = dict(self.writes.get(name, {}))
        for (thread, namespace, channel, version), blob in list(self.blobs.items()):
            if thread == source_thread_id:
                self.blobs[target_thread_id, namespace, channel, version] = blob

    async def aprune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        for thread in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread)
                continue
            namespaces = {each: max(ids) for each, ids in self.storage[thread].items() if ids}
            roots = set(self.storage[thread][""])
            for namespace, newest in namespaces.items():
                root = self.metadata((thread, namespace, newest)).get("parents", {}).get("")
                is_over = ":" in namespace and root in roots and root != namespaces[""]
                for name in list(self.writes):
                    if is_over and name[:2] == (thread, namespace):
                        del self.writes[name]
                for checkpoint_id in list(self.storage[thread][namespace]):
                    if is_over or checkpoint_id != newest:
                        self.remove((thread, namespace, checkpoint_id))
                    else:
                        checkpoint, metadata, _ = self.storage[thread][namespace][newest]
                        self.storage[thread][namespace][newest] = checkpoint, metadata, None


class Calls:
    """Makes random calls of two savers, and compares what they say."""

    def __init__(self, seed: int, ours: StargraphSaver) -> None:
        self.random = random.Random(seed)
        self.ours = ours
        self.model = Model()
        self.both: tuple[Saver, Saver] = (ours, self.model)
        self.number = 0
        self.ahead: dict[tuple[str, str], str] = {}
        """Checkpoints of which only writes were put, as LangGraph does if it runs ahead of the store."""

    async def one(self) -> None:
        choices = {self.put: 12, self.put_writes: 10, self.delete: 1, self.copy: 1, self.prune: 2, self.delete_run: 1}
        (call,) = self.random.choices(list(choices), list(choices.values()))
        await call()

    async def put(self) -> None:
        place = self._place()
        known = self._known(place)
        parent = self.random.choice([*known, max(known), max(known)]) if known else None
        checkpoint_id = self._new_id()
        if known and self.random.random() < 0.1:
            checkpoint_id = self.random.choice(known)  # again
            parent = None
        elif self.random.random() < 0.3:
            checkpoint_id = self.ahead.pop((place["thread_id"], place["checkpoint_ns"]), checkpoint_id)
        before = None
        if parent is not None:
            before = await self.model.aget_tuple({"configurable": {**place, "checkpoint_id": parent}})
        made: Any = {**empty_checkpoint(), "id": checkpoint_id, "ts": "2026"}
        if before is not None:
            made["channel_values"] = dict(before.checkpoint["channel_values"])
            made["channel_versions"] = dict(before.checkpoint["channel_versions"])
        new = self.random.sample(CHANNELS, self.random.randrange(len(CHANNELS) + 1))
        versions: Any = {}
        for name in new:
            versions[name] = self.ours.get_next_version(made["channel_versions"].get(name), None)
            if self.random.random() < 0.2:
                made["channel_values"].pop(name, None)
            else:
                made["channel_values"][name] = self._value(made["channel_values"].get(name))
        made["channel_versions"] |= versions
        metadata: Any = {"source": "loop", "step": self.number, "run_id": self.random.choice(RUNS)}
        roots = self._known({**place, "checkpoint_ns": ""})
        if roots and self.random.random() < 0.7:
            metadata["parents"] = {"": self.random.choice([*roots, max(roots)])}
        config: Any = {"configurable": {**place} | ({} if parent is None else {"checkpoint_id": parent})}
        results = [await saver.aput(config, made, metadata, versions) for saver in self.both]
        assert results[0] == results[1]

    async def put_writes(self) -> None:
        place = self._place()
        known = self._known(place)
        if not known or self.random.random() < 0.2:
            checkpoint_id = self.ahead.setdefault((place["thread_id"], place["checkpoint_ns"]), self._new_id())
        else:
            checkpoint_id = self.random.choice([*known, max(known)])
        names = self.random.choices((*CHANNELS, *SPECIAL), k=self.random.randrange(4))
        writes = [(name, self._value(None)) for name in names]
        task = self.random.choice(("task 1", "task 2", "task 3"))
        path = self.random.choice(("", f"~path of {task}"))
        for saver in self.both:
            await saver.aput_writes({"configurable": {**place, "checkpoint_id": checkpoint_id}}, writes, task, path)

    async def delete(self) -> None:
        thread = self.random.choice(THREADS)
        for saver in self.both:
            await saver.adelete_thread(thread)

    async def copy(self) -> None:
        source, target = self.random.sample(THREADS, 2)
        for saver in self.both:
            await saver.adelete_thread(target)
            await saver.acopy_thread(source, target)

    async def prune(self) -> None:
        threads = self.random.sample(THREADS, self.random.randrange(1, len(THREADS)))
        strategy = "keep_latest" if self.random.random() < 0.9 else "delete"
        for saver in self.both:
            await saver.aprune(threads, strategy=strategy)

    async def delete_run(self) -> None:
        for saver in self.both:
            await saver.adelete_for_runs([RUNS[0]])

    async def compare(self) -> None:
        for thread, namespace in product(THREADS, NAMESPACES):
            place: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}
            found, expected = [shown(await saver.aget_tuple(place)) for saver in self.both]
            assert found == expected
        listed, all_expected = [
            sorted([shown(each) async for each in saver.alist(None)], key=lambda each: str(each[0]))
            for saver in self.both
        ]
        assert [each[0] for each in listed] == [each[0] for each in all_expected]
        assert listed == all_expected
        # One of them by its name, and what a channel is rebuilt from.
        names = sorted(self.model.names())
        if names:
            thread, namespace, checkpoint_id = self.random.choice(names)
            where: Any = {
                "configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
            }
            found, expected = [shown(await saver.aget_tuple(where)) for saver in self.both]
            assert found == expected
            histories = [
                await saver.aget_delta_channel_history(config=where, channels=list(CHANNELS)) for saver in self.both
            ]
            assert histories[0] == histories[1]

    def _place(self) -> dict[str, Any]:
        return {"thread_id": self.random.choice(THREADS), "checkpoint_ns": self.random.choice(NAMESPACES)}

    def _known(self, place: dict[str, Any]) -> list[str]:
        return sorted(self.model.storage[place["thread_id"]][place["checkpoint_ns"]])

    def _new_id(self) -> str:
        self.number += 1
        number = self.number if self.random.random() < 0.9 else self.random.randrange(10_000, 20_000)
        return f"1f{number:06}-{self.number}"

    def _value(self, before: Any) -> Any:
        if isinstance(before, list) and self.random.random() < 0.7:
            return [*before, self.random.randrange(100)]
        return self.random.choice([None, 1, "text", [1], {"a": [1, 2]}, b"bytes", 2**63, {"k": (1,)}, {1: "x"}])


def shown(found: CheckpointTuple | None) -> Any:
    return None if found is None else tuple(found)


async def make_calls(seed: int, calls: int, ours: StargraphSaver, *, between: int = 1) -> None:
    made = Calls(seed, ours)
    for number in range(1, calls + 1):
        await made.one()
        if number % between == 0:
            await made.compare()


@pytest.mark.parametrize("seed", [0, 3, 6])
async def test_random_calls_are_answered_as_by_the_saver_in_memory(seed: int) -> None:
    async with StargraphSaver(MemoryCheckpointer()) as ours:
        await make_calls(seed, 60, ours)


@pytest.mark.thorough
async def test_so_are_they_on_every_driver(place: Place) -> None:
    async with place.open() as store, StargraphSaver(store) as ours:
        await make_calls(4, 20, ours, between=5)
