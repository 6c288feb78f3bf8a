"""The rules of the contract, as the kit checks them; tests/conformance runs the whole kit on this driver."""

from __future__ import annotations

import pytest
from support.conformance_targets import CONTRACT_GROUPS

from stargraph.checkpoint.conformance import run


@pytest.mark.parametrize("group", CONTRACT_GROUPS)
def test_it_keeps_the_rules(group: str) -> None:
    report = run("support.conformance_targets:sqlite", only=(group,), quick=True, seed=1)
    assert {result.verdict for result in report.results} == {"pass"}, report.to_json()


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_handle_that_keeps_the_latest_in_memory_keeps_the_contract() -> None:
    report = run("support.conformance_targets:sqlite_caching", quick=True, seed=1)
    assert not report.count("fail", "error", "blocked", "too-slow"), report.to_json()
    assert report.count("pass") > 200
