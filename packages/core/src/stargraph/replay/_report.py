"""What a replay found."""

from __future__ import annotations

from dataclasses import dataclass

from stargraph.checkpoint.protocol import Checkpoint, JsonValue
from stargraph.replay._diff import LIMIT, Change, Diff, diff_states, diff_values, show


@dataclass(frozen=True, slots=True)
class StepDifference:
    """A step that differs from its record.

    Attributes:
        run_id: the run, which may be a child run of the one that was replayed.
        step: the step.
        event: what is recorded.
        node: the node, if it concerns one.
        task_id: the task, if it concerns one.
        diff: the fields that differ: `before` is recorded, `after` is the result of the replay.
    """

    run_id: str
    step: int
    event: str
    node: str | None
    task_id: str | None
    diff: Diff

    def headline(self, width: int = 60) -> str:
        """Return the first field that differs, with both values, on one line.

        Args:
            width: how many characters each value may have.
        """
        first: Change = self.diff.changes[0]
        shown = show(first.before, width) if first.kind != "added" else "nothing"
        gave = show(first.after, width) if first.kind != "removed" else "nothing"
        return f"{self.where}: {first.path} is recorded as {shown}, and the replay gives {gave}"

    @property
    def where(self) -> str:
        """The step in words."""
        node = f" {self.node}" if self.node else ""
        return f"run {self.run_id}, step {self.step} ({self.event}{node})"

    def as_json(self) -> dict[str, JsonValue]:
        """Return the difference for programs."""
        return {
            "run_id": self.run_id,
            "step": self.step,
            "event": self.event,
            "node": self.node,
            "task_id": self.task_id,
            **self.diff.as_json(),
        }


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay found; true if no step differs.

    Attributes:
        run_id: the run.
        last_step: the step up to which its log was read.
        compared: how many steps were replayed and compared, including those of child runs.
        differences: the steps that differ, in the order of the log; those of a child run follow its step.
        notes: what was not compared, and why; and what has changed since the run was recorded.
    """

    run_id: str
    last_step: int
    compared: int
    differences: tuple[StepDifference, ...]
    notes: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.differences

    def lines(self, width: int = 60) -> list[str]:
        """Return the report as text.

        Args:
            width: how many characters each value may have.
        """
        shown = [f"note: {note}" for note in self.notes]
        if not self.differences:
            same = "1 step matches" if self.compared == 1 else f"{self.compared} steps match"
            return [f"run {self.run_id}: {same} the record", *shown]
        count = len(self.differences)
        more = "" if count == 1 else f"; {count} steps differ"
        return [self.differences[0].headline(width) + more, *shown]

    def as_json(self) -> dict[str, JsonValue]:
        """Return the report for programs."""
        return {
            "run_id": self.run_id,
            "same": not self.differences,
            "last_step": self.last_step,
            "compared": self.compared,
            "differences": [difference.as_json() for difference in self.differences],
            "notes": list(self.notes),
        }


_PLAIN = ("event", "status")
_MODELS = ("error", "calls", "interrupts", "frontier", "queue")


def difference_of(recorded: Checkpoint, replayed: Checkpoint) -> StepDifference | None:
    """Return how a replayed step differs from its record, or None if it does not.

    Args:
        recorded: the record.
        replayed: what came of it now.
    """
    if recorded.digest == replayed.digest:
        return None
    before, after = _plain(recorded), _plain(replayed)
    diffs = [diff_values(before[name], after[name], path=name) for name in _PLAIN]
    diffs += [diff_values(recorded.update, replayed.update, path="update"), diff_states(recorded, replayed)]
    diffs += [diff_values(before[name], after[name], path=name) for name in _MODELS]
    changes = tuple(change for diff in diffs for change in diff.changes)
    if not changes:  # what is compared by the digest alone, such as where the run came from
        return step_difference(recorded, Diff((Change("digest", "changed", recorded.digest, replayed.digest),), 1))
    return step_difference(recorded, Diff(changes[:LIMIT], sum(diff.total for diff in diffs)))


def step_difference(recorded: Checkpoint, diff: Diff) -> StepDifference:
    """Return a difference at a step.

    Args:
        recorded: its record.
        diff: what differs.
    """
    return StepDifference(recorded.run_id, recorded.step, recorded.event, recorded.last_node, recorded.task_id, diff)


def _plain(record: Checkpoint) -> dict[str, JsonValue]:
    return record.model_dump(mode="json", include={*_PLAIN, *_MODELS}, exclude={"error": {"traceback"}})
