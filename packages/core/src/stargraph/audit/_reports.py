"""What was found: the models of the reports. Each is one JSON object by `model_dump(mode="json")`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from stargraph.checkpoint.protocol import Status

FindingKind: TypeAlias = Literal[
    "unreadable",
    "missing-steps",
    "broken-chain",
    "inconsistent-step",
    "step-after-end",
    "truncated",
    "beyond-the-end",
    "summary-differs",
    "listing-unreadable",
    "unsealed",
    "unknown-key",
    "wrong-seal",
    "rolled-back",
    "history-rewritten",
    "run-missing",
]
"""What is wrong with a store; docs/audit.md says what each one means."""

NoteKind: TypeAlias = Literal["pruned", "pruned-past-anchor", "moved-on", "not-in-anchor", "summary-not-compared"]
"""What an auditor should know, and what is no damage."""


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Report):
    """A difference between a store and what was written to it.

    Attributes:
        kind: a stable word.
        run_id: the run; None for the whole store.
        step: the first step that it concerns, or None.
        last_step: the last one of consecutive steps.
        message: what was found, in words.
    """

    kind: FindingKind
    run_id: str | None = None
    step: int | None = None
    last_step: int | None = None
    message: str


class Note(_Report):
    """A limit of what was proved; not damage.

    Attributes:
        kind: a stable word.
        run_id: the run.
        message: what it means, in words.
    """

    kind: NoteKind
    run_id: str
    message: str


class RunReport(_Report):
    """What was found in one run.

    Attributes:
        run_id: the run.
        steps: how many steps were read and are each sound.
        first_step: the lowest stored step; None if nothing can be read.
        last_step: the highest stored step; None if nothing can be read.
        status: the status of the run at the last step that can be read, or None.
        digest: the digest of that step, or None.
        started_at: when the run started, in UTC, by that step; or None.
        seals: how many steps each key sealed; those without a seal are under the empty name.
        findings: what is wrong.
        notes: what limits the proof.
    """

    run_id: str
    steps: int = 0
    first_step: int | None = None
    last_step: int | None = None
    status: Status | None = None
    digest: str | None = None
    started_at: datetime | None = None
    seals: dict[str, int] = {}
    findings: tuple[Finding, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def is_missing(self) -> bool:
        """Whether the anchor knows the run, and the store does not."""
        return any(finding.kind == "run-missing" for finding in self.findings)


class VerifyReport(_Report):
    """What was found in a store.

    Attributes:
        runs: how many runs were read; those that only the anchor knows are findings.
        steps: how many steps were read and are each sound.
        seals: how many steps each key sealed; those without a seal are under the empty name.
        anchored: how many runs the anchor names; None without an anchor.
        findings: what is wrong; empty if the store is sound.
        notes: what limits the proof.
    """

    runs: int
    steps: int
    seals: dict[str, int]
    anchored: int | None = None
    findings: tuple[Finding, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings
