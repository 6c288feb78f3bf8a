"""The kit finds what is broken, and nothing else: each broken driver fails exactly the checks that it is said to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.broken_drivers.every import BROKEN_DRIVERS, BrokenDriver

from stargraph.checkpoint.conformance import Report, catalogue, run

pytestmark = pytest.mark.thorough

SEED = 1

PATIENCE = 3.0
"""Seconds for what a broken driver never does: the checks that are run on it are those that it fails."""

CROSS_CUTTING = {
    "views",
    "stateful",
    "sizes",
    "clocks",
    "interleaving",
    "concurrency.linearizable",
    "concurrency.neighbours_of_a_refusal",
    "access.read_only",
}
"""Groups and checks that call everything: which of their moments show a fault is chance."""

each_driver = pytest.mark.parametrize("driver", BROKEN_DRIVERS.values(), ids=list(BROKEN_DRIVERS))


def _slow_drivers() -> Iterator[Any]:
    """Yield the drivers that fail slow checks: the first one for each check, and the others for `make torture`."""
    killed: set[str] = set()
    for name, driver in BROKEN_DRIVERS.items():
        if driver.slow:
            yield pytest.param(driver, id=name, marks=[pytest.mark.slow] if driver.slow <= killed else [])
            killed |= driver.slow


each_slow_driver = pytest.mark.parametrize("driver", list(_slow_drivers()))


def _failed(report: Report) -> dict[str, str]:
    errors = [result.explained() for result in report.results if result.verdict == "error"]
    assert not errors, errors
    return {result.check.id: result.message for result in report.results if result.verdict == "fail"}


def test_every_check_is_killed_by_a_broken_driver() -> None:
    killed = set().union(*(driver.fails | driver.slow for driver in BROKEN_DRIVERS.values()))
    alive = [check.id for check in catalogue() if not check.advisory and check.id not in killed]
    assert not alive


def test_broken_drivers_name_existing_checks() -> None:
    quick = {check.id for check in catalogue() if check.quick}
    slow = {check.id for check in catalogue() if not check.quick}
    for driver in BROKEN_DRIVERS.values():
        assert driver.fails | driver.slow, driver.name
        assert driver.fails <= quick, driver.name
        assert driver.slow <= quick | slow, driver.name


@each_driver
def test_a_broken_driver_fails_its_quick_checks(driver: BrokenDriver) -> None:
    if driver.fails:
        report = run(
            driver.target, only=driver.fails, quick=True, seed=SEED, deadline=driver.deadline, patience=PATIENCE
        )
        assert driver.fails == _failed(report).keys() - _cross_cutting(driver), _failed(report)


@each_slow_driver
def test_what_only_other_processes_or_much_time_show(driver: BrokenDriver) -> None:
    report = run(driver.target, only=driver.slow, seed=SEED, deadline=driver.deadline, patience=PATIENCE)
    assert driver.slow <= _failed(report).keys(), _failed(report)


@pytest.mark.slow
@each_driver
def test_no_other_quick_check_fails(driver: BrokenDriver) -> None:
    report = run(driver.target, quick=True, seed=SEED, deadline=driver.deadline)
    assert driver.fails == _failed(report).keys() - _cross_cutting(driver), _failed(report)


def _cross_cutting(driver: BrokenDriver) -> set[str]:
    """The checks that look at everything, and so may fail beside those that look at what is broken."""
    return {check.id for check in catalogue() if {check.group, check.id} & CROSS_CUTTING} - driver.fails
