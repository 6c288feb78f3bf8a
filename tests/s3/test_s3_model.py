"""The protocol under random schedules: it holds, and without any one of its rules it does not."""

from __future__ import annotations

import pytest
from support.s3.mutations import MUTATIONS
from support.s3.torture import first_violation, first_violation_of

FIRST_SEED = {"a reader looks only once": 4_900, "pruning believes a record that was pruned": 16_300}
"""Where to begin for what takes a prune that stands still while a run and another prune pass it; else at 0."""


@pytest.mark.parametrize("block", range(4))
def test_every_promise_is_kept(block: int) -> None:
    assert first_violation(range(block * 100, (block + 1) * 100)) is None


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_rule_that_is_removed_is_missed(mutation: str) -> None:
    begun = FIRST_SEED.get(mutation, 0)
    assert first_violation_of(mutation, range(begun, begun + 600)) is not None
