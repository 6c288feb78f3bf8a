"""A short fight over each store; `make torture` has long ones. `STARGRAPH_TORTURE_SEED` is the seed, else 1."""

from __future__ import annotations

import pytest

from stargraph_torture.planted import PLANTED
from stargraph_torture.rounds import RoundPlan, play
from stargraph_torture.seeds import short_seed

SEED = short_seed()

pytestmark = [pytest.mark.timeout(400), pytest.mark.thorough]


@pytest.mark.parametrize(("driver", "runs", "pause"), [("sqlite", 25, 0.1), ("postgres", 12, 0.2), ("s3", 6, 0.4)])
async def test_nothing_is_lost_under_fire(driver: str, runs: int, pause: float) -> None:
    outcome = await play(RoundPlan(driver, SEED, runs=runs, pause=pause, workers=2, seconds=15))
    assert not outcome.verdict.violations, outcome.report()
    assert outcome.faults
    assert outcome.verdict.acknowledged > runs * 5


async def test_without_faults_every_node_runs_once() -> None:
    outcome = await play(RoundPlan("sqlite", SEED, runs=10, pause=0, workers=2))
    assert not outcome.verdict.violations, outcome.report()
    # On a busy machine, who waits for the lock of another process says so, and goes on.
    assert not [what for what in outcome.verdict.refused if "keeps the write lock" not in what]
    assert outcome.verdict.repeated == 0


@pytest.mark.parametrize("planted", PLANTED)
async def test_a_planted_bug_is_caught(planted: str) -> None:
    for seed in range(SEED, SEED + 5):  # on a busy machine a process may be killed before it has done anything
        outcome = await play(RoundPlan("sqlite", seed, runs=20, pause=0.05, workers=2, planted=planted, seconds=20))
        if outcome.verdict.lost:
            break
    shown = "\n".join(outcome.verdict.violations)
    assert outcome.verdict.lost, shown
    assert "acknowledged (" in shown
