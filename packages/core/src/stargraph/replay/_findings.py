"""What a replay finds: the steps that differ, those that it cannot compare, and what there is to say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stargraph.checkpoint.protocol import Checkpoint, StepRange, add_step
from stargraph.errors import StargraphError
from stargraph.replay._diff import Change, Diff
from stargraph.replay._report import ReplayReport, StepDifference, difference_of, step_difference


class Findings:
    """Collects what the replay of a run finds.

    Attributes:
        compared: how many steps were compared.
        foreign: the steps that another version of the graph made.
        given: the steps that were taken as recorded, since only the log knows how they came about.
    """

    def __init__(self) -> None:
        self.compared = 0
        self.foreign: list[int] = []
        self.given: list[int] = []
        self._differences: list[StepDifference] = []
        self._of_children: list[StepDifference] = []
        self._notes: list[str] = []

    def compare(self, record: Checkpoint, replayed: Checkpoint) -> None:
        """Compare a step with its record."""
        self.compared += 1
        difference = difference_of(record, replayed)
        if difference is not None:
            self._differences.append(difference)

    def compare_with(self, record: Checkpoint, make: Callable[[], Checkpoint | None]) -> None:
        """Compare a step that no node makes with its record; None stands for one that only the log knows."""
        try:
            replayed = make()
        except StargraphError as error:
            self.differ(record, Change("error", "added", after=str(error)))
            return
        if replayed is None:
            self.given.append(record.step)
        else:
            self.compare(record, replayed)

    def differ(self, record: Checkpoint, change: Change) -> None:
        """Add a difference of a step."""
        self._differences.append(step_difference(record, Diff((change,), 1)))

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self._notes:
            self._notes.append(text)

    def add_child(self, report: ReplayReport) -> None:
        """Add what the replay of a child run has found."""
        self.compared += report.compared
        self._of_children += report.differences
        self._notes += [f"child run {report.run_id!r}: {note}" for note in report.notes]

    def report(self, tail: Checkpoint) -> ReplayReport:
        """Return all of it.

        Args:
            tail: the latest step of the run.
        """
        notes = list(self._notes)
        if self.foreign:
            notes.append(f"{in_words(self.foreign)}: made by another version of the graph, not done again")
        if self.given:
            notes.append(f"{in_words(self.given)}: taken as recorded")
        own = sorted(self._differences, key=lambda difference: difference.step)
        return ReplayReport(
            run_id=tail.run_id,
            last_step=tail.step,
            compared=self.compared,
            differences=(*own, *self._of_children),
            notes=tuple(notes),
        )


def in_words(steps: Sequence[int]) -> str:
    """Return steps in words, those that follow each other as one range."""
    ranges: tuple[StepRange, ...] = ()
    for step in steps:
        ranges = add_step(ranges, step)
    listed = [str(each.first) if each.first == each.last else f"{each.first} to {each.last}" for each in ranges]
    return f"step{'s' if len(steps) > 1 else ''} {', '.join(listed)}"
