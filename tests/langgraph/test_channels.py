"""What is loaded is nobody else's, and a listed checkpoint is a plain one once somebody looks at it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver
from stargraph.langgraph._channels import Channels
from stargraph.langgraph._tuples import LazyTuple
from stargraph.langgraph._values import encode_value

SERDE = JsonPlusSerializer()


class Ticket(BaseModel):
    title: str


CALL = {"name": "f", "args": {"a": [1, 2.5, None, {"b": True}]}, "id": "t", "type": "tool_call"}
MESSAGES = [
    HumanMessage("hi", id="1", name="Ada"),
    HumanMessage([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]),
    HumanMessage("with more", additional_kwargs={"a": {"b": []}}),
    HumanMessage("with a field of its own", color="red"),
    HumanMessage("with bytes", additional_kwargs={"a": b"bytes"}),
    HumanMessage("with a tuple", additional_kwargs={"a": (1, 2)}),
    AIMessage("", tool_calls=[CALL], id="2", response_metadata={"model": "m", "tokens": [1, 2]}),
    AIMessage("counted", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    AIMessage("broken call", invalid_tool_calls=[{"name": "f", "args": "{", "id": "x", "error": None}]),
    AIMessageChunk(content="chunk"),
    ToolMessage("out", tool_call_id="t", artifact={"rows": [[1]]}, status="error"),
    ToolMessage("model", tool_call_id="t", artifact=Ticket(title="t")),
    SystemMessage("be kind"),
    FunctionMessage(content="f", name="f"),
    RemoveMessage(id="1"),
    Ticket(title="no message"),
    {"role": "user", "content": "no object"},
    "text",
]


def shape(value: Any) -> Any:
    """Return all that can be told of a value, its classes included."""
    if isinstance(value, BaseModel):
        fields = {name: shape(item) for name, item in value.__dict__.items()}
        private = value.__pydantic_private__
        return type(value), fields, value.model_fields_set, shape(value.model_extra), private
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    return type(value), value


def spoil(value: Any) -> None:
    """Change everything in a value that can be changed."""
    if isinstance(value, BaseModel):
        spoil(value.__dict__)
        spoil(value.model_extra)
        value.model_fields_set.clear()
    elif isinstance(value, dict):
        for item in value.values():
            spoil(item)
        value["spoilt"] = True
    elif isinstance(value, list):
        for item in value:
            spoil(item)
        value.append("spoilt")


def test_a_copy_is_what_the_serializer_would_load_anew() -> None:
    encoded = encode_value(SERDE.dumps_typed(MESSAGES))
    channels = Channels()
    for _ in range(3):
        loaded = channels.load(SERDE, "messages", encoded)
        assert shape(loaded) == shape(SERDE.loads_typed(SERDE.dumps_typed(MESSAGES)))
        spoil(loaded)


def test_a_list_that_grows_or_shrinks_or_changes_is_loaded_right() -> None:
    channels = Channels()
    whole = encode_value(SERDE.dumps_typed(MESSAGES[:4]))
    more = whole.extended(encode_value(SERDE.dumps_typed(MESSAGES[4:])))
    other = encode_value(SERDE.dumps_typed([*MESSAGES[4:], *MESSAGES[:4]]))
    for encoded, expected in (
        (whole, MESSAGES[:4]),
        (more, MESSAGES),
        (whole, MESSAGES[:4]),
        (other, [*MESSAGES[4:], *MESSAGES[:4]]),
        (more, MESSAGES),
    ):
        loaded = channels.load(SERDE, "messages", encoded)
        assert shape(loaded) == shape(SERDE.loads_typed(SERDE.dumps_typed(expected)))
        spoil(loaded)


def test_a_serializer_of_another_kind_loads_whole_values() -> None:
    class Counting(JsonPlusSerializer):
        loads = 0

        def loads_typed(self, data: tuple[str, bytes]) -> Any:
            self.loads += 1
            return super().loads_typed(data)

    serde, channels = Counting(), Channels()
    encoded = encode_value(serde.dumps_typed(MESSAGES))
    for _ in range(2):
        channels.load(serde, "messages", encoded)
    assert serde.loads == 2


async def test_changing_what_was_handed_out_changes_nothing_else() -> None:
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    made = {
        **empty_checkpoint(),
        "channel_values": {"messages": MESSAGES, "data": {"a": [1]}},
        "channel_versions": {"messages": "1", "data": "1"},
    }
    expected = shape(SERDE.loads_typed(SERDE.dumps_typed(made["channel_values"])))
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        where = await saver.aput(config, made, {"step": 0}, made["channel_versions"])  # type: ignore[arg-type]
        await saver.aput_writes(where, [("messages", MESSAGES)], "task")
        for _ in range(2):
            listed = [found async for found in saver.alist(config)]
            for found in [*listed, await saver.aget_tuple(config), await saver.aget_tuple(where)]:
                assert found is not None
                assert shape(found.checkpoint["channel_values"]) == expected
                spoil(found.checkpoint)
                spoil(found.metadata)
                spoil([value for _, _, value in found.pending_writes or []])


async def test_a_listed_checkpoint_is_a_tuple_like_any_other() -> None:
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    made = {**empty_checkpoint(), "channel_values": {"a": [1]}, "channel_versions": {"a": "1"}}
    async with StargraphSaver(MemoryCheckpointer()) as saver:
        theirs = InMemorySaver()
        for each in (saver, theirs):
            where = await each.aput(config, made, {"step": 0}, {"a": "1"})  # type: ignore[arg-type]
            await each.aput_writes(where, [("a", 2)], "task")

        async def listed() -> Any:
            (found,) = [found async for found in saver.alist(config)]
            return found

        (plain,) = theirs.list(config)
        found = await listed()
        assert isinstance(found, CheckpointTuple)
        assert found == plain
        assert plain == found
        assert found == await listed()
        assert not found != plain  # noqa: SIM202  # a tuple has both
        assert (found.config, found.metadata, found.parent_config) == (plain.config, plain.metadata, None)
        uses: list[Callable[[Any], Any]] = [
            lambda each: each.checkpoint,
            lambda each: each.pending_writes,
            list,
            tuple,
            lambda each: each[1],
            lambda each: each[-1],
            lambda each: each[1:3],
            lambda each: [*each],
            lambda each: each + (1,),  # noqa: RUF005
            lambda each: None in each,
            lambda each: each.index(None),
            lambda each: each.count(None),
            lambda each: each._replace(metadata={}),
            lambda each: each._asdict(),
            repr,
            copy.copy,
            copy.deepcopy,
            lambda each: pickle.loads(pickle.dumps(each)),
        ]
        for use in uses:
            assert use(await listed()) == use(plain)
        config_, checkpoint, metadata, parent, writes = await listed()
        assert CheckpointTuple(config_, checkpoint, metadata, parent, writes) == plain
        with pytest.raises(TypeError, match="unhashable"):
            hash(await listed())


def test_what_nobody_looks_at_is_not_loaded() -> None:
    calls: list[int] = []

    def load() -> Any:
        calls.append(1)
        return {"id": "x"}, []

    found = LazyTuple({"configurable": {}}, {"step": 1}, None, load)
    assert (found.config, found.metadata, found.parent_config) == ({"configurable": {}}, {"step": 1}, None)
    assert not calls
    assert [found.checkpoint["id"], found[1]["id"]] == ["x", "x"]
    assert len(calls) == 1
