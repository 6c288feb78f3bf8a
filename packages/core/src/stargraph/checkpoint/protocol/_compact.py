"""A checkpoint without the lists and objects that were parsed from its texts: what a handle can keep of it."""

from __future__ import annotations

from sys import getsizeof
from typing import Final

from stargraph.checkpoint.protocol._checkpoint import Checkpoint
from stargraph.checkpoint.protocol._pydantic import private_attributes
from stargraph.checkpoint.protocol._records import Interrupt
from stargraph.checkpoint.values._encoded import CompactValue, EncodedValue
from stargraph.checkpoint.values._json import copy_json
from stargraph.errors import CheckpointError

_OVERHEAD: Final = 4 * 1024
"""Bytes of memory that a checkpoint takes besides its texts, roughly."""

_MEMBER: Final = 512
"""Likewise of each member of the state or the update: its name and its digest."""

_OPEN_HASH: Final = 512
"""Of the hash that a list is kept with."""

_MODELS: Final = 8
"""How many times the memory of their text tasks and questions take."""


class CompactCheckpoint:
    """A checkpoint as its texts and digests, which no holder of the checkpoint can change.

    Args:
        checkpoint: what to keep; `compact_checkpoint` checks it.

    Attributes:
        size: about how many bytes of memory it takes.
        parsed_size: how many bytes of text `checkpoint` parses.
    """

    __slots__ = ("_fields", "_state", "_texts", "_update", "parsed_size", "size")

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._fields = {**checkpoint.__dict__, "state": None, "update": None}
        self._fields["metadata"] = checkpoint.metadata.copy()
        self._fields["interrupts"] = _copied(checkpoint.interrupts)
        self._texts = private_attributes(checkpoint)["_texts"]
        state = checkpoint.encoded_state()
        update = checkpoint.encoded_update()
        self._state = {key: value.compact() for key, value in state.items()}
        # None for what is the state's own value.
        self._update = (
            None
            if update is None
            else {key: None if value is state.get(key) else value.compact() for key, value in update.items()}
        )
        step = checkpoint.step_texts()
        run = () if self._texts is None else self._texts.run
        self.size = _OVERHEAD + 2 * sum(map(len, step)) + sum(map(len, run))
        self.size += _MODELS * (len(step.frontier) + len(step.interrupts))
        self.size += sum([getsizeof(text) for tag in checkpoint.metadata.items() for text in tag])
        self.parsed_size = len(step.interrupts)
        for value in (*self._state.values(), *(self._update or {}).values()):
            self.size += _MEMBER
            if isinstance(value, CompactValue):
                self.size += len(value.encoded) + (0 if value.open_hash is None else _OPEN_HASH)
                self.parsed_size += len(value.encoded)
            elif value is not None:
                # A text takes up to four times what it takes as UTF-8: one emoji makes each letter as wide.
                self.size += len(value.encoded) + getsizeof(value.value)

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint, with lists and objects of its own."""
        fields = self._fields.copy()
        fields["metadata"] = fields["metadata"].copy()
        fields["interrupts"] = _copied(fields["interrupts"])
        state = {key: _parsed(value) for key, value in self._state.items()}
        update = None
        if self._update is not None:
            update = {key: state[key] if value is None else _parsed(value) for key, value in self._update.items()}
        fields["state"] = {key: value.value for key, value in state.items()}
        if update is not None:
            fields["update"] = {key: value.value for key, value in update.items()}
        return Checkpoint._assembled(fields, state, update, self._texts)


def compact_checkpoint(checkpoint: Checkpoint) -> CompactCheckpoint | None:
    """Return what can be kept of a checkpoint that is stored.

    Returns:
        None if it was changed since it was stored, or holds a definition or calls: those checkpoints are rarely read
        as the latest of a run, and their values are not kept as texts.
    """
    if checkpoint.definition is not None or checkpoint.calls:
        return None
    try:
        checkpoint.ensure_valid()
    except CheckpointError:
        return None
    return CompactCheckpoint(checkpoint)


def _copied(interrupts: tuple[Interrupt, ...]) -> tuple[Interrupt, ...]:
    """Return interrupts whose payloads, which are lists and objects too, their receiver may change."""
    return tuple([each.model_copy(update={"payload": copy_json(each.payload)}) for each in interrupts])


def _parsed(value: CompactValue | EncodedValue) -> EncodedValue:
    return value.parsed() if isinstance(value, CompactValue) else value
