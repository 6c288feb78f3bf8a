"""A short battle of workers on each store, by `STARGRAPH_TORTURE_SEED` or 1; `make torture` has long ones."""

from __future__ import annotations

import pytest

from stargraph_torture.seeds import short_seed
from stargraph_torture.workers.__main__ import fight
from stargraph_torture.workers.battle import COLUMNS, BattlePlan

pytestmark = [pytest.mark.timeout(400), pytest.mark.thorough]


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_all_innocent_runs_are_done(store: str) -> None:
    """Workers are killed, die of a poison run, are off by ten minutes, are replaced by others, and lose their store."""
    plan = BattlePlan(
        seed=short_seed(), runs=40, workers=3, node_seconds=0.1, kill_every=2.0, outage=3.0, silent_after=3.0
    )
    report = await fight(store, plan)
    assert report.violations == [], report
    assert report.done == 40
    assert report.kills + report.deaths


async def test_without_faults_every_node_begins_once() -> None:
    plan = BattlePlan(
        seed=short_seed(), runs=20, workers=2, kill_every=0, silent_after=30.0, has_poison=False, is_rolling=False
    )
    report = await fight("sqlite", plan)
    assert report.violations == []
    assert (report.done, report.repeated, report.deaths) == (20, 0, 0)


async def test_a_battle_that_is_not_over_in_time_is_reported_as_a_row() -> None:
    plan = BattlePlan(
        seed=short_seed(),
        runs=4,
        workers=1,
        kill_every=0,
        node_seconds=600.0,
        has_poison=False,
        is_rolling=False,
        deadline=0.5,
    )
    report = await fight("sqlite", plan)
    assert report.violations[0] == "the runs were not over after 0.5 s"
    assert report.seconds >= plan.deadline
    assert dict(zip(COLUMNS, report.row(), strict=True))["done"] == "0"


async def test_a_dask_cluster_loses_workers_and_its_scheduler() -> None:
    plan = BattlePlan(
        seed=short_seed(), runs=40, workers=2, concurrency=4, node_seconds=0.1, kill_every=3.0, silent_after=3.0
    )
    report = await fight("dask", plan)
    assert report.violations == []
    assert (report.done, report.repeated_finished) == (40, 0)
