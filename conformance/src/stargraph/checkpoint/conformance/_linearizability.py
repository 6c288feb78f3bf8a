"""A run's steps are write-once registers; judge a recorded history of concurrent calls by that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Call:
    """One call, with the numbers of the moments at which it began and ended.

    Attributes:
        kind: what was called.
        step: the step that was written or read; None for `latest`.
        digest: what was written or read; None if nothing was read.
        found: the step that `latest` gave; -1 for None.
        outcome: of a write: acknowledged or refused as a conflict; of a read: read.
        began: a number that grows with every event of the history.
        ended: likewise.
    """

    kind: Literal["write", "at_step", "latest"]
    step: int | None
    digest: str | None
    outcome: Literal["acked", "conflict", "read"]
    began: int
    ended: int
    found: int = -1


def violation(calls: Sequence[Call], stored: Sequence[str]) -> str | None:
    """Return what no order of the calls can explain, or None.

    A register that is written once has one value, so it is enough to look at each pair of calls of which one
    ended before the other began (Herlihy and Wing, 1990, for a register with a single effective write).

    Args:
        calls: what was called, by whomever.
        stored: the digests that the store holds in the end, by step.
    """
    written_from = {call.digest: call.began for call in calls if call.kind == "write"}
    visible_by: dict[int, int] = {}
    for call in calls:
        if call.outcome == "acked" and call.step is not None:
            if call.step >= len(stored) or stored[call.step] != call.digest:
                return f"step {call.step}: a write was acknowledged, and in the end another checkpoint is there"
            visible_by[call.step] = min(visible_by.get(call.step, call.ended), call.ended)
    for call in calls:
        step = call.found if call.kind == "latest" else call.step
        if call.outcome != "read" or step is None or step < 0 or call.digest is None:
            continue
        if call.digest != stored[step]:
            return f"step {step}: a read saw a checkpoint that was not stored in the end"
        if written_from[call.digest] > call.ended:
            return f"step {step}: a read saw a checkpoint before its write began"
        # Once seen, it must be seen by everybody who looks later.
        visible_by[step] = min(visible_by.get(step, call.ended), call.ended)
    return _unseen(calls, visible_by)


def _unseen(calls: Sequence[Call], visible_by: dict[int, int]) -> str | None:
    for call in calls:
        if call.kind == "at_step" and call.digest is None:
            if visible_by.get(call.step or 0, call.began) < call.began:
                return f"read_at_step gave None for step {call.step}, which was acknowledged or read before"
        elif call.kind == "latest":
            newest = max((step for step, moment in visible_by.items() if moment < call.began), default=-1)
            if call.found < newest:
                return f"read_latest gave step {call.found}, and step {newest} was acknowledged or read before"
    return None
