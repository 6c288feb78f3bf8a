"""The protocol under random schedules: it holds, and without any one of its rules it does not."""

from __future__ import annotations

import pytest
from support.s3.mutations import MUTATIONS
from support.s3.torture import first_violation, first_violation_of

FIRST_SEED = {"a record in another form is built on": 1_000, "tombstones go at once": 500}
"""Where to begin for what takes more steps to show; else at 0."""

RARE = {"a reader looks only once", "pruning believes a record that was pruned"}
"""What takes thousands of schedules: `make torture` finds these, and test_s3_overtaken shows each."""

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("block", range(4))
def test_every_promise_is_kept(block: int) -> None:
    assert first_violation(range(block * 100, (block + 1) * 100)) is None


@pytest.mark.parametrize("mutation", [mutation for mutation in MUTATIONS if mutation not in RARE])
def test_a_rule_that_is_removed_is_missed(mutation: str) -> None:
    begun = FIRST_SEED.get(mutation, 0)
    assert first_violation_of(mutation, range(begun, begun + 600)) is not None
