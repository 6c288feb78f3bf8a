"""Steps that were read or appended before: whoever walks the parents of a checkpoint walks most of them again."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Final

from stargraph.langgraph._state import StoredStep

_BUDGET: Final = 64 * 1024 * 1024
"""Bytes of memory."""

_LARGEST: Final = 64 * 1024
"""Bytes of JSON of a state that is not kept: a channel that is stored whole is nothing to walk parents for."""

# What a step takes at most, with its values and its writes decoded; tests/langgraph/test_cache.py measures it.
_EACH_STEP: Final = 6144
_EACH_BYTE: Final = 3
_EACH_BYTE_OF_UNICODE: Final = 8  # one emoji makes each character of a str four bytes
_EACH_ITEM: Final = 100
_EACH_CONTAINER: Final = 300


class StepCache:
    """Keeps the steps that were used last, up to a number of bytes of memory; a step never changes.

    The event loops of several threads may use one at once.
    """

    def __init__(self, budget: int = _BUDGET) -> None:
        self._budget = budget
        self._used = 0
        self._lock = Lock()
        self._steps: OrderedDict[tuple[str, int], tuple[StoredStep, int]] = OrderedDict()

    def get(self, run_id: str, step: int) -> StoredStep | None:
        """Return a step, or None if it is not kept."""
        with self._lock:
            found = self._steps.get((run_id, step))
            if found is None:
                return None
            self._steps.move_to_end((run_id, step))
        return found[0]

    def add(self, stored: StoredStep) -> None:
        """Keep a step, and drop those that were not used for longest."""
        texts = [value.encoded for value in stored.step.encoded_state().values()]
        name = stored.step.run_id, stored.step.step
        if sum(map(len, texts)) > _LARGEST:
            return
        size = _EACH_STEP + sum(map(_memory_of, texts))
        with self._lock:
            if name in self._steps:
                return
            self._steps[name] = stored, size
            self._used += size
            while self._used > self._budget:
                _, (_, dropped) = self._steps.popitem(last=False)
                self._used -= dropped


def _memory_of(text: bytes) -> int:
    """Return how much memory a value takes at most, from its JSON."""
    containers = text.count(b"[") + text.count(b"{")
    each_byte = _EACH_BYTE if text.isascii() else _EACH_BYTE_OF_UNICODE
    return each_byte * len(text) + _EACH_ITEM * text.count(b",") + _EACH_CONTAINER * containers
