"""A checkpoint of a list: its values are loaded when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Self, SupportsIndex

from langchain_core.runnables import RunnableConfig

from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, CheckpointTuple, PendingWrite


class LazyTuple(CheckpointTuple):
    """A `CheckpointTuple` in all that it does; copies and pickles of it are plain ones.

    Args:
        config: names the checkpoint.
        parent_config: names its parent, or None.
        load: returns the checkpoint and its pending writes; called once, when they are needed first.
    """

    _load: Callable[[], tuple[Checkpoint, list[PendingWrite]]]

    def __new__(
        cls,
        config: RunnableConfig,
        metadata: CheckpointMetadata,
        parent_config: RunnableConfig | None,
        load: Callable[[], tuple[Checkpoint, list[PendingWrite]]],
    ) -> Self:
        made = super().__new__(cls, config, None, metadata, parent_config, None)  # type: ignore[arg-type]
        made._load = load
        return made

    @cached_property
    def _whole(self) -> CheckpointTuple:
        checkpoint, writes = self._load()
        del self._load  # and what it was loaded from
        return CheckpointTuple(self.config, checkpoint, self.metadata, self.parent_config, writes)

    @property
    def checkpoint(self) -> Checkpoint:
        return self._whole.checkpoint

    @property
    def pending_writes(self) -> list[PendingWrite] | None:
        return self._whole.pending_writes

    def __iter__(self) -> Iterator[Any]:
        return iter(self._whole)

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        return self._whole[key]

    def __contains__(self, value: object) -> bool:
        return value in self._whole

    def __add__(self, other: tuple[Any, ...]) -> Any:
        return self._whole + other

    def __eq__(self, other: object) -> bool:
        return self._whole == (other._whole if isinstance(other, LazyTuple) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other  # a tuple has one of its own

    def __hash__(self) -> int:
        return hash(self._whole)

    def __repr__(self) -> str:
        return repr(self._whole)

    def __reduce__(self) -> tuple[type[CheckpointTuple], tuple[Any, ...]]:
        return CheckpointTuple, tuple(self._whole)

    def index(self, value: Any, *bounds: SupportsIndex) -> int:
        return self._whole.index(value, *bounds)

    def count(self, value: Any) -> int:
        return self._whole.count(value)

    def _replace(self, **fields: Any) -> CheckpointTuple:  # type: ignore[override]  # a plain one
        return self._whole._replace(**fields)
