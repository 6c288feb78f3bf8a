"""What was transferred, and what was not: each model is one JSON object by `model_dump(mode="json")`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Refusal(_Report):
    """A run that was not transferred.

    Attributes:
        run_id: the run.
        reason: a stable word: `pruned`, `run-deleted`, `diverged`, or the reason of a damaged record.
        message: why.
        hint: what to do.
    """

    run_id: str
    reason: str
    message: str
    hint: str | None = None


class TransferReport(_Report):
    """What a copy, an export or an import did.

    Attributes:
        runs: how many runs are now complete at the destination.
        steps: how many steps were written.
        present: how many steps were there before.
        verified: how many runs were read back from their new place and compared.
        refused: the runs that were not transferred.
    """

    runs: int
    steps: int
    present: int = 0
    verified: int = 0
    refused: tuple[Refusal, ...] = ()
