"""A conversation can be read as plain data, whatever channel keeps it."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Overwrite

from stargraph.checkpoint.memory import MemoryCheckpointer
from stargraph.langgraph import StargraphSaver, ThreadMessage, thread_messages

CALL = {"name": "look_up", "args": {"order": 7}, "id": "call-1", "type": "tool_call"}
REPLIES: list[BaseMessage] = [
    AIMessage("", tool_calls=[CALL], id="a1"),
    ToolMessage("it is on its way", tool_call_id="call-1", id="t1", name="look_up"),
    AIMessage([{"type": "text", "text": "It is"}, {"type": "text", "text": "on its way."}], id="a2"),
]


def fold(messages: list[Any], writes: list[Any]) -> list[Any]:
    for write in writes:
        messages = add_messages(messages, write)  # type: ignore[assignment]  # its stub says less than it does
    return messages


class DeltaState(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(fold, snapshot_frequency=3)]


def talk(state: Any, saver: StargraphSaver) -> Any:
    builder = StateGraph(state)
    builder.add_node("reply", lambda state: {"messages": REPLIES[len(state["messages"]) // 2 :][:1]})
    builder.add_edge(START, "reply")
    return builder.compile(checkpointer=saver)


def shown(messages: list[Any]) -> list[tuple[str, str, str | None]]:
    """Give LangChain's messages the form in which the tests compare."""
    return [(each.type if isinstance(each, BaseMessage) else each.role, _text(each), each.id) for each in messages]


def _text(message: Any) -> str:
    if isinstance(message, ThreadMessage):
        return message.text
    content = message.content
    return content if isinstance(content, str) else "\n".join(block["text"] for block in content)


async def test_a_conversation_is_read_with_its_tool_calls() -> None:
    store = MemoryCheckpointer()
    config: Any = {"configurable": {"thread_id": "t"}}
    async with StargraphSaver(store) as saver:
        graph = talk(MessagesState, saver)
        for number in range(3):
            await graph.ainvoke({"messages": [HumanMessage(f"question {number}", id=f"h{number}")]}, config)
        messages = await thread_messages(store, "t")
        assert [(each.role, each.text) for each in messages] == [
            ("human", "question 0"),
            ("ai", ""),
            ("human", "question 1"),
            ("tool", "it is on its way"),
            ("human", "question 2"),
            ("ai", "It is\non its way."),
        ]
        assert messages[1].tool_calls == (CALL,)
        assert (messages[3].tool_call_id, messages[3].name, messages[3].id) == ("call-1", "look_up", "t1")
        states = [state async for state in graph.aget_state_history(config)]
        for state in states:
            key = state.config["configurable"]["checkpoint_id"]
            expected = shown(state.values.get("messages", []))
            assert shown(await thread_messages(store, "t", checkpoint_id=key)) == expected


async def test_a_delta_channel_is_put_together() -> None:
    store = MemoryCheckpointer()
    config: Any = {"configurable": {"thread_id": "t"}}
    async with StargraphSaver(store) as saver:
        graph = talk(DeltaState, saver)
        inputs: list[Any] = [
            HumanMessage("one", id="h1"),
            ("user", "two"),
            "three",
            [RemoveMessage(id="h1"), HumanMessage("four", id="h4")],
            [HumanMessage("four, edited", id="h4")],
            Overwrite([HumanMessage("again", id="h6")]),
            HumanMessage("seven", id="h7"),
        ]
        for each in inputs:
            await graph.ainvoke({"messages": each}, config)
        async for state in graph.aget_state_history(config):
            key = state.config["configurable"]["checkpoint_id"]
            found = await thread_messages(store, "t", checkpoint_id=key)
            expected = state.values.get("messages", [])
            assert [each[:2] for each in shown(found)] == [each[:2] for each in shown(expected)]


async def test_nothing_is_returned_where_nothing_can_be_read() -> None:
    store = MemoryCheckpointer()
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    async with StargraphSaver(store, serde=serde) as saver:
        await talk(MessagesState, saver).ainvoke({"messages": ["hello"]}, {"configurable": {"thread_id": "t"}})
        assert await thread_messages(store, "t") == []
        assert await thread_messages(store, "unknown") == []
        assert await thread_messages(store, "t", checkpoint_id="unknown") == []
        assert await thread_messages(store, "t", channel="unknown") == []
