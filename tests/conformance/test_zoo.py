"""The kit finds what is broken, and nothing else: each broken driver fails exactly the checks that it is said to."""

from __future__ import annotations

import pytest
from support.zoo.every import ZOO, Specimen

from stargraph.checkpoint.conformance import Report, catalogue, run

SEED = 1

each_specimen = pytest.mark.parametrize("specimen", ZOO.values(), ids=list(ZOO))
each_slow_specimen = pytest.mark.parametrize(
    "specimen", [pytest.param(each, id=name) for name, each in ZOO.items() if each.slow]
)


def _failed(report: Report) -> dict[str, str]:
    errors = [result.explained() for result in report.results if result.verdict == "error"]
    assert not errors, errors
    return {result.check.id: result.message for result in report.results if result.verdict == "fail"}


def test_every_check_is_killed_by_a_specimen() -> None:
    killed = set().union(*(specimen.fails | specimen.slow for specimen in ZOO.values()))
    alive = [check.id for check in catalogue() if not check.advisory and check.id not in killed]
    assert not alive


def test_specimens_name_checks_that_there_are() -> None:
    quick = {check.id for check in catalogue() if check.quick}
    slow = {check.id for check in catalogue() if not check.quick}
    for specimen in ZOO.values():
        assert specimen.fails | specimen.slow, specimen.name
        assert specimen.fails <= quick, specimen.name
        assert specimen.slow <= slow, specimen.name


@each_specimen
def test_the_groups_that_a_specimen_breaks(specimen: Specimen) -> None:
    groups = sorted({check_id.partition(".")[0] for check_id in specimen.fails})
    if not groups:
        return
    report = run(specimen.target, only=groups, quick=True, seed=SEED, deadline=specimen.deadline)
    assert _failed(report).keys() == specimen.fails, _failed(report)


@each_slow_specimen
def test_what_only_other_processes_or_much_time_show(specimen: Specimen) -> None:
    report = run(specimen.target, only=specimen.slow, seed=SEED, deadline=specimen.deadline)
    assert _failed(report).keys() == specimen.slow | (specimen.fails & _failed(report).keys()), _failed(report)


@pytest.mark.slow
@each_specimen
def test_no_other_quick_check_fails(specimen: Specimen) -> None:
    report = run(specimen.target, quick=True, seed=SEED, deadline=specimen.deadline)
    assert _failed(report).keys() == specimen.fails, _failed(report)
