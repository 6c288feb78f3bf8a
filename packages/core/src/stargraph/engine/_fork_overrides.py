"""What a fork does differently from its graph, as its first checkpoint records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stargraph.checkpoint.protocol import Checkpoint, FanOut, Interrupt, JsonValue, StepRange, Task


@dataclass(frozen=True, slots=True)
class ForkOverrides:
    """What is given instead of being found out, and whether calls that must not be repeated may be made.

    Attributes:
        outputs: updates in place of running a node, by task or by node.
        answers: answers in place of asking a person, by question or by node.
        effects: whether calls that are not repeatable may be made.
    """

    outputs: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    answers: Mapping[str, JsonValue] = field(default_factory=dict)
    effects: bool = True

    @classmethod
    def of(cls, first: Checkpoint, *, effects: bool) -> ForkOverrides:
        """Return the overrides that a fork was begun with.

        Args:
            first: its step 0.
            effects: whether calls that are not repeatable may be made.
        """
        recorded = (first.definition or {}).get("fork", {})
        return cls(recorded.get("outputs", {}), recorded.get("answers", {}), effects)

    def output_of(self, task: Task) -> dict[str, JsonValue] | None:
        """Return the update that a task has without being run, or None if it runs."""
        found = self.outputs.get(task.id, self.outputs.get(task.node)) if self.outputs else None
        return None if found is None else dict(found)

    def answer_to(self, interrupt: Interrupt) -> tuple[JsonValue] | None:
        """Return the answer that a question has without being asked, in a tuple of one, or None if it is asked.

        Args:
            interrupt: the question.
        """
        for name in (interrupt.id, interrupt.node):
            if name in self.answers:
                return (self.answers[name],)
        return None

    def kept(self, frontier: tuple[Task | FanOut, ...]) -> tuple[Task | FanOut, ...]:
        """Return a frontier that needs the first step while these overrides may matter, so that no prune takes it."""
        if not (self.outputs or self.answers):
            return frontier
        return tuple(
            item.model_copy(update={"calls": (_FIRST, *item.calls)})
            if isinstance(item, Task) and not (item.calls and item.calls[0].first == 0)
            else item
            for item in frontier
        )


_FIRST = StepRange.model_construct(first=0, last=0)
