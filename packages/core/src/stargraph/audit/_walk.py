"""One pass over the log of a run: the chain, what repeats in each step, the seals, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from stargraph.audit._anchor import Head
from stargraph.audit._reports import Finding, FindingKind, Note, NoteKind, RunReport
from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.driver import needed_steps
from stargraph.checkpoint.protocol import (
    ENDED,
    Checkpoint,
    RunSummary,
    StepRange,
    add_step,
)
from stargraph.runtime._reading import Unreadable

_REPEATED: Final = ("graph_id", "started_at", "parent_run_id", "parent_step", "origin", "metadata")


class Walk:
    """Takes the steps of a run in order and collects what is wrong.

    Args:
        keyring: checks the seals; None without a key.
        bases: steps that a prune keeps because others are decoded from them.

    Attributes:
        findings: what is wrong so far.
        stored: the steps that were taken, the unreadable ones too.
    """

    def __init__(self, run_id: str, *, keyring: Keyring | None, bases: Collection[int] = ()) -> None:
        self.findings: list[Finding] = []
        self.stored: tuple[StepRange, ...] = ()
        self._newest: dict[FindingKind, int] = {}
        self._run_id = run_id
        self._keyring = keyring
        self._bases = bases
        self._notes: list[Note] = []
        self._last: Checkpoint | None = None
        self._sound = 0
        self._seals: Counter[str] = Counter()
        self._marks: frozenset[int] = frozenset()
        self._summaries: dict[int, RunSummary] = {}
        self._digests: dict[int, str] = {}
        self._remains_explained = True
        self._lost: set[int] = set()

    @property
    def end(self) -> int:
        """The highest step that was taken; -1 before the first."""
        return self.stored[-1].last if self.stored else -1

    def mark(self, summary: RunSummary | None, head: Head | None) -> None:
        """Remember what the steps say that will be compared.

        Args:
            summary: what the list of runs says.
            head: what an anchor says.
        """
        self._marks = frozenset(
            [*([] if summary is None else [summary.last_step]), *([] if head is None else [head.step])]
        )

    def take(self, item: Checkpoint | Unreadable) -> None:
        """Check the next step.

        Args:
            item: the step, or why it cannot be read.
        """
        gaps = len(self.stored)
        self.stored = add_step(self.stored, item.step)
        if len(self.stored) > max(gaps, 1):
            self._remains_explained = False
        if isinstance(item, Unreadable):
            self.find("unreadable", item.message, item.step)
            return
        before, self._last = self._last, item
        self._sound += 1
        self._seals[item.seal.key_id if item.seal else ""] += 1
        self._check_seal(item)
        if before is not None:
            self._check_order(before, item)
        if not self._remains_explained:
            self._remains_explained = self._explains_remains(item)
        if item.step in self._marks:
            self._summaries[item.step] = RunSummary.from_checkpoint(item)
            self._digests[item.step] = item.digest
        if item.step - 1 in self._marks and item.previous_digest is not None:
            self._digests.setdefault(item.step - 1, item.previous_digest)

    def miss(self, step: int) -> None:
        """Note a step that is not stored, although the store knows that no prune removed it."""
        self._lost.add(step)
        self.find("missing-steps", f"step {step} is not stored, and the store knows of no prune that removed it", step)

    def find(self, kind: FindingKind, message: str, step: int | None = None, last_step: int | None = None) -> None:
        """Note what is wrong; the same with consecutive steps is one finding.

        Args:
            message: it in words.
            last_step: the last one of consecutive steps.
        """
        last_step = step if last_step is None else last_step
        at = self._newest.get(kind)
        if at is not None and step is not None and self.findings[at].last_step == step - 1:
            self.findings[at] = self.findings[at].model_copy(update={"last_step": last_step})
            return
        self._newest[kind] = len(self.findings)
        self.findings.append(
            Finding(kind=kind, run_id=self._run_id, step=step, last_step=last_step, message=_short(message))
        )

    def note(self, kind: NoteKind, message: str) -> None:
        """Note what limits the proof.

        Args:
            message: it in words.
        """
        self._notes.append(Note(kind=kind, run_id=self._run_id, message=message))

    def compare_summary(self, summary: RunSummary, latest: int) -> None:
        """Compare what the list of runs says with the log.

        Args:
            summary: what the list says.
            latest: the latest step that the store named before the list was asked.
        """
        step = summary.last_step
        logged = self._summaries.get(step)
        if step > self.end:
            self.find("truncated", f"the list of runs shows it up to step {step}, and its log ends at step {self.end}")
        elif step < latest:
            self.find("summary-differs", f"the list of runs shows step {step}, and the latest step is {latest}")
        elif logged is not None and logged != summary:
            names = [name for name in RunSummary.model_fields if getattr(logged, name) != getattr(summary, name)]
            self.find("summary-differs", f"{', '.join(names)}: the list of runs differs from the log", step)

    def compare_head(self, head: Head) -> None:
        """Compare the log with what an anchor says.

        Args:
            head: what the anchor says.
        """
        found = self._digests.get(head.step)
        if self.end < head.step:
            self.find("rolled-back", f"the anchor knows it up to step {head.step}, and its log ends at step {self.end}")
        elif found is not None and found != head.digest:
            self.find(
                "history-rewritten",
                f"the anchor has a step {head.step} with the digest {head.digest[:12]}…, and the log {found[:12]}…",
                head.step,
            )
        elif found is None and not self._has(head.step):
            if head.status in ENDED:
                self.find("missing-steps", f"step {head.step} ended the run, and no prune removes that", head.step)
            else:
                self.note("pruned-past-anchor", f"step {head.step}, which the anchor knows, was pruned; anchor again")
        elif self.end > head.step:
            self.note("moved-on", f"it continued from step {head.step}, which the anchor knows, to step {self.end}")

    def report(self) -> RunReport:
        """Return what was found."""
        last = self._last
        return RunReport(
            run_id=self._run_id,
            steps=self._sound,
            first_step=self.stored[0].first if self.stored else None,
            last_step=self.end if self.stored else None,
            status=last.status if last else None,
            digest=last.digest if last else None,
            started_at=last.started_at if last else None,
            seals=dict(self._seals),
            findings=tuple(self.findings),
            notes=tuple(self._notes),
        )

    def _has(self, step: int) -> bool:
        return any(span.first <= step <= span.last for span in self.stored)

    def finish(self) -> None:
        """Judge what is missing, once every step was taken."""
        if not self.stored:
            return
        lowest = self.stored[0].first
        tail = self.stored[-1]
        if not self._remains_explained:
            for before, after in zip(self.stored, self.stored[1:], strict=False):
                gap = StepRange(first=before.last + 1, last=after.first - 1)
                if any(gap.first <= step <= gap.last for step in self._lost):
                    continue
                message = f"{_these(gap)} not stored, and no prune leaves such a gap"
                self.find("missing-steps", message, gap.first, gap.last)
        elif tail.first > 0:
            lowest = tail.first
        if lowest > 0 and lowest - 1 not in self._lost:
            self.note(
                "pruned",
                f"the steps below {lowest} were pruned; the chain is proved from step {lowest} on,"
                " and what was before it cannot be",
            )
        last = self._last
        if last is not None and last.step == tail.last and last.status not in ENDED:
            for span in needed_steps(last):
                needed = (step for step in range(span.first, span.last + 1) if step not in self._lost)
                lost = next((step for step in needed if not self._has(step)), None)
                if lost is not None:
                    self.find("missing-steps", f"step {lost} is not stored, and the run needs it to be resumed", lost)

    def _check_seal(self, item: Checkpoint) -> None:
        refusal = None if self._keyring is None else self._keyring.refusal(item.seal, item.digest)
        if refusal is not None:
            self.find(refusal[0], refusal[1], item.step)  # type: ignore[arg-type]  # a keyring's words are kinds

    def _check_order(self, before: Checkpoint, item: Checkpoint) -> None:
        step = item.step
        if before.step == step - 1 and item.previous_digest != before.digest:
            self.find(
                "broken-chain",
                f"it follows a step {before.step} with the digest {(item.previous_digest or 'none')[:12]}…,"
                f" and the one that is stored has {before.digest[:12]}…",
                step,
            )
        if before.status in ENDED:
            self.find("step-after-end", f"the run was {before.status} at step {before.step}", step)
        changed = [name for name in _REPEATED if getattr(item, name) != getattr(before, name)]
        if changed:
            self.find("inconsistent-step", f"{', '.join(changed)}: not what step {before.step} says", step)

    def _explains_remains(self, item: Checkpoint) -> bool:
        """Whether a prune at this step, then the latest one, left exactly what is stored before the last gap."""
        needed = needed_steps(item)
        return all(
            step in self._bases or any(span.first <= step <= span.last for span in needed)
            for remains in self.stored[:-1]
            for step in range(remains.first, remains.last + 1)
        )


def _these(gap: StepRange) -> str:
    return f"step {gap.first} is" if gap.first == gap.last else f"steps {gap.first} to {gap.last} are"


def _short(message: str) -> str:
    return message if len(message) <= 400 else f"{message[:400]}…"
