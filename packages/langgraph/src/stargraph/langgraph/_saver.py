"""The saver: LangGraph's checkpointer interface over the logs of a Stargraph store."""

from __future__ import annotations

import asyncio
import inspect
import random
from bisect import insort
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from langchain_core.runnables import RunnableConfig

from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from stargraph.checkpoint.protocol import Checkpointer, Closing
from stargraph.checkpoint.registry import open_checkpointer
from stargraph.checkpoint.values import EncodedValue
from stargraph.langgraph._channels import Channels
from stargraph.langgraph._list import ListHead
from stargraph.langgraph._log import ThreadLog
from stargraph.langgraph._logs import ThreadLogs
from stargraph.langgraph._names import THREAD_TAG
from stargraph.langgraph._plain import dump_plain, load_plain
from stargraph.langgraph._removal import copy_log, prune_thread, without_runs
from stargraph.langgraph._state import Order, Put, StoredStep, Write, write_index
from stargraph.langgraph._store import LogStore
from stargraph.langgraph._sync import SyncMethods
from stargraph.langgraph._tuples import LazyTuple
from stargraph.langgraph._values import decode_value, encode_value


class StargraphSaver(SyncMethods):
    """Keeps LangGraph's checkpoints in a Stargraph store.

    Give it to `graph.compile(checkpointer=…)`. It serves `invoke` and `ainvoke`, from any number of event loops and
    threads, and any number of processes may use one store at once.

    Args:
        checkpointer: the store. It is bootstrapped on entering the saver, and closed on leaving it.
        serde: LangGraph's serializer of values; `JsonPlusSerializer()` if None. It alone makes objects of what is
            stored.

    Raises:
        CheckpointError: the store lacks a capability (`reason="missing-capability"`).
    """

    def __init__(self, checkpointer: Checkpointer, serde: SerializerProtocol | None = None) -> None:
        _check_serde(serde)
        super().__init__(serde)
        self._store = LogStore(checkpointer)
        self._checkpointer = checkpointer
        self._logs: WeakKeyDictionary[asyncio.AbstractEventLoop, ThreadLogs] = WeakKeyDictionary()

    @classmethod
    def from_url(cls, url: str, serde: SerializerProtocol | None = None) -> Self:
        """Return a saver on the store that a URL or path names; no I/O happens before it is entered.

        Args:
            url: `sqlite:///run.sqlite`, `postgresql://…`, `s3://bucket/prefix`, or a path.
            serde: as of the class.

        Raises:
            CheckpointError: it is neither a path nor a URL.
            DriverNotFoundError: no installed driver opens it.
        """
        return cls(open_checkpointer(url), serde=serde)

    @property
    def checkpointer(self) -> Checkpointer:
        """The store."""
        return self._checkpointer

    async def setup(self) -> None:
        """Create or migrate the store; entering the saver does it too."""
        await self._checkpointer.bootstrap()

    async def aclose(self) -> None:
        """Close the store and the thread of the synchronous methods."""
        try:
            if isinstance(self._checkpointer, Closing):
                # A driver may have connections in each loop that it was used from.
                try:
                    if self._thread.has_started:
                        await asyncio.to_thread(self._thread.run, self._checkpointer.close())
                finally:
                    await self._checkpointer.close()
        finally:
            self._thread.close()

    def close(self) -> None:
        """Do as `aclose`, without an event loop."""
        try:
            if isinstance(self._checkpointer, Closing):
                self._thread.run(self._checkpointer.close())
        finally:
            self._thread.close()

    async def __aenter__(self) -> Self:
        await self.setup()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        self._thread.run(self.setup())
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Reading

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that a configuration names, or the newest of its thread; None if absent."""
        thread_id, namespace = _place(config)
        checkpoint_id = get_checkpoint_id(config)
        log = self._log(thread_id, namespace)
        stored = await (log.at(checkpoint_id) if checkpoint_id else log.latest())
        if stored is None or not stored.has_checkpoint:
            return None
        config, metadata, parent_config = _names_of(self.serde, log, stored)
        checkpoint, writes = _load_whole(self.serde, stored, log.channels)
        return CheckpointTuple(config, checkpoint, metadata, parent_config, writes)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield the checkpoints that match, the newest id first; their values are loaded when they are looked at.

        Args:
            config: names a thread, perhaps its namespace, perhaps one checkpoint; None for all threads.
            filter: members that the metadata must have; `user.name` also finds the member `name` of the member `user`.
            before: only checkpoints with lower ids than that of this configuration.
            limit: at most this many.
        """
        left = limit if limit is not None else -1
        wanted, below = _id_in(config, "config"), _id_in(before, "before")
        channels: dict[ThreadLog, Channels] = defaultdict(Channels)
        async with AsyncExitStack() as stack:
            heads: list[ListHead] = []
            logs = await self._logs_of(config)
            for log in logs:
                head = ListHead(log, wanted, below, is_one_of_many=len(logs) > 1)
                stack.push_async_callback(head.aclose)
                if await head.find_first():
                    insort(heads, head, key=_id_of)
            while heads and left != 0:
                head = heads.pop()
                if (stored := head.stored) is not None:
                    config, metadata, parent_config = _names_of(self.serde, head.log, stored)
                    if not filter or all(_member(metadata, name) == value for name, value in filter.items()):
                        left -= 1
                        load = partial(_load_whole, self.serde, stored, channels[head.log])
                        yield LazyTuple(config, metadata, parent_config, load)
                        if left == 0:
                            return
                if await head.read_next():
                    insort(heads, head, key=_id_of)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return, for each channel, its last stored value before a checkpoint, and the writes since."""
        thread_id, namespace = _place(config)
        checkpoint_id = get_checkpoint_id(config)
        log = self._log(thread_id, namespace)
        # Its own writes do not count, and its parent does not change: what is known of it will do.
        stored = log.known(checkpoint_id) if checkpoint_id else None
        stored = stored or await (log.at(checkpoint_id) if checkpoint_id else log.latest())
        writes: dict[str, list[list[PendingWrite]]] = {name: [] for name in channels}
        seeds: dict[str, Any] = {}
        if stored is not None and writes:
            async for ancestor in log.ancestors(stored):
                # A value is that before the writes of its own checkpoint, which therefore count.
                of_this: dict[str, list[PendingWrite]] = {}
                for task_id, channel, typed in ancestor.typed_writes():
                    if channel in writes and channel not in seeds:
                        of_this.setdefault(channel, []).append((task_id, channel, self.serde.loads_typed(typed)))
                for name, groups in writes.items():
                    if name in seeds:
                        continue
                    groups.append(of_this.get(name, []))
                    if (seed := ancestor.channel(name)) is not None:
                        seeds[name] = self.serde.loads_typed(decode_value(seed.value))
                if len(seeds) == len(writes):
                    break
        result: dict[str, DeltaChannelHistory] = {}
        for name, groups in writes.items():
            history: DeltaChannelHistory = {"writes": [write for group in reversed(groups) for write in group]}
            if name in seeds:
                history["seed"] = seeds[name]
            result[name] = history
        return result

    # Writing

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint durably, and return the configuration that names it.

        Args:
            config: names the thread, the namespace and the parent.
            new_versions: the channels that have changed since the parent.
        """
        thread_id, namespace = _place(config)
        parent = get_checkpoint_id(config) or None
        log = self._log(thread_id, namespace)
        rest = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        await log.append(
            Order(
                checkpoint["id"],
                Put(
                    parent=parent,
                    checkpoint=dump_plain(rest),
                    metadata=dump_plain(get_checkpoint_metadata(config, metadata)),
                    channels=log.channels.encode(self.serde, log.known(parent), checkpoint, new_versions),
                ),
            )
        )
        return _config(thread_id, namespace, checkpoint["id"])

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store writes of a task durably, with the checkpoint that they belong to.

        Args:
            config: names the checkpoint.
            writes: channels and values.
            task_path: where it is in the graph; decides the order in which writes are applied.
        """
        thread_id, namespace = _place(config)
        checkpoint_id = config["configurable"]["checkpoint_id"]
        await self._log(thread_id, namespace).append(
            Order(
                checkpoint_id,
                writes=[
                    Write(task_id, task_path, write_index(channel, position), channel, self._dump(value))
                    for position, (channel, value) in enumerate(writes)
                ],
            )
        )

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Return the version after another one; two branches never make the same."""
        number = 0 if current is None else int(str(current).split(".")[0])
        return f"{number + 1:032}.{random.random():016}"  # noqa: S311  # only has to differ

    # Removing and copying

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread for good, in all its namespaces."""
        async for run in self._store.logs({THREAD_TAG: str(thread_id)}):
            await self._store.delete(run.run_id)
        for logs in list(self._logs.values()):  # other threads add to them
            for log in logs.all():
                if log.thread_id == str(thread_id):
                    log.forget_tail()

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints whose metadata names one of some LangGraph runs, with their writes."""
        if isinstance(run_ids, str):
            raise TypeError(f"run_ids is {run_ids!r}: give a list of ids, not a str")
        wanted = set(run_ids)
        if wanted:
            for log in await self._logs_of(None):
                await without_runs(self._store, log, wanted)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread to another thread."""
        for log in await self._logs_of({"configurable": {"thread_id": source_thread_id}}):
            await copy_log(log, self._log(str(target_thread_id), log.namespace))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove the older checkpoints of threads.

        Args:
            thread_ids: the threads.
            strategy: `keep_latest` keeps the newest checkpoint of each namespace, with what its delta channels are
                rebuilt from, and removes each call of a subgraph that started from an older checkpoint of the root
                graph; `delete` removes the threads.

        Raises:
            ValueError: there is no such strategy.
        """
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"strategy is {strategy!r}: give 'keep_latest' or 'delete'")
        if isinstance(thread_ids, str):
            raise TypeError(f"thread_ids is {thread_ids!r}: give a list of ids, not a str")
        for thread_id in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread_id)
                continue
            logs = await self._logs_of({"configurable": {"thread_id": thread_id}})
            await prune_thread(self._store, logs, self.serde)

    # Values

    def _dump(self, value: Any) -> EncodedValue:
        return encode_value(self.serde.dumps_typed(value))

    # Logs

    def _log(self, thread_id: str, namespace: str) -> ThreadLog:
        """Return the log of a thread and a namespace, one for each event loop."""
        loop = asyncio.get_running_loop()
        logs = self._logs.get(loop)
        if logs is None:
            logs = self._logs[loop] = ThreadLogs(self._store)
        return logs.get(thread_id, namespace)

    async def _logs_of(self, config: Mapping[str, Any] | None) -> Sequence[ThreadLog]:
        """Return the logs that a configuration names, or all of them if it names none."""
        tags = None
        if config:
            thread_id, namespace = _place(config)
            if config["configurable"].get("checkpoint_ns") is not None:
                return [self._log(thread_id, namespace)]
            tags = {THREAD_TAG: thread_id}
        return [self._log(*name) for name in await self._store.names(tags)]


