"""The judge of concurrent histories."""

from __future__ import annotations

from typing import Any

import pytest

from stargraph.checkpoint.conformance._linearizability import Call, violation


def write(step: int, digest: str, began: int, ended: int, outcome: Any = "acked") -> Call:
    return Call("write", step, digest, outcome, began, ended)


def at(step: int, digest: str | None, began: int, ended: int) -> Call:
    return Call("at_step", step, digest, "read", began, ended)


def latest(found: int, digest: str | None, began: int, ended: int) -> Call:
    return Call("latest", None, digest, "read", began, ended, found)


def test_calls_that_overlap_may_see_either() -> None:
    calls = [
        write(0, "a", 0, 9),
        at(0, None, 1, 2),
        at(0, "a", 3, 4),
        latest(0, "a", 5, 6),
        write(0, "b", 1, 8, "conflict"),
    ]
    assert violation(calls, ["a"]) is None


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([write(0, "a", 0, 1), write(0, "b", 2, 3)], "another checkpoint is there"),
        ([write(0, "a", 0, 1), write(1, "b", 2, 3)], "another checkpoint is there"),
        ([write(0, "a", 0, 1), at(0, "b", 2, 3), write(0, "b", 1, 4, "conflict")], "was not stored in the end"),
        ([write(0, "a", 5, 6), at(0, "a", 1, 2)], "before its write began"),
        ([write(0, "a", 0, 1), at(0, None, 2, 3)], "gave None for step 0"),
        ([write(0, "a", 0, 9), at(0, "a", 1, 2), at(0, None, 3, 4)], "gave None for step 0"),
        ([write(0, "a", 0, 1), latest(-1, None, 2, 3)], "read_latest gave step -1, and step 0"),
        ([write(0, "a", 0, 9), latest(0, "a", 1, 2), latest(-1, None, 3, 4)], "read_latest gave step -1, and step 0"),
    ],
)
def test_what_no_order_explains_is_reported(calls: list[Call], expected: str) -> None:
    broken = violation(calls, ["a"])
    assert broken is not None
    assert expected in broken
