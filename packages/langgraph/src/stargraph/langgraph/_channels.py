"""The channel values of one log: what they were encoded from, and copies of what they were loaded as.

LangGraph's own savers load every value again for each caller, who may then change it. So does this one, but a list of
messages costs no validation of each message again: it is loaded once, and each caller gets copies.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langgraph.checkpoint.base import ChannelVersions, Checkpoint
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from stargraph.checkpoint.protocol import JsonValue
from stargraph.checkpoint.values import EncodedValue
from stargraph.langgraph._plain import peek_plain
from stargraph.langgraph._state import StoredStep
from stargraph.langgraph._values import Former, decode_value, encode_value

_COPIED: Final = frozenset({AIMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage})
"""Classes whose objects are copied. Others may hold anything, and are loaded again."""

_ATOMS: Final = frozenset({str, int, float, bool, type(None)})


class _Loaded(NamedTuple):
    """A message that was loaded and that nobody else has.

    Attributes:
        item: what it was loaded from. It is kept, so that nothing else gets its identity.
        message: the message.
        containers: the fields that hold lists or objects.
    """

    item: JsonValue
    message: BaseMessage
    containers: tuple[str, ...]


class Channels:
    """Encodes and loads the channel values of one log.

    The serializer is that of the call: LangGraph gives each graph a saver with one of its own, on the same logs.
    """

    def __init__(self) -> None:
        self._formers: dict[str, Former] = {}
        self._serde: SerializerProtocol | None = None
        self._loaded: dict[str, dict[int, _Loaded]] = {}

    def encode(
        self,
        serde: SerializerProtocol,
        before: StoredStep | None,
        checkpoint: Checkpoint,
        new_versions: ChannelVersions,
    ) -> dict[str, EncodedValue]:
        """Return the channels of a checkpoint; those that have not changed share the value of the parent.

        LangGraph leaves out a delta channel that was not written since its snapshot. The version still names that
        snapshot, which is therefore kept, so that nobody has to look for it among the ancestors.

        Args:
            serde: serializes values.
            before: its parent, if it is known without I/O.
            new_versions: the channels that have changed since the parent.
        """
        versions = (
            peek_plain(before.checkpoint)["channel_versions"] if before is not None and before.has_checkpoint else {}
        )
        values = checkpoint["channel_values"]
        made: dict[str, EncodedValue] = {}
        formers: dict[str, Former] = {}
        for name in {**values, **checkpoint["channel_versions"]}:
            version = checkpoint["channel_versions"].get(name)
            known = before.channel(name) if before is not None else None
            former = self._former(name, known)
            if known is not None and name not in new_versions and version is not None and versions.get(name) == version:
                made[name] = known
            elif name in values:
                kind, data = serde.dumps_typed(values[name])
                typed = kind, bytes(data)
                made[name] = encode_value(typed, former)
                former = Former(made[name], typed)
            else:
                continue
            if former is not None:
                formers[name] = former
        self._formers = formers
        return made

    def load(self, serde: SerializerProtocol, name: str, encoded: EncodedValue) -> Any:
        """Return the value of a channel, as an object that its receiver may change.

        Raises:
            Exception: what the serializer raises.
        """
        value = encoded.value
        # Of another serializer it is not known that it loads a list item by item.
        if type(serde) is JsonPlusSerializer and type(value) is list and value and _is_object(value[0]):
            return self._load_items(serde, name, value)
        former = self._former(name, encoded)
        return serde.loads_typed(decode_value(value) if former is None else former.typed)

    def _load_items(self, serde: SerializerProtocol, name: str, items: list[JsonValue]) -> list[Any]:
        if serde is not self._serde:
            self._serde, self._loaded = serde, {}
        before = self._loaded.get(name, {})
        known: dict[int, _Loaded] = {}
        values: list[Any] = []
        for item in items:
            loaded = before.get(id(item))  # lists that have grown share their items
            if loaded is not None:
                value = _copy(loaded)
            else:
                value = serde.loads_typed(decode_value(item))
                loaded = _loaded(item, value)
            if loaded is not None:
                known[id(item)] = loaded
            values.append(value)
        self._loaded[name] = known
        return values

    def _former(self, name: str, value: EncodedValue | None) -> Former | None:
        former = self._formers.get(name)
        return former if former is not None and former.encoded is value else None


def _is_object(item: JsonValue) -> bool:
    return type(item) is dict and item.get("$") == "ext"


def _loaded(item: JsonValue, message: Any) -> _Loaded | None:
    """Return a message to make copies of, or None if it may hold what cannot be copied here."""
    if type(message) not in _COPIED or message.model_extra:
        return None
    containers = tuple(name for name, value in message.__dict__.items() if type(value) not in _ATOMS)
    if not all(_is_plain(message.__dict__[name]) for name in containers):
        return None
    first = _Loaded(item, message, containers)
    return first._replace(message=_copy(first))


def _copy(loaded: _Loaded) -> BaseMessage:
    """Return a copy of a message that shares nothing that can be changed.

    pydantic's own deep copy takes as long as loading; tests/langgraph/test_channels.py holds this one against it.
    """
    copy = loaded.message.model_copy()
    fields = copy.__dict__
    for name in loaded.containers:
        fields[name] = _copy_plain(fields[name])
    return copy


def _is_plain(value: Any) -> bool:
    if type(value) is list:
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    return type(value) in _ATOMS


def _copy_plain(value: Any) -> Any:
    if type(value) is list:
        return [item if type(item) in _ATOMS else _copy_plain(item) for item in value]
    if type(value) is dict:
        return {key: item if type(item) in _ATOMS else _copy_plain(item) for key, item in value.items()}
    return value