def _place(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the thread and the namespace that a configuration names.

    Raises:
        ValueError: it names no thread.
    """
    place = config.get("configurable") if isinstance(config, Mapping) else None
    # A thread that is None by mistake would be one that all such mistakes share.
    if not isinstance(place, Mapping) or place.get("thread_id") is None:
        raise ValueError("config names no thread: give {'configurable': {'thread_id': '…'}}")
    return str(place["thread_id"]), str(place.get("checkpoint_ns") or "")


def _id_in(config: RunnableConfig | None, name: str) -> str | None:
    """Return the checkpoint that a configuration names, or None.

    Args:
        name: what the configuration is called, for the error.

    Raises:
        ValueError: it is no configuration.
    """
    if not config:
        return None
    if not isinstance(config, Mapping) or not isinstance(config.get("configurable"), Mapping):
        raise ValueError(f"{name} is no configuration: give {{'configurable': {{'thread_id': '…'}}}}, or None")
    return get_checkpoint_id(config)


def _member(metadata: Mapping[str, Any], name: str) -> Any:
    """Return a member of the metadata, or None; the names on the way to an inner one are joined with dots."""
    if name in metadata or "." not in name:
        return metadata.get(name)
    found: Any = metadata
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _config(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    """Return the configuration that names a checkpoint."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}}


def _names_of(
    serde: SerializerProtocol, log: ThreadLog, stored: StoredStep
) -> tuple[RunnableConfig, CheckpointMetadata, RunnableConfig | None]:
    """Return the configuration that names a checkpoint, its metadata, and the configuration of its parent."""
    assert stored.checkpoint_id is not None
    return (
        _config(log.thread_id, log.namespace, stored.checkpoint_id),
        load_plain(stored.metadata, serde),
        None if stored.parent is None else _config(log.thread_id, log.namespace, stored.parent),
    )


def _load_whole(
    serde: SerializerProtocol, stored: StoredStep, channels: Channels
) -> tuple[Checkpoint, list[PendingWrite]]:
    """Return a checkpoint with its channel values, and its pending writes."""
    checkpoint = load_plain(stored.checkpoint, serde)
    checkpoint["channel_values"] = {name: channels.load(serde, name, value) for name, value in stored.channels()}
    writes = [(task_id, channel, serde.loads_typed(typed)) for task_id, channel, typed in stored.typed_writes()]
    return checkpoint, writes


def _id_of(head: ListHead) -> str:
    return head.checkpoint_id


def _check_serde(serde: object) -> None:
    """Refuse what cannot serialise, such as the name of a serializer, before a thread is stored by it.

    LangGraph also takes an object with `dumps` and `loads`, such as the module `json`.

    Raises:
        TypeError: it has neither pair of methods, or is a class whose methods need an instance.
    """
    if serde is None:
        return
    for pair in (("dumps_typed", "loads_typed"), ("dumps", "loads")):
        if all(callable(getattr(serde, name, None)) for name in pair):
            is_bound = isinstance(inspect.getattr_static(serde, pair[0], None), (staticmethod, classmethod))
            if not isinstance(serde, type) or is_bound:
                return
    kind = f"the class {serde.__qualname__}" if isinstance(serde, type) else f"of type {type(serde).__qualname__}"
    raise TypeError(f"serde is {kind}: give a serializer, as in JsonPlusSerializer(), or None")
