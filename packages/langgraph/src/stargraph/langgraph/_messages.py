"""The conversation of a thread as plain data, for whoever shows it; no object of LangChain is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from stargraph.checkpoint.protocol import Checkpointer, JsonValue
from stargraph.langgraph._log import ThreadLog
from stargraph.langgraph._store import LogStore

_ROLES: Final = {"user": "human", "assistant": "ai", "developer": "system", "AIMessageChunk": "ai"}
_KNOWN_ROLES: Final = frozenset({"human", "ai", "system", "tool", "function", "chat", *_ROLES})
_CHANNEL: Final = "messages"
_REMOVE: Final = "remove"
_REMOVE_ALL: Final = "__remove_all__"
"""The id with which LangGraph's `add_messages` removes everything before."""


@dataclass(frozen=True, slots=True)
class ThreadMessage:
    """One message of a conversation.

    Attributes:
        role: `human`, `ai`, `system`, `tool`, or another type of LangChain's messages.
        text: all text of its content.
        content: the content as it is stored: text, or a list of blocks such as text and images.
        id: its id, or None.
        name: the name of who sent it, or None.
        tool_calls: the calls that it asks for, each with `name`, `args` and `id`.
        tool_call_id: the call that it answers, or None.
    """

    role: str
    text: str
    content: JsonValue
    id: str | None = None
    name: str | None = None
    tool_calls: tuple[dict[str, JsonValue], ...] = field(default=())
    tool_call_id: str | None = None


async def thread_messages(
    checkpointer: Checkpointer,
    thread_id: str,
    *,
    namespace: str = "",
    checkpoint_id: str | None = None,
    channel: str = _CHANNEL,
) -> list[ThreadMessage]:
    """Return the conversation of a thread, in its order.

    It is empty if there is no such thread or checkpoint, or if nothing in the channel can be read as messages, such as
    the values of LangGraph's `EncryptedSerializer`.

    Args:
        checkpointer: the store, bootstrapped.
        thread_id: the tag `thread_id` of the run.
        namespace: the tag `checkpoint_ns` of the run.
        checkpoint_id: the checkpoint whose conversation is wanted; the newest one if None. It is the `key` of a step.
        channel: the channel that holds the messages. A `DeltaChannel` is put together as `add_messages` does it.

    Raises:
        CheckpointError: the store lacks a capability (`reason="missing-capability"`).
        CheckpointCorruptedError: what is stored was altered.
    """
    log = ThreadLog(LogStore(checkpointer), thread_id, namespace)
    stored = await (log.latest() if checkpoint_id is None else log.at(checkpoint_id))
    if stored is None or not stored.has_checkpoint:
        return []
    seed = stored.channel(channel)
    written: list[list[JsonValue]] = []
    if seed is None:
        async for ancestor in log.ancestors(stored):
            written.append([value for _, _, _, name, value in ancestor.writes() if name == channel])
            if (seed := ancestor.channel(channel)) is not None:
                break
    merged: dict[object, ThreadMessage] = {}
    for value in [seed.value if seed is not None else None, *(each for group in reversed(written) for each in group)]:
        _merge(merged, value)
    return list(merged.values())


def _merge(messages: dict[object, ThreadMessage], value: JsonValue) -> None:
    """Add messages as LangGraph's `add_messages` does: one with a known id takes the place of the former one."""
    value, is_overwrite = _unwrapped(value)
    if is_overwrite:
        messages.clear()
    for message in _read_all(value):
        if message.role == _REMOVE:
            if message.id == _REMOVE_ALL:
                messages.clear()
            messages.pop(message.id, None)
        else:
            messages[message.id if message.id is not None else object()] = message


def _unwrapped(value: JsonValue) -> tuple[JsonValue, bool]:
    """Return what a `DeltaChannel` snapshot or an `Overwrite` holds, and whether it replaces what was before."""
    if isinstance(value, dict) and value.get("$") == "ext":
        inner: Any = value.get("value")
        if value.get("code") == _SNAPSHOT:
            return inner, True
        if isinstance(inner, list) and inner[:2] == ["langgraph.types", "Overwrite"] and isinstance(inner[2], dict):
            return inner[2].get("value"), True
    return value, False


_SNAPSHOT: Final = 7
"""The code of a `DeltaChannel` snapshot in LangGraph's msgpack."""


def _read_all(value: JsonValue) -> Iterable[ThreadMessage]:
    items = value if isinstance(value, list) and not _is_pair(value) else [value]
    for item in items:
        if (message := _read(item)) is not None:
            yield message


def _read(value: JsonValue) -> ThreadMessage | None:
    """Return a message of any of the forms that `add_messages` takes, or None if it is none."""
    if isinstance(value, str):
        return ThreadMessage("human", value, value)
    if _is_pair(value):
        role, text = value
        return ThreadMessage(_ROLES.get(role, role), text, text)
    if isinstance(value, dict) and value.get("$") == "ext":
        inner: Any = value.get("value")
        value = inner[2] if isinstance(inner, list) and len(inner) > 2 else None
    fields: Any = value
    if not isinstance(fields, dict) or "content" not in fields:
        return None
    role = fields.get("type") or fields.get("role")
    if not isinstance(role, str):
        return None
    calls = fields.get("tool_calls")
    content = fields["content"]
    return ThreadMessage(
        role=_ROLES.get(role, role),
        text=_text(content),
        content=content,
        id=_text_or_none(fields.get("id")),
        name=_text_or_none(fields.get("name")),
        tool_calls=tuple(each for each in calls if isinstance(each, dict)) if isinstance(calls, list) else (),
        tool_call_id=_text_or_none(fields.get("tool_call_id")),
    )


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(each, str) for each in value)
        and value[0] in _KNOWN_ROLES
    )


def _text(content: JsonValue) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [
        block if isinstance(block, str) else block.get("text") for block in blocks if isinstance(block, str | dict)
    ]
    return "\n".join(text for text in texts if isinstance(text, str))


def _text_or_none(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
