"""What one step of a log says: a LangGraph checkpoint with its pending writes, as fields of a state.

    channel:<name>   the value of a channel
    checkpoint       the checkpoint without its channel values; None if only writes of it have come yet
    metadata         its metadata
    parent           the id of the checkpoint that it came from, or None
    writes           its pending writes: [task id, task path, position, channel, value], in the order of their arrival
    newest           the highest checkpoint id of the log, or None
    ahead            the ids of checkpoints of which only writes have come yet

The key of the step is the id of the checkpoint, so that the highest step with a key holds all that is known of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key
from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph.checkpoint.values import EncodedValue
from stargraph.langgraph._values import Typed, decode_value

CHANNEL: Final = "channel:"
CHECKPOINT: Final = "checkpoint"
METADATA: Final = "metadata"
PARENT: Final = "parent"
WRITES: Final = "writes"
NEWEST: Final = "newest"
AHEAD: Final = "ahead"

EMPTY_STATE: Final[dict[str, JsonValue]] = {
    CHECKPOINT: None,
    METADATA: None,
    PARENT: None,
    WRITES: [],
    NEWEST: None,
    AHEAD: [],
}


class Write(NamedTuple):
    """One pending write of a task."""

    task_id: str
    task_path: str
    position: int
    channel: str
    value: EncodedValue


@dataclass(frozen=True, slots=True)
class Put:
    """A checkpoint to store.

    Attributes:
        parent: the id of the checkpoint that it came from, or None.
        checkpoint: the checkpoint without its channel values.
        metadata: its metadata.
        channels: the values of its channels.
    """

    parent: str | None
    checkpoint: EncodedValue
    metadata: EncodedValue
    channels: Mapping[str, EncodedValue]


@dataclass(frozen=True, slots=True)
class Order:
    """What one step adds to a log.

    Attributes:
        checkpoint_id: the id of the checkpoint.
        put: the checkpoint, or None if only writes of it are stored.
        writes: pending writes of it.
    """

    checkpoint_id: str
    put: Put | None = None
    writes: Sequence[Write] = ()


def merged_orders(orders: Sequence[Order]) -> list[Order]:
    """Return orders with one for each checkpoint, the lowest id first: as they came, parents before children."""
    merged: dict[str, Order] = {}
    for order in orders:
        before = merged.get(order.checkpoint_id)
        if before is not None:
            order = Order(order.checkpoint_id, order.put or before.put, [*before.writes, *order.writes])
        merged[order.checkpoint_id] = order
    return [merged[checkpoint_id] for checkpoint_id in sorted(merged)]


class StoredStep:
    """A step of a log, read."""

    def __init__(self, step: Checkpoint) -> None:
        self.step: Final = step
        self._state = step.encoded_state()
        self._typed_writes: list[tuple[str, str, Typed]] | None = None

    @property
    def checkpoint_id(self) -> str | None:
        """The id of the checkpoint that this step is of."""
        return self.step.key

    @property
    def has_checkpoint(self) -> bool:
        """Whether the checkpoint is there, and not only writes of it."""
        return self._value(CHECKPOINT) is not None

    @property
    def newest(self) -> str | None:
        """The highest checkpoint id of the log."""
        newest = self._value(NEWEST)
        return newest if isinstance(newest, str) else None

    @property
    def ahead(self) -> list[str]:
        """The ids of checkpoints of which only writes have come yet."""
        ahead = self._value(AHEAD)
        return [each for each in ahead if isinstance(each, str)] if isinstance(ahead, list) else []

    @property
    def parent(self) -> str | None:
        """The id of the checkpoint that this one came from."""
        parent = self._value(PARENT)
        return parent if isinstance(parent, str) else None

    @property
    def checkpoint(self) -> EncodedValue:
        """The checkpoint without its channel values."""
        return self._state[CHECKPOINT]

    @property
    def metadata(self) -> EncodedValue:
        """The metadata."""
        return self._state[METADATA]

    def channels(self) -> Iterator[tuple[str, EncodedValue]]:
        """Yield the channels that have a value, with their values."""
        for name, value in self._state.items():
            if name.startswith(CHANNEL):
                yield name.removeprefix(CHANNEL), value

    def channel(self, name: str) -> EncodedValue | None:
        """Return the value of a channel, or None if absent."""
        return self._state.get(CHANNEL + name)

    def writes(self) -> list[tuple[str, str, int, str, JsonValue]]:
        """Return the pending writes in the order in which LangGraph applies them."""
        writes: Any = self._value(WRITES)
        return sorted((tuple(each) for each in writes), key=lambda each: writes_sort_key(each[1], each[0], each[2]))

    def typed_writes(self) -> list[tuple[str, str, Typed]]:
        """Return the pending writes in that order, as a serializer loads them: task id, channel and value."""
        if self._typed_writes is None:
            # Whoever walks the ancestors of each checkpoint of a conversation loads the same writes again and again.
            self._typed_writes = [
                (task_id, channel, decode_value(value)) for task_id, _, _, channel, value in self.writes()
            ]
        return self._typed_writes

    def _value(self, name: str) -> JsonValue:
        found = self._state.get(name)
        return None if found is None else found.value


def write_index(channel: str, position: int) -> int:
    """Return the index of a write among those of its task, as LangGraph counts them."""
    return int(WRITES_IDX_MAP.get(channel, position))


def state_with(stored: StoredStep | None, tail: Checkpoint, order: Order) -> dict[str, EncodedValue]:
    """Return the whole state of the step that an order makes.

    A step of a checkpoint that has not come yet carries the channels of the step before it, which mean nothing there:
    else the checkpoint, which mostly comes next and shares most of them, would be stored whole.

    Args:
        stored: what the log has of the checkpoint of the order, or None.
        tail: the latest step of the log.
        order: what to store.
    """
    log = StoredStep(tail)
    newest, ahead = log.newest, log.ahead
    checkpoint_id, put = order.checkpoint_id, order.put
    before = tail.encoded_state()
    if put is not None:
        newest = max(newest or checkpoint_id, checkpoint_id)
        ahead = [each for each in ahead if each != checkpoint_id]
        fields: dict[str, JsonValue | EncodedValue] = {
            **{CHANNEL + name: value for name, value in put.channels.items()},
            CHECKPOINT: put.checkpoint,
            METADATA: put.metadata,
            PARENT: put.parent,
        }
    else:
        source = before if stored is None else stored.step.encoded_state()
        fields = {name: value for name, value in source.items() if name.startswith(CHANNEL)}
        if stored is None:
            ahead = [*ahead, checkpoint_id]
            fields |= {CHECKPOINT: None, METADATA: None, PARENT: None}
        else:
            fields |= {name: source[name] for name in (CHECKPOINT, METADATA, PARENT)}
    writes: JsonValue | EncodedValue = () if stored is None else stored.step.encoded_state()[WRITES]
    if order.writes or stored is None:
        writes = _merged(() if stored is None else stored.step.state[WRITES], order.writes)
    fields |= {WRITES: writes, NEWEST: newest, AHEAD: ahead}
    return {name: _encoded(name, value, before) for name, value in fields.items()}


def _encoded(name: str, value: JsonValue | EncodedValue, before: Mapping[str, EncodedValue]) -> EncodedValue:
    """Return a value encoded, sharing that of the step before if it is the same."""
    known = before.get(name)
    if not isinstance(value, EncodedValue):
        # Ids mostly, and empty lists: the parent is what was the newest before.
        for same in (known, before[NEWEST]):
            if same is not None and (type(value) is str or not value) and same.value == value:
                return same
        value = EncodedValue.of_checked(value)
    return known if known is not None and known.encoded == value.encoded else value


def _merged(before: Any, writes: Sequence[Write]) -> list[JsonValue]:
    """Return pending writes with others added: a regular one stays as it is, a special one is replaced."""
    merged: dict[tuple[str, int], list[JsonValue]] = {(each[0], each[2]): each for each in before}
    for write in writes:
        place = write.task_id, write.position
        if write.position < 0 or place not in merged:
            merged[place] = [write.task_id, write.task_path, write.position, write.channel, write.value.value]
    return list(merged.values())
