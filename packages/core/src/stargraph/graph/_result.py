"""What executing a run returns: where it stands, with its state and its questions."""

from __future__ import annotations

from typing import Any, Generic, Self, cast

from pydantic import PrivateAttr
from typing_extensions import TypeVar

from stargraph.checkpoint.protocol import Checkpoint, Interrupt, JsonValue, RunSummary
from stargraph.engine import StateSpec

S = TypeVar("S", default=Any)


class RunResult(RunSummary, Generic[S]):
    """Where a run stands: its `RunSummary`, with the state and the open questions of its latest step."""

    _latest: Checkpoint = PrivateAttr()
    _spec: StateSpec = PrivateAttr()

    @classmethod
    def of(cls, latest: Checkpoint, spec: StateSpec) -> RunResult[S]:
        """Return the result of a run from its latest checkpoint.

        Args:
            latest: the checkpoint.
            spec: the state that its graph declares.
        """
        result = cast("RunResult[S]", super().from_checkpoint(latest))
        result._latest, result._spec = latest, spec
        return result

    @property
    def state(self) -> S:
        """The state, a fresh copy each time: an object of the graph's state class, or a dict if it has none."""
        value: S = self._spec.value(self._latest)
        return value

    @property
    def stored_state(self) -> dict[str, JsonValue]:
        """The state as it is stored, a dict of JSON whatever class it has: what a web service can return."""
        return self._latest.fresh_state()

    @property
    def questions(self) -> tuple[Interrupt, ...]:
        """The open questions, with their ids, prompts and payloads."""
        return self._latest.questions

    def raise_for_status(self) -> Self:
        """Return this result, or raise if the run failed, was cancelled, or was moved to another store.

        Raises:
            NodeError: it did; with the message of the recorded error.
        """
        return super().raise_for_status()

    def __repr__(self) -> str:
        return f"RunResult(run_id={self.run_id!r}, status={self.status!r}, last_step={self.last_step})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        # It is equal to a summary that a store lists.
        return isinstance(other, RunSummary) and _fields(self) == _fields(other)

    def __hash__(self) -> int:
        return hash(self.run_id)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has the summary; the state is in the store.
        return RunSummary.model_validate, (self.model_dump(),)


def _fields(summary: RunSummary) -> dict[str, Any]:
    return {name: getattr(summary, name) for name in RunSummary.model_fields}
